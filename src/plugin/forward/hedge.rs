//! A second try at another upstream when the first one takes its time (`hedge`).
//!
//! ```text
//! query -> first upstream ---- 95 of 100 replies take less ----.
//!                                                              v
//!                          its reply, or that of the second upstream: the first good one counts
//!                                                              |
//!                          the other is waited for all the same, in a task: it says how the upstream does
//! ```
//!
//! One query in twenty would be slow enough by definition, and one in twenty is all that may be: where a whole upstream
//! slows down, twice the queries would make it worse for all.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::time::timeout;

use crate::plugin::forward::group::Member;
use crate::plugin::forward::metrics::{ForwardMetrics, Hedged};
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::trouble::Trouble;

/// What one second try costs, in queries.
const PRICE: u32 = 20;

/// Second tries that may be saved up.
const SAVED_MAX: u32 = 10;

/// The least time before a second try: timers know no less, and nobody minds so little.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The second tries that a directive has earned.
#[derive(Debug, Default)]
pub(super) struct Hedge {
    /// Queries that were not spent yet.
    credit: AtomicU32,
}

impl Hedge {
    /// A query goes out.
    pub(super) fn earn(&self) {
        let add = |credit| (credit < PRICE * SAVED_MAX).then_some(credit + 1);
        let _ = self
            .credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether there may be a second try; who is told so makes it.
    fn spend(&self) -> bool {
        self.credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit: u32| {
                credit.checked_sub(PRICE)
            })
            .is_ok()
    }

    /// There was nobody to try.
    fn refund(&self) {
        self.credit.fetch_add(PRICE, Ordering::Relaxed);
    }
}

/// The time that 95 of 100 replies of an upstream take at most, kept in one number: each reply that takes longer moves
/// it up by 19 steps, each other one down by one, so that it stays where there are 19 of these to one of those. A step
/// is a 512th of it. A lost update matters to nobody.
#[derive(Debug, Default)]
pub(super) struct Slowness {
    /// In nanoseconds; 0 if nothing is known.
    time: AtomicU64,
}

impl Slowness {
    /// A reply took so long.
    fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let time = self.time.load(Ordering::Relaxed);
        let step = time / 512 + 1;
        let time = match time {
            // For want of anything better; it is soon put right.
            0 => took.saturating_mul(2).max(1),
            time if took > time => time.saturating_add(19 * step),
            time => (time - step).max(1),
        };
        self.time.store(time, Ordering::Relaxed);
    }

    pub(super) fn time(&self) -> Option<Duration> {
        match self.time.load(Ordering::Relaxed) {
            0 => None,
            time => Some(Duration::from_nanos(time).max(WAIT_MIN)),
        }
    }
}

/// What came of asking one upstream.
pub(super) struct Outcome<'g> {
    pub(super) member: &'g Arc<Member>,
    pub(super) result: Result<Reply, Trouble>,
}

/// An attempt under way, which can go on when nobody waits for it any more.
struct Attempt<'g> {
    member: &'g Arc<Member>,
    result: Pin<Box<dyn Future<Output = Result<Reply, Trouble>> + Send>>,
}

impl<'g> Attempt<'g> {
    fn start(member: &'g Arc<Member>, request: &Request, deadline: Instant) -> Self {
        let (asked, request) = (Arc::clone(member), request.clone());
        Self {
            member,
            result: Box::pin(async move {
                let start = Instant::now();
                let result = asked.upstream.ask(&request, start, deadline).await;
                if result.is_ok() {
                    asked.slowness.note(start.elapsed());
                }
                result
            }),
        }
    }

    async fn finish(self) -> Outcome<'g> {
        Outcome {
            result: self.result.await,
            member: self.member,
        }
    }
}

/// One query that may be tried twice.
pub(super) struct Race<'g> {
    pub(super) hedge: &'g Hedge,
    pub(super) metrics: &'g ForwardMetrics,
    pub(super) request: &'g Request,
    pub(super) deadline: Instant,
    /// How long the first upstream is waited for; none if nobody knows what is usual.
    pub(super) wait: Option<Duration>,
    /// Failures make an upstream doubtful.
    pub(super) may_doubt: bool,
}

impl<'g> Race<'g> {
    /// Asks `first`, and if that takes long the upstream that `second` finds, too. The outcome is the first good reply;
    /// if there is none, it is what came of both, with that of the first upstream that replied at the end.
    pub(super) async fn run(
        &self,
        first: &'g Arc<Member>,
        second: impl FnOnce() -> Option<&'g Arc<Member>>,
        is_good: impl Fn(&Reply) -> bool,
    ) -> (Outcome<'g>, Option<Outcome<'g>>) {
        let mut first = Attempt::start(first, self.request, self.deadline);
        let Some(wait) = self.wait else {
            return (first.finish().await, None);
        };
        if let Ok(result) = timeout(wait, &mut first.result).await {
            let member = first.member;
            return (Outcome { member, result }, None);
        }
        if !self.hedge.spend() {
            self.metrics.hedged(Hedged::Refused);
            return (first.finish().await, None);
        }
        let Some(second) = second() else {
            self.hedge.refund();
            return (first.finish().await, None);
        };
        let mut second = Attempt::start(second, self.request, self.deadline);
        let (is_first, result) = match select(&mut first.result, &mut second.result).await {
            Either::Left((result, _)) => (true, result),
            Either::Right((result, _)) => (false, result),
        };
        let (winner, rest) = if is_first {
            (first, second)
        } else {
            (second, first)
        };
        let early = Outcome {
            member: winner.member,
            result,
        };
        let has_good = |outcome: &Outcome<'_>| outcome.result.as_ref().is_ok_and(&is_good);
        if has_good(&early) {
            self.count(!is_first);
            self.leave(rest);
            return (early, None);
        }
        let late = rest.finish().await;
        if has_good(&late) {
            self.count(is_first);
            return match early.result {
                // It failed, and that has to be noted; a bad reply says nothing more.
                Err(_) => (early, Some(late)),
                Ok(_) => (late, None),
            };
        }
        self.count(false);
        if early.result.is_ok() {
            (late, Some(early))
        } else {
            (early, Some(late))
        }
    }

    fn count(&self, second_counts: bool) {
        self.metrics.hedged(if second_counts {
            Hedged::Won
        } else {
            Hedged::Lost
        });
    }

    /// Lets an attempt go on by itself, for what it tells about the upstream. It ends with the query's time.
    fn leave(&self, attempt: Attempt<'_>) {
        let may_doubt = self.may_doubt;
        let (upstream, result) = (Arc::clone(&attempt.member.upstream), attempt.result);
        tokio::spawn(async move {
            let is_silent = result.await.is_err_and(|trouble| !trouble.spent);
            if may_doubt && is_silent {
                upstream.doubt();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_query_of_twenty_may_be_tried_twice() {
        let hedge = Hedge::default();
        let tries = (0..1000).filter(|_| {
            hedge.earn();
            hedge.spend()
        });
        assert_eq!(tries.count(), 50);
    }

    #[test]
    fn quiet_times_do_not_save_up_a_flood() {
        let hedge = Hedge::default();
        (0..100_000).for_each(|_| hedge.earn());
        assert_eq!((0..1000).filter(|_| hedge.spend()).count(), 10);
    }

    /// Replies that take 1 ms to 100 ms in turn, in an order without rhyme.
    fn feed(slowness: &Slowness, unit: Duration, count: u32) {
        for turn in 0..count {
            slowness.note(unit * (turn * 37 % 100 + 1));
        }
    }

    #[test]
    fn the_time_settles_where_95_of_100_replies_are_faster_and_follows() {
        let slowness = Slowness::default();
        assert_eq!(slowness.time(), None);
        let near = |expected: Duration| {
            let time = slowness.time().unwrap();
            assert!(
                time > expected * 8 / 10 && time < expected * 11 / 10,
                "{time:?}"
            );
        };
        feed(&slowness, Duration::from_millis(1), 20_000);
        near(Duration::from_millis(95));
        feed(&slowness, Duration::from_millis(4), 2_000);
        near(Duration::from_millis(380));
        feed(&slowness, Duration::from_micros(100), 20_000);
        near(Duration::from_micros(9_500));
    }

    #[test]
    fn the_time_has_bounds_whatever_it_is_told() {
        let slowness = Slowness::default();
        (0..10).for_each(|_| slowness.note(Duration::ZERO));
        assert_eq!(slowness.time(), Some(WAIT_MIN));
        (0..10_000).for_each(|_| slowness.note(Duration::MAX));
        assert!(slowness.time().unwrap() <= Duration::from_nanos(u64::MAX));
    }
}
