//! What `loop` counts.

use std::net::SocketAddr;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::server::assembly::TakenOut;
use crate::telemetry::metrics::Families;

/// CoreDNS has none of these: it is gone by then.
pub(super) struct LoopMetrics {
    detected: IntCounterVec,
    out: IntGaugeVec,
}

impl Families for LoopMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labels = ["server", "to"];
        let this = Self {
            detected: IntCounterVec::new(
                Opts::new(
                    "fingerpost_loop_detected_total",
                    "times that an upstream was found to lead back to this server",
                ),
                &labels,
            )?,
            out: IntGaugeVec::new(
                Opts::new(
                    "fingerpost_loop_upstream_disabled",
                    "1 while an upstream is not asked because it leads back to this server",
                ),
                &labels,
            )?,
        };
        registry.register(Box::new(this.detected.clone()))?;
        registry.register(Box::new(this.out.clone()))?;
        Ok(this)
    }
}

impl LoopMetrics {
    /// Counts a loop, and its upstream as out until what comes back is dropped.
    pub(super) fn out(&self, server: &str, address: SocketAddr, held: TakenOut) -> Out {
        let labels = [server, &address.to_string()];
        self.detected.with_label_values(&labels).inc();
        let gauge = self.out.with_label_values(&labels);
        gauge.inc();
        Out { gauge, _held: held }
    }
}

/// An upstream that is out.
pub(super) struct Out {
    gauge: IntGauge,
    _held: TakenOut,
}

impl Drop for Out {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
