//! `metadata`: lets other plugins show what those of the block know of a query.
//!
//! Nothing is collected: a query in its zones is marked on the way down, and who wants to read a label asks for it on the
//! way up ([`Exchange::metadata`]).

mod config;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Plugin, Step};
use crate::plugin::Spec;
use crate::wire::name::Name;

/// What is known about `metadata`.
pub static SPEC: Spec = Spec {
    name: "metadata",
    summary: "lets `log` show what plugins know of a query",
    options: &[],
    parse: config::parse,
};

struct Metadata {
    zones: Box<[Name]>,
}

impl Plugin for Metadata {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let qname = exchange.qname();
        let in_zone = |zone: &Name| qname.is_at_or_below(zone.as_ref());
        exchange.state.metadata = self.zones.iter().any(in_zone);
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::sync::Arc;

    use super::*;
    use crate::chain::plugin::After;
    use crate::plugin::testing::bench::{Bench, Link, Upstream};
    use crate::plugin::testing::faults;
    use crate::wire::code::{Rcode, RecordType};

    /// Knows its own label, and shows what can be read of two.
    struct Knowing;

    impl Plugin for Knowing {
        fn name(&self) -> &'static str {
            "knowing"
        }

        fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
            Step::Next
        }

        fn reply(&self, exchange: &mut Exchange<'_>) -> After {
            let mut value = String::new();
            let known = exchange.metadata("knowing/name", &mut value);
            let unknown = exchange.metadata("knowing/nothing", &mut String::new());
            assert!(!unknown && known != value.is_empty());
            exchange.reply.rcode = if known {
                Rcode::YXDOMAIN
            } else {
                Rcode::NXRRSET
            };
            After::Done
        }

        fn metadata(&self, label: &str, exchange: &Exchange<'_>, value: &mut dyn Write) -> bool {
            label == "knowing/name" && write!(value, "{}", exchange.qname()).is_ok()
        }
    }

    #[test]
    fn labels_can_be_read_of_queries_in_its_zones() {
        for (text, qname, expected) in [
            (Some("metadata"), "a.org", true),
            (Some("metadata org net"), "a.ORG", true),
            (Some("metadata net"), "a.org", false),
            (None, "a.org", false),
        ] {
            let mut links: Vec<Link> = text
                .map(|text| Link::Corefile(&SPEC, text))
                .into_iter()
                .collect();
            links.push(Link::Made(Arc::new(Knowing)));
            links.push(Link::Made(Upstream::answering(|_, _| {})));
            let rcode = Bench::new(links).ask(qname, RecordType::A).rcode();
            assert_eq!(rcode == Rcode::YXDOMAIN, expected, "{text:?} {qname}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, fault) in [
            ("metadata a..b", "error: `a..b` is not a zone @ a..b"),
            (
                "metadata\nmetadata",
                "error: `metadata` stands twice in this server block @ metadata",
            ),
            (
                "metadata {\nx\n}",
                "error: `metadata` has no option `x` @ x",
            ),
        ] {
            assert_eq!(faults(&SPEC, text), [fault], "{text}");
        }
    }
}
