//! What the requests to the API server count.

use std::time::{Duration, SystemTime};

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use crate::cluster::objects::Resource;
use crate::telemetry::metrics::Families;

/// The families that CoreDNS has, and those that tell how fresh our data are.
pub struct ClientMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    throttled: HistogramVec,
    last_heard: GaugeVec,
    lists: IntCounterVec,
    failures: IntCounterVec,
    garbled: IntCounterVec,
    reconciles: IntCounterVec,
    repaired: IntCounterVec,
}

impl Families for ClientMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let families = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "coredns_kubernetes_rest_client_requests_total",
                    "number of requests to the API server, by status code, method and host",
                ),
                &["code", "method", "host"],
            )?,
            durations: HistogramVec::new(
                HistogramOpts::new(
                    "coredns_kubernetes_rest_client_request_duration_seconds",
                    "time that requests to the API server took, watches aside, by verb and host",
                ),
                &["verb", "host"],
            )?,
            throttled: HistogramVec::new(
                HistogramOpts::new(
                    "coredns_kubernetes_rest_client_rate_limiter_duration_seconds",
                    "time that requests to the API server waited for our own limits of rate and number, by verb and host",
                ),
                &["verb", "host"],
            )?,
            last_heard: GaugeVec::new(
                Opts::new(
                    "fingerpost_kubernetes_last_heard_timestamp_seconds",
                    "when the API server last sent anything on the watch of a resource",
                ),
                &["resource"],
            )?,
            lists: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_lists_total",
                    "number of complete lists taken in, the first one included",
                ),
                &["resource"],
            )?,
            failures: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_watch_failures_total",
                    "number of lists and watches that failed, by what was wrong",
                ),
                &["resource", "reason"],
            )?,
            garbled: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_objects_garbled_total",
                    "number of objects passed over because they could not be understood",
                ),
                &["resource"],
            )?,
            reconciles: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_reconciles_total",
                    "number of comparisons with what the API server has, by how they ended",
                ),
                &["resource", "result"],
            )?,
            repaired: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_drift_repaired_total",
                    "number of objects that were not as the API server had them, though its watch was open, and were repaired",
                ),
                &["resource"],
            )?,
        };
        registry.register(Box::new(families.requests.clone()))?;
        registry.register(Box::new(families.durations.clone()))?;
        registry.register(Box::new(families.throttled.clone()))?;
        registry.register(Box::new(families.last_heard.clone()))?;
        registry.register(Box::new(families.lists.clone()))?;
        registry.register(Box::new(families.failures.clone()))?;
        registry.register(Box::new(families.garbled.clone()))?;
        registry.register(Box::new(families.reconciles.clone()))?;
        registry.register(Box::new(families.repaired.clone()))?;
        Ok(families)
    }
}

impl ClientMetrics {
    /// A request was answered with this code, or failed without one.
    pub(super) fn requested(&self, host: &str, code: Option<http::StatusCode>) {
        let code = code.as_ref().map_or("<error>", http::StatusCode::as_str);
        self.requests.with_label_values(&[code, "GET", host]).inc();
    }

    /// A request other than a watch took this long.
    pub(super) fn took(&self, host: &str, time: Duration) {
        self.durations
            .with_label_values(&["GET", host])
            .observe(time.as_secs_f64());
    }

    /// A request, of a watch too, waited this long for our own limits.
    pub(super) fn held_back(&self, host: &str, time: Duration) {
        self.throttled
            .with_label_values(&["GET", host])
            .observe(time.as_secs_f64());
    }

    /// A list or watch failed.
    pub(super) fn failed(&self, resource: Resource, reason: &str) {
        self.failures
            .with_label_values(&[resource.name(), reason])
            .inc();
    }

    /// The families of the comparisons of one resource.
    pub(super) fn reconcile(&self, resource: Resource) -> ReconcileMetrics {
        ReconcileMetrics {
            ended: self.reconciles.clone(),
            resource: resource.name(),
            repaired: self.repaired.with_label_values(&[resource.name()]),
        }
    }

    /// The families of one resource.
    pub(super) fn of(&self, resource: Resource) -> ResourceMetrics {
        let label = [resource.name()];
        ResourceMetrics {
            last_heard: self.last_heard.with_label_values(&label),
            lists: self.lists.with_label_values(&label),
            garbled: self.garbled.with_label_values(&label),
        }
    }
}

/// What the comparisons of one resource count.
pub(super) struct ReconcileMetrics {
    ended: IntCounterVec,
    resource: &'static str,
    repaired: IntCounter,
}

impl ReconcileMetrics {
    /// A comparison ended.
    pub(super) fn ended(&self, result: &str) {
        self.ended.with_label_values(&[self.resource, result]).inc();
    }

    /// So many objects were not as they should be.
    pub(super) fn repaired(&self, count: u64) {
        self.repaired.inc_by(count);
    }
}

/// What is counted for one resource.
pub(super) struct ResourceMetrics {
    last_heard: Gauge,
    /// Complete lists.
    pub(super) lists: IntCounter,
    /// Objects passed over.
    pub(super) garbled: IntCounter,
}

impl ResourceMetrics {
    /// A byte came in just now.
    pub(super) fn heard(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last_heard.set(now.unwrap_or_default().as_secs_f64());
    }
}
