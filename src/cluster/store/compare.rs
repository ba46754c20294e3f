//! What is known, for who compares it with the source: versions by name, and what a list did not name.

use std::borrow::Borrow;

use super::{Key, Seen, Store, Version, label, object_key, service_key};
use crate::cluster::objects::{Meta, Object, Resource};

impl Store {
    /// The objects that a comparison confirms from here on are told from those that it does not.
    pub(in crate::cluster) fn comparison_started(&mut self, resource: Resource) {
        // The same stamp as a list's: both name what exists, and a list that begins makes a comparison pointless.
        self.list_started(resource);
    }

    /// Notes that the source has this object. Whether it is known in exactly this version.
    pub(in crate::cluster) fn confirm(&mut self, resource: Resource, meta: &Meta) -> bool {
        if resource == Resource::Pods {
            return self.pods.confirm(
                &object_key(&meta.namespace, &meta.name),
                &Version::of(&meta.resource_version),
            );
        }
        let imported = self.confirm_import(resource, meta);
        let list = self.lists[resource as usize];
        let Some(seen) = self.seen_mut(resource, &meta.namespace, &meta.name) else {
            return imported;
        };
        seen.list = list;
        seen.version == Version::of(&meta.resource_version)
    }

    /// The version that an object is known in; none if it is not known.
    pub(in crate::cluster) fn version_of(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Box<str>> {
        let version = self.known_version(resource, namespace, name)?;
        Some(version.to_text())
    }

    /// Whether an event is told again, or late: only a list may take us back.
    pub(in crate::cluster) fn is_newer_than(&self, object: &Object) -> bool {
        let meta = object.meta();
        let known = self.known_version(object.resource(), &meta.namespace, &meta.name);
        match (known, Version::of(&meta.resource_version)) {
            (Some(Version::Number(known)), Version::Number(new)) => known > new,
            _ => false,
        }
    }

    pub(super) fn known_version(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Version> {
        let key = key_of(resource, namespace, name)?;
        let seen = match resource {
            Resource::Namespaces => self.namespaces.get(&key),
            Resource::Services => {
                let record = self.services.get(&*key)?;
                record.service.as_ref().map(|known| &known.seen)
            }
            Resource::EndpointSlices => self.slices.get(&*key).map(|record| &record.seen),
            Resource::Pods => return self.pods.version_of(&key),
            Resource::ServiceImports => None,
        };
        seen.map(|seen| seen.version.clone())
            .or_else(|| self.import_version(resource, namespace, name))
    }

    /// What the comparison has not confirmed, at most so many.
    pub(in crate::cluster) fn unconfirmed(&self, resource: Resource, max: usize) -> Vec<Meta> {
        let list = self.lists[resource as usize];
        let take = |(key, seen): (&[u8], &Seen)| {
            (seen.list != list).then(|| meta_of(resource, key, &seen.version))
        };
        match resource {
            Resource::Namespaces => self
                .namespaces
                .iter()
                .map(|(key, seen)| (&**key, seen))
                .filter_map(take)
                .take(max)
                .collect(),
            Resource::Services => {
                let known = self.services.iter();
                let known = known.filter_map(|(key, record)| {
                    Some((key.borrow(), &record.service.as_ref()?.seen))
                });
                known.filter_map(take).take(max).collect()
            }
            Resource::EndpointSlices => {
                let known = self.slices.iter();
                let known = known.map(|(key, record)| (key.borrow(), &record.seen));
                let own = known.filter_map(take);
                // A slice on both sides is named once.
                let imported = self.unconfirmed_imports(resource, max).into_iter();
                let imported = imported
                    .filter(|meta| !self.has_slice(&object_key(&meta.namespace, &meta.name)));
                own.chain(imported).take(max).collect()
            }
            Resource::Pods => {
                let unseen = self.pods.unseen(max).into_iter();
                unseen
                    .map(|(key, version)| meta_of(resource, &key, &version))
                    .collect()
            }
            Resource::ServiceImports => self.unconfirmed_imports(resource, max),
        }
    }

    fn seen_mut(&mut self, resource: Resource, namespace: &str, name: &str) -> Option<&mut Seen> {
        let key = key_of(resource, namespace, name)?;
        match resource {
            Resource::Namespaces => self.namespaces.get_mut(&key),
            Resource::Services => {
                let record = self.services.get_mut(&*key)?;
                record.service.as_mut().map(|known| &mut known.seen)
            }
            Resource::EndpointSlices => self.slices.get_mut(&*key).map(|record| &mut record.seen),
            Resource::Pods | Resource::ServiceImports => None,
        }
    }
}

/// How an object is found; none if it can have no record.
pub(super) fn key_of(resource: Resource, namespace: &str, name: &str) -> Option<Key> {
    match resource {
        Resource::Namespaces => label(name).map(Key::from),
        Resource::Services | Resource::ServiceImports => service_key(name, namespace),
        Resource::EndpointSlices | Resource::Pods => Some(object_key(namespace, name)),
    }
}

/// Back from a key to names. Those of Services and Namespaces are lower case in the API too.
fn meta_of(resource: Resource, key: &[u8], version: &Version) -> Meta {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into();
    let (namespace, name) = match resource {
        Resource::Namespaces => (&[][..], &key[1..]),
        Resource::Services | Resource::ServiceImports => {
            let end = 1 + usize::from(key[0]);
            (&key[end + 1..], &key[1..end])
        }
        Resource::EndpointSlices | Resource::Pods => {
            let end = key.iter().position(|&octet| octet == b'/');
            let end = end.expect("the key of an object has a slash");
            (&key[..end], &key[end + 1..])
        }
    };
    Meta {
        namespace: text(namespace),
        name: text(name),
        resource_version: version.to_text(),
    }
}
