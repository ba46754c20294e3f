//! How long to wait: for an answer, for the next byte, and between two tries.

use std::time::Duration;

/// Every deadline and delay of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// For the head of a reply, connecting included. A server that accepts and then says nothing is found out by this.
    pub reply: Duration,
    /// For the next byte while a list is being sent.
    pub list_idle: Duration,
    /// For the next byte afterwards. Bookmarks come once a minute or so, however quiet the cluster is.
    pub idle: Duration,
    /// A watch that ends well sooner than this counts as a failure.
    pub early_end: Duration,
    /// A watch that lived this long makes earlier failures forgotten.
    pub settled: Duration,
    /// The first delay after a failure.
    pub delay_min: Duration,
    /// The longest delay after a failure.
    pub delay_max: Duration,
    /// The longest delay while no connection comes about: trying costs the server next to nothing then, and a server
    /// that comes back should be noticed soon.
    pub connect_delay_max: Duration,
    /// The longest delay while we are not allowed to watch. Somebody has to change a role first.
    pub refused_delay_max: Duration,
    /// The delay while a resource that users define is not defined, give or take a quarter. Somebody has to define it.
    pub absent_delay: Duration,
    /// The longest delay that the server may ask for (`Retry-After`), jitter aside.
    pub retry_after_max: Duration,
    /// Nothing heard for longer than this: the list is asked for again instead of resuming.
    pub outage_max: Duration,
    /// Credentials that were refused are read again when those we use have this age.
    pub renew_min: Duration,
    /// For the watch to reach the version of a list that it is compared with. A bookmark brings it there.
    pub catch_up: Duration,
    /// For a list that a comparison asked for.
    pub relist: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            reply: Duration::from_secs(10),
            list_idle: Duration::from_secs(30),
            idle: Duration::from_secs(90),
            early_end: Duration::from_secs(1),
            settled: Duration::from_secs(10),
            delay_min: Duration::from_millis(100),
            delay_max: Duration::from_secs(5),
            connect_delay_max: Duration::from_secs(1),
            refused_delay_max: Duration::from_secs(15),
            absent_delay: Duration::from_secs(60),
            retry_after_max: Duration::from_secs(30),
            outage_max: Duration::from_secs(60),
            renew_min: Duration::from_secs(10),
            catch_up: Duration::from_secs(90),
            relist: Duration::from_secs(10 * 60),
        }
    }
}

/// Doubling delays with jitter, so that many servers do not come back in step.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure: half of it certain, half of it chance.
    pub fn next(&mut self, min: Duration, max: Duration) -> Duration {
        let doubled = min.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let full = doubled.min(max);
        full / 2 + (full / 2).mul_f64(chance())
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Connections in a row that did not come about before the server counts as gone.
const GONE: u32 = 3;

/// The delays of one watch: those of a server that cannot be reached grow apart from those of one that refuses.
#[derive(Debug, Default)]
pub struct Delays {
    away: Backoff,
    refused: Backoff,
}

impl Delays {
    /// The delay after a connection that did not come about.
    ///
    /// A server that is gone comes back as another one, which has refused nothing yet: it is asked as if for the first
    /// time. One connection that fails is not enough, or half of a pair of servers would be asked without end.
    pub fn after_unreachable(&mut self, pace: &Pace) -> Duration {
        let delay = self.away.next(pace.delay_min, pace.connect_delay_max);
        if self.away.failures >= GONE {
            self.refused.reset();
        }
        delay
    }

    /// The delay after a server was reached and refused, or said nothing of use.
    pub fn after_refusal(&mut self, pace: &Pace, max: Duration) -> Duration {
        self.away.reset();
        self.refused.next(pace.delay_min, max)
    }

    /// All is well: what failed before is forgotten.
    pub fn reset(&mut self) {
        self.away.reset();
        self.refused.reset();
    }
}

/// A number of at least 0 and less than 1.
pub fn chance() -> f64 {
    // Without randomness every server would wait equally long, no worse than that.
    f64::from(getrandom::u32().unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn delays_double_up_to_the_longest_and_never_leave_their_half() {
        let mut backoff = Backoff::default();
        for full in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
            let delay = backoff.next(MIN, MAX);
            let full = Duration::from_millis(full);
            assert!(full / 2 <= delay && delay <= full, "{delay:?} of {full:?}");
        }
    }

    #[test]
    fn a_reset_starts_with_the_shortest_delay() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            backoff.next(MIN, MAX);
        }
        backoff.reset();
        assert!(backoff.next(MIN, MAX) <= MIN);
    }

    #[test]
    fn a_server_that_was_gone_is_asked_afresh() {
        let (pace, mut delays) = (Pace::default(), Delays::default());
        for _ in 0..10 {
            delays.after_refusal(&pace, MAX);
        }
        for _ in 0..GONE {
            delays.after_unreachable(&pace);
        }
        assert!(delays.after_refusal(&pace, MAX) <= pace.delay_min);
    }

    #[test]
    fn one_connection_that_fails_does_not_make_refusals_forgotten() {
        let (pace, mut delays) = (Pace::default(), Delays::default());
        for _ in 0..10 {
            delays.after_refusal(&pace, MAX);
            assert!(delays.after_unreachable(&pace) <= pace.delay_min);
        }
        assert!(delays.after_refusal(&pace, MAX) >= MAX / 2);
    }

    #[test]
    fn delays_differ() {
        let delays: std::collections::HashSet<_> =
            (0..20).map(|_| Backoff::default().next(MIN, MAX)).collect();
        assert!(delays.len() > 1);
    }
}
