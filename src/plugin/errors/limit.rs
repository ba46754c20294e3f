//! How many lines a second are worth printing.
//!
//! When every query fails each is an error, and a line for each would take more time than the queries: of the worker that
//! makes it, of the disk, of whoever reads. The first thousand of a second say all there is to say; the others are
//! counted, and the next second begins with their number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::{IntCounter, Registry};

use crate::telemetry::metrics::Families;

/// Lines of one server block in a second.
pub(in crate::plugin::errors) const LINES_MAX: u32 = 1000;

/// What was not printed, in all server blocks.
pub(in crate::plugin::errors) struct Counter {
    pub(in crate::plugin::errors) held_back: IntCounter,
}

impl Families for Counter {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let held_back = IntCounter::new(
            "fingerpost_errors_not_logged_total",
            "errors that `errors` did not log because there were more than 1000 in a second",
        )?;
        registry.register(Box::new(held_back.clone()))?;
        Ok(Self { held_back })
    }
}

/// What to do with an error.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plugin::errors) enum Turn {
    /// Print it, behind the number of those that were held back before it, if any were.
    Print(u64),
    HoldBack,
}

/// The lines of one server block. The workers share it without a lock; a few lines more or less are no matter.
pub(in crate::plugin::errors) struct Limit {
    start: Instant,
    /// The second since the start, and behind it the lines in it: 32 bits each.
    lines: AtomicU64,
    held_back: AtomicU64,
}

impl Limit {
    pub(in crate::plugin::errors) fn new(start: Instant) -> Self {
        Self {
            start,
            lines: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// An error happens now.
    pub(in crate::plugin::errors) fn take(&self, now: Instant) -> Turn {
        // 136 years; what comes out of order counts to the second that is.
        let second = now.saturating_duration_since(self.start).as_secs() << 32;
        let lines = self.lines.load(Ordering::Relaxed);
        if second >> 32 > lines >> 32
            && self
                .lines
                .compare_exchange(lines, second + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Turn::Print(self.held_back.swap(0, Ordering::Relaxed));
        }
        // A line that is held back adds nothing here, so the count cannot run into the seconds.
        let has_room = |lines: u64| (lines as u32) < LINES_MAX;
        let add = |lines| has_room(lines).then_some(lines + 1);
        match self
            .lines
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        {
            Ok(_) => Turn::Print(0),
            Err(_) => {
                self.held_back.fetch_add(1, Ordering::Relaxed);
                Turn::HoldBack
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_thousand_lines_a_second_are_printed_and_the_rest_is_told_in_the_next() {
        let start = Instant::now();
        let limit = Limit::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        let printed = (0..2500)
            .filter(|number| limit.take(at(number / 5)) == Turn::Print(0))
            .count();
        assert_eq!(printed, 1000);
        assert_eq!(limit.take(at(999)), Turn::HoldBack);
        assert_eq!(limit.take(at(1000)), Turn::Print(1501));
        assert_eq!(limit.take(at(1001)), Turn::Print(0));
    }

    #[test]
    fn a_clock_of_the_past_takes_from_the_second_that_is() {
        let start = Instant::now();
        let limit = Limit::new(start);
        let late = start + Duration::from_secs(7);
        for _ in 0..LINES_MAX {
            assert_eq!(limit.take(late), Turn::Print(0));
        }
        assert_eq!(limit.take(start), Turn::HoldBack);
        assert_eq!(limit.take(late + Duration::from_secs(1)), Turn::Print(1));
    }
}
