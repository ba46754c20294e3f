//! Endpoints of one large Service by host name and by address.
//!
//! ```text
//! hash of `web-9` or 10.1.0.9 --> bucket of some 32 places, sorted --> place: slice and endpoint --> compare
//! ```
//!
//! Immutable like the view that it belongs to. The next version shares every bucket in which nothing changed, so the
//! change of one endpoint copies a few buckets and one pointer for each of the others; the places of a slice stay as they
//! are when its neighbors come and go, because they name the slice by a number of its own. Small Services have no
//! index: reading all of their endpoints is as fast as a hash.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::cluster::table::{SliceView, State};

/// From how many endpoints on a Service has an index.
pub(in crate::cluster) const BACKENDS_MIN: usize = 33;

/// Places of a bucket when an index is made anew, and how many there may be on average before it is made anew again.
const BUCKET_LEN: usize = 32;
const BUCKET_LEN_MAX: usize = 2 * BUCKET_LEN;

/// Bits of a place that number the slice, and those that number the endpoint in it. What has more is not indexed: no
/// object that an API server stores is as large.
const SLICE_BITS: u32 = 24;
const BACKEND_BITS: u32 = 24;

/// The ordinal of a slice that is no longer there.
const GONE: u32 = u32::MAX;

/// Places of endpoints by the hash of what they are asked for by.
#[derive(Debug)]
pub(in crate::cluster) struct Index {
    /// Where each numbered slice stands in the view.
    ordinals: Box<[u32]>,
    /// A power of two.
    buckets: Box<[Arc<[Place]>]>,
    len: usize,
}

/// From the highest bit on: whether it is found by name or by address, 15 bits of the hash, slice, endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64);

/// What an endpoint is asked for by.
#[derive(Clone, Copy)]
pub(in crate::cluster) enum Key<'k> {
    Name(&'k [u8]),
    Address(IpAddr),
}

impl Key<'_> {
    fn hash(self) -> u64 {
        // Names come from queries, so the seed is random. One for all: versions share buckets.
        static STATE: OnceLock<State> = OnceLock::new();
        let state = STATE.get_or_init(State::default);
        match self {
            Self::Name(name) => state.hash_one(name),
            Self::Address(address) => state.hash_one(address),
        }
    }
}

impl Place {
    /// The first place that a key with this hash can have.
    fn first(key: Key<'_>, hash: u64) -> Self {
        let kind = u64::from(matches!(key, Key::Address(_))) << 63;
        let shift = SLICE_BITS + BACKEND_BITS;
        Self(kind | (hash >> (1 + shift) << shift))
    }

    fn of(key: Key<'_>, hash: u64, slice: usize, backend: usize) -> Self {
        let first = Self::first(key, hash);
        Self(first.0 | (slice as u64) << BACKEND_BITS | backend as u64)
    }

    fn has_prefix_of(self, first: Self) -> bool {
        (self.0 ^ first.0) >> (SLICE_BITS + BACKEND_BITS) == 0
    }

    fn slice(self) -> usize {
        // 24 bits, which any usize holds.
        (self.0 >> BACKEND_BITS) as usize & ((1 << SLICE_BITS) - 1)
    }

    fn backend(self) -> usize {
        self.0 as usize & ((1 << BACKEND_BITS) - 1)
    }
}

impl Index {
    /// Of all slices of a view; none if it has too few endpoints, or more than places can tell apart.
    pub(in crate::cluster) fn of(slices: &[Arc<SliceView>]) -> Option<Self> {
        if !is_due(slices) {
            return None;
        }
        let mut entries = Vec::new();
        for (number, slice) in slices.iter().enumerate() {
            for_places(slice, number, |hash, place| entries.push((hash, place)));
        }
        let count = (entries.len() / BUCKET_LEN).next_power_of_two();
        let mut buckets = vec![Vec::new(); count];
        let len = entries.len();
        for (hash, place) in entries {
            buckets[bucket_of(hash, count)].push(place);
        }
        let sorted = |mut bucket: Vec<Place>| {
            bucket.sort_unstable();
            bucket.into()
        };
        Some(Self {
            ordinals: (0..u32::try_from(slices.len()).ok()?).collect(),
            buckets: buckets.into_iter().map(sorted).collect(),
            len,
        })
    }

    /// The next version, after the slice at `at` came, changed, or went. `slices` is what is now there.
    pub(in crate::cluster) fn with(
        &self,
        slices: &[Arc<SliceView>],
        at: usize,
        before: Option<&SliceView>,
        after: Option<&SliceView>,
    ) -> Option<Self> {
        if !is_due(slices) {
            return None;
        }
        let (ordinals, number) = self.renumbered(at, before.is_some(), after.is_some())?;
        let mut changes: Vec<(usize, Place, i32)> = Vec::new();
        for (slice, by) in [(before, -1), (after, 1)] {
            let Some(slice) = slice else { continue };
            for_places(slice, number, |hash, place| {
                changes.push((bucket_of(hash, self.buckets.len()), place, by));
            });
        }
        changes.sort_unstable_by_key(|&(bucket, place, _)| (bucket, place));
        // What was there and still is cancels out.
        changes.dedup_by(|later, kept| {
            let same = (later.0, later.1) == (kept.0, kept.1);
            if same {
                kept.2 += later.2;
            }
            same
        });
        changes.retain(|&(_, _, by)| by != 0);
        let mut buckets = self.buckets.clone();
        let mut len = self.len;
        for changes in changes.chunk_by(|a, b| a.0 == b.0) {
            let bucket = &mut buckets[changes[0].0];
            len -= bucket.len();
            *bucket = changed(bucket, changes);
            len += bucket.len();
        }
        if len > buckets.len() * BUCKET_LEN_MAX {
            return Self::of(slices);
        }
        Some(Self {
            ordinals,
            buckets,
            len,
        })
    }

    /// Where the numbered slices stand after a change, and the number of the slice that changed.
    fn renumbered(&self, at: usize, was: bool, is: bool) -> Option<(Box<[u32]>, usize)> {
        let at = u32::try_from(at).ok()?;
        let mut ordinals = self.ordinals.to_vec();
        let number = if was {
            ordinals.iter().position(|&ordinal| ordinal == at)?
        } else {
            for ordinal in &mut ordinals {
                *ordinal += u32::from(*ordinal >= at && *ordinal != GONE);
            }
            let free = ordinals.iter().position(|&ordinal| ordinal == GONE);
            let free = free.unwrap_or(ordinals.len());
            if free == ordinals.len() {
                ordinals.push(at);
            }
            ordinals[free] = at;
            free
        };
        if !is {
            ordinals[number] = GONE;
            for ordinal in &mut ordinals {
                *ordinal -= u32::from(*ordinal > at && *ordinal != GONE);
            }
        }
        (number < 1 << SLICE_BITS).then(|| (ordinals.into(), number))
    }

    /// Slice and endpoint of all that may have this key; the caller compares.
    pub(in crate::cluster) fn find(&self, key: Key<'_>) -> impl Iterator<Item = (usize, usize)> {
        let hash = key.hash();
        let first = Place::first(key, hash);
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        let start = bucket.partition_point(|place| *place < first);
        let places = bucket[start..].iter();
        places
            .take_while(move |place| place.has_prefix_of(first))
            // 32 bits, which any usize holds.
            .map(|place| (self.ordinals[place.slice()] as usize, place.backend()))
    }
}

fn is_due(slices: &[Arc<SliceView>]) -> bool {
    let backends: usize = slices.iter().map(|slice| slice.len()).sum();
    backends >= BACKENDS_MIN
        && slices.len() < 1 << SLICE_BITS
        && slices.iter().all(|slice| slice.len() < 1 << BACKEND_BITS)
}

/// The low bits; a place keeps the high ones.
fn bucket_of(hash: u64, count: usize) -> usize {
    hash as usize & (count - 1)
}

/// Calls `each` with every place that a slice of this number fills.
fn for_places(slice: &SliceView, number: usize, mut each: impl FnMut(u64, Place)) {
    for (at, backend) in slice.backends().enumerate() {
        let name = backend.name.map(Key::Name);
        for key in name.into_iter().chain([Key::Address(backend.address)]) {
            let hash = key.hash();
            each(hash, Place::of(key, hash, number, at));
        }
    }
}

/// A bucket after changes of it, each of which takes away what is there or adds what is not.
fn changed(bucket: &[Place], changes: &[(usize, Place, i32)]) -> Arc<[Place]> {
    let gone = |place: &Place| {
        let found = changes.binary_search_by_key(place, |&(_, changed, _)| changed);
        found.is_ok_and(|at| changes[at].2 < 0)
    };
    let kept = bucket.iter().copied().filter(|place| !gone(place));
    let new = changes.iter().filter(|(_, _, by)| *by > 0);
    let mut places: Vec<Place> = kept.chain(new.map(|&(_, place, _)| place)).collect();
    places.sort_unstable();
    places.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(backends: &[(u32, Option<u32>)]) -> Arc<SliceView> {
        let named: Vec<(IpAddr, Option<String>)> = backends
            .iter()
            .map(|&(address, name)| {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + address);
                (address.into(), name.map(|name| format!("pod-{name}")))
            })
            .collect();
        let backends = named
            .iter()
            .map(|(address, name)| (*address, name.as_deref().map(str::as_bytes)));
        Arc::new(SliceView::new(Box::default(), Arc::default(), backends))
    }

    /// All slices, each of which has names and addresses of its own.
    fn large(slices: u32, backends: u32) -> Vec<Arc<SliceView>> {
        let of = |at| {
            let all = at * backends..(at + 1) * backends;
            slice(&all.map(|n| (n, Some(n))).collect::<Vec<_>>())
        };
        (0..slices).map(of).collect()
    }

    fn found(index: &Index, slices: &[Arc<SliceView>], key: Key<'_>) -> Vec<(usize, usize)> {
        let mut found: Vec<_> = index
            .find(key)
            .filter(|&(slice, at)| {
                let backend = slices[slice].backend(at).expect("a place that is there");
                match key {
                    Key::Name(name) => backend.name == Some(name),
                    Key::Address(address) => backend.address == address,
                }
            })
            .collect();
        found.sort_unstable();
        found
    }

    fn scanned(slices: &[Arc<SliceView>], key: Key<'_>) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for (slice, view) in slices.iter().enumerate() {
            for (at, backend) in view.backends().enumerate() {
                let same = match key {
                    Key::Name(name) => backend.name == Some(name),
                    Key::Address(address) => backend.address == address,
                };
                if same {
                    found.push((slice, at));
                }
            }
        }
        found
    }

    fn assert_complete(index: &Index, slices: &[Arc<SliceView>], keys: impl Iterator<Item = u32>) {
        let mut len = 0;
        for slice in slices {
            len += slice
                .backends()
                .map(|b| 1 + usize::from(b.name.is_some()))
                .sum::<usize>();
        }
        assert_eq!(index.len, len);
        for n in keys {
            let name = format!("pod-{n}");
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            for key in [Key::Name(name.as_bytes()), Key::Address(address)] {
                assert_eq!(found(index, slices, key), scanned(slices, key), "{n}");
            }
        }
    }

    #[test]
    fn what_changed_step_by_step_finds_what_a_scan_finds() {
        // Names and addresses are few, so that many stand twice; slices come, change and go at every place.
        const KEYS: u32 = 200;
        let mut state = 7u32;
        let mut random = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut slices: Vec<Arc<SliceView>> = large(2, 40);
        let mut index = Index::of(&slices);
        let (mut indexed, mut bare) = (0, 0);
        for round in 0..400 {
            let mut any = || {
                let len = random(60);
                let backends: Vec<_> = (0..len)
                    .map(|_| (random(KEYS), (random(3) > 0).then(|| random(KEYS))))
                    .collect();
                slice(&backends)
            };
            let new = any();
            let at = random(u32::try_from(slices.len() + 1).expect("few")) as usize;
            let (before, after) = match random(if round < 200 { 3 } else { 6 }) {
                0 => {
                    slices.insert(at, Arc::clone(&new));
                    (None, Some(new))
                }
                1 if at < slices.len() => {
                    let old = std::mem::replace(&mut slices[at], Arc::clone(&new));
                    (Some(old), Some(new))
                }
                _ if at < slices.len() => (Some(slices.remove(at)), None),
                _ => continue,
            };
            index = match index {
                Some(index) => index.with(&slices, at, before.as_deref(), after.as_deref()),
                None => Index::of(&slices),
            };
            match &index {
                Some(index) => {
                    // A few of them each time, and all in turn.
                    assert_complete(index, &slices, (round % 8..KEYS).step_by(8));
                    indexed += 1;
                }
                None => bare += 1,
            }
        }
        assert!(indexed > 50 && bare > 5, "{indexed} {bare}");
    }

    #[test]
    fn a_look_up_among_ten_thousand_reads_one_bucket() {
        let slices = large(100, 100);
        let index = Index::of(&slices).expect("it is large");
        // Where each stands is known here, so nothing is scanned for.
        for n in (0..10_000).step_by(97) {
            let name = format!("pod-{n}");
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            for key in [Key::Name(name.as_bytes()), Key::Address(address)] {
                let place = (n as usize / 100, n as usize % 100);
                assert_eq!(found(&index, &slices, key), [place], "{n}");
            }
        }
        assert!(found(&index, &slices, Key::Name(b"pod-10000")).is_empty());
        let longest = index.buckets.iter().map(|bucket| bucket.len()).max();
        assert!(longest < Some(4 * BUCKET_LEN), "{longest:?}");
    }

    #[test]
    fn a_change_of_one_endpoint_among_ten_thousand_shares_all_other_buckets() {
        let mut slices = large(100, 100);
        let index = Index::of(&slices).expect("it is large");
        let mut backends: Vec<_> = (5000..5100).map(|n| (n, Some(n))).collect();
        backends[50] = (20_000, Some(20_000));
        let old = std::mem::replace(&mut slices[50], slice(&backends));
        let next = index
            .with(&slices, 50, Some(&old), Some(&slices[50]))
            .expect("it is large");
        let both = index.buckets.iter().zip(&next.buckets);
        let copied = both.filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        // Two keys went and two came.
        assert!((1..=4).contains(&copied), "{copied}");
        let key = Key::Name(b"pod-20000");
        assert_eq!(found(&next, &slices, key), [(50, 50)]);
        assert!(found(&next, &slices, Key::Name(b"pod-5050")).is_empty());
    }

    #[test]
    fn one_name_for_all_endpoints_is_no_trouble() {
        let mut slices: Vec<_> = (0..10)
            .map(|at| {
                slice(
                    &(0..100)
                        .map(|n| (at * 100 + n, Some(1)))
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        let index = Index::of(&slices).expect("it is large");
        let key = Key::Name(b"pod-1");
        assert_eq!(found(&index, &slices, key).len(), 1000);
        let old = slices.remove(3);
        let next = index
            .with(&slices, 3, Some(&old), None)
            .expect("it is large");
        assert_eq!(found(&next, &slices, key).len(), 900);
    }
}
