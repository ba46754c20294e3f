//! Pods: which were seen, and whose address is whose.

use hashbrown::HashMap;

use crate::cluster::clients::Client;
use crate::cluster::objects::{Meta, Object, Pod, PodLabels};
use crate::cluster::places::Place;
use crate::cluster::store::roster::{Entry, KEY_MAX, Roster};
use crate::cluster::store::{Key, Version, label, object_key};
use crate::cluster::table::Table;

/// A namespace that Pods with an address lie in.
struct Namespace {
    number: u32,
    pods: u32,
}

/// The writer's side of the Pods.
#[derive(Default)]
pub(super) struct Pods {
    roster: Roster,
    namespaces: HashMap<Key, Namespace>,
    /// The number of the last new namespace; none is given twice.
    last_number: u32,
    /// Whether names and labels are kept for readers.
    clients: bool,
}

impl Pods {
    /// None yet. With `clients`, readers may ask who has an address.
    pub(super) fn new(clients: bool) -> Self {
        Self {
            clients,
            ..Self::default()
        }
    }

    /// A list begins.
    pub(super) fn list_started(&mut self) {
        self.roster.forget_seen();
    }

    /// The Pods that neither the list nor an event since its start has named, at most so many.
    pub(super) fn unseen(&self, max: usize) -> Vec<(Key, Version)> {
        let unseen = self.roster.unseen(max).into_iter();
        unseen
            .map(|(key, entry)| (key, version_of(&entry)))
            .collect()
    }

    /// The version that a Pod is known in.
    pub(super) fn version_of(&self, key: &[u8]) -> Option<Version> {
        self.roster.get(key).as_ref().map(version_of)
    }

    /// Notes that a Pod exists. Whether it is known in exactly this version.
    pub(super) fn confirm(&mut self, key: &[u8], version: &Version) -> bool {
        let Some(old) = self.roster.get(key) else {
            return false;
        };
        if !old.seen {
            self.roster.set(key, Some(&Entry { seen: true, ..old }));
        }
        version_of(&old) == *version
    }

    /// Takes in a Pod; whether an address changed. With `trusted`, one whose version is known is as it was.
    pub(super) fn apply(
        &mut self,
        pod: &Pod,
        version: &Version,
        trusted: bool,
        table: &Table,
    ) -> bool {
        let key = object_key(&pod.meta.namespace, &pod.meta.name);
        let Some(namespace) = label(&pod.meta.namespace).filter(|_| key.len() <= KEY_MAX) else {
            // The API server has no such object.
            return false;
        };
        let old = self.roster.get(&key);
        let version = match version {
            Version::Number(number) => Some(*number),
            Version::Text(_) => None,
        };
        let new = match old {
            Some(old) if trusted && old.version.is_some() && old.version == version => old,
            // One that is going keeps its last address until it is gone, and gets none any more.
            Some(old) if pod.terminating && !pod.finished => Entry { going: true, ..old },
            _ => Entry {
                going: pod.terminating,
                host: pod.host_network,
                address: pod.ip.filter(|_| !pod.terminating && !pod.finished),
                ..Entry::default()
            },
        };
        let mut new = Entry {
            seen: true,
            version,
            ..new
        };
        if !self.place(&namespace, old.as_ref(), Some(&new), table) {
            // It cannot be answered for.
            new.address = None;
        }
        if old != Some(new) {
            self.roster.set(&key, Some(&new));
        }
        table.counts.pods.change(0, usize::from(old.is_none()));
        if self.clients {
            // Also where the version is known: what an earlier run has seen comes without labels.
            let client = Client {
                key: key.clone(),
                labels: pod.labels.clone(),
                going: new.going,
                host: new.host,
            };
            let new = new.address.map(|address| (address, client));
            table
                .clients
                .change(&key, old.and_then(|old| old.address), new);
        }
        old.and_then(|old| old.address) != new.address
    }

    /// Takes in a Pod that an earlier run has seen, and no list yet.
    pub(super) fn restore(&mut self, pod: &Pod, version: &Version, table: &Table) {
        if pod.terminating {
            // It had its address before it was on its way out, and keeps it.
            let running = Pod {
                terminating: false,
                ..pod.clone()
            };
            self.apply(&running, &Version::Text(Box::default()), true, table);
        }
        self.apply(pod, version, true, table);
        let key = object_key(&pod.meta.namespace, &pod.meta.name);
        if let Some(entry) = self.roster.get(&key) {
            let unseen = Entry {
                seen: false,
                ..entry
            };
            self.roster.set(&key, Some(&unseen));
        }
    }

    /// Adds Pods with an address behind this name, at most so many. Returns the last name looked at; none at the end.
    pub(super) fn export(&self, after: &[u8], max: usize, to: &mut Vec<Object>) -> Option<Key> {
        let mut last = None;
        for (key, entry) in self.roster.after(after, max) {
            to.extend(pod_of(&key, &entry));
            last = Some(key);
        }
        last
    }

    /// Takes a Pod away; whether it had an address.
    pub(super) fn remove(&mut self, key: &[u8], table: &Table) -> bool {
        let Some(old) = self.roster.get(key) else {
            return false;
        };
        self.roster.set(key, None);
        table.counts.pods.change(1, 0);
        let namespace = key.split(|&octet| octet == b'/').next();
        let namespace = namespace.and_then(|text| label(str::from_utf8(text).ok()?));
        if let Some(namespace) = namespace {
            self.place(&namespace, Some(&old), None, table);
        }
        if self.clients {
            table.clients.change(key, old.address, None);
        }
        old.address.is_some()
    }

    /// Changes the table; false if there is no number left for its namespace.
    fn place(
        &mut self,
        namespace: &[u8],
        old: Option<&Entry>,
        new: Option<&Entry>,
        table: &Table,
    ) -> bool {
        let like = |entry: &Entry| (entry.address, entry.going, entry.host);
        if old.map(like) == new.map(like) {
            return true;
        }
        let (old, new) = (
            old.and_then(|old| Some((old.address?, old))),
            new.and_then(|new| Some((new.address?, new))),
        );
        let Some(number) = self.number(namespace, new.is_some(), table) else {
            return new.is_none();
        };
        let place = |entry: &Entry| Place {
            namespace: number,
            going: entry.going,
            host: entry.host,
            pods: 1,
        };
        match (old, new) {
            (Some((before, old)), Some((after, new))) if before == after => {
                table
                    .places
                    .change(after, Some(place(old)), Some(place(new)));
            }
            (old, new) => {
                if let Some((address, new)) = new {
                    table.places.change(address, None, Some(place(new)));
                }
                if let Some((address, old)) = old {
                    table.places.change(address, Some(place(old)), None);
                }
            }
        }
        self.count(namespace, old.is_some(), new.is_some(), table);
        true
    }

    /// The number of a namespace, a new one if it needs one.
    fn number(&mut self, label: &[u8], needed: bool, table: &Table) -> Option<u32> {
        if let Some(known) = self.namespaces.get(label) {
            return Some(known.number);
        }
        let number = self.last_number.checked_add(1).filter(|_| needed)?;
        self.last_number = number;
        let namespace = Namespace { number, pods: 0 };
        self.namespaces.insert(label.into(), namespace);
        table.places.set_namespace(label, Some(number));
        Some(number)
    }

    /// Counts a Pod with an address out or in; a namespace without any is forgotten.
    fn count(&mut self, label: &[u8], out: bool, in_: bool, table: &Table) {
        let Some(namespace) = self.namespaces.get_mut(label) else {
            return;
        };
        namespace.pods = namespace
            .pods
            .saturating_add(u32::from(in_))
            .saturating_sub(u32::from(out));
        if namespace.pods == 0 {
            self.namespaces.remove(label);
            table.places.set_namespace(label, None);
        }
    }
}

/// A Pod as an object; none without an address.
fn pod_of(key: &[u8], entry: &Entry) -> Option<Object> {
    let (namespace, name) = str::from_utf8(key).ok()?.split_once('/')?;
    Some(Object::Pod(Pod {
        meta: Meta {
            namespace: namespace.into(),
            name: name.into(),
            resource_version: version_of(entry).to_text(),
        },
        ip: Some(entry.address?),
        terminating: entry.going,
        finished: false,
        host_network: entry.host,
        labels: PodLabels::default(),
    }))
}

/// The version of a Pod; an empty text where it was no number.
fn version_of(entry: &Entry) -> Version {
    entry
        .version
        .map_or_else(|| Version::Text(Box::default()), Version::Number)
}
