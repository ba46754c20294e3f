//! `prometheus`: counts queries and replies, and shows every metric of the process at `/metrics`.
//!
//! Replies are counted on the way up, as they will be sent: the size is that of the finished message, or the client's
//! limit if the reply is going to be cut. Labels are looked up once per server block; after that a query costs a few
//! additions.

mod config;
mod gauges;

#[cfg(test)]
mod tests;

pub use gauges::show_enabled;

use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Passes, Plugin, Step};
use crate::chain::stopwatch;
use crate::plugin::Spec;
use crate::telemetry::requests::{RequestMetrics, Row, Sample};
use crate::wire::code::Rcode;
use crate::zone::block::ServerBlock;

/// What is known about `prometheus`.
pub static SPEC: Spec = Spec {
    name: "prometheus",
    summary: "counts queries and replies, and shows all metrics over HTTP",
    options: config::OPTIONS,
    parse: config::parse,
};

pub(in crate::plugin::prometheus) struct Prometheus {
    metrics: Arc<RequestMetrics>,
    /// The row of the first block that was met, mostly the only one: a look at it costs next to nothing.
    first: OnceLock<Known>,
    /// Those of all others.
    rows: ArcSwap<Rows>,
}

/// A server block with its row. The weak reference keeps the block's address from being used again.
type Known = (Weak<ServerBlock>, Arc<Row>);

/// Rows by the address of their server block.
type Rows = HashMap<usize, Known, foldhash::fast::RandomState>;

impl Plugin for Prometheus {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Queries
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        let sample = sample(exchange);
        let place = Arc::as_ptr(exchange.block());
        match self.first.get() {
            Some((block, row)) if block.as_ptr() == place => row.count(&sample),
            _ => match self.rows.load().get(&(place as usize)) {
                Some((_, row)) => row.count(&sample),
                None => self.row(exchange.block()).count(&sample),
            },
        }
        After::Done
    }
}

impl Prometheus {
    pub(in crate::plugin::prometheus) fn new(metrics: Arc<RequestMetrics>) -> Self {
        Self {
            metrics,
            first: OnceLock::new(),
            rows: ArcSwap::default(),
        }
    }

    /// The row of a block that is met for the first time. There are as many as this chain has server blocks.
    #[cold]
    fn row(&self, block: &Arc<ServerBlock>) -> Arc<Row> {
        let zone = block.origin.to_string();
        let row = self.metrics.row(&block.server, &zone, "");
        let known = (Arc::downgrade(block), Arc::clone(&row));
        if self.first.set(known).is_ok() {
            return row;
        }
        self.rows.rcu(|rows| {
            let mut rows = Rows::clone(rows);
            let entry = (Arc::downgrade(block), Arc::clone(&row));
            rows.insert(Arc::as_ptr(block) as usize, entry);
            rows
        });
        row
    }
}

fn sample(exchange: &Exchange<'_>) -> Sample {
    let (state, query) = (&exchange.state, exchange.query);
    // As in CoreDNS, silence counts as NOERROR without octets, by no plugin.
    let (response_len, rcode, plugin) = if state.dropped {
        (0, Rcode::NOERROR, "")
    } else {
        (
            exchange.uncut_len().min(exchange.limit()),
            exchange.reply.rcode,
            state.answered_by.unwrap_or_default(),
        )
    };
    Sample {
        protocol: state.arrival.protocol,
        is_ipv6: state.arrival.client.is_ipv6(),
        qtype: exchange.qtype(),
        dnssec_ok: query.dnssec_ok(),
        request_len: query.message().len(),
        response_len,
        elapsed: stopwatch::since(state.arrival.received),
        rcode,
        plugin,
    }
}
