//! Kubernetes objects, seen from DNS; no DNS messages here.
//!
//! ```text
//! API server --watch-->  \                          one writer                 readers without locks
//!                          ObjectSink (the store)  ------------>  table  <------------  plugin/kubernetes
//! object files --read-->  /
//! ```
//!
//! A source feeds the store with objects; the store turns one change into the changed views of the table. A relist is
//! applied as a difference: what was answered before it is answered during it.

/// Slim types: only the fields that DNS needs.
pub mod objects;

/// The readers' side: views by name, services by address; no lock.
pub mod table;

/// A cluster, and which of its namespaces are shown.
pub mod scope;

mod addresses;

mod index;

mod places;

/// Pods as clients.
pub mod clients;
mod serial;

mod store;

/// How it is doing, for those who ask.
pub mod status;

/// What a change was caused by, and when.
mod trigger;

/// Which API server, and how to reach it.
pub mod source;

/// Which objects are wanted, by their labels.
pub mod selector;

/// Objects out of JSON and YAML.
pub mod decode;

/// From what the Corefile says to a client of the API server.
#[cfg(feature = "kubernetes")]
pub mod connect;

/// Events at our own Pod.
#[cfg(feature = "kubernetes")]
pub mod events;

/// Lists and watches the API server.
#[cfg(feature = "kubernetes")]
pub mod watch;

/// The API server's protobuf.
#[cfg(feature = "kubernetes")]
pub mod protobuf;

/// The thread that feeds the table.
#[cfg(feature = "kubernetes")]
pub mod thread;

/// The same objects from files.
pub mod manifests;

/// What a cluster knows handed on to the next one.
pub mod succession;

/// The cluster on disk, for a start without the API server.
pub mod snapshot;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch::Sender;

use crate::cluster::objects::{Meta, Object, Resource};
use crate::cluster::serial::Serial;
use crate::cluster::status::{Observation, Observer, Sizes, StatusProbe, WatchStatus};
use crate::cluster::store::export::Contents;
use crate::cluster::store::{Change, Store};
use crate::cluster::succession::{Line, Part};
use crate::cluster::table::Table;

/// Takes what a source finds out. Calls for one resource come in order, from one task at a time.
pub trait ObjectSink: Send + Sync + 'static {
    /// A complete list of the resource begins. May come again before `list_finished`: the list starts over.
    fn list_started(&self, resource: Resource);

    /// One object of the list that has begun. Equal resource versions mean: nothing changed.
    fn listed(&self, object: Object);

    /// The list is complete: what it did not name is gone. From the first one on, the resource is synced.
    fn list_finished(&self, resource: Resource);

    /// An object was added or changed. One that is known in a newer version stays: versions are compared where they are
    /// numbers.
    fn applied(&self, object: Object);

    /// An object was deleted.
    fn deleted(&self, resource: Resource, namespace: &str, name: &str);

    /// The source's history is not the one that was told: from here on equal versions say nothing about objects of
    /// before, until the next list is complete. Nothing to a sink that goes by no versions.
    fn history_changed(&self, _resource: Resource) {}
}

/// A sink that says what it knows, so that it can be compared with the source.
pub trait Inventory: ObjectSink {
    /// A comparison with the source begins. A list that begins before it ends makes it void.
    fn comparison_started(&self, resource: Resource);

    /// The source has this object in this version. Whether it is known just so; nothing else changes by it.
    fn confirmed(&self, resource: Resource, meta: &Meta) -> bool;

    /// When what is told next was received; none if that is not to be measured. Stands until the next call.
    fn received(&self, at: Option<Instant>);

    /// What was not confirmed since the comparison began, at most so many.
    fn unconfirmed(&self, resource: Resource, max: usize) -> Vec<Meta>;

    /// The version that an object is known in; none if it is not known, maybe because DNS has no use for it.
    fn version_of(&self, resource: Resource, namespace: &str, name: &str) -> Option<Box<str>>;
}

/// What a cluster keeps for those who ask for it, and costs memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The name of what an endpoint stands for serves as its host name where it has none (`endpoint_pod_names`).
    pub pod_names: bool,
    /// Where Services are reached from outside of the cluster (`k8s_external`).
    pub external: bool,
    /// Endpoints are reached from there too, so that their changes move the external serial (`headless`).
    pub external_endpoints: bool,
    /// The topology zones of endpoints (`zonal`).
    pub zones: bool,
    /// ServiceImports and the EndpointSlices behind them (`multicluster`).
    pub imports: bool,
    /// No other EndpointSlices (`multicluster` with `noendpoints`).
    pub imported_slices_only: bool,
    /// Names and labels of Pods, by address (`metadata`).
    pub clients: bool,
}

/// Told of an EndpointSlice's change outside of a list: whether its Service is headless, and the time its object is
/// stamped with, or the text that is no time.
pub type TriggerObserver = Box<dyn Fn(bool, Result<SystemTime, &str>) + Send + Sync>;

/// One cluster: what was seen of it, and the table that answers come from.
///
/// A reader may assume: looking up never waits; what a list has not yet confirmed is served as it was; an object that
/// has been applied is in the table when the call returns.
pub struct Cluster {
    /// What readers use.
    pub table: Table,
    store: Mutex<Store>,
    wanted: Box<[Resource]>,
    lists: [ListState; Resource::COUNT],
    known: Sender<Known>,
    /// Whether that is something whole. Apart from it, because who reads it there takes a lock.
    servable: AtomicBool,
    /// What it keeps.
    keep: Keep,
    /// Who is asked if the lists do not come in time.
    predecessor: Mutex<Option<Arc<Self>>>,
    /// What came of it; never goes back.
    taken_over: AtomicU8,
    /// When what stands in for the lists was true, in seconds since 1970, plus one; zero while nothing stands in.
    restored: AtomicU64,
    serial: Serial,
    external_serial: Serial,
    external_endpoints: bool,
    import_serial: Serial,
    /// Changes that a snapshot would show.
    changes: AtomicU64,
    observer: OnceLock<TriggerObserver>,
    noticed: OnceLock<Observer>,
    watched: OnceLock<StatusProbe>,
    received: Mutex<Option<Instant>>,
}

/// Where what we know comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Some lists at most.
    InPart,
    /// A snapshot, until every resource was listed.
    Restored,
    /// What the cluster before has known, likewise; maybe not all that we want.
    TakenOver,
    /// Lists of every resource.
    Synced,
}

#[derive(Default)]
struct ListState {
    synced: AtomicBool,
    running: AtomicBool,
}

impl Cluster {
    /// An empty one. It is synced when all of `wanted` are.
    pub fn new(wanted: &[Resource], keep: Keep) -> Self {
        Self {
            table: Table::new(keep),
            store: Mutex::new(Store::new(keep)),
            wanted: wanted.into(),
            lists: Default::default(),
            known: Sender::new(if wanted.is_empty() {
                Known::Synced
            } else {
                Known::InPart
            }),
            servable: AtomicBool::new(wanted.is_empty()),
            keep,
            predecessor: Mutex::default(),
            taken_over: AtomicU8::new(0),
            restored: AtomicU64::new(0),
            serial: Serial::default(),
            external_serial: Serial::default(),
            external_endpoints: keep.external_endpoints,
            import_serial: Serial::default(),
            changes: AtomicU64::new(0),
            observer: OnceLock::new(),
            noticed: OnceLock::new(),
            watched: OnceLock::new(),
            received: Mutex::new(None),
        }
    }

    /// The resources it needs.
    pub fn wanted(&self) -> &[Resource] {
        &self.wanted
    }

    /// Whether every resource was listed once. Never goes back.
    pub fn synced(&self) -> bool {
        *self.known.borrow() == Known::Synced
    }

    /// Whether there is something whole to answer from: the lists, or a snapshot. Never goes back. One load; who means to
    /// deny a name asks before looking it up, since it may come in between.
    pub fn servable(&self) -> bool {
        self.servable.load(Ordering::Acquire)
    }

    /// The time that the snapshot is of which stands in for the first lists; none from the moment they are in.
    pub fn restored_from(&self) -> Option<SystemTime> {
        let seconds = self.restored.load(Ordering::Relaxed).checked_sub(1)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// Whether answers come from a snapshot. One relaxed load.
    pub fn is_restored(&self) -> bool {
        self.restored.load(Ordering::Relaxed) != 0
    }

    /// Whether this resource was listed once.
    pub fn resource_synced(&self, resource: Resource) -> bool {
        self.lists[resource as usize].synced.load(Ordering::Acquire)
    }

    /// Whether all names are known that this part is needed for: by lists, from a snapshot or from the cluster before. What
    /// is imported must not keep us from knowing what is our own.
    pub fn names_servable(&self, part: Option<Part>) -> bool {
        let imported = part == Some(Part::Imports);
        let needed = |resource: &&Resource| imported || **resource != Resource::ServiceImports;
        let mut needed = self.wanted.iter().filter(needed);
        self.servable()
            || self.has_taken_over(part)
            || needed.all(|&resource| self.resource_synced(resource))
    }

    /// Waits until every resource was listed once.
    pub async fn wait_synced(&self) {
        self.wait_known(|known| known == Known::Synced).await;
    }

    /// Waits until there is something whole to answer from.
    pub async fn wait_servable(&self) {
        self.wait_known(|known| known != Known::InPart).await;
    }

    async fn wait_known(&self, enough: impl Fn(Known) -> bool) {
        let mut known = self.known.subscribe();
        let waited = known.wait_for(|&known| enough(known)).await;
        debug_assert!(waited.is_ok(), "the sender lives as long as we do");
    }

    /// Seconds since 1970 of the last change that this process saw; 0 before the first.
    pub fn serial(&self) -> u32 {
        self.serial.get()
    }

    /// The serial for a copy of what is served that is begun after this.
    pub fn take_serial(&self) -> u32 {
        self.serial.take()
    }

    /// The same for what Services are from outside of the cluster. In CoreDNS it stays when a Service comes or goes and
    /// when endpoints change, so that a secondary would never ask for them (RFC 1034, section 4.3.5).
    pub fn external_serial(&self) -> u32 {
        self.external_serial.get()
    }

    /// As [`Cluster::take_serial`], for that.
    pub fn take_external_serial(&self) -> u32 {
        self.external_serial.take()
    }

    /// Seconds since 1970 of the last change of what other clusters export; 0 before the first.
    pub fn import_serial(&self) -> u32 {
        self.import_serial.get()
    }

    /// As [`Cluster::take_serial`], for that.
    pub fn take_import_serial(&self) -> u32 {
        self.import_serial.take()
    }

    /// Names who is told of changes with a time stamp. Only the first one counts.
    pub fn observe_triggers(&self, observer: TriggerObserver) {
        // Blocks that share a cluster share its metrics too.
        let _ = self.observer.set(observer);
    }

    /// Names who is told of what the writer notices. Only the first one counts.
    pub fn observe(&self, observer: Observer) {
        // Blocks that share a cluster share its metrics too.
        let _ = self.noticed.set(observer);
    }

    /// Names who knows how the watches are doing. It must not keep them running.
    pub fn watched_by(&self, probe: StatusProbe) {
        let _ = self.watched.set(probe);
    }

    /// How the watch of each resource is doing; nothing where the cluster comes from files.
    pub fn status(&self) -> Vec<WatchStatus> {
        self.watched.get().map(|probe| probe()).unwrap_or_default()
    }

    /// How much there is.
    pub fn sizes(&self) -> Sizes {
        self.table.sizes()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the changes that a snapshot would show.
    pub(in crate::cluster) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Gives out all objects, some at a time, each time under a short hold of the writer's lock.
    pub(in crate::cluster) fn export<E>(
        &self,
        mut each: impl FnMut(&Object) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut contents = Contents::of(&self.table);
        let mut objects = Vec::new();
        loop {
            let more = contents.take(&self.store(), &mut objects);
            objects.iter().try_for_each(&mut each)?;
            objects.clear();
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes in the objects of a snapshot that was true at `saved_at`, and serves them until the lists are in. What
    /// lists have told already stays. Returns how many objects were new.
    pub fn restore(&self, objects: impl Iterator<Item = Object>, saved_at: SystemTime) -> usize {
        let mut count = 0;
        for object in objects {
            // One hold an object: the watch may be listing at the same time.
            count += usize::from(self.store().restore(object, &self.table));
        }
        self.move_serials_on();
        let since = saved_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.known.send_if_modified(|known| {
            let waiting = *known == Known::InPart;
            if waiting {
                *known = Known::Restored;
                let seconds = since.as_secs().saturating_add(1);
                self.restored.store(seconds, Ordering::Relaxed);
                self.servable.store(true, Ordering::Release);
            }
            waiting
        });
        count
    }

    /// All that is known came at once. The lists may find all of it as it is, and 0 is older than any secondary has.
    fn move_serials_on(&self) {
        self.serial.move_on();
        self.external_serial.move_on();
        self.import_serial.move_on();
    }

    fn note(&self, resource: Resource, change: Change) {
        if change.zone || change.external || resource == Resource::Namespaces {
            self.changes.fetch_add(1, Ordering::Release);
        }
        if change.zone {
            self.serial.move_on();
        }
        if change.external || change.zone && self.external_endpoints {
            self.external_serial.move_on();
        }
        // Imports show where their namespace does.
        let imports = change.imports || resource == Resource::Namespaces && change.zone;
        if imports {
            self.import_serial.move_on();
        }
        // A list brings changes of long ago; how fast we are shows in what comes after it.
        let listing = self.lists[resource as usize]
            .running
            .load(Ordering::Relaxed);
        if let Some(observer) = self.noticed.get() {
            if let Some(reason) = change.unusable {
                observer(Observation::Unusable { resource, reason });
            }
            let received = *self.received.lock().unwrap_or_else(PoisonError::into_inner);
            if let (false, Some(kind), Some(received)) = (listing, change.kind, received) {
                let took = received.elapsed();
                observer(Observation::Servable { kind, took });
            }
        }
        if let (false, Some(trigger), Some(observer)) =
            (listing, change.trigger, self.observer.get())
        {
            observer(
                trigger.headless,
                trigger.time.as_ref().copied().map_err(|text| &**text),
            );
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("wanted", &self.wanted)
            .field("synced", &self.synced())
            .field("serial", &self.serial())
            .finish_non_exhaustive()
    }
}

impl ObjectSink for Cluster {
    fn list_started(&self, resource: Resource) {
        self.lists[resource as usize]
            .running
            .store(true, Ordering::Relaxed);
        self.store().list_started(resource);
    }

    fn listed(&self, object: Object) {
        let resource = object.resource();
        let change = self.store().apply(object, &self.table);
        self.note(resource, change);
    }

    fn list_finished(&self, resource: Resource) {
        let change = self.store().list_finished(resource, &self.table);
        self.note(resource, change);
        let list = &self.lists[resource as usize];
        list.running.store(false, Ordering::Relaxed);
        list.synced.store(true, Ordering::Release);
        let all = self
            .wanted
            .iter()
            .all(|&resource| self.resource_synced(resource));
        self.known.send_if_modified(|known| {
            let news = all && *known != Known::Synced;
            if news {
                *known = Known::Synced;
                self.restored.store(0, Ordering::Relaxed);
                self.servable.store(true, Ordering::Release);
            }
            news
        });
    }

    fn applied(&self, object: Object) {
        let resource = object.resource();
        let change = {
            let mut store = self.store();
            if store.is_newer_than(&object) {
                return;
            }
            store.apply(object, &self.table)
        };
        self.note(resource, change);
    }

    fn deleted(&self, resource: Resource, namespace: &str, name: &str) {
        let change = self.store().delete(resource, namespace, name, &self.table);
        self.note(resource, change);
    }

    fn history_changed(&self, resource: Resource) {
        self.store().history_changed(resource);
    }
}

impl Inventory for Cluster {
    fn comparison_started(&self, resource: Resource) {
        self.store().comparison_started(resource);
    }

    fn confirmed(&self, resource: Resource, meta: &Meta) -> bool {
        self.store().confirm(resource, meta)
    }

    fn received(&self, at: Option<Instant>) {
        *self.received.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn unconfirmed(&self, resource: Resource, max: usize) -> Vec<Meta> {
        self.store().unconfirmed(resource, max)
    }

    fn version_of(&self, resource: Resource, namespace: &str, name: &str) -> Option<Box<str>> {
        self.store().version_of(resource, namespace, name)
    }
}

/// A cluster with what feeds it: the feed stops when the last holder lets go.
pub struct Feed {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Whatever keeps its source running.
    pub source: Arc<dyn std::any::Any + Send + Sync>,
    /// The clusters of the same source.
    pub line: Arc<Line>,
}

#[cfg(test)]
mod tests;
