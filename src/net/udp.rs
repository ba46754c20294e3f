//! One worker a core: receives a batch, answers what memory can, sends a batch.
//!
//! The road of a query that memory can answer allocates nothing, takes no lock and knows no async runtime. What has to
//! wait is copied once, and seen through here (`reactor`) or handed over; its reply leaves later by the same socket, from the
//! same address.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chain::deferred::{Deferred, Outcome};
use crate::chain::exchange::{Arrival, Protocol};
use crate::chain::stopwatch;
use crate::net::batch::{self, Batch, ReturnPath};
use crate::net::limit::STOP_LOOK;
use crate::net::offenders::Resource;
use crate::net::service::{Flight, Seldom, Service, Waiting};
use crate::net::sieve::{Limited, Sieve};
use crate::net::unsent::{self, Unsent};
use crate::reactor::Reactor;
use crate::wire::HEADER_LEN;
use crate::wire::code::Rcode;
use crate::wire::query::{flag, write_rejection};
use crate::zone::Zones;

/// How long a worker that is to stop waits before it looks again whether its queries have left.
const STOP_STEP: Duration = Duration::from_millis(20);

/// Pause after an error that no datagram caused, so that a broken socket costs no core.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Pause before a late reply that found no room in the send queue is tried again.
const SEND_AGAIN: Duration = Duration::from_millis(2);

/// Answers what comes in on one socket.
pub struct Worker {
    socket: Arc<UdpSocket>,
    service: Arc<Service>,
    batch: Batch,
    reply: Vec<u8>,
    kernel_drops: u32,
    sieve: Sieve,
    unsent: Arc<Unsent>,
    failure_log: Seldom,
    /// Sees queries through that wait on this thread; none where there is no such thing.
    reactor: Option<Reactor<Option<Late>>>,
    late: Vec<Late>,
    /// How long it waits for anything to come.
    patience: Duration,
}

impl Worker {
    /// For a socket that was made by [`crate::net::listen`].
    pub fn new(socket: UdpSocket, service: Arc<Service>) -> Self {
        Self {
            socket: Arc::new(socket),
            service,
            batch: Batch::new(),
            reply: Vec::with_capacity(512),
            kernel_drops: 0,
            sieve: Sieve::new(),
            unsent: Arc::default(),
            failure_log: Seldom::default(),
            reactor: None,
            late: Vec::new(),
            patience: STOP_LOOK,
        }
    }

    /// Answers until the listener is stopped, then goes on until no query of this socket is in flight, turns away what
    /// comes from then on, and empties its queue. Blocks: wants a thread of its own.
    pub fn run(mut self) {
        let service = Arc::clone(&self.service);
        let _runtime = service.enter_runtime();
        self.reactor = Reactor::open()
            .inspect_err(|error| tracing::warn!("what waits does so on the runtime: {error}"))
            .ok();
        let mut patience_ends = None;
        loop {
            self.take_turn(true);
            if !self.service.is_stopping() {
                continue;
            }
            let ends = *patience_ends.get_or_insert_with(|| {
                // An error leaves the longer time-out, so stopping only takes longer.
                let _ = self.socket.set_read_timeout(Some(STOP_STEP));
                self.patience = STOP_STEP;
                Instant::now() + self.service.limits.stop_timeout
            });
            // Every query in flight holds the socket. While one does, others may come in, and are served.
            if Arc::strong_count(&self.socket) == 1 || Instant::now() >= ends {
                break;
            }
        }
        self.turn_away();
        let ends = Instant::now() + STOP_STEP * 10;
        while (self.take_turn(true) || Arc::strong_count(&self.socket) > 1) && Instant::now() < ends
        {
        }
    }

    /// Connects the socket to a port that sends nothing. From then on the kernel gives datagrams to the other sockets of
    /// the port, those of the process that takes over for instance, or tells clients that nobody is here: so none comes
    /// between the last look into the queue and the close.
    fn turn_away(&self) {
        const DISCARD: u16 = 9;
        let ip = match self.service.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        // Where that cannot be done, a datagram may be lost as with any other server.
        let _ = self.socket.connect((ip, DISCARD));
    }

    /// One turn; false if nothing came. Whatever goes wrong, the worker stays: its share of the traffic has nobody
    /// else. A panic that the guard of a single query did not see costs the batch.
    fn take_turn(&mut self, wait: bool) -> bool {
        match catch_unwind(AssertUnwindSafe(|| self.turn(wait))) {
            Ok(Ok(count)) => count != 0,
            Ok(Err(error)) => {
                self.note_failure(&error);
                false
            }
            Err(panic) => {
                self.service.note_panic(&*panic);
                true
            }
        }
    }

    /// Receives a batch, answers it, sends the replies. Returns how many datagrams came.
    pub fn turn(&mut self, wait: bool) -> io::Result<usize> {
        let is_busy = self.reactor.as_ref().is_some_and(Reactor::is_busy);
        if is_busy && !self.see_through(wait)? {
            return Ok(0);
        }
        let received = self.batch.receive(&self.socket, wait && !is_busy);
        let now = Instant::now();
        if let Some(reactor) = &mut self.reactor
            && !is_busy
        {
            reactor.rest(&self.socket, now);
        }
        let (count, received) = (received?, now);
        if count != 0 {
            let first = || self.batch.datagram(0).peer.ip();
            self.service.note_heard(first);
        }
        let worst = self.sieve.worst();
        let under_pressure = self.sieve.look(count, received, &self.socket);
        let zones = self.service.zones.load();
        let is_crowded = self.unsent.is_full();
        let mut excess = 0;
        let _timed = stopwatch::Batch::begin(received);
        for index in 0..count {
            if under_pressure && self.sieve.is_excess(self.batch.datagram(index).peer.ip()) {
                excess += 1;
            } else {
                self.answer(index, &zones, received, is_crowded);
            }
        }
        // What has been limited until now may not be any more.
        self.count_drops(excess, worst.or_else(|| self.sieve.worst()), received);
        self.send();
        if !self.late.is_empty() {
            self.send_late();
        }
        Ok(count)
    }

    /// Waits until something comes, and sees those queries through that it was for. Whether queries have come.
    fn see_through(&mut self, wait: bool) -> io::Result<bool> {
        let Some(reactor) = &mut self.reactor else {
            return Ok(true);
        };
        let patience = if wait { self.patience } else { Duration::ZERO };
        let have_come = reactor.wait(&self.socket, patience)?;
        let late = &mut self.late;
        reactor.run_woken(|ready| late.extend(ready));
        if !self.late.is_empty() {
            self.send_late();
        }
        Ok(have_come)
    }

    /// Sends the replies of queries that have waited on this thread.
    fn send_late(&mut self) {
        let shed = self.service.shed.load();
        let Some(counter) = &*shed else {
            let lost = batch::send_late(&self.socket, &self.late, true, |_| {});
            if lost != 0 {
                self.service.metrics.send_failures.inc_by(lost as u64);
            }
            self.late.clear();
            return;
        };
        let (unsent, service, socket) = (&self.unsent, &self.service, &self.socket);
        let lost = batch::send_late(socket, &self.late, false, |(path, octets)| {
            unsent.hold(*path, octets, service, socket, counter);
        });
        counter.inc_by(lost as u64);
        self.late.clear();
    }

    fn send(&mut self) {
        let shed = self.service.shed.load();
        let Some(counter) = &*shed else {
            let lost = self.batch.send(&self.socket);
            if lost != 0 {
                self.service.metrics.send_failures.inc_by(lost as u64);
            }
            return;
        };
        let (unsent, service, socket) = (&self.unsent, &self.service, &self.socket);
        let lost = self.batch.send_what_fits(socket, |path, octets| {
            unsent.hold(path, octets, service, socket, counter);
        });
        counter.inc_by(lost as u64);
    }

    /// Counts what the kernel dropped of late, and so many that were dropped here.
    fn count_drops(&mut self, excess: u32, worst: Option<Limited>, now: Instant) {
        let Some(worst) = worst else {
            let drops = self.batch.kernel_drops();
            if drops != self.kernel_drops {
                let by_kernel = self.new_drops(drops);
                self.service.metrics.kernel_drops.inc_by(by_kernel);
            }
            return;
        };
        // The kernel counts what the filter drops and what overflows alike. Where the queue is not nearly full, nothing
        // can have overflowed since the last batch.
        let mut by_filter = 0;
        if let Ok(fill) = batch::queue_fill(&self.socket) {
            let by_kernel = self.new_drops(fill.drops);
            if fill.queued > fill.room / 8 * 7 {
                self.service.metrics.kernel_drops.inc_by(by_kernel);
            } else {
                by_filter = by_kernel;
            }
        }
        let limited = by_filter + u64::from(excess);
        if limited != 0 {
            self.service.metrics.limited.inc_by(limited);
            self.service
                .offenders
                .note(worst.client, Resource::Queue, limited, now);
        }
    }

    /// What was dropped since this was asked last. What comes with a datagram is older than what the socket says.
    fn new_drops(&mut self, drops: u32) -> u64 {
        match drops.wrapping_sub(self.kernel_drops) {
            new if new <= u32::MAX / 2 => {
                self.kernel_drops = drops;
                new.into()
            }
            _ => 0,
        }
    }

    fn answer(&mut self, index: usize, zones: &Arc<Zones>, received: Instant, is_crowded: bool) {
        let datagram = self.batch.datagram(index);
        let bound = self.service.address;
        let local = SocketAddr::new(datagram.asked.unwrap_or(bound.ip()), bound.port());
        if !is_answerable(datagram.peer, local) {
            self.service.metrics.sources_dropped.inc();
            return;
        }
        if datagram.is_cut {
            self.service.metrics.oversized.inc();
            if is_query(datagram.octets) {
                write_rejection(datagram.octets, Rcode::FORMERR, &mut self.reply);
                self.batch.reply(index, &self.reply);
            }
            return;
        }
        let arrival = Arrival {
            client: datagram.peer,
            local,
            protocol: Protocol::Udp,
            received,
            alias_depth: 0,
            is_crowded,
        };
        match self
            .service
            .answer(zones, datagram.octets, arrival, &mut self.reply)
        {
            Outcome::Reply => self.batch.reply(index, &self.reply),
            Outcome::Drop => {}
            Outcome::Deferred(deferred) => self.defer(index, deferred),
        }
    }

    #[cold]
    fn defer(&mut self, index: usize, deferred: Box<Deferred>) {
        let message = self.batch.datagram(index).octets;
        match self
            .service
            .enter_flight(deferred, message, &mut self.reply)
        {
            Flight::Entered(waiting) => {
                let path = self.batch.return_path(index);
                let reply = Later {
                    service: Arc::clone(&self.service),
                    socket: Arc::clone(&self.socket),
                    unsent: Arc::clone(&self.unsent),
                    waiting,
                    path,
                };
                match &mut self.reactor {
                    Some(reactor) if reply.waiting.stays() => {
                        let late = reactor.start(reply.message());
                        self.late.extend(late.flatten());
                    }
                    _ => self.service.spawn(reply.send()),
                }
            }
            Flight::Refused => self.batch.reply(index, &self.reply),
            Flight::Dropped => {}
        }
    }

    #[cold]
    fn note_failure(&self, error: &io::Error) {
        // The time-out is how a worker comes to look whether it should stop.
        if matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
        ) {
            return;
        }
        self.service.metrics.receive_failures.inc();
        if self.failure_log.is_due(Instant::now()) {
            tracing::warn!("receiving on `{}`: {error}", self.service.address);
        }
        std::thread::park_timeout(FAILURE_PAUSE);
    }
}

/// A reply whose batch is gone, and its way home.
type Late = (ReturnPath, Vec<u8>);

/// A reply that is waited for.
struct Later {
    service: Arc<Service>,
    socket: Arc<UdpSocket>,
    unsent: Arc<Unsent>,
    waiting: Waiting,
    path: ReturnPath,
}

impl Later {
    /// Sends it when it is ready. No `async fn`: that would hold it twice, and thousands may wait.
    #[expect(clippy::manual_async_fn, reason = "see above")]
    fn send(mut self) -> impl Future<Output = ()> + Send {
        async move {
            // What has more than one message goes over TCP only, so nothing follows.
            let Some(reply) = self.service.finish(&mut self.waiting).await else {
                return;
            };
            if !self.try_send(&reply.message) {
                tokio::time::sleep(SEND_AGAIN).await;
                if self.path.send(&self.socket, &reply.message).is_err() {
                    self.service.metrics.send_failures.inc();
                }
            }
        }
    }

    /// Waits for it on the worker's own thread, which sends it. A wait that is not for that thread goes elsewhere.
    #[expect(clippy::manual_async_fn, reason = "see above")]
    fn message(mut self) -> impl Future<Output = Option<Late>> + Send {
        async move {
            let reply = self.service.finish_here(&mut self.waiting).await;
            if self.waiting.is_in_flight() {
                let service = Arc::clone(&self.service);
                service.spawn(self.send());
                return None;
            }
            reply.map(|reply| (self.path, reply.message))
        }
    }

    /// False means: try once more.
    fn try_send(&self, reply: &[u8]) -> bool {
        let Err(error) = self.path.send(&self.socket, reply) else {
            return true;
        };
        let shed = self.service.shed.load();
        let Some(lost) = &*shed else {
            return false;
        };
        if unsent::is_out_of_room(&error) {
            self.unsent
                .hold(self.path, reply, &self.service, &self.socket, lost);
        } else {
            lost.inc();
        }
        true
    }
}

fn is_query(octets: &[u8]) -> bool {
    octets.len() >= HEADER_LEN && octets[2] & flag::QR == 0
}

/// Whether a reply to this source can do good. Port 0 and addresses that are no single host's cannot be replied to;
/// what comes from our own address was forged to make us talk to ourselves; and the ports of the old small services
/// (echo, daytime, quote of the day, character generator) would answer our answer.
fn is_answerable(peer: SocketAddr, local: SocketAddr) -> bool {
    if matches!(peer.port(), 0 | 7 | 13 | 17 | 19) {
        return false;
    }
    let one_host = match peer.ip() {
        IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified()),
        IpAddr::V6(ip) => !(ip.is_multicast() || ip.is_unspecified()),
    };
    one_host && !(peer.port() == local.port() && peer.ip() == local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_filter_drops_and_what_overflows_is_counted_apart() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let process = crate::server::process::Process::new(runtime.unwrap().handle().clone());
        let metrics = crate::telemetry::metrics::ServerMetrics::new(&process.metrics, "");
        let zones = Zones::new(Vec::new(), Arc::new(metrics));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let service = Service::new(
            address,
            Arc::new(arc_swap::ArcSwap::from_pointee(zones)),
            crate::net::limit::Limits::default(),
            &process,
        );
        batch::prepare(&socket, &address, 1 << 16).unwrap();
        let mut worker = Worker::new(socket, service);
        let counted = |worker: &Worker| {
            let metrics = &worker.service.metrics;
            (metrics.kernel_drops.get(), metrics.limited.get())
        };
        let flood = UdpSocket::bind("127.0.0.2:0").unwrap();
        let client = flood.local_addr().unwrap().ip();
        let limited = Limited { client, pass: 0.0 };
        // Nobody reads, so it overflows, whoever is limited by then.
        for _ in 0..1000 {
            flood.send_to(b"x", address).unwrap();
        }
        worker.count_drops(0, Some(limited), Instant::now());
        let (overflowed, filtered) = counted(&worker);
        assert!(overflowed > 100 && filtered == 0, "{overflowed} {filtered}");
        while worker.turn(false).is_ok() {}
        crate::net::filter::apply(&worker.socket, &[limited]).unwrap();
        for _ in 0..100 {
            flood.send_to(b"x", address).unwrap();
        }
        worker.count_drops(7, Some(limited), Instant::now());
        assert_eq!(counted(&worker), (overflowed, 107));
        // What comes with the next datagram says nothing new.
        crate::net::filter::apply(&worker.socket, &[]).unwrap();
        flood.send_to(b"x", address).unwrap();
        worker.turn(true).unwrap();
        assert_eq!(counted(&worker), (overflowed, 107));
    }

    #[test]
    fn sources_that_are_no_host_or_ourselves_are_never_answered() {
        let local = "10.96.0.10:53".parse().unwrap();
        for peer in [
            "10.0.0.1:0",
            "10.0.0.1:7",
            "10.0.0.1:19",
            "0.0.0.0:5353",
            "224.0.0.1:5353",
            "255.255.255.255:5353",
            "10.96.0.10:53",
            "[::]:5353",
            "[ff02::1]:5353",
        ] {
            assert!(!is_answerable(peer.parse().unwrap(), local), "{peer}");
        }
        for peer in [
            "10.0.0.1:53",
            "10.96.0.10:5353",
            "127.0.0.1:40000",
            "[fe80::1%2]:53",
        ] {
            assert!(is_answerable(peer.parse().unwrap(), local), "{peer}");
        }
    }
}
