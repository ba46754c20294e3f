//! The writer's side: what was seen, and how one change becomes a few changed entries of the table.
//!
//! Each object leaves a record: its version, the list it was last seen in, and what it put into the table. A relist is
//! a difference: an object whose version is known is stamped and otherwise left alone; what was not stamped when the
//! list ends is gone. So answers never flicker, and nothing is held twice.

mod compare;

/// The store as objects again.
pub(in crate::cluster) mod export;

mod imports;
mod pods;
mod roster;
mod service;

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::{HashMap, HashSet};

use crate::cluster::Keep;
use crate::cluster::objects::{EndpointSlice, Meta, Object, Port, Resource, Service};
use crate::cluster::status::kind_name;
use crate::cluster::store::compare::key_of;
use crate::cluster::store::pods::Pods;
use crate::cluster::store::service::{
    Known, Own, ServiceRecord, external_targets, record_of, slice_view, view_kind,
};
use crate::cluster::table::origin::{Origin, Zones};
use crate::cluster::table::{Keyed, Named, Ports, Slot, Table};
use crate::cluster::trigger::Stamp;
use crate::wire::name::LABEL_MAX;

/// Values that objects share are kept without a look for unused ones up to here.
const SHARED_MIN: usize = 1024;

/// A namespaced object: namespace and name, each as a label in lower case.
type Key = Box<[u8]>;

/// What a change means to those who watch the table from outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Change {
    /// The zone's content differs: its serial moves.
    pub zone: bool,
    /// What Services are from outside of the cluster differs.
    pub external: bool,
    /// What is imported from other clusters differs.
    pub imports: bool,
    /// An EndpointSlice changed that was stamped with the time of its cause.
    pub trigger: Option<Trigger>,
    /// The kind of the Service that it is about, if that is known.
    pub kind: Option<&'static str>,
    /// Why the object can have no name in DNS.
    pub unusable: Option<&'static str>,
}

impl Change {
    fn unusable(reason: &'static str) -> Self {
        Self {
            unusable: Some(reason),
            ..Self::default()
        }
    }
}

/// The cause of a slice's change.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cluster) struct Trigger {
    pub headless: bool,
    /// Or the text that is no time.
    pub time: Result<SystemTime, Box<str>>,
}

/// When a record was last seen, and in which version.
struct Seen {
    list: u32,
    version: Version,
}

/// A resource version: opaque text, mostly a number, which takes no memory of its own.
#[derive(Clone, PartialEq, Eq)]
enum Version {
    Number(u64),
    /// Also numbers in another than their shortest form; empty where the source has none.
    Text(Box<str>),
}

impl Version {
    fn of(text: &str) -> Self {
        match text.parse() {
            // Only what the number alone brings back.
            Ok(number) if text.starts_with(|first| ('1'..='9').contains(&first)) => {
                Self::Number(number)
            }
            _ => Self::Text(text.into()),
        }
    }

    fn is_absent(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    fn to_text(&self) -> Box<str> {
        match self {
            Self::Number(number) => number.to_string().into(),
            Self::Text(text) => text.clone(),
        }
    }
}

struct SliceRecord {
    seen: Seen,
    /// The Service it belongs to.
    service: Arc<Slot>,
    caused: Stamp,
}

/// Every object seen, and the table they make up.
pub(in crate::cluster) struct Store {
    keep: Keep,
    lists: [u32; Resource::COUNT],
    /// Which of them have come to their end once.
    listed: [bool; Resource::COUNT],
    /// The versions of what was seen before stand for other things by now.
    distrusted: [bool; Resource::COUNT],
    namespaces: HashMap<Key, Seen>,
    services: HashMap<Named, Box<ServiceRecord>>,
    slices: HashMap<Keyed, SliceRecord>,
    pods: Pods,
    ports: HashSet<Ports>,
    /// Topology zones as labels, shared by the slices.
    zones: HashSet<Arc<[u8]>>,
    /// How many of each there may be before those that nothing has any more are looked for.
    ports_max: usize,
    zones_max: usize,
    /// ServiceImports, and the slices behind them.
    imports: Option<Box<Self>>,
}

/// `\4shop` from `Shop`; none if it is no label.
fn label(text: &str) -> Option<Vec<u8>> {
    let mut label = Vec::with_capacity(1 + text.len());
    push_label(&mut label, text).then_some(label)
}

fn push_label(to: &mut Vec<u8>, text: &str) -> bool {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    if length == 0 || usize::from(length) > LABEL_MAX || text.contains('.') {
        return false;
    }
    to.push(length);
    to.extend(text.bytes().map(|octet| octet.to_ascii_lowercase()));
    true
}

/// `\3web\4shop`; none if either is no label, so that no name can lead to it.
fn service_key(service: &str, namespace: &str) -> Option<Key> {
    let mut key = Vec::with_capacity(2 + service.len() + namespace.len());
    (push_label(&mut key, service) && push_label(&mut key, namespace)).then(|| key.into())
}

/// Identifies an object within its resource. Names of slices and pods may have dots.
fn object_key(namespace: &str, name: &str) -> Key {
    let mut key = Vec::with_capacity(1 + namespace.len() + name.len());
    key.extend_from_slice(namespace.as_bytes());
    key.push(b'/');
    key.extend_from_slice(name.as_bytes());
    key.into()
}

impl Store {
    pub(in crate::cluster) fn new(keep: Keep) -> Self {
        Self {
            keep,
            lists: [0; Resource::COUNT],
            listed: [false; Resource::COUNT],
            distrusted: [false; Resource::COUNT],
            namespaces: HashMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            pods: Pods::new(keep.clients),
            ports: HashSet::new(),
            zones: HashSet::new(),
            ports_max: SHARED_MIN,
            zones_max: SHARED_MIN,
            imports: imports::store(keep),
        }
    }

    pub(in crate::cluster) fn list_started(&mut self, resource: Resource) {
        let list = &mut self.lists[resource as usize];
        *list = list.wrapping_add(1);
        if resource == Resource::Pods {
            self.pods.list_started();
        }
        self.imports_list_started(resource);
    }

    /// Equal versions say nothing until the next list is complete.
    pub(in crate::cluster) fn history_changed(&mut self, resource: Resource) {
        self.distrusted[resource as usize] = true;
    }

    /// Takes away what the list that ends here did not name.
    pub(in crate::cluster) fn list_finished(
        &mut self,
        resource: Resource,
        table: &Table,
    ) -> Change {
        self.listed[resource as usize] = true;
        self.distrusted[resource as usize] = false;
        let list = self.lists[resource as usize];
        let gone = |seen: &Seen| seen.list != list;
        let keys: Vec<Key> = match resource {
            Resource::Namespaces => unseen(
                self.namespaces.iter().map(|(key, seen)| (&**key, seen)),
                gone,
            ),
            Resource::Services => {
                let known = self.services.iter();
                let known = known.filter_map(|(key, record)| {
                    Some((key.borrow(), &record.service.as_ref()?.seen))
                });
                unseen(known, gone)
            }
            Resource::EndpointSlices => unseen(
                self.slices
                    .iter()
                    .map(|(key, record)| (key.borrow(), &record.seen)),
                gone,
            ),
            Resource::Pods => {
                let unseen = self.pods.unseen(usize::MAX).into_iter();
                unseen.map(|(key, _)| key).collect()
            }
            Resource::ServiceImports => Vec::new(),
        };
        let mut change = self.imports_list_finished(resource, table);
        for key in keys {
            let removed = self.remove(resource, &key, table);
            change.zone |= removed.zone;
            change.external |= removed.external;
        }
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.zones.retain(|zone| Arc::strong_count(zone) > 1);
        change
    }

    /// Takes in an object of the running list, or one that changed.
    pub(in crate::cluster) fn apply(&mut self, object: Object, table: &Table) -> Change {
        let seen = Seen {
            list: self.lists[object.resource() as usize],
            version: Version::of(&object.meta().resource_version),
        };
        self.put(object, seen, table)
    }

    fn put(&mut self, object: Object, seen: Seen, table: &Table) -> Change {
        let trusted = !self.distrusted[object.resource() as usize];
        match object {
            Object::Namespace(meta) => self.apply_namespace(&meta, seen, table),
            Object::Service(service) => self.apply_service(service, seen, trusted, table),
            Object::EndpointSlice(slice) => self.apply_any_slice(slice, seen, trusted, table),
            Object::Pod(pod) => Change {
                zone: self.pods.apply(&pod, &seen.version, trusted, table),
                ..Change::default()
            },
            Object::ServiceImport(import) => self.apply_import(import, seen, trusted, table),
        }
    }

    /// Takes an object away.
    pub(in crate::cluster) fn delete(
        &mut self,
        resource: Resource,
        namespace: &str,
        name: &str,
        table: &Table,
    ) -> Change {
        let key = key_of(resource, namespace, name);
        key.map_or_else(Change::default, |key| self.remove(resource, &key, table))
    }

    fn remove(&mut self, resource: Resource, key: &[u8], table: &Table) -> Change {
        let zone = match resource {
            Resource::Namespaces => {
                let existed = self.namespaces.remove(key).is_some();
                if existed {
                    table.namespaces.pin().remove(key);
                }
                existed
            }
            Resource::Services => return self.remove_service(key, table),
            Resource::EndpointSlices => return self.remove_any_slice(key, table),
            Resource::Pods => self.pods.remove(key, table),
            Resource::ServiceImports => return self.remove_import(key, table),
        };
        Change {
            zone,
            external: zone && resource == Resource::Namespaces,
            ..Change::default()
        }
    }

    fn apply_namespace(&mut self, meta: &Meta, seen: Seen, table: &Table) -> Change {
        let Some(label) = label(&meta.name) else {
            return Change::unusable("name");
        };
        let is_new = self.namespaces.insert(label.clone().into(), seen).is_none();
        if is_new {
            table.namespaces.pin().insert(label.into(), ());
        }
        // A Service may be known before its namespace is, and shows only from here on. CoreDNS leaves the serial.
        Change {
            zone: is_new,
            external: is_new,
            ..Change::default()
        }
    }

    fn apply_service(
        &mut self,
        service: Service,
        seen: Seen,
        trusted: bool,
        table: &Table,
    ) -> Change {
        let Some(key) = service_key(&service.meta.name, &service.meta.namespace) else {
            return Change::unusable("name");
        };
        let ports = self.intern(service.ports);
        let kept = self.keep.external.then_some(service.external.as_slice());
        let external = kept.and_then(external_targets);
        let own = Own {
            kind: view_kind(&service.kind),
            ports,
            external,
        };
        let record = record_of(&mut self.services, &key, table);
        let mut change = Change {
            zone: true,
            external: own.external.is_some(),
            kind: kind_name(&own.kind),
            ..Change::default()
        };
        let view = record.view();
        if let Some(known) = record.service.as_mut() {
            change.zone = view.kind != own.kind || view.ports != own.ports;
            // Ports show from outside only where the Service does.
            change.external =
                view.external != own.external || view.ports != own.ports && own.external.is_some();
            if trusted && known.seen.is_same(&seen) || !change.zone && !change.external {
                known.seen = seen;
                return Change::default();
            }
        }
        drop(view);
        let is_new = record.service.is_none();
        table.counts.services.change(0, usize::from(is_new));
        record.service = Some(Known { seen });
        record.replace_own(own, table);
        change
    }

    fn remove_service(&mut self, key: &[u8], table: &Table) -> Change {
        let Some(record) = self.services.get_mut(key) else {
            return Change::default();
        };
        if record.service.take().is_none() {
            return Change::default();
        }
        table.counts.services.change(1, 0);
        let change = Change {
            zone: true,
            external: record.view().external.is_some(),
            kind: kind_name(&record.view().kind),
            ..Change::default()
        };
        record.replace_own(Own::absent(), table);
        self.drop_if_empty(key, table);
        change
    }

    fn apply_slice(
        &mut self,
        slice: EndpointSlice,
        seen: Seen,
        trusted: bool,
        table: &Table,
    ) -> Change {
        let key = object_key(&slice.meta.namespace, &slice.meta.name);
        if let Some(record) = self.slices.get_mut(&*key)
            && trusted
            && record.seen.is_same(&seen)
        {
            record.seen = seen;
            return Change::default();
        }
        let Some(service) = service_key(&slice.service, &slice.meta.namespace) else {
            // Without a Service to name it there is nothing to answer; it may have had one before.
            return Change {
                unusable: slice.import.is_none().then_some("no_service"),
                ..self.remove_slice(&key, table)
            };
        };
        let ports = self.intern(slice.ports.clone());
        let known = &mut self.zones;
        sweep(known, &mut self.zones_max);
        let zones = self.keep.zones.then(|| Zones::of(&slice, known)).flatten();
        let view = slice_view(&slice, ports, self.keep.pod_names).with_origin(Origin {
            cluster: imports::cluster_of(&slice),
            zones,
        });
        let caused = Stamp::of(slice.trigger_time.as_deref());
        if let Some((known, record)) = self.slices.get_key_value_mut(&*key) {
            let moved = *record.service.labels != *service;
            if !moved && *known.0 == view {
                record.seen = seen;
                record.caused = caused;
                return Change::default();
            }
            if moved {
                self.remove_slice(&key, table);
            }
        }
        let view = Arc::new(view);
        let record = record_of(&mut self.services, &service, table);
        record.replace_slice(&key, Some(Arc::clone(&view)), table);
        let time = slice.trigger_time;
        let trigger = time.and_then(|text| record.trigger(caused.time().ok_or(text)));
        let kind = record.kind_name();
        let endpoints = view.len();
        let slice = SliceRecord {
            seen,
            service: Arc::clone(&record.slot),
            caused,
        };
        // The key is part of the view, and goes with it.
        let old = self.slices.remove_entry(&*key);
        self.slices.insert(Keyed(view), slice);
        let old_endpoints = old.as_ref().map_or(0, |(old, _)| old.0.len());
        table.counts.endpoints.change(old_endpoints, endpoints);
        let is_new = usize::from(old.is_none());
        table.counts.endpoint_slices.change(0, is_new);
        Change {
            zone: true,
            trigger,
            kind,
            ..Change::default()
        }
    }

    fn remove_slice(&mut self, key: &[u8], table: &Table) -> Change {
        let Some((view, slice)) = self.slices.remove_entry(key) else {
            return Change::default();
        };
        table.counts.endpoint_slices.change(1, 0);
        table.counts.endpoints.change(view.0.len(), 0);
        let Some(record) = self.services.get_mut(&*slice.service.labels) else {
            return Change::default();
        };
        record.replace_slice(key, None, table);
        let caused = slice.caused.time();
        let trigger = caused.and_then(|time| record.trigger(Ok(time)));
        let kind = record.kind_name();
        self.drop_if_empty(&slice.service.labels, table);
        Change {
            zone: true,
            trigger,
            kind,
            ..Change::default()
        }
    }

    fn intern(&mut self, mut ports: Vec<Port>) -> Ports {
        if let Some(known) = self.ports.get(&ports) {
            return Arc::clone(known);
        }
        sweep(&mut self.ports, &mut self.ports_max);
        ports.shrink_to_fit();
        let ports = Arc::new(ports);
        self.ports.insert(Arc::clone(&ports));
        ports
    }

    fn drop_if_empty(&mut self, key: &[u8], table: &Table) {
        if self
            .services
            .get(key)
            .is_some_and(|record| record.is_empty())
        {
            self.services.remove(key);
            table.services.pin().remove(key);
        }
    }
}

/// Forgets the shared values that nothing has any more, once there are twice as many as were left the last time. Lists do
/// it too, but there may be weeks between two of them.
fn sweep<T: Eq + Hash + ?Sized>(known: &mut HashSet<Arc<T>>, max: &mut usize) {
    if known.len() >= *max {
        known.retain(|value| Arc::strong_count(value) > 1);
        *max = (2 * known.len()).max(SHARED_MIN);
    }
}

fn unseen<'r>(
    records: impl Iterator<Item = (&'r [u8], &'r Seen)>,
    gone: impl Fn(&Seen) -> bool,
) -> Vec<Key> {
    let unseen = records.filter(|(_, seen)| gone(seen));
    unseen.map(|(key, _)| key.into()).collect()
}

impl Seen {
    /// Versions are opaque, and absent where the source has none.
    fn is_same(&self, new: &Self) -> bool {
        !self.version.is_absent() && self.version == new.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::objects::Endpoint;

    #[test]
    fn ports_and_zones_that_change_without_end_leave_nothing_behind() {
        let keep = Keep {
            zones: true,
            ..Keep::default()
        };
        let (mut store, table) = (Store::new(keep), Table::new(keep));
        let endpoint = Endpoint {
            addresses: vec![[10, 1, 0, 1].into()],
            hostname: None,
            target_name: None,
            ready: true,
            zone: None,
        };
        for round in 0..3 * SHARED_MIN {
            let slice = EndpointSlice {
                meta: Meta {
                    namespace: "shop".into(),
                    name: "web".into(),
                    resource_version: Box::default(),
                },
                service: "web".into(),
                import: None,
                ports: vec![Port {
                    name: format!("p{round}").into(),
                    protocol: "TCP".into(),
                    number: Some(80),
                }],
                endpoints: vec![Endpoint {
                    zone: Some(format!("z{round}").into()),
                    ..endpoint.clone()
                }],
                trigger_time: None,
            };
            store.apply(Object::EndpointSlice(slice), &table);
        }
        assert!(store.ports.len() <= SHARED_MIN && store.zones.len() <= SHARED_MIN);
        let view = table.service(b"\x03web\x04shop").expect("it is there");
        let slice = &view.slices[0];
        assert_eq!(&*slice.ports[0].name, format!("p{}", 3 * SHARED_MIN - 1));
        assert!(slice.zone_at(0).is_some());
    }

    #[test]
    fn versions_are_the_same_only_if_their_text_is() {
        let texts = [
            "7",
            "07",
            "+7",
            "0",
            "00",
            "18446744073709551615",
            "18446744073709551616",
            "x",
            "",
        ];
        for (at, left) in texts.iter().enumerate() {
            for (other, right) in texts.iter().enumerate() {
                assert_eq!(
                    Version::of(left) == Version::of(right),
                    at == other,
                    "{left} {right}"
                );
            }
        }
        assert!(Version::of("").is_absent());
        assert!(!Version::of("0").is_absent());
    }
}
