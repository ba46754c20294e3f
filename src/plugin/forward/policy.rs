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
    /// The one that costs least, as its replies and failures tell; now and then another one, to know what that costs.
    LowestLatency,
}

/// With `lowest_latency`, one of so many queries asks any upstream first.
const EXPLORE: usize = 32;

impl Policy {
    pub(super) const EXPECTED: &'static str =
        "`random`, `round_robin`, `sequential` or `lowest_latency`";
}

impl FromWord for Policy {
    fn from_word(text: &str) -> Option<Self> {
        Some(match text {
            "random" => Self::Random,
            "round_robin" => Self::RoundRobin,
            "sequential" => Self::Sequential,
            "lowest_latency" => Self::LowestLatency,
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
    /// `cost` says what asking one costs, and is asked only where that matters.
    pub(super) fn order(&self, count: usize, cost: impl Fn(usize) -> u64) -> Order {
        let first = match self.policy {
            Policy::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                Some(turn as usize % count)
            }
            Policy::LowestLatency if random::below(EXPLORE) == 0 => Some(random::below(count)),
            Policy::Random | Policy::Sequential | Policy::LowestLatency => None,
        };
        let ranked = (self.policy == Policy::LowestLatency).then(|| {
            let mut places: Box<[usize]> = (0..count).collect();
            // By key, so that it is looked at once: it changes all the time.
            places.sort_by_cached_key(|&place| cost(place));
            places
        });
        Order {
            count,
            random: self.policy == Policy::Random,
            first,
            ranked,
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
    /// All of them, the best one first, if that matters.
    ranked: Option<Box<[usize]>>,
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
        self.next_of(u64::MAX).expect("the round is not over")
    }

    /// The next one of these, given as bits; none if this round had all of them.
    pub(super) fn next_of(&mut self, bits: u64) -> Option<usize> {
        let left = bits & !self.asked;
        let is_left = |place: &usize| left & (1 << place) != 0;
        let mut fresh = (0..self.count).filter(is_left);
        let place = match (self.first, &self.ranked) {
            (Some(first), _) if self.asked == 0 && is_left(&first) => Some(first),
            _ if self.random => {
                let count = fresh.clone().count();
                fresh.nth(random::below(count))
            }
            (_, Some(ranked)) => ranked.iter().copied().find(is_left),
            (_, None) => fresh.next(),
        }?;
        self.asked |= 1 << place;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(picker: &Picker, count: usize) -> Vec<usize> {
        let mut order = picker.order(count, |_| 0);
        (0..count).map(|_| order.next()).collect()
    }

    #[test]
    fn sequential_asks_as_they_stand_and_starts_again() {
        let mut order = Picker::new(Policy::Sequential).order(3, |_| 0);
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
    fn some_are_asked_in_their_order_and_once_a_round() {
        for policy in [Policy::Random, Policy::Sequential, Policy::LowestLatency] {
            let mut order = Picker::new(policy).order(4, |place| 9 - place as u64);
            let first = order.next();
            let mut others: Vec<_> = std::iter::from_fn(|| order.next_of(0b1010)).collect();
            let in_order = others.is_sorted();
            assert!(policy != Policy::Sequential || in_order);
            assert!(policy != Policy::LowestLatency || !in_order || others.len() < 2);
            others.sort_unstable();
            let expected = [1, 3].into_iter().filter(|&place| place != first);
            assert_eq!(others, expected.collect::<Vec<_>>());
            assert!(!order.is_round_over());
        }
    }

    #[test]
    fn as_many_upstreams_as_there_are_bits_can_be_asked() {
        let mut order = Picker::new(Policy::Random).order(UPSTREAMS_MAX, |_| 0);
        let mut all: Vec<_> = (0..UPSTREAMS_MAX).map(|_| order.next()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..UPSTREAMS_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn lowest_latency_asks_the_cheapest_first_and_now_and_then_another() {
        let costs = [30, 10, 0, 20];
        let picker = Picker::new(Policy::LowestLatency);
        let mut firsts = [0; 4];
        for _ in 0..3200 {
            let mut order = picker.order(4, |place| costs[place]);
            let round: Vec<_> = (0..4).map(|_| order.next()).collect();
            firsts[round[0]] += 1;
            let rest: Vec<_> = [2, 1, 3, 0]
                .into_iter()
                .filter(|&place| place != round[0])
                .collect();
            assert_eq!(round[1..], rest);
        }
        // The others are first 25 times each on average; none or above 100 is one run in 10^10.
        assert!(firsts[2] > 2900, "{firsts:?}");
        assert!(
            [0, 1, 3]
                .iter()
                .all(|&place| (1..100).contains(&firsts[place])),
            "{firsts:?}"
        );
    }
}
