//! What `transfer` counts. CoreDNS' has no metrics.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::telemetry::metrics::Families;

pub(super) struct TransferMetrics {
    transfers: IntCounterVec,
    notifies: IntCounterVec,
    /// Records sent.
    pub(super) records: IntCounter,
    /// Transfers that run now.
    pub(super) running: IntGauge,
}

impl Families for TransferMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            transfers: IntCounterVec::new(
                Opts::new(
                    "fingerpost_transfers_total",
                    "zone transfers that clients asked for, by what became of them",
                ),
                &["result"],
            )?,
            notifies: IntCounterVec::new(
                Opts::new(
                    "fingerpost_transfer_notifies_total",
                    "targets told that a zone has changed, by what became of it",
                ),
                &["result"],
            )?,
            records: IntCounter::new(
                "fingerpost_transfer_records_total",
                "records sent in zone transfers",
            )?,
            running: IntGauge::new("fingerpost_transfers_running", "zone transfers that run")?,
        };
        registry.register(Box::new(this.transfers.clone()))?;
        registry.register(Box::new(this.notifies.clone()))?;
        registry.register(Box::new(this.records.clone()))?;
        registry.register(Box::new(this.running.clone()))?;
        Ok(this)
    }
}

impl TransferMetrics {
    /// Counts a transfer: `sent`, `current` (the SOA alone), `refused`, `failed`, `cut`.
    pub(super) fn count(&self, result: &str) {
        self.transfers.with_label_values(&[result]).inc();
    }

    /// Counts a target that was told of a change, or could not be: `accepted`, `failed`.
    pub(super) fn count_notify(&self, result: &str) {
        self.notifies.with_label_values(&[result]).inc();
    }
}
