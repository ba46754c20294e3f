//! What all caches of the process share: octets for entries, and places for refreshes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::plugin::cache::store::Partition;
use crate::server::memory;

/// Octets for all entries where nothing limits the process.
const OCTETS_UNLIMITED: u64 = 64 << 20;

/// The part of the process' memory that entries get unless `memory` says otherwise. The rest is for the cluster, of which
/// a list may hold parts twice, for queries and connections, and for what the allocator keeps; and a pod is killed for
/// passing its limit, while a cache that is too small only asks upstreams more often.
const SHARE: u64 = 4;

/// With less it is no cache any more: room for each partition's least of a small Corefile.
pub(in crate::plugin::cache) const OCTETS_MIN: u64 = 4 << 20;

/// With more, who has so much memory to give should say so.
const SHARE_MAX: u64 = 1 << 30;

/// Refreshes under way at once, of all caches.
const REFRESHES_MAX: u32 = 256;

/// Octets for all entries: what the Corefile says, or else a part of what the process may take.
pub(in crate::plugin::cache) fn octets(configured: Option<u64>) -> u64 {
    configured.unwrap_or_else(|| share_of(memory::limit()))
}

fn share_of(limit: Option<u64>) -> u64 {
    limit.map_or(OCTETS_UNLIMITED, |limit| {
        (limit / SHARE).clamp(OCTETS_MIN, SHARE_MAX)
    })
}

/// What all caches of the process share.
pub(in crate::plugin::cache) struct Budget {
    octets: AtomicU64,
    partitions: Mutex<Vec<Weak<Partition>>>,
    /// Refreshes under way.
    refreshes: AtomicU32,
}

impl Budget {
    /// So many octets for all entries.
    pub(in crate::plugin::cache) fn new(octets: u64) -> Arc<Self> {
        Arc::new(Self {
            octets: AtomicU64::new(octets),
            partitions: Mutex::default(),
            refreshes: AtomicU32::new(0),
        })
    }

    /// Octets that all entries may weigh.
    pub(in crate::plugin::cache) fn octets(&self) -> u64 {
        self.octets.load(Ordering::Acquire)
    }

    /// Changes that; entries that are too many go.
    pub(in crate::plugin::cache) fn set_octets(&self, octets: u64) {
        if self.octets.swap(octets, Ordering::AcqRel) != octets {
            self.take_in([]);
        }
    }

    /// Takes new partitions in, and gives each its share.
    pub(in crate::plugin::cache) fn take_in<const N: usize>(&self, new: [&Arc<Partition>; N]) {
        let mut list = self.list();
        list.extend(new.map(Arc::downgrade));
        list.retain(|partition| partition.strong_count() > 0);
        let partitions: Vec<(Arc<Partition>, u64)> = list
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(|partition| {
                let wanted = partition.wanted()?;
                Some((partition, wanted))
            })
            .collect();
        let sum: u64 = partitions.iter().map(|&(_, wanted)| wanted).sum();
        let octets = self.octets().min(sum);
        for (partition, wanted) in &partitions {
            let share = u128::from(*wanted) * u128::from(octets) / u128::from(sum);
            partition.set_weight_max(u64::try_from(share).unwrap_or(octets));
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Weak<Partition>>> {
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self, of_one: fn(&Partition) -> u64) -> u64 {
        let partitions: Vec<_> = self.list().iter().filter_map(Weak::upgrade).collect();
        partitions.iter().map(|partition| of_one(partition)).sum()
    }

    /// Octets that all entries weigh now.
    pub(in crate::plugin::cache) fn weight(&self) -> u64 {
        self.sum(Partition::weight)
    }

    /// Octets that all partitions together may take now.
    #[cfg(test)]
    pub(in crate::plugin::cache) fn weight_max(&self) -> u64 {
        self.sum(Partition::weight_max)
    }

    /// A place among the refreshes, if there is one; given back when it is dropped.
    pub(in crate::plugin::cache) fn begin_refresh(self: &Arc<Self>) -> Option<RefreshPermit> {
        let before = self.refreshes.fetch_add(1, Ordering::AcqRel);
        let permit = RefreshPermit(Arc::clone(self));
        (before < REFRESHES_MAX).then_some(permit)
    }
}

/// A place among the refreshes.
pub(in crate::plugin::cache) struct RefreshPermit(Arc<Budget>);

impl Drop for RefreshPermit {
    fn drop(&mut self) {
        self.0.refreshes.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_get_a_quarter_of_what_the_process_may_take_within_bounds() {
        for (limit, expected) in [
            (None, 64 << 20),
            (Some(170 << 20), 170 << 18),
            (Some(1), 4 << 20),
            (Some(64 << 30), 1 << 30),
        ] {
            assert_eq!(share_of(limit), expected, "{limit:?}");
        }
        assert_eq!(octets(Some(5 << 20)), 5 << 20);
    }
}
