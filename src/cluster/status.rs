//! How a cluster is doing, for those who ask: probes and metrics, never a query.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::cluster::objects::Resource;
use crate::cluster::table::ViewKind;

/// How the watch of one resource is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStatus {
    /// Which.
    pub resource: Resource,
    /// A list was taken in to its end.
    pub synced: bool,
    /// A watch is open right now.
    pub connected: bool,
    /// Time since the last byte; none before the first.
    pub silent_for: Option<Duration>,
    /// Time since a list or a comparison last found all that we have to be right; none before the first list.
    pub confirmed_for: Option<Duration>,
    /// What we have is the state of this version; none before the first list.
    pub resource_version: Option<String>,
    /// What went wrong since the watch was last open: a word for programs, and a sentence.
    pub trouble: Option<(&'static str, String)>,
}

/// Says how each watched resource is doing. Holds nothing that keeps a watch running.
pub type StatusProbe = Box<dyn Fn() -> Vec<WatchStatus> + Send + Sync>;

/// How much a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Namespaces.
    pub namespaces: usize,
    /// Services.
    pub services: usize,
    /// EndpointSlices of Services.
    pub endpoint_slices: usize,
    /// Ready endpoints, one per address.
    pub endpoints: usize,
    /// Pods.
    pub pods: usize,
    /// Addresses that lead to a Service.
    pub addresses: usize,
}

/// A count that the writer keeps and others read.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Count(AtomicUsize);

impl Count {
    /// For the one writer only.
    pub(in crate::cluster) fn change(&self, less: usize, more: usize) {
        let before = self.0.load(Ordering::Relaxed);
        let after = (before + more).saturating_sub(less);
        self.0.store(after, Ordering::Relaxed);
    }

    pub(in crate::cluster) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a table that its maps do not keep themselves.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Counts {
    pub(in crate::cluster) services: Count,
    pub(in crate::cluster) endpoint_slices: Count,
    pub(in crate::cluster) endpoints: Count,
    pub(in crate::cluster) pods: Count,
}

/// What a writer noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// An event about a Service, or what stands behind it, is answered from now on.
    Servable {
        /// `cluster_ip`, `headless` or `external_name`.
        kind: &'static str,
        /// Time since the event was received.
        took: Duration,
    },
    /// An object can have no name in DNS, and is left out.
    Unusable {
        /// Of which resource.
        resource: Resource,
        /// A word for it.
        reason: &'static str,
    },
}

/// Told of what a writer noticed.
pub type Observer = Box<dyn Fn(Observation) + Send + Sync>;

/// The word for a kind of Service.
pub(in crate::cluster) fn kind_name(kind: &ViewKind) -> Option<&'static str> {
    match kind {
        ViewKind::Absent => None,
        ViewKind::ClusterIp(_) => Some("cluster_ip"),
        ViewKind::Headless => Some("headless"),
        ViewKind::ExternalName(_) => Some("external_name"),
    }
}
