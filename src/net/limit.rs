//! Every bound of the listeners in one table.

use std::time::Duration;

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

/// Replies that one UDP socket holds while it takes no more (`shed`). Past it the oldest is lost, and no query is answered.
pub const UNSENT_MAX: usize = 1024;

/// How long a connection has been idle when it is closed because clients are to go elsewhere. Who asks query after query
/// is not cut off between two of them.
pub const LEAVE_IDLE: Duration = Duration::from_millis(100);

/// How long a connection that we end is read on for, to nowhere: what comes in after a close resets it, and then the client
/// loses the last replies too (RFC 1122, section 4.2.2.13).
pub const LINGER: Duration = Duration::from_millis(250);

/// Times that a connection which we end is read before: what its client has sent by then is answered.
pub const LAST_READS_MAX: u8 = 64;

/// Pause after the process ran out of file descriptors or the kernel out of memory.
pub const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// Octets read from a connection at once.
pub const READ_CHUNK: usize = 8 << 10;

/// Octets that a client has not taken, at which the next message of a reply that has many is not made yet.
pub const FOLLOWING_QUEUED_MAX: usize = 64 << 10;

/// Unanswerable messages (replies, say) on one connection; the one that reaches this closes it.
pub const BAD_MESSAGES_MAX: u8 = 3;

/// File descriptors that clients leave to us where there are many: for HTTP, upstreams, the API server and files.
const FILES_KEPT: usize = 1024;

/// TCP connections that a process may hold which may open so many files. Clients must not take the descriptors that its
/// probes and upstreams need: where there are few, they get half of them.
pub fn connections_of_files(files: usize) -> usize {
    files - FILES_KEPT.min(files / 2)
}

/// The bounds that an operator may want to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries of the whole process that wait for something. Past it they are answered SERVFAIL at once.
    ///
    /// One that waits for an upstream takes 2.2 KiB beside its octets, and those three times (`tests/waiting_memory.rs`). So
    /// all of them take 22 MiB, and never more than three times [`octets_in_flight_max`](Self::octets_in_flight_max) on top.
    pub queries_in_flight_max: usize,
    /// Those of one address over UDP, where an address may be forged: all that waits for it leaves at once when a slow
    /// upstream comes back.
    pub queries_per_forgeable_client_max: usize,
    /// Octets of all queries that wait, as they came in. Past it they are answered SERVFAIL at once.
    pub octets_in_flight_max: usize,
    /// TCP connections of one listener. Past it the one that is idle longest gives way, or the new one is closed.
    pub connections_max: usize,
    /// TCP connections of all listeners, likewise: see [`connections_of_files`].
    pub connections_of_process_max: usize,
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
            queries_per_forgeable_client_max: 1000,
            octets_in_flight_max: 4 << 20,
            connections_max: 4096,
            connections_of_process_max: usize::MAX,
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

#[cfg(test)]
mod tests {
    use super::connections_of_files;

    #[test]
    fn clients_get_half_of_few_descriptors_and_most_of_many() {
        assert_eq!(connections_of_files(64), 32);
        assert_eq!(connections_of_files(2048), 1024);
        assert_eq!(connections_of_files(1 << 20), (1 << 20) - 1024);
        assert_eq!(connections_of_files(0), 0);
    }
}
