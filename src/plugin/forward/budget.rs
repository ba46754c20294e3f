//! Messages that an upstream may be sent in a second (`packet_budget`).
//!
//! Clouds drop packets to their resolver past so many a second and interface, without a word. What is not sent cannot
//! be dropped: the query goes to the next upstream, or fails at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::corefile::args::FromWord;

/// The second, and a little for the time from the count to the wire.
const WINDOW: Duration = Duration::from_millis(1020);

/// `N/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(u32);

/// The most that is kept count of.
const RATE_MAX: u32 = 100_000;

impl Rate {
    pub(super) const EXPECTED: &'static str = "a number of packets from 1/s to 100000/s";
}

impl FromWord for Rate {
    fn from_word(text: &str) -> Option<Self> {
        let number = text.strip_suffix("/s")?.parse().ok()?;
        (1..=RATE_MAX).contains(&number).then_some(Self(number))
    }
}

/// What has been sent in the last second. No window of a second holds more than the rate, wherever it begins; a bucket
/// of tokens would allow twice as many in some.
#[derive(Debug)]
pub(super) struct Budget {
    sent: Mutex<Sent>,
}

#[derive(Debug)]
struct Sent {
    /// When the last messages were sent, the oldest at `next`.
    times: Box<[Option<Instant>]>,
    next: usize,
}

impl Budget {
    pub(super) fn new(Rate(rate): Rate) -> Self {
        Self {
            sent: Mutex::new(Sent {
                times: vec![None; rate as usize].into(),
                next: 0,
            }),
        }
    }

    /// Takes one message out of the budget; false if there is none left.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let next = sent.next;
        if sent.times[next].is_some_and(|oldest| now.saturating_duration_since(oldest) < WINDOW) {
            return false;
        }
        sent.times[next] = Some(now);
        sent.next = (next + 1) % sent.times.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_than_the_rate() {
        let budget = Budget::new(Rate(90));
        let start = Instant::now();
        // Bursts and pauses: 100 messages in each of 7 ms, then 400 ms of nothing.
        let wishes =
            (0..5000u64).map(|wish| start + Duration::from_millis(wish / 100 * 407 + wish % 7));
        let mut wishes: Vec<Instant> = wishes.collect();
        wishes.sort_unstable();
        let sent: Vec<Instant> = wishes.into_iter().filter(|&at| budget.take(at)).collect();
        for (index, &from) in sent.iter().enumerate() {
            let second = sent[index..].iter();
            let count = second
                .take_while(|&&at| at < from + Duration::from_secs(1))
                .count();
            assert!(count <= 90, "{count}");
        }
        assert!(sent.len() > 500, "{}", sent.len());
    }

    #[test]
    fn a_rate_is_a_number_a_second() {
        assert_eq!(Rate::from_word("900/s"), Some(Rate(900)));
        for text in ["900", "0/s", "-1/s", "100001/s", "9/m", "/s"] {
            assert_eq!(Rate::from_word(text), None, "{text}");
        }
    }
}
