//! How often and how widely we ask the API server: `apiserver_qps`, `apiserver_burst`, `apiserver_max_inflight`.
//!
//! Every request takes a token, the opening of a watch too: it costs the server as much. A list holds a seat until it
//! is complete, streamed or not; a watch that only waits for changes holds none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::cluster::source::Limits;

/// Time between requests once the burst is spent, if nothing else is said: 5 a second, as Kubernetes' own clients.
const INTERVAL_DEFAULT: Duration = Duration::from_millis(200);

/// Requests at once, if nothing else is said.
const BURST_DEFAULT: u32 = 10;

/// A request in flight, as long as it is held.
pub(super) type Seat = Option<OwnedSemaphorePermit>;

/// Holds requests back. Shared by the tasks of one plan.
pub(super) struct Limiter {
    began: Instant,
    bucket: Mutex<Bucket>,
    seats: Option<Arc<Semaphore>>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        let seats = limits.in_flight_max.map(|max| {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))
        });
        Self {
            began: Instant::now(),
            bucket: Mutex::new(Bucket::new(limits)),
            seats,
        }
    }

    /// Waits for the turn of a request that is in flight until its seat is let go.
    pub(super) async fn seat(&self) -> Seat {
        let seat = match &self.seats {
            Some(seats) => {
                let seat = Arc::clone(seats).acquire_owned().await;
                Some(seat.expect("the semaphore is never closed"))
            }
            None => None,
        };
        self.token().await;
        seat
    }

    /// Waits for the turn of a request that does not count as in flight.
    pub(super) async fn token(&self) {
        let now = self.began.elapsed();
        let wait = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(now)
        };
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// A bucket of tokens, kept as the time at which it is full again. Times count from its making.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    /// How far `full_at` may be ahead: the time that all tokens but one take to come.
    slack: Duration,
    full_at: Duration,
}

impl Bucket {
    fn new(limits: Limits) -> Self {
        let interval = limits.interval.unwrap_or(INTERVAL_DEFAULT);
        let burst = limits.burst.unwrap_or(BURST_DEFAULT);
        Self {
            interval,
            slack: interval.saturating_mul(burst.saturating_sub(1)),
            full_at: Duration::ZERO,
        }
    }

    /// Takes a token, maybe one that is still to come. Returns how long until it does.
    fn take(&mut self, now: Duration) -> Duration {
        let full_at = self.full_at.max(now);
        self.full_at = full_at.saturating_add(self.interval);
        full_at.saturating_sub(self.slack).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::source::INTERVAL_MAX;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn bucket(interval: Duration, burst: u32) -> Bucket {
        Bucket::new(Limits {
            interval: Some(interval),
            burst: Some(burst),
            in_flight_max: None,
        })
    }

    #[test]
    fn a_burst_is_free_and_what_follows_waits_its_turn() {
        let mut bucket = bucket(seconds(2), 3);
        let waits: Vec<u64> = (0..6).map(|_| bucket.take(seconds(7)).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 2, 4, 6]);
    }

    #[test]
    fn tokens_come_back_up_to_the_burst() {
        let mut bucket = bucket(seconds(2), 2);
        let mut take = |now| bucket.take(seconds(now)).as_secs();
        assert_eq!([take(0), take(0), take(0)], [0, 0, 2]);
        assert_eq!([take(4), take(4)], [0, 2]);
        assert_eq!([take(100), take(100), take(100)], [0, 0, 2]);
    }

    #[test]
    fn the_defaults_are_five_a_second_and_ten_at_once() {
        let mut bucket = Bucket::new(Limits::default());
        let waits: Vec<u128> = (0..12)
            .map(|_| bucket.take(seconds(0)).as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200, 400]);
    }

    #[test]
    fn the_slowest_rate_and_the_largest_burst_do_not_overflow() {
        let mut slow = bucket(INTERVAL_MAX, u32::MAX);
        assert_eq!(slow.take(seconds(1)), Duration::ZERO);
        let mut slow = bucket(INTERVAL_MAX, 1);
        assert_eq!(slow.take(seconds(1)), Duration::ZERO);
        assert_eq!(slow.take(seconds(1)), INTERVAL_MAX);
    }
}
