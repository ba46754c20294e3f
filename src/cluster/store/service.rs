//! One Service in the store: its own object, its slices, and the addresses that lead to it.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{Key, Seen, Trigger, label};
use crate::cluster::index::Index;
use crate::cluster::objects::{EndpointSlice, External, Port, ServiceKind};
use crate::cluster::status::kind_name;
use crate::cluster::table::{Alias, ExternalTarget, ServiceView, SliceView, Slot, Table, ViewKind};
use crate::wire::name::Name;

/// All that is known of one Service, or of slices without one.
pub(super) struct ServiceRecord {
    slot: Arc<Slot>,
    /// None while there are only slices.
    pub(super) service: Option<Known>,
    /// Its slices by their key, sorted.
    pub(super) slices: Vec<(Key, Arc<SliceView>)>,
    /// Addresses that it has more than once, with how often beyond the first. Most Services have none.
    extra: Option<Box<HashMap<IpAddr, u32>>>,
}

/// A Service as it was seen last.
pub(super) struct Known {
    pub(super) seen: Seen,
    pub(super) kind: ServiceKind,
    pub(super) ports: Arc<[Port]>,
    pub(super) external: Option<Arc<Vec<ExternalTarget>>>,
}

impl Known {
    fn external(&self) -> &[ExternalTarget] {
        self.external.as_deref().map_or(&[], Vec::as_slice)
    }
}

/// The record of a Service; made, with its slot in the table, if there is none.
pub(super) fn record_of<'s>(
    services: &'s mut HashMap<Key, Box<ServiceRecord>>,
    key: &[u8],
    table: &Table,
) -> &'s mut ServiceRecord {
    let entry = services.raw_entry_mut().from_key(key).or_insert_with(|| {
        let slot = Arc::new(Slot::new(key));
        table.services.pin().insert(key.into(), Arc::clone(&slot));
        let record = ServiceRecord {
            slot,
            service: None,
            slices: Vec::new(),
            extra: None,
        };
        (key.into(), Box::new(record))
    });
    entry.1
}

impl ServiceRecord {
    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        match self.service.as_ref().map(|known| &known.kind) {
            Some(ServiceKind::ClusterIp(addresses)) => addresses.clone(),
            _ => Vec::new(),
        }
    }

    /// Its external addresses, sorted, each once.
    pub(super) fn external_addresses(&self) -> Vec<IpAddr> {
        let targets = self.service.as_ref().map(Known::external);
        let addresses = targets
            .into_iter()
            .flatten()
            .filter_map(|target| match target {
                ExternalTarget::Address(address) => Some(*address),
                ExternalTarget::Name(_) => None,
            });
        let mut addresses: Vec<IpAddr> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Changes the reverse entries from one set of external addresses to the one it has now.
    pub(super) fn move_external(&self, before: &[IpAddr], table: &Table) {
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

    pub(super) fn replace_slice(
        &mut self,
        key: &[u8],
        view: Option<Arc<SliceView>>,
        table: &Table,
    ) {
        let addresses = |view: &SliceView| view.addresses().collect::<Vec<_>>();
        let after = view.as_deref().map(addresses).unwrap_or_default();
        let place = self
            .slices
            .binary_search_by(|(other, _)| (**other).cmp(key));
        let before = place
            .map(|at| addresses(&self.slices[at].1))
            .unwrap_or_default();
        let new = view.clone();
        let old = match (place, view) {
            (Ok(at), Some(view)) => Some(std::mem::replace(&mut self.slices[at].1, view)),
            (Err(at), Some(view)) => {
                self.slices.insert(at, (key.into(), view));
                None
            }
            (Ok(at), None) => Some(self.slices.remove(at).1),
            (Err(_), None) => return,
        };
        self.move_addresses(before, after, table);
        let slices = self.slice_views();
        let at = place.unwrap_or_else(|at| at);
        let index = match &self.slot.view().index {
            Some(index) => index.with(&slices, at, old.as_deref(), new.as_deref()),
            None => Index::of(&slices),
        };
        self.show(slices, index.map(Arc::new));
    }

    fn slice_views(&self) -> Box<[Arc<SliceView>]> {
        let views = self.slices.iter();
        views.map(|(_, view)| Arc::clone(view)).collect()
    }

    /// Changes the reverse entries from one set of addresses to another; what is in both is left alone.
    pub(super) fn move_addresses(
        &mut self,
        mut before: Vec<IpAddr>,
        mut after: Vec<IpAddr>,
        table: &Table,
    ) {
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

    /// Shows readers the Service as it is now, with the slices as they were.
    pub(super) fn publish(&self) {
        let before = self.slot.view();
        self.show(before.slices.clone(), before.index.clone());
    }

    fn show(&self, slices: Box<[Arc<SliceView>]>, index: Option<Arc<Index>>) {
        let (kind, ports, external) = match &self.service {
            None => (ViewKind::Absent, Arc::default(), None),
            Some(known) => (
                view_kind(&known.kind),
                Arc::clone(&known.ports),
                known.external.clone(),
            ),
        };
        // Two slices may give one Pod's host name to its two families, so names are trusted within one slice only.
        let names_distinct = match &*slices {
            [] => true,
            [slice] => slice.names_distinct,
            slices => !slices.iter().any(|slice| slice.is_named()),
        };
        self.slot.replace(ServiceView {
            kind,
            ports,
            external,
            slices,
            addresses_distinct: self.extra.is_none(),
            names_distinct,
            index,
        });
    }

    pub(super) fn kind_name(&self) -> Option<&'static str> {
        let known = self.service.as_ref()?;
        Some(kind_name(&known.kind))
    }

    /// A sample for `dns_programming_duration`: only where the Service is known.
    pub(super) fn trigger(&self, time: Option<&str>) -> Option<Trigger> {
        Some(Trigger {
            headless: self.service.as_ref()?.kind == ServiceKind::Headless,
            time: time?.into(),
        })
    }
}

fn view_kind(kind: &ServiceKind) -> ViewKind {
    match kind {
        ServiceKind::ClusterIp(addresses) => ViewKind::ClusterIp(addresses.as_slice().into()),
        ServiceKind::Headless => ViewKind::Headless,
        ServiceKind::ExternalName(target) => ViewKind::ExternalName(alias(target)),
    }
}

fn alias(target: &str) -> Alias {
    if target.parse::<IpAddr>().is_ok() {
        return Alias::Address;
    }
    match Name::from_text(target) {
        Ok(name) if !name.as_ref().is_root() => Alias::Name(name),
        _ => Alias::Broken,
    }
}

/// External targets for readers, each once: none if there is none. What is no name leads nowhere.
pub(super) fn external_targets(external: &[External]) -> Option<Arc<Vec<ExternalTarget>>> {
    let targets = external.iter().filter_map(|one| match one {
        External::Address(address) => Some(ExternalTarget::Address(*address)),
        External::Hostname(text) => match alias(text) {
            Alias::Name(name) => Some(ExternalTarget::Name(name)),
            Alias::Address | Alias::Broken => None,
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

/// The ready endpoints of a slice, each address with its host name.
pub(super) fn slice_view(slice: &EndpointSlice, ports: Arc<[Port]>, pod_names: bool) -> SliceView {
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
    let names: Vec<(IpAddr, Option<Vec<u8>>)> = ready
        .flat_map(|endpoint| {
            let target = endpoint.target_name.as_deref().filter(|_| pod_names);
            let name = endpoint.hostname.as_deref().or(target);
            // What is no label cannot be asked for; the address names it then.
            let name = name.and_then(label).map(|label| label[1..].to_vec());
            endpoint
                .addresses
                .iter()
                .map(move |&address| (address, name.clone()))
        })
        .collect();
    SliceView::new(
        ports,
        names
            .iter()
            .map(|(address, name)| (*address, name.as_deref())),
    )
}
