//! Tests of plugins that work together.

use crate::plugin::testing::bench::{Bench, Link};
use crate::plugin::{cache, hosts, whoami};
use crate::wire::code::RecordType;

#[test]
fn hosts_above_the_table_answers_through_a_cache() {
    let bench = Bench::new(vec![
        Link::Corefile(&cache::SPEC, "cache 30"),
        Link::Corefile(
            &hosts::SPEC,
            "hosts /dev/null {\n 192.0.2.5 web.example.org\n fallthrough\n}",
        ),
        Link::Corefile(&whoami::SPEC, "whoami"),
    ]);
    for _ in ["miss", "hit"] {
        let reply = bench.ask("web.example.org", RecordType::A);
        assert_eq!(
            reply.records(),
            ["answer web.example.org. 30 IN A 192.0.2.5"]
        );
    }
}
