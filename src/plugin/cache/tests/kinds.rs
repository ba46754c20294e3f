//! Which replies are kept, as what, and for how long.

use super::*;
use crate::wire::code::Class;
use crate::wire::edns::ExtendedError;

/// Asks twice, then says how many of the two reached the upstream, and the TTL of the first record, if there is one.
fn kept(script: impl Fn(&mut Exchange<'_>, usize) + Send + Sync + 'static) -> (bool, Option<u32>) {
    kept_as(&ask_at(start(), 0), script)
}

fn kept_as(
    ask: &Ask,
    script: impl Fn(&mut Exchange<'_>, usize) + Send + Sync + 'static,
) -> (bool, Option<u32>) {
    let upstream = Upstream::answering(script);
    let bench = bench("cache", &upstream);
    let first = bench.send(ask);
    bench.send(ask);
    let shown = first.records();
    (upstream.asked() == 1, shown.first().map(|_| ttl(&first)))
}

fn alias(exchange: &mut Exchange<'_>, owner: Option<&str>, target: &str) {
    let owner = owner.map(name);
    let owner = owner
        .as_ref()
        .map_or(Owner::Question, |owner| Owner::Name(owner.as_ref()));
    exchange
        .reply
        .name_record(owner, RecordType::CNAME, 300, name(target).as_ref());
}

#[test]
fn a_name_error_is_kept_if_it_has_an_soa() {
    let denial = |with_soa: bool| {
        kept(move |exchange, _| {
            exchange.reply.rcode = Rcode::NXDOMAIN;
            if with_soa {
                soa(exchange, 300, 900);
            }
        })
    };
    assert_eq!(denial(true), (true, Some(300)));
    assert_eq!(denial(false), (false, None));
}

#[test]
fn a_denial_lives_no_longer_than_the_minimum_of_its_soa() {
    // RFC 2308, section 5. CoreDNS keeps the first for 1800 s.
    for (ttl, minimum, expected) in [
        (3600, 20, 20),
        (20, 3600, 20),
        (9999, 9999, 1800),
        (9, 0, 5),
    ] {
        let found = kept(move |exchange, _| soa(exchange, ttl, minimum));
        assert_eq!(
            found,
            (true, Some(expected)),
            "TTL {ttl}, MINIMUM {minimum}"
        );
    }
}

#[test]
fn an_empty_reply_is_kept_for_5_s() {
    assert_eq!(kept(|_, _| {}), (true, None));
    let upstream = Upstream::answering(|_, _| {});
    let bench = bench("cache", &upstream);
    let start = start();
    bench.send(&ask_at(start, 0));
    bench.send(&ask_at(start, 4));
    assert_eq!(upstream.asked(), 1);
    bench.send(&ask_at(start, 6));
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn a_referral_is_kept_for_5_s() {
    let found = kept(|exchange, _| {
        exchange.reply.go_to(Section::Authority);
        let ns = name("ns.example.org");
        exchange
            .reply
            .name_record(Owner::Question, RecordType::NS, 300, ns.as_ref());
    });
    assert_eq!(found, (true, Some(5)));
}

#[test]
fn an_alias_that_leads_to_what_was_asked_is_an_answer_in_any_order() {
    let found = kept(|exchange, _| {
        let end = name("c.example.org");
        exchange
            .reply
            .a(Owner::Name(end.as_ref()), 300, [192, 0, 2, 1].into());
        alias(exchange, Some("B.example.org"), "c.example.org");
        alias(exchange, None, "b.example.org");
    });
    assert_eq!(found, (true, Some(300)));
}

#[test]
fn an_alias_that_leads_nowhere_is_kept_only_with_an_soa() {
    let dangling = |with_soa: bool| {
        kept(move |exchange, _| {
            alias(exchange, None, "b.example.org");
            // An address beside the chain is no answer.
            let other = name("other.example.org");
            exchange
                .reply
                .a(Owner::Name(other.as_ref()), 300, [192, 0, 2, 1].into());
            if with_soa {
                soa(exchange, 300, 60);
            }
        })
    };
    assert_eq!(dangling(false), (false, Some(300)));
    assert_eq!(dangling(true), (true, Some(60)));
}

#[test]
fn loops_and_forks_of_aliases_are_not_kept() {
    let loops = kept(|exchange, _| {
        alias(exchange, None, "b.example.org");
        alias(exchange, Some("b.example.org"), "web.example.org");
    });
    assert!(!loops.0);
    let forks = kept(|exchange, _| {
        for target in ["b.example.org", "c.example.org"] {
            alias(exchange, None, target);
            let owner = name(target);
            exchange
                .reply
                .a(Owner::Name(owner.as_ref()), 300, [192, 0, 2, 1].into());
        }
    });
    assert!(!forks.0);
    let said_twice = kept(|exchange, _| {
        alias(exchange, None, "b.example.org");
        alias(exchange, None, "B.example.org");
        let owner = name("b.example.org");
        exchange
            .reply
            .a(Owner::Name(owner.as_ref()), 300, [192, 0, 2, 1].into());
    });
    assert!(said_twice.0);
}

#[test]
fn a_query_for_the_alias_itself_is_answered_by_it() {
    let mut ask = ask_at(start(), 0);
    ask.qtype = RecordType::CNAME;
    let found = kept_as(&ask, |exchange, _| alias(exchange, None, "b.example.org"));
    assert_eq!(found, (true, Some(300)));
}

#[test]
fn failures_are_kept_as_servfail_says() {
    for rcode in [Rcode::SERVFAIL, Rcode::NOTIMP] {
        let upstream = Upstream::answering(move |exchange, _| exchange.reply.rcode = rcode);
        let bench = bench("cache {\n servfail 2s\n}", &upstream);
        let start = start();
        bench.send(&ask_at(start, 0));
        assert_eq!(bench.send(&ask_at(start, 1)).rcode(), rcode);
        assert_eq!(upstream.asked(), 1);
        bench.send(&ask_at(start, 3));
        assert_eq!(upstream.asked(), 2);
    }
    let upstream = Upstream::answering(|exchange, _| exchange.reply.rcode = Rcode::SERVFAIL);
    let bench = bench("cache {\n servfail 0\n}", &upstream);
    bench.send(&ask_at(start(), 0));
    bench.send(&ask_at(start(), 0));
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn a_failure_of_our_own_is_not_kept() {
    let found = kept(|exchange, _| exchange.fail(Rcode::SERVFAIL, "upstream timed out"));
    assert_eq!(found, (false, None));
}

#[test]
fn other_rcodes_and_contradictions_are_not_kept_and_leave_with_5_s() {
    for rcode in [Rcode::REFUSED, Rcode::FORMERR, Rcode::NXDOMAIN] {
        let found = kept(move |exchange, _| {
            exchange.reply.rcode = rcode;
            address(exchange, 300, 1);
        });
        assert_eq!(found, (false, Some(5)), "{rcode}");
    }
}

#[test]
fn a_truncated_reply_is_not_kept() {
    let found = kept(|exchange, _| {
        address(exchange, 300, 1);
        exchange.reply.truncated = true;
    });
    assert!(!found.0);
}

#[test]
fn a_transfer_keeps_its_ttls_and_is_not_kept() {
    let mut ask = ask_at(start(), 0);
    ask.qtype = RecordType::AXFR;
    let found = kept_as(&ask, |exchange, _| address(exchange, 300, 1));
    assert_eq!(found, (false, Some(300)));
}

#[test]
fn expired_signatures_are_not_kept_for_those_who_check_them() {
    let signed = |dnssec_ok: bool, expiration: u32, inception: u32| {
        let mut ask = ask_at(start(), 0);
        ask.edns = Some((1232, dnssec_ok));
        kept_as(&ask, move |exchange, _| {
            address(exchange, 300, 1);
            let reply = &mut exchange.reply;
            reply.record(
                Owner::Question,
                RecordType::RRSIG,
                Class::IN,
                300,
                |rdata| {
                    rdata.octets(&[0, 1, 8, 3, 0, 0, 1, 44]);
                    rdata.octets(&expiration.to_be_bytes());
                    rdata.octets(&inception.to_be_bytes());
                    rdata.octets(&[0, 1]);
                    rdata.name(name("example.org").as_ref());
                    rdata.octets(&[7; 8]);
                },
            );
        })
        .0
    };
    let now = crate::plugin::cache::unix_time();
    assert!(signed(true, now.wrapping_add(3600), now.wrapping_sub(3600)));
    assert!(!signed(true, now.wrapping_sub(10), now.wrapping_sub(3600)));
    assert!(!signed(
        true,
        now.wrapping_add(7200),
        now.wrapping_add(3600)
    ));
    assert!(signed(false, now.wrapping_sub(10), now.wrapping_sub(3600)));
}

#[test]
fn a_failure_never_takes_the_place_of_what_is_known() {
    // Time goes back here, so the entry is found good again after it was asked for anew.
    for denied in [false, true] {
        let upstream = Upstream::answering(move |exchange, before| match (before, denied) {
            (1, _) => exchange.reply.rcode = Rcode::SERVFAIL,
            (_, false) => address(exchange, 300, 1),
            (_, true) => soa(exchange, 300, 300),
        });
        let bench = bench("cache {\n serve_stale 1h verify\n}", &upstream);
        let start = start();
        bench.send(&ask_at(start, 0));
        bench.send(&ask_at(start, 301));
        assert_eq!(upstream.asked(), 2);
        assert_eq!(bench.send(&ask_at(start, 1)).rcode(), Rcode::NOERROR);
        assert_eq!(upstream.asked(), 2);
    }
}

#[test]
fn the_newest_word_on_a_name_stands_alone() {
    let upstream = Upstream::answering(|exchange, before| match before {
        0 => address(exchange, 1000, 1),
        1 => soa(exchange, 10, 10),
        _ => address(exchange, 1000, 2),
    });
    // The denial comes while the answer would still be good: the prefetch brings it.
    let bench = bench("cache {\n prefetch 1 1h 90%\n}", &upstream);
    let start = start();
    bench.send(&ask_at(start, 0));
    bench.send(&ask_at(start, 500));
    wait_until(|| bench.send(&ask_at(start, 1)).records()[0].starts_with("authority"));
    let later = bench.send(&ask_at(start, 520)).records();
    assert_eq!(later, ["answer web.example.org. 1000 IN A 192.0.2.2"]);
}

#[test]
fn that_no_upstream_could_be_reached_is_remembered_for_a_second_and_other_troubles_are_not() {
    for (code, asked) in [
        (Some(ExtendedError::NO_REACHABLE_AUTHORITY), 1),
        (Some(ExtendedError::NETWORK_ERROR), 1),
        (Some(ExtendedError::OTHER), 2),
        (None, 2),
    ] {
        let upstream = Upstream::answering(move |exchange, _| {
            exchange.fail(Rcode::SERVFAIL, "upstream timed out");
            exchange.state.extended_error = code.map(|code| ExtendedError::new(code, ""));
        });
        let bench = bench("cache", &upstream);
        let start = start();
        bench.send(&ask_at(start, 0));
        let mut ask = ask_at(start, 0);
        ask.edns = Some((1232, false));
        let again = bench.send(&ask);
        assert_eq!((again.rcode(), upstream.asked()), (Rcode::SERVFAIL, asked));
        if asked == 1 {
            // RFC 8914, section 4.14: Cached Error.
            assert!(again.octets.ends_with(&[0, 15, 0, 2, 0, 13]));
            bench.send(&ask_at(start, 1));
            assert_eq!(upstream.asked(), 2);
        }
    }
    let upstream = Upstream::answering(|exchange, _| {
        exchange.fail(Rcode::SERVFAIL, "upstream timed out");
        let error = ExtendedError::new(ExtendedError::NETWORK_ERROR, "");
        exchange.state.extended_error = Some(error);
    });
    let bench = bench("cache {\n servfail 0\n}", &upstream);
    bench.send(&ask_at(start(), 0));
    bench.send(&ask_at(start(), 0));
    assert_eq!(upstream.asked(), 2);
}
