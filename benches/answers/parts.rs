//! Parts of the road, each for itself: a chain that does nothing but walk, and replies that nobody asked for.

use std::net::Ipv4Addr;
use std::sync::Arc;

use fingerpost::chain::Chain;
use fingerpost::chain::exchange::Exchange;
use fingerpost::chain::plugin::{Plugin, Step};
use fingerpost::telemetry::metrics::{Metrics, ServerMetrics};
use fingerpost::wire::name::Name;
use fingerpost::wire::query::Query;
use fingerpost::wire::record::Section;
use fingerpost::wire::writer::{Owner, ReplyOpt, ReplyWriter};
use fingerpost::zone::Zones;
use fingerpost::zone::block::ServerBlock;

/// Links that only look on, in front of the one that answers.
pub(crate) const ONLOOKERS: usize = 8;

struct Onlooker;

impl Plugin for Onlooker {
    fn name(&self) -> &'static str {
        "onlooker"
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }
}

/// Has one address for every name.
struct One;

impl Plugin for One {
    fn name(&self) -> &'static str {
        "one"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.reply.a(Owner::Question, 5, Ipv4Addr::LOCALHOST);
        Step::Answered
    }
}

/// A server of these links alone.
pub(crate) fn chain() -> Arc<Zones> {
    let mut links: Vec<Arc<dyn Plugin>> = Vec::new();
    links.extend((0..ONLOOKERS).map(|_| Arc::new(Onlooker) as Arc<dyn Plugin>));
    links.push(Arc::new(One));
    let block = ServerBlock {
        origin: Name::from_text("cluster.local").unwrap(),
        server: "dns://:1053".into(),
        chain: Chain::new(links),
    };
    let metrics = ServerMetrics::new(&Metrics::new(), "dns://:1053");
    Arc::new(Zones::new(vec![Arc::new(block)], Arc::new(metrics)))
}

/// A reply of four SRV records, each with the address of its target, whose names repeat one another.
pub(crate) fn write_reply(query: &Query<'_>, targets: &[Name], out: &mut Vec<u8>) {
    let mut reply = ReplyWriter::new(query, out);
    reply.authoritative = true;
    for target in targets {
        reply.srv(Owner::Question, 30, 0, 25, 80, target.as_ref());
    }
    reply.go_to(Section::Additional);
    for target in targets {
        reply.a(Owner::Name(target.as_ref()), 30, Ipv4Addr::new(10, 0, 0, 1));
    }
    let opt = ReplyOpt {
        payload_size: 1232,
        dnssec_ok: false,
        extended_error: None,
        options: &[],
    };
    reply.finish(query, 1232, Some(&opt));
}
