//! One test a rule. Time is the arrival of a query, so no test waits for a TTL.

mod kinds;
mod scan;
mod stale;
mod table;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Plugin, Step};
use crate::plugin::cache::SPEC;
use crate::plugin::testing::bench::{Ask, Bench, Link, Reply, Upstream, wait_until};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::{Name, ROOT};
use crate::wire::query::flag;
use crate::wire::record::Section;
use crate::wire::writer::{Owner, SoaTimes};

pub(super) fn bench(text: &'static str, upstream: &Arc<Upstream>) -> Bench {
    Bench::new(vec![
        Link::Corefile(&SPEC, text),
        Link::Made(Arc::<Upstream>::clone(upstream)),
    ])
}

/// Where the time of a test starts: ahead of the clock, which then never interferes.
pub(super) fn start() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Asks for `web.example.org A`, so many seconds after `start`.
pub(super) fn ask_at(start: Instant, seconds: u64) -> Ask {
    let mut ask = Ask::new("web.example.org", RecordType::A);
    ask.arrival.received = start + Duration::from_secs(seconds);
    ask
}

pub(super) fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

pub(super) fn address(exchange: &mut Exchange<'_>, ttl: u32, last: u8) {
    exchange
        .reply
        .a(Owner::Question, ttl, [192, 0, 2, last].into());
}

pub(super) fn soa(exchange: &mut Exchange<'_>, ttl: u32, minimum: u32) {
    exchange.reply.go_to(Section::Authority);
    let times = SoaTimes {
        serial: 1,
        refresh: 2,
        retry: 3,
        expire: 4,
        minimum,
    };
    exchange
        .reply
        .soa(Owner::Name(ROOT), ttl, ROOT, ROOT, times);
}

fn ttl(reply: &Reply) -> u32 {
    let records = reply.records();
    records[0].split(' ').nth(2).unwrap().parse().unwrap()
}

#[test]
fn a_hit_has_what_is_left_of_its_ttl_and_the_spelling_of_its_client() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let bench = bench("cache", &upstream);
    let start = start();
    let miss = bench.send(&ask_at(start, 0));
    assert!(!miss.has_aa());
    let mut ask = ask_at(start, 100);
    ask.qname = "WEB.Example.org".to_owned();
    let hit = bench.send(&ask);
    assert_eq!(upstream.asked(), 1);
    assert!(hit.has_aa(), "some resolvers of old discard it otherwise");
    assert_eq!(
        hit.records(),
        ["answer WEB.Example.org. 200 IN A 192.0.2.1"]
    );
    assert_eq!(hit.octets[..2], [0x12, 0x34]);
    // Expired to the second.
    assert_eq!(ttl(&bench.send(&ask_at(start, 299))), 1);
    bench.send(&ask_at(start, 300));
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn every_record_leaves_with_the_lowest_ttl_already_on_the_miss() {
    let upstream = Upstream::answering(|exchange, _| {
        let target = name("www.example.org");
        exchange
            .reply
            .name_record(Owner::Question, RecordType::CNAME, 300, target.as_ref());
        let owner = Owner::Name(target.as_ref());
        exchange.reply.a(owner, 60, [192, 0, 2, 1].into());
        exchange.reply.go_to(Section::Authority);
        let ns = name("ns.example.org");
        exchange
            .reply
            .name_record(Owner::Name(ROOT), RecordType::NS, 7, ns.as_ref());
    });
    let bench = bench("cache 30", &upstream);
    let start = start();
    let records = |ttl: u32| {
        [
            format!("answer web.example.org. {ttl} IN CNAME www.example.org."),
            format!("answer www.example.org. {ttl} IN A 192.0.2.1"),
            format!("authority . {ttl} IN NS ns.example.org."),
        ]
    };
    assert_eq!(bench.send(&ask_at(start, 0)).records(), records(7));
    assert_eq!(bench.send(&ask_at(start, 3)).records(), records(4));
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn ttls_are_raised_to_the_least_and_cut_to_the_most() {
    for (text, ttl_sent, expected) in [
        ("cache", 0, 5),
        ("cache", 99_999, 3600),
        ("cache 30", 60, 30),
        ("cache {\n success 1000 60 20\n}", 10, 20),
        ("cache {\n success 1000 60 0\n}", 1, 1),
        // The upper bound wins.
        ("cache 3", 300, 3),
    ] {
        let upstream = Upstream::answering(move |exchange, _| address(exchange, ttl_sent, 1));
        let reply = bench(text, &upstream).send(&ask_at(start(), 0));
        assert_eq!(ttl(&reply), expected, "{text} with {ttl_sent}");
    }
}

#[test]
fn keepttl_sends_the_ttl_that_came_but_for_no_longer() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let bench = bench("cache {\n keepttl\n}", &upstream);
    let start = start();
    bench.send(&ask_at(start, 0));
    assert_eq!(ttl(&bench.send(&ask_at(start, 299))), 300);
    bench.send(&ask_at(start, 300));
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn dnssec_ok_checking_disabled_type_and_class_have_entries_of_their_own() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let bench = bench("cache", &upstream);
    let start = start();
    let asks = || {
        let plain = ask_at(start, 0);
        let mut dnssec_ok = plain.clone();
        dnssec_ok.edns = Some((1232, true));
        let mut unchecked = plain.clone();
        unchecked.flags[1] |= flag::CD;
        let mut other_type = plain.clone();
        other_type.qtype = RecordType::ANY;
        let mut other_class = plain.clone();
        other_class.qclass = 255;
        [plain, dnssec_ok, unchecked, other_type, other_class]
    };
    for (index, ask) in asks().iter().enumerate() {
        bench.send(ask);
        assert_eq!(upstream.asked(), index + 1);
    }
    // EDNS without DO makes no difference.
    let mut edns = ask_at(start, 0);
    edns.edns = Some((4096, false));
    let kept = [0, 1, 2, 3].map(|index| asks()[index].clone());
    for ask in kept.iter().chain([&edns]) {
        bench.send(ask);
    }
    assert_eq!(upstream.asked(), 5);
}

#[test]
fn ad_is_for_those_who_asked_and_upstreams_are_always_asked_for_it() {
    let upstream = Upstream::answering(|exchange, _| {
        assert!(exchange.state.ask_authentic_data);
        exchange.reply.authentic_data = true;
        address(exchange, 300, 1);
    });
    let bench = bench("cache", &upstream);
    let start = start();
    let mut wants_ad = ask_at(start, 0);
    wants_ad.flags[1] |= flag::AD;
    for _ in ["miss", "hit"] {
        assert!(!bench.send(&ask_at(start, 0)).has_ad());
        assert!(bench.send(&wants_ad).has_ad());
    }
    assert_eq!(upstream.asked(), 1);
    let mut dnssec_ok = ask_at(start, 0);
    dnssec_ok.edns = Some((1232, true));
    assert!(bench.send(&dnssec_ok).has_ad());
    assert!(bench.send(&dnssec_ok).has_ad());
}

#[test]
fn names_outside_the_zones_pass_untouched() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 1, 1));
    let bench = bench("cache example.net", &upstream);
    let start = start();
    assert_eq!(ttl(&bench.send(&ask_at(start, 0))), 1);
    bench.send(&ask_at(start, 0));
    assert_eq!(upstream.asked(), 2);
    assert!(
        bench
            .metrics("coredns_cache_requests_total{")
            .iter()
            .all(|m| m.ends_with(" 0"))
    );
}

#[test]
fn disabled_kinds_are_not_kept() {
    for (text, denied, asked) in [
        ("cache {\n disable success example.org\n}", false, 2),
        ("cache {\n disable success example.net\n}", false, 1),
        ("cache {\n disable success\n}", true, 1),
        ("cache {\n disable denial\n}", true, 2),
        ("cache {\n disable denial\n}", false, 1),
    ] {
        let upstream = Upstream::answering(move |exchange, _| {
            if denied {
                exchange.reply.rcode = Rcode::NXDOMAIN;
                soa(exchange, 300, 300);
            } else {
                address(exchange, 300, 1);
            }
        });
        let bench = bench(text, &upstream);
        bench.send(&ask_at(start(), 0));
        bench.send(&ask_at(start(), 0));
        assert_eq!(upstream.asked(), asked, "{text}");
    }
}

#[test]
fn replies_to_queries_without_rd_are_not_kept() {
    let upstream = Upstream::answering(|exchange, _| address(exchange, 300, 1));
    let bench = bench("cache", &upstream);
    let start = start();
    // Without RD an upstream may tell less than there is.
    let mut ask = ask_at(start, 0);
    ask.flags[0] = 0;
    bench.send(&ask);
    bench.send(&ask);
    assert_eq!(upstream.asked(), 2);
    bench.send(&ask_at(start, 0));
    assert_eq!(upstream.asked(), 3);
    // But it reads what is there.
    bench.send(&ask);
    assert_eq!(upstream.asked(), 3);
}

#[test]
fn the_counters_follow() {
    let upstream = Upstream::answering(|exchange, _| {
        if exchange.qtype() == RecordType::A {
            address(exchange, 300, 1);
        } else {
            soa(exchange, 300, 300);
        }
    });
    let bench = bench("cache 30 org", &upstream);
    for qtype in [
        RecordType::A,
        RecordType::A,
        RecordType::A,
        RecordType::AAAA,
        RecordType::AAAA,
    ] {
        bench.ask("web.example.org", qtype);
    }
    let metrics = bench.metrics("coredns_cache_");
    for expected in [
        r#"coredns_cache_entries{server="dns://:53",type="denial",view="",zones="org."} 1"#,
        r#"coredns_cache_entries{server="dns://:53",type="success",view="",zones="org."} 1"#,
        r#"coredns_cache_hits_total{server="dns://:53",type="denial",view="",zones="org."} 1"#,
        r#"coredns_cache_hits_total{server="dns://:53",type="success",view="",zones="org."} 2"#,
        r#"coredns_cache_misses_total{server="dns://:53",view="",zones="org."} 2"#,
        r#"coredns_cache_requests_total{server="dns://:53",view="",zones="org."} 5"#,
    ] {
        assert!(
            metrics.iter().any(|line| line == expected),
            "{expected} in {metrics:#?}"
        );
    }
}

#[test]
fn a_prefetch_renews_what_is_asked_for_often() {
    let upstream = Upstream::answering(|exchange, before| {
        address(exchange, 100, u8::try_from(before).unwrap());
    });
    let bench = bench("cache {\n prefetch 2 1m 20%\n}", &upstream);
    let start = start();
    bench.send(&ask_at(start, 0));
    // Two hits, too early; two hits, too far apart from these, the second one late enough.
    for (seconds, asked) in [(1, 1), (2, 1), (79, 1)] {
        bench.send(&ask_at(start, seconds));
        assert_eq!(upstream.asked(), asked);
    }
    bench.send(&ask_at(start, 81));
    wait_until(|| upstream.asked() == 2);
    wait_until(|| {
        bench.send(&ask_at(start, 1)).records() != ["answer web.example.org. 99 IN A 192.0.2.0"]
    });
    assert!(
        bench
            .metrics("coredns_cache_prefetch_total")
            .iter()
            .all(|line| line.ends_with(" 1"))
    );
}
