//! `k8s_external`: answers for Services as they are reached from outside of the cluster.
//!
//! ```text
//! outside the zones:             next plugin
//! web.shop.example.org           `externalIPs` and load balancers of the Service `web` in `shop`; with `headless`, the
//!                                endpoints of a headless one that has neither
//! 1.113.0.203.in-addr.arpa PTR   the Services with that external address
//! nobody has it:                 next plugin if `fallthrough` covers the name; SERVFAIL until the first lists are in;
//!                                NXDOMAIN
//! ```
//!
//! The cluster is that of the block's `kubernetes`, read without a lock; only the name of a load balancer may have to
//! be waited for. As there, what is answered is owned, denials too, so that a `cache` above never holds an older copy.

mod answer;
mod balancer;
mod config;
mod name;
mod nameserver;
mod reverse;
mod zone;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::Guard;

use crate::chain::content::Held;
use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::cluster::table::{ServiceView, ViewKind};
use crate::plugin::Spec;
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::k8s_external::name::Place;
use crate::plugin::service::{self, ServicePlace};
use crate::server::lent::{ClusterSlot, LentCluster};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::{Name, NameBuf, NameRef};

/// What is known about `k8s_external`.
pub static SPEC: Spec = Spec {
    name: "k8s_external",
    summary: "answers for Services as they are reached from outside of the cluster",
    options: config::OPTIONS,
    parse: config::parse,
};

#[derive(Clone)]
struct External {
    /// `kubernetes` is built after us.
    cluster: ClusterSlot,
    /// The longest first.
    zones: Box<[Zone]>,
    /// PTR targets lie in it.
    pointer_zone: Name,
    /// The label above the name server, in lower case.
    apex: Box<[u8]>,
    /// Of all records but SRV and CNAME, in seconds.
    ttl: u32,
    headless: bool,
    fallthrough: Option<Fallthrough>,
}

/// One zone, and the names that its SOA and NS need.
#[derive(Clone)]
struct Zone {
    origin: Name,
    /// `ns1.dns.` and the origin.
    name_server: Name,
    /// `hostmaster.dns.` and the origin.
    mailbox: Name,
}

/// One question to this plugin.
#[derive(Clone, Copy)]
struct Asked<'q> {
    cluster: &'q LentCluster,
    zone: &'q Zone,
    /// QNAME in lower case.
    name: NameRef<'q>,
    /// Its octets left of the zone.
    split: usize,
    qtype: RecordType,
    /// All names were known when this question was begun, so what is not found is not there.
    servable: bool,
}

/// What there is for a question.
enum Finding<'q> {
    /// No such name; the next plugin may have it.
    NameError,
    /// No such name, and nobody else has it.
    Denied,
    /// The name exists, without records of this type.
    NoData,
    /// The zone's SOA.
    Soa,
    /// The zone's NS.
    NameServers,
    /// The addresses of its name server.
    NameServerAddresses,
    /// The Services with an external address.
    Pointer(IpAddr),
    /// A Service that is reached from outside.
    Service(ServicePlace<'q>, Guard<Arc<ServiceView>>),
    /// Endpoints of a headless Service that is not.
    Endpoints(ServicePlace<'q>, Guard<Arc<ServiceView>>),
}

impl Plugin for External {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let name = NameBuf::copy_of(exchange.qname());
        let Some(asked) = self.asked(name.as_ref(), exchange.qtype()) else {
            return Step::Next;
        };
        // CoreDNS says NODATA, which is no reply to a transfer (RFC 5936, section 2.2).
        if matches!(asked.qtype, RecordType::AXFR | RecordType::IXFR) {
            exchange.reply.rcode = Rcode::REFUSED;
            let why = ExtendedError::new(
                ExtendedError::NOT_SUPPORTED,
                "zones are handed out by `transfer`",
            );
            exchange.state.extended_error = Some(why);
            return Step::Answered;
        }
        match self.find(&asked) {
            Finding::NameError if self.falls_through(asked.name) => Step::Next,
            found => self.answer(exchange, &asked, found),
        }
    }

    fn owns(&self, exchange: &Exchange<'_>) -> bool {
        let name = exchange.qname();
        self.asked(name, exchange.qtype())
            .is_some_and(|asked| match self.find(&asked) {
                Finding::NameError => !self.falls_through(name),
                _ => true,
            })
    }

    fn may_own(&self) -> bool {
        true
    }

    fn zones_held(&self) -> Vec<Name> {
        self.zones.iter().map(|zone| zone.origin.clone()).collect()
    }

    fn content(&self, apex: NameRef<'_>) -> Held {
        self.zone(apex)
    }
}

impl External {
    fn asked<'q>(&'q self, name: NameRef<'q>, qtype: RecordType) -> Option<Asked<'q>> {
        let in_zone = |zone: &'q Zone| Some((zone, name.prefix_len(zone.origin.as_ref())?));
        let (zone, split) = self.zones.iter().find_map(in_zone)?;
        // There is one in every block that serves: one without `kubernetes` does not get past the parser.
        let cluster = self.cluster.get()?;
        Some(Asked {
            cluster,
            servable: cluster.scope.cluster().servable(),
            zone,
            name,
            split,
            qtype,
        })
    }

    fn falls_through(&self, name: NameRef<'_>) -> bool {
        self.fallthrough
            .as_ref()
            .is_some_and(|fallthrough| fallthrough.covers(name))
    }

    fn find<'q>(&self, asked: &Asked<'q>) -> Finding<'q> {
        let scope = &asked.cluster.scope;
        if let Some(address) = crate::wire::reverse::address_of(asked.name) {
            match (asked.qtype, self.has_pointer(scope, address)) {
                (RecordType::PTR, true) => return Finding::Pointer(address),
                (RecordType::PTR, false) => return Finding::NameError,
                // A denial would hold for PTR too (RFC 2308, section 5). CoreDNS gives it.
                (_, true) => return Finding::NoData,
                (_, false) => {}
            }
        }
        match name::parse(asked.name, asked.split, &self.apex) {
            Place::Apex => match asked.qtype {
                RecordType::SOA => Finding::Soa,
                RecordType::NS => Finding::NameServers,
                _ => Finding::NoData,
            },
            Place::NameServer => match asked.qtype {
                RecordType::A | RecordType::AAAA => Finding::NameServerAddresses,
                _ => Finding::NoData,
            },
            Place::Branch => Finding::NoData,
            Place::BelowBranch => Finding::Denied,
            Place::Namespace(namespace) if scope.exposes(namespace) => Finding::NoData,
            Place::Service(place) if scope.exposes(place.namespace) => {
                self.find_service(asked.cluster, place)
            }
            Place::Namespace(_) | Place::Service(_) | Place::Invalid => Finding::NameError,
        }
    }

    /// CoreDNS also answers endpoints of Services with a cluster address, which nobody asked to be shown, below a name
    /// that it denies (RFC 8020). Here the name of an endpoint exists only where that of its Service does.
    fn find_service<'q>(&self, cluster: &LentCluster, place: ServicePlace<'q>) -> Finding<'q> {
        let Some(view) = cluster.scope.table().service(place.key) else {
            return Finding::NameError;
        };
        if !view.external().is_empty() {
            // A label that would name an endpoint is not looked at, as in CoreDNS.
            return if service::count_ports(&view.ports, place.part) > 0 {
                Finding::Service(place, view)
            } else {
                Finding::NameError
            };
        }
        if self.headless
            && view.kind == ViewKind::Headless
            && service::exists(&view, place.part, false)
        {
            return Finding::Endpoints(place, view);
        }
        Finding::NameError
    }
}
