//! `any`: answers QTYPE ANY with one small record instead of everything there is (RFC 8482, section 4.2).

use std::sync::Arc;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::corefile::args::Args;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::Assembly;
use crate::wire::code::{Class, RecordType};
use crate::wire::writer::Owner;

/// `any`
pub static SPEC: Spec = Spec {
    name: "any",
    summary: "answers queries for ANY with one small record",
    options: &[],
    parse,
};

/// TTL of the answer, in seconds.
const TTL: u32 = 8482;

/// CPU and OS of the HINFO record, each with its length octet.
const HINFO: &[u8] = b"\x0dANY obsoleted\x0cSee RFC 8482";

#[derive(Debug)]
struct AnyConfig;

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let mut whole = true;
    for directive in context.directives {
        whole &= context.has_no_options(directive);
        whole &= context.faults.note(Args::of(directive).finish()).is_some();
    }
    whole.then(|| Box::new(AnyConfig) as Box<dyn Config>)
}

impl Config for AnyConfig {
    fn build(&self, _assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        Ok(vec![Arc::new(Any)])
    }
}

struct Any;

impl Plugin for Any {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.qtype() != RecordType::ANY {
            return Step::Next;
        }
        let reply = &mut exchange.reply;
        reply.record(
            Owner::Question,
            RecordType::HINFO,
            Class::IN,
            TTL,
            |rdata| rdata.octets(HINFO),
        );
        Step::Answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::bench::{Bench, Link, fault};

    fn bench() -> Bench {
        Bench::new(vec![
            Link::Corefile(&SPEC, "any"),
            Link::Corefile(&crate::plugin::whoami::SPEC, "whoami"),
        ])
    }

    #[test]
    fn any_gets_one_hinfo_record() {
        let reply = bench().ask("a.org", RecordType::ANY);
        assert!(!reply.has_aa());
        assert_eq!(
            reply.records(),
            ["answer a.org. 8482 IN HINFO ANY obsoleted See RFC 8482"]
        );
    }

    #[test]
    fn other_types_pass() {
        assert!(bench().ask("a.org", RecordType::A).has_aa());
    }

    #[test]
    fn arguments_are_faults() {
        assert_eq!(fault(&SPEC, "any x"), "`any` takes no `x` @ x");
    }
}
