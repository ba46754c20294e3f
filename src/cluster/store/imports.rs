//! What other clusters export: ServiceImports and the slices behind them.
//!
//! They are as Services and their slices are, under the same names, so they have a store and a table of their own, of the
//! same make. A slice may belong to a Service and to a ServiceImport; each side then has a record of it.

use super::{Change, Key, Seen, Store, Version, label};
use crate::cluster::Keep;
use crate::cluster::objects::{EndpointSlice, Meta, Resource, Service, ServiceImport};
use crate::cluster::table::Table;

/// The store of imports, if they are kept.
pub(super) fn store(keep: Keep) -> Option<Box<Store>> {
    let within = Keep {
        pod_names: keep.pod_names,
        ..Keep::default()
    };
    keep.imports.then(|| Box::new(Store::new(within)))
}

/// The cluster that a slice comes from, as a label. What is no label cannot be asked for, and is as none.
pub(super) fn cluster_of(slice: &EndpointSlice) -> Option<Box<[u8]>> {
    let cluster = label(&slice.import.as_ref()?.cluster)?;
    Some(cluster[1..].into())
}

/// What a resource is to the store of imports; none if it has no part in it.
pub(super) fn within(resource: Resource) -> Option<Resource> {
    match resource {
        Resource::ServiceImports => Some(Resource::Services),
        Resource::EndpointSlices => Some(Resource::EndpointSlices),
        Resource::Namespaces | Resource::Services | Resource::Pods => None,
    }
}

/// A change within, as it is seen from outside. Both serials move: that of the cluster's own zone counts everything.
fn seen_from_outside(change: &Change) -> Change {
    Change {
        zone: change.zone,
        imports: change.zone,
        ..Change::default()
    }
}

impl Store {
    /// The store of imports with its table, and what the resource is to it.
    fn imports<'t>(
        &mut self,
        resource: Resource,
        table: &'t Table,
    ) -> Option<(&mut Self, &'t Table, Resource)> {
        let (imports, resource) = (self.imports.as_deref_mut()?, within(resource)?);
        Some((imports, table.imports()?, resource))
    }

    pub(super) fn imports_list_started(&mut self, resource: Resource) {
        if let (Some(imports), Some(resource)) = (&mut self.imports, within(resource)) {
            imports.list_started(resource);
        }
    }

    pub(super) fn imports_list_finished(&mut self, resource: Resource, table: &Table) -> Change {
        let imports = self.imports(resource, table);
        imports.map_or_else(Change::default, |(imports, table, resource)| {
            seen_from_outside(&imports.list_finished(resource, table))
        })
    }

    pub(super) fn apply_import(
        &mut self,
        import: ServiceImport,
        seen: Seen,
        trusted: bool,
        table: &Table,
    ) -> Change {
        let Some((imports, table, _)) = self.imports(Resource::ServiceImports, table) else {
            return Change::default();
        };
        let service = Service {
            meta: import.meta,
            kind: import.kind,
            ports: import.ports,
            external: Vec::new(),
        };
        let seen = imports.seen(Resource::Services, seen.version);
        seen_from_outside(&imports.apply_service(service, seen, trusted, table))
    }

    pub(super) fn remove_import(&mut self, key: &[u8], table: &Table) -> Change {
        let imports = self.imports(Resource::ServiceImports, table);
        imports.map_or_else(Change::default, |(imports, table, _)| {
            seen_from_outside(&imports.remove_service(key, table))
        })
    }

    /// A slice of a Service, of a ServiceImport, of both or of neither.
    pub(super) fn apply_any_slice(
        &mut self,
        mut slice: EndpointSlice,
        seen: Seen,
        trusted: bool,
        table: &Table,
    ) -> Change {
        let import = slice.import.take();
        let mut change = Change::default();
        if let Some((imports, table, resource)) = self.imports(Resource::EndpointSlices, table) {
            let imported = match import {
                Some(import) => {
                    let slice = EndpointSlice {
                        service: import.service.clone(),
                        import: Some(import),
                        ..slice.clone()
                    };
                    let seen = imports.seen(resource, seen.version.clone());
                    imports.apply_slice(slice, seen, trusted, table)
                }
                // It may have been one before.
                None => imports.delete(resource, &slice.meta.namespace, &slice.meta.name, table),
            };
            change = seen_from_outside(&imported);
        }
        if self.keep.imported_slices_only {
            return change;
        }
        let own = self.apply_slice(slice, seen, trusted, table);
        Change {
            zone: own.zone || change.zone,
            imports: change.imports,
            ..own
        }
    }

    pub(super) fn remove_any_slice(&mut self, key: &[u8], table: &Table) -> Change {
        let imports = self.imports(Resource::EndpointSlices, table);
        let imported = imports.map_or_else(Change::default, |(imports, table, _)| {
            seen_from_outside(&imports.remove_slice(key, table))
        });
        let own = self.remove_slice(key, table);
        Change {
            zone: own.zone || imported.zone,
            imports: imported.imports,
            ..own
        }
    }

    /// Marks an object as one that the comparison confirmed. Whether it is known as an import in this version.
    pub(super) fn confirm_import(&mut self, resource: Resource, meta: &Meta) -> bool {
        match (&mut self.imports, within(resource)) {
            (Some(imports), Some(resource)) => imports.confirm(resource, meta),
            _ => false,
        }
    }

    /// The version that an import is known in.
    pub(super) fn import_version(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Version> {
        let imports = self.imports.as_deref()?;
        imports.known_version(within(resource)?, namespace, name)
    }

    /// Imports that a comparison has not confirmed, at most so many.
    pub(super) fn unconfirmed_imports(&self, resource: Resource, max: usize) -> Vec<Meta> {
        match (&self.imports, within(resource)) {
            (Some(imports), Some(resource)) => imports.unconfirmed(resource, max),
            _ => Vec::new(),
        }
    }

    /// An object of this version, seen in the list that runs.
    fn seen(&self, resource: Resource, version: Version) -> Seen {
        Seen {
            list: self.lists[resource as usize],
            version,
        }
    }

    /// The records of slices that belong to a Service.
    pub(super) fn has_slice(&self, key: &Key) -> bool {
        self.slices.contains_key(&**key)
    }
}
