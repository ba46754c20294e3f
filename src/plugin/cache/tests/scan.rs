//! What a scan of random names costs those who ask for names in use, beside a cache of as many entries in which any
//! one may have to go.

use std::collections::HashMap;

use super::*;
use crate::plugin::cache::budget::Budget;
use crate::plugin::cache::store::{Entries, Entry, Key};
use crate::plugin::cache::survey::View;
use crate::wire::query::Query;

/// Entries of each cache: those of one KiB that ours has room for.
const CAPACITY: usize = 1024;

/// Names in use.
const NAMES: usize = 20_000;

/// Queries for them, half of which fill the caches before any is counted.
const QUERIES: usize = 50_000;

/// xorshift64*: the same row of numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// Names of which the Nth is asked for 1/N as often as the first (Zipf's law, which DNS traffic follows).
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let weight = |rank: usize| 1.0 / f64::from(u32::try_from(rank + 1).unwrap());
        let sums = (0..NAMES).map(|rank| {
            sum += weight(rank);
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    fn draw(&self, random: &mut Random) -> usize {
        let unit = f64::from(u32::try_from(random.next() >> 32).unwrap()) / f64::from(u32::MAX);
        let wanted = unit * self.sums[NAMES - 1];
        self.sums
            .partition_point(|&sum| sum < wanted)
            .min(NAMES - 1)
    }
}

trait Subject {
    /// Whether it has the name; from now on it has.
    fn ask(&mut self, name: usize) -> bool;
}

struct Ours {
    entries: Arc<Entries>,
    entry: Arc<Entry>,
}

impl Ours {
    fn new() -> Self {
        let counter = || prometheus::IntCounter::new("a", "b").unwrap();
        let budget = Budget::new(64 << 20);
        let message = Ask::new("a", RecordType::A).octets();
        let question = Query::parse(&message).unwrap();
        let view = View::of_message(&message, question.question_octets()).unwrap();
        let entry = Entry::new(view, [0, 0], 300, true, start()).unwrap();
        Self {
            entries: Entries::new(&budget, [1024; 2], [counter(), counter()]),
            entry: Arc::new(entry),
        }
    }
}

impl Subject for Ours {
    fn ask(&mut self, name: usize) -> bool {
        let message = Ask::new(&format!("n{name}.example.org"), RecordType::A).octets();
        let key = Key::of(&Query::parse(&message).unwrap());
        let found = self.entries.success.find(&key).is_some();
        if !found {
            self.entries.success.put(&key, Arc::clone(&self.entry));
        }
        found
    }
}

struct AnyMayGo {
    places: HashMap<usize, usize>,
    names: Vec<usize>,
    random: Random,
}

impl Subject for AnyMayGo {
    fn ask(&mut self, name: usize) -> bool {
        if self.places.contains_key(&name) {
            return true;
        }
        let place = if self.names.len() < CAPACITY {
            self.names.push(name);
            self.names.len() - 1
        } else {
            let place = self.random.below(CAPACITY);
            self.places.remove(&self.names[place]);
            self.names[place] = name;
            place
        };
        self.places.insert(name, place);
        false
    }
}

/// Hits of the names in use, in percent, if so many percent of all queries are for names that nobody asks for again.
fn hit_rate(subject: &mut impl Subject, scan_percent: usize) -> f64 {
    let (zipf, mut random) = (Zipf::new(), Random(7));
    let (mut hits, mut counted, mut scanned) = (0u32, 0u32, NAMES);
    for query in 0..QUERIES {
        while random.below(100) < scan_percent {
            scanned += 1;
            subject.ask(scanned);
        }
        let hit = subject.ask(zipf.draw(&mut random));
        if query >= QUERIES / 2 {
            counted += 1;
            hits += u32::from(hit);
        }
    }
    f64::from(hits) * 100.0 / f64::from(counted)
}

fn any_may_go() -> AnyMayGo {
    AnyMayGo {
        places: HashMap::new(),
        names: Vec::new(),
        random: Random(11),
    }
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the figures are of interest by themselves"
)]
fn a_scan_costs_less_than_where_any_entry_may_have_to_go() {
    let ours = [0, 10].map(|percent| hit_rate(&mut Ours::new(), percent));
    let theirs = [0, 10].map(|percent| hit_rate(&mut any_may_go(), percent));
    let loss = |rates: [f64; 2]| rates[0] - rates[1];
    let (ours_lost, theirs_lost) = (loss(ours), loss(theirs));
    println!("hits of names in use without and with a scan, in percent, and points lost:");
    println!("  ours       {:.2} {:.2}  {ours_lost:.2}", ours[0], ours[1]);
    println!(
        "  any may go {:.2} {:.2}  {theirs_lost:.2}",
        theirs[0], theirs[1]
    );
    // How entries fall to the parts of the table is drawn at random, so the figures move by some tenths.
    assert!(
        ours_lost < theirs_lost * 0.75,
        "{ours_lost} of {theirs_lost}"
    );
    assert!(
        ours[1] > theirs[0],
        "a scanned {} is worse than {}",
        ours[1],
        theirs[0]
    );
}
