//! One question for each rule of `k8s_external`, asked of a small cluster: `k8s_external/cases` says what comes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/in_process.rs"]
mod in_process;

use std::path::Path;

use cases::Case;
use in_process::{Server, Shown};

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
    let (external, kubernetes) = block.split_once(" kubernetes ").unwrap();
    let braces = |text: &str| text.replace(['{', '}'], "\n").trim().to_owned();
    let (head, options) = external.split_once('{').unwrap();
    let (options, kubernetes) = (braces(options), braces(kubernetes));
    let manifests = path("cluster.yaml");
    Server::new(&format!(
        ". {{
            bind 127.0.0.1
            {HOSTS}
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
