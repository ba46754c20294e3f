//! A server block: what one key of the Corefile serves.

use std::sync::Arc;

use crate::chain::Chain;
use crate::wire::name::Name;

/// One zone of one server block. The keys of a block share the chain.
pub struct ServerBlock {
    /// The zone, in lower case.
    pub origin: Name,
    /// The metrics label `server`: `dns://:53`, `dns://127.0.0.1:53`.
    pub server: Arc<str>,
    /// The plugins.
    pub chain: Chain,
}
