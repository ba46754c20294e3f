//! All records of a Service, one after the other: what a copy of its zone holds of it.
//!
//! ```text
//! web.shop.svc              addresses, SRV for all ports (ClusterIP), or CNAME
//! _http._tcp.web.shop.svc   SRV for the ports of this name
//! 10-1-0-4.web.shop.svc     the endpoint's addresses
//! ```
//!
//! Every RRset is the one that a query gets, whole (RFC 5936, section 3). Types that queries are answered at names which
//! exist for something else (addresses at a port's name, SRV at an endpoint's) are left out, as in CoreDNS.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::chain::content::ZoneRecord;
use crate::cluster::objects::Port;
use crate::cluster::table::{Alias, Backend, ServiceView, ViewKind};
use crate::plugin::service::{Part, SrvTtl, Targets, count_ports, exists, port_numbers, weight};
use crate::wire::code::RecordType;
use crate::wire::name::{LABEL_MAX, NameBuf, NameRef};

/// Draws the records of one version of a Service. Memory is that of one endpoint's records, but for the few Services
/// that hold anything twice.
pub(in crate::plugin) struct ServiceRecords {
    view: Arc<ServiceView>,
    targets: Targets,
    ttl: SrvTtl,
    ports: Vec<NamedPort>,
    /// The next endpoint: its slice, and its place there.
    next: (usize, usize),
    ready: VecDeque<ZoneRecord>,
    /// What was drawn, where something might come twice.
    seen: Option<HashSet<ZoneRecord>>,
}

/// A port that has a name of its own below the Service's.
pub(in crate::plugin) struct NamedPort {
    pub(in crate::plugin) owner: NameBuf,
    /// In lower case.
    port: Box<[u8]>,
    protocol: Box<[u8]>,
    pub(in crate::plugin) weight: u16,
}

impl NamedPort {
    /// What its name asks for.
    pub(in crate::plugin) fn part(&self) -> Part<'_> {
        Part::Port {
            port: &self.port,
            protocol: &self.protocol,
        }
    }
}

impl ServiceRecords {
    /// Of the Service whose names `targets` makes; none if it does not exist.
    pub(in crate::plugin) fn new(
        view: Arc<ServiceView>,
        targets: Targets,
        ttl: SrvTtl,
        ignore_empty: bool,
    ) -> Option<Self> {
        if !exists(&view, Part::Whole, ignore_empty) {
            return None;
        }
        let distinct = view.addresses_distinct && view.names_distinct;
        let mut this = Self {
            ports: ports_of(&view, &targets),
            view,
            targets,
            ttl,
            next: (0, 0),
            ready: VecDeque::new(),
            seen: (!distinct).then(HashSet::new),
        };
        this.write_service();
        Some(this)
    }

    /// The Service's own name.
    pub(in crate::plugin) fn owner(&self) -> NameRef<'_> {
        self.targets.service()
    }

    /// What stands at the Service's own name, and at its ports' if it has addresses of its own.
    fn write_service(&mut self) {
        let view = Arc::clone(&self.view);
        let owner = self.targets.service();
        match &view.kind {
            ViewKind::ExternalName(Alias::Name(target)) => {
                let target = target.as_ref();
                let record = ZoneRecord::name(owner, RecordType::CNAME, self.ttl.srv, target);
                self.ready.push_back(record);
            }
            ViewKind::ClusterIp(addresses) if !addresses.is_empty() => {
                let own = |&address| ZoneRecord::address(owner, self.ttl.glue, address);
                self.ready.extend(addresses.iter().map(own));
                let all = weight(count_ports(&view.ports, Part::Whole) * addresses.len());
                let mut srv = |at: NameRef<'_>, part: Part<'_>, weight: u16| {
                    for number in port_numbers(&view.ports, part) {
                        let record = ZoneRecord::srv(at, self.ttl.srv, [0, weight, number], owner);
                        self.ready.push_back(record);
                    }
                };
                srv(owner, Part::Whole, all);
                for named in &self.ports {
                    srv(named.owner.as_ref(), named.part(), named.weight);
                }
            }
            _ => {}
        }
    }

    /// What stands there for one endpoint.
    fn write_endpoint(&mut self, headless: bool, backend: &Backend<'_>) {
        let address = backend.address;
        if headless {
            let owner = self.targets.service();
            let record = ZoneRecord::address(owner, self.ttl.glue, address);
            self.ready.push_back(record);
        }
        let Some(target) = self.targets.endpoint(backend) else {
            return;
        };
        let target = target.as_ref();
        // Also those of a ClusterIP Service, which CoreDNS leaves out: PTR leads to them.
        let record = ZoneRecord::address(target, self.ttl.glue, address);
        self.ready.push_back(record);
        if !headless {
            return;
        }
        for named in &self.ports {
            for number in port_numbers(&backend.slice.ports, named.part()) {
                let numbers = [0, named.weight, number];
                let record = ZoneRecord::srv(named.owner.as_ref(), self.ttl.srv, numbers, target);
                self.ready.push_back(record);
            }
        }
    }

    /// Works out the records of the next endpoint; false if there is none.
    fn advance(&mut self) -> bool {
        let view = Arc::clone(&self.view);
        let headless = match view.kind {
            ViewKind::Headless => true,
            ViewKind::ClusterIp(_) => false,
            ViewKind::Absent | ViewKind::ExternalName(_) => return false,
        };
        while let Some(slice) = view.slices.get(self.next.0) {
            if let Some(backend) = slice.backend(self.next.1) {
                self.next.1 += 1;
                self.write_endpoint(headless, &backend);
                return true;
            }
            self.next = (self.next.0 + 1, 0);
        }
        false
    }
}

impl Iterator for ServiceRecords {
    type Item = ZoneRecord;

    fn next(&mut self) -> Option<ZoneRecord> {
        loop {
            while let Some(record) = self.ready.pop_front() {
                let is_new = |seen: &mut HashSet<ZoneRecord>| seen.insert(record.clone());
                if self.seen.as_mut().is_none_or(is_new) {
                    return Some(record);
                }
            }
            if !self.advance() {
                return None;
            }
        }
    }
}

/// The ports of a Service or of its slices that have names of their own.
fn ports_of(view: &ServiceView, targets: &Targets) -> Vec<NamedPort> {
    match &view.kind {
        ViewKind::ClusterIp(addresses) => named_ports(view.ports.iter(), targets, |part| {
            count_ports(&view.ports, part) * addresses.len()
        }),
        ViewKind::Headless => {
            let ports = view.slices.iter().flat_map(|slice| slice.ports.iter());
            named_ports(ports, targets, |part| {
                let slices = view.slices.iter();
                slices
                    .map(|slice| slice.len() * count_ports(&slice.ports, part))
                    .sum()
            })
        }
        ViewKind::Absent | ViewKind::ExternalName(_) => Vec::new(),
    }
}

/// The ports that have names, each once. One without a name or protocol has no SRV of its own. `items` says how many
/// share the weight of a port.
pub(in crate::plugin) fn named_ports<'p>(
    ports: impl Iterator<Item = &'p Port>,
    targets: &Targets,
    items: impl Fn(Part<'_>) -> usize,
) -> Vec<NamedPort> {
    let mut known = HashSet::new();
    let mut named = Vec::new();
    for port in ports {
        let names = [&port.name, &port.protocol].map(|text| text.to_ascii_lowercase());
        if names.iter().any(|text| text.is_empty()) || !known.insert(names.clone()) {
            continue;
        }
        let [name, protocol] = names.map(|text| text.into_bytes().into_boxed_slice());
        let Some(owner) = port_owner(&name, &protocol, targets) else {
            continue;
        };
        let mut port = NamedPort {
            owner,
            port: name,
            protocol,
            weight: 0,
        };
        port.weight = weight(items(port.part()));
        named.push(port);
    }
    named
}

/// `_http._tcp.web.shop.svc` and the zone; none if it would be too long.
fn port_owner(port: &[u8], protocol: &[u8], targets: &Targets) -> Option<NameBuf> {
    let mut owner = NameBuf::new();
    for text in [port, protocol] {
        // A dot would be part of a label that no query can have asked for as we read it.
        if text.len() >= LABEL_MAX || text.contains(&b'.') {
            return None;
        }
        let mut label = [b'_'; LABEL_MAX];
        label[1..=text.len()].copy_from_slice(text);
        owner.push_label(&label[..=text.len()]).ok()?;
    }
    owner.push_name(targets.service()).ok()?;
    Some(owner)
}
