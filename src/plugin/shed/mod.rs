//! `shed`: a UDP socket that takes no more replies makes nobody wait, and gets no more work.
//!
//! What finds no room is held by the listener, the newest first (`net::unsent`). While it holds all that it may, a query
//! would only make another reply that pushes one of those out: so it is dropped here, before anybody counts it.

/// What the directive says.
mod config;

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::chain::exchange::{Exchange, Protocol};
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::plugin::Spec;
use crate::telemetry::metrics::{Families, Metrics};
use crate::zone::Zones;

/// `shed`
pub static SPEC: Spec = Spec {
    name: "shed",
    summary: "drops queries while a UDP socket does not get rid of its replies",
    options: &[],
    parse: config::parse,
};

struct ShedMetrics {
    dropped: IntCounterVec,
}

impl ShedMetrics {
    fn of(&self, server: &str, reason: &str) -> IntCounter {
        self.dropped.with_label_values(&[server, reason])
    }
}

impl Families for ShedMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let dropped = IntCounterVec::new(
            Opts::new(
                "coredns_shed_dropped_total",
                "UDP queries dropped because their socket was full of replies (`query`), and replies lost (`response`)",
            ),
            &["server", "reason"],
        )?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Self { dropped })
    }
}

/// What counts the replies that a listener of these zones loses; none where no block has `shed`.
pub fn lost_replies(metrics: &Metrics, zones: &Zones) -> Option<IntCounter> {
    let has_shed = |name| name == SPEC.name;
    let block = zones
        .blocks()
        .find(|block| block.chain.names().any(has_shed))?;
    let metrics = metrics.families::<ShedMetrics>();
    // Both are shown from the start.
    metrics.of(&block.server, "query");
    Some(metrics.of(&block.server, "response"))
}

struct Shed {
    metrics: Arc<ShedMetrics>,
}

impl Plugin for Shed {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let arrival = exchange.arrival();
        if !arrival.is_crowded || arrival.protocol != Protocol::Udp {
            return Step::Next;
        }
        self.metrics.of(&exchange.block().server, "query").inc();
        Step::Drop
    }
}

#[cfg(test)]
mod tests;
