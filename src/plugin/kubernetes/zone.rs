//! A whole zone, for those who may copy it.
//!
//! ```text
//! apex, ns.dns, dns-version   of every zone
//! Services, by name           of zones that are not reverse
//! PTR, by address             of zones that hold reverse names
//! ```
//!
//! Each RRset is the one that a query gets (RFC 5936, section 3); CoreDNS' transfers differ from its answers. Pods are
//! not in it: below `pods insecure` there is a name for each address there can be.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::content::{Held, ZoneContent, ZoneRecord};
use crate::cluster::table::{Slot, Table};
use crate::plugin::kubernetes::answer::{SCHEMA_TTL, SCHEMA_VERSION, SOA_TTL_MAX};
use crate::plugin::kubernetes::{Asked, Coverage, Finding, Kubernetes, is_reverse};
use crate::plugin::service::records::ServiceRecords;
use crate::plugin::service::{self, Part, SrvTtl, Targets, soa_times};
use crate::wire::code::RecordType;
use crate::wire::name::{Name, NameBuf, NameRef};
use crate::wire::reverse;

impl Kubernetes {
    /// The zone with this apex, as it is from now on.
    pub(super) fn zone(&self, apex: NameRef<'_>) -> Held {
        let mut zones = self.zones.iter().map(|zone| &zone.name);
        let Some(zone) = zones.find(|zone| zone.as_ref() == apex) else {
            return Held::Nothing;
        };
        let imported = self.is_imported(&whole(zone));
        let cluster = self.scope.cluster();
        if !cluster.synced() {
            return Held::Unready;
        }
        let (Some(mname), Some(rname)) =
            (below(&[b"ns", b"dns"], zone), below(&[b"hostmaster"], zone))
        else {
            return Held::Nothing;
        };
        // Before anything is looked at: what changes from here on has another serial.
        let serial = if imported {
            cluster.take_import_serial()
        } else {
            cluster.take_serial()
        };
        let soa = ZoneRecord::soa(
            zone.as_ref(),
            self.ttl.min(SOA_TTL_MAX),
            mname.as_ref(),
            rname.as_ref(),
            soa_times(serial, self.ttl),
        );
        let records = Walk {
            kubernetes: self.clone(),
            zone: zone.clone(),
            imported,
            ready: VecDeque::new(),
            service: None,
            stage: Stage::Apex,
        };
        Held::Content(ZoneContent {
            serial,
            soa,
            records: Box::new(records),
        })
    }

    /// Whether a name belongs to this zone, and not to a longer one of ours.
    fn belongs(&self, name: NameRef<'_>, zone: &Name) -> bool {
        let asked = self.asked(name, RecordType::ANY);
        asked.is_some_and(|asked| name.len() - asked.split == zone.as_ref().len())
    }
}

/// The question for a zone's own name.
fn whole(zone: &Name) -> Asked<'_> {
    Asked {
        name: zone.as_ref(),
        split: 0,
        falls_through: Coverage::Part,
        reverse: Coverage::Part,
        qtype: RecordType::SOA,
        servable: true,
    }
}

/// Some labels below the zone; none if it would be too long.
fn below(labels: &[&[u8]], zone: &Name) -> Option<NameBuf> {
    let mut name = NameBuf::new();
    for label in labels {
        name.push_label(label).ok()?;
    }
    name.push_name(zone.as_ref()).ok()?;
    Some(name)
}

/// What is drawn next.
enum Stage {
    Apex,
    Services(std::vec::IntoIter<Arc<Slot>>),
    Pointers(Box<dyn Iterator<Item = IpAddr> + Send>),
}

/// Draws the records of a zone.
struct Walk {
    kubernetes: Kubernetes,
    zone: Name,
    /// Its names are those of ServiceImports.
    imported: bool,
    ready: VecDeque<ZoneRecord>,
    service: Option<ServiceRecords>,
    stage: Stage,
}

impl Iterator for Walk {
    type Item = ZoneRecord;

    fn next(&mut self) -> Option<ZoneRecord> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            if let Some(record) = self.service.as_mut().and_then(Iterator::next) {
                return Some(record);
            }
            self.service = None;
            match &mut self.stage {
                Stage::Apex => {
                    self.write_apex();
                    self.stage = Stage::Services(self.slots().into_iter());
                }
                Stage::Services(slots) => match slots.next() {
                    Some(slot) => self.service = self.records_of(&slot),
                    None => self.stage = Stage::Pointers(self.addresses()),
                },
                Stage::Pointers(addresses) => {
                    let address = addresses.next()?;
                    self.write_pointers(address);
                }
            }
        }
    }
}

impl Walk {
    /// NS, the addresses of the name servers, `ns.dns` and `dns-version`.
    fn write_apex(&mut self) {
        let (kubernetes, zone) = (&self.kubernetes, &self.zone);
        let ttl = kubernetes.ttl;
        let servers = kubernetes.name_servers(zone.as_ref());
        for (index, (name, _)) in servers.iter().enumerate() {
            if !servers[..index].iter().any(|(before, _)| before == name) {
                let apex = zone.as_ref();
                let record = ZoneRecord::name(apex, RecordType::NS, ttl, name.as_ref());
                self.ready.push_back(record);
            }
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        let own = below(&[b"ns", b"dns"], zone);
        for (name, address) in &servers {
            // CoreDNS gives glue a TTL of 0, and once more what the Services have anyway: two TTLs in one RRset.
            let is_own = own
                .as_ref()
                .is_some_and(|own| own.as_ref() == name.as_ref());
            if !is_own && !self.comes_with_its_service(name) {
                let record = ZoneRecord::address(name.as_ref(), ttl, *address);
                self.ready.push_back(record);
            }
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        if let Some(own) = &own {
            let record = |address| ZoneRecord::address(own.as_ref(), ttl, address);
            self.ready.extend(addresses.into_iter().map(record));
        }
        if let Some(version) = below(&[b"dns-version"], zone) {
            let record = ZoneRecord::txt(version.as_ref(), SCHEMA_TTL, SCHEMA_VERSION);
            self.ready.push_back(record);
        }
    }

    /// Whether a name of a name server is that of a Service or endpoint that is in the zone.
    fn comes_with_its_service(&self, name: &Name) -> bool {
        let asked = Asked {
            name: name.as_ref(),
            split: name.as_ref().len() - self.zone.as_ref().len(),
            qtype: RecordType::A,
            ..whole(&self.zone)
        };
        matches!(self.kubernetes.find(&asked), Finding::Service(..))
    }

    /// All Services of the zone, by name and then by namespace.
    fn slots(&self) -> Vec<Arc<Slot>> {
        if is_reverse(self.zone.as_ref()) {
            return Vec::new();
        }
        let table = self.kubernetes.table_of(self.imported);
        let mut slots = table.map(Table::slots).unwrap_or_default();
        slots.sort_unstable_by(|one, other| names(one).cmp(&names(other)));
        slots
    }

    fn records_of(&self, slot: &Slot) -> Option<ServiceRecords> {
        let Kubernetes {
            ttl,
            ignore_empty_service,
            ..
        } = self.kubernetes;
        if !self.kubernetes.exposes(slot.namespace()) {
            return None;
        }
        let view = Arc::clone(&slot.view());
        if self.imported && service::is_without_ports(&view, Part::Whole) {
            return None;
        }
        // A name that would be too long is none.
        let targets = Targets::new(&slot.labels, Some(b"svc"), self.zone.as_ref())?;
        let ttl = SrvTtl {
            srv: ttl,
            glue: ttl,
        };
        let records = ServiceRecords::new(view, targets, ttl, ignore_empty_service)?;
        let is_here = self.kubernetes.belongs(records.owner(), &self.zone);
        is_here.then_some(records)
    }

    /// The addresses whose reverse names lie in the zone, in order. CoreDNS shows Services in reverse zones instead.
    fn addresses(&self) -> Box<dyn Iterator<Item = IpAddr> + Send> {
        let zone = &self.zone;
        let may_hold = |tree: &str| {
            let tree = Name::from_text(tree).expect("a constant name");
            zone.as_ref().is_at_or_below(tree.as_ref())
                || tree.as_ref().is_at_or_below(zone.as_ref())
        };
        let (holds_v4, holds_v6) = (may_hold("in-addr.arpa"), may_hold("ip6.arpa"));
        if !holds_v4 && !holds_v6 {
            return Box::new(std::iter::empty());
        }
        let (mut v4, mut v6) = self.kubernetes.table().addresses();
        v4.retain(|_| holds_v4);
        v6.retain(|_| holds_v6);
        v4.sort_unstable();
        v6.sort_unstable();
        let v6 = v6.into_iter().map(IpAddr::V6);
        Box::new(v4.into_iter().map(IpAddr::V4).chain(v6))
    }

    fn write_pointers(&mut self, address: IpAddr) {
        let owner = reverse::name_of(address);
        if !self.kubernetes.belongs(owner.as_ref(), &self.zone) {
            return;
        }
        let (kubernetes, ready) = (&self.kubernetes, &mut self.ready);
        kubernetes.for_targets(address, |target| {
            let (owner, target) = (owner.as_ref(), target.as_ref());
            let record = ZoneRecord::name(owner, RecordType::PTR, kubernetes.ttl, target);
            ready.push_back(record);
        });
    }
}

/// The names of Service and namespace. Without their lengths, which would put short names first.
fn names(slot: &Slot) -> (&[u8], &[u8]) {
    let namespace = slot.namespace();
    let service = &slot.labels[1..slot.labels.len() - namespace.len()];
    (service, &namespace[1..])
}
