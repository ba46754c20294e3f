//! What saving and loading count.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounterVec, IntGauge, Opts, Registry};

use crate::cluster::Cluster;
use crate::telemetry::metrics::Families;

/// The families.
pub(super) struct SnapshotMetrics {
    age: Age,
    loads: IntCounterVec,
    saves: IntCounterVec,
    saved_at: Gauge,
    size: IntGauge,
}

impl Families for SnapshotMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let families = Self {
            age: Age {
                gauge: Gauge::new(
                    "fingerpost_kubernetes_snapshot_age_seconds",
                    "age of the snapshot that answers come from; 0 once the API server has been listed",
                )?,
                clusters: Arc::default(),
            },
            loads: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_snapshot_loads_total",
                    "number of times that a snapshot was wanted, by what came of it",
                ),
                &["outcome"],
            )?,
            saves: IntCounterVec::new(
                Opts::new(
                    "fingerpost_kubernetes_snapshot_writes_total",
                    "number of attempts to write a snapshot, by what came of it",
                ),
                &["outcome"],
            )?,
            saved_at: Gauge::new(
                "fingerpost_kubernetes_snapshot_saved_timestamp_seconds",
                "the time that the last snapshot written is the state of",
            )?,
            size: IntGauge::new(
                "fingerpost_kubernetes_snapshot_size_bytes",
                "octets of the last snapshot written",
            )?,
        };
        registry.register(Box::new(families.age.clone()))?;
        registry.register(Box::new(families.loads.clone()))?;
        registry.register(Box::new(families.saves.clone()))?;
        registry.register(Box::new(families.saved_at.clone()))?;
        registry.register(Box::new(families.size.clone()))?;
        Ok(families)
    }
}

impl SnapshotMetrics {
    /// Shows the age of what this cluster serves.
    pub(super) fn watch(&self, cluster: &Arc<Cluster>) {
        let mut clusters = self.age.clusters();
        // Reloads come and go.
        clusters.retain(|cluster| cluster.strong_count() > 0);
        clusters.push(Arc::downgrade(cluster));
    }

    pub(super) fn loaded(&self, outcome: &str) {
        self.loads.with_label_values(&[outcome]).inc();
    }

    pub(super) fn saved(&self, as_of: SystemTime, size: usize) {
        self.saves.with_label_values(&["written"]).inc();
        let since = as_of.duration_since(SystemTime::UNIX_EPOCH);
        self.saved_at.set(since.unwrap_or_default().as_secs_f64());
        self.size.set(i64::try_from(size).unwrap_or(i64::MAX));
    }

    pub(super) fn save_failed(&self) {
        self.saves.with_label_values(&["failed"]).inc();
    }
}

/// Grows from one scrape to the next, so it is worked out when it is asked for. Of several clusters the oldest counts.
#[derive(Clone)]
struct Age {
    gauge: Gauge,
    clusters: Arc<Mutex<Vec<Weak<Cluster>>>>,
}

impl Age {
    fn clusters(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Cluster>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let oldest = self
            .clusters()
            .iter()
            .filter_map(|cluster| cluster.upgrade()?.restored_from())
            .min();
        let age = oldest.and_then(|saved_at| saved_at.elapsed().ok());
        self.gauge.set(age.unwrap_or_default().as_secs_f64());
        self.gauge.collect()
    }
}
