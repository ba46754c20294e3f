//! The store as objects again, a few at a time, and objects that no list has told.

use std::sync::Arc;

use super::imports::within;
use super::{Key, Seen, Store, Version, key_of, object_key};
use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Import, Meta, Object, Resource, Service, ServiceImport,
    ServiceKind,
};
use crate::cluster::table::{Alias, Backend, ExternalTarget, SliceView, Slot, Table, ViewKind};

/// Endpoints that one hold of the lock gives out, and the rest of a slice: well below a millisecond.
const BACKENDS_PER_HOLD: usize = 4096;

/// Objects that one hold of the lock gives out.
const OBJECTS_PER_HOLD: usize = 256;

/// What a table had, to be fetched from the store piece by piece. Holds names, not objects.
pub(in crate::cluster) struct Contents {
    namespaces: Vec<Box<[u8]>>,
    services: Vec<Arc<Slot>>,
    /// The last slice that was taken of the last of them; none before the Service itself.
    slice: Option<Key>,
    /// The last Pod that was taken.
    pod: Key,
    /// What other clusters export.
    imports: Option<Box<Self>>,
}

impl Contents {
    /// Looks without a lock. What comes later is not in it.
    pub(in crate::cluster) fn of(table: &Table) -> Self {
        let namespaces = table.namespaces.pin();
        let services = table.services.pin();
        Self {
            namespaces: namespaces.keys().cloned().collect(),
            services: services.iter().map(|named| Arc::clone(&named.0)).collect(),
            slice: None,
            pod: Box::default(),
            imports: table.imports().map(|imports| Box::new(Self::of(imports))),
        }
    }

    /// Takes some more objects off; false at the end. The lock that guards `store` is held meanwhile.
    pub(in crate::cluster) fn take(&mut self, store: &Store, to: &mut Vec<Object>) -> bool {
        let mut backends = 0;
        while to.len() < OBJECTS_PER_HOLD && backends < BACKENDS_PER_HOLD {
            if let Some(name) = self.namespaces.pop() {
                to.extend(store.namespace(&name));
            } else if let Some(slot) = self.services.last() {
                let left = (OBJECTS_PER_HOLD - to.len(), BACKENDS_PER_HOLD - backends);
                let before = to.len();
                self.slice = store.service(slot, self.slice.take(), left, to);
                backends += to[before..].iter().map(backends_of).sum::<usize>();
                if self.slice.is_none() {
                    self.services.pop();
                }
            } else {
                // Those are in order of their names, so the last one says where to go on.
                return match store.pods.export(&self.pod, OBJECTS_PER_HOLD, to) {
                    Some(last) => {
                        self.pod = last;
                        true
                    }
                    None => self.take_imports(store, to),
                };
            }
        }
        true
    }

    fn take_imports(&mut self, store: &Store, to: &mut Vec<Object>) -> bool {
        let (Some(contents), Some(imports)) = (&mut self.imports, &store.imports) else {
            return false;
        };
        let mut taken = Vec::new();
        let more = contents.take(imports, &mut taken);
        let taken = taken.into_iter();
        to.extend(taken.filter_map(|object| store.import_of(imports, object)));
        more
    }
}

impl Store {
    /// Takes in an object that an earlier run has seen. What a list or a watch has told since counts for more.
    pub(in crate::cluster) fn restore(&mut self, object: Object, table: &Table) -> bool {
        let resource = object.resource();
        if self.listed[resource as usize] || self.holds(object.meta(), resource) {
            return false;
        }
        let version = Version::of(&object.meta().resource_version);
        if let Object::Pod(pod) = &object {
            self.pods.restore(pod, &version, table);
            return true;
        }
        let seen = Seen {
            list: self.lists[resource as usize],
            version,
        };
        let key = key_of(resource, &object.meta().namespace, &object.meta().name);
        self.put(object, seen, table);
        if let Some(key) = key {
            self.unlist(resource, &key);
        }
        true
    }

    /// Makes a record one that the list which runs, if one does, has not named: its end takes it away.
    fn unlist(&mut self, resource: Resource, key: &Key) {
        if let (Some(imports), Some(resource)) = (&mut self.imports, within(resource)) {
            imports.unlist(resource, key);
        }
        let seen = match resource {
            Resource::Namespaces => self.namespaces.get_mut(key),
            Resource::Services => {
                let record = self.services.get_mut(&**key);
                let known = record.and_then(|record| record.service.as_mut());
                known.map(|known| &mut known.seen)
            }
            Resource::EndpointSlices => self.slices.get_mut(&**key).map(|record| &mut record.seen),
            // Pods have a mark of their own, and imports were done above.
            Resource::Pods | Resource::ServiceImports => None,
        };
        if let Some(seen) = seen {
            seen.list = self.lists[resource as usize].wrapping_sub(1);
        }
    }

    fn holds(&self, meta: &Meta, resource: Resource) -> bool {
        let Some(key) = key_of(resource, &meta.namespace, &meta.name) else {
            return false;
        };
        let imports = self.imports.as_deref().zip(within(resource));
        if imports.is_some_and(|(imports, resource)| imports.holds(meta, resource)) {
            return true;
        }
        match resource {
            Resource::Namespaces => self.namespaces.contains_key(&key),
            Resource::Services => {
                let record = self.services.get(&*key);
                record.is_some_and(|record| record.service.is_some())
            }
            Resource::EndpointSlices => self.slices.contains_key(&*key),
            Resource::Pods => self.pods.version_of(&key).is_some(),
            Resource::ServiceImports => false,
        }
    }

    /// An object of the store of imports as the API server has it; none for a slice that our own side gives out.
    fn import_of(&self, imports: &Self, object: Object) -> Option<Object> {
        match object {
            Object::Service(service) => Some(Object::ServiceImport(ServiceImport {
                meta: service.meta,
                kind: service.kind,
                ports: service.ports,
            })),
            Object::EndpointSlice(slice) => {
                let key = object_key(&slice.meta.namespace, &slice.meta.name);
                let import = imports.labels_of(&key).filter(|_| !self.has_slice(&key));
                Some(Object::EndpointSlice(EndpointSlice {
                    import: Some(import?),
                    service: Box::default(),
                    ..slice
                }))
            }
            other => Some(other),
        }
    }

    /// What a slice in the store of imports says of where it is from.
    fn labels_of(&self, key: &[u8]) -> Option<Import> {
        let (view, record) = self.slices.get_key_value(key)?;
        let labels = &record.service.labels;
        let service = labels.get(..=usize::from(*labels.first()?))?;
        let cluster = view.0.cluster().unwrap_or_default();
        Some(Import {
            service: label_text(service)?.into(),
            cluster: str::from_utf8(cluster).ok()?.into(),
        })
    }

    fn namespace(&self, name: &[u8]) -> Option<Object> {
        let seen = self.namespaces.get(name)?;
        Some(Object::Namespace(Meta {
            namespace: Box::default(),
            name: label_text(name)?.into(),
            resource_version: seen.version.to_text(),
        }))
    }

    /// A Service and its slices, as far as they are there; of those the ones behind `after`, if there is one. Ends
    /// soon after so many objects or endpoints, and then returns the last slice.
    fn service(
        &self,
        slot: &Slot,
        after: Option<Key>,
        (objects, mut backends): (usize, usize),
        to: &mut Vec<Object>,
    ) -> Option<Key> {
        let record = self.services.get(&*slot.labels)?;
        let own = &slot.labels[..=usize::from(slot.labels[0])];
        let (name, namespace) = (label_text(own)?, label_text(slot.namespace())?);
        let end = to.len() + objects;
        let view = record.view();
        if let (Some(known), None) = (&record.service, &after) {
            to.push(Object::Service(Service {
                meta: Meta {
                    namespace: namespace.into(),
                    name: name.into(),
                    resource_version: known.seen.version.to_text(),
                },
                kind: kind(&view.kind),
                ports: view.ports.to_vec(),
                external: external(view.external()),
            }));
        }
        let from = after.map_or(0, |after| {
            view.slices.partition_point(|slice| slice.key <= after)
        });
        let mut slices = view.slices[from..].iter().peekable();
        while let Some(view) = slices.next() {
            to.extend(self.slice(view, name));
            backends = backends.saturating_sub(view.len());
            if slices.peek().is_some() && (backends == 0 || to.len() >= end) {
                return Some(view.key.clone());
            }
        }
        None
    }

    fn slice(&self, view: &SliceView, service: &str) -> Option<Object> {
        let record = self.slices.get(&*view.key)?;
        let (namespace, name) = str::from_utf8(&view.key).ok()?.split_once('/')?;
        let endpoint = |(place, backend): (usize, Backend<'_>)| Endpoint {
            addresses: vec![backend.address],
            hostname: backend
                .name
                .and_then(|name| str::from_utf8(name).ok())
                .map(Into::into),
            target_name: None,
            ready: true,
            zone: view.zone_at(place),
        };
        Some(Object::EndpointSlice(EndpointSlice {
            meta: Meta {
                namespace: namespace.into(),
                name: name.into(),
                resource_version: record.seen.version.to_text(),
            },
            service: service.into(),
            import: self
                .imports
                .as_deref()
                .and_then(|imports| imports.labels_of(&view.key)),
            ports: view.ports.to_vec(),
            endpoints: view.backends().enumerate().map(endpoint).collect(),
            // What a change was caused by is of no use to another process.
            trigger_time: None,
        }))
    }
}

fn backends_of(object: &Object) -> usize {
    match object {
        Object::EndpointSlice(slice) => slice.endpoints.len(),
        _ => 0,
    }
}

/// What a Service's name stands for, as an object has it.
fn kind(kind: &ViewKind) -> ServiceKind {
    match kind {
        ViewKind::ClusterIp(addresses) => ServiceKind::ClusterIp(addresses.to_vec()),
        // Only slices are without their Service, and those are not asked for here.
        ViewKind::Headless | ViewKind::Absent => ServiceKind::Headless,
        ViewKind::ExternalName(Alias::Name(name)) => {
            ServiceKind::ExternalName(name.to_string().into())
        }
        ViewKind::ExternalName(Alias::Address(text) | Alias::Broken(text)) => {
            ServiceKind::ExternalName(text.clone())
        }
    }
}

/// What a Service is from outside of the cluster, as an object has it.
fn external(targets: &[ExternalTarget]) -> Vec<External> {
    let targets = targets.iter().map(|target| match target {
        ExternalTarget::Address(address) => External::Address(*address),
        ExternalTarget::Name(name) => External::Hostname(name.to_string().into()),
    });
    targets.collect()
}

/// `shop` from `\4shop`.
fn label_text(label: &[u8]) -> Option<&str> {
    str::from_utf8(label.get(1..)?).ok()
}
