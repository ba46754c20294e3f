//! A whole zone, for those who may copy it.
//!
//! Each RRset is the one that a query gets (RFC 5936, section 3). Where the name of a Service is an alias, nothing else
//! stands at it, not even the SRV records that queries get: with them secondaries would refuse the zone (RFC 1034,
//! section 3.6.2). CoreDNS sends some records twice, others not at all, and targets without their first labels.

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::content::{Held, ZoneContent, ZoneRecord};
use crate::cluster::table::{ExternalTarget, ServiceView, Slot, ViewKind};
use crate::plugin::k8s_external::config::is_reverse;
use crate::plugin::k8s_external::name::{self, Place};
use crate::plugin::k8s_external::{External, Zone, balancer};
use crate::plugin::service::records::{ServiceRecords, named_ports};
use crate::plugin::service::{self, Part, SrvTtl, Targets, soa_times};
use crate::server::lent::LentCluster;
use crate::wire::code::RecordType;
use crate::wire::name::{Name, NameRef};
use crate::wire::reverse;

impl External {
    /// The zone with this apex, as it is from now on.
    pub(super) fn zone(&self, apex: NameRef<'_>) -> Held {
        let zone = self.zones.iter().find(|zone| zone.origin.as_ref() == apex);
        let (Some(zone), Some(lent)) = (zone, self.cluster.get()) else {
            return Held::Nothing;
        };
        let cluster = lent.scope.cluster();
        if !cluster.synced() {
            return Held::Unready;
        }
        // Before anything is looked at: what changes from here on has another serial.
        let serial = cluster.take_external_serial();
        let soa = ZoneRecord::soa(
            zone.origin.as_ref(),
            self.ttl,
            zone.name_server.as_ref(),
            zone.mailbox.as_ref(),
            soa_times(serial, self.ttl),
        );
        let copy = Copy {
            external: Arc::new(self.clone()),
            zone: zone.clone(),
        };
        Held::Content(ZoneContent {
            serial,
            soa,
            records: Box::new(copy.records()),
        })
    }
}

/// Draws the records of a zone.
#[derive(Clone)]
struct Copy {
    external: Arc<External>,
    zone: Zone,
}

impl Copy {
    /// All records but the SOA. What there is to draw is looked up when it is its turn.
    fn records(self) -> impl Iterator<Item = ZoneRecord> + Send {
        let (services, each, addresses, pointers) =
            (self.clone(), self.clone(), self.clone(), self.clone());
        let apex = std::iter::once_with(move || self.apex()).flatten();
        let services = std::iter::once_with(move || services.slots()).flatten();
        let services = services.flat_map(move |slot| each.of_service(&slot).into_iter().flatten());
        let addresses = std::iter::once_with(move || addresses.addresses()).flatten();
        let pointers = addresses.flat_map(move |address| pointers.pointers(address));
        apex.chain(services).chain(pointers)
    }

    fn lent(&self) -> &LentCluster {
        let lent = self.external.cluster.get();
        lent.expect("there is no copy without a cluster, and a slot never loses it")
    }

    /// NS, and the addresses of the name server.
    fn apex(&self) -> Vec<ZoneRecord> {
        let (ttl, server) = (self.external.ttl, self.zone.name_server.as_ref());
        let mut records = vec![ZoneRecord::name(
            self.zone.origin.as_ref(),
            RecordType::NS,
            ttl,
            server,
        )];
        let addresses = self.external.name_server_addresses(self.lent());
        let address = |address| ZoneRecord::address(server, ttl, address);
        records.extend(addresses.into_iter().map(address));
        records
    }

    /// All Services that may be in the zone.
    fn slots(&self) -> Vec<Arc<Slot>> {
        if is_reverse(&self.zone.origin) {
            return Vec::new();
        }
        let mut slots = self.lent().scope.table().slots();
        slots.sort_unstable_by(|one, other| one.labels.cmp(&other.labels));
        slots
    }

    /// Whether a name belongs to this zone, and not to a longer one of ours; and what it asks for.
    fn place<'n>(&self, name: NameRef<'n>) -> Option<Place<'n>> {
        let external = &self.external;
        let longest = external.zones.iter();
        let longest = longest.map(|zone| &zone.origin);
        let origin = longest
            .into_iter()
            .find(|origin| name.is_at_or_below(origin.as_ref()))?;
        let split = name.prefix_len(self.zone.origin.as_ref())?;
        (*origin == self.zone.origin).then(|| name::parse(name, split, &external.apex))
    }

    fn of_service(&self, slot: &Slot) -> Option<Box<dyn Iterator<Item = ZoneRecord> + Send>> {
        let lent = self.lent();
        if !lent.scope.exposes(slot.namespace()) {
            return None;
        }
        // A name that would be too long is none.
        let targets = Targets::new(&slot.labels, None, self.zone.origin.as_ref())?;
        let Place::Service(_) = self.place(targets.service())? else {
            return None;
        };
        let ttl = SrvTtl {
            srv: lent.ttl,
            glue: self.external.ttl,
        };
        let view = Arc::clone(&slot.view());
        if !view.external().is_empty() {
            return Some(Box::new(external_records(&view, &targets, ttl).into_iter()));
        }
        if !self.external.headless || view.kind != ViewKind::Headless {
            return None;
        }
        Some(Box::new(ServiceRecords::new(view, targets, ttl, false)?))
    }

    /// The addresses whose reverse names lie in the zone, in order.
    fn addresses(&self) -> Vec<IpAddr> {
        let origin = self.zone.origin.as_ref();
        let may_hold = |tree: &str| {
            let tree = Name::from_text(tree).expect("a constant name");
            origin.is_at_or_below(tree.as_ref()) || tree.as_ref().is_at_or_below(origin)
        };
        let (mut v4, mut v6) = self.lent().scope.table().external_addresses();
        let (holds_v4, holds_v6) = (may_hold("in-addr.arpa"), may_hold("ip6.arpa"));
        v4.retain(|_| holds_v4);
        v6.retain(|_| holds_v6);
        v4.sort_unstable();
        v6.sort_unstable();
        let v4 = v4.into_iter().map(IpAddr::V4);
        v4.chain(v6.into_iter().map(IpAddr::V6)).collect()
    }

    fn pointers(&self, address: IpAddr) -> Vec<ZoneRecord> {
        let owner = reverse::name_of(address);
        let mut records = Vec::new();
        if self.place(owner.as_ref()).is_some() {
            let (external, ttl) = (&self.external, self.external.ttl);
            external.for_targets(&self.lent().scope, address, |target| {
                let owner = owner.as_ref();
                records.push(ZoneRecord::name(owner, RecordType::PTR, ttl, target));
            });
        }
        records
    }
}

/// What stands there for a Service that is reached from outside.
fn external_records(view: &ServiceView, targets: &Targets, ttl: SrvTtl) -> Vec<ZoneRecord> {
    let (owner, external) = (targets.service(), view.external());
    let addresses = external.iter().filter_map(|target| match target {
        ExternalTarget::Address(address) => Some(*address),
        ExternalTarget::Name(_) => None,
    });
    let own = addresses.clone().next().map(|_| owner);
    let mut records: Vec<ZoneRecord> = addresses
        .map(|address| ZoneRecord::address(owner, ttl.glue, address))
        .collect();
    let items = |part: Part<'_>| external.len() * service::count_ports(&view.ports, part);
    let mut srv = |at: NameRef<'_>, part: Part<'_>, weight: u16| {
        for target in own.into_iter().chain(balancer::names(view)) {
            for port in service::port_numbers(&view.ports, part) {
                records.push(ZoneRecord::srv(at, ttl.srv, [0, weight, port], target));
            }
        }
    };
    for port in named_ports(view.ports.iter(), targets, items) {
        srv(port.owner.as_ref(), port.part(), port.weight);
    }
    match balancer::alias(view) {
        None => srv(owner, Part::Whole, service::weight(items(Part::Whole))),
        Some(alias) if alias != owner => {
            let record = ZoneRecord::name(owner, RecordType::CNAME, ttl.srv, alias);
            records.push(record);
        }
        Some(_) => {}
    }
    records
}
