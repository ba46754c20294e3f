//! TCP: accepts connections, and answers the queries that come over each in whatever order they are ready.
//!
//! ```text
//! read  ->  | length | message | length | mess…      whole messages are answered, the rest waits for its other half
//!                     |
//!                     +-- from memory ------------>  | length | reply | length | reply |  ->  one write
//!                     '-- has to wait -> pending --'
//! ```
//!
//! A zone transfer is a reply of many messages. The next one is made only when most of what came before is with the
//! client, so a zone of any size takes two messages of memory, and a client that reads slowly costs no more.
//!
//! A connection that has too much pending or unsent is not read until that has changed, so the client's own window
//! holds it back (RFC 7766, section 7). Idle connections keep no buffer.
//!
//! A stop answers what a client has sent by then, says so with a FIN, and waits a moment for the client's.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

use crate::chain::deferred::{Deferred, Finished, Outcome};
use crate::chain::exchange::{Arrival, Protocol};
use crate::chain::plugin::Messages;
use crate::net::limit::{
    BAD_MESSAGES_MAX, EXHAUSTION_PAUSE, FOLLOWING_QUEUED_MAX, LAST_READS_MAX, LEAVE_IDLE, LINGER,
    READ_CHUNK,
};
use crate::net::seats::{Seat, Seating, Seats};
use crate::net::service::{Flight, Seldom, Service};
use crate::wire::query::flag;
use crate::wire::{HEADER_LEN, u16_at};
use crate::zone::Zones;

/// The wait of an idle connection that is to be closed; no time-out that is counted.
const LEAVING: &str = "leaving";

/// Buffers up to this size are kept between two queries.
const KEPT_BUFFER_MAX: usize = 2048;

thread_local! {
    /// Where replies from memory are written before they join a connection's output.
    static REPLY: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(4096));
}

/// Accepts connections until the listener is stopped, and takes then those that the kernel has accepted already.
pub async fn accept(listener: TcpListener, service: Arc<Service>) {
    let seats = Seats::new(
        service.limits.connections_max,
        service.limits.connections_of_process_max,
        service.limits.connections_per_source_max,
        service.metrics.connections.clone(),
    );
    let failure_log = Seldom::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.stop.cancelled() => break,
            accepted = async {
                seats.settled().await;
                listener.accept().await
            } => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &service, &seats),
            Err(error) => {
                service.metrics.accept_failures.inc();
                // A connection that ended before we took it says nothing about the next one.
                if error.kind() == ErrorKind::ConnectionAborted {
                    continue;
                }
                if failure_log.is_due(Instant::now()) {
                    tracing::warn!("accepting on `{}`: {error}", service.address);
                }
                tokio::time::sleep(EXHAUSTION_PAUSE).await;
            }
        }
    }
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        admit(stream, peer, &service, &seats);
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, service: &Arc<Service>, seats: &Arc<Seats>) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let seat = match seats.take(peer.ip(), &service.stop) {
        Seating::Free(seat) => seat,
        Seating::Evicted(seat) => {
            service.metrics.connections_evicted.inc();
            seat
        }
        Seating::Full => {
            service.metrics.connections_refused.inc();
            return;
        }
    };
    // Replies are written whole, so there is nothing to be gathered. Without the option they come later, no more.
    let _ = stream.set_nodelay(true);
    let local = match stream.local_addr() {
        Ok(local) => SocketAddr::new(local.ip().to_canonical(), local.port()),
        Err(_) => return,
    };
    let connection = Connection::new(Arc::clone(service), seat, peer, local);
    service.spawn(connection.serve(stream));
}

/// What comes of waiting.
enum Ready {
    /// A reply, or the next message of one; none means: send nothing.
    Reply(Option<Finished>),
    /// A reply that will not be completed.
    Broken,
}

type PendingReply = Pin<Box<dyn Future<Output = Ready> + Send>>;

/// What a client has not taken when it should have.
#[derive(Clone, Copy)]
struct Unsent {
    octets: usize,
    deadline: Instant,
}

struct Connection {
    service: Arc<Service>,
    seat: Seat,
    peer: SocketAddr,
    local: SocketAddr,
    /// The start of a message that is not whole, and whole ones that there was no room to answer.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Octets of `output` that are sent.
    written: usize,
    replies_queued: usize,
    unsent: Option<Unsent>,
    pending: FuturesUnordered<PendingReply>,
    /// Replies that have more messages.
    unfinished: Vec<Box<dyn Messages>>,
    bad_messages: u8,
    /// The client may still send.
    is_open: bool,
    /// Send what is queued, then close.
    is_closing: bool,
    /// Clients are to go elsewhere: close when idle.
    is_leaving: bool,
    /// Answer what the client has sent by now, then close; so often it may still be read.
    last_reads: Option<u8>,
    /// There was no room when we last looked.
    was_held: bool,
    had_query: bool,
    message_since: Instant,
    quiet_since: Instant,
}

impl Connection {
    fn new(service: Arc<Service>, seat: Seat, peer: SocketAddr, local: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            service,
            seat,
            peer,
            local,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            replies_queued: 0,
            unsent: None,
            pending: FuturesUnordered::new(),
            unfinished: Vec::new(),
            bad_messages: 0,
            is_open: true,
            is_closing: false,
            is_leaving: false,
            last_reads: None,
            was_held: false,
            had_query: false,
            message_since: now,
            quiet_since: now,
        }
    }

    /// Serves the connection to its end. Errors are the client's business: they end it without a word.
    async fn serve(mut self, mut stream: TcpStream) {
        let (go, leave) = (self.seat.leave.clone(), self.service.leave.clone());
        let mut going = pin!(go.cancelled());
        let mut leaving = pin!(leave.cancelled());
        let mut sleep = pin!(tokio::time::sleep_until(self.quiet_since.into()));
        loop {
            if self.work(&stream, Instant::now()).is_err() {
                return;
            }
            if self.is_to_read_on() {
                match self.read(&stream) {
                    Ok(true) => continue,
                    Ok(false) => self.is_open = false,
                    Err(_) => return,
                }
            }
            self.follow();
            if self.is_done() {
                break;
            }
            let interest = self.interest();
            let deadline = self.deadline();
            if let Some((at, _)) = deadline {
                wake_by(sleep.as_mut(), at);
            }
            tokio::select! {
                Some(ready) = self.pending.next() => self.take_pending(ready),
                ready = stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => {
                    let Ok(ready) = ready else { return };
                    if ready.is_readable() && self.wants_input() && self.read(&stream).is_err() {
                        return;
                    }
                }
                () = sleep.as_mut(), if deadline.is_some() => {
                    let (at, what) = deadline.expect("the branch asks for it");
                    if Instant::now() >= at {
                        if what == LEAVING {
                            self.last_reads = Some(LAST_READS_MAX);
                            continue;
                        }
                        self.service.metrics.connection_timeouts.with_label_values(&[what]).inc();
                        return;
                    }
                    sleep.as_mut().reset(at.into());
                }
                () = going.as_mut(), if self.last_reads.is_none() => {
                    if !self.service.is_stopping() {
                        return;
                    }
                    self.last_reads = Some(LAST_READS_MAX);
                }
                () = leaving.as_mut(), if !self.is_leaving => self.is_leaving = true,
            }
        }
        // Our end first (RFC 7766, section 6.2.4 has the client close, but it may have done so or may never).
        let _ = stream.shutdown().await;
        if self.last_reads.is_some() {
            let _ = tokio::time::timeout(LINGER, read_to_nowhere(&stream)).await;
        }
    }

    /// Whether to look for what else the client has sent by now, before its connection is closed.
    fn is_to_read_on(&mut self) -> bool {
        let wants_input = self.wants_input();
        let Some(left) = self.last_reads.as_mut().filter(|_| wants_input) else {
            return false;
        };
        let Some(fewer) = left.checked_sub(1) else {
            // It sends on and on.
            self.is_open = false;
            return false;
        };
        *left = fewer;
        true
    }

    /// Whether there is room for one more query's reply.
    fn has_room(&self) -> bool {
        let limits = &self.service.limits;
        self.pending.len() < limits.pipeline_max
            && self.replies_queued < limits.replies_queued_max
            && self.output.len() - self.written < limits.octets_queued_max
    }

    fn wants_input(&self) -> bool {
        self.is_open && !self.is_closing && self.has_room()
    }

    fn is_done(&self) -> bool {
        self.output.is_empty() && (self.is_closing || (!self.is_open && self.pending.is_empty()))
    }

    fn interest(&self) -> Option<Interest> {
        let read = self.wants_input().then_some(Interest::READABLE);
        let write = (!self.output.is_empty()).then_some(Interest::WRITABLE);
        match (read, write) {
            (Some(read), Some(write)) => Some(read | write),
            (one, other) => one.or(other),
        }
    }

    /// When to give up, and on what.
    fn deadline(&mut self) -> Option<(Instant, &'static str)> {
        let limits = &self.service.limits;
        let unsent = self.unsent.map(|unsent| (unsent.deadline, "write"));
        let is_quiet = self.pending.is_empty() && self.output.is_empty();
        if is_quiet {
            self.seat.set_idle(self.quiet_since);
        } else {
            self.seat.set_busy();
        }
        let input = if !self.wants_input() {
            None
        } else if !self.input.is_empty() {
            Some((self.message_since + limits.message_timeout, "message"))
        } else if !is_quiet {
            None
        } else if self.had_query && self.is_leaving {
            Some((
                self.quiet_since + LEAVE_IDLE.min(limits.idle_timeout),
                LEAVING,
            ))
        } else if self.had_query {
            Some((self.quiet_since + limits.idle_timeout, "idle"))
        } else {
            Some((self.quiet_since + limits.first_query_timeout, "query"))
        };
        match (unsent, input) {
            (Some(unsent), Some(input)) => Some(unsent.min(input)),
            (one, other) => one.or(other),
        }
    }

    /// Reads once; false if there was nothing to read, or never will be.
    fn read(&mut self, stream: &TcpStream) -> io::Result<bool> {
        let mut chunk = [0; READ_CHUNK];
        let length = match stream.try_read(&mut chunk) {
            Ok(0) => {
                self.is_open = false;
                return Ok(false);
            }
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let chunk = &chunk[..length];
        let now = Instant::now();
        if self.input.is_empty() {
            self.message_since = now;
            let used = self.answer_whole(chunk, now);
            self.input.extend_from_slice(&chunk[used..]);
        } else {
            self.input.extend_from_slice(chunk);
        }
        Ok(true)
    }

    /// Answers what has been read, as long as there is room and the client takes the replies.
    fn work(&mut self, stream: &TcpStream, now: Instant) -> io::Result<()> {
        loop {
            let before = self.input.len();
            if before != 0 {
                let mut input = std::mem::take(&mut self.input);
                let used = self.answer_whole(&input, now);
                input.drain(..used);
                if !input.is_empty() || input.capacity() <= KEPT_BUFFER_MAX {
                    self.input = input;
                }
            }
            self.flush(stream, now)?;
            if self.input.len() == before {
                break;
            }
        }
        // A message that we would not read is not late.
        let is_held = !self.has_room();
        if self.was_held && !is_held {
            self.message_since = now;
        }
        self.was_held = is_held;
        Ok(())
    }

    /// Answers the whole messages at the start of `octets` as long as there is room; returns how far it came.
    fn answer_whole(&mut self, octets: &[u8], now: Instant) -> usize {
        let zones = self.service.zones.load_full();
        let mut at = 0;
        while !self.is_closing && self.has_room() {
            let Some(length) = u16_at(octets, at) else {
                break;
            };
            let length = usize::from(length);
            if length < HEADER_LEN {
                self.give_up();
                break;
            }
            let Some(message) = octets.get(at + 2..at + 2 + length) else {
                break;
            };
            at += 2 + length;
            self.service.note_heard(|| self.peer.ip());
            (self.had_query, self.quiet_since, self.message_since) = (true, now, now);
            self.answer(&zones, message, now);
        }
        at
    }

    fn answer(&mut self, zones: &Arc<Zones>, message: &[u8], now: Instant) {
        let arrival = Arrival {
            client: self.peer,
            local: self.local,
            protocol: Protocol::Tcp,
            received: now,
            alias_depth: 0,
            is_crowded: false,
        };
        REPLY.with_borrow_mut(
            |reply| match self.service.answer(zones, message, arrival, reply) {
                Outcome::Reply => self.queue(reply),
                Outcome::Deferred(deferred) => self.defer(deferred, message, reply),
                Outcome::Drop if message[2] & flag::QR == 0 => {}
                Outcome::Drop => {
                    self.bad_messages += 1;
                    if self.bad_messages >= BAD_MESSAGES_MAX {
                        self.give_up();
                    }
                }
            },
        );
    }

    fn give_up(&mut self) {
        self.is_closing = true;
        self.service.metrics.connections_malformed.inc();
    }

    fn defer(&mut self, deferred: Box<Deferred>, message: &[u8], reply: &mut Vec<u8>) {
        match self.service.enter_flight(deferred, message, reply) {
            Flight::Entered(mut waiting) => {
                self.seat.set_busy();
                let service = Arc::clone(&self.service);
                self.pending.push(Box::pin(async move {
                    Ready::Reply(service.finish(&mut waiting).await)
                }));
            }
            Flight::Refused => self.queue(reply),
            Flight::Dropped => {}
        }
    }

    fn take_pending(&mut self, ready: Ready) {
        self.quiet_since = Instant::now();
        match ready {
            Ready::Reply(None) => {}
            Ready::Reply(Some(Finished { message, rest })) => {
                self.queue(&message);
                self.unfinished.extend(rest);
            }
            // Who sees the connection end knows that the reply is not whole.
            Ready::Broken => self.is_closing = true,
        }
    }

    /// Has the next message of each unfinished reply made, if there is room for it.
    fn follow(&mut self) {
        if self.is_closing || self.output.len() - self.written >= FOLLOWING_QUEUED_MAX {
            return;
        }
        for rest in self.unfinished.drain(..) {
            let service = Arc::clone(&self.service);
            self.pending.push(Box::pin(async move {
                match service.follow(rest).await {
                    Some(next) => Ready::Reply(Some(next)),
                    None => Ready::Broken,
                }
            }));
        }
    }

    fn queue(&mut self, reply: &[u8]) {
        let length = u16::try_from(reply.len()).expect("a reply is cut to what TCP carries");
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(reply);
        self.replies_queued += 1;
    }

    /// Sends what the client takes.
    fn flush(&mut self, stream: &TcpStream, now: Instant) -> io::Result<()> {
        while self.written < self.output.len() {
            match stream.try_write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.note_sent(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.hold_unsent(now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.output.shrink_to(KEPT_BUFFER_MAX);
        (self.written, self.replies_queued, self.unsent) = (0, 0, None);
        Ok(())
    }

    fn note_sent(&mut self, length: usize) {
        self.written += length;
        if let Some(unsent) = &mut self.unsent {
            unsent.octets = unsent.octets.saturating_sub(length);
        }
    }

    /// Everything that is unsent now has to be taken within the write time-out, so that a client cannot stretch it an
    /// octet at a time.
    fn hold_unsent(&mut self, now: Instant) {
        self.output.drain(..self.written);
        self.written = 0;
        if self.unsent.is_none_or(|unsent| unsent.octets == 0) {
            self.unsent = Some(Unsent {
                octets: self.output.len(),
                deadline: now + self.service.limits.write_timeout,
            });
        }
    }
}

/// Reads until the client closes, or breaks the connection.
async fn read_to_nowhere(stream: &TcpStream) {
    // Not held across a wait: a connection's future would be larger by it.
    let has_ended = || match stream.try_read(&mut [0; 512]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    while stream.readable().await.is_ok() && !has_ended() {}
}

/// Makes a sleep end no later than `at`. One that ends sooner is left alone, and set anew when it does: deadlines
/// move on with every query, and moving a timer costs more than looking at it once.
fn wake_by(sleep: Pin<&mut Sleep>, at: Instant) {
    if sleep.deadline() > at.into() {
        sleep.reset(at.into());
    }
}
