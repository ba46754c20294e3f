//! `serve_stale`: expired entries while nothing newer can be had.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::chain::deferred::Outcome;
use crate::chain::plugin::{Failure, Verdict};
use crate::plugin::cache::store::Entry;
use crate::plugin::cache::survey::View;
use crate::plugin::testing::bench::runtime;

const STALE: [&str; 1] = ["answer web.example.org. 0 IN A 192.0.2.0"];

/// Answers with 192.0.2.N the Nth time, but as `then` says from the second time on.
fn upstream(then: impl Fn(&mut Exchange<'_>) -> Step + Send + Sync + 'static) -> Arc<Upstream> {
    Upstream::new(move |exchange, before| {
        if before == 0 {
            address(exchange, 10, 0);
            return Step::Answered;
        }
        then(exchange)
    })
}

fn failing() -> Arc<Upstream> {
    upstream(|exchange| {
        exchange.fail(Rcode::SERVFAIL, "upstream timed out");
        Step::Answered
    })
}

fn healthy() -> Arc<Upstream> {
    upstream(|exchange| {
        address(exchange, 10, 7);
        Step::Answered
    })
}

/// Fills the cache, then asks long after the entry has expired.
fn ask_stale(bench: &Bench, start: Instant) -> Reply {
    bench.send(&ask_at(start, 0));
    bench.send(&ask_at(start, 20))
}

#[test]
fn without_it_an_expired_entry_is_of_no_use() {
    let upstream = failing();
    let bench = bench("cache", &upstream);
    assert_eq!(ask_stale(&bench, start()).rcode(), Rcode::SERVFAIL);
}

#[test]
fn immediate_answers_first_and_refreshes_then() {
    let upstream = healthy();
    let bench = bench("cache {\n serve_stale\n}", &upstream);
    let start = start();
    assert_eq!(ask_stale(&bench, start).records(), STALE);
    wait_until(|| {
        bench.send(&ask_at(start, 0)).records() == ["answer web.example.org. 10 IN A 192.0.2.7"]
    });
    assert_eq!(upstream.asked(), 2);
    let counts = |name: &str| bench.metrics(name)[0].clone();
    assert!(counts("coredns_cache_served_stale_total{").ends_with(" 1"));
    assert!(counts("coredns_cache_prefetch_total{").ends_with(" 1"));
}

#[test]
fn a_stale_answer_says_so() {
    let upstream = failing();
    let bench = bench("cache {\n serve_stale\n}", &upstream);
    let start = start();
    let ask = |seconds| {
        let mut ask = ask_at(start, seconds);
        ask.edns = Some((1232, false));
        bench.send(&ask).octets
    };
    ask(0);
    // Option 15 of two octets: code 3 (RFC 8914, section 4.4).
    let stale_answer = [0, 15, 0, 2, 0, 3];
    assert!(!ask(9).ends_with(&stale_answer));
    assert!(ask(20).ends_with(&stale_answer));
}

#[test]
fn a_refresh_that_fails_leaves_the_entry_and_is_not_tried_again_at_once() {
    let upstream = failing();
    let bench = bench("cache {\n serve_stale 1h immediate 30s\n}", &upstream);
    let start = start();
    let stale = ["answer web.example.org. 30 IN A 192.0.2.0"];
    assert_eq!(ask_stale(&bench, start).records(), stale);
    wait_until(|| upstream.asked() == 2);
    for _ in 0..20 {
        assert_eq!(bench.send(&ask_at(start, 20)).records(), stale);
    }
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn an_entry_is_of_no_use_after_its_stale_time() {
    let upstream = healthy();
    let bench = bench("cache {\n serve_stale 1m\n}", &upstream);
    let start = start();
    bench.send(&ask_at(start, 0));
    let late = bench.send(&ask_at(start, 71)).records();
    assert_eq!(late, ["answer web.example.org. 10 IN A 192.0.2.7"]);
}

#[test]
fn verify_asks_first_and_falls_back() {
    let upstream = failing();
    let down = bench("cache {\n serve_stale 1h verify\n}", &upstream);
    assert_eq!(ask_stale(&down, start()).records(), STALE);
    let upstream = healthy();
    let up = bench("cache {\n serve_stale 1h verify\n}", &upstream);
    let fresh = ask_stale(&up, start()).records();
    assert_eq!(fresh, ["answer web.example.org. 10 IN A 192.0.2.7"]);
}

#[test]
fn verify_falls_back_on_silence_and_refusal_but_believes_a_denial() {
    for (then, expected) in [
        (
            Box::new(|_: &mut Exchange<'_>| Step::Drop)
                as Box<dyn Fn(&mut Exchange<'_>) -> Step + Send + Sync>,
            1,
        ),
        (
            Box::new(|exchange: &mut Exchange<'_>| {
                exchange.reply.rcode = Rcode::REFUSED;
                Step::Answered
            }),
            1,
        ),
        (
            Box::new(|exchange: &mut Exchange<'_>| {
                exchange.reply.rcode = Rcode::NXDOMAIN;
                Step::Answered
            }),
            0,
        ),
    ] {
        let upstream = upstream(then);
        let bench = bench("cache {\n serve_stale 1h verify\n}", &upstream);
        let reply = ask_stale(&bench, start());
        assert_eq!(reply.records().len(), expected);
    }
}

#[test]
fn verify_waits_only_so_long() {
    let upstream = upstream(|_| Step::Defer(Box::pin(std::future::pending())));
    let bench = bench("cache {\n serve_stale 1h verify 5ms\n}", &upstream);
    let start = start();
    assert_eq!(ask_stale(&bench, start).records(), STALE);
    // One refresh at a time: while it is under way others do not wait at all.
    assert_eq!(bench.send(&ask_at(start, 20)).records(), STALE);
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn verify_with_a_limit_takes_what_comes_in_time() {
    let upstream = healthy();
    let bench = bench("cache {\n serve_stale 1h verify 10s\n}", &upstream);
    let start = start();
    let fresh = ["answer web.example.org. 10 IN A 192.0.2.7"];
    let mut ask = ask_at(start, 20);
    bench.send(&ask_at(start, 0));
    ask.edns = Some((1232, false));
    let reply = bench.send(&ask);
    assert_eq!(reply.records(), fresh);
    assert_eq!(reply.payload_size(), Some(1232));
    assert_eq!(bench.send(&ask_at(start, 0)).records(), fresh);
    assert_eq!(upstream.asked(), 2);
}

/// What the cache does without waiting; none if it would have to wait.
fn at_once(bench: &Bench, ask: &Ask) -> Option<Reply> {
    let mut octets = Vec::new();
    match bench.zones.answer(&ask.octets(), ask.arrival, &mut octets) {
        Outcome::Reply => Some(Reply { octets }),
        _ => None,
    }
}

/// Fails from the second query on until it is told to heal.
fn failing_until(healed: &Arc<AtomicBool>) -> Arc<Upstream> {
    let healed = Arc::clone(healed);
    upstream(move |exchange| {
        if healed.load(Ordering::SeqCst) {
            address(exchange, 10, 7);
            return Step::Answered;
        }
        Step::Defer(Box::pin(async {
            Verdict::Fail(Failure {
                rcode: Rcode::SERVFAIL,
                error: "upstream timed out".into(),
                extended_error: None,
            })
        }))
    })
}

#[test]
fn only_the_first_query_waits_for_an_upstream_that_is_down() {
    for text in [
        "cache {\n serve_stale 24h verify 300ms\n}",
        "cache {\n serve_stale 24h verify\n}",
    ] {
        let healed = Arc::default();
        let upstream = failing_until(&healed);
        let bench = bench(text, &upstream);
        let start = start();
        bench.send(&ask_at(start, 0));
        assert!(
            at_once(&bench, &ask_at(start, 20)).is_none(),
            "the first waits"
        );
        assert_eq!(bench.send(&ask_at(start, 31)).records(), STALE);
        wait_until(|| at_once(&bench, &ask_at(start, 31)).is_some());
        // The upstream is asked again, but nobody waits for that any more.
        for seconds in 32..200 {
            let reply = at_once(&bench, &ask_at(start, seconds)).expect("nobody waits");
            assert_eq!(reply.records(), STALE);
        }
        healed.store(true, Ordering::SeqCst);
        wait_until(|| {
            let reply = bench.send(&ask_at(start, 300)).records();
            reply == ["answer web.example.org. 10 IN A 192.0.2.7"]
        });
    }
}

#[test]
fn an_upstream_that_stays_down_is_asked_less_and_less_often() {
    let upstream = healthy();
    let reply = bench("cache", &upstream).send(&ask_at(start(), 0)).octets;
    let question = &reply[12..12 + 21];
    let view = View::of_message(&reply, question).expect("a reply to it");
    let start = start();
    let entry = Entry::new(view, [0, 0], 10, true, start).expect("it is whole");
    let mut asked_at = Vec::new();
    for seconds in 20..140 {
        let now = start + Duration::from_secs(seconds);
        if entry.begin_refresh(now) {
            assert!(!entry.begin_refresh(now), "one at a time");
            asked_at.push(seconds);
            entry.refresh_failed(now, now, Duration::ZERO);
        }
    }
    assert_eq!(asked_at, [20, 21, 23, 27, 35, 51, 81, 111]);
}

#[test]
fn recheck_pauses_after_a_failed_verification() {
    let upstream = failing();
    let bench = bench("cache {\n serve_stale 1h verify 0 0s 1m\n}", &upstream);
    let start = start();
    assert_eq!(ask_stale(&bench, start).records(), STALE);
    assert_eq!(bench.send(&ask_at(start, 21)).records(), STALE);
    assert_eq!(upstream.asked(), 2);
    bench.send(&ask_at(start, 90));
    wait_until(|| upstream.asked() == 3);
}

#[test]
fn a_query_that_must_not_wait_for_a_verification_gets_the_stale_answer() {
    let upstream = upstream(|_| Step::Defer(Box::pin(std::future::pending())));
    let bench = bench("cache {\n serve_stale 1h verify 1h\n}", &upstream);
    let refuse = |ask: &Ask| {
        let mut octets = Vec::new();
        let outcome = bench.zones.answer(&ask.octets(), ask.arrival, &mut octets);
        let Outcome::Deferred(deferred) = outcome else {
            panic!("it waits");
        };
        let outcome = deferred.refuse("too many queries in flight", &mut octets);
        assert!(matches!(outcome, Outcome::Reply));
        Reply { octets }
    };
    let start = start();
    bench.send(&ask_at(start, 0));
    let mut ask = ask_at(start, 20);
    ask.edns = Some((1232, false));
    for _ in ["who begins the verification", "who would wait for it"] {
        let reply = refuse(&ask);
        assert_eq!(reply.records(), STALE);
        // Extended error 3, as of any stale answer.
        assert!(reply.octets.ends_with(&[0, 15, 0, 2, 0, 3]));
    }
    let counted = bench.metrics("coredns_cache_served_stale_total{");
    assert!(counted[0].ends_with(" 2"), "{counted:?}");
    // What nothing is known of fails all the same.
    ask.qname = "other.example.org".to_owned();
    assert_eq!(refuse(&ask).rcode(), Rcode::SERVFAIL);
}

#[test]
fn whoever_asks_while_an_entry_is_verified_waits_for_the_same_reply() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let upstream = upstream(move |_| {
        let mut gate = gate.clone();
        Step::Defer(Box::pin(async move {
            gate.wait_for(|open| *open).await.expect("it is opened");
            Verdict::Next
        }))
    });
    let above = Link::Corefile(&SPEC, "cache {\n serve_stale 1h verify 10s\n}");
    let last = Upstream::answering(|exchange, _| address(exchange, 10, 7));
    let gated = Link::Made(Arc::<Upstream>::clone(&upstream));
    let bench = Bench::new(vec![above, gated, Link::Made(last)]);
    let start = start();
    bench.send(&ask_at(start, 0));
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let ask = ask_at(start, 20);
            let mut octets = Vec::new();
            match bench.zones.answer(&ask.octets(), ask.arrival, &mut octets) {
                Outcome::Deferred(deferred) => deferred,
                _ => panic!("it waits"),
            }
        })
        .collect();
    open.send_replace(true);
    for deferred in waiting {
        let octets = runtime().block_on(deferred.finish()).expect("a reply");
        let fresh = ["answer web.example.org. 10 IN A 192.0.2.7"];
        assert_eq!(Reply { octets }.records(), fresh);
    }
    assert_eq!(upstream.asked(), 2);
}

#[test]
fn a_stale_failure_is_no_answer() {
    let upstream = Upstream::answering(|exchange, before| match before {
        0 => exchange.reply.rcode = Rcode::SERVFAIL,
        _ => address(exchange, 10, 7),
    });
    let bench = bench("cache {\n serve_stale\n}", &upstream);
    let fresh = ["answer web.example.org. 10 IN A 192.0.2.7"];
    assert_eq!(ask_stale(&bench, start()).records(), fresh);
}

#[test]
fn a_stale_name_error_says_so() {
    let upstream = Upstream::new(|exchange, before| {
        if before > 0 {
            return Step::Drop;
        }
        exchange.reply.rcode = Rcode::NXDOMAIN;
        soa(exchange, 10, 10);
        Step::Answered
    });
    let bench = bench("cache {\n serve_stale\n}", &upstream);
    let start = start();
    bench.send(&ask_at(start, 0));
    let mut ask = ask_at(start, 20);
    ask.edns = Some((1232, false));
    // Code 19 (RFC 8914, section 4.20).
    assert!(bench.send(&ask).octets.ends_with(&[0, 15, 0, 2, 0, 19]));
}

#[test]
fn prefer_positive_keeps_an_answer_through_denials() {
    let denying = || {
        upstream(|exchange| {
            exchange.reply.rcode = Rcode::NXDOMAIN;
            soa(exchange, 300, 300);
            Step::Answered
        })
    };
    let text = "cache {\n serve_stale 1h verify\n serve_stale_policy prefer_positive\n}";
    let kept = bench(text, &denying());
    assert_eq!(ask_stale(&kept, start()).records(), STALE);
    let plain = bench("cache {\n serve_stale 1h verify\n}", &denying());
    let denied = ask_stale(&plain, start());
    assert_eq!(denied.rcode(), Rcode::NXDOMAIN);
}
