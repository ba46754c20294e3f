//! `whoami`: tells clients their own address, port and protocol.

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Plugin, Step};
use crate::corefile::args::Args;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::Assembly;
use crate::wire::code::RecordType;
use crate::wire::name::{NameBuf, ROOT};
use crate::wire::record::Section;
use crate::wire::writer::Owner;

/// `whoami`
pub static SPEC: Spec = Spec {
    name: "whoami",
    summary: "tells clients their own address, port and protocol",
    options: &[],
    parse,
};

/// Says nothing: the plugin takes no arguments.
#[derive(Debug)]
struct WhoamiConfig;

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let mut whole = true;
    for directive in context.directives {
        whole &= context.has_no_options(directive);
        whole &= context.faults.note(Args::of(directive).finish()).is_some();
    }
    whole.then(|| Box::new(WhoamiConfig) as Box<dyn Config>)
}

impl Config for WhoamiConfig {
    fn build(&self, _assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        Ok(vec![Arc::new(Whoami)])
    }
}

struct Whoami;

impl Plugin for Whoami {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    /// Answers every name and type; what is told stands in the additional section, with TTL 0 and the query's class.
    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let (client, protocol) = (exchange.arrival().client, exchange.arrival().protocol);
        let qclass = exchange.query.qclass();
        let mut srv_owner = NameBuf::new();
        // `_udp.` in front of a name of 252 octets and more leaves no valid name: the port stays untold.
        let fits = srv_owner
            .push_label(match protocol {
                crate::chain::exchange::Protocol::Udp => b"_udp",
                crate::chain::exchange::Protocol::Tcp => b"_tcp",
            })
            .and_then(|()| srv_owner.push_name(exchange.query.qname()))
            .is_ok();
        let reply = &mut exchange.reply;
        reply.authoritative = true;
        reply.go_to(Section::Additional);
        match client.ip() {
            IpAddr::V4(address) => {
                reply.record(Owner::Question, RecordType::A, qclass, 0, |rdata| {
                    rdata.octets(&address.octets())
                })
            }
            IpAddr::V6(address) => {
                reply.record(Owner::Question, RecordType::AAAA, qclass, 0, |rdata| {
                    rdata.octets(&address.octets())
                })
            }
        };
        if fits {
            let owner = Owner::Name(srv_owner.as_ref());
            reply.record(owner, RecordType::SRV, qclass, 0, |rdata| {
                rdata.octets(&[0, 0, 0, 0]);
                rdata.octets(&client.port().to_be_bytes());
                rdata.name(ROOT);
            });
        }
        Step::Answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::bench::{Ask, Bench, Link, fault};
    use crate::wire::code::Rcode;

    fn bench() -> Bench {
        Bench::new(vec![Link::Corefile(&SPEC, "whoami")])
    }

    #[test]
    fn the_client_hears_its_address_and_port_in_the_additional_section() {
        let reply = bench().ask("What.Example.org", RecordType::TXT);
        assert!(reply.has_aa());
        assert_eq!(
            reply.records(),
            [
                "additional What.Example.org. 0 IN A 192.0.2.7",
                "additional _udp.What.Example.org. 0 IN SRV 0 0 4444 ."
            ]
        );
    }

    #[test]
    fn an_ipv6_client_on_tcp_hears_aaaa_and_tcp() {
        let mut ask = Ask::new(".", RecordType::A);
        ask.arrival.client = "[2001:db8::7]:99".parse().expect("an address");
        ask.arrival.protocol = crate::chain::exchange::Protocol::Tcp;
        assert_eq!(
            bench().send(&ask).records(),
            [
                "additional . 0 IN AAAA 2001:db8::7",
                "additional _tcp. 0 IN SRV 0 0 99 ."
            ]
        );
    }

    #[test]
    fn a_name_with_no_room_for_another_label_still_gets_its_address() {
        let longest = "a.".repeat(127);
        assert_eq!(
            bench().ask(&longest, RecordType::A).records(),
            [format!("additional {longest} 0 IN A 192.0.2.7")]
        );
    }

    #[test]
    fn classes_other_than_in_and_any_are_refused_whatever_the_chain() {
        for (qclass, expected) in [
            (1, Rcode::NOERROR),
            (255, Rcode::NOERROR),
            (0, Rcode::REFUSED),
            (3, Rcode::REFUSED),
            (4, Rcode::REFUSED),
            (254, Rcode::REFUSED),
        ] {
            let mut ask = Ask::new("version.bind", RecordType::TXT);
            ask.qclass = qclass;
            assert_eq!(bench().send(&ask).rcode(), expected, "class {qclass}");
        }
    }

    #[test]
    fn arguments_are_faults() {
        assert_eq!(fault(&SPEC, "whoami me"), "`whoami` takes no `me` @ me");
        assert_eq!(
            fault(&SPEC, "whoami {\n x\n}"),
            "`whoami` has no option `x` @ x"
        );
    }
}
