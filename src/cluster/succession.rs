//! What a cluster knows handed on to the next one.
//!
//! A reload that changes what is kept (`pods verified`, a `k8s_external`) makes a new cluster beside the old one, and lists
//! fill it. If they do not come in time, because the API server is away, the new one takes over what the old one knows:
//!
//! ```text
//! old  Namespaces, Services, EndpointSlices   --->  new  the same, and of Pods: "not listed yet"
//! ```
//!
//! Names that need something the old one did not keep are neither known nor denied until the lists are in; all others are
//! answered as before (docs/decisions/0012-succession.md).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cluster::objects::Resource;
use crate::cluster::{Cluster, Known};

/// What some names need, and a cluster may not have kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Pods.
    Pods,
    /// Endpoints, with their names and topology zones.
    Endpoints,
    /// Where Services are reached from outside.
    External,
    /// What other clusters export.
    Imports,
}

/// Set once something was taken over. The bits below it say what is lacking.
const TAKEN: u8 = 1 << 7;

impl Part {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The clusters of one source with the same selectors, the newest last.
#[derive(Default)]
pub struct Line(Mutex<Vec<Weak<Cluster>>>);

impl Line {
    /// Adds a cluster. One of those that know something becomes its predecessor: the one that lacks the least of what
    /// the new one wants, of several the newest.
    pub fn add(&self, new: &Arc<Cluster>) {
        let mut clusters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|cluster| cluster.strong_count() > 0);
        let known = clusters.iter().rev().filter_map(Weak::upgrade);
        let best = known
            .filter(|cluster| cluster.usable())
            .min_by_key(|cluster| new.lacking_from(cluster).count_ones());
        *new.predecessor() = best;
        clusters.push(Arc::downgrade(new));
    }
}

impl Cluster {
    /// Whether there is something to answer from, though perhaps not for all names. Takes a lock.
    pub fn usable(&self) -> bool {
        *self.known.borrow() != Known::InPart
    }

    /// Whether another cluster will be asked if the lists do not come in time.
    pub fn has_predecessor(&self) -> bool {
        self.predecessor().is_some()
    }

    /// Whether what stands in for the lists was taken over, and this part was there.
    pub fn has_taken_over(&self, part: Option<Part>) -> bool {
        let bits = self.taken_over.load(Ordering::Acquire);
        bits & TAKEN != 0 && bits & part.map_or(0, Part::bit) == 0
    }

    /// No other cluster is needed any more. What that one knows is taken over if the lists are not in, and served until
    /// they are. Whether it was. Takes a while in a large cluster.
    pub fn take_over(&self) -> bool {
        let Some(from) = self.predecessor().take() else {
            return false;
        };
        if self.synced() {
            return false;
        }
        // An object of the same version may have what that one did not keep.
        let is_same = self.keep == from.keep;
        // The closure fails never.
        let _ = from.export(|object| {
            if self.wanted.contains(&object.resource()) {
                let mut object = object.clone();
                if !is_same {
                    object.meta_mut().resource_version = Box::default();
                }
                self.store().restore(object, &self.table);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        self.move_serials_on();
        let lacking = self.lacking_from(&from);
        let restored = from.restored.load(Ordering::Relaxed);
        self.known.send_if_modified(|known| {
            let waiting = *known != Known::Synced;
            if waiting {
                *known = Known::TakenOver;
                self.restored.store(restored, Ordering::Relaxed);
                self.taken_over.store(TAKEN | lacking, Ordering::Release);
                self.servable.store(lacking == 0, Ordering::Release);
            }
            waiting
        })
    }

    /// Parts that we want and another cluster does not know.
    fn lacking_from(&self, from: &Self) -> u8 {
        let (new, old) = (&self.keep, &from.keep);
        let (wants, had) = (
            |resource| self.wanted.contains(&resource),
            |resource| from.wanted.contains(&resource),
        );
        let had_endpoints = had(Resource::EndpointSlices)
            && (new.imported_slices_only || !old.imported_slices_only)
            && (!new.zones || old.zones)
            // With it endpoints have other names.
            && new.pod_names == old.pod_names;
        // What that one lacks itself. Once its lists are in it has everything.
        let lacked = if from.synced() {
            0
        } else {
            from.taken_over.load(Ordering::Acquire)
        };
        [
            (Part::Pods, wants(Resource::Pods), had(Resource::Pods)),
            (
                Part::Endpoints,
                wants(Resource::EndpointSlices),
                had_endpoints,
            ),
            (Part::External, new.external, old.external),
            (Part::Imports, new.imports, old.imports),
        ]
        .into_iter()
        .filter(|&(part, wanted, had)| wanted && !(had && lacked & part.bit() == 0))
        .fold(0, |bits, (part, ..)| bits | part.bit())
    }

    fn predecessor(&self) -> std::sync::MutexGuard<'_, Option<Arc<Self>>> {
        self.predecessor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
