//! In which order upstreams are asked.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::corefile::args::FromWord;
use crate::plugin::forward::random;

/// Upstreams of one directive. An [`Order`] keeps them as the bits of one number.
pub(super) const UPSTREAMS_MAX: usize = 64;

/// Which upstream is asked first, and which after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Any first, then any of the others.
    Random,
    /// The one after the last query's first, then the others as they stand.
    RoundRobin,
    /// As they stand.
    Sequential,
}

impl Policy {
    pub(super) const EXPECTED: &'static str = "`random`, `round_robin` or `sequential`";
}

impl FromWord for Policy {
    fn from_word(text: &str) -> Option<Self> {
        Some(match text {
            "random" => Self::Random,
            "round_robin" => Self::RoundRobin,
            "sequential" => Self::Sequential,
            _ => return None,
        })
    }
}

/// A policy at work. The first query of `round_robin` goes to the second upstream, as in CoreDNS.
#[derive(Debug)]
pub(super) struct Picker {
    policy: Policy,
    turn: AtomicU32,
}

impl Picker {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            turn: AtomicU32::new(0),
        }
    }

    /// The order for one query among `count` upstreams, at least one and at most [`UPSTREAMS_MAX`].
    pub(super) fn order(&self, count: usize) -> Order {
        let first = match self.policy {
            Policy::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                Some(turn as usize % count)
            }
            Policy::Random | Policy::Sequential => None,
        };
        Order {
            count,
            random: self.policy == Policy::Random,
            first,
            asked: 0,
        }
    }
}

/// Upstreams by number, each once a round, without end.
#[derive(Debug)]
pub(super) struct Order {
    count: usize,
    random: bool,
    first: Option<usize>,
    /// One bit for each upstream that this round had.
    asked: u64,
}

impl Order {
    /// Whether the round is over; the next upstream starts another.
    pub(super) fn is_round_over(&self) -> bool {
        self.asked.count_ones() as usize == self.count
    }

    /// The next upstream.
    pub(super) fn next(&mut self) -> usize {
        if self.is_round_over() {
            self.asked = 0;
        }
        let is_fresh = |place: &usize| self.asked & (1 << place) == 0;
        let mut fresh = (0..self.count).filter(is_fresh);
        let place = match self.first {
            Some(first) if self.asked == 0 => first,
            _ if self.random => {
                let left = self.count - self.asked.count_ones() as usize;
                fresh
                    .nth(random::below(left))
                    .expect("the draw is below what is left")
            }
            _ => fresh.next().expect("the round is not over"),
        };
        self.asked |= 1 << place;
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(picker: &Picker, count: usize) -> Vec<usize> {
        let mut order = picker.order(count);
        (0..count).map(|_| order.next()).collect()
    }

    #[test]
    fn sequential_asks_as_they_stand_and_starts_again() {
        let mut order = Picker::new(Policy::Sequential).order(3);
        let asked: Vec<_> = (0..7).map(|_| order.next()).collect();
        assert_eq!(asked, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn round_robin_starts_with_the_second_and_turns() {
        let picker = Picker::new(Policy::RoundRobin);
        assert_eq!(rounds(&picker, 3), [1, 0, 2]);
        assert_eq!(rounds(&picker, 3), [2, 0, 1]);
        assert_eq!(rounds(&picker, 3), [0, 1, 2]);
    }

    #[test]
    fn random_asks_each_once_a_round_and_anyone_first() {
        let picker = Picker::new(Policy::Random);
        let mut firsts = [0; 4];
        for _ in 0..400 {
            let mut round = rounds(&picker, 4);
            firsts[round[0]] += 1;
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3]);
        }
        // Each is expected 100 times; the chance of one below 40 is less than one in 10^13.
        assert!(firsts.iter().all(|&count| count > 40), "{firsts:?}");
    }

    #[test]
    fn as_many_upstreams_as_there_are_bits_can_be_asked() {
        let mut order = Picker::new(Policy::Random).order(UPSTREAMS_MAX);
        let mut all: Vec<_> = (0..UPSTREAMS_MAX).map(|_| order.next()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..UPSTREAMS_MAX).collect::<Vec<_>>());
    }
}
