//! The metric families that belong to no plugin, and the registry of those that do.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::Registry;

use crate::chain::exchange::Arrival;
use crate::telemetry::requests::{RequestMetrics, Row, Sample};
use crate::wire::HEADER_LEN;
use crate::wire::code::Rcode;
use crate::wire::query::Query;
use crate::wire::writer::ReplyOpt;

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
pub struct ServerMetrics {
    dropped: Arc<Row>,
}

/// The `zone` of queries that no plugin saw. It has no final dot, so it cannot be a zone.
const DROPPED: &str = "dropped";

impl ServerMetrics {
    /// For the listener with this `server` label.
    pub fn new(metrics: &Metrics, server: &str) -> Self {
        let requests = metrics.families::<RequestMetrics>();
        Self {
            dropped: requests.row(server, DROPPED, ""),
        }
    }

    /// Counts a query that no plugin saw, as zone `dropped`. Its reply is the question and perhaps an OPT; the few
    /// octets of an extended error are not counted.
    pub fn count_unserved(&self, query: &Query<'_>, arrival: &Arrival, rcode: Rcode) {
        let opt_len = query.edns().map_or(0, |_| ReplyOpt::len_with(0, None));
        self.dropped.count(&Sample {
            protocol: arrival.protocol,
            is_ipv6: arrival.client.is_ipv6(),
            qtype: query.qtype(),
            dnssec_ok: query.dnssec_ok(),
            request_len: query.message().len(),
            response_len: HEADER_LEN + query.question_octets().len() + opt_len,
            elapsed: arrival.received.elapsed(),
            rcode,
            plugin: "",
        });
    }
}
