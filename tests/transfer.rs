//! Zone transfers, in process: what a zone holds, who gets it. Numbers are those of `tests/kubernetes/cases`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/in_process.rs"]
mod in_process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::record::{Records, Section};
use fingerpost::wire::u32_at;
use in_process::{Server, record_text, shown, transfer_query};

const CLIENT: [u8; 4] = [192, 0, 2, 7];

/// The cluster of `tests/kubernetes` with these options of `transfer` and `kubernetes`.
fn server(transfer: &str, zones: &str, options: &str) -> Server {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/cluster.yaml");
    let manifests = manifests.display();
    Server::new(&format!(
        ". {{\nbind 127.0.0.1\n{transfer}\nkubernetes {zones} {{\nmanifests {manifests}\n{options}\n}}\n}}\n"
    ))
}

fn open_server(zones: &str, options: &str) -> Server {
    server("transfer {\nto *\n}", zones, options)
}

/// All records of a transfer in order, as text.
fn texts(messages: &[Vec<u8>]) -> Vec<String> {
    let of_message = |message: &Vec<u8>| {
        let records = Records::of_message(message).unwrap().map(Result::unwrap);
        let answers = records.filter(|(section, _)| *section == Section::Answer);
        answers
            .map(|(_, record)| record_text(message, &record))
            .collect::<Vec<_>>()
    };
    messages.iter().flat_map(of_message).collect()
}

fn axfr(server: &Server, zone: &str) -> Vec<String> {
    let messages = server.transfer(zone, None, CLIENT);
    for message in &messages {
        assert_eq!(
            (message[3] & 15, message[2] & 0x86),
            (0, 0x84),
            "NOERROR, AA"
        );
    }
    texts(&messages)
}

/// The records at names that end in `suffix`, without the SOA.
fn at<'r>(records: &'r [String], suffix: &str) -> Vec<&'r str> {
    let owned = |record: &&String| {
        let owner = record.split(' ').next().unwrap();
        owner == suffix || owner.ends_with(&format!(".{suffix}"))
    };
    let records = records.iter().filter(owned).map(String::as_str);
    records.filter(|record| !record.contains(" SOA ")).collect()
}

fn rcode(messages: &[Vec<u8>]) -> String {
    let [message] = messages else {
        panic!("{} messages", messages.len());
    };
    shown(message).rcode
}

fn serial(messages: &[Vec<u8>]) -> u32 {
    let mut records = Records::of_message(&messages[0]).unwrap();
    let (_, soa) = records.next().unwrap().unwrap();
    u32_at(soa.rdata(), soa.rdata().len() - 20).unwrap()
}

const ZONES: &str = "cluster.local in-addr.arpa ip6.arpa";

/// The harm that this guards from: a secondary that answers other than we do (RFC 5936, section 3).
#[test]
fn every_rrset_of_a_transfer_is_the_one_that_a_query_gets() {
    for (zones, options) in [
        (ZONES, "ttl 30\nendpoint_pod_names"),
        (ZONES, "namespaces ns1\nignore empty_service"),
        (ZONES, "noendpoints"),
        (".", ""),
        (
            "cluster.local clusterset.local",
            "multicluster clusterset.local\nzonal",
        ),
        (
            "cluster.local svc.cluster.local 10.in-addr.arpa in-addr.arpa",
            "",
        ),
    ] {
        let server = open_server(zones, options);
        for zone in zones.split(' ') {
            let mut rrsets: BTreeMap<(String, RecordType), Vec<String>> = BTreeMap::new();
            let mut records = axfr(&server, zone);
            assert!(records.len() >= 5, "{zone} {options}: {records:?}");
            assert_eq!(records.pop(), Some(records[0].clone()));
            for record in records {
                let mut words = record.split(' ');
                let owner = words.next().unwrap().to_owned();
                let kind = RecordType::from_mnemonic(words.nth(1).unwrap()).unwrap();
                rrsets.entry((owner, kind)).or_default().push(record);
            }
            for ((owner, kind), mut records) in rrsets {
                records.sort();
                let queried = &shown(&server.ask(&owner, kind)).sections[0];
                assert_eq!(&records, queried, "{owner} {kind} in {zone}, {options}");
            }
        }
    }
}

#[test]
fn case_236_soa_stands_at_both_ends_then_ns_and_services_by_name() {
    let records = axfr(&open_server(ZONES, ""), "cluster.local.");
    let soa = "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 5";
    assert_eq!(
        records[..4],
        [
            soa,
            "cluster.local. 5 NS ns.dns.cluster.local.",
            "ns.dns.cluster.local. 5 A 127.0.0.1",
            "dns-version.cluster.local. 28800 TXT \"1.1.0\"",
        ]
    );
    assert_eq!(records.last().unwrap(), soa);
    assert_eq!(records.iter().filter(|record| *record == soa).count(), 2);
    let services: Vec<&str> = records
        .iter()
        .filter_map(|record| {
            record
                .split_once(".svc.cluster.local.")?
                .0
                .rsplit('.')
                .nth(1)
        })
        .collect();
    assert!(services.len() > 100 && services.is_sorted(), "{services:?}");
}

#[test]
fn cases_237_to_241_services_have_the_records_of_their_ports_and_endpoints() {
    let records = axfr(&open_server(ZONES, ""), "cluster.local.");
    let of = |name: &str| at(&records, &format!("{name}.ns1.svc.cluster.local."));
    assert_eq!(
        of("web"),
        [
            "web.ns1.svc.cluster.local. 5 A 10.96.1.1",
            "web.ns1.svc.cluster.local. 5 SRV 0 100 80 web.ns1.svc.cluster.local.",
            "_http._tcp.web.ns1.svc.cluster.local. 5 SRV 0 100 80 web.ns1.svc.cluster.local.",
            "ep1a.web.ns1.svc.cluster.local. 5 A 10.244.1.1",
        ]
    );
    // A port without a number is no port 65535.
    assert_eq!(
        of("noports"),
        ["noports.ns1.svc.cluster.local. 5 A 10.96.1.6"]
    );
    assert_eq!(
        of("hlnullport"),
        [
            "hlnullport.ns1.svc.cluster.local. 5 A 10.244.1.50",
            "10-244-1-50.hlnullport.ns1.svc.cluster.local. 5 A 10.244.1.50",
        ]
    );
    assert_eq!(
        of("unnamed"),
        [
            "unnamed.ns1.svc.cluster.local. 5 A 10.96.1.5",
            "unnamed.ns1.svc.cluster.local. 5 SRV 0 100 8080 unnamed.ns1.svc.cluster.local.",
        ]
    );
    // Weights are those of queries: one share of 100 for each of the six endpoints, whatever slice they are in.
    let srv = of("hl")
        .into_iter()
        .filter(|record| record.contains(" SRV "));
    let srv: Vec<_> = srv.collect();
    assert_eq!(srv.len(), 5, "two endpoints share a host name: {srv:?}");
    assert!(
        srv.iter().all(|record| record.contains(" SRV 0 16 80 ")),
        "{srv:?}"
    );
    assert_eq!(
        of("hldup")
            .iter()
            .filter(|record| record.ends_with(" A 10.244.1.30"))
            .count(),
        2,
        "once at the Service's name, once at its own"
    );
}

#[test]
fn case_242_no_zone_starts_below_a_zone() {
    let server = open_server(ZONES, "");
    for name in ["ns1.svc.cluster.local.", "local.", "example.org.", "arpa."] {
        assert_eq!(
            rcode(&server.transfer(name, None, CLIENT)),
            "NOTAUTH",
            "{name}"
        );
    }
}

#[test]
fn case_243_reverse_zones_hold_reverse_names() {
    let server = open_server(ZONES, "");
    let records = axfr(&server, "in-addr.arpa.");
    assert!(
        records.contains(&"1.1.96.10.in-addr.arpa. 5 PTR web.ns1.svc.cluster.local.".to_owned()),
        "{records:?}"
    );
    let others = records.iter().filter(|record| !record.contains(" PTR "));
    assert_eq!(others.count(), 5, "SOA twice, NS, its address, the version");
    let records = axfr(&server, "ip6.arpa.");
    assert!(
        records
            .iter()
            .any(|record| record.ends_with(" PTR dual.ns1.svc.cluster.local."))
    );
}

/// CoreDNS leaves the cluster out of the names of endpoints, so that they lead nowhere.
#[test]
fn case_244_multicluster_zones_hold_imports() {
    let server = open_server(
        "cluster.local clusterset.local",
        "multicluster clusterset.local",
    );
    let records = axfr(&server, "clusterset.local");
    assert_eq!(
        at(&records, "mhl.ns1.svc.clusterset.local."),
        [
            "mhl.ns1.svc.clusterset.local. 5 A 10.30.1.1",
            "pod-0.c1.mhl.ns1.svc.clusterset.local. 5 A 10.30.1.1",
            "_http._tcp.mhl.ns1.svc.clusterset.local. 5 SRV 0 33 80 pod-0.c1.mhl.ns1.svc.clusterset.local.",
            "mhl.ns1.svc.clusterset.local. 5 A 10.30.1.2",
            "10-30-1-2.c1.mhl.ns1.svc.clusterset.local. 5 A 10.30.1.2",
            "_http._tcp.mhl.ns1.svc.clusterset.local. 5 SRV 0 33 80 10-30-1-2.c1.mhl.ns1.svc.clusterset.local.",
            "mhl.ns1.svc.clusterset.local. 5 A 10.30.2.1",
            "pod-0.c2.mhl.ns1.svc.clusterset.local. 5 A 10.30.2.1",
            "_http._tcp.mhl.ns1.svc.clusterset.local. 5 SRV 0 33 80 pod-0.c2.mhl.ns1.svc.clusterset.local.",
        ]
    );
    // Neither pending ones, nor those without ports, nor Services.
    for name in ["pending", "noports", "hl"] {
        let name = format!("{name}.ns1.svc.clusterset.local.");
        assert!(at(&records, &name).is_empty(), "{name}");
    }
    assert!(
        at(
            &axfr(&server, "cluster.local"),
            "mhl.ns1.svc.cluster.local."
        )
        .is_empty()
    );
    // After each start it is newer than before.
    let serial = serial(&server.transfer("clusterset.local", None, CLIENT));
    assert_ne!(serial, 0);
}

#[test]
fn case_166_hidden_namespaces_are_not_in_a_transfer() {
    let server = open_server(ZONES, "namespaces ns1");
    for zone in ["cluster.local.", "in-addr.arpa."] {
        let records = axfr(&server, zone);
        assert!(records.iter().any(|record| record.contains(".ns1.svc.")));
        assert!(!records.iter().any(|record| record.contains(".ns2.svc.")));
    }
}

#[test]
fn case_245_ixfr_gets_the_soa_alone_unless_it_is_older() {
    let server = open_server(ZONES, "");
    let all = axfr(&server, "cluster.local.");
    let ours = serial(&server.transfer("cluster.local.", None, CLIENT));
    let ixfr = |serial: u32| texts(&server.transfer("cluster.local.", Some(serial), CLIENT));
    assert_eq!(ixfr(ours), all[..1]);
    // RFC 1995, section 2: newer ones too, in the arithmetic of RFC 1982.
    assert_eq!(ixfr(ours.wrapping_add(1)), all[..1]);
    assert_eq!(ixfr(ours.wrapping_add((1 << 31) - 1)), all[..1]);
    for older in [0, 1, ours - 1, ours.wrapping_add(1 << 31)] {
        assert_eq!(ixfr(older), all, "{older}");
    }
}

#[test]
fn ixfr_without_an_soa_fails() {
    let server = open_server(ZONES, "");
    let mut query = transfer_query("cluster.local.", None);
    let at = query.len() - 3;
    query[at] = 251;
    assert_eq!(shown(&server.send(&query, Protocol::Tcp)).rcode, "SERVFAIL");
}

#[test]
fn transfers_are_refused_over_udp_and_without_the_plugin() {
    let server = open_server(ZONES, "");
    for query in [
        transfer_query("cluster.local.", None),
        transfer_query("cluster.local.", Some(1)),
    ] {
        assert_eq!(shown(&server.send(&query, Protocol::Udp)).rcode, "REFUSED");
    }
    let plain = self::server("", ZONES, "");
    assert_eq!(
        rcode(&plain.transfer("cluster.local.", None, CLIENT)),
        "REFUSED"
    );
}

#[test]
fn only_those_in_to_of_the_nearest_zone_get_a_transfer() {
    let transfer = "transfer {\nto *\n}\ntransfer local {\nto 192.0.2.7:5353 2001:db8::7\n}\ntransfer ster.local {\nto *\n}";
    let server = server(transfer, ZONES, "");
    assert!(axfr(&server, "cluster.local.").len() > 100);
    assert_eq!(
        rcode(&server.transfer("cluster.local.", None, [192, 0, 2, 8])),
        "REFUSED"
    );
    assert!(server.transfer("in-addr.arpa.", None, [192, 0, 2, 8])[0][3] & 15 == 0);
    // A stanza for other zones leaves this one to the next plugin.
    let elsewhere = self::server("transfer example.org {\nto *\n}", ZONES, "");
    assert_eq!(
        rcode(&elsewhere.transfer("cluster.local.", None, CLIENT)),
        "REFUSED"
    );
}

#[test]
fn a_signed_query_is_not_answered_unsigned() {
    let server = open_server(ZONES, "");
    let mut query = transfer_query("cluster.local.", None);
    query[11] = 1;
    query.extend_from_slice(&[1, b'k', 0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 21]);
    query.extend_from_slice(&[
        3, b'a', b'l', b'g', 0, 0, 0, 0, 0, 0, 1, 1, 44, 0, 0, 0, 9, 0, 0, 0, 0,
    ]);
    assert_eq!(shown(&server.send(&query, Protocol::Tcp)).rcode, "NOTAUTH");
}

/// The other half of `every_rrset_of_a_transfer_is_the_one_that_a_query_gets`, but for what names are answered with by
/// the way: addresses at a port's name, SRV where no port is named, Pods, and IPv4 addresses in `ip6.arpa`.
#[test]
fn what_the_cases_are_answered_with_is_in_the_transfer() {
    let server = open_server(ZONES, "");
    let zones = ZONES.split(' ').flat_map(|zone| axfr(&server, zone));
    let records: BTreeSet<String> = zones.map(|record| record.to_lowercase()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/cases");
    let text = std::fs::read_to_string(path).unwrap();
    let mut compared = 0;
    for line in text.lines().filter(|line| line.contains(": ok ")) {
        let mut words = line.split([' ', ':']).skip(1);
        let name = words.next().unwrap().to_lowercase();
        let name = name.replace(".x", ".svc.cluster.local");
        let kind = RecordType::from_mnemonic(words.next().unwrap()).unwrap();
        let is_named = name.split('.').count() <= 6 || kind == RecordType::PTR;
        let is_mapped = name.contains(".f.f.f.f.0.0.0.0.");
        if kind == RecordType::SRV || name.contains(".pod.") || is_mapped || !is_named {
            continue;
        }
        let reply = shown(&server.ask(&format!("{}.", name.trim_end_matches('.')), kind));
        for record in &reply.sections[0] {
            let record = record.to_lowercase();
            assert!(records.contains(&record), "{record} ({line})");
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared} records were compared");
}
