//! Which Pods were seen, in order of their names, in about 20 octets each.
//!
//! ```text
//! "shop/web-7d4b9c6f5d-" --> | shop/web-7d4b9c6f5d-2xk9p | 19 + x7tq4 | 5 + db-0 | ...
//!  less or equal to all       flags, address, version, and what of the name differs from the one before
//!  names of its run
//! ```
//!
//! Pods of one owner are neighbors and differ in their last few characters, so a name costs little more than those.
//! Names are kept whole all the same: no hash stands for them, and nothing can collide. A change rewrites one run of
//! about a kilobyte.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

/// Octets of a run from which on it is parted, and below which two are joined.
const RUN_MAX: usize = 1024;
const RUN_MIN: usize = RUN_MAX / 4;

/// Octets that a name with its namespace may have; the API server allows 317.
pub(super) const KEY_MAX: usize = 511;

/// Seen in the list that runs, or since it began.
const SEEN: u8 = 1;
const GOING: u8 = 1 << 1;
const HOST: u8 = 1 << 2;
const V4: u8 = 1 << 3;
const V6: u8 = 1 << 4;
const VERSION: u8 = 1 << 5;
/// The rest of the name has 256 octets more than its length says.
const LONG: u8 = 1 << 6;

/// What is remembered of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Named by the list that runs, or by an event since it began.
    pub(super) seen: bool,
    /// On its way out.
    pub(super) going: bool,
    /// On the network of its node.
    pub(super) host: bool,
    /// Where it stands in the table.
    pub(super) address: Option<IpAddr>,
    /// Its version, where that is a number.
    pub(super) version: Option<u64>,
}

/// Pods by name, in runs of neighbors.
#[derive(Default)]
pub(super) struct Roster {
    /// By a text that no name of the run, and every name of the run before, is less than.
    runs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

/// One Pod of a run as it stands there.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
    entry: Entry,
}

/// Walks a run; `key` is the name of the Pod it has come to.
struct Walk<'r> {
    run: &'r [u8],
    at: usize,
    key: Vec<u8>,
}

impl<'r> Walk<'r> {
    fn new(run: &'r [u8]) -> Self {
        Self {
            run,
            at: 0,
            key: Vec::new(),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let start = self.at;
        let [flags, shared, length, rest @ ..] = self.run.get(start..)? else {
            return None;
        };
        let mut at = self.run.len() - rest.len();
        let mut take = |octets: usize| {
            at += octets;
            &self.run[at - octets..at]
        };
        let address = match flags & (V4 | V6) {
            V4 => <[u8; 4]>::try_from(take(4))
                .ok()
                .map(|octets| Ipv4Addr::from(octets).into()),
            V6 => <[u8; 16]>::try_from(take(16))
                .ok()
                .map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        };
        let version = (flags & VERSION != 0).then(|| {
            let (mut version, mut shift) = (0, 0);
            loop {
                let octet = take(1)[0];
                version |= u64::from(octet & 0x7f) << shift;
                shift += 7;
                if octet & 0x80 == 0 {
                    return version;
                }
            }
        });
        let long = if flags & LONG == 0 { 0 } else { 256 };
        let suffix = take(long + usize::from(*length));
        self.key.truncate(usize::from(*shared));
        self.key.extend_from_slice(suffix);
        self.at = at;
        let entry = Entry {
            seen: flags & SEEN != 0,
            going: flags & GOING != 0,
            host: flags & HOST != 0,
            address,
            version,
        };
        Some(Place {
            start,
            end: at,
            entry,
        })
    }
}

/// Appends a Pod that stands behind `before`.
fn push(run: &mut Vec<u8>, before: &[u8], key: &[u8], entry: &Entry) {
    let shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
    let shared = shared.min(usize::from(u8::MAX));
    let suffix = &key[shared..];
    let when = |set: bool, flag: u8| if set { flag } else { 0 };
    let address = match entry.address {
        Some(IpAddr::V4(_)) => V4,
        Some(IpAddr::V6(_)) => V6,
        None => 0,
    };
    let flags = when(entry.seen, SEEN)
        | when(entry.going, GOING)
        | when(entry.host, HOST)
        | when(entry.version.is_some(), VERSION)
        | when(suffix.len() > 255, LONG)
        | address;
    let [.., length] = suffix.len().to_be_bytes();
    let [.., shared] = shared.to_be_bytes();
    run.extend_from_slice(&[flags, shared, length]);
    match entry.address {
        Some(IpAddr::V4(address)) => run.extend_from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => run.extend_from_slice(&address.octets()),
        None => {}
    }
    if let Some(mut version) = entry.version {
        while version > 0x7f {
            let [.., low] = version.to_be_bytes();
            run.push(low | 0x80);
            version >>= 7;
        }
        let [.., low] = version.to_be_bytes();
        run.push(low);
    }
    run.extend_from_slice(suffix);
}

/// Appends all of `run` behind `before`: its first Pod shares something else now, the others stay as they are.
fn push_run(to: &mut Vec<u8>, before: &[u8], run: &[u8]) {
    let mut walk = Walk::new(run);
    if let Some(first) = walk.next() {
        push(to, before, &walk.key, &first.entry);
        to.extend_from_slice(&run[first.end..]);
    }
}

/// A run with the Pod changed, put in or taken out.
fn spliced(run: &[u8], key: &[u8], entry: Option<&Entry>) -> Vec<u8> {
    let mut walk = Walk::new(run);
    let (mut before, mut kept) = (Vec::new(), 0);
    let mut next = walk.next();
    while let Some(place) = next
        && *walk.key < *key
    {
        before.clone_from(&walk.key);
        kept = place.end;
        next = walk.next();
    }
    let mut new = Vec::with_capacity(run.len() + key.len() + 32);
    new.extend_from_slice(&run[..kept]);
    if let Some(entry) = entry {
        push(&mut new, &before, key, entry);
        before.clear();
        before.extend_from_slice(key);
    }
    if next.is_some() && *walk.key == *key {
        next = walk.next();
    }
    if let Some(place) = next {
        push(&mut new, &before, &walk.key, &place.entry);
        new.extend_from_slice(&run[place.end..]);
    }
    new
}

impl Roster {
    /// The bound of the run that a name belongs to, and the run.
    fn run_of(&self, key: &[u8]) -> Option<(&[u8], &[u8])> {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let (bound, run) = self.runs.range::<[u8], _>(up_to).next_back()?;
        Some((bound, run))
    }

    /// What is remembered of a Pod.
    pub(super) fn get(&self, key: &[u8]) -> Option<Entry> {
        let mut walk = Walk::new(self.run_of(key)?.1);
        while let Some(place) = walk.next() {
            match walk.key.as_slice().cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(place.entry),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }

    /// Remembers a Pod, or forgets it. Its name has at most [`KEY_MAX`] octets.
    pub(super) fn set(&mut self, key: &[u8], entry: Option<&Entry>) {
        debug_assert!(key.len() <= KEY_MAX, "longer ones are left out");
        let (bound, run) = match self.run_of(key) {
            Some((bound, run)) => (bound.into(), spliced(run, key, entry)),
            None => (Box::default(), spliced(&[], key, entry)),
        };
        if run.len() > RUN_MAX {
            self.part(bound, &run, key);
        } else if run.is_empty() {
            self.runs.remove(&bound);
        } else if run.len() < RUN_MIN && entry.is_none() {
            self.join(bound, run);
        } else {
            self.runs.insert(bound, run.into());
        }
    }

    /// Puts a run that has grown too long back as two: in halves, or with the last Pod alone where that one is new.
    /// A list comes in order, so the runs that it leaves behind are full.
    fn part(&mut self, bound: Box<[u8]>, run: &[u8], new: &[u8]) {
        let mut walk = Walk::new(run);
        let last = walk.by_ref().last().map_or(0, |place| place.start);
        let from = if walk.key == new { last } else { RUN_MAX / 2 };
        let (mut walk, mut before) = (Walk::new(run), Vec::new());
        while let Some(place) = walk.next() {
            if place.start > 0 && (place.start >= from || place.start == last) {
                let mut right = Vec::new();
                push(&mut right, &[], &walk.key, &place.entry);
                right.extend_from_slice(&run[place.end..]);
                // The shortest text between the two.
                let shared = before.iter().zip(&walk.key).take_while(|(a, b)| a == b);
                let right_bound = walk.key[..=shared.count()].into();
                self.runs.insert(bound, run[..place.start].into());
                self.runs.insert(right_bound, right.into());
                return;
            }
            before.clone_from(&walk.key);
        }
        self.runs.insert(bound, run.into());
    }

    /// Puts a run that has grown short back, together with the next one where both are.
    fn join(&mut self, bound: Box<[u8]>, mut run: Vec<u8>) {
        let above = (Bound::Excluded(&*bound), Bound::Unbounded);
        let next = self.runs.range::<[u8], _>(above).next();
        if let Some((next_bound, next_run)) = next
            && next_run.len() < RUN_MAX / 2
        {
            let mut walk = Walk::new(&run);
            while walk.next().is_some() {}
            let (last, next_bound) = (walk.key, next_bound.clone());
            push_run(&mut run, &last, next_run);
            self.runs.remove(&next_bound);
        }
        self.runs.insert(bound, run.into());
    }

    /// A list begins: it has named nobody yet.
    pub(super) fn forget_seen(&mut self) {
        for run in self.runs.values_mut() {
            let starts: Vec<usize> = Walk::new(run).map(|place| place.start).collect();
            for start in starts {
                run[start] &= !SEEN;
            }
        }
    }

    /// The Pods behind this name, in order, at most so many.
    pub(super) fn after(&self, key: &[u8], max: usize) -> Vec<(Box<[u8]>, Entry)> {
        let first = self.run_of(key).map_or(key, |(bound, _)| bound);
        let from = (Bound::Included(first), Bound::Unbounded);
        let mut after = Vec::new();
        for run in self.runs.range::<[u8], _>(from).map(|(_, run)| run) {
            let mut walk = Walk::new(run);
            while let Some(place) = walk.next() {
                if after.len() == max {
                    return after;
                }
                if *walk.key > *key {
                    after.push((walk.key.as_slice().into(), place.entry));
                }
            }
        }
        after
    }

    /// The Pods that neither the list nor an event since its start has named, at most so many.
    pub(super) fn unseen(&self, max: usize) -> Vec<(Box<[u8]>, Entry)> {
        let mut unseen = Vec::new();
        for run in self.runs.values() {
            let mut walk = Walk::new(run);
            while let Some(place) = walk.next() {
                if unseen.len() == max {
                    return unseen;
                }
                if !place.entry.seen {
                    unseen.push((walk.key.as_slice().into(), place.entry));
                }
            }
        }
        unseen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A fixed walk through all numbers.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    fn entry(numbers: &mut Numbers) -> Entry {
        let address = match numbers.next(3) {
            0 => None,
            1 => Some(IpAddr::from(Ipv4Addr::from_bits(u32::MAX - 7))),
            _ => Some(IpAddr::from(Ipv6Addr::from_bits(
                u128::from(numbers.next(1 << 30)) << 90,
            ))),
        };
        Entry {
            seen: numbers.next(2) == 0,
            going: numbers.next(2) == 0,
            host: numbers.next(2) == 0,
            address,
            version: (numbers.next(3) > 0).then(|| u64::MAX >> numbers.next(64)),
        }
    }

    fn key(numbers: &mut Numbers) -> Vec<u8> {
        let stem =
            "shop/".to_owned() + &"web-".repeat(usize::try_from(numbers.next(100)).expect("small"));
        let mut key = format!("{stem}{}", numbers.next(20)).into_bytes();
        if numbers.next(9) == 0 {
            key = vec![b'x'; 300 + usize::try_from(numbers.next(200)).expect("small")];
        }
        key
    }

    /// Everything that a roster holds, and that its runs keep their bounds.
    fn content(roster: &Roster) -> BTreeMap<Vec<u8>, Entry> {
        let mut all = BTreeMap::new();
        let bounds: Vec<_> = roster.runs.keys().cloned().collect();
        for (index, (bound, run)) in roster.runs.iter().enumerate() {
            let mut walk = Walk::new(run);
            let mut count = 0;
            while let Some(place) = walk.next() {
                assert!(*walk.key >= **bound);
                assert!(bounds.get(index + 1).is_none_or(|next| *walk.key < **next));
                assert_eq!(all.insert(walk.key.clone(), place.entry), None);
                count += 1;
            }
            assert!(count > 0 && walk.at == run.len());
            assert!(run.len() <= RUN_MAX + KEY_MAX);
        }
        all
    }

    #[test]
    fn every_pod_is_remembered_until_it_is_forgotten() {
        let mut numbers = Numbers(1);
        let (mut roster, mut expected) = (Roster::default(), BTreeMap::new());
        for round in 0..20_000 {
            let (key, entry) = (key(&mut numbers), entry(&mut numbers));
            // Grows for a while, then shrinks.
            let puts_in = numbers.next(10) < if round < 10_000 { 7 } else { 2 };
            roster.set(&key, puts_in.then_some(&entry));
            if puts_in {
                expected.insert(key.clone(), entry);
            } else {
                expected.remove(&key);
            }
            assert_eq!(roster.get(&key), expected.get(&key).copied());
            if round % 500 == 0 {
                assert_eq!(content(&roster), expected, "{round}");
            }
        }
        for key in expected.clone().into_keys() {
            roster.set(&key, None);
            expected.remove(&key);
            assert!(expected.len() % 200 > 0 || content(&roster) == expected);
        }
        assert!(roster.runs.is_empty());
    }

    #[test]
    fn who_was_not_seen_since_a_list_began_is_told() {
        let mut roster = Roster::default();
        let seen = Entry {
            seen: true,
            ..Entry::default()
        };
        let keys: Vec<String> = (0..1000)
            .map(|number| format!("shop/web-{number}"))
            .collect();
        for key in &keys {
            roster.set(key.as_bytes(), Some(&seen));
        }
        assert!(roster.unseen(usize::MAX).is_empty());
        roster.forget_seen();
        for key in keys.iter().step_by(3) {
            roster.set(key.as_bytes(), Some(&seen));
        }
        let expected: BTreeSet<Box<[u8]>> = keys
            .iter()
            .enumerate()
            .filter(|(number, _)| number % 3 > 0)
            .map(|(_, key)| key.as_bytes().into())
            .collect();
        let unseen: BTreeSet<_> = roster
            .unseen(usize::MAX)
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(unseen, expected);
        assert_eq!(roster.unseen(7).len(), 7);
    }
}
