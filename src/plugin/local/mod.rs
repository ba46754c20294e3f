//! `local`: answers for names that never leave a machine: localhost and the reverse zones of addresses that are no
//! host's (RFC 6761, section 6.3; RFC 6303, section 4.2).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use prometheus::{IntCounter, Registry};

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::{BuildError, Config, Context, OptionSpec, Spec};
use crate::server::assembly::Assembly;
use crate::telemetry::metrics::Families;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::{Name, NameRef};
use crate::wire::record::Section;
use crate::wire::writer::{Owner, SoaTimes};

/// What is known about `local`.
pub static SPEC: Spec = Spec {
    name: "local",
    summary: "answers for localhost and its reverse zones",
    options: &[OptionSpec {
        name: "localhost_prefix",
        syntax: "localhost_prefix on|off",
        default: "on",
        help: "takes any name whose first label is `localhost` for localhost",
    }],
    parse,
};

/// TTL of every record, in seconds: a week.
const TTL: u32 = 604_800;

#[derive(Debug)]
struct LocalConfig {
    takes_prefix: bool,
}

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let mut whole = true;
    let mut takes_prefix = true;
    // As in CoreDNS it may stand more than once; the last option counts.
    for directive in context.directives {
        whole &= context.faults.note(Args::of(directive).finish()).is_some();
        for option in directive.options() {
            whole &= context.has_no_options(option);
            match context.faults.note(read_switch(option)) {
                Some(value) => takes_prefix = value,
                None => whole = false,
            }
        }
    }
    whole.then(|| Box::new(LocalConfig { takes_prefix }) as Box<dyn Config>)
}

fn read_switch(option: &Directive) -> Result<bool, Diagnostic> {
    const EXPECTED: &str = "`on` or `off`";
    if option.name.text != "localhost_prefix" {
        return Err(unknown_option(SPEC.name, option, SPEC.option_names()));
    }
    let mut args = Args::of(option);
    let word = args.take(EXPECTED)?;
    args.finish()?;
    match word.text.as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(Diagnostic::error(
            word.span,
            format!("`{other}` is not {EXPECTED}"),
            format!("expected {EXPECTED}"),
        )),
    }
}

impl Config for LocalConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let name = |text| Name::from_text(text).expect("a name of ours is valid");
        Ok(vec![Arc::new(Local {
            takes_prefix: self.takes_prefix,
            localhost: name("localhost."),
            mailbox: name("root.localhost."),
            zones: [
                "localhost.",
                "0.in-addr.arpa.",
                "127.in-addr.arpa.",
                "255.in-addr.arpa.",
            ]
            .map(name),
            loopback: name("1.0.0.127.in-addr.arpa."),
            families: assembly.process.metrics.families(),
        })])
    }
}

struct LocalFamilies {
    localhost_requests: IntCounter,
}

impl Families for LocalFamilies {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let localhost_requests = IntCounter::new(
            "coredns_local_localhost_requests_total",
            "queries for names below localhost, or that begin with it",
        )?;
        registry.register(Box::new(localhost_requests.clone()))?;
        Ok(Self { localhost_requests })
    }
}

struct Local {
    takes_prefix: bool,
    localhost: Name,
    mailbox: Name,
    zones: [Name; 4],
    loopback: Name,
    families: Arc<LocalFamilies>,
}

impl Plugin for Local {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let qname = exchange.qname();
        if self.is_localhost_by_affix(qname) {
            self.families.localhost_requests.inc();
            self.answer_localhost(exchange, 0);
            return Step::Answered;
        }
        let zone = self
            .zones
            .iter()
            .find_map(|zone| Some((zone, qname.prefix_len(zone.as_ref())?)));
        let Some((zone, zone_at)) = zone else {
            return Step::Next;
        };
        let is_loopback = qname == self.loopback.as_ref();
        match exchange.qtype() {
            _ if zone_at == 0 => self.answer_apex(exchange, zone),
            RecordType::PTR if is_loopback => {
                let target = self.localhost.as_ref();
                exchange
                    .reply
                    .name_record(Owner::Question, RecordType::PTR, TTL, target);
            }
            _ => {
                if !is_loopback {
                    exchange.reply.rcode = Rcode::NXDOMAIN;
                }
                self.deny(exchange, zone_at);
            }
        }
        Step::Answered
    }
}

impl Local {
    /// `x.localhost.`, and `localhost.x.` as search lists make it of a bare `localhost`. Not `localhost.` itself.
    fn is_localhost_by_affix(&self, qname: NameRef<'_>) -> bool {
        let below = qname.prefix_len(self.localhost.as_ref());
        let begins = || {
            let mut labels = qname.labels();
            labels.next() == Some(b"localhost") && labels.next().is_some()
        };
        below.is_some_and(|octets| octets > 0) || (self.takes_prefix && begins())
    }

    fn answer_localhost(&self, exchange: &mut Exchange<'_>, zone_at: usize) {
        let reply = &mut exchange.reply;
        match exchange.query.qtype() {
            RecordType::A => {
                reply.a(Owner::Question, TTL, Ipv4Addr::LOCALHOST);
            }
            RecordType::AAAA => {
                reply.aaaa(Owner::Question, TTL, Ipv6Addr::LOCALHOST);
            }
            _ => self.deny(exchange, zone_at),
        }
    }

    fn answer_apex(&self, exchange: &mut Exchange<'_>, zone: &Name) {
        match exchange.qtype() {
            RecordType::SOA => self.soa(exchange, 0),
            RecordType::NS => {
                let target = self.localhost.as_ref();
                exchange
                    .reply
                    .name_record(Owner::Question, RecordType::NS, TTL, target);
            }
            _ if *zone == self.localhost => self.answer_localhost(exchange, 0),
            _ => self.deny(exchange, 0),
        }
    }

    /// An SOA in the authority section. `zone_at` octets of the QNAME stand left of the zone.
    fn deny(&self, exchange: &mut Exchange<'_>, zone_at: usize) {
        exchange.reply.go_to(Section::Authority);
        self.soa(exchange, zone_at);
    }

    fn soa(&self, exchange: &mut Exchange<'_>, zone_at: usize) {
        let times = SoaTimes {
            serial: 1,
            refresh: 0,
            retry: 0,
            expire: 0,
            minimum: TTL,
        };
        exchange.reply.soa(
            Owner::QuestionSuffix(zone_at),
            TTL,
            self.localhost.as_ref(),
            self.mailbox.as_ref(),
            times,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::Below;
    use crate::plugin::testing::bench::{Ask, Bench, Link, fault};

    fn bench(text: &'static str) -> Bench {
        Bench::new(vec![
            Link::Corefile(&SPEC, text),
            Link::Made(Arc::new(Below::Rcode(Rcode::REFUSED))),
        ])
    }

    fn ask(qname: &str, qtype: RecordType) -> (Rcode, Vec<String>) {
        let reply = bench("local").ask(qname, qtype);
        assert!(!reply.has_aa());
        (reply.rcode(), reply.records())
    }

    fn answer(text: &str) -> (Rcode, Vec<String>) {
        (Rcode::NOERROR, vec![format!("answer {text}")])
    }

    fn denial(rcode: Rcode, zone: &str) -> (Rcode, Vec<String>) {
        let soa = "604800 IN SOA localhost. root.localhost. 1 0 0 0 604800";
        (rcode, vec![format!("authority {zone} {soa}")])
    }

    #[test]
    fn localhost_is_this_machine() {
        for name in ["LocalHost.", "a.b.localhost.", "localhost.example.org."] {
            let v4 = answer(&format!("{name} 604800 IN A 127.0.0.1"));
            assert_eq!(ask(name, RecordType::A), v4);
            let v6 = answer(&format!("{name} 604800 IN AAAA ::1"));
            assert_eq!(ask(name, RecordType::AAAA), v6);
            assert_eq!(
                ask(name, RecordType::MX),
                denial(Rcode::NOERROR, name),
                "the SOA hangs on the name itself"
            );
        }
    }

    #[test]
    fn a_question_for_any_class_does_not_leave_either() {
        let mut ask = Ask::new("localhost", RecordType::A);
        ask.qclass = 255;
        let reply = bench("local").send(&ask);
        let v4 = answer("localhost. 604800 IN A 127.0.0.1");
        assert_eq!((reply.rcode(), reply.records()), v4);
    }

    #[test]
    fn an_apex_has_soa_and_ns_and_no_address_but_localhost() {
        for apex in ["localhost.", "0.in-addr.arpa.", "255.in-addr.arpa."] {
            let soa = "IN SOA localhost. root.localhost. 1 0 0 0 604800";
            let expected = answer(&format!("{apex} 604800 {soa}"));
            assert_eq!(ask(apex, RecordType::SOA), expected);
            let ns = answer(&format!("{apex} 604800 IN NS localhost."));
            assert_eq!(ask(apex, RecordType::NS), ns);
        }
        let apex = "127.in-addr.arpa.";
        assert_eq!(ask(apex, RecordType::A), denial(Rcode::NOERROR, apex));
    }

    #[test]
    fn the_loopback_address_points_to_localhost() {
        let name = "1.0.0.127.in-addr.arpa.";
        let ptr = answer(&format!("{name} 604800 IN PTR localhost."));
        assert_eq!(ask(name, RecordType::PTR), ptr);
        let zone = "127.in-addr.arpa.";
        assert_eq!(ask(name, RecordType::A), denial(Rcode::NOERROR, zone));
    }

    #[test]
    fn other_names_in_the_zones_do_not_exist() {
        let found = ask("2.0.0.127.in-addr.arpa.", RecordType::PTR);
        assert_eq!(found, denial(Rcode::NXDOMAIN, "127.in-addr.arpa."));
    }

    #[test]
    fn everything_else_passes() {
        for name in ["localhosts.", "mylocalhost.", "10.in-addr.arpa.", "."] {
            assert_eq!(ask(name, RecordType::A).0, Rcode::REFUSED, "{name}");
        }
        let off = bench("local {\n localhost_prefix off\n}");
        let rcode = |name| off.ask(name, RecordType::A).rcode();
        assert_eq!(rcode("localhost.example.org."), Rcode::REFUSED);
        assert_eq!(rcode("example.localhost."), Rcode::NOERROR);
    }

    #[test]
    fn affixes_are_counted_and_the_apex_is_not() {
        let bench = bench("local");
        for name in ["localhost.", "a.localhost.", "localhost.a."] {
            bench.ask(name, RecordType::A);
        }
        assert_eq!(
            bench.metrics("coredns_local"),
            ["coredns_local_localhost_requests_total 2"]
        );
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, expected) in [
            ("local x", "`local` takes no `x` @ x"),
            (
                "local {\n localhost_prefix maybe\n}",
                "`maybe` is not `on` or `off` @ maybe",
            ),
            (
                "local {\n localhost_prefix\n}",
                "`localhost_prefix` needs `on` or `off` @ localhost_prefix",
            ),
            (
                "local {\n prefix on\n}",
                "`local` has no option `prefix` @ prefix",
            ),
        ] {
            assert_eq!(fault(&SPEC, text), expected);
        }
    }
}
