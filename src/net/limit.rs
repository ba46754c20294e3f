//! Every bound of the listeners in one table, and the count of queries in flight that one of them holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntGauge;

/// Datagrams that one system call takes or sends at most.
pub const BATCH: usize = 64;

/// Octets of a datagram that we look at. No query needs as much; what is longer is answered FORMERR unread.
pub const DATAGRAM_MAX: usize = 4096;

/// Octets asked of the kernel for each UDP socket's receive queue: some 10 ms of a full core's traffic.
pub const UDP_QUEUE_OCTETS: usize = 4 << 20;

/// Connections that the kernel may hold for us to accept.
pub const ACCEPT_BACKLOG: i32 = 1024;

/// How long a worker sleeps before it looks whether it should stop.
pub const STOP_LOOK: Duration = Duration::from_millis(250);

/// How long a reply may wait for room in a socket's send queue.
pub const UDP_SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// Pause after the process ran out of file descriptors or the kernel out of memory.
pub const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// Octets read from a connection at once.
pub const READ_CHUNK: usize = 8 << 10;

/// Octets that a client has not taken, at which the next message of a reply that has many is not made yet.
pub const FOLLOWING_QUEUED_MAX: usize = 64 << 10;

/// Unanswerable messages (replies, say) on one connection; the one that reaches this closes it.
pub const BAD_MESSAGES_MAX: u8 = 3;

/// The bounds that an operator may want to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries of the whole process that wait for something. Past it they are answered SERVFAIL at once.
    pub queries_in_flight_max: usize,
    /// TCP connections of one listener. Past it the one that is idle longest gives way, or the new one is closed.
    pub connections_max: usize,
    /// TCP connections from one address, likewise.
    pub connections_per_source_max: usize,
    /// Queries of one connection that wait for something. At it the connection is not read.
    pub pipeline_max: usize,
    /// Replies of one connection that its client has not taken. At it the connection is not read.
    pub replies_queued_max: usize,
    /// The same in octets.
    pub octets_queued_max: usize,
    /// From accepting a connection to its first query.
    pub first_query_timeout: Duration,
    /// From the first octet of a message to its last (RFC 7766, section 6.2.3).
    pub message_timeout: Duration,
    /// From a reply to the next query.
    pub idle_timeout: Duration,
    /// For a client to take what was queued when it began to.
    pub write_timeout: Duration,
    /// For everything in flight to end when the listener stops.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries_in_flight_max: 10_000,
            connections_max: 4096,
            connections_per_source_max: 256,
            pipeline_max: 64,
            replies_queued_max: 64,
            octets_queued_max: 256 << 10,
            first_query_timeout: Duration::from_secs(3),
            message_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// Counts the queries that left the fast path, all listeners together.
#[derive(Debug)]
pub struct InFlight {
    used: AtomicUsize,
    gauge: IntGauge,
}

impl InFlight {
    /// Nobody is in flight yet; `gauge` shows how many are.
    pub fn new(gauge: IntGauge) -> Self {
        Self {
            used: AtomicUsize::new(0),
            gauge,
        }
    }

    /// Room for one more; none if `max` are in flight.
    pub fn try_enter(self: &Arc<Self>, max: usize) -> Option<Permit> {
        self.used
            .try_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
                (used < max).then_some(used + 1)
            })
            .ok()?;
        self.gauge.inc();
        Some(Permit(Arc::clone(self)))
    }
}

/// One query in flight, for as long as it lives.
#[derive(Debug)]
pub struct Permit(Arc<InFlight>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::AcqRel);
        self.0.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_makes_room_again_when_it_is_dropped() {
        let gauge = IntGauge::new("in_flight", "in flight").unwrap();
        let in_flight = Arc::new(InFlight::new(gauge.clone()));
        let first = in_flight.try_enter(2);
        let second = in_flight.try_enter(2);
        assert!(first.is_some() && second.is_some());
        assert!(in_flight.try_enter(2).is_none());
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert!(in_flight.try_enter(2).is_some());
        assert_eq!(gauge.get(), 1);
    }
}
