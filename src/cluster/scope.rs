//! A cluster, and which of its namespaces answers are given about.

use std::sync::Arc;

use crate::cluster::table::Table;
use crate::cluster::{Cluster, Feed};

/// A cluster as one server block shows it.
pub struct Scope {
    feed: Arc<Feed>,
    /// Labels with their lengths; none means all.
    namespaces: Option<Box<[Box<[u8]>]>>,
}

impl Scope {
    /// Of these namespaces, given as labels with their lengths; of all if there is no list.
    pub fn new(feed: Arc<Feed>, namespaces: Option<Box<[Box<[u8]>]>>) -> Self {
        Self { feed, namespaces }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.feed.cluster
    }

    /// What is known of it.
    pub fn table(&self) -> &Table {
        &self.feed.cluster.table
    }

    /// Whether names of this namespace, its label with its length, are answered: it exists, and is not hidden.
    pub fn exposes(&self, namespace: &[u8]) -> bool {
        let named = |list: &[Box<[u8]>]| list.iter().any(|label| **label == *namespace);
        self.namespaces.as_deref().is_none_or(named) && self.table().has_namespace(namespace)
    }

    /// Whether addresses have names in this namespace. Without a list they do even where it is unknown, as in CoreDNS.
    pub fn exposes_pointers(&self, namespace: &[u8]) -> bool {
        self.namespaces.is_none() || self.exposes(namespace)
    }
}
