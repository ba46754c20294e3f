//! Bytes in, bytes out.
//!
//! Which thread does what:
//!
//! ```text
//! udp-0 … udp-n    one a core, each with its own socket on the shared port (SO_REUSEPORT): the fast path
//! tokio            TCP, and every query that has to wait
//! ```
//!
//! The fast path is one loop of two system calls and no lock, allocation or runtime:
//!
//! ```text
//!            recvmmsg                     Zones::answer                      sendmmsg
//! kernel ==> | query | query | query | -> from memory --> | reply | reply | ==> kernel
//!                                     \-> nothing to say                   ^ from the address that was asked
//!                                     \-> has to wait: copied, spawned ----' later, by the same socket
//! ```
//!
//! The clock is read once a batch, and the zones are loaded once a batch: a reload swaps them under the readers, who
//! finish what they have begun with what they began it with.
//!
//! Nothing grows without a bound, and every bound stands in [`limit`]: past it there is a clear answer, or a closed
//! connection, and a counter in [`metrics`].

/// Every bound in one table.
pub mod limit;

/// Room for queries that wait.
pub mod in_flight;

/// Who takes more than a share.
pub mod offenders;

/// A flood from one sender must not drown the others.
pub mod sieve;

/// What the kernel drops in front of a socket.
pub mod filter;

/// What is counted.
pub mod metrics;

/// recvmmsg and sendmmsg.
pub mod batch;

/// Replies that found no room.
mod unheard;
pub mod unsent;

/// What the sockets of one listener share.
pub mod service;

/// One worker a core.
pub mod udp;

/// Who may hold a connection.
pub mod seats;

/// TCP.
pub mod stream;

/// Binds addresses.
pub mod listen;
