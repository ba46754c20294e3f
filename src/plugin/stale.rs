//! Answers from a snapshot, for as long as it stands in for the API server.

use crate::cluster::Cluster;
use crate::wire::edns::ExtendedError;

/// The longest that a denial from a snapshot is kept, in seconds: the name may have come to be since.
const DENIAL_TTL_MAX: u32 = 5;

/// What clients are told about answers from a snapshot.
const TEXT: &str = "the API server does not answer; this is from a snapshot";

/// The extended error of this code while the cluster is that of a snapshot.
pub(super) fn error(cluster: &Cluster, code: u16) -> Option<ExtendedError> {
    cluster
        .is_restored()
        .then(|| ExtendedError::new(code, TEXT))
}

/// The TTL of a zone's denials.
pub(super) fn denial_ttl(cluster: &Cluster, ttl: u32) -> u32 {
    if cluster.is_restored() {
        ttl.min(DENIAL_TTL_MAX)
    } else {
        ttl
    }
}
