//! How long queries take that are answered from memory, without a look at the clock for each.
//!
//! A look at the clock costs a tenth of an answer. The queries of a batch come in together and their replies leave
//! together, so what differs between neighbors is the time of a few answers: one look serves several of them, and the
//! figure is too low by some microseconds at most. Whoever answers no batch always looks.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Queries that one look at the clock serves.
const LOOK_SERVES: u8 = 8;

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

/// The batch that this thread answers.
#[derive(Clone, Copy)]
struct Running {
    received: Instant,
    elapsed: Duration,
    /// How often it may be said once more.
    left: u8,
}

/// While it lives, [`since`] looks at the clock for one in several queries of the batch that was received then.
pub struct Batch(());

impl Batch {
    /// This thread answers what was received at this time, and nothing else until the value is dropped.
    pub fn begin(received: Instant) -> Self {
        RUNNING.set(Some(Running {
            received,
            elapsed: Duration::ZERO,
            left: 0,
        }));
        Self(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        RUNNING.set(None);
    }
}

/// Time since a query was received.
pub fn since(received: Instant) -> Duration {
    let Some(mut running) = RUNNING.get().filter(|batch| batch.received == received) else {
        return received.elapsed();
    };
    if running.left == 0 {
        running.elapsed = received.elapsed();
        running.left = LOOK_SERVES;
    }
    running.left -= 1;
    RUNNING.set(Some(running));
    running.elapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_serves_eight_queries_of_a_batch() {
        let received = Instant::now();
        let _batch = Batch::begin(received);
        let looks: Vec<_> = (0..17)
            .map(|_| {
                std::thread::park_timeout(Duration::from_micros(10));
                since(received)
            })
            .collect();
        assert!(looks[..8].iter().all(|&look| look == looks[0]));
        assert!(looks[8..16].iter().all(|&look| look == looks[8]));
        assert!(looks[0] > Duration::ZERO && looks[8] > looks[0] && looks[16] > looks[8]);
    }

    #[test]
    fn who_is_in_no_batch_looks_each_time() {
        let received = Instant::now();
        let looks = || {
            let first = since(received);
            std::thread::park_timeout(Duration::from_micros(10));
            first < since(received)
        };
        assert!(looks());
        drop(Batch::begin(received));
        assert!(looks());
        let _other = Batch::begin(Instant::now() + Duration::from_secs(1));
        assert!(looks());
    }
}
