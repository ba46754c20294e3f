//! Identical questions are asked once: who comes while one is out waits for its reply.
//!
//! That is cheaper, and it is a defense: a forger who makes us ask the same question a thousand times has one query to
//! hit, not a thousand (the birthday attack, CVE-2023-30464).
//!
//! That no upstream replied is remembered for a second (RFC 9520, section 3.2), in this place and not in `cache`: a
//! Corefile without `cache` must not make each of a client's tries cost upstreams in trouble as many again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use tokio::sync::oneshot;

use crate::chain::plugin::{Answer, Failure, Verdict};
use crate::wire::edns::ExtendedError;

/// Questions that are out at a time, and clients that wait for one of them.
const FLIGHTS_MAX: usize = 65_536;
const WAITERS_MAX: usize = 16_384;

/// How long it is remembered that nobody replied: as short as may be, for the next try may well succeed.
const MEMORY: Duration = Duration::from_secs(1);

/// Questions without a reply that are remembered; with more, the oldest are forgotten. About a megabyte.
const REMEMBERED_MAX: usize = 4096;

type Waiting = HashMap<Arc<[u8]>, Vec<oneshot::Sender<Verdict>>, RandomState>;

/// The questions that are out, and those that nobody replied to.
#[derive(Default)]
pub(super) struct Flights {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: Waiting,
    failed: HashMap<Arc<[u8]>, Failure, RandomState>,
    /// The same by age, the oldest first.
    failed_at: VecDeque<(Instant, Arc<[u8]>)>,
}

/// What to do with a question.
pub(super) enum Join<'f> {
    /// Ask it.
    Lead(Flight<'f>),
    /// Nobody replied, not long ago.
    Failed(Failure),
    /// It is out. If the sender is dropped, whoever asked has given up: join again.
    Follow(oneshot::Receiver<Verdict>),
    /// No room.
    Full,
}

/// A question that is out. Dropped before it has landed, it sends everyone who waits back to the start.
pub(super) struct Flight<'f> {
    flights: &'f Flights,
    key: Arc<[u8]>,
}

impl Flights {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self, key: &Arc<[u8]>, now: Instant) -> Join<'_> {
        let mut table = self.table();
        if let Some(failure) = table.failure(key, now) {
            return Join::Failed(failure);
        }
        let waiting = &mut table.waiting;
        if let Some(waiters) = waiting.get_mut(key) {
            // Those whose client has gone make room.
            if waiters.len() >= WAITERS_MAX {
                waiters.retain(|waiter| !waiter.is_closed());
            }
            if waiters.len() >= WAITERS_MAX {
                return Join::Full;
            }
            let (sender, receiver) = oneshot::channel();
            waiters.push(sender);
            return Join::Follow(receiver);
        }
        if waiting.len() >= FLIGHTS_MAX {
            return Join::Full;
        }
        // No allocation before somebody waits.
        waiting.insert(Arc::clone(key), Vec::new());
        Join::Lead(Flight {
            flights: self,
            key: Arc::clone(key),
        })
    }
}

impl Table {
    /// Forgets what is over.
    fn expire(&mut self, now: Instant) {
        while let Some((at, oldest)) = self.failed_at.front()
            && now.saturating_duration_since(*at) >= MEMORY
        {
            self.failed.remove(oldest);
            self.failed_at.pop_front();
        }
    }

    /// What is remembered of a question.
    fn failure(&mut self, key: &Arc<[u8]>, now: Instant) -> Option<Failure> {
        self.expire(now);
        if self.failed.is_empty() {
            return None;
        }
        let failure = self.failed.get(key)?;
        Some(Failure {
            rcode: failure.rcode,
            error: failure.error.clone(),
            // RFC 8914, section 4.14. `cache` does not keep what is from a memory already.
            extended_error: Some(ExtendedError::new(
                ExtendedError::CACHED_ERROR,
                "no upstream replied a moment ago",
            )),
        })
    }

    /// Remembers a question that nobody replied to; true if another one was forgotten before its time.
    fn remember(&mut self, key: &Arc<[u8]>, failure: Failure, now: Instant) -> bool {
        self.expire(now);
        // Whoever asked was told what is remembered, so there is nothing of it yet.
        if self.failed.insert(Arc::clone(key), failure).is_some() {
            return false;
        }
        self.failed_at.push_back((now, Arc::clone(key)));
        if self.failed_at.len() <= REMEMBERED_MAX {
            return false;
        }
        let oldest = self.failed_at.pop_front();
        oldest.is_some_and(|(_, oldest)| self.failed.remove(&oldest).is_some())
    }
}

impl Flight<'_> {
    /// Hands a copy of the verdict to everyone who waits, and remembers it if it is a failure after upstreams were
    /// asked `in_vain`. Other failures are those of this moment, and cost upstreams nothing. True if there was no room to
    /// remember it, so that an older one was forgotten.
    pub(super) fn land(self, verdict: &Verdict, in_vain: bool) -> bool {
        let mut one_forgotten = false;
        let waiters = {
            let mut table = self.flights.table();
            if let Verdict::Fail(failure) = verdict
                && in_vain
            {
                one_forgotten = table.remember(&self.key, copy_of_failure(failure), Instant::now());
            }
            table.waiting.remove(&self.key)
        };
        for waiter in waiters.into_iter().flatten() {
            // Whoever has gone meanwhile wants nothing.
            let _ = waiter.send(copy_of(verdict));
        }
        one_forgotten
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // After `land` the key is gone, or stands there for the flight of someone else.
        let waiting = &mut self.flights.table().waiting;
        if waiting
            .get_key_value(&self.key)
            .is_some_and(|(key, _)| Arc::ptr_eq(key, &self.key))
        {
            waiting.remove(&self.key);
        }
    }
}

fn copy_of(verdict: &Verdict) -> Verdict {
    match verdict {
        Verdict::Reply(answer) => Verdict::Reply(Answer {
            message: answer.message.clone(),
            rcode_high: answer.rcode_high,
            extended_error: answer.extended_error.clone(),
            upstream: answer.upstream,
            answered_by: None,
            // Transfers are not forwarded.
            rest: None,
        }),
        Verdict::Next => Verdict::Next,
        Verdict::Fail(failure) => Verdict::Fail(copy_of_failure(failure)),
        Verdict::Drop => Verdict::Drop,
    }
}

fn copy_of_failure(failure: &Failure) -> Failure {
    Failure {
        rcode: failure.rcode,
        error: failure.error.clone(),
        extended_error: failure.extended_error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::code::Rcode;

    fn key(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn whoever_follows_gets_what_the_leader_got() {
        let flights = Flights::default();
        let Join::Lead(flight) = flights.join(&key("a"), Instant::now()) else {
            panic!("nobody was there before");
        };
        let Join::Follow(mut follower) = flights.join(&key("a"), Instant::now()) else {
            panic!("it is out");
        };
        assert!(matches!(
            flights.join(&key("b"), Instant::now()),
            Join::Lead(_)
        ));
        flight.land(&Verdict::Next, false);
        assert!(matches!(follower.try_recv(), Ok(Verdict::Next)));
        assert!(matches!(
            flights.join(&key("a"), Instant::now()),
            Join::Lead(_)
        ));
    }

    #[test]
    fn a_leader_that_gives_up_sends_followers_back() {
        let flights = Flights::default();
        let leader = flights.join(&key("a"), Instant::now());
        let Join::Follow(mut follower) = flights.join(&key("a"), Instant::now()) else {
            panic!("it is out");
        };
        drop(leader);
        assert!(follower.try_recv().is_err());
        assert!(flights.table().waiting.is_empty());
    }

    #[test]
    fn only_so_many_may_wait_for_one_question() {
        let flights = Flights::default();
        let _leader = flights.join(&key("a"), Instant::now());
        let mut followers: Vec<_> = (0..WAITERS_MAX)
            .map(|_| flights.join(&key("a"), Instant::now()))
            .collect();
        assert!(matches!(
            flights.join(&key("a"), Instant::now()),
            Join::Full
        ));
        followers.pop();
        assert!(matches!(
            flights.join(&key("a"), Instant::now()),
            Join::Follow(_)
        ));
    }

    fn silence() -> Verdict {
        let code = ExtendedError::NO_REACHABLE_AUTHORITY;
        Verdict::Fail(Failure {
            rcode: Rcode::SERVFAIL,
            error: "i/o timeout".into(),
            extended_error: Some(ExtendedError::new(code, "")),
        })
    }

    fn fail(flights: &Flights, key: &Arc<[u8]>, in_vain: bool) {
        let Join::Lead(flight) = flights.join(key, Instant::now()) else {
            panic!("nothing is known of it");
        };
        assert!(!flight.land(&silence(), in_vain));
    }

    #[test]
    fn that_nobody_replied_is_remembered_for_a_second() {
        let flights = Flights::default();
        fail(&flights, &key("a"), true);
        let now = Instant::now();
        let Join::Failed(failure) = flights.join(&key("a"), now) else {
            panic!("it is remembered");
        };
        assert_eq!(failure.rcode, Rcode::SERVFAIL);
        let code = failure.extended_error.map(|error| error.code);
        assert_eq!(code, Some(ExtendedError::CACHED_ERROR));
        assert!(matches!(flights.join(&key("b"), now), Join::Lead(_)));
        assert!(matches!(
            flights.join(&key("a"), now + MEMORY),
            Join::Lead(_)
        ));
        assert!(flights.table().failed.is_empty() && flights.table().failed_at.is_empty());
    }

    #[test]
    fn no_other_failure_is_remembered() {
        let flights = Flights::default();
        fail(&flights, &key("a"), false);
        assert!(matches!(
            flights.join(&key("a"), Instant::now()),
            Join::Lead(_)
        ));
    }

    #[test]
    fn only_so_many_failures_are_remembered_the_newest_of_them() {
        let flights = Flights::default();
        let names: Vec<_> = (0..=REMEMBERED_MAX)
            .map(|number| key(&number.to_string()))
            .collect();
        let now = Instant::now();
        let mut table = flights.table();
        for name in &names {
            let Verdict::Fail(failure) = silence() else {
                unreachable!("it is one");
            };
            let one_forgotten = table.remember(name, failure, now);
            assert_eq!(one_forgotten, Arc::ptr_eq(name, &names[REMEMBERED_MAX]));
        }
        assert_eq!(table.failed.len(), REMEMBERED_MAX);
        assert!(table.failure(&names[0], now).is_none());
        assert!(table.failure(&names[1], now).is_some());
        // What is over makes room without a loss.
        let Verdict::Fail(failure) = silence() else {
            unreachable!("it is one");
        };
        assert!(!table.remember(&names[0], failure, now + MEMORY));
        assert_eq!(table.failed.len(), 1);
    }
}
