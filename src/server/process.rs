//! What outlives a reload: metrics, shared things, readiness.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::telemetry::metrics::Metrics;

/// The process as plugins see it.
pub struct Process {
    /// Where everything that waits runs.
    pub runtime: tokio::runtime::Handle,
    /// Every metric.
    pub metrics: Metrics,
    /// Things that server blocks and generations share.
    pub shared: Shared,
    /// Who is ready.
    pub readiness: Readiness,
}

impl Process {
    /// On this runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            metrics: Metrics::new(),
            shared: Shared::default(),
            readiness: Readiness::default(),
        })
    }
}

type SharedMap = HashMap<(TypeId, String), Weak<dyn Any + Send + Sync>>;

/// Things found by type and a text that holds all of their configuration, alive as long as someone uses them. While a
/// reload builds the new generation the old one still runs, so what is configured as before is found and kept.
#[derive(Default)]
pub struct Shared {
    things: Mutex<SharedMap>,
}

impl Shared {
    /// The thing of type `T` with this key; made if nobody has it. Making it may ask for other shared things. If two
    /// make it at the same time, the one that is there first is kept.
    pub fn get_or_try<T: Any + Send + Sync, E>(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let slot = (TypeId::of::<T>(), key.to_owned());
        if let Some(thing) = Self::find(&self.things(), &slot) {
            return Ok(thing);
        }
        let made = make()?;
        let mut things = self.things();
        if let Some(thing) = Self::find(&things, &slot) {
            return Ok(thing);
        }
        things.retain(|_, thing| thing.strong_count() > 0);
        let erased: Arc<dyn Any + Send + Sync> = made.clone();
        things.insert(slot, Arc::downgrade(&erased));
        Ok(made)
    }

    fn things(&self) -> MutexGuard<'_, SharedMap> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find<T: Any + Send + Sync>(things: &SharedMap, slot: &(TypeId, String)) -> Option<Arc<T>> {
        let thing = things.get(slot)?.upgrade()?;
        Some(thing.downcast().expect("keyed by its type"))
    }
}

/// Asked for whether its plugin is ready.
pub type ReadyProbe = Arc<dyn Fn() -> bool + Send + Sync>;

/// One thing that a plugin waits for, or had to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is: `services synced`.
    pub name: String,
    /// Whether it is so.
    pub holds: bool,
    /// What else there is to say; may be empty.
    pub detail: String,
}

/// Asked for the conditions of a plugin, as they are now.
pub type Conditions = Arc<dyn Fn() -> Vec<Condition> + Send + Sync>;

/// Who has to be ready before we are.
#[derive(Default)]
pub struct Readiness {
    probes: Mutex<BTreeMap<String, Vec<ReadyProbe>>>,
    conditions: Mutex<Vec<(String, Conditions)>>,
    closed: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// Replaces all probes: those of a new generation.
    pub fn replace(&self, probes: Vec<(String, ReadyProbe)>) {
        let mut map: BTreeMap<String, Vec<ReadyProbe>> = BTreeMap::new();
        for (name, probe) in probes {
            map.entry(name).or_default().push(probe);
        }
        *self.probes.lock().unwrap_or_else(PoisonError::into_inner) = map;
    }

    /// Replaces all conditions.
    pub fn explain(&self, conditions: Vec<(String, Conditions)>) {
        *self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = conditions;
    }

    /// The conditions of all plugins, each with the plugin's name.
    pub fn conditions(&self) -> Vec<(String, Condition)> {
        let conditions = self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let of_one = |(name, all): &(String, Conditions)| {
            let name = name.clone();
            all().into_iter().map(move |one| (name.clone(), one))
        };
        conditions.iter().flat_map(of_one).collect()
    }

    /// The names of all plugins that have to be ready, sorted.
    pub fn names(&self) -> Vec<String> {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.keys().cloned().collect()
    }

    /// Nobody is ready before `open`: whoever comes finds no socket yet.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Sockets answer.
    pub fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }

    /// From now on nobody is ready: the process is about to stop, so new clients should go elsewhere.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The names of the plugins that are not ready, sorted; `listeners` if only the sockets are missing, `shutdown`
    /// alone once the process is stopping.
    pub fn missing(&self) -> Vec<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return vec!["shutdown".to_owned()];
        }
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<String> = probes
            .iter()
            .filter(|(_, probes)| !probes.iter().all(|probe| probe()))
            .map(|(name, _)| name.clone())
            .collect();
        if missing.is_empty() && self.closed.load(Ordering::Acquire) {
            return vec!["listeners".to_owned()];
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn nobody_is_ready_before_the_sockets_answer() {
        let readiness = Readiness::default();
        readiness.close();
        readiness.replace(vec![("b".to_owned(), Arc::new(|| true))]);
        assert_eq!(readiness.missing(), ["listeners"]);
        readiness.replace(vec![("b".to_owned(), Arc::new(|| false))]);
        assert_eq!(readiness.missing(), ["b"]);
        readiness.open();
        readiness.replace(vec![("b".to_owned(), Arc::new(|| true))]);
        assert!(readiness.missing().is_empty());
        readiness.stop();
        assert_eq!(readiness.missing(), ["shutdown"]);
    }

    fn get<T: Any + Send + Sync>(shared: &Shared, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let Ok(thing) = shared.get_or_try(key, || Ok::<_, Infallible>(Arc::new(make())));
        thing
    }

    #[test]
    fn a_thing_is_shared_for_as_long_as_somebody_holds_it() {
        let shared = Shared::default();
        let first = get(&shared, "a", || 1_u32);
        assert_eq!(*get(&shared, "a", || 2_u32), 1);
        assert_eq!(*get(&shared, "b", || 3_u32), 3);
        assert_eq!(*get(&shared, "a", || 4_u64), 4);
        drop(first);
        assert_eq!(*get(&shared, "a", || 5_u32), 5);
    }

    #[test]
    fn making_a_thing_may_ask_for_others() {
        let shared = Shared::default();
        let outer = get(&shared, "a", || get(&shared, "a", || 1_u64));
        assert_eq!(**outer, 1);
    }

    #[test]
    fn the_first_of_two_makers_wins() {
        let shared = Shared::default();
        let mut inner = None;
        let outer = get(&shared, "a", || {
            inner = Some(get(&shared, "a", || 1_u32));
            2_u32
        });
        assert_eq!((*outer, inner.as_deref()), (1, Some(&1)));
    }
}
