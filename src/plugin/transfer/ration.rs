//! Keeps lines about transfers, which clients cause, from flooding the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines within a second.
const LINES_MAX: u32 = 10;

/// So many lines a second and no more. What is left out is still counted in the metrics.
pub(super) struct Ration {
    /// When the second began, and the lines in it.
    state: Mutex<(Instant, u32)>,
}

impl Ration {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new((now, 0)),
        }
    }

    /// Whether one more line may be written.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, lines) = &mut *state;
        if now.saturating_duration_since(*began) >= Duration::from_secs(1) {
            (*began, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rationed_by_the_second() {
        let start = Instant::now();
        let ration = Ration::new(start);
        let lines = |at: u64| {
            let now = start + Duration::from_millis(at);
            (0..100).filter(|_| ration.take(now)).count()
        };
        assert_eq!((lines(0), lines(999)), (10, 0));
        assert_eq!((lines(1000), lines(1500), lines(2000)), (10, 0, 10));
    }
}
