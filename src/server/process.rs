//! What outlives a reload: metrics, shared things, readiness.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    /// The thing of type `T` with this key; made if nobody has it.
    pub fn get_or_try<T: Any + Send + Sync, E>(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (TypeId::of::<T>(), key.to_owned());
        if let Some(thing) = things.get(&slot).and_then(Weak::upgrade) {
            return Ok(thing.downcast().expect("keyed by its type"));
        }
        things.retain(|_, thing| thing.strong_count() > 0);
        let thing = make()?;
        let erased: Arc<dyn Any + Send + Sync> = thing.clone();
        things.insert(slot, Arc::downgrade(&erased));
        Ok(thing)
    }
}

/// Asked for whether its plugin is ready.
pub type ReadyProbe = Arc<dyn Fn() -> bool + Send + Sync>;

/// Who has to be ready before we are.
#[derive(Default)]
pub struct Readiness {
    probes: Mutex<BTreeMap<String, Vec<ReadyProbe>>>,
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

    /// The names of all plugins that have to be ready, sorted.
    pub fn names(&self) -> Vec<String> {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.keys().cloned().collect()
    }

    /// From now on nobody is ready: the process is about to stop, so new clients should go elsewhere.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The names of the plugins that are not ready, sorted; `shutdown` alone once the process is stopping.
    pub fn missing(&self) -> Vec<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return vec!["shutdown".to_owned()];
        }
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes
            .iter()
            .filter(|(_, probes)| !probes.iter().all(|probe| probe()))
            .map(|(name, _)| name.clone())
            .collect()
    }
}
