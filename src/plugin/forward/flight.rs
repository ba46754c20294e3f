//! Identical questions are asked once: who comes while one is out waits for its reply.
//!
//! That is cheaper, and it is a defense: a forger who makes us ask the same question a thousand times has one query to
//! hit, not a thousand (the birthday attack, CVE-2023-30464).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::chain::plugin::{Answer, Failure, Verdict};

/// Questions that are out at a time, and clients that wait for one of them.
const FLIGHTS_MAX: usize = 65_536;
const WAITERS_MAX: usize = 16_384;

type Waiting = HashMap<Arc<[u8]>, Vec<oneshot::Sender<Verdict>>>;

/// The questions that are out.
#[derive(Default)]
pub(super) struct Flights {
    waiting: Mutex<Waiting>,
}

/// What to do with a question.
pub(super) enum Join<'f> {
    /// Ask it.
    Lead(Flight<'f>),
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
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self, key: &Arc<[u8]>) -> Join<'_> {
        let mut waiting = self.waiting();
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

impl Flight<'_> {
    /// Hands a copy of the verdict to everyone who waits.
    pub(super) fn land(self, verdict: &Verdict) {
        let waiters = self.flights.waiting().remove(&self.key);
        for waiter in waiters.into_iter().flatten() {
            // Whoever has gone meanwhile wants nothing.
            let _ = waiter.send(copy_of(verdict));
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // After `land` the key is gone, or stands there for the flight of someone else.
        let mut waiting = self.flights.waiting();
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
        Verdict::Fail(failure) => Verdict::Fail(Failure {
            rcode: failure.rcode,
            error: failure.error.clone(),
            extended_error: failure.extended_error.clone(),
        }),
        Verdict::Drop => Verdict::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn whoever_follows_gets_what_the_leader_got() {
        let flights = Flights::default();
        let Join::Lead(flight) = flights.join(&key("a")) else {
            panic!("nobody was there before");
        };
        let Join::Follow(mut follower) = flights.join(&key("a")) else {
            panic!("it is out");
        };
        assert!(matches!(flights.join(&key("b")), Join::Lead(_)));
        flight.land(&Verdict::Next);
        assert!(matches!(follower.try_recv(), Ok(Verdict::Next)));
        assert!(matches!(flights.join(&key("a")), Join::Lead(_)));
    }

    #[test]
    fn a_leader_that_gives_up_sends_followers_back() {
        let flights = Flights::default();
        let leader = flights.join(&key("a"));
        let Join::Follow(mut follower) = flights.join(&key("a")) else {
            panic!("it is out");
        };
        drop(leader);
        assert!(follower.try_recv().is_err());
        assert!(flights.waiting().is_empty());
    }

    #[test]
    fn only_so_many_may_wait_for_one_question() {
        let flights = Flights::default();
        let _leader = flights.join(&key("a"));
        let mut followers: Vec<_> = (0..WAITERS_MAX).map(|_| flights.join(&key("a"))).collect();
        assert!(matches!(flights.join(&key("a")), Join::Full));
        followers.pop();
        assert!(matches!(flights.join(&key("a")), Join::Follow(_)));
    }
}
