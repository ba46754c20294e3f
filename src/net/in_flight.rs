//! Room for the queries that wait, shared among those who ask.
//!
//! Nobody is limited while there is room. The rule is that of shared packet buffers (dynamic thresholds, Choudhury and
//! Hahne, 1998): a client may hold as many places as are free. So one client that never stops leaves half of the table
//! to the others, nine of them a tenth, and who asks now and then always finds a place:
//!
//! ```text
//! one in a loop    | 5,000 its own ............ | 5,000 free for everybody else .... |
//! three            | 2,500 | 2,500 | 2,500      | 2,500 free ....                    |
//! ```
//!
//! Who holds how many is counted without a lock and in a fixed space: two rows of counters, each client one in either
//! row, the lower of the two counts. Another client can be mistaken for a busy one only if it meets it in both rows: one
//! in 16 million. The seed is random, so nobody can choose whom it meets.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use prometheus::IntGauge;

use crate::net::limit::Limits;

/// Counters in a row; a power of two.
const ROW_LEN: usize = 4096;

/// Counts the queries that left the fast path, all listeners together.
#[derive(Debug)]
pub struct InFlight {
    used: AtomicUsize,
    octets: AtomicUsize,
    held: Box<[AtomicU32]>,
    seed: foldhash::quality::RandomState,
    gauge: IntGauge,
    octets_gauge: IntGauge,
}

/// Why a query must not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All places are taken.
    Places,
    /// All octets are.
    Octets,
    /// This client holds more than its share.
    Share,
}

impl Refusal {
    /// What the client and the log are told.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Places | Self::Octets => "too many queries in flight",
            Self::Share => "too many queries in flight from this client",
        }
    }
}

impl InFlight {
    /// Nobody is in flight yet; the gauges show how many are, and their octets.
    pub fn new(gauge: IntGauge, octets_gauge: IntGauge) -> Self {
        Self {
            used: AtomicUsize::new(0),
            octets: AtomicUsize::new(0),
            held: (0..2 * ROW_LEN).map(|_| AtomicU32::new(0)).collect(),
            seed: foldhash::quality::RandomState::default(),
            gauge,
            octets_gauge,
        }
    }

    /// Room for one more query of `octets` octets. `is_forgeable` says that the client has not shown that the address
    /// is its own, as over TCP: what is kept for it would all go to whose address it is (DNSBomb, CVE-2024-33655).
    pub fn try_enter(
        self: &Arc<Self>,
        client: IpAddr,
        is_forgeable: bool,
        octets: usize,
        limits: &Limits,
    ) -> Result<Permit, Refusal> {
        let places = self.places_of(client);
        // Two workers that look at the same time may let one more in; the bounds of the whole are exact.
        let held = self.held_at(places);
        let used = self.used.load(Ordering::Relaxed);
        let free = limits.queries_in_flight_max.saturating_sub(used);
        if free != 0
            && (held >= free || (is_forgeable && held >= limits.queries_per_forgeable_client_max))
        {
            return Err(Refusal::Share);
        }
        if !take(&self.used, 1, limits.queries_in_flight_max) {
            return Err(Refusal::Places);
        }
        if !take(&self.octets, octets, limits.octets_in_flight_max) {
            self.used.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::Octets);
        }
        for place in places {
            self.held[place].fetch_add(1, Ordering::Relaxed);
        }
        self.gauge.inc();
        self.octets_gauge.add(signed(octets));
        Ok(Permit {
            in_flight: Arc::clone(self),
            places,
            octets,
        })
    }

    /// The client's counter in each row.
    fn places_of(&self, client: IpAddr) -> [usize; 2] {
        let hash = self.seed.hash_one(client);
        let low = usize::try_from(hash % ROW_LEN as u64).expect("a row is short");
        let high = usize::try_from((hash >> 32) % ROW_LEN as u64).expect("a row is short");
        [low, ROW_LEN + high]
    }

    fn held_at(&self, places: [usize; 2]) -> usize {
        let counts = places.map(|place| self.held[place].load(Ordering::Relaxed));
        usize::try_from(counts[0].min(counts[1])).unwrap_or(usize::MAX)
    }
}

fn take(used: &AtomicUsize, more: usize, max: usize) -> bool {
    let sum_of = |used: usize| used.checked_add(more).filter(|&sum| sum <= max);
    used.try_update(Ordering::AcqRel, Ordering::Relaxed, sum_of)
        .is_ok()
}

fn signed(octets: usize) -> i64 {
    i64::try_from(octets).expect("a message is shorter than 64 KiB")
}

/// One query in flight, for as long as it lives.
#[derive(Debug)]
pub struct Permit {
    in_flight: Arc<InFlight>,
    places: [usize; 2],
    octets: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let in_flight = &self.in_flight;
        for place in self.places {
            in_flight.held[place].fetch_sub(1, Ordering::Relaxed);
        }
        in_flight.octets.fetch_sub(self.octets, Ordering::AcqRel);
        in_flight.used.fetch_sub(1, Ordering::AcqRel);
        in_flight.gauge.dec();
        in_flight.octets_gauge.sub(signed(self.octets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    fn in_flight() -> (Arc<InFlight>, IntGauge) {
        let gauge = |name| IntGauge::new(name, "in flight").unwrap();
        let queries = gauge("queries");
        let in_flight = InFlight::new(queries.clone(), gauge("octets"));
        (Arc::new(in_flight), queries)
    }

    fn limits(queries: usize) -> Limits {
        Limits {
            queries_in_flight_max: queries,
            ..Limits::default()
        }
    }

    #[test]
    fn a_permit_makes_room_again_when_it_is_dropped() {
        let (in_flight, gauge) = in_flight();
        let limits = limits(2);
        let enter = |number| in_flight.try_enter(client(number), false, 40, &limits);
        let (first, second) = (enter(1), enter(2));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(enter(3).unwrap_err(), Refusal::Places);
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert!(enter(3).is_ok());
        drop(second);
        assert_eq!(gauge.get(), 0);
        assert_eq!(in_flight.octets.load(Ordering::Relaxed), 0);
        let held = in_flight.held.iter();
        assert!(
            held.map(|held| held.load(Ordering::Relaxed))
                .all(|n| n == 0)
        );
    }

    #[test]
    fn a_client_in_a_loop_leaves_half_of_the_room_to_the_others() {
        let (in_flight, _) = in_flight();
        let limits = limits(1000);
        let enter = |number| in_flight.try_enter(client(number), false, 40, &limits);
        let own: Vec<_> = (0..5000).map_while(|_| enter(1).ok()).collect();
        assert_eq!(own.len(), 500);
        assert_eq!(enter(1).unwrap_err(), Refusal::Share);
        // Everybody else gets in, each with two.
        let others: Vec<_> = (2..=201).flat_map(|n| [enter(n), enter(n)]).collect();
        assert!(others.iter().all(Result::is_ok));
    }

    #[test]
    fn several_in_a_loop_hold_equal_shares() {
        let (in_flight, _) = in_flight();
        let limits = limits(1000);
        let mut own: Vec<Vec<Permit>> = vec![Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..1000 {
            for (number, own) in own.iter_mut().enumerate() {
                own.extend(in_flight.try_enter(client(number as u32), false, 40, &limits));
            }
        }
        let held: Vec<usize> = own.iter().map(Vec::len).collect();
        assert_eq!(held, [250, 250, 250]);
    }

    #[test]
    fn no_more_is_kept_for_an_address_that_may_be_forged_than_its_bound() {
        let (in_flight, _) = in_flight();
        let limits = limits(10_000);
        let enter = |forgeable| in_flight.try_enter(client(1), forgeable, 40, &limits);
        let own: Vec<_> = (0..5000).map_while(|_| enter(true).ok()).collect();
        assert_eq!(own.len(), limits.queries_per_forgeable_client_max);
        assert_eq!(enter(true).unwrap_err(), Refusal::Share);
        assert!(enter(false).is_ok());
    }

    #[test]
    fn the_octets_of_all_queries_have_a_bound_too() {
        let (in_flight, gauge) = in_flight();
        let limits = Limits {
            octets_in_flight_max: 1000,
            ..limits(10)
        };
        let enter = |number, octets| in_flight.try_enter(client(number), false, octets, &limits);
        let long = enter(1, 990).unwrap();
        assert_eq!(enter(2, 11).unwrap_err(), Refusal::Octets);
        let short = enter(2, 10).unwrap();
        assert_eq!(gauge.get(), 2);
        assert_eq!(in_flight.octets_gauge.get(), 1000);
        drop((long, short));
        assert_eq!(in_flight.octets_gauge.get(), 0);
        assert!(enter(2, 1000).is_ok());
    }
}
