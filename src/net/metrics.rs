//! What the listeners count.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::net::in_flight::Refusal;
use crate::net::unheard::Unheard;
use crate::telemetry::metrics::Families;

/// Counters and gauges of all listeners together.
#[derive(Debug)]
pub struct NetMetrics {
    /// Datagrams that the kernel threw away because a receive queue was full.
    pub kernel_drops: IntCounter,
    /// Datagrams dropped because their sender floods a receive queue.
    pub limited: IntCounter,
    /// Replies that could not be sent.
    pub send_failures: IntCounter,
    /// Datagrams from sources that are never answered.
    pub sources_dropped: IntCounter,
    /// Datagrams longer than any query we read.
    pub oversized: IntCounter,
    /// Errors while receiving.
    pub receive_failures: IntCounter,
    /// Queries that wait for something.
    pub in_flight: IntGauge,
    /// Their octets, as they came in.
    pub in_flight_octets: IntGauge,
    /// Queries refused because too many were waiting, by what there was too much of.
    pub in_flight_refused: Refused,
    /// Open TCP connections.
    pub connections: IntGauge,
    /// TCP connections closed at once for want of room.
    pub connections_refused: IntCounter,
    /// Idle TCP connections closed to make room.
    pub connections_evicted: IntCounter,
    /// TCP connections closed by a time-out, by what was waited for: `query`, `message`, `idle`, `write`.
    pub connection_timeouts: IntCounterVec,
    /// TCP connections closed because of what came over them.
    pub connections_malformed: IntCounter,
    /// Times that accepting a connection failed.
    pub accept_failures: IntCounter,
    /// Panics caught while answering.
    pub panics: IntCounter,
}

/// Queries that might not wait, by what there was too much of.
#[derive(Debug)]
pub struct Refused {
    places: IntCounter,
    octets: IntCounter,
    share: IntCounter,
}

impl Refused {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let family = IntCounterVec::new(
            Opts::new(
                "fingerpost_queries_in_flight_refused_total",
                "queries refused because too many were waiting: all places taken, all octets, or the client's share",
            ),
            &["cause"],
        )?;
        registry.register(Box::new(family.clone()))?;
        Ok(Self {
            places: family.with_label_values(&["places"]),
            octets: family.with_label_values(&["octets"]),
            share: family.with_label_values(&["share"]),
        })
    }

    /// The counter for this cause.
    pub fn by(&self, refusal: Refusal) -> &IntCounter {
        match refusal {
            Refusal::Places => &self.places,
            Refusal::Octets => &self.octets,
            Refusal::Share => &self.share,
        }
    }
}

impl Families for NetMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let timeouts = IntCounterVec::new(
            Opts::new(
                "fingerpost_tcp_timeouts_total",
                "TCP connections closed by a time-out, by what was waited for",
            ),
            &["wait"],
        )?;
        registry.register(Box::new(timeouts.clone()))?;
        registry.register(Box::new(Unheard::new()?))?;
        Ok(Self {
            kernel_drops: counter(
                "fingerpost_udp_kernel_drops_total",
                "datagrams the kernel dropped because a receive queue was full",
            )?,
            limited: counter(
                "fingerpost_udp_limited_total",
                "datagrams dropped because their sender flooded a receive queue that was not full yet",
            )?,
            send_failures: counter(
                "fingerpost_udp_send_failures_total",
                "UDP replies that could not be sent",
            )?,
            sources_dropped: counter(
                "fingerpost_udp_sources_dropped_total",
                "datagrams from sources that are never answered",
            )?,
            oversized: counter(
                "fingerpost_udp_oversized_total",
                "datagrams longer than any query that is read",
            )?,
            receive_failures: counter(
                "fingerpost_udp_receive_failures_total",
                "errors while receiving datagrams",
            )?,
            in_flight: gauge(
                "fingerpost_queries_in_flight",
                "queries that wait for something",
            )?,
            in_flight_octets: gauge(
                "fingerpost_queries_in_flight_bytes",
                "octets of the queries that wait for something; their bound is 4 MiB",
            )?,
            in_flight_refused: Refused::register(registry)?,
            connections: gauge("fingerpost_tcp_connections", "open TCP connections")?,
            connections_refused: counter(
                "fingerpost_tcp_connections_refused_total",
                "TCP connections closed at once for want of room",
            )?,
            connections_evicted: counter(
                "fingerpost_tcp_connections_evicted_total",
                "idle TCP connections closed to make room",
            )?,
            connection_timeouts: timeouts,
            connections_malformed: counter(
                "fingerpost_tcp_connections_malformed_total",
                "TCP connections closed because of what came over them",
            )?,
            accept_failures: counter(
                "fingerpost_tcp_accept_failures_total",
                "errors while accepting TCP connections",
            )?,
            panics: counter("coredns_panics_total", "panics caught while answering")?,
        })
    }
}
