//! How an upstream does, as its replies, its silence and probes tell.
//!
//! ```text
//!             an attempt fails                     more than max_fails probes fail
//! well  ---------------------------->  doubtful  ------------------------------->  down
//!   ^   --- long silence: quiet --->    asked last, probed                        not asked
//!   '-------- any reply: to a query, to a trial, to a probe -----------'
//! ```
//!
//! A query that waits for a time-out is a slow query, so one time-out has to be enough: from then on queries go
//! elsewhere while there is an elsewhere. A trial, a copy of a query that nobody waits for, finds out once a second
//! whether the upstream is back; probes do where there is no traffic, less and less often.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::wire::code::Rcode;

/// The longest pause between two probes, unless the first one is longer.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The least pause: `health_check 0` is no wish for a flood.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Time between two trials.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);

/// Silence of an upstream while queries wait for it: below the first it means nothing.
const QUIET_MIN: Duration = Duration::from_millis(200);
const QUIET_MAX: Duration = Duration::from_secs(1);

/// The health of one address. All that ask it in the same way share it, and its probes.
#[derive(Debug)]
pub(super) struct Health {
    born: Instant,
    /// Probes that failed in a row. Queries that fail start a probe, but do not count.
    fails: AtomicU32,
    probing: AtomicBool,
    /// An attempt has failed, and nothing has come since.
    doubtful: AtomicBool,
    /// Queries without a reply, and since when there was none, in milliseconds.
    waiting: AtomicU32,
    quiet_since: AtomicU64,
    /// The last trial, in milliseconds.
    tried: AtomicU64,
    /// Average time to a reply, in microseconds.
    latency: AtomicU64,
    /// Attempts that ended without a reply or with SERVFAIL, of 65,536.
    errors: AtomicU32,
    /// The upstream is well again: the prober need not wait any longer.
    well: Notify,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            fails: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            quiet_since: AtomicU64::new(0),
            tried: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            well: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        millis(self.born.elapsed())
    }

    /// A query goes out; until the end of its wait it counts.
    pub(super) fn wait(&self) -> Wait<'_> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.quiet_since.store(self.now(), Ordering::Relaxed);
        }
        Wait(self)
    }

    /// A reply has come, so all is well.
    pub(super) fn replied(&self, after: Duration, rcode: Rcode) {
        self.note_error(rcode == Rcode::SERVFAIL);
        self.quiet_since.store(self.now(), Ordering::Relaxed);
        // A weight of an eighth for the newest; a lost update matters to nobody.
        let took = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let average = match self.latency.load(Ordering::Relaxed) {
            0 => took,
            average => average - average / 8 + took / 8,
        };
        self.latency.store(average.max(1), Ordering::Relaxed);
        if self.is_doubtful() || self.fails.load(Ordering::Relaxed) != 0 {
            self.recovered();
        }
    }

    /// An attempt has failed. Whether a probe is to be started: none is under way.
    pub(super) fn doubt(&self) -> bool {
        self.note_error(true);
        self.doubtful.store(true, Ordering::Release);
        !self.probing.swap(true, Ordering::AcqRel)
    }

    fn note_error(&self, is_error: bool) {
        let errors = self.errors.load(Ordering::Relaxed);
        let newest = if is_error { 65_536 } else { 0 };
        self.errors
            .store(errors - errors / 16 + newest / 16, Ordering::Relaxed);
    }

    /// What an attempt here costs on average, in microseconds: its latency, and a second for one that fails. 0 if
    /// nothing is known yet.
    pub(super) fn cost(&self) -> u64 {
        let errors = u64::from(self.errors.load(Ordering::Relaxed));
        self.latency.load(Ordering::Relaxed) + errors * 1_000_000 / 65_536
    }

    /// An attempt has failed, and nothing has come since.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    /// Queries wait, and nothing has come for much longer than usual.
    pub(super) fn is_quiet(&self) -> bool {
        let usual = Duration::from_micros(self.latency.load(Ordering::Relaxed));
        let silence = (usual * 8).clamp(QUIET_MIN, QUIET_MAX);
        self.waiting.load(Ordering::Relaxed) != 0
            && self
                .now()
                .saturating_sub(self.quiet_since.load(Ordering::Relaxed))
                > millis(silence)
    }

    /// Whether more probes failed than may; 0 may fail without end.
    pub(super) fn is_down(&self, fails_max: u32) -> bool {
        fails_max != 0 && self.fails.load(Ordering::Relaxed) > fails_max
    }

    /// Whether it is time for a trial; who is told so makes it.
    pub(super) fn may_try(&self) -> bool {
        let (now, last) = (self.now(), self.tried.load(Ordering::Relaxed));
        now.saturating_sub(last) >= millis(TRIAL_PAUSE)
            && self
                .tried
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// All is forgotten, probing ends.
    pub(super) fn recovered(&self) {
        self.fails.store(0, Ordering::Relaxed);
        self.doubtful.store(false, Ordering::Release);
        self.well.notify_waiters();
    }

    /// A probe was not answered.
    pub(super) fn probe_failed(&self) {
        let _ = self
            .fails
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fails| {
                fails.checked_add(1)
            });
    }

    /// Waits until the upstream is well.
    pub(super) async fn until_well(&self) {
        self.well.notified().await;
    }

    /// Whether the prober may end: the upstream is well. From then on another one may start.
    pub(super) fn may_end_probing(&self) -> bool {
        if self.is_doubtful() {
            return false;
        }
        self.end_probing();
        // Whoever has doubted it meanwhile has seen this prober and started none.
        !self.is_doubtful() || self.probing.swap(true, Ordering::AcqRel)
    }

    /// The prober ends, whatever the upstream does: nobody uses it any more.
    pub(super) fn end_probing(&self) {
        self.probing.store(false, Ordering::Release);
    }
}

/// The pause after so many probes without an answer: half as much longer each time.
pub(super) fn pause(first: Duration, probes: u32) -> Duration {
    let first = first.max(PAUSE_MIN);
    // 1.5 to the power of 18 is more than 1,000, which is more than there is between the bounds.
    first
        .mul_f64(1.5_f64.powi(probes.min(18).cast_signed()))
        .min(PAUSE_MAX.max(first))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A query that waits for a reply.
pub(super) struct Wait<'h>(&'h Health);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_no_more_than_two_a_second_and_one_in_ten_seconds_after_a_minute() {
        // A port that refuses answers at once, so nothing but the pauses slows probes down.
        let mut at = Duration::ZERO;
        let mut probes = Vec::new();
        while at < Duration::from_secs(3600) {
            probes.push(at);
            let count = u32::try_from(probes.len() - 1).unwrap();
            at += pause(Duration::from_millis(500), count);
        }
        assert!(
            probes
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= Duration::from_millis(500))
        );
        let late = probes.iter().filter(|at| at.as_secs() >= 60).count();
        assert!(late <= 354, "{late} in 59 minutes");
        assert!(
            probes[2] < Duration::from_secs(2),
            "what is down is known as soon as in CoreDNS"
        );
    }

    #[test]
    fn a_first_pause_above_the_longest_one_stays_as_it_is() {
        let minute = Duration::from_secs(60);
        assert_eq!(pause(minute, 0), minute);
        assert_eq!(pause(minute, u32::MAX), minute);
        assert_eq!(pause(Duration::ZERO, 0), PAUSE_MIN);
    }

    #[test]
    fn any_reply_ends_all_doubts() {
        let health = Health::new();
        assert!(health.doubt() && health.is_doubtful());
        assert!(!health.doubt(), "one prober is enough");
        health.probe_failed();
        assert!(health.is_down(0) || !health.is_down(1));
        health.probe_failed();
        assert!(health.is_down(1) && !health.is_down(0));
        assert!(!health.may_end_probing());
        health.replied(Duration::from_millis(3), Rcode::NOERROR);
        assert!(!health.is_doubtful() && !health.is_down(1));
        assert!(health.may_end_probing());
        assert!(
            health.doubt(),
            "the next failure starts a prober of its own"
        );
    }

    #[test]
    fn an_upstream_that_nobody_waits_for_is_not_quiet() {
        let health = Health {
            born: Instant::now().checked_sub(Duration::from_secs(60)).unwrap(),
            ..Health::new()
        };
        assert!(!health.is_quiet());
        let wait = health.wait();
        assert!(!health.is_quiet(), "it has had no time yet");
        health.quiet_since.store(0, Ordering::Relaxed);
        assert!(health.is_quiet());
        health.replied(Duration::from_millis(1), Rcode::NOERROR);
        assert!(!health.is_quiet());
        health.quiet_since.store(0, Ordering::Relaxed);
        drop(wait);
        assert!(!health.is_quiet());
    }

    #[test]
    fn trials_are_a_second_apart() {
        let health = Health {
            born: Instant::now().checked_sub(Duration::from_secs(60)).unwrap(),
            ..Health::new()
        };
        assert!(health.may_try());
        assert!(!health.may_try());
    }

    #[test]
    fn an_attempt_costs_its_latency_and_what_its_failures_cost() {
        let health = Health::new();
        assert_eq!(health.cost(), 0);
        for _ in 0..100 {
            health.replied(Duration::from_millis(4), Rcode::NOERROR);
        }
        assert!(
            (3_900..=4_100).contains(&health.cost()),
            "{}",
            health.cost()
        );
        for turn in 0..500 {
            let rcode = if turn % 10 == 0 {
                Rcode::SERVFAIL
            } else {
                Rcode::NXDOMAIN
            };
            health.replied(Duration::from_millis(4), rcode);
        }
        // A tenth of a second, give or take where in ten replies the average was looked at.
        assert!(
            (50_000..=200_000).contains(&health.cost()),
            "{}",
            health.cost()
        );
    }
}
