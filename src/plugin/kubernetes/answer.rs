//! Writes what was found.

use std::net::IpAddr;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::Step;
use crate::cluster::succession::Part;
use crate::cluster::table::{Alias, ViewKind};
use crate::plugin::kubernetes::name::{self, Place};
use crate::plugin::kubernetes::{Asked, Finding, Kubernetes};
use crate::plugin::service::{self, SrvTtl, Targets, soa_times};
use crate::plugin::stale;
use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::NameRef;
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter};

/// The version of the DNS schema that Kubernetes clients may ask for, and its TTL in seconds.
pub(super) const SCHEMA_VERSION: &[u8] = b"1.1.0";
pub(super) const SCHEMA_TTL: u32 = 28_800;

/// The longest that a denial is kept, in seconds.
pub(super) const SOA_TTL_MAX: u32 = 300;

/// What an SOA of ours is written from.
#[derive(Clone, Copy)]
pub(super) struct Soa {
    /// Octets of QNAME left of the zone.
    pub(super) split: usize,
    pub(super) ttl: u32,
    pub(super) serial: u32,
}

impl Soa {
    pub(super) fn write(self, reply: &mut ReplyWriter<'_>) {
        let ttl = self.ttl.min(SOA_TTL_MAX);
        let times = soa_times(self.serial, self.ttl);
        let zone = self.split;
        reply.record(
            Owner::QuestionSuffix(zone),
            RecordType::SOA,
            Class::IN,
            ttl,
            |rdata| {
                rdata.name_below_question(b"\x02ns\x03dns", zone);
                rdata.name_below_question(b"\x0ahostmaster", zone);
                rdata.soa_times(times);
            },
        );
    }
}

impl Kubernetes {
    pub(super) fn answer(
        &self,
        exchange: &mut Exchange<'_>,
        asked: &Asked<'_>,
        found: Finding<'_>,
    ) -> Step {
        let query = exchange.query;
        let zone = NameRef::from_wire(&query.qname().as_wire()[asked.split..])
            .expect("the zone is a suffix of QNAME");
        exchange.reply.authoritative = true;
        if let Some(stale) = self.stale(ExtendedError::STALE_ANSWER) {
            exchange.state.extended_error = Some(stale);
        }
        let is_service = matches!(found, Finding::Service(..));
        let room = exchange.room();
        let reply = &mut exchange.reply;
        match found {
            Finding::NameError => return self.deny(exchange, asked),
            Finding::NoData => {}
            Finding::Soa => self.soa(asked).write(reply),
            Finding::NameServers => self.write_name_servers(exchange, zone),
            Finding::NameServerAddresses => {
                self.write_name_server_addresses(asked, Owner::Question, zone, reply)
            }
            Finding::Version => {
                reply.txt(Owner::Question, Class::IN, SCHEMA_TTL, &[SCHEMA_VERSION]);
            }
            Finding::Pointer(address, own) => {
                self.write_pointers(address, own.as_deref(), reply);
            }
            Finding::Pod { address, pods, at } => {
                self.write_pod(asked, address, pods, at, zone, reply)
            }
            Finding::Service(place, view) => match (&view.kind, asked.qtype) {
                (ViewKind::ExternalName(Alias::Name(target)), RecordType::A | RecordType::AAAA) => {
                    let target = target.clone();
                    return self.follow(exchange, asked, zone, target);
                }
                (ViewKind::ExternalName(Alias::Name(target)), RecordType::CNAME) => {
                    reply.name_record(
                        Owner::Question,
                        RecordType::CNAME,
                        self.ttl,
                        target.as_ref(),
                    );
                }
                (_, RecordType::A | RecordType::AAAA) => {
                    service::write_addresses(
                        &view,
                        place.part,
                        asked.qtype,
                        Owner::Question,
                        self.ttl,
                        room,
                        reply,
                    );
                }
                (_, RecordType::SRV) => {
                    if let Some(targets) = Targets::new(place.key, Some(b"svc"), zone) {
                        let ttl = SrvTtl {
                            srv: self.ttl,
                            glue: self.ttl,
                        };
                        service::write_srv(&view, place.part, &targets, ttl, room, reply);
                    }
                }
                _ => {}
            },
        }
        if exchange.reply.count(Section::Answer) > 0 {
            return Step::Answered;
        }
        if is_service {
            return self.no_records(exchange, asked);
        }
        self.no_data(exchange, asked);
        Step::Answered
    }

    /// A Service has no records of the type. Until all is listed, its endpoints may still come.
    pub(super) fn no_records(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>) -> Step {
        if !self.is_whole(asked) {
            return self.not_ready(exchange, asked);
        }
        self.no_data(exchange, asked);
        Step::Answered
    }

    /// Whether all names like this one were known when the question was begun, or are now.
    fn is_whole(&self, asked: &Asked<'_>) -> bool {
        asked.servable || self.scope.cluster().names_servable(self.needed(asked))
    }

    /// What must be known to deny such a name, apart from namespaces and Services.
    fn needed(&self, asked: &Asked<'_>) -> Option<Part> {
        if self.is_imported(asked) {
            return Some(Part::Imports);
        }
        if asked.qtype == RecordType::PTR {
            return Some(Part::Endpoints);
        }
        match name::parse(asked.name, asked.split, self.grammar(asked)) {
            Place::Pod { .. } => Some(Part::Pods),
            // Where there is no Service there is nothing of it.
            Place::Service(place) => self.table().service(place.key).map(|_| Part::Endpoints),
            _ => None,
        }
    }

    /// The extended error of this code as long as a snapshot stands in for the API server.
    pub(super) fn stale(&self, code: u16) -> Option<ExtendedError> {
        stale::error(self.scope.cluster(), code)
    }

    pub(super) fn soa(&self, asked: &Asked<'_>) -> Soa {
        Soa {
            split: asked.split,
            ttl: stale::denial_ttl(self.scope.cluster(), self.ttl),
            serial: self.serial(asked),
        }
    }

    /// The serial of the zone that a question is about.
    pub(super) fn serial(&self, asked: &Asked<'_>) -> u32 {
        if self.is_imported(asked) {
            self.scope.cluster().import_serial()
        } else {
            self.scope.cluster().serial()
        }
    }

    /// The name exists, but has no records of the type.
    pub(super) fn no_data(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>) {
        exchange.reply.go_to(Section::Authority);
        self.soa(asked).write(&mut exchange.reply);
    }

    fn deny(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>) -> Step {
        // The last lists may have come in while the name was looked up: then it may be there by now.
        let denied = asked.servable
            || self.is_whole(asked) && matches!(self.find(asked), Finding::NameError);
        if !denied {
            return self.not_ready(exchange, asked);
        }
        exchange.reply.rcode = Rcode::NXDOMAIN;
        // While the API server is away no name comes to be, so what a snapshot does not have is mostly not there; and
        // SERVFAIL would end the search list of many a client (docs/decisions/0009-snapshot.md).
        if let Some(stale) = self.stale(ExtendedError::STALE_NXDOMAIN_ANSWER) {
            exchange.state.extended_error = Some(stale);
        }
        self.no_data(exchange, asked);
        Step::Answered
    }

    /// A denial now would be kept by clients for as long as the SOA allows.
    fn not_ready(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>) -> Step {
        exchange.reply.rcode = Rcode::SERVFAIL;
        let why = "the cluster is not listed yet";
        exchange.state.extended_error = Some(ExtendedError::new(ExtendedError::NOT_READY, why));
        self.no_data(exchange, asked);
        Step::Answered
    }

    fn write_pod(
        &self,
        asked: &Asked<'_>,
        address: IpAddr,
        pods: u32,
        at: usize,
        zone: NameRef<'_>,
        reply: &mut ReplyWriter<'_>,
    ) {
        match asked.qtype {
            RecordType::A if address.is_ipv4() => {
                reply.address(Owner::Question, self.ttl, address);
            }
            RecordType::AAAA if address.is_ipv6() => {
                reply.address(Owner::Question, self.ttl, address);
            }
            RecordType::SRV => {
                // The Pod's own name: its labels in lower case, the zone as the client spelled it.
                let mut target = crate::wire::name::NameBuf::new();
                let labels = &asked.name.as_wire()[at..];
                let labels = NameRef::from_wire(labels)
                    .expect("a suffix of QNAME at a label")
                    .labels();
                let fits = labels.take(3).all(|label| target.push_label(label).is_ok())
                    && target.push_name(zone).is_ok();
                if !fits {
                    return;
                }
                let weight = u16::try_from(100 / pods.max(1)).unwrap_or(100).max(1);
                reply.srv(Owner::Question, self.ttl, 0, weight, 0, target.as_ref());
                reply.go_to(Section::Additional);
                reply.address(Owner::Name(target.as_ref()), self.ttl, address);
            }
            _ => {}
        }
    }
}
