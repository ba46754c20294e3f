//! A sink that keeps what it hears, and lets a test wait for it.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fingerpost::cluster::objects::{Meta, Object, Resource};
use fingerpost::cluster::{Inventory, ObjectSink};

/// Far longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

type Key = (Resource, String, String);

/// What a sink knows.
#[derive(Default)]
pub struct Heard {
    /// Everything that exists.
    pub objects: BTreeMap<Key, Object>,
    /// Complete lists, by resource.
    pub lists: BTreeMap<Resource, usize>,
    /// What the current list named so far.
    listed: BTreeMap<Resource, BTreeSet<Key>>,
}

impl Heard {
    /// The names of one resource, `namespace/name`.
    pub fn names(&self, resource: Resource) -> Vec<String> {
        let of = |key: &&Key| key.0 == resource;
        self.objects
            .keys()
            .filter(of)
            .map(|(_, space, name)| format!("{space}/{name}"))
            .collect()
    }

    /// An object.
    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<&Object> {
        self.objects
            .get(&(resource, namespace.to_owned(), name.to_owned()))
    }

    /// Complete lists of a resource.
    pub fn lists_of(&self, resource: Resource) -> usize {
        self.lists.get(&resource).copied().unwrap_or(0)
    }
}

/// The sink.
#[derive(Default)]
pub struct Recorder {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Recorder {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until what was heard is as it should be.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&Heard) -> bool) {
        let mut heard = self.heard.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&heard) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited in vain for {what}; objects: {:?}",
                heard.objects.keys()
            );
            heard = self.changed.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Looks at what was heard.
    pub fn look<T>(&self, at: impl FnOnce(&Heard) -> T) -> T {
        at(&self.heard.lock().unwrap())
    }

    /// Changes what was heard behind the back of who tells it.
    pub fn meddle(&self, with: impl FnOnce(&mut Heard)) {
        self.change(with);
    }

    fn change(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.lock().unwrap());
        self.changed.notify_all();
    }
}

fn key(object: &Object) -> Key {
    let meta = object.meta();
    (
        object.resource(),
        meta.namespace.to_string(),
        meta.name.to_string(),
    )
}

impl ObjectSink for Recorder {
    fn list_started(&self, resource: Resource) {
        self.change(|heard| drop(heard.listed.insert(resource, BTreeSet::new())));
    }

    fn listed(&self, object: Object) {
        self.change(|heard| {
            let key = key(&object);
            heard.listed.entry(key.0).or_default().insert(key.clone());
            heard.objects.insert(key, object);
        });
    }

    fn list_finished(&self, resource: Resource) {
        self.change(|heard| {
            let named = heard
                .listed
                .remove(&resource)
                .expect("a list that ends has begun");
            heard
                .objects
                .retain(|key, _| key.0 != resource || named.contains(key));
            *heard.lists.entry(resource).or_default() += 1;
        });
    }

    fn applied(&self, object: Object) {
        self.change(|heard| drop(heard.objects.insert(key(&object), object)));
    }

    fn deleted(&self, resource: Resource, namespace: &str, name: &str) {
        self.change(|heard| {
            heard
                .objects
                .remove(&(resource, namespace.to_owned(), name.to_owned()));
        });
    }
}

impl Inventory for Recorder {
    fn comparison_started(&self, resource: Resource) {
        self.change(|heard| drop(heard.listed.insert(resource, BTreeSet::new())));
    }

    fn confirmed(&self, resource: Resource, meta: &Meta) -> bool {
        let key = (resource, meta.namespace.to_string(), meta.name.to_string());
        let mut heard = self.heard.lock().unwrap();
        let known = heard.objects.get(&key);
        let same = known.is_some_and(|object| object.meta() == meta);
        heard.listed.entry(resource).or_default().insert(key);
        same
    }

    fn received(&self, _: Option<Instant>) {}

    fn unconfirmed(&self, resource: Resource, max: usize) -> Vec<Meta> {
        self.look(|heard| {
            let named = &heard.listed[&resource];
            let unnamed = heard
                .objects
                .iter()
                .filter(|(key, _)| key.0 == resource && !named.contains(key));
            unnamed
                .map(|(_, object)| object.meta().clone())
                .take(max)
                .collect()
        })
    }

    fn version_of(&self, resource: Resource, namespace: &str, name: &str) -> Option<Box<str>> {
        self.look(|heard| {
            heard
                .get(resource, namespace, name)
                .map(|object| object.meta().resource_version.clone())
        })
    }
}
