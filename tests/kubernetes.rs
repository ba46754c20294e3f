//! One question for each rule of `kubernetes`, asked of a small cluster: `kubernetes/cases` says what comes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/in_process.rs"]
mod in_process;

use std::path::Path;

use cases::Case;
use in_process::{Server, Shown};

/// The names behind the cluster's aliases.
const HOSTS: &str = "hosts /dev/null {
    192.0.2.80 target.example.com
    2001:db8::80 target.example.com
    ttl 60
    no_reverse
    fallthrough
}";

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kubernetes")
        .join(name)
        .display()
        .to_string()
}

/// A server of one `kubernetes` line: `kubernetes ZONES { OPTION; OPTION }`, with other lines before it, parted by `;`.
fn server(lines: &str) -> Server {
    let (head, options) = lines.split_once('{').unwrap();
    let (others, head) = head.rsplit_once("; ").unwrap_or(("", head));
    let others = others.replace("; ", "\n");
    let options = options.trim_end_matches('}').trim().replace("; ", "\n");
    let manifests = path("cluster.yaml");
    Server::new(&format!(
        ". {{\n{HOSTS}\n{others}\n{head} {{\nmanifests {manifests}\n{options}\n}}\n}}\n"
    ))
}

/// A name of the file with its final dot.
fn name(text: &str) -> String {
    match text {
        "." => text.to_owned(),
        _ => format!(
            "{}.",
            text.strip_suffix(".X")
                .map_or(text.to_owned(), |head| format!("{head}.svc.cluster.local"))
        ),
    }
}

/// The SOA that denies, given the zone as the client spelled it, its TTL and minimum.
fn soa(zone: &str, ttl: &str, minimum: &str) -> String {
    let below = if zone == "." { "" } else { zone };
    format!("{zone} {ttl} SOA ns.dns.{below} hostmaster.{below} SERIAL 7200 1800 86400 {minimum}")
}

/// The part of QNAME that is one of the zones.
fn zone_of(qname: &str, directive: &str) -> String {
    let (head, _) = directive.split_once('{').unwrap();
    let (_, head) = head.rsplit_once("; ").unwrap_or(("", head));
    let zones = head.split_whitespace().skip(1);
    let zone = zones
        .map(name)
        .find(|zone| qname.to_ascii_lowercase().ends_with(zone.as_str()))
        .unwrap();
    qname[qname.len() - zone.len()..].to_owned()
}

fn expected(case: &Case<'_>, directive: &str) -> Shown {
    let (kind, rest) = case.outcome.split_once(' ').unwrap_or((case.outcome, ""));
    let mut denial: Vec<&str> = rest
        .split_whitespace()
        .map(|word| word.trim_start_matches('@'))
        .collect();
    if denial.len() != 2 {
        denial = vec!["5", "5"];
    }
    let (rcode, aa) = match kind {
        "ok" | "nodata" => ("NOERROR", true),
        "nxdomain" => ("NXDOMAIN", true),
        "servfail" => ("SERVFAIL", true),
        "next" => ("SERVFAIL", false),
        "refused" => ("REFUSED", false),
        other => panic!("`{other}` is no outcome"),
    };
    let mut sections: [Vec<String>; 3] = Default::default();
    if kind == "ok" {
        sections = cases::sections(rest, case.qname, "5", &name);
    } else if aa {
        let zone = zone_of(case.qname, directive);
        sections[1].push(soa(&zone, denial[0], denial[1]));
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
    assert!(asked > 200, "{asked} cases were read");
}
