//! The readers' side: views by name, services by address; no lock.
//!
//! ```text
//! "\3web\4shop" --> Slot --> ServiceView   immutable; the writer swaps it as a whole
//!     10.1.0.4  --> Slot ------^           the same slots again, so PTR is one look-up
//! "\4shop"      --> namespace exists
//!     10.1.0.4  --> namespaces with a Pod of this address (`places.rs`)
//! ```
//!
//! Keys are lower-case labels in wire form, as they stand next to each other in a QNAME: a look-up hashes a piece of
//! the query and copies nothing. A reader that has loaded a view keeps that version until it lets go, so one reply
//! never mixes two versions of one Service.

pub(in crate::cluster) mod origin;

/// Lists that mostly have one member.
pub mod few;

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use smallvec::SmallVec;

use crate::cluster::Keep;
use crate::cluster::addresses::Addresses;
use crate::cluster::clients::{Client, Clients};
use crate::cluster::index::{Index, Key};
use crate::cluster::objects::Port;
use crate::cluster::places::Places;
use crate::cluster::status::{Counts, Sizes};
use crate::cluster::table::few::Few;
use crate::cluster::table::origin::Origin;
use crate::wire::name::Name;

/// Keys come from queries, so the seed is random; the quality of foldhash's fast mode is enough for hash tables.
pub(in crate::cluster) type State = foldhash::fast::RandomState;

pub(in crate::cluster) type Map<K, V> = papaya::HashMap<K, V, State>;

/// Ports, shared by all that have the same. The pointer is thin, because every view has one.
pub type Ports = Arc<Vec<Port>>;

/// What readers see of a cluster.
#[derive(Default)]
pub struct Table {
    pub(in crate::cluster) services: papaya::HashSet<Named, State>,
    pub(in crate::cluster) addresses: Addresses,
    /// Services by their external addresses; empty unless they are kept.
    pub(in crate::cluster) external: Addresses,
    pub(in crate::cluster) namespaces: Map<Box<[u8]>, ()>,
    pub(in crate::cluster) places: Places,
    /// What other clusters export, by the same names.
    imports: Option<Box<Self>>,
    pub(in crate::cluster) counts: Counts,
    pub(in crate::cluster) clients: Clients,
}

/// Most stand within their slot: a look-up compares them, and each line of memory that it has to wait for costs it a tenth.
pub type Labels = SmallVec<[u8; 36]>;

/// Where one Service, or slices without their Service, stand in the table. Outlives its versions.
pub struct Slot {
    /// `\3web\4shop`: the labels of Service and namespace in lower case, without a root.
    pub labels: Labels,
    view: ArcSwap<ServiceView>,
}

impl Slot {
    pub(in crate::cluster) fn new(labels: &[u8]) -> Self {
        Self {
            labels: labels.into(),
            view: ArcSwap::from_pointee(ServiceView::absent()),
        }
    }

    /// The current version. Lock-free; hold it for the whole reply.
    pub fn view(&self) -> Guard<Arc<ServiceView>> {
        self.view.load()
    }

    pub(in crate::cluster) fn replace(&self, view: ServiceView) {
        self.view.store(Arc::new(view));
    }

    /// The label of the namespace with its length.
    pub fn namespace(&self) -> &[u8] {
        &self.labels[1 + usize::from(self.labels[0])..]
    }
}

/// A slot in a map or set, where it is found by its labels.
#[derive(Clone)]
pub(in crate::cluster) struct Named(pub(in crate::cluster) Arc<Slot>);

impl Borrow<[u8]> for Named {
    fn borrow(&self) -> &[u8] {
        &self.0.labels
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.labels.hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.labels == other.0.labels
    }
}

impl Eq for Named {}

/// One version of a Service with all of its endpoints.
#[derive(Debug)]
pub struct ServiceView {
    /// Addresses or alias.
    pub kind: ViewKind,
    /// The Service's ports.
    pub ports: Ports,
    /// Where it is reached from outside of the cluster; none where it is not, or where that is not kept. The pointer is
    /// thin because most Services have none.
    pub external: Option<Arc<Vec<ExternalTarget>>>,
    /// Its EndpointSlices, in the order of their names.
    pub slices: Few<Arc<SliceView>>,
    /// No address stands in it twice, so nobody needs to look for duplicates.
    pub addresses_distinct: bool,
    /// No host name stands in it twice.
    pub names_distinct: bool,
    /// Of a large one, its endpoints by name and address.
    pub(in crate::cluster) index: Option<Arc<Index>>,
}

/// What a Service's name stands for, as readers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// There are slices, but no Service: addresses have names, the name does not exist.
    Absent,
    /// Addresses in the order of the spec; empty if there is none yet.
    ClusterIp(Few<IpAddr>),
    /// The ready endpoints.
    Headless,
    /// Another name.
    ExternalName(Alias),
}

/// Where an ExternalName leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alias {
    /// A name, in the spelling of the object.
    Name(Name),
    /// An address, which no alias can lead to.
    Address(Box<str>),
    /// Nothing that is a name.
    Broken(Box<str>),
}

/// One way to a Service from outside of the cluster, as readers need it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum ExternalTarget {
    /// An address.
    Address(IpAddr),
    /// The name of a load balancer, in the spelling of the object.
    Name(Name),
}

impl ServiceView {
    fn absent() -> Self {
        Self {
            kind: ViewKind::Absent,
            ports: Ports::default(),
            external: None,
            slices: Few::default(),
            addresses_distinct: true,
            names_distinct: true,
            index: None,
        }
    }

    /// Whether any endpoint is ready.
    pub fn has_backends(&self) -> bool {
        self.slices.iter().any(|slice| slice.len() > 0)
    }

    /// All ready endpoints, one entry per address.
    pub fn backends(&self) -> impl Iterator<Item = Backend<'_>> {
        self.slices.iter().flat_map(|slice| slice.backends())
    }

    /// The ways to it from outside of the cluster, in the order of the object: `externalIPs`, then load balancers.
    pub fn external(&self) -> &[ExternalTarget] {
        self.external.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The endpoints with this address, each with its slice's place and its own; mostly one.
    pub fn backends_at(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (usize, usize, Backend<'_>)> {
        self.find(Key::Address(address))
    }

    /// The endpoints that a label names, each with its slice's place and its own: those with this host name, and those
    /// without any that have `address`, which the label spells.
    pub fn backends_named<'v>(
        &'v self,
        label: &'v [u8],
        address: Option<IpAddr>,
    ) -> impl Iterator<Item = (usize, usize, Backend<'v>)> {
        let unnamed = |(_, _, backend): &(usize, usize, Backend<'_>)| backend.name.is_none();
        let of_address = address.map(|address| self.find(Key::Address(address)).filter(unnamed));
        let of_name = self.find(Key::Name(label));
        of_name.chain(of_address.into_iter().flatten())
    }

    fn find<'v>(&'v self, key: Key<'v>) -> impl Iterator<Item = (usize, usize, Backend<'v>)> {
        let hashed = self.index.as_deref().map(|index| index.find(key));
        let scanned = match hashed {
            Some(_) => &[],
            None => &*self.slices,
        };
        let scanned = scanned.iter().enumerate();
        let scanned =
            scanned.flat_map(move |(at, slice)| slice.find(key).map(move |index| (at, index)));
        hashed
            .into_iter()
            .flatten()
            .chain(scanned)
            .filter_map(move |(at, index)| {
                let backend = self.slices.get(at)?.backend(index)?;
                // Equal hashes are a hint only.
                let same = match key {
                    Key::Name(name) => backend.name == Some(name),
                    Key::Address(address) => backend.address == address,
                };
                same.then_some((at, index, backend))
            })
    }

    /// Whether this is one of the Service's own addresses.
    pub fn has_cluster_ip(&self, address: IpAddr) -> bool {
        matches!(&self.kind, ViewKind::ClusterIp(addresses) if addresses.contains(&address))
    }
}

/// The ready endpoints of one EndpointSlice: 4 octets per IPv4 endpoint without a host name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SliceView {
    /// Ports, shared by all endpoints; empty is legal.
    pub ports: Ports,
    /// `shop/web-x7k2p`, of the object. It stands here so that it need not stand anywhere else.
    pub(in crate::cluster) key: Box<[u8]>,
    v4: Box<[Ipv4Addr]>,
    seldom: Option<Box<Seldom>>,
}

/// What most slices have nothing of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seldom {
    v6: Box<[Ipv6Addr]>,
    names: Option<Names>,
    origin: Origin,
    /// A host name stands in it twice.
    names_repeat: bool,
}

/// A slice in a map, where it is found by its key.
pub(in crate::cluster) struct Keyed(pub(in crate::cluster) Arc<SliceView>);

impl Borrow<[u8]> for Keyed {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl Hash for Keyed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Keyed {}

impl Seldom {
    /// None if there is nothing in it.
    fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// Host names of a slice's endpoints, first IPv4, then IPv6, in one piece: where each one starts and the last one ends,
/// then all of their text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names(Box<[u8]>);

/// The width of a start, a number in the order of the machine.
const START: usize = size_of::<u32>();

impl Names {
    fn new<'n>(names: impl Iterator<Item = Option<&'n [u8]>> + Clone) -> Self {
        let mut start = (1 + names.clone().count()) * START;
        let mut whole = Vec::with_capacity(start);
        for length in names
            .clone()
            .map(|name| name.map_or(0, <[u8]>::len))
            .chain([0])
        {
            // An object has at most a few MiB; what does not fit loses its host names, not the server its life.
            whole.extend_from_slice(&u32::try_from(start).unwrap_or(u32::MAX).to_ne_bytes());
            start += length;
        }
        for name in names.flatten() {
            whole.extend_from_slice(name);
        }
        Self(whole.into())
    }

    fn start(&self, index: usize) -> Option<usize> {
        let octets = self.0.get(index * START..)?.first_chunk()?;
        usize::try_from(u32::from_ne_bytes(*octets)).ok()
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let name = self.0.get(self.start(index)?..self.start(index + 1)?)?;
        (!name.is_empty()).then_some(name)
    }
}

/// One address behind a Service.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'v> {
    /// The slice it belongs to.
    pub slice: &'v SliceView,
    /// The address.
    pub address: IpAddr,
    /// Its host name in lower case, one label; without one it is named for its address.
    pub name: Option<&'v [u8]>,
}

impl SliceView {
    /// From addresses with their host names (one label each, in lower case), in the order of the object.
    pub(in crate::cluster) fn new<'n>(
        key: Box<[u8]>,
        ports: Ports,
        backends: impl Iterator<Item = (IpAddr, Option<&'n [u8]>)> + Clone,
    ) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut seen = hashbrown::HashSet::<&[u8], State>::default();
        let (mut names_repeat, mut named) = (false, false);
        for (address, name) in backends.clone() {
            if let Some(name) = name {
                named = true;
                names_repeat |= !seen.insert(name);
            }
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        let names = named.then(|| {
            let of_family = |v4: bool| {
                let all = backends.clone();
                all.filter(move |(address, _)| address.is_ipv4() == v4)
            };
            Names::new(
                of_family(true)
                    .chain(of_family(false))
                    .map(|(_, name)| name),
            )
        });
        let seldom = Seldom {
            v6: v6.into(),
            names,
            origin: Origin::default(),
            names_repeat,
        };
        Self {
            ports,
            key,
            v4: v4.into(),
            seldom: seldom.boxed(),
        }
    }

    /// The same with what is known of where its endpoints are.
    pub(in crate::cluster) fn with_origin(mut self, origin: Origin) -> Self {
        let seldom = self.seldom.take().map(|seldom| *seldom);
        self.seldom = Seldom {
            origin,
            ..seldom.unwrap_or_default()
        }
        .boxed();
        self
    }

    fn origin(&self) -> Option<&Origin> {
        self.seldom.as_ref().map(|seldom| &seldom.origin)
    }

    fn names(&self) -> Option<&Names> {
        self.seldom.as_ref()?.names.as_ref()
    }

    /// Whether no host name stands in it twice.
    pub(in crate::cluster) fn names_distinct(&self) -> bool {
        self.seldom
            .as_ref()
            .is_none_or(|seldom| !seldom.names_repeat)
    }

    /// The cluster that it was imported from: a label in lower case.
    pub fn cluster(&self) -> Option<&[u8]> {
        self.origin()?.cluster.as_deref()
    }

    /// The topology zone of the endpoint at this place.
    pub(in crate::cluster) fn zone_at(&self, place: usize) -> Option<Box<str>> {
        self.origin()?.zones.as_ref()?.text(place)
    }

    /// Places of the endpoints in a topology zone: its labels in lower case, with their lengths.
    pub fn places_in_zone(&self, zone: &[u8]) -> impl Iterator<Item = usize> {
        let zones = self.origin().and_then(|origin| origin.zones.as_ref());
        zones.into_iter().flat_map(move |zones| zones.places(zone))
    }

    /// Ready endpoints, one per address.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6().len()
    }

    /// Whether any endpoint has a host name of its own.
    pub fn is_named(&self) -> bool {
        self.names().is_some()
    }

    /// Its IPv4 addresses.
    pub fn v4(&self) -> &[Ipv4Addr] {
        &self.v4
    }

    /// Its IPv6 addresses.
    pub fn v6(&self) -> &[Ipv6Addr] {
        self.seldom.as_ref().map_or(&[], |seldom| &seldom.v6)
    }

    /// All addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6().iter().copied().map(IpAddr::V6))
    }

    /// The endpoint at this place, IPv4 first.
    pub fn backend(&self, index: usize) -> Option<Backend<'_>> {
        let address = match index.checked_sub(self.v4.len()) {
            None => IpAddr::V4(self.v4[index]),
            Some(index) => IpAddr::V6(*self.v6().get(index)?),
        };
        Some(Backend {
            slice: self,
            address,
            name: self.names().and_then(|names| names.get(index)),
        })
    }

    /// All endpoints, IPv4 first.
    pub fn backends(&self) -> impl Iterator<Item = Backend<'_>> {
        (0..self.len()).map_while(|index| self.backend(index))
    }

    /// Places of the endpoints with this key, found by looking at all.
    fn find<'v>(&'v self, key: Key<'v>) -> impl Iterator<Item = usize> + 'v {
        let (name, v4, v6) = match key {
            Key::Name(name) => (Some(name), None, None),
            Key::Address(IpAddr::V4(address)) => (None, Some(address), None),
            Key::Address(IpAddr::V6(address)) => (None, None, Some(address)),
        };
        let names = self.names().zip(name);
        let named = names.into_iter().flat_map(|(names, name)| {
            (0..self.len()).filter(move |&index| names.get(index) == Some(name))
        });
        let v4 = v4.into_iter().flat_map(|wanted| places(&self.v4, wanted));
        let v6 = v6.into_iter().flat_map(|wanted| places(self.v6(), wanted));
        named.chain(v4).chain(v6.map(|index| self.v4.len() + index))
    }
}

fn places<A: PartialEq + Copy>(addresses: &[A], wanted: A) -> impl Iterator<Item = usize> {
    let equal = addresses
        .iter()
        .enumerate()
        .filter(move |&(_, address)| *address == wanted);
    equal.map(|(index, _)| index)
}

impl Table {
    pub(in crate::cluster) fn new(keep: Keep) -> Self {
        Self {
            imports: keep.imports.then(Box::default),
            ..Self::default()
        }
    }

    /// ServiceImports as if they were Services, with the endpoints behind them; none if they are not kept. Their
    /// addresses lead to nothing.
    pub fn imports(&self) -> Option<&Self> {
        self.imports.as_deref()
    }

    /// The Service with these labels: its own and its namespace's, in lower case, wire form, no root.
    pub fn service(&self, labels: &[u8]) -> Option<Guard<Arc<ServiceView>>> {
        let services = self.services.pin();
        services.get(labels).map(|named| named.0.view())
    }

    /// Where all Services stand that there are now, in no particular order. Takes time: for copies of the whole.
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        let services = self.services.pin();
        services.iter().map(|named| Arc::clone(&named.0)).collect()
    }

    /// All addresses that belong to a Service now, likewise.
    pub fn addresses(&self) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
        self.addresses.all()
    }

    /// All external addresses that a Service has now, likewise.
    pub fn external_addresses(&self) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
        self.external.all()
    }

    /// Looks at the Services that an address belongs to; none, mostly one, or several.
    pub fn with_owners<R>(&self, address: IpAddr, look: impl FnOnce(&[Arc<Slot>]) -> R) -> R {
        self.addresses.with(address, look)
    }

    /// Looks at the Services that have an address as an external one.
    pub fn with_external_owners<R>(
        &self,
        address: IpAddr,
        look: impl FnOnce(&[Arc<Slot>]) -> R,
    ) -> R {
        self.external.with(address, look)
    }

    /// How much it holds.
    pub(in crate::cluster) fn sizes(&self) -> Sizes {
        Sizes {
            namespaces: self.namespaces.len(),
            services: self.counts.services.get(),
            endpoint_slices: self.counts.endpoint_slices.get(),
            endpoints: self.counts.endpoints.get(),
            pods: self.counts.pods.get(),
            addresses: self.addresses.len(),
        }
    }

    /// Whether a namespace exists: its label in lower case, with its length.
    pub fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.pin().contains_key(label)
    }

    /// How many Pods of a namespace have this address: its label in lower case, with its length. One that is on its way
    /// out does not count where a running one has its address.
    pub fn pods(&self, address: IpAddr, namespace: &[u8]) -> u32 {
        self.places.count(address, namespace)
    }

    /// The Pod that sends from an address, where that is certain and [`Keep::clients`](crate::cluster::Keep) is on.
    pub fn client(&self, address: IpAddr) -> Option<Arc<Client>> {
        self.clients.find(address)
    }

    /// Whether who sends from this address can only be a Pod of this namespace: no other namespace has a running Pod of
    /// this address, and it is not a node's.
    pub fn is_pod_of(&self, address: IpAddr, namespace: &[u8]) -> bool {
        self.places.is_of(address, namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(backends: &[(&str, Option<&'static str>)]) -> SliceView {
        let backends: Vec<(IpAddr, Option<&[u8]>)> = backends
            .iter()
            .map(|(address, name)| {
                (
                    address.parse().expect("an address"),
                    name.map(str::as_bytes),
                )
            })
            .collect();
        SliceView::new(Box::default(), Ports::default(), backends.into_iter())
    }

    #[test]
    fn a_slice_keeps_each_address_with_its_name() {
        let view = view(&[
            ("fd00::1", Some("six")),
            ("10.0.0.1", None),
            ("10.0.0.2", Some("two")),
        ]);
        let all: Vec<_> = view
            .backends()
            .map(|backend| (backend.address.to_string(), backend.name))
            .collect();
        let expected: [(&str, Option<&[u8]>); 3] = [
            ("10.0.0.1", None),
            ("10.0.0.2", Some(b"two")),
            ("fd00::1", Some(b"six")),
        ];
        assert_eq!(
            all,
            expected.map(|(address, name)| (address.to_owned(), name))
        );
    }

    #[test]
    fn a_slice_knows_whether_a_name_stands_in_it_twice() {
        assert!(view(&[("10.0.0.1", Some("a")), ("10.0.0.2", None)]).names_distinct());
        assert!(!view(&[("10.0.0.1", Some("a")), ("10.0.0.2", Some("a"))]).names_distinct());
    }

    #[test]
    fn endpoints_are_found_by_address_and_by_name() {
        let view = ServiceView {
            slices: [Arc::new(view(&[
                ("10.0.0.1", Some("a")),
                ("fd00::1", Some("b")),
                ("10.0.0.1", None),
            ]))]
            .into(),
            ..ServiceView::absent()
        };
        let at = |address: &str| -> Vec<_> {
            let found = view.backends_at(address.parse().expect("an address"));
            found
                .map(|(_, _, backend)| backend.name.map(<[u8]>::to_vec))
                .collect()
        };
        assert_eq!(at("10.0.0.1"), [Some(b"a".to_vec()), None]);
        assert_eq!(at("fd00::1"), [Some(b"b".to_vec())]);
        assert!(at("10.0.0.2").is_empty());
        let named = |label: &[u8], address: Option<&str>| -> Vec<_> {
            let address = address.map(|address| address.parse().expect("an address"));
            let found = view.backends_named(label, address);
            found.map(|(slice, index, _)| (slice, index)).collect()
        };
        assert_eq!(named(b"b", None), [(0, 2)]);
        // An address names only those that have no name.
        assert_eq!(named(b"10-0-0-1", Some("10.0.0.1")), [(0, 1)]);
        assert!(named(b"fd00--1", Some("fd00::1")).is_empty());
    }
}
