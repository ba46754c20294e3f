//! `bufsize`: bounds the UDP replies that clients may ask for, and what we advertise.

use std::sync::Arc;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::corefile::args::{Args, read_as};
use crate::corefile::diagnostic::Diagnostic;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::Assembly;
use crate::wire::{UDP_CLASSIC_MAX, UDP_PAYLOAD_DEFAULT};

/// `bufsize`
pub static SPEC: Spec = Spec {
    name: "bufsize",
    summary: "bounds the size of UDP replies, and what we advertise",
    options: &[],
    parse,
};

/// The most octets that CoreDNS allows here.
const PAYLOAD_SIZE_MAX: u16 = 4096;

const EXPECTED: &str = "a payload size in octets, 512 to 4096";

#[derive(Debug)]
struct BufsizeConfig {
    payload_size_max: u16,
}

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let directive = context.once();
    let plain = context.has_no_options(directive) && context.directives.len() == 1;
    let payload_size_max = context.faults.note(read_size(Args::of(directive)))?;
    plain.then(|| Box::new(BufsizeConfig { payload_size_max }) as Box<dyn Config>)
}

fn read_size(mut args: Args<'_>) -> Result<u16, Diagnostic> {
    let Some(word) = args.peek() else {
        return Ok(UDP_PAYLOAD_DEFAULT);
    };
    let size: u16 = read_as(word, EXPECTED)?;
    args.take(EXPECTED)?;
    args.finish()?;
    if !(UDP_CLASSIC_MAX..=PAYLOAD_SIZE_MAX).contains(&size) {
        return Err(Diagnostic::error(
            word.span,
            format!("payload size `{size}` is out of range"),
            format!("expected {EXPECTED}"),
        ));
    }
    Ok(size)
}

impl Config for BufsizeConfig {
    fn build(&self, _assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        Ok(vec![Arc::new(Bufsize {
            payload_size_max: self.payload_size_max,
        })])
    }
}

struct Bufsize {
    payload_size_max: u16,
}

impl Plugin for Bufsize {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.state.udp_payload_max = self.payload_size_max;
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::plugin::testing::bench::{Ask, Bench, Link, fault};
    use crate::wire::code::RecordType;
    use crate::wire::writer::Owner;

    /// Answers with 200 addresses, 3200 octets.
    struct Many;

    impl Plugin for Many {
        fn name(&self) -> &'static str {
            "many"
        }

        fn query(&self, exchange: &mut Exchange<'_>) -> Step {
            for last in 0..200 {
                exchange
                    .reply
                    .a(Owner::Question, 5, Ipv4Addr::new(10, 0, 0, last));
            }
            Step::Answered
        }
    }

    fn bench(text: &'static str) -> Bench {
        Bench::new(vec![
            Link::Corefile(&SPEC, text),
            Link::Made(Arc::new(Many)),
        ])
    }

    fn ask(payload_size: Option<u16>) -> Ask {
        Ask {
            edns: payload_size.map(|size| (size, false)),
            ..Ask::new("a.org", RecordType::A)
        }
    }

    #[test]
    fn replies_and_the_advertised_size_stay_within_it() {
        let reply = bench("bufsize 600").send(&ask(Some(4096)));
        assert!(reply.has_tc());
        assert!(reply.octets.len() <= 600 && reply.octets.len() > 600 - 16);
        assert_eq!(reply.payload_size(), Some(600));
    }

    #[test]
    fn a_client_that_takes_less_gets_less() {
        let reply = bench("bufsize 4096").send(&ask(Some(700)));
        assert!(reply.octets.len() <= 700 && reply.octets.len() > 700 - 16);
        let reply = bench("bufsize 4096").send(&ask(None));
        assert!(reply.octets.len() <= 512);
        assert_eq!(reply.payload_size(), None);
    }

    #[test]
    fn it_may_be_more_than_our_own_default() {
        let reply = bench("bufsize 4096").send(&ask(Some(4096)));
        assert!(!reply.has_tc());
        assert_eq!(reply.octets.len(), 23 + 200 * 16 + 11);
        assert_eq!(
            bench("bufsize").send(&ask(Some(4096))).payload_size(),
            Some(1232)
        );
    }

    #[test]
    fn sizes_out_of_range_are_faults() {
        for (text, expected) in [
            ("bufsize 511", "payload size `511` is out of range @ 511"),
            ("bufsize 4097", "payload size `4097` is out of range @ 4097"),
            (
                "bufsize big",
                "`big` is not a payload size in octets, 512 to 4096 @ big",
            ),
            ("bufsize 512 512", "`bufsize` takes no `512` @ 512"),
            (
                "bufsize\nbufsize",
                "`bufsize` stands twice in this server block @ bufsize",
            ),
        ] {
            assert_eq!(fault(&SPEC, text), expected);
        }
    }
}
