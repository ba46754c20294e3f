//! One Service in the store: its own object, its slices, and the addresses that lead to it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::{HashMap, HashSet};

use arc_swap::Guard;

use super::{Seen, Trigger, label, object_key};
use crate::cluster::index::Index;
use crate::cluster::objects::{EndpointSlice, External, ServiceKind};
use crate::cluster::status::kind_name;
use crate::cluster::table::few::Few;
use crate::cluster::table::{
    Alias, ExternalTarget, Named, Ports, ServiceView, SliceView, Slot, Table, ViewKind,
};
use crate::wire::name::Name;

/// All that is known of one Service, or of slices without one.
pub(super) struct ServiceRecord {
    pub(super) slot: Arc<Slot>,
    /// None while there are only slices.
    pub(super) service: Option<Known>,
    /// Addresses that it has more than once, with how often beyond the first. Most Services have none.
    extra: Option<Box<HashMap<IpAddr, u32>>>,
}

/// A Service as it was seen last; what it said stands in its view.
pub(super) struct Known {
    pub(super) seen: Seen,
}

/// What of a view comes from the Service itself.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) kind: ViewKind,
    pub(super) ports: Ports,
    pub(super) external: Option<Arc<Vec<ExternalTarget>>>,
}

impl Own {
    /// Of slices without their Service.
    pub(super) fn absent() -> Self {
        Self {
            kind: ViewKind::Absent,
            ports: Ports::default(),
            external: None,
        }
    }

    fn of(view: &ServiceView) -> Self {
        Self {
            kind: view.kind.clone(),
            ports: Arc::clone(&view.ports),
            external: view.external.clone(),
        }
    }
}

/// The record of a Service; made, with its slot in the table, if there is none.
pub(super) fn record_of<'s>(
    services: &'s mut HashMap<Named, Box<ServiceRecord>>,
    key: &[u8],
    table: &Table,
) -> &'s mut ServiceRecord {
    let entry = services.raw_entry_mut().from_key(key).or_insert_with(|| {
        let slot = Arc::new(Slot::new(key));
        table.services.pin().insert(Named(Arc::clone(&slot)));
        let named = Named(Arc::clone(&slot));
        let record = ServiceRecord {
            slot,
            service: None,
            extra: None,
        };
        (named, Box::new(record))
    });
    entry.1
}

impl ServiceRecord {
    /// The version that readers see.
    pub(super) fn view(&self) -> Guard<Arc<ServiceView>> {
        self.slot.view()
    }

    /// Takes over what the Service says of itself, and the addresses that lead to it.
    pub(super) fn replace_own(&mut self, own: Own, table: &Table) {
        let before = own_addresses(&self.view().kind);
        self.move_addresses(before, own_addresses(&own.kind), table);
        let before = self.external_addresses();
        let (slices, index) = {
            let view = self.view();
            (view.slices.clone(), view.index.clone())
        };
        self.show(own, slices, index);
        self.move_external(&before, table);
    }

    /// Its external addresses, sorted, each once.
    fn external_addresses(&self) -> Vec<IpAddr> {
        let view = self.view();
        let addresses = view.external().iter().filter_map(|target| match target {
            ExternalTarget::Address(address) => Some(*address),
            ExternalTarget::Name(_) => None,
        });
        let mut addresses: Vec<IpAddr> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Changes the reverse entries from one set of external addresses to the one it has now.
    fn move_external(&self, before: &[IpAddr], table: &Table) {
        let after = self.external_addresses();
        for &address in before {
            if after.binary_search(&address).is_err() {
                let mut owners = table.external.with(address, <[_]>::to_vec);
                owners.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
                table.external.set(address, &owners);
            }
        }
        for &address in &after {
            if before.binary_search(&address).is_err() {
                let mut owners = table.external.with(address, <[_]>::to_vec);
                owners.push(Arc::clone(&self.slot));
                table.external.set(address, &owners);
            }
        }
    }

    /// Takes over a slice, or loses one; `view` has this key.
    pub(super) fn replace_slice(
        &mut self,
        key: &[u8],
        view: Option<Arc<SliceView>>,
        table: &Table,
    ) {
        let (own, mut slices, index) = {
            let view = self.view();
            (Own::of(&view), view.slices.to_vec(), view.index.clone())
        };
        let new = view.clone();
        let place = slices.binary_search_by(|slice| (*slice.key).cmp(key));
        let old = match (place, view) {
            (Ok(at), Some(view)) => Some(std::mem::replace(&mut slices[at], view)),
            (Err(at), Some(view)) => {
                slices.insert(at, view);
                None
            }
            (Ok(at), None) => Some(slices.remove(at)),
            (Err(_), None) => return,
        };
        let (old, new) = (old.as_deref(), new.as_deref());
        let addresses = |view: Option<&SliceView>| -> Vec<IpAddr> {
            view.into_iter().flat_map(SliceView::addresses).collect()
        };
        self.move_addresses(addresses(old), addresses(new), table);
        let index = match index {
            Some(index) => index.with(&slices, place.unwrap_or_else(|at| at), old, new),
            None => Index::of(&slices),
        };
        self.show(own, slices.into(), index.map(Arc::new));
    }

    /// Changes the reverse entries from one set of addresses to another; what is in both is left alone.
    fn move_addresses(&mut self, mut before: Vec<IpAddr>, mut after: Vec<IpAddr>, table: &Table) {
        before.sort_unstable();
        after.sort_unstable();
        let (mut old, mut new) = (before.into_iter().peekable(), after.into_iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(a), Some(b)) if a == b => {
                    old.next();
                    new.next();
                }
                (Some(&a), Some(b)) if a < *b => {
                    self.remove_address(a, table);
                    old.next();
                }
                (Some(&a), None) => {
                    self.remove_address(a, table);
                    old.next();
                }
                (_, Some(&b)) => {
                    self.add_address(b, table);
                    new.next();
                }
            }
        }
    }

    fn add_address(&mut self, address: IpAddr, table: &Table) {
        let mut owners = table.addresses.with(address, <[_]>::to_vec);
        if owners.iter().any(|slot| Arc::ptr_eq(slot, &self.slot)) {
            let extra = self.extra.get_or_insert_default();
            *extra.entry(address).or_insert(0) += 1;
            return;
        }
        owners.push(Arc::clone(&self.slot));
        table.addresses.set(address, &owners);
    }

    fn remove_address(&mut self, address: IpAddr, table: &Table) {
        if self.take_extra(address) {
            return;
        }
        let mut owners = table.addresses.with(address, <[_]>::to_vec);
        owners.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        table.addresses.set(address, &owners);
    }

    /// Whether the Service has this address more than once; then it has it once less.
    fn take_extra(&mut self, address: IpAddr) -> bool {
        let Some(extra) = &mut self.extra else {
            return false;
        };
        let Some(times) = extra.get_mut(&address) else {
            return false;
        };
        *times -= 1;
        if *times == 0 {
            extra.remove(&address);
        }
        if extra.is_empty() {
            self.extra = None;
        }
        true
    }

    /// Shows readers a new version.
    fn show(&self, own: Own, slices: Few<Arc<SliceView>>, index: Option<Arc<Index>>) {
        // Two slices may give one Pod's host name to its two families, so names are trusted within one slice only.
        let names_distinct = match &*slices {
            [] => true,
            [slice] => slice.names_distinct(),
            slices => !slices.iter().any(|slice| slice.is_named()),
        };
        self.slot.replace(ServiceView {
            kind: own.kind,
            ports: own.ports,
            external: own.external,
            slices,
            addresses_distinct: self.extra.is_none(),
            names_distinct,
            index,
        });
    }

    pub(super) fn kind_name(&self) -> Option<&'static str> {
        kind_name(&self.view().kind)
    }

    /// A sample for `dns_programming_duration`: only where the Service is known.
    pub(super) fn trigger(&self, time: Result<SystemTime, Box<str>>) -> Option<Trigger> {
        self.service.as_ref()?;
        Some(Trigger {
            headless: self.view().kind == ViewKind::Headless,
            time,
        })
    }

    /// Whether nothing is known of it any more.
    pub(super) fn is_empty(&self) -> bool {
        self.service.is_none() && self.view().slices.is_empty()
    }
}

fn own_addresses(kind: &ViewKind) -> Vec<IpAddr> {
    match kind {
        ViewKind::ClusterIp(addresses) => addresses.to_vec(),
        _ => Vec::new(),
    }
}

pub(super) fn view_kind(kind: &ServiceKind) -> ViewKind {
    match kind {
        ServiceKind::ClusterIp(addresses) => {
            ViewKind::ClusterIp(addresses.iter().copied().collect())
        }
        ServiceKind::Headless => ViewKind::Headless,
        ServiceKind::ExternalName(target) => ViewKind::ExternalName(alias(target)),
    }
}

fn alias(target: &str) -> Alias {
    if target.parse::<IpAddr>().is_ok() {
        return Alias::Address(target.into());
    }
    match Name::from_text(target) {
        Ok(name) if !name.as_ref().is_root() => Alias::Name(name),
        _ => Alias::Broken(target.into()),
    }
}

/// External targets for readers, each once: none if there is none. What is no name leads nowhere.
pub(super) fn external_targets(external: &[External]) -> Option<Arc<Vec<ExternalTarget>>> {
    let targets = external.iter().filter_map(|one| match one {
        External::Address(address) => Some(ExternalTarget::Address(*address)),
        External::Hostname(text) => match alias(text) {
            Alias::Name(name) => Some(ExternalTarget::Name(name)),
            Alias::Address(_) | Alias::Broken(_) => None,
        },
    });
    // In lower case: two spellings of a name are one.
    let mut seen = HashSet::new();
    let mut targets: Vec<ExternalTarget> = targets
        .filter(|target| {
            seen.insert(match target {
                ExternalTarget::Address(address) => ExternalTarget::Address(*address),
                ExternalTarget::Name(name) => ExternalTarget::Name(name.to_lower()),
            })
        })
        .collect();
    targets.shrink_to_fit();
    (!targets.is_empty()).then(|| Arc::new(targets))
}

/// Letters, digits and hyphens within, as RFC 1123, section 2.1, has it; what an API server lets in, in any letter case.
fn is_host_name(name: &str) -> bool {
    let octets = name.as_bytes();
    octets
        .iter()
        .all(|&octet| octet.is_ascii_alphanumeric() || octet == b'-')
        && [octets.first(), octets.last()]
            .into_iter()
            .flatten()
            .all(|&end| end != b'-')
}

/// The ready endpoints of a slice, each address with its host name.
pub(super) fn slice_view(slice: &EndpointSlice, ports: Ports, pod_names: bool) -> SliceView {
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
    let names: Vec<(IpAddr, Option<Vec<u8>>)> = ready
        .flat_map(|endpoint| {
            let target = endpoint.target_name.as_deref().filter(|_| pod_names);
            let name = endpoint.hostname.as_deref().or(target);
            // What is no host name is nothing to hand out, `*` least of all; the address names it then.
            let name = name.filter(|name| is_host_name(name)).and_then(label);
            let name = name.map(|label| label[1..].to_vec());
            endpoint
                .addresses
                .iter()
                .map(move |&address| (address, name.clone()))
        })
        .collect();
    SliceView::new(
        object_key(&slice.meta.namespace, &slice.meta.name),
        ports,
        names
            .iter()
            .map(|(address, name)| (*address, name.as_deref())),
    )
}
