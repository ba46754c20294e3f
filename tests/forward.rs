//! What `forward` does with upstreams that lie, fail, or are slow.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/bed.rs"]
mod bed;
#[path = "support/upstream.rs"]
mod upstream;

use std::collections::BTreeSet;
use std::time::Duration;

use bed::{Bed, nobody, plain_query, query};
use fingerpost::chain::exchange::Protocol;
use fingerpost::server::process::Process;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::query::Query;
use fingerpost::wire::record::Records;
use upstream::{FORGED, Upstream};

/// Waits for what must come about, as long as a busy machine may need.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it comes about");
}

/// One upstream behind `forward .`, with these options.
async fn one(options: &str) -> (Upstream, Bed) {
    let upstream = Upstream::start(1).await;
    let bed = Bed::new(&format!(
        ". {{\nforward . {} {{\nread_timeout 300ms\n{options}\n}}\n}}",
        upstream.address
    ));
    (upstream, bed)
}

/// Three upstreams.
async fn three(options: &str) -> ([Upstream; 3], Bed) {
    let upstreams = [
        Upstream::start(1).await,
        Upstream::start(2).await,
        Upstream::start(3).await,
    ];
    let [a, b, c] = upstreams.each_ref().map(|upstream| upstream.address);
    let bed = Bed::new(&format!(
        ". {{\nforward . {a} {b} {c} {{\nread_timeout 300ms\n{options}\n}}\n}}"
    ));
    (upstreams, bed)
}

#[tokio::test]
async fn a_lie_is_ignored_and_the_true_reply_delivered() {
    let (upstream, bed) = one("").await;
    for lie in [
        "wrongid",
        "garbage",
        "short",
        "qr0",
        "malformed",
        "wrongq",
        "wrongtype",
        "wrongclass",
        "qd0",
        "lying",
        "pointer",
    ] {
        let reply = bed.ask(&format!("{lie}thengood.fault.test")).await;
        assert_eq!(reply.rcode(), Rcode::NOERROR, "{lie}");
        assert_eq!(reply.number(), 1, "{lie}");
    }
    assert_eq!(upstream.seen().len(), 11, "nothing was asked twice");
    let series = format!(
        "fingerpost_forward_ignored_replies_total{{proto=\"udp\",to=\"{}\"}}",
        upstream.address
    );
    assert_eq!(bed.metric(&series), 11);
}

#[tokio::test]
async fn a_lie_alone_is_a_time_out() {
    let (_upstream, bed) = one("read_timeout 50ms").await;
    for lie in [
        "timeout",
        "wrongid",
        "wrongq",
        "wrongtype",
        "malformed",
        "lying",
        "pointer",
    ] {
        let reply = bed.ask(&format!("{lie}.fault.test")).await;
        assert_eq!(reply.rcode(), Rcode::SERVFAIL, "{lie}");
        assert_eq!(reply.extended_error(), Some(22), "{lie}");
        assert!(reply.addresses().is_empty(), "{lie}");
    }
}

#[tokio::test]
async fn a_silent_upstream_is_asked_twice() {
    let (upstream, bed) = one("read_timeout 50ms").await;
    bed.ask("timeout.fault.test").await;
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn each_attempt_has_an_id_of_its_own() {
    let (upstream, bed) = one("read_timeout 30ms\nmax_connect_attempts 8").await;
    bed.ask("timeout.fault.test").await;
    let ids: BTreeSet<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.message[..2].to_vec())
        .collect();
    // Two of eight being alike is one case in 2,340.
    assert!(ids.len() >= 7, "{ids:?}");
}

#[tokio::test]
async fn an_error_reply_is_passed_on_as_it_is() {
    let (upstream, bed) = one("").await;
    for (label, rcode) in [
        ("servfail", Rcode::SERVFAIL),
        ("refused", Rcode::REFUSED),
        ("formerr", Rcode::FORMERR),
        ("notimp", Rcode::NOTIMP),
        ("nxdomain", Rcode::NXDOMAIN),
        ("nodata", Rcode::NOERROR),
    ] {
        let reply = bed.ask(&format!("{label}.fault.test")).await;
        assert_eq!(reply.rcode(), rcode);
        assert_eq!(reply.extended_error(), None, "{label}");
    }
    assert_eq!(upstream.seen().len(), 6);
}

#[tokio::test]
async fn the_upstream_s_flags_are_passed_on() {
    let (_upstream, bed) = one("").await;
    let flags = |reply: bed::Reply| [reply.octets[2], reply.octets[3]];
    assert_eq!(flags(bed.ask("ok.fault.test").await), [0x81, 0x80]);
    assert_eq!(flags(bed.ask("aa.fault.test").await), [0x85, 0x00]);
}

#[tokio::test]
async fn the_upstream_s_extended_error_is_passed_on() {
    let (_upstream, bed) = one("").await;
    let reply = bed.ask("ede.fault.test").await;
    assert_eq!(
        (reply.rcode(), reply.extended_error()),
        (Rcode::REFUSED, Some(15))
    );
}

#[tokio::test]
async fn a_reply_in_other_letters_counts_and_the_client_gets_its_own() {
    let (upstream, bed) = one("").await;
    let reply = bed.ask("Case.Fault.TEST").await;
    assert_eq!(reply.number(), 1);
    assert_eq!(reply.qname_octets(), b"\x04Case\x05Fault\x04TEST");
    assert_eq!(upstream.seen()[0].qname(), "Case.Fault.TEST.");
}

#[tokio::test]
async fn a_ttl_beyond_all_bounds_is_zero() {
    let (_upstream, bed) = one("").await;
    let reply = bed.ask("wild.fault.test").await;
    let record = reply
        .octets
        .windows(4)
        .position(|octets| octets == FORGED.octets());
    let ttl_at = record.unwrap() - 6;
    assert_eq!(reply.octets[ttl_at..ttl_at + 4], [0; 4]);
}

#[tokio::test]
async fn three_copies_of_a_reply_are_one_reply() {
    let (upstream, bed) = one("").await;
    assert_eq!(bed.ask("dup.fault.test").await.number(), 1);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn more_than_the_client_takes_is_cut_and_marked() {
    let (_upstream, bed) = one("").await;
    let reply = bed
        .send(&plain_query("big.fault.test", RecordType::A))
        .await;
    assert!(reply.is_truncated() && reply.octets.len() <= 512);
    assert!(reply.addresses().len() > 20);
}

#[tokio::test]
async fn a_truncated_reply_is_passed_on_without_another_try() {
    let (upstream, bed) = one("").await;
    assert!(bed.ask("tcudp.fault.test").await.is_truncated());
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn prefer_udp_asks_again_over_tcp_what_is_truncated() {
    let (upstream, bed) = one("prefer_udp").await;
    let reply = bed.ask("tcudp.fault.test").await;
    assert!(!reply.is_truncated());
    assert_eq!(reply.number(), 1);
    let transports: Vec<_> = upstream.seen().iter().map(|seen| seen.over_tcp).collect();
    assert_eq!(transports, [false, true]);
}

#[tokio::test]
async fn the_target_of_an_alias_is_asked_as_the_client_asked_and_wanted_whole() {
    let (upstream, bed) = one("").await;
    let message = query("tcudp.fault.test", RecordType::A);
    let reply = bed::ask_as(&bed.zones, &message, Protocol::Udp, 1).await;
    assert_eq!(reply.number(), 1);
    let transports: Vec<_> = upstream.seen().iter().map(|seen| seen.over_tcp).collect();
    assert_eq!(transports, [false, true]);
}

#[tokio::test]
async fn truncated_over_tcp_as_well_is_truncated_over_udp_and_servfail_over_tcp() {
    let (upstream, bed) = one("prefer_udp").await;
    assert!(bed.ask("tc.fault.test").await.is_truncated());
    assert_eq!(upstream.seen().len(), 2);
    let reply = bed.ask_over_tcp("tc.fault.test").await;
    assert_eq!(reply.rcode(), Rcode::SERVFAIL);
    assert!(!reply.is_truncated());
}

#[tokio::test]
async fn a_client_over_tcp_is_forwarded_over_tcp_and_the_connection_kept() {
    let (upstream, bed) = one("").await;
    assert_eq!(bed.ask_over_tcp("ok.fault.test").await.number(), 1);
    assert_eq!(bed.ask_over_tcp("ok2.fault.test").await.number(), 1);
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.over_tcp));
    assert_eq!(seen[0].from, seen[1].from);
    let labels = format!(
        "{{proto=\"tcp\",proxy_name=\"forward\",to=\"{}\"}}",
        upstream.address
    );
    assert_eq!(
        bed.metric(&format!("coredns_proxy_conn_cache_hits_total{labels}")),
        1
    );
    assert_eq!(
        bed.metric(&format!("coredns_proxy_conn_cache_misses_total{labels}")),
        1
    );
}

#[tokio::test]
async fn a_lie_over_tcp_is_ignored_too() {
    let (_upstream, bed) = one("").await;
    for lie in ["wrongid", "qr0", "malformed", "wrongq", "qd0"] {
        let reply = bed.ask_over_tcp(&format!("{lie}thengood.fault.test")).await;
        assert_eq!(reply.number(), 1, "{lie}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_attempt() {
    let (upstream, bed) = one("force_tcp\nmax_connect_attempts 1").await;
    for turn in 0..5 {
        let reply = bed.ask(&format!("once-{turn}.fault.test")).await;
        assert_eq!(reply.number(), 1);
    }
    assert_eq!(upstream.seen().len(), 5);
}

#[tokio::test]
async fn force_tcp_asks_over_tcp_whatever_the_client_used() {
    let (upstream, bed) = one("force_tcp\nprefer_udp").await;
    bed.ask("ok.fault.test").await;
    assert!(upstream.seen()[0].over_tcp);
}

#[tokio::test]
async fn prefer_udp_asks_over_udp_even_for_a_client_over_tcp() {
    let (upstream, bed) = one("prefer_udp").await;
    assert_eq!(bed.ask_over_tcp("ok.fault.test").await.number(), 1);
    assert!(!upstream.seen()[0].over_tcp);
}

#[tokio::test]
async fn malformed_options_and_trailing_octets_are_never_forwarded() {
    let (upstream, bed) = one("").await;
    let mut message = plain_query("ok.fault.test", RecordType::A);
    message[11] = 1;
    // A client subnet of 33 bits of IPv4, a cookie, then seven octets that belong to nothing.
    message.extend_from_slice(
        b"\0\0\x29\x10\0\0\0\x80\0\0\x18\0\x08\0\x08\0\x01\x21\0\x0a\0\0\x01\0\x0a\0\x08abcdefgh",
    );
    message.extend_from_slice(b"TRAILER");
    assert_eq!(bed.send(&message).await.number(), 1);
    let mut expected = plain_query("ok.fault.test", RecordType::A);
    expected[11] = 1;
    expected.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
    assert_eq!(upstream.seen()[0].message[2..], expected[2..]);
}

#[tokio::test]
async fn zone_transfers_are_refused() {
    let (upstream, bed) = one("").await;
    let reply = bed.send(&plain_query("fault.test", RecordType::AXFR)).await;
    assert_eq!(reply.rcode(), Rcode::REFUSED);
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn an_upstream_that_nobody_is_at_fails_at_once() {
    let address = nobody();
    let bed = Bed::new(&format!(
        ". {{\nforward . {address} {{\nread_timeout 20s\n}}\n}}"
    ));
    let udp = bed.ask("ok.fault.test").await;
    assert_eq!(
        (udp.rcode(), udp.extended_error()),
        (Rcode::SERVFAIL, Some(23))
    );
    let tcp = bed.ask_over_tcp("ok.fault.test").await;
    assert_eq!(
        (tcp.rcode(), tcp.extended_error()),
        (Rcode::SERVFAIL, Some(23))
    );
}

#[tokio::test]
async fn a_query_is_over_after_five_seconds_whatever_the_options_say() {
    let (_upstream, bed) = one("read_timeout 60s").await;
    let reply = tokio::time::timeout(Duration::from_secs(20), bed.ask("timeout.fault.test"));
    assert_eq!(reply.await.unwrap().rcode(), Rcode::SERVFAIL);
}

#[tokio::test]
async fn sequential_asks_the_first_while_it_replies_and_then_the_second() {
    let (upstreams, bed) = three("policy sequential\nread_timeout 50ms").await;
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
    upstreams[0].set_silent(true);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 2);
}

#[tokio::test]
async fn round_robin_starts_with_the_second_and_turns() {
    let (_upstreams, bed) = three("policy round_robin").await;
    let mut numbers = Vec::new();
    for _ in 0..4 {
        numbers.push(bed.ask("ok.fault.test").await.number());
    }
    assert_eq!(numbers, [2, 3, 1, 2]);
}

#[tokio::test]
async fn random_reaches_every_upstream() {
    let (_upstreams, bed) = three("").await;
    let mut numbers = BTreeSet::new();
    until(async || {
        numbers.insert(bed.ask("ok.fault.test").await.number());
        numbers.len() == 3
    })
    .await;
}

#[tokio::test]
async fn failover_asks_the_next_and_keeps_the_last_reply() {
    let (upstreams, bed) = three("policy sequential\nfailover SERVFAIL REFUSED").await;
    upstreams[0].set_rcode(2);
    upstreams[1].set_rcode(5);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 3);
    upstreams[2].set_rcode(5);
    assert_eq!(bed.ask("ok.fault.test").await.rcode(), Rcode::REFUSED);
    assert_eq!(upstreams[0].seen().len(), 2, "no upstream is asked twice");
}

#[tokio::test]
async fn without_failover_the_first_reply_counts() {
    let (upstreams, bed) = three("policy sequential").await;
    upstreams[0].set_rcode(2);
    assert_eq!(bed.ask("ok.fault.test").await.rcode(), Rcode::SERVFAIL);
    assert!(upstreams[1].seen().is_empty());
}

/// Two directives, one upstream each.
async fn two_directives(first: &str, from: &str) -> (Upstream, Upstream, Bed) {
    let (one, two) = (Upstream::start(1).await, Upstream::start(2).await);
    let bed = Bed::new(&format!(
        ". {{\nforward {from} {} {{\n{first}\n}}\nforward . {}\n}}",
        one.address, two.address
    ));
    (one, two, bed)
}

#[tokio::test]
async fn the_first_directive_that_covers_the_name_takes_it() {
    let (_one, _two, bed) = two_directives("except except.fault.test", "fault.test").await;
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
    assert_eq!(bed.ask("OK.Except.FAULT.test").await.number(), 2);
    assert_eq!(bed.ask("ok.default.test").await.number(), 2);
}

#[tokio::test]
async fn what_is_excepted_never_is_the_zone_itself() {
    let (_one, _two, bed) = two_directives("except fault.test", "fault.test").await;
    assert_eq!(bed.ask("fault.test").await.number(), 1);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 2);
}

#[tokio::test]
async fn next_hands_over_to_the_next_directive() {
    let (one, _two, bed) = two_directives("next NXDOMAIN", ".").await;
    one.set_rcode(3);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 2);
    one.set_rcode(5);
    assert_eq!(bed.ask("ok.fault.test").await.rcode(), Rcode::REFUSED);
}

#[tokio::test]
async fn next_on_nodata_hands_over_what_has_no_answer() {
    let (one, two, bed) = two_directives("next_on_nodata", ".").await;
    bed.ask("nodata.fault.test").await;
    assert_eq!((one.seen().len(), two.seen().len()), (1, 1));
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
}

#[tokio::test]
async fn the_last_directive_has_nobody_to_hand_over_to() {
    let (upstream, bed) = one("next NXDOMAIN\nnext_on_nodata").await;
    assert_eq!(
        bed.ask("nxdomain.fault.test").await.rcode(),
        Rcode::NXDOMAIN
    );
    assert_eq!(bed.ask("nodata.fault.test").await.rcode(), Rcode::NOERROR);
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn past_max_concurrent_queries_are_refused() {
    let (upstream, bed) = one("max_concurrent 2\nread_timeout 20s").await;
    let first = bed.ask("gate-1.fault.test");
    let second = bed.ask("gate-2.fault.test");
    let third = async {
        until(async || upstream.seen().len() == 2).await;
        let reply = bed.ask("ok.fault.test").await;
        upstream.open_gate(2);
        reply
    };
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!((first.number(), second.number()), (1, 1));
    assert_eq!(third.rcode(), Rcode::REFUSED);
    assert_eq!(
        bed.metric("coredns_forward_max_concurrent_rejects_total"),
        1
    );
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
}

#[tokio::test]
async fn a_hundred_identical_questions_are_one_query() {
    let (upstream, bed) = one("read_timeout 20s").await;
    let asks = (0..100).map(|turn| {
        let name = if turn % 2 == 0 {
            "gate.fault.test"
        } else {
            "GATE.Fault.Test"
        };
        bed.ask(name)
    });
    let opened = async {
        until(async || !upstream.seen().is_empty()).await;
        upstream.open_gate(1);
    };
    let (replies, ()) = tokio::join!(futures_util::future::join_all(asks), opened);
    assert_eq!(upstream.seen().len(), 1);
    for (turn, reply) in replies.iter().enumerate() {
        assert_eq!(reply.number(), 1);
        let spelled: &[u8] = if turn % 2 == 0 {
            b"\x04gate\x05fault\x04test"
        } else {
            b"\x04GATE\x05Fault\x04Test"
        };
        assert_eq!(reply.qname_octets(), spelled);
    }
    assert_eq!(bed.metric("fingerpost_forward_shared_total"), 99);
}

/// Whoever waits below `cache` waits for `forward` in the end, so what is asked once there is asked once for all.
#[tokio::test]
async fn a_hundred_aliases_that_lead_to_one_name_are_one_query() {
    let upstream = Upstream::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: out}\n\
                 spec: {type: ExternalName, externalName: gate.fault.test}\n";
    std::fs::write(folder.path().join("out.yaml"), alias).unwrap();
    let bed = Bed::new(&format!(
        ". {{\ncache\nkubernetes cluster.local {{\nmanifests {}\n}}\nforward . {} {{\nread_timeout 20s\n}}\n}}",
        folder.path().display(),
        upstream.address
    ));
    let unknown = "nope.shop.svc.cluster.local";
    until(async || bed.ask(unknown).await.rcode() == Rcode::NXDOMAIN).await;
    let asks = (0..100).map(|_| bed.ask("out.shop.svc.cluster.local"));
    let opened = async {
        until(async || !upstream.seen().is_empty()).await;
        upstream.open_gate(1);
    };
    let (replies, ()) = tokio::join!(futures_util::future::join_all(asks), opened);
    assert!(replies.iter().all(|reply| reply.number() == 1));
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_at_once_over_few_sockets_each_get_their_own_reply() {
    let (upstream, bed) = one("read_timeout 4s").await;
    for round in 0..20 {
        let names: Vec<String> = (0..100)
            .map(|turn| format!("ok-{round}-{turn}.fault.test"))
            .collect();
        let asks = names.iter().map(|name| bed.ask(name));
        for reply in futures_util::future::join_all(asks).await {
            assert_eq!(reply.number(), 1);
        }
    }
    // A busy machine may let one time out and be asked again; it is the replies that must not be mixed up.
    let seen = upstream.seen();
    let asked: BTreeSet<_> = seen
        .iter()
        .map(|seen| Query::parse(&seen.message).unwrap().qname().to_lower())
        .collect();
    assert_eq!(asked.len(), 2000);
    let sockets: BTreeSet<_> = seen.iter().map(|seen| seen.from).collect();
    assert!(sockets.len() <= 64, "{}", sockets.len());
}

#[tokio::test]
async fn questions_that_differ_in_do_are_two_queries() {
    let (upstream, bed) = one("read_timeout 20s").await;
    let plain = query("gate.fault.test", RecordType::A);
    let mut with_do = plain.clone();
    let flags = with_do.len() - 4;
    with_do[flags] = 0x80;
    let opened = async {
        until(async || upstream.seen().len() == 2).await;
        upstream.open_gate(2);
    };
    tokio::join!(bed.send(&plain), bed.send(&with_do), opened);
}

#[tokio::test]
async fn whoever_waits_for_one_that_gave_up_asks_again() {
    let (upstream, bed) = one("read_timeout 20s").await;
    let mut leader = Box::pin(bed.ask("gate.fault.test"));
    let follower = async {
        until(async || upstream.seen().len() == 1).await;
        bed.ask("gate.fault.test").await
    };
    let mut follower = Box::pin(follower);
    // Both are under way: the leader has asked, the follower has come after it.
    let both = async { tokio::join!(&mut leader, &mut follower) };
    assert!(
        tokio::time::timeout(Duration::from_millis(300), both)
            .await
            .is_err()
    );
    assert_eq!(upstream.seen().len(), 1);
    drop(leader);
    let opened = async {
        until(async || upstream.seen().len() == 2).await;
        upstream.open_gate(2);
    };
    let (reply, ()) = tokio::join!(follower, opened);
    assert_eq!(reply.number(), 1);
}

#[tokio::test]
async fn ports_change_from_query_to_query() {
    let (upstream, bed) = one("").await;
    for turn in 0..100 {
        bed.ask(&format!("ok-{turn}.fault.test")).await;
    }
    let ports: BTreeSet<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.from.port())
        .collect();
    // A hundred draws of 32 miss more than twelve of them less than once in a million runs.
    assert!(ports.len() >= 20 && ports.len() <= 32, "{}", ports.len());
    assert!(ports.iter().all(|&port| port >= 10_240));
}

#[tokio::test]
async fn a_socket_takes_so_many_queries_and_then_its_port_changes() {
    let (upstream, bed) = one("max_idle_conns 1").await;
    for turn in 0..257 {
        bed.ask(&format!("ok-{turn}.fault.test")).await;
    }
    let seen = upstream.seen();
    assert_eq!(seen[0].from, seen[255].from);
    assert_ne!(seen[0].from, seen[256].from);
}

#[tokio::test]
async fn expire_zero_takes_a_new_port_for_each_query() {
    let (upstream, bed) = one("expire 0").await;
    for turn in 0..20 {
        bed.ask(&format!("ok-{turn}.fault.test")).await;
    }
    let ports: BTreeSet<_> = upstream.seen().iter().map(|seen| seen.from).collect();
    assert!(ports.len() >= 19, "{ports:?}");
}

#[tokio::test]
async fn queries_leave_from_source_address() {
    let (upstream, bed) = one("source_address 127.0.0.2").await;
    bed.ask("ok.fault.test").await;
    bed.ask_over_tcp("ok.fault.test").await;
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.from.ip().to_string() == "127.0.0.2")
    );
}

#[tokio::test]
async fn an_upstream_that_fails_probes_is_down_until_one_is_answered() {
    let (upstreams, bed) = three(
        "policy sequential\nread_timeout 50ms\nmax_fails 1\nhealth_check 10ms no_rec domain Probe.test",
    )
    .await;
    // Nobody hears it, and nobody refuses it: only time-outs tell. Its socket is there, so probes take a second each.
    upstreams[0].set_silent(true);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 2);
    until(async || upstreams[0].probes().len() >= 3).await;
    let asked = upstreams[0].seen().len();
    assert_eq!(bed.ask("ok.fault.test").await.number(), 2);
    let tried = upstreams[0].seen().len() - asked;
    assert!(tried <= 1, "it is down and asked for nothing but a trial");
    let probe = upstreams[0].probes().remove(0);
    assert_eq!(
        (probe.qname().as_str(), probe.message[2]),
        ("probe.test.", 0)
    );
    upstreams[0].set_silent(false);
    until(async || bed.ask("ok.fault.test").await.number() == 1).await;
    let series = format!(
        "coredns_proxy_healthcheck_failures_total{{proxy_name=\"forward\",to=\"{}\"}}",
        upstreams[0].address
    );
    assert!(bed.metric(&series) >= 2);
}

#[tokio::test]
async fn an_upstream_that_replies_is_never_probed() {
    let (upstream, bed) = one("").await;
    bed.ask("servfail.fault.test").await;
    bed.ask("ok.fault.test").await;
    assert!(upstream.probes().is_empty());
}

#[tokio::test]
async fn while_all_are_down_failfast_answers_at_once_and_else_any_is_tried() {
    let address = nobody();
    let bed = Bed::new(&format!(
        "fast. {{\nforward . {address} {{\nmax_fails 1\nhealth_check 1ms\nfailfast_all_unhealthy_upstreams\n}}\n}}\n\
         slow. {{\nforward . {address} {{\nmax_fails 1\nhealth_check 1ms\n}}\n}}"
    ));
    let broken = |bed: &Bed| bed.metric("coredns_forward_healthcheck_broken_total");
    until(async || {
        // Extended error 22 without any attempt: nothing was tried, so nothing was refused.
        bed.ask("ok.fast").await.extended_error() == Some(22)
    })
    .await;
    let before = broken(&bed);
    assert!(before >= 1);
    let reply = bed.ask("ok.slow").await;
    assert_eq!(
        (reply.rcode(), reply.extended_error()),
        (Rcode::SERVFAIL, Some(23))
    );
    assert_eq!(broken(&bed), before + 1);
}

#[tokio::test]
async fn max_fails_zero_never_probes() {
    let (upstream, bed) = one("max_fails 0\nread_timeout 30ms").await;
    bed.ask("timeout.fault.test").await;
    bed.ask("ok.fault.test").await;
    assert!(upstream.probes().is_empty());
}

#[tokio::test]
async fn an_exchange_is_counted_by_upstream_and_rcode() {
    let (upstream, bed) = one("").await;
    bed.ask("ok.fault.test").await;
    bed.ask("nxdomain.fault.test").await;
    bed.ask("nxdomain.fault.test").await;
    let count = |rcode: &str| {
        let to = upstream.address;
        bed.metric(&format!(
            "coredns_proxy_request_duration_seconds_count{{proxy_name=\"forward\",rcode=\"{rcode}\",to=\"{to}\"}}"
        ))
    };
    assert_eq!((count("NOERROR"), count("NXDOMAIN")), (1, 2));
}

#[tokio::test]
async fn sockets_outlive_a_reload_that_leaves_the_options_alone() {
    let upstream = Upstream::start(1).await;
    let corefile = |rest: &str| {
        let to = upstream.address;
        format!(". {{\nforward . {to} {{\nforce_tcp\n{rest}\n}}\n}}")
    };
    let process = Process::new(tokio::runtime::Handle::current());
    let before = Bed::within(&process, &corefile("max_concurrent 5"));
    before.ask("ok.fault.test").await;
    let after = Bed::within(&process, &corefile("max_concurrent 6"));
    drop(before);
    after.ask("ok.fault.test").await;
    let changed = Bed::within(&process, &corefile("expire 20s"));
    changed.ask("ok.fault.test").await;
    let from: Vec<_> = upstream.seen().iter().map(|seen| seen.from).collect();
    assert_eq!(from[0], from[1]);
    assert_ne!(from[1], from[2]);
}

#[tokio::test]
async fn a_file_names_upstreams() {
    let upstream = Upstream::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, "search a.org\noptions ndots:5\n").unwrap();
    let process = Process::new(tokio::runtime::Handle::current());
    let corefile = |more: &str| format!(". {{\nforward . {}{more}\n}}", path.display());
    let error = Bed::try_within(&process, &corefile("")).err().unwrap();
    assert_eq!(error.to_string(), "no valid upstream addresses found");
    let bed = Bed::within(&process, &corefile(&format!(" {}", upstream.address)));
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
}

#[tokio::test]
async fn after_one_time_out_queries_go_elsewhere() {
    let (upstreams, bed) = three("policy sequential\nread_timeout 100ms\nhealth_check 1h").await;
    upstreams[0].set_silent(true);
    for turn in 0..50 {
        assert_eq!(bed.ask(&format!("ok-{turn}.fault.test")).await.number(), 2);
    }
    // One that waited, and trials a second apart.
    assert!(
        upstreams[0].seen().len() < 10,
        "{}",
        upstreams[0].seen().len()
    );
    assert!(bed.metric("fingerpost_forward_passed_over_total") >= 40);
}

#[tokio::test]
async fn a_trial_finds_out_that_an_upstream_is_back() {
    let (upstreams, bed) = three("policy sequential\nread_timeout 100ms\nhealth_check 1h").await;
    upstreams[0].set_silent(true);
    assert_eq!(bed.ask("ok.fault.test").await.number(), 2);
    // The one probe of this hour has not been answered.
    until(async || upstreams[0].probes().len() == 1).await;
    upstreams[0].set_silent(false);
    until(async || bed.ask("ok.fault.test").await.number() == 1).await;
    assert_eq!(upstreams[0].probes().len(), 1);
}

#[tokio::test]
async fn while_all_are_silent_one_that_is_back_is_used_at_once() {
    let (upstream, bed) = one("read_timeout 50ms\nhealth_check 1h").await;
    upstream.set_silent(true);
    assert_eq!(bed.ask("ok.fault.test").await.rcode(), Rcode::SERVFAIL);
    upstream.set_silent(false);
    assert_eq!(bed.ask("ok-later.fault.test").await.number(), 1);
}

#[tokio::test]
async fn failfast_ends_with_the_first_reply_and_needs_no_probe() {
    let (upstream, bed) =
        one("read_timeout 50ms\nmax_fails 1\nhealth_check 10ms\nfailfast_all_unhealthy_upstreams")
            .await;
    upstream.set_silent(true);
    let broken = || bed.metric("coredns_forward_healthcheck_broken_total");
    until(async || {
        bed.ask("ok.fault.test").await;
        broken() > 0
    })
    .await;
    upstream.set_silent(false);
    until(async || bed.ask("ok.fault.test").await.rcode() == Rcode::NOERROR).await;
}

#[tokio::test]
async fn one_silent_and_one_failing_upstream_of_three_cost_no_client_an_answer() {
    const QUERIES: usize = 4000;
    let (upstreams, bed) = three("failover SERVFAIL\nread_timeout 2s").await;
    upstreams[0].set_silent(true);
    upstreams[1].set_failing(10);
    for round in 0..QUERIES / 20 {
        let names: Vec<_> = (0..20)
            .map(|turn| format!("ok-{round}-{turn}.fault.test"))
            .collect();
        let asks = names.iter().map(|name| bed.ask(name));
        for reply in futures_util::future::join_all(asks).await {
            assert_eq!(reply.rcode(), Rcode::NOERROR);
        }
    }
    // Whoever waits for a time-out is slow. Fewer than one in a hundred may have: the first ones, no others.
    let waited = upstreams[0].seen().len();
    assert!(waited < QUERIES / 100, "{waited}");
}

#[tokio::test]
async fn an_address_is_probed_once_however_many_blocks_ask_it() {
    let upstream = Upstream::start(1).await;
    upstream.set_silent(true);
    let corefile: String = (1..=4)
        .map(|block| {
            let to = upstream.address;
            let options = format!("read_timeout 50ms\nexpire {block}s");
            format!("z{block}. {{\nforward . {to} {{\n{options}\n}}\n}}\n")
        })
        .collect();
    let bed = Bed::new(&corefile);
    let names = ["ok.z1", "ok.z2", "ok.z3", "ok.z4"];
    futures_util::future::join_all(names.map(|name| bed.ask(name))).await;
    // A probe waits for a second, so the first one is still out.
    assert_eq!(upstream.probes().len(), 1);
}

/// Ten thousand clients at once, and how often the upstream was asked for each type.
async fn storm(above: &str) -> [usize; 2] {
    let upstream = Upstream::start(1).await;
    let bed = Bed::new(&format!(
        ". {{\n{above}\nforward . {} {{\nread_timeout 20s\n}}\n}}",
        upstream.address
    ));
    let messages = [RecordType::A, RecordType::AAAA].map(|qtype| query("gate.fault.test", qtype));
    let asks = (0..10_000).map(|turn| bed.send(&messages[turn % 2]));
    let opened = async {
        until(async || upstream.seen().len() >= 2).await;
        upstream.open_gate(2);
    };
    let (replies, ()) = tokio::join!(futures_util::future::join_all(asks), opened);
    assert!(replies.iter().all(|reply| reply.rcode() == Rcode::NOERROR));
    [1, 28].map(|qtype| {
        let is_so = |seen: &&upstream::Seen| seen.qtype() == qtype;
        upstream.seen().iter().filter(is_so).count()
    })
}

#[tokio::test]
async fn ten_thousand_clients_of_one_cold_name_are_one_query_a_type() {
    assert_eq!(storm("").await, [1, 1]);
    assert_eq!(storm("cache").await, [1, 1]);
}

#[tokio::test]
async fn lowest_latency_leaves_an_upstream_that_fails() {
    let (upstreams, bed) = three("policy lowest_latency").await;
    upstreams[0].set_rcode(2);
    upstreams[1].set_rcode(2);
    for turn in 0..300 {
        bed.ask(&format!("ok-{turn}.fault.test")).await;
    }
    let asked = upstreams.each_ref().map(|upstream| upstream.seen().len());
    assert!(asked[0] + asked[1] < 60, "{asked:?}");
}

#[tokio::test]
async fn past_its_packet_budget_the_next_upstream_is_asked_and_then_none() {
    let (upstreams, bed) = three("policy sequential\npacket_budget 5/s").await;
    let mut rcodes = Vec::new();
    let names: Vec<_> = (0..40)
        .map(|turn| format!("ok-{turn}.fault.test"))
        .collect();
    let asks = names.iter().map(|name| bed.ask(name));
    for reply in futures_util::future::join_all(asks).await {
        if reply.rcode() == Rcode::SERVFAIL {
            assert_eq!(reply.extended_error(), Some(0));
        }
        rcodes.push(reply.rcode());
    }
    // A machine that is busy for longer than a second has a second budget to spend.
    let answered = rcodes.iter().filter(|&&rcode| rcode == Rcode::NOERROR);
    assert!((15..=30).contains(&answered.count()));
    assert!(
        upstreams
            .iter()
            .all(|upstream| upstream.probes().is_empty())
    );
    let spent = upstreams.each_ref().map(|upstream| {
        let to = upstream.address;
        bed.metric(&format!(
            "fingerpost_forward_budget_spent_total{{to=\"{to}\"}}"
        ))
    });
    assert!(spent.iter().all(|&count| count > 0), "{spent:?}");
}

#[tokio::test]
async fn deny_private_takes_private_addresses_out_and_says_so() {
    let (upstream, bed) = one("deny_private").await;
    let reply = bed.ask("router.fault.test").await;
    assert_eq!(
        (reply.rcode(), reply.extended_error()),
        (Rcode::NOERROR, Some(15))
    );
    assert!(reply.addresses().is_empty());
    // The alias and the address of the world stay; nobody vouches for them together.
    let mut message = query("rebind.fault.test", RecordType::A);
    message[3] |= 0x20;
    let reply = bed.send(&message).await;
    assert_eq!((reply.number(), reply.extended_error()), (1, Some(15)));
    assert_eq!(Records::of_message(&reply.octets).unwrap().count(), 3);
    assert_eq!(reply.octets[3] & 0x20, 0);
    let reply = bed.send(&query("hint.fault.test", RecordType::HTTPS)).await;
    assert_eq!(Records::of_message(&reply.octets).unwrap().count(), 1);
    assert_eq!(reply.extended_error(), Some(15));
    assert_eq!(bed.ask("ok.fault.test").await.extended_error(), None);
    let to = upstream.address;
    let series = format!("fingerpost_forward_private_replies_total{{to=\"{to}\"}}");
    assert_eq!(bed.metric(&series), 3);
}

#[tokio::test]
async fn names_in_allowed_zones_have_private_addresses_and_aliases_of_them_have_not() {
    let (_upstream, bed) = one("deny_private fault.test host.alias.test").await;
    assert_eq!(bed.ask("router.fault.test").await.number(), 1);
    assert_eq!(bed.ask("Router.Fault.TEST").await.extended_error(), None);
    assert_eq!(bed.ask("rebind.fault.test").await.addresses().len(), 2);
    // Its address is that of an allowed name, but the name that was asked is not.
    assert_eq!(bed.ask("rebind.evil.test").await.addresses().len(), 1);
    assert!(bed.ask("router.evil.test").await.addresses().is_empty());
}

#[tokio::test]
async fn without_deny_private_replies_are_passed_on_with_them() {
    let (_upstream, bed) = one("").await;
    assert_eq!(bed.ask("rebind.fault.test").await.addresses().len(), 2);
}

#[tokio::test]
async fn a_question_that_nobody_replied_to_is_asked_again_after_a_second() {
    let (upstream, bed) = one("read_timeout 30ms\nmax_connect_attempts 1").await;
    let start = std::time::Instant::now();
    let first = bed.ask("timeout.fault.test").await;
    assert_eq!(first.extended_error(), Some(22));
    let mut refused = 0;
    until(async || {
        let reply = bed.ask("timeout.fault.test").await;
        assert_eq!(reply.rcode(), Rcode::SERVFAIL);
        refused += u64::from(reply.extended_error() == Some(13));
        upstream.seen().len() > 1
    })
    .await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(refused > 0);
    assert_eq!(
        bed.metric("fingerpost_forward_remembered_failures_total"),
        refused
    );
}

/// Enough queries, all answered, for the time of usual replies to be known and second tries to be saved up.
async fn warm(bed: &Bed) {
    for turn in 0..240 {
        bed.ask(&format!("ok-{turn}.fault.test")).await;
    }
}

fn hedges(bed: &Bed) -> [u64; 3] {
    ["won", "lost", "refused"].map(|outcome| {
        bed.metric(&format!(
            "fingerpost_forward_hedges_total{{outcome=\"{outcome}\"}}"
        ))
    })
}

/// Asks, while the first upstream is silent, until a hedge has won; before each try all is well for a while, so that
/// second tries are saved up. The number in the reply, and what each upstream got of that query.
async fn hedge_won(upstreams: &[Upstream; 3], bed: &Bed) -> (u8, [usize; 3]) {
    let seen = || upstreams.each_ref().map(|upstream| upstream.seen().len());
    for turn in 0..20 {
        upstreams[0].set_silent(false);
        until(async || bed.ask(&format!("ok-{turn}.fault.test")).await.number() == 1).await;
        warm(bed).await;
        let (before, won) = (seen(), hedges(bed)[0]);
        upstreams[0].set_silent(true);
        let reply = bed.ask(&format!("ok-again-{turn}.fault.test")).await;
        if hedges(bed)[0] > won {
            let after = seen();
            let costs = [0, 1, 2].map(|place| after[place] - before[place]);
            return (reply.number(), costs);
        }
    }
    panic!("there was always another reason to be slow");
}

#[tokio::test]
async fn a_hedge_answers_while_the_first_upstream_is_silent() {
    let (upstreams, bed) = three("hedge\npolicy sequential\nread_timeout 1s").await;
    assert_eq!(hedge_won(&upstreams, &bed).await, (2, [1, 1, 0]));
}

#[tokio::test]
async fn the_first_upstream_is_waited_for_although_the_hedge_has_answered() {
    let (upstreams, bed) = three("hedge\npolicy sequential\nread_timeout 300ms").await;
    hedge_won(&upstreams, &bed).await;
    let probes = upstreams[0].probes().len();
    // Its silence has made it doubtful, so it is probed, and left out by the next query but for a trial.
    until(async || upstreams[0].probes().len() > probes).await;
    let asked = upstreams[0].seen().len();
    assert_eq!(bed.ask("ok-more.fault.test").await.number(), 2);
    assert!(upstreams[0].seen().len() <= asked + 1);
}

#[tokio::test]
async fn a_hedge_that_fails_leaves_the_first_upstream_its_time() {
    let (upstreams, bed) = three("hedge\npolicy sequential\nread_timeout 20s").await;
    warm(&bed).await;
    upstreams[1].set_rcode(2);
    let won = hedges(&bed)[0];
    for turn in 0..20 {
        warm(&bed).await;
        let asked = upstreams[1].seen().len();
        let name = format!("gate-{turn}.fault.test");
        let opened = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            upstreams[0].open_gate(1);
        };
        let (reply, ()) = tokio::join!(bed.ask(&name), opened);
        assert_eq!((reply.rcode(), reply.number()), (Rcode::NOERROR, 1));
        if upstreams[1].seen().len() > asked {
            assert_eq!(hedges(&bed)[0], won);
            return;
        }
    }
    panic!("there was never a hedge");
}

#[tokio::test]
async fn one_query_of_twenty_is_hedged_and_never_more() {
    let (upstreams, bed) = three("hedge\npolicy sequential\nread_timeout 20s").await;
    warm(&bed).await;
    let seen = || -> usize { upstreams.iter().map(|upstream| upstream.seen().len()).sum() };
    let (before, refused) = (seen(), hedges(&bed)[2]);
    let names: Vec<_> = (0..200)
        .map(|turn| format!("gate-{turn}.fault.test"))
        .collect();
    let asks = futures_util::future::join_all(names.iter().map(|name| bed.ask(name)));
    let opened = async {
        // Ten were saved up at most, and two hundred queries earn ten.
        until(async || hedges(&bed)[2] >= refused + 180).await;
        for upstream in &upstreams {
            upstream.open_gate(200);
        }
    };
    let (replies, ()) = tokio::join!(asks, opened);
    assert!(replies.iter().all(|reply| reply.rcode() == Rcode::NOERROR));
    assert!(seen() - before <= 200 + 20, "{}", seen() - before);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_no_second_choice() {
    let (upstreams, bed) =
        three("hedge\npolicy sequential\nread_timeout 100ms\nmax_fails 1\nhealth_check 10ms").await;
    for upstream in &upstreams {
        upstream.set_silent(true);
    }
    bed.ask("ok-a.fault.test").await;
    until(async || upstreams.iter().all(|upstream| upstream.probes().len() > 3)).await;
    upstreams[0].set_silent(false);
    until(async || bed.ask("ok-b.fault.test").await.rcode() == Rcode::NOERROR).await;
    warm(&bed).await;
    let before = hedges(&bed);
    let opened = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        upstreams[0].open_gate(1);
    };
    let (reply, ()) = tokio::join!(bed.ask("gate.fault.test"), opened);
    assert_eq!(reply.number(), 1);
    assert_eq!(hedges(&bed)[..2], before[..2], "there was nobody to ask");
}

#[tokio::test]
async fn an_upstream_that_never_replied_is_hedged_by_what_others_take() {
    let (upstreams, bed) = three("hedge\npolicy sequential\nread_timeout 500ms\nmax_fails 0").await;
    upstreams[0].set_silent(true);
    // Where replies are late for other reasons, these queries have second tries of their own.
    for round in 0..20 {
        let names: Vec<_> = (0..60)
            .map(|turn| format!("ok-{round}-{turn}.fault.test"))
            .collect();
        futures_util::future::join_all(names.iter().map(|name| bed.ask(name))).await;
        let won = hedges(&bed)[0];
        let reply = bed.ask(&format!("ok-again-{round}.fault.test")).await;
        if hedges(&bed)[0] > won {
            assert_eq!(reply.number(), 2);
            return;
        }
    }
    panic!("there was never a hedge");
}
