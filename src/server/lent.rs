//! What the plugins of one server block lend to each other.
//!
//! No plugin imports another, and who asks may be built before who gives: `k8s_external` stands above `kubernetes`. So
//! asking takes two steps. Before anything is built, each configuration says what it needs of others ([`Demands`]);
//! while the block is built, who has it leaves it in the block's [`ClusterSlot`], and who needs it keeps the slot and
//! looks into it once the block serves.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::cluster::scope::Scope;

/// What the plugins of a generation need of others, and costs those something. Blocks share clusters, so what one
/// block asks for holds for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Where Services are reached from outside of the cluster.
    pub external: bool,
    /// A serial for that which moves with endpoints too.
    pub external_endpoints: bool,
    /// Which Pod has an address, its labels included.
    pub clients: bool,
    /// Octets for the entries of all caches, where a block says so.
    pub cache_octets: Option<u64>,
}

/// The cluster of a block, as its `kubernetes` shows it.
pub struct LentCluster {
    /// The cluster, and which of its namespaces are shown.
    pub scope: Arc<Scope>,
    /// TTL of the cluster's records, in seconds.
    pub ttl: u32,
    /// Where this server can be reached itself.
    pub local_addresses: Box<[IpAddr]>,
}

/// Where `kubernetes` leaves its cluster for the other plugins of its block. Clones share one place.
#[derive(Clone, Default)]
pub struct ClusterSlot(Arc<OnceLock<LentCluster>>);

impl ClusterSlot {
    /// Lends a cluster. A block has one `kubernetes`; a second cluster would be dropped.
    pub fn lend(&self, cluster: LentCluster) {
        let _ = self.0.set(cluster);
    }

    /// The cluster; none before `kubernetes` is built, and in a block without it.
    pub fn get(&self) -> Option<&LentCluster> {
        self.0.get()
    }
}
