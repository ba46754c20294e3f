//! Tests of plugins that work together.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::exchange::{Exchange, Protocol};
use crate::chain::plugin::Step;
use crate::plugin::testing::bench::{Ask, Bench, Link, Upstream, wait_until};
use crate::plugin::testing::{Below, arrival, query, send, with_edns, zones};
use crate::plugin::{autopath, cache, cancel, forward, hosts, kubernetes, transfer};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::{Name, ROOT};
use crate::wire::record::Section;
use crate::wire::writer::{Owner, SoaTimes};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports:
    - port: 80
      protocol: TCP
";

const PTR: &str = "10.0.96.10.in-addr.arpa.";

/// Denies the name, for five minutes.
fn deny(exchange: &mut Exchange<'_>) {
    let times = SoaTimes {
        serial: 1,
        refresh: 1,
        retry: 1,
        expire: 1,
        minimum: 300,
    };
    exchange.reply.rcode = Rcode::NXDOMAIN;
    exchange.reply.go_to(Section::Authority);
    exchange
        .reply
        .soa(Owner::Name(ROOT), 300, ROOT, ROOT, times);
}

/// The middle of the kubeadm Corefile: a cluster from `folder`, and an upstream that denies names and knows addresses.
fn cluster(folder: &Path, hosts_text: Option<&'static str>) -> (Bench, Arc<Upstream>) {
    let upstream = Upstream::answering(|exchange, _| {
        if exchange.qtype() == RecordType::PTR {
            let target = Name::from_text("upstream.example.org").unwrap();
            exchange
                .reply
                .name_record(Owner::Question, RecordType::PTR, 300, target.as_ref());
            return;
        }
        deny(exchange);
    });
    let text: &'static str = format!(
        "kubernetes cluster.local in-addr.arpa {{\n manifests {}\n fallthrough\n}}",
        folder.display()
    )
    .leak();
    let mut links = vec![Link::Corefile(&cache::SPEC, "cache 30")];
    links.extend(hosts_text.map(|text| Link::Corefile(&hosts::SPEC, text)));
    links.push(Link::Corefile(&kubernetes::SPEC, text));
    links.push(Link::Made(Arc::<Upstream>::clone(&upstream)));
    (Bench::new(links), upstream)
}

/// Whether the answer is one record that ends so. Its TTL may have begun to run.
fn answers(bench: &Bench, qname: &str, qtype: RecordType, expected: &str) -> bool {
    let records = bench.ask(qname, qtype).records();
    matches!(&records[..], [record] if record.starts_with("answer") && record.ends_with(expected))
}

#[test]
fn a_service_is_visible_at_once_though_its_name_and_address_were_asked_for_before() {
    let name = "web.shop.svc.cluster.local.";
    let folder = tempfile::tempdir().unwrap();
    let (bench, upstream) = cluster(folder.path(), None);
    // Denied, and so by the cache.
    wait_until(|| bench.ask(name, RecordType::A).rcode() == Rcode::NXDOMAIN);
    assert!(answers(
        &bench,
        PTR,
        RecordType::PTR,
        "IN PTR upstream.example.org."
    ));
    let asked = upstream.asked();
    bench.ask(name, RecordType::A);
    bench.ask(PTR, RecordType::PTR);
    assert_eq!(upstream.asked(), asked, "both are kept");
    fs::write(folder.path().join("web.yaml"), SERVICE).unwrap();
    wait_until(|| answers(&bench, name, RecordType::A, "IN A 10.96.0.10"));
    assert!(answers(
        &bench,
        PTR,
        RecordType::PTR,
        &format!("IN PTR {name}")
    ));
    // And gone at once: what was kept before is in force again.
    fs::remove_file(folder.path().join("web.yaml")).unwrap();
    wait_until(|| bench.ask(name, RecordType::A).rcode() == Rcode::NXDOMAIN);
    // The writer takes the address away after the name.
    let upstreams = "IN PTR upstream.example.org.";
    wait_until(|| answers(&bench, PTR, RecordType::PTR, upstreams));
    assert_eq!(upstream.asked(), asked);
}

#[test]
fn hosts_shadows_the_table_below_it() {
    let name = "web.shop.svc.cluster.local.";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("web.yaml"), SERVICE).unwrap();
    let hosts = "hosts /dev/null {\n 192.0.2.5 web.shop.svc.cluster.local\n fallthrough\n}";
    let (shadowed, _) = cluster(folder.path(), Some(hosts));
    for _ in ["first", "second"] {
        assert!(answers(&shadowed, name, RecordType::A, "IN A 192.0.2.5"));
    }
    let (plain, _) = cluster(folder.path(), None);
    wait_until(|| answers(&plain, name, RecordType::A, "IN A 10.96.0.10"));
}

#[test]
fn a_query_that_is_given_up_before_a_stale_entry_is_verified_gets_the_stale_answer() {
    let upstream = Upstream::new(|exchange, before| {
        if before > 0 {
            return Step::Defer(Box::pin(std::future::pending()));
        }
        exchange.reply.a(Owner::Question, 10, [192, 0, 2, 1].into());
        Step::Answered
    });
    let bench = Bench::new(vec![
        Link::Corefile(&cancel::SPEC, "cancel 50ms"),
        Link::Corefile(&cache::SPEC, "cache {\n serve_stale 1h verify 1h\n}"),
        Link::Made(upstream),
    ]);
    let mut ask = Ask::new("web.example.org", RecordType::A);
    bench.send(&ask);
    ask.arrival.received += Duration::from_secs(20);
    let stale = ["answer web.example.org. 0 IN A 192.0.2.1"];
    assert_eq!(bench.send(&ask).records(), stale);
}

#[test]
fn each_name_of_a_search_is_kept_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    fs::write(&file, "search a.example b.example\n").unwrap();
    let text: &'static str = format!("autopath . {}", file.display()).leak();
    let upstream = Upstream::answering(|exchange, _| {
        if exchange.qname().to_string() == "www.example.org." {
            exchange
                .reply
                .a(Owner::Question, 300, [192, 0, 2, 1].into());
        } else {
            deny(exchange);
        }
    });
    let bench = Bench::new(vec![
        Link::Corefile(&autopath::SPEC, text),
        Link::Corefile(&cache::SPEC, "cache 300"),
        Link::Made(Arc::<Upstream>::clone(&upstream)),
    ]);
    let searched = || {
        bench
            .ask("www.example.org.a.example", RecordType::A)
            .records()
    };
    let first = searched();
    assert_eq!(first.len(), 2, "an alias and its address: {first:?}");
    assert_eq!(
        upstream.asked(),
        3,
        "with a.example, with b.example, and alone"
    );
    assert_eq!(searched().len(), 2);
    // Who asks for one of the names finds it, and no alias with it.
    let rcode = |qname: &str| bench.ask(qname, RecordType::A).rcode();
    assert_eq!(rcode("www.example.org.b.example"), Rcode::NXDOMAIN);
    assert!(answers(
        &bench,
        "www.example.org",
        RecordType::A,
        "IN A 192.0.2.1"
    ));
    assert_eq!(upstream.asked(), 3);
    // A name that shares the rest of the path shares nothing else.
    assert_eq!(rcode("mail.example.org.a.example"), Rcode::NXDOMAIN);
    assert_eq!(upstream.asked(), 6);
}

/// INFO-CODE of the extended error, which is the only option.
fn extended_error(reply: &[u8]) -> Option<u16> {
    let opt = crate::wire::record::Records::of_message(reply)
        .unwrap()
        .flatten()
        .map(|(_, record)| record)
        .find(|record| record.record_type == RecordType::OPT)?;
    let data = opt.rdata().strip_prefix(&[0, 15])?.get(2..4)?;
    Some(u16::from_be_bytes([data[0], data[1]]))
}

#[test]
fn who_is_refused_or_failed_is_told_why() {
    let prohibited = "transfer example.org {\n to 198.51.100.1\n}";
    for (spec, text, protocol, qtype, expected) in [
        // RFC 8914, sections 4.1, 4.19 and 4.22: Other, Prohibited, Not Supported.
        (&cache::SPEC, "cache", Protocol::Udp, RecordType::A, 0),
        (
            &transfer::SPEC,
            prohibited,
            Protocol::Tcp,
            RecordType::AXFR,
            18,
        ),
        (
            &transfer::SPEC,
            prohibited,
            Protocol::Udp,
            RecordType::AXFR,
            21,
        ),
        (
            &forward::SPEC,
            "forward . 192.0.2.1",
            Protocol::Tcp,
            RecordType::AXFR,
            21,
        ),
    ] {
        let bench = Bench::new(vec![Link::Corefile(spec, text)]);
        let mut ask = Ask::new("example.org", qtype);
        ask.arrival.protocol = protocol;
        ask.edns = Some((1232, false));
        let reply = bench.send(&ask);
        assert_eq!(extended_error(&reply.octets), Some(expected), "{text}");
    }
}

#[test]
fn an_extended_error_that_makes_a_refusal_longer_than_its_query_goes_without_tc() {
    let zones = zones("example.org", vec![Arc::new(Below::Address)]);
    let plain = with_edns(query("example.net", RecordType::A), 1232, false);
    let mut padded = plain.clone();
    let rdlength = padded.len() - 2;
    padded[rdlength..].copy_from_slice(&[0, 6]);
    // Two octets of an option for local use (RFC 6891, section 9).
    padded.extend_from_slice(&[0xfd, 0xe9, 0, 2, 0, 0]);
    for (message, expected) in [(plain, None), (padded, Some(20))] {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut arrival = arrival();
            arrival.protocol = protocol;
            let reply = send(&zones, &message, arrival).expect("a reply");
            assert_eq!(reply[3] & 15, 5, "REFUSED");
            assert_eq!(reply[2] & 2, 0, "TC");
            assert_eq!(reply.len(), message.len());
            assert_eq!(extended_error(&reply), expected);
        }
    }
}
