//! What all sockets of one listener share, and the guard that keeps a panic to the query that caused it.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use prometheus::IntCounter;
use tokio_util::future::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chain::deferred::{Deferred, Finished, Here, Outcome};
use crate::chain::exchange::{Arrival, Protocol};
use crate::chain::plugin::{Messages, Next};
use crate::net::in_flight::{InFlight, Permit, Refusal};
use crate::net::limit::Limits;
use crate::net::metrics::NetMetrics;
use crate::net::offenders::{Offenders, Resource};
use crate::server::process::Process;
use crate::wire::code::Rcode;
use crate::wire::query::{Query, flag, write_rejection};
use crate::wire::writer::{ReplyOpt, ReplyWriter};
use crate::wire::{HEADER_LEN, UDP_CLASSIC_MAX, UDP_PAYLOAD_DEFAULT};
use crate::zone::Zones;

/// Shared by the UDP workers, the accept loop and the connections of one listener.
pub struct Service {
    /// The address that the listener is bound to.
    pub address: SocketAddr,
    /// What is served now; a reload puts another in its place.
    pub zones: Arc<ArcSwap<Zones>>,
    /// The listener's bounds.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<NetMetrics>,
    /// Whatever runs for the listener, threads included.
    pub tasks: TaskTracker,
    /// Cancelled when clients are to go elsewhere: connections that idle are closed, all else goes on.
    pub leave: CancellationToken,
    /// Cancelled when the listener is to stop: finish what is in flight.
    pub stop: CancellationToken,
    /// Cancelled when it has to end now.
    pub abandon: CancellationToken,
    runtime: tokio::runtime::Handle,
    in_flight: Arc<InFlight>,
    /// Who took more than a share of late.
    pub offenders: Arc<Offenders>,
    /// With `shed`: replies that a socket does not take at once are held, and counted here if they are lost. Without, they
    /// are waited for.
    pub shed: ArcSwapOption<IntCounter>,
    watched: AtomicBool,
    heard: AtomicU64,
    last_heard: Mutex<Option<IpAddr>>,
    stopping: AtomicBool,
    debug: AtomicBool,
    panic_log: Seldom,
}

impl Service {
    /// For a listener bound to `address`.
    pub fn new(
        address: SocketAddr,
        zones: Arc<ArcSwap<Zones>>,
        limits: Limits,
        process: &Process,
    ) -> Arc<Self> {
        let metrics = process.metrics.families::<NetMetrics>();
        let made = process
            .shared
            .get_or_try::<InFlight, std::convert::Infallible>("", || {
                Ok(Arc::new(InFlight::new(
                    metrics.in_flight.clone(),
                    metrics.in_flight_octets.clone(),
                )))
            });
        let Ok(in_flight) = made;
        Arc::new(Self {
            address,
            zones,
            limits,
            metrics,
            tasks: TaskTracker::new(),
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
            runtime: process.runtime.clone(),
            in_flight,
            offenders: process.metrics.families::<Offenders>(),
            shed: ArcSwapOption::empty(),
            watched: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            last_heard: Mutex::default(),
            stopping: AtomicBool::new(false),
            debug: AtomicBool::new(false),
            panic_log: Seldom::default(),
        })
    }

    /// From now on what comes in is counted in [`heard`](Self::heard). Before a stop only: it costs a lock.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// Somebody has sent something.
    pub fn note_heard(&self, client: impl FnOnce() -> IpAddr) {
        if self.watched.load(Ordering::Relaxed) {
            let mut last = self
                .last_heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last = Some(client());
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Grows with whatever has come in since it is watched; and who sent the last of it.
    pub fn heard(&self) -> (u64, Option<IpAddr>) {
        let last = self
            .last_heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (self.heard.load(Ordering::Relaxed), *last)
    }

    /// From now on a panic ends the process (`debug`), or does not.
    pub fn set_debug(&self, debug: bool) {
        self.debug.store(debug, Ordering::Relaxed);
    }

    /// Asks everything that runs for the listener to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.cancel();
        self.tasks.close();
    }

    /// Whether it was asked to. Takes no lock, unlike a look at `stop`.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Runs a task that the listener's stop waits for, and that ends when its patience does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = task.with_cancellation_token_owned(self.abandon.clone());
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Answers a message as far as memory can take it; the reply stands in `out`. A panic costs its query a
    /// SERVFAIL, and nothing else.
    pub fn answer(
        &self,
        zones: &Arc<Zones>,
        message: &[u8],
        arrival: Arrival,
        out: &mut Vec<u8>,
    ) -> Outcome {
        self.guard(message, out, |out| zones.answer(message, arrival, out))
    }

    /// Room for one more query in flight; otherwise the query is given up and its SERVFAIL stands in `out`.
    pub fn enter_flight(
        &self,
        deferred: Box<Deferred>,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Flight {
        let arrival = deferred.state().arrival;
        let entered = self.in_flight.try_enter(
            arrival.client.ip(),
            arrival.protocol == Protocol::Udp,
            message.len(),
            &self.limits,
        );
        let refusal = match entered {
            Ok(permit) => {
                let message = deferred.message();
                return Flight::Entered(Waiting {
                    deferred: Some(deferred),
                    message,
                    permit: Some(permit),
                });
            }
            Err(refusal) => refusal,
        };
        self.metrics.in_flight_refused.by(refusal).inc();
        if refusal == Refusal::Share {
            let client = arrival.client.ip();
            self.offenders
                .note(client, Resource::InFlight, 1, arrival.received);
        }
        let outcome = self.guard(message, out, |out| {
            let mut outcome = deferred.refuse(refusal.reason(), out);
            // A plugin may want to wait for what it does to replies; each round starts one link further up.
            while let Outcome::Deferred(deferred) = outcome {
                outcome = deferred.refuse(refusal.reason(), out);
            }
            outcome
        });
        match outcome {
            Outcome::Reply => Flight::Refused,
            _ => Flight::Dropped,
        }
    }

    /// Waits for a query's reply; none means: send nothing, and so it does if it is asked again. The query's place is free
    /// then.
    pub async fn finish(&self, waiting: &mut Waiting) -> Option<Finished> {
        let deferred = waiting.deferred.take()?;
        let reply = AssertUnwindSafe(deferred.finish_all()).catch_unwind();
        let reply = reply
            .await
            .unwrap_or_else(|panic| self.give_up(&*panic, waiting));
        waiting.permit = None;
        reply
    }

    /// The same on the thread that serves. A query that has to wait elsewhere is in flight still, for `finish`.
    pub async fn finish_here(&self, waiting: &mut Waiting) -> Option<Finished> {
        let deferred = waiting.deferred.take()?;
        let wait = AssertUnwindSafe(deferred.finish_here()).catch_unwind();
        let reply = match wait.await {
            Ok(Here::Finished(reply)) => reply,
            Ok(Here::Leaves(deferred)) => {
                waiting.deferred = Some(deferred);
                return None;
            }
            Err(panic) => self.give_up(&*panic, waiting),
        };
        waiting.permit = None;
        reply
    }

    /// The reply to a query whose wait has panicked.
    #[cold]
    fn give_up(&self, panic: &(dyn Any + Send), waiting: &Waiting) -> Option<Finished> {
        self.note_panic(panic);
        let mut message = Vec::new();
        let rest = None;
        write_servfail(&waiting.message, &mut message).then_some(Finished { message, rest })
    }

    /// Lets futures that are polled on this thread use what the runtime has, timers above all.
    pub fn enter_runtime(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Makes one more message of a reply, off the threads that serve: it takes longer than an answer. None means that
    /// the connection has to end, because the reply cannot be completed.
    pub async fn follow(&self, mut rest: Box<dyn Messages>) -> Option<Finished> {
        let made = self.runtime.spawn_blocking(move || {
            let mut message = Vec::new();
            let next = rest.next(&mut message);
            (message, next, rest)
        });
        match made.await {
            Ok((_, Next::GivenUp, _)) => None,
            Ok((message, next, rest)) => Some(Finished {
                message,
                rest: (next == Next::More).then_some(rest),
            }),
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    self.note_panic(&*panic);
                }
                None
            }
        }
    }

    fn guard(
        &self,
        message: &[u8],
        out: &mut Vec<u8>,
        answer: impl FnOnce(&mut Vec<u8>) -> Outcome,
    ) -> Outcome {
        // Nothing is left half done but `out`, which is written anew.
        match catch_unwind(AssertUnwindSafe(|| answer(out))) {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.note_panic(&*panic);
                if write_servfail(message, out) {
                    Outcome::Reply
                } else {
                    Outcome::Drop
                }
            }
        }
    }

    /// Counts and logs what a panic said. With `debug` the process ends here.
    #[cold]
    pub fn note_panic(&self, panic: &(dyn Any + Send)) {
        self.metrics.panics.inc();
        let what = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no text");
        if self.debug.load(Ordering::Relaxed) {
            tracing::error!("panic in server: \"{}\" {what}", self.address);
            std::process::abort();
        }
        if self.panic_log.is_due(Instant::now()) {
            tracing::error!(
                "Recovered from panic in server: \"{}\" {what}",
                self.address
            );
        }
    }
}

/// What became of a query that has to wait.
pub enum Flight {
    /// It may.
    Entered(Waiting),
    /// Too many do; its reply stands in the buffer.
    Refused,
    /// Too many do, and nothing is to be sent.
    Dropped,
}

/// A query in flight. [`Service::finish`] takes from it what it has, so that the future that waits holds it once.
pub struct Waiting {
    deferred: Option<Box<Deferred>>,
    message: Arc<[u8]>,
    permit: Option<Permit>,
}

impl Waiting {
    /// Whether the thread that serves may see it through.
    pub fn stays(&self) -> bool {
        self.deferred
            .as_ref()
            .is_some_and(|deferred| deferred.stays())
    }

    /// Whether it still has to wait.
    pub fn is_in_flight(&self) -> bool {
        self.deferred.is_some()
    }
}

/// Writes a SERVFAIL to a message whose handling went wrong; false if it has no header to answer.
fn write_servfail(message: &[u8], out: &mut Vec<u8>) -> bool {
    if message.len() < HEADER_LEN || message[2] & flag::QR != 0 {
        return false;
    }
    // Reading the message may be what went wrong.
    let whole = catch_unwind(AssertUnwindSafe(|| {
        let Ok(query) = Query::parse(message) else {
            return false;
        };
        let mut reply = ReplyWriter::new(&query, out);
        reply.rcode = Rcode::SERVFAIL;
        let opt = query.edns().map(|edns| ReplyOpt {
            payload_size: UDP_PAYLOAD_DEFAULT,
            dnssec_ok: edns.dnssec_ok,
            extended_error: None,
            options: &[],
        });
        reply.finish(&query, usize::from(UDP_CLASSIC_MAX), opt.as_ref());
        true
    }));
    if !matches!(whole, Ok(true)) {
        write_rejection(message, Rcode::SERVFAIL, out);
    }
    true
}

/// Keeps what a stranger can trigger from flooding the log: at most one line a second.
#[derive(Debug, Default)]
pub struct Seldom {
    /// Milliseconds from the first use to the last line, and one more; 0 before it.
    last: AtomicU64,
    first: std::sync::OnceLock<Instant>,
}

impl Seldom {
    /// Whether to write the line.
    pub fn is_due(&self, now: Instant) -> bool {
        let first = *self.first.get_or_init(|| now);
        let elapsed = now.saturating_duration_since(first).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1);
        let last = self.last.load(Ordering::Relaxed);
        (last == 0 || elapsed >= last.saturating_add(1000))
            && self
                .last
                .compare_exchange(last, elapsed, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_is_due_once_a_second() {
        let seldom = Seldom::default();
        let start = Instant::now();
        assert!(seldom.is_due(start));
        assert!(!seldom.is_due(start + Duration::from_millis(999)));
        assert!(seldom.is_due(start + Duration::from_millis(1000)));
        assert!(!seldom.is_due(start + Duration::from_millis(1999)));
    }

    #[test]
    fn a_servfail_carries_the_question_where_it_can_be_read() {
        let mut message = vec![0x12, 0x34, flag::RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&[1, b'a', 0, 0, 1, 0, 1]);
        let mut out = Vec::new();
        assert!(write_servfail(&message, &mut out));
        assert_eq!(out.len(), message.len());
        assert_eq!((out[2], out[3]), (flag::QR | flag::RD, 2));
        assert!(write_servfail(&message[..14], &mut out));
        assert_eq!(out.len(), HEADER_LEN);
        assert!(!write_servfail(&message[..11], &mut out));
        message[2] |= flag::QR;
        assert!(!write_servfail(&message, &mut out));
    }
}
