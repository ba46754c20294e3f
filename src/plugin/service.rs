//! The records of a Service, written from one version of it: what the plugins that answer them have in common.

/// Addresses as labels.
pub(super) mod dashed;

/// All records of a Service.
pub(super) mod records;
/// Endpoint after endpoint, as many as the reply has room for.
mod round;
/// The names that Services lead to.
pub(super) mod target;

use std::cell::RefCell;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;

use hashbrown::HashTable;

use crate::cluster::objects::Port;
use crate::cluster::table::{Alias, Backend, Ports, ServiceView, ViewKind};
use crate::plugin::service::round::{Family, Round};
use crate::wire::code::RecordType;
use crate::wire::name::{NameBuf, NameRef};
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter, SoaTimes};

/// What stands left of a Service's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'q> {
    /// Nothing.
    Whole,
    /// The host name of an endpoint.
    Endpoint(&'q [u8]),
    /// The host name of an endpoint, and the cluster it is in.
    ClusterEndpoint { host: &'q [u8], cluster: &'q [u8] },
    /// Port name and protocol without their underscores; empty matches any.
    Port { port: &'q [u8], protocol: &'q [u8] },
    /// The endpoints of a headless Service in a topology zone, its labels with their lengths. With `prefer`, all
    /// endpoints where the zone has none.
    Zone { zone: &'q [u8], prefer: bool },
}

/// A Service's name, or one below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServicePlace<'q> {
    /// `\3web\4shop`: the key of the cluster table.
    pub(super) key: &'q [u8],
    /// Label of the namespace with its length.
    pub(super) namespace: &'q [u8],
    /// What stands left of it.
    pub(super) part: Part<'q>,
}

impl<'q> Part<'q> {
    /// An endpoint by its label; a single underscore is no part of its name, and alone it stands for all.
    pub(super) fn endpoint(label: &'q [u8]) -> Self {
        match without_underscore(label) {
            b"" => Self::Whole,
            label => Self::Endpoint(label),
        }
    }

    /// Host name and cluster of the endpoint that is asked for.
    fn asked_endpoint(self) -> Option<(&'q [u8], Option<&'q [u8]>)> {
        match self {
            Self::Endpoint(host) => Some((host, None)),
            Self::ClusterEndpoint { host, cluster } => Some((host, Some(cluster))),
            Self::Whole | Self::Port { .. } | Self::Zone { .. } => None,
        }
    }

    /// A port by the labels of its name and of its protocol, underscores or not.
    pub(super) fn port(port: &'q [u8], protocol: &'q [u8]) -> Self {
        Self::Port {
            port: without_underscore(port),
            protocol: without_underscore(protocol),
        }
    }
}

fn without_underscore(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

/// Whether this part of a Service is there, whatever type is asked for.
pub(super) fn exists(view: &ServiceView, part: Part<'_>, ignore_empty: bool) -> bool {
    match (&view.kind, part) {
        (ViewKind::Absent, _) => false,
        // An alias has neither ports nor endpoints, and cannot lead to an address.
        (ViewKind::ExternalName(alias), Part::Whole) => !matches!(alias, Alias::Address(_)),
        (ViewKind::ExternalName(_), _) => false,
        // Any zone is one that endpoints may be in; cluster addresses are in none.
        (kind, Part::Zone { .. }) => *kind == ViewKind::Headless,
        (ViewKind::ClusterIp(_), _) if ignore_empty && !view.has_backends() => false,
        (ViewKind::ClusterIp(_), Part::Whole | Part::Port { .. }) => any_port(&view.ports, part),
        (ViewKind::ClusterIp(_) | ViewKind::Headless, _) => match part.asked_endpoint() {
            // All ports of a slice are an endpoint's.
            Some((host, cluster)) => endpoints_named(view, host, cluster).next().is_some(),
            None => {
                let mut slices = view.slices.iter();
                slices.any(|slice| any_port(&slice.ports, part) && slice.len() > 0)
            }
        },
    }
}

/// Whether the addresses of a Service are asked for that has no port at all. A ServiceImport of that kind has no name, as
/// in CoreDNS; a Service has.
pub(super) fn is_without_ports(view: &ServiceView, part: Part<'_>) -> bool {
    matches!(view.kind, ViewKind::ClusterIp(_))
        && view.ports.is_empty()
        && part.asked_endpoint().is_none()
}

/// Whether a port is the one that is asked for. Without port and protocol in the name, all are.
fn is_wanted(port: &Port, part: Part<'_>) -> bool {
    match part {
        Part::Whole | Part::Endpoint(_) | Part::ClusterEndpoint { .. } | Part::Zone { .. } => true,
        Part::Port {
            port: name,
            protocol,
        } => {
            let matches = |wanted: &[u8], text: &str| {
                wanted.is_empty() || wanted.eq_ignore_ascii_case(text.as_bytes())
            };
            matches(name, &port.name) && matches(protocol, &port.protocol)
        }
    }
}

/// Whether any port is asked for. A Service or slice without ports is as one with an unnamed port of no number. The ports
/// stand elsewhere in memory, so they are looked at only if a port is asked for.
fn any_port(ports: &Ports, part: Part<'_>) -> bool {
    match part {
        Part::Port { .. } => count_ports(ports, part) > 0,
        Part::Whole | Part::Endpoint(_) | Part::ClusterEndpoint { .. } | Part::Zone { .. } => true,
    }
}

/// How many ports are asked for.
pub(super) fn count_ports(ports: &[Port], part: Part<'_>) -> usize {
    if ports.is_empty() {
        return usize::from(match part {
            Part::Port { port, protocol } => port.is_empty() && protocol.is_empty(),
            _ => true,
        });
    }
    ports.iter().filter(|port| is_wanted(port, part)).count()
}

/// The numbers of the ports asked for, each once: two protocols on one number are one SRV record.
pub(super) fn port_numbers<'p>(
    ports: &'p [Port],
    part: Part<'p>,
) -> impl Iterator<Item = u16> + 'p {
    let wanted = move |port: &&Port| is_wanted(port, part);
    ports.iter().enumerate().filter_map(move |(index, port)| {
        let number = port.number.filter(|_| is_wanted(port, part))?;
        let before = ports[..index].iter().filter(wanted);
        let first = !before.into_iter().any(|other| other.number == Some(number));
        first.then_some(number)
    })
}

/// The endpoints with this host name, which come from this cluster, or from none. The name of an address counts only
/// where there is no other.
fn endpoints_named<'v>(
    view: &'v ServiceView,
    host: &'v [u8],
    cluster: Option<&'v [u8]>,
) -> impl Iterator<Item = (usize, usize, Backend<'v>)> {
    let named = view.backends_named(host, dashed::endpoint_address(host));
    named.filter(move |(_, _, backend)| backend.slice.cluster() == cluster)
}

/// Calls `each` once for every host name that an address has within a Service.
pub(super) fn for_names(view: &ServiceView, address: IpAddr, mut each: impl FnMut(&Backend<'_>)) {
    let all = view.backends_at(address);
    if view.addresses_distinct {
        return all.for_each(|(_, _, backend)| each(&backend));
    }
    with_seen(|seen| {
        for (at, index, backend) in all {
            if seen.insert(view, at, index, 0, same_target, hash_target) {
                each(&backend);
            }
        }
    });
}

/// The part that is answered: all endpoints where a zone is only preferred, and has none.
fn settled<'q>(view: &ServiceView, part: Part<'q>) -> Part<'q> {
    let Part::Zone { zone, prefer: true } = part else {
        return part;
    };
    let mut slices = view.slices.iter();
    if slices.any(|slice| slice.places_in_zone(zone).next().is_some()) {
        part
    } else {
        Part::Whole
    }
}

/// Writes the addresses of one family, as far as the reply has `room`. Whoever owns them is for the caller to say.
pub(super) fn write_addresses(
    view: &ServiceView,
    part: Part<'_>,
    qtype: RecordType,
    owner: Owner<'_>,
    ttl: u32,
    room: usize,
    reply: &mut ReplyWriter<'_>,
) {
    let part = settled(view, part);
    let family = Family::of(qtype);
    if let (ViewKind::ClusterIp(addresses), Part::Whole | Part::Port { .. }) = (&view.kind, part) {
        for &address in addresses {
            if family.has(address) {
                reply.address(owner, ttl, address);
            }
        }
        return;
    }
    let enough = reply.len() + room;
    let round = Round::new(view, part, family, room / family.record_len(owner));
    with_seen(|seen| {
        round.walk(|at, index, backend| {
            let new = view.addresses_distinct
                || seen.insert(view, at, index, 0, same_address, hash_address);
            !new || (has_room(reply, enough) && reply.address(owner, ttl, backend.address))
        });
    });
}

/// Whether a further record is of use. If not, the reply is truncated: one that passes the limit has been written, but
/// what is cut there might not be all that is missing.
fn has_room(reply: &mut ReplyWriter<'_>, enough: usize) -> bool {
    let fits = reply.len() <= enough;
    reply.truncated |= !fits;
    fits
}

/// Where SRV targets lie: the Service's labels, and what its namespace lies below.
pub(super) struct Targets {
    service: NameBuf,
}

impl Targets {
    /// Of a Service, given by its labels, in a zone or in a `branch` of it: `svc`. None if the names would be too long.
    pub(super) fn new(key: &[u8], branch: Option<&[u8]>, zone: NameRef<'_>) -> Option<Self> {
        let mut service = NameBuf::new();
        let (first, second) = key.split_at(1 + usize::from(key[0]));
        service.push_label(&first[1..]).ok()?;
        service.push_label(&second[1..]).ok()?;
        if let Some(branch) = branch {
            service.push_label(branch).ok()?;
        }
        service.push_name(zone).ok()?;
        Some(Self { service })
    }

    /// The name of the Service.
    pub(super) fn service(&self) -> NameRef<'_> {
        self.service.as_ref()
    }

    /// The name of one endpoint; none if it would be too long.
    pub(super) fn endpoint(&self, backend: &Backend<'_>) -> Option<NameBuf> {
        let mut target = NameBuf::new();
        match backend.name {
            Some(name) => target.push_label(name),
            None => target.push_label(dashed::endpoint_label(backend.address).as_bytes()),
        }
        .ok()?;
        if let Some(cluster) = backend.slice.cluster() {
            target.push_label(cluster).ok()?;
        }
        target.push_name(self.service.as_ref()).ok()?;
        Some(target)
    }
}

/// TTLs of an answer to SRV, in seconds.
#[derive(Clone, Copy)]
pub(super) struct SrvTtl {
    /// Of the records themselves.
    pub(super) srv: u32,
    /// Of the addresses of their targets.
    pub(super) glue: u32,
}

/// Writes SRV records, and the addresses of their targets in both families, as far as the reply has `room`.
pub(super) fn write_srv(
    view: &ServiceView,
    part: Part<'_>,
    targets: &Targets,
    ttl: SrvTtl,
    room: usize,
    reply: &mut ReplyWriter<'_>,
) {
    if let (ViewKind::ClusterIp(addresses), Part::Whole | Part::Port { .. }) = (&view.kind, part) {
        let weight = weight(count_ports(&view.ports, part) * addresses.len());
        if addresses.is_empty() {
            return;
        }
        let first_target = reply.len() + SRV_FIXED;
        for port in port_numbers(&view.ports, part) {
            reply.srv(Owner::Question, ttl.srv, 0, weight, port, targets.service());
        }
        if reply.count(Section::Answer) > 0 {
            reply.go_to(Section::Additional);
            let owner = Owner::standing_at(first_target, targets.service());
            for &address in addresses {
                reply.address(owner, ttl.glue, address);
            }
        }
        return;
    }
    if matches!(view.kind, ViewKind::ClusterIp(_) | ViewKind::Headless) {
        write_endpoint_srv(view, part, targets, ttl, room, reply);
    }
}

fn write_endpoint_srv(
    view: &ServiceView,
    part: Part<'_>,
    targets: &Targets,
    ttl: SrvTtl,
    room: usize,
    reply: &mut ReplyWriter<'_>,
) {
    let part = settled(view, part);
    let items = count_items(view, part);
    let weight = weight(items);
    let enough = reply.len() + room;
    // Records differ in length; the first one is as good a guess as any.
    let first = view
        .backends()
        .next()
        .and_then(|first| targets.endpoint(&first));
    let length = SRV_FIXED + first.map_or(1, |target| target.as_ref().len());
    let endpoints = view.slices.iter().map(|slice| slice.len()).sum::<usize>();
    let fit = endpoints * room / (length * items.max(1));
    let round = Round::new(view, part, Family::Both, fit);
    let names_distinct = view.names_distinct && view.addresses_distinct;
    with_seen(|seen| {
        round.walk(|at, index, backend| {
            let Some(target) = targets.endpoint(&backend) else {
                return true;
            };
            port_numbers(&backend.slice.ports, part).all(|port| {
                let new =
                    names_distinct || seen.insert(view, at, index, port, same_target, hash_target);
                let target = target.as_ref();
                !new || (has_room(reply, enough)
                    && reply.srv(Owner::Question, ttl.srv, 0, weight, port, target))
            })
        });
    });
    if reply.count(Section::Answer) == 0 || reply.truncated {
        return;
    }
    reply.go_to(Section::Additional);
    with_seen(|seen| {
        round.walk(|at, index, backend| {
            let numbered = port_numbers(&backend.slice.ports, part).next().is_some();
            let new =
                view.addresses_distinct || seen.insert(view, at, index, 0, same_glue, hash_address);
            match targets.endpoint(&backend) {
                // What passes the limit is cut, and TC set, unless the whole section is left out before that.
                Some(target) if numbered && new && reply.len() <= enough => {
                    reply.address(Owner::Name(target.as_ref()), ttl.glue, backend.address)
                }
                _ => reply.len() <= enough,
            }
        });
    });
}

/// Octets of an SRV record beside its target, its owner a pointer.
const SRV_FIXED: usize = 2 + 10 + 6;

/// Every endpoint and port counts, also those that end up as one record or none.
fn count_items(view: &ServiceView, part: Part<'_>) -> usize {
    match part {
        Part::Endpoint(_) | Part::ClusterEndpoint { .. } | Part::Zone { .. } => {
            let mut items = 0;
            Round::whole(view, part).walk(|_, _, backend| {
                items += count_ports(&backend.slice.ports, part);
                true
            });
            items
        }
        Part::Whole | Part::Port { .. } => view
            .slices
            .iter()
            .map(|slice| slice.len() * count_ports(&slice.ports, part))
            .sum(),
    }
}

/// The numbers of the SOA of a zone that a cluster makes up.
pub(super) fn soa_times(serial: u32, ttl: u32) -> SoaTimes {
    SoaTimes {
        serial,
        refresh: 7200,
        retry: 1800,
        expire: 86_400,
        minimum: ttl,
    }
}

/// 100 is shared among the items; nobody gets less than 1 (RFC 2782 keeps 0 for "never").
pub(super) fn weight(items: usize) -> u16 {
    u16::try_from(100 / items.max(1)).unwrap_or(100).max(1)
}

/// What was written already, for the few views that hold anything twice.
#[derive(Default)]
struct Seen {
    table: HashTable<Item>,
    hasher: foldhash::fast::RandomState,
}

/// An endpoint by slice and place, and a port.
#[derive(Clone, Copy)]
struct Item {
    slice: usize,
    index: usize,
    port: u16,
}

type Same = fn(&Backend<'_>, &Backend<'_>) -> bool;
type HashBackend = fn(&Backend<'_>, &mut dyn Hasher);

impl Seen {
    /// Whether this is the first of its like.
    fn insert(
        &mut self,
        view: &ServiceView,
        slice: usize,
        index: usize,
        port: u16,
        same: Same,
        hash: HashBackend,
    ) -> bool {
        let backend = |item: &Item| view.slices[item.slice].backend(item.index);
        let hash_of = |item: &Item| {
            let mut hasher = self.hasher.build_hasher();
            item.port.hash(&mut hasher);
            if let Some(backend) = backend(item) {
                hash(&backend, &mut hasher);
            }
            hasher.finish()
        };
        let item = Item { slice, index, port };
        let equal = |other: &Item| {
            let pair = backend(&item).zip(backend(other));
            item.port == other.port && pair.is_some_and(|(a, b)| same(&a, &b))
        };
        let hash = hash_of(&item);
        if self.table.find(hash, equal).is_some() {
            return false;
        }
        self.table.insert_unique(hash, item, hash_of);
        true
    }
}

thread_local! {
    /// Kept per thread, so that in the long run nothing is allocated.
    static SEEN: RefCell<Seen> = RefCell::default();
}

fn with_seen<R>(work: impl FnOnce(&mut Seen) -> R) -> R {
    SEEN.with_borrow_mut(|seen| {
        seen.table.clear();
        work(seen)
    })
}

fn same_address(a: &Backend<'_>, b: &Backend<'_>) -> bool {
    a.address == b.address
}

fn hash_address(backend: &Backend<'_>, mut hasher: &mut dyn Hasher) {
    backend.address.hash(&mut hasher);
}

/// The same target: the same host name, or no host name and the same address, in the same cluster.
fn same_target(a: &Backend<'_>, b: &Backend<'_>) -> bool {
    a.name == b.name
        && (a.name.is_some() || a.address == b.address)
        && a.slice.cluster() == b.slice.cluster()
}

fn hash_target(backend: &Backend<'_>, mut hasher: &mut dyn Hasher) {
    match backend.name {
        Some(name) => name.hash(&mut hasher),
        None => backend.address.hash(&mut hasher),
    }
}

fn same_glue(a: &Backend<'_>, b: &Backend<'_>) -> bool {
    a.name == b.name && a.address == b.address && a.slice.cluster() == b.slice.cluster()
}
