//! `kubernetes`: answers the names of a cluster from its table.
//!
//! ```text
//! outside the zones: next plugin
//! the table has it:  the records, or NODATA
//! it has not:        next plugin if `fallthrough` covers the name; SERVFAIL until the first lists are in; NXDOMAIN
//! ```
//!
//! The table is read without a lock and the reply is written from one version of one Service; only an ExternalName that
//! leads out of the zone may have to wait. The plugin owns what it answers, denials too, so a `cache` above never holds
//! an older copy of what the table knows.

mod alias;
mod answer;
mod build;
mod config;
mod metadata;
mod name;
mod nameserver;
mod option;
mod reverse;
mod search;
mod status;
mod zone;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::Guard;

use crate::chain::content::Held;
use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::chain::search::SearchPath;
use crate::cluster::scope::Scope;
use crate::cluster::table::{ServiceView, Slot, Table};
use crate::plugin::Spec;
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::kubernetes::name::{Grammar, Place};
use crate::plugin::service::{self, ServicePlace, dashed};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::{Name, NameRef};

/// What is known about `kubernetes`.
pub static SPEC: Spec = Spec {
    name: "kubernetes",
    summary: "answers the names of Services and Pods of a cluster",
    options: option::OPTIONS,
    parse: config::parse,
};

/// Which Pod names are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PodMode {
    /// None.
    #[default]
    Disabled,
    /// Any that spells an address.
    Insecure,
    /// Those of Pods that exist.
    Verified,
}

#[derive(Clone)]
struct Kubernetes {
    scope: Arc<Scope>,
    /// The longest first.
    zones: Box<[Origin]>,
    /// `svc.` and the zone that PTR targets lie in.
    service_suffix: Name,
    /// Of all records, in seconds.
    ttl: u32,
    pods: PodMode,
    /// Search domains of this server's own resolver, where `autopath` asks for them.
    search: Box<[Name]>,
    ignore_empty_service: bool,
    /// Names may ask for the endpoints of a topology zone.
    zonal: bool,
    /// In and below these, names are those of ServiceImports.
    multicluster: Box<[Name]>,
    fallthrough: Option<Fallthrough>,
    /// Where this server can be reached itself.
    local_addresses: Box<[IpAddr]>,
}

/// A zone of ours, with what can be said of all its names at once.
#[derive(Clone)]
struct Origin {
    name: Name,
    /// `fallthrough` covers them.
    falls_through: Coverage,
    /// They lie below one of the reverse trees.
    reverse: Coverage,
}

impl Origin {
    fn all(
        zones: impl IntoIterator<Item = Name>,
        fallthrough: Option<&Fallthrough>,
    ) -> Box<[Self]> {
        let falling = fallthrough.map_or(&[][..], Fallthrough::zones);
        let trees = reverse_trees();
        let origin = |name| Self {
            falls_through: Coverage::of(&name, falling),
            reverse: Coverage::of(&name, &trees),
            name,
        };
        zones.into_iter().map(origin).collect()
    }
}

/// How much of a zone lies at or below some names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coverage {
    Nothing,
    /// Each name has to be looked at.
    Part,
    All,
}

impl Coverage {
    fn of(zone: &Name, names: &[Name]) -> Self {
        let zone = zone.as_ref();
        if names.iter().any(|name| zone.is_at_or_below(name.as_ref())) {
            Self::All
        } else if names.iter().any(|name| name.as_ref().is_at_or_below(zone)) {
            Self::Part
        } else {
            Self::Nothing
        }
    }

    fn holds(self, look: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Part => look(),
            Self::All => true,
        }
    }
}

/// One question to this plugin.
#[derive(Clone, Copy)]
struct Asked<'q> {
    /// QNAME, or a later name of an alias chain, in lower case.
    name: NameRef<'q>,
    /// Its octets left of the zone.
    split: usize,
    /// Of the zone.
    falls_through: Coverage,
    /// Of the zone.
    reverse: Coverage,
    qtype: RecordType,
    /// All names were known when this question was begun, so what is not found is not there.
    servable: bool,
}

/// What the table has for a question.
enum Finding<'q> {
    /// No such name.
    NameError,
    /// The name exists, without records of this type.
    NoData,
    /// The zone's SOA.
    Soa,
    /// The zone's NS.
    NameServers,
    /// Addresses of `ns.dns`.
    NameServerAddresses,
    /// The version of the DNS schema.
    Version,
    /// Names of an address; the Service, where it is the own address of one.
    Pointer(IpAddr, Option<Arc<Slot>>),
    /// A Pod's address, and how many Pods there are of it.
    Pod {
        address: IpAddr,
        pods: u32,
        /// Where the Pod's own name starts in QNAME.
        at: usize,
    },
    /// A Service that exists, and what of it is asked for.
    Service(ServicePlace<'q>, Guard<Arc<ServiceView>>),
}

impl Plugin for Kubernetes {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let Some(asked) = self.asked(exchange.qname(), exchange.qtype()) else {
            return Step::Next;
        };
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
            Finding::NameError if self.falls_through(&asked) => Step::Next,
            found => self.answer(exchange, &asked, found),
        }
    }

    fn owns(&self, exchange: &Exchange<'_>) -> bool {
        let name = exchange.qname();
        self.asked(name, exchange.qtype()).is_some_and(|asked| {
            // Where nothing falls through, what is not there is denied here: no need to look it up twice.
            !self.falls_through(&asked) || !matches!(self.find(&asked), Finding::NameError)
        })
    }

    fn may_own(&self) -> bool {
        true
    }

    fn zones_held(&self) -> Vec<Name> {
        self.zones.iter().map(|zone| zone.name.clone()).collect()
    }

    fn content(&self, apex: NameRef<'_>) -> Held {
        self.zone(apex)
    }

    fn search_path(&self, exchange: &Exchange<'_>) -> Option<SearchPath<'_>> {
        self.path_of_client(exchange)
    }

    fn metadata(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn std::fmt::Write,
    ) -> bool {
        self.write_metadata(label, exchange, value)
    }
}

impl Kubernetes {
    fn table(&self) -> &Table {
        self.scope.table()
    }

    fn asked<'q>(&self, name: NameRef<'q>, qtype: RecordType) -> Option<Asked<'q>> {
        let (zone, split) = self.zones.iter().find_map(|zone| {
            let split = name.prefix_len(zone.name.as_ref())?;
            Some((zone, split))
        })?;
        Some(Asked {
            name,
            split,
            falls_through: zone.falls_through,
            reverse: zone.reverse,
            qtype,
            servable: self.scope.cluster().servable(),
        })
    }

    fn falls_through(&self, asked: &Asked<'_>) -> bool {
        asked.falls_through.holds(|| {
            let covers = |fallthrough: &Fallthrough| fallthrough.covers(asked.name);
            self.fallthrough.as_ref().is_some_and(covers)
        })
    }

    fn exposes(&self, namespace: &[u8]) -> bool {
        self.scope.exposes(namespace)
    }

    fn find<'q>(&self, asked: &Asked<'q>) -> Finding<'q> {
        match asked.qtype {
            RecordType::SOA if asked.split == 0 => return Finding::Soa,
            // CoreDNS denies no name to an SOA question, and neither passes it on. Harmless, so we keep it.
            RecordType::SOA => return Finding::NoData,
            RecordType::NS if asked.split == 0 => return Finding::NameServers,
            RecordType::PTR => {
                if let Some(address) = crate::wire::reverse::address_of(asked.name) {
                    return self.find_pointer(address);
                }
            }
            _ => {}
        }
        match name::parse(asked.name, asked.split, self.grammar(asked)) {
            Place::Apex | Place::Branch => Finding::NoData,
            Place::NameServer => match asked.qtype {
                RecordType::A | RecordType::AAAA => Finding::NameServerAddresses,
                _ => Finding::NoData,
            },
            Place::Version if asked.qtype == RecordType::TXT => Finding::Version,
            Place::Version | Place::Invalid => Finding::NameError,
            // Reverse zones hold no Services and no Pods.
            _ if asked.reverse.holds(|| is_reverse(asked.name)) => Finding::NameError,
            Place::Namespace { pod, namespace } => {
                let served = !pod || self.pods != PodMode::Disabled;
                if served && self.exposes(namespace) {
                    Finding::NoData
                } else {
                    Finding::NameError
                }
            }
            Place::Pod {
                dashed,
                namespace,
                at,
            } => self.find_pod(dashed, namespace, at),
            Place::Service(place) => self.find_service(asked, place),
        }
    }

    fn find_pod(&self, dashed: &[u8], namespace: &[u8], at: usize) -> Finding<'static> {
        if self.pods == PodMode::Disabled || !self.exposes(namespace) {
            return Finding::NameError;
        }
        let verified = self.pods == PodMode::Verified;
        let Some(address) = dashed::pod_address(dashed, verified) else {
            return Finding::NameError;
        };
        let pods = if verified {
            self.table().pods(address, namespace)
        } else {
            1
        };
        if pods == 0 {
            return Finding::NameError;
        }
        Finding::Pod { address, pods, at }
    }

    /// Whether names of the zone are those of what other clusters export.
    fn is_imported(&self, asked: &Asked<'_>) -> bool {
        let is_in = |origin: &Name| {
            let prefix = asked.name.prefix_len(origin.as_ref());
            prefix.is_some_and(|prefix| prefix >= asked.split)
        };
        self.multicluster.iter().any(is_in)
    }

    /// What names of a zone are looked up in.
    fn table_of(&self, imported: bool) -> Option<&Table> {
        if imported {
            self.table().imports()
        } else {
            Some(self.table())
        }
    }

    fn grammar(&self, asked: &Asked<'_>) -> Grammar {
        if self.is_imported(asked) {
            Grammar::Multicluster
        } else if self.zonal {
            Grammar::Zonal
        } else {
            Grammar::Plain
        }
    }

    fn find_service<'q>(&self, asked: &Asked<'_>, place: ServicePlace<'q>) -> Finding<'q> {
        let imported = self.is_imported(asked);
        let table = self.table_of(imported);
        if let Some(view) = table.and_then(|table| table.service(place.key))
            && !(imported && service::is_without_ports(&view, place.part))
            && service::exists(&view, place.part, self.ignore_empty_service)
            && self.exposes(place.namespace)
        {
            return Finding::Service(place, view);
        }
        Finding::NameError
    }
}

/// Where names of addresses lie.
fn reverse_trees() -> [Name; 2] {
    REVERSE_TREES.map(|tree| {
        let tree = NameRef::from_wire(tree);
        tree.expect("it ends with the root").to_name()
    })
}

const REVERSE_TREES: [&[u8]; 2] = [b"\x07in-addr\x04arpa\0", b"\x03ip6\x04arpa\0"];

/// Whether a name, in lower case, lies in one of the reverse trees.
fn is_reverse(name: NameRef<'_>) -> bool {
    let wire = name.as_wire();
    REVERSE_TREES.iter().any(|tree| wire.ends_with(tree))
}
