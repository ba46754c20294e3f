//! Writes what was found.

use crate::chain::exchange::Exchange;
use crate::chain::plugin::Step;
use crate::cluster::succession::Part;
use crate::cluster::table::{ExternalTarget, ServiceView};
use crate::plugin::k8s_external::{Asked, External, Finding, balancer};
use crate::plugin::service::{self, ServicePlace, SrvTtl, Targets, soa_times};
use crate::plugin::stale;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter};

impl External {
    pub(super) fn answer(
        &self,
        exchange: &mut Exchange<'_>,
        asked: &Asked<'_>,
        found: Finding<'_>,
    ) -> Step {
        exchange.reply.authoritative = true;
        let cluster = asked.cluster.scope.cluster();
        exchange.state.extended_error = stale::error(cluster, ExtendedError::STALE_ANSWER);
        let room = exchange.room();
        let reply = &mut exchange.reply;
        match found {
            Finding::NameError | Finding::Denied => deny(exchange, asked),
            Finding::NoData => {}
            Finding::Soa => self.write_soa(asked, reply),
            Finding::NameServers => self.write_name_server(asked, reply),
            Finding::NameServerAddresses => self.write_name_server_addresses(asked, reply),
            Finding::Pointer(address) => {
                self.write_pointers(&asked.cluster.scope, address, reply);
            }
            Finding::Endpoints(place, view) => {
                self.write_endpoints(asked, place, &view, room, reply);
            }
            Finding::Service(place, view) => match (asked.qtype, balancer::alias(&view)) {
                (RecordType::A | RecordType::AAAA, Some(target)) => {
                    balancer::write_alias(target, asked.cluster.ttl, reply);
                    if exchange.reply.count(Section::Answer) > 0 {
                        return balancer::complete(exchange, &[(target, asked.qtype)]);
                    }
                }
                (RecordType::CNAME, Some(target)) => {
                    balancer::write_alias(target, asked.cluster.ttl, reply);
                }
                (RecordType::SRV, _) => return self.answer_srv(exchange, asked, place, &view),
                _ => self.write_addresses(asked.qtype, &view, reply),
            },
        }
        self.finish(exchange, asked)
    }

    /// A reply without an answer has the SOA (RFC 2308, section 2).
    fn finish(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>) -> Step {
        if exchange.reply.count(Section::Answer) == 0 {
            exchange.reply.go_to(Section::Authority);
            self.write_soa(asked, &mut exchange.reply);
        }
        Step::Answered
    }

    fn write_soa(&self, asked: &Asked<'_>, reply: &mut ReplyWriter<'_>) {
        let zone = asked.zone;
        let cluster = asked.cluster.scope.cluster();
        let ttl = stale::denial_ttl(cluster, self.ttl);
        reply.soa(
            Owner::Name(zone.origin.as_ref()),
            ttl,
            zone.name_server.as_ref(),
            zone.mailbox.as_ref(),
            soa_times(cluster.external_serial(), ttl),
        );
    }

    fn write_addresses(&self, qtype: RecordType, view: &ServiceView, reply: &mut ReplyWriter<'_>) {
        let is_v4 = match qtype {
            RecordType::A => true,
            RecordType::AAAA => false,
            _ => return,
        };
        for target in view.external() {
            if let ExternalTarget::Address(address) = *target
                && address.is_ipv4() == is_v4
            {
                reply.address(Owner::Question, self.ttl, address);
            }
        }
    }

    /// A record for each port and target: the Service's own name stands for all of its addresses.
    fn answer_srv(
        &self,
        exchange: &mut Exchange<'_>,
        asked: &Asked<'_>,
        place: ServicePlace<'_>,
        view: &ServiceView,
    ) -> Step {
        let ports = || service::port_numbers(&view.ports, place.part);
        let external = view.external();
        let is_address = |target: &ExternalTarget| matches!(target, ExternalTarget::Address(_));
        let own = Targets::new(place.key, None, asked.zone.origin.as_ref());
        let own = own.filter(|_| external.iter().any(is_address));
        let names = balancer::names(view);
        let items = external.len() * service::count_ports(&view.ports, place.part);
        let (ttl, weight) = (asked.cluster.ttl, service::weight(items));
        let reply = &mut exchange.reply;
        let own_name = own.as_ref().map(Targets::service);
        for target in own_name.into_iter().chain(names.clone()) {
            for port in ports() {
                reply.srv(Owner::Question, ttl, 0, weight, port, target);
            }
        }
        if reply.count(Section::Answer) == 0 {
            return self.finish(exchange, asked);
        }
        reply.go_to(Section::Additional);
        if let Some(own) = own_name {
            for target in external {
                if let ExternalTarget::Address(address) = *target {
                    reply.address(Owner::Name(own), self.ttl, address);
                }
            }
        }
        balancer::complete_with_addresses(exchange, names)
    }

    fn write_endpoints(
        &self,
        asked: &Asked<'_>,
        place: ServicePlace<'_>,
        view: &ServiceView,
        room: usize,
        reply: &mut ReplyWriter<'_>,
    ) {
        match asked.qtype {
            RecordType::A | RecordType::AAAA => {
                let owner = Owner::Question;
                let (part, qtype) = (place.part, asked.qtype);
                service::write_addresses(view, part, qtype, owner, self.ttl, room, reply);
            }
            RecordType::SRV => {
                let ttl = SrvTtl {
                    srv: asked.cluster.ttl,
                    glue: self.ttl,
                };
                let origin = asked.zone.origin.as_ref();
                if let Some(targets) = Targets::new(place.key, None, origin) {
                    service::write_srv(view, place.part, &targets, ttl, room, reply);
                }
            }
            _ => {}
        }
    }
}

fn deny(exchange: &mut Exchange<'_>, asked: &Asked<'_>) {
    let cluster = asked.cluster.scope.cluster();
    // What was taken over stays so: it was there when the name was looked up.
    let needed = [Part::External, Part::Endpoints];
    if asked.servable
        || needed
            .iter()
            .all(|&part| cluster.has_taken_over(Some(part)))
    {
        exchange.reply.rcode = Rcode::NXDOMAIN;
        let code = ExtendedError::STALE_NXDOMAIN_ANSWER;
        exchange.state.extended_error = stale::error(cluster, code);
        return;
    }
    // CoreDNS says NXDOMAIN, which would be believed for as long as the SOA allows.
    exchange.reply.rcode = Rcode::SERVFAIL;
    let why = "the cluster is not listed yet";
    exchange.state.extended_error = Some(ExtendedError::new(ExtendedError::NOT_READY, why));
}
