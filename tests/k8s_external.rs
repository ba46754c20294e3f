//! One question for each rule of `k8s_external`, asked of a small cluster: `k8s_external/cases` says what comes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/in_process.rs"]
mod in_process;

use std::collections::BTreeMap;
use std::path::Path;

use cases::Case;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::record::{Records, Section};
use in_process::{Server, Shown, record_text, shown};

/// Where the load balancers' names lead.
const HOSTS: &str = "hosts /dev/null {
    192.0.2.80 target.example.com
    2001:db8::80 target.example.com
    192.0.2.81 lb.example.com
    ttl 60
    no_reverse
    fallthrough
}";

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/k8s_external")
        .join(name)
        .display()
        .to_string()
}

/// A server of `k8s_external ZONES { OPTIONS } kubernetes { OPTIONS }`.
fn server(block: &str) -> Server {
    server_with("", block)
}

fn server_with(more: &str, block: &str) -> Server {
    let (external, kubernetes) = block.split_once(" kubernetes ").unwrap();
    let braces = |text: &str| text.replace(['{', '}'], "\n").trim().to_owned();
    let (head, options) = external.split_once('{').unwrap();
    let (options, kubernetes) = (braces(options), braces(kubernetes));
    let manifests = path("cluster.yaml");
    Server::new(&format!(
        ". {{
            bind 127.0.0.1
            {HOSTS}
            {more}
            {head} {{
                {options}
            }}
            kubernetes cluster.local {{
                manifests {manifests}
                {kubernetes}
            }}
        }}\n"
    ))
}

/// A name of the file with its final dot.
fn name(text: &str) -> String {
    match text {
        "." => text.to_owned(),
        "E" => "ext.test.".to_owned(),
        _ => text
            .strip_suffix(".E")
            .map_or(format!("{text}."), |head| format!("{head}.ext.test.")),
    }
}

/// The zone that QNAME lies in, the longest first.
fn zone_of(qname: &str, block: &str) -> String {
    let head = block.split_once('{').unwrap().0;
    let zones = head.split_whitespace().skip(1).map(name);
    let qname = qname.to_ascii_lowercase();
    let mut zones: Vec<String> = zones
        .filter(|zone| qname.ends_with(zone.as_str()))
        .collect();
    zones.sort_by_key(String::len);
    zones.pop().unwrap()
}

fn expected(case: &Case<'_>, block: &str) -> Shown {
    let (kind, rest) = case.outcome.split_once(' ').unwrap_or((case.outcome, ""));
    let (rcode, aa) = match kind {
        "ok" | "nodata" => ("NOERROR", true),
        "nxdomain" => ("NXDOMAIN", true),
        "next" => ("SERVFAIL", false),
        "refused" => ("REFUSED", false),
        other => panic!("`{other}` is no outcome"),
    };
    let mut sections: [Vec<String>; 3] = Default::default();
    if kind == "ok" {
        sections = cases::sections(rest, case.qname, "5", &name);
    } else if aa {
        let zone = zone_of(case.qname, block);
        let (mut ttl, mut apex) = ("5", "dns");
        for word in rest.split_whitespace() {
            match word.strip_prefix('@') {
                Some(seconds) => ttl = seconds,
                None => apex = word,
            }
        }
        let below = if zone == "." { "" } else { &zone };
        sections[1].push(format!(
            "{zone} {ttl} SOA ns1.{apex}.{below} hostmaster.{apex}.{below} SERIAL 7200 1800 86400 {ttl}"
        ));
    }
    Shown {
        rcode: rcode.to_owned(),
        flags: [aa, false, true],
        sections,
    }
}

#[test]
fn every_rule_answers_as_its_case_says() {
    let cases = std::fs::read_to_string(path("cases")).unwrap();
    let asked = cases::run(&cases, server, name, expected);
    assert!(asked > 120, "{asked} cases were read");
}

/// All records of a zone but its SOA, by owner and type.
fn copy(server: &Server, zone: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut records = Vec::new();
    for message in server.transfer(zone, None, [192, 0, 2, 7]) {
        assert_eq!(
            (message[3] & 15, message[2] & 0x86),
            (0, 0x84),
            "NOERROR, AA"
        );
        let found = Records::of_message(&message).unwrap().map(Result::unwrap);
        let answers = found.filter(|(section, _)| *section == Section::Answer);
        records.extend(answers.map(|(_, record)| record_text(&message, &record)));
    }
    assert_eq!(records.pop().as_ref(), records.first(), "the SOA ends it");
    let mut rrsets: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for record in records.into_iter().skip(1) {
        let words: Vec<&str> = record.split(' ').collect();
        let key = (words[0].to_owned(), words[2].to_owned());
        rrsets.entry(key).or_default().push(record);
    }
    rrsets
}

#[test]
fn every_rrset_of_a_copied_zone_is_the_one_that_a_query_gets() {
    for block in [
        "k8s_external ext.test in-addr.arpa ip6.arpa { ttl 42 } kubernetes { }",
        "k8s_external ext.test { headless } kubernetes { }",
        "k8s_external ext.test ns1.ext.test 113.0.203.in-addr.arpa in-addr.arpa { headless } kubernetes { }",
        "k8s_external ext.test in-addr.arpa { apex ns1 } kubernetes { namespaces ns2 }",
        "k8s_external . { } kubernetes { noendpoints }",
    ] {
        let server = server_with("transfer {\nto *\n}", block);
        let zones = block.split('{').next().unwrap().split_whitespace().skip(1);
        for zone in zones {
            let rrsets = copy(&server, &name(zone));
            assert!(!rrsets.is_empty(), "{zone} of {block}");
            for ((owner, kind), mut records) in rrsets {
                records.sort();
                let kind = RecordType::from_mnemonic(&kind).unwrap();
                let queried = &shown(&server.ask(&owner, kind)).sections[0];
                assert_eq!(&records, queried, "{owner} {kind} in {zone}, {block}");
            }
        }
    }
}

/// Case 221, and what crashed CoreDNS before 1.14.5: a headless Service without ports (GHSA-74w3-63xv-x9mv).
#[test]
fn case_221_nothing_stands_beside_an_alias_and_targets_are_whole() {
    let block = "k8s_external ext.test { headless } kubernetes { }";
    let rrsets = copy(&server_with("transfer {\nto *\n}", block), "ext.test.");
    let aliases = rrsets.keys().filter(|(_, kind)| kind == "CNAME");
    for (alias, _) in aliases.clone() {
        let kinds = rrsets.keys().filter(|(owner, _)| owner == alias);
        assert_eq!(kinds.count(), 1, "{alias}");
        assert_eq!(rrsets[&(alias.clone(), "CNAME".into())].len(), 1, "{alias}");
    }
    assert_eq!(aliases.count(), 6);
    let at = |owner: &str, kind: &str| -> Vec<&str> {
        let records = rrsets.get(&(name(owner), kind.to_owned()));
        records.into_iter().flatten().map(String::as_str).collect()
    };
    assert_eq!(
        at("_http._tcp.lbhost.ns1.E", "SRV"),
        ["_http._tcp.lbhost.ns1.ext.test. 5 SRV 0 100 80 lb.example.com."]
    );
    assert_eq!(at("lb2.ns1.E", "SRV").len(), 2);
    assert_eq!(at("hlnoport.ns1.E", "A").len(), 1);
    assert!(at("hlnoport.ns1.E", "SRV").is_empty());
    assert!(at("web.ns1.E", "A").is_empty());
}

#[test]
fn no_zone_starts_below_an_external_zone() {
    let block = "k8s_external ext.test { } kubernetes { }";
    let server = server_with("transfer {\nto *\n}", block);
    for zone in ["ns1.ext.test.", "test."] {
        let messages = server.transfer(zone, None, [192, 0, 2, 7]);
        assert_eq!(shown(&messages[0]).rcode, "NOTAUTH", "{zone}");
    }
}
