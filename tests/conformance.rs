//! CoreDNS' answers about a cluster, asked again in process: RCODE, flags and every record must be the same.
//!
//! SOA serials, the order of records and OPT are not compared. One deviation is accepted: a TXT question at an empty
//! non-terminal is NODATA, where CoreDNS denies the name (RFC 8020, section 2).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/in_process.rs"]
mod in_process;

use std::path::{Path, PathBuf};

use fingerpost::wire::code::RecordType;
use in_process::{Server, Shown, shown};

/// The vectors lie beside the project; a copy without them has nothing to compare with.
fn vectors() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/kubernetes");
    let folder = std::env::var_os("CONFORMANCE").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no vectors in {}", folder.display());
    None
}

fn expected(line: &serde_json::Value) -> Shown {
    let section = |key: &str| {
        let mut records: Vec<String> = line[key]
            .as_array()
            .unwrap()
            .iter()
            .map(without_serial)
            .collect();
        records.sort();
        records
    };
    let flag = |key: &str| line[key].as_bool().unwrap();
    Shown {
        rcode: line["rcode"].as_str().unwrap().to_owned(),
        flags: [flag("aa"), flag("ra"), flag("rd")],
        sections: [section("an"), section("ns"), section("ar")],
    }
}

fn without_serial(record: &serde_json::Value) -> String {
    let mut words: Vec<&str> = record.as_str().unwrap().split(' ').collect();
    if words[2] == "SOA" {
        words[5] = "SERIAL";
    }
    words.join(" ")
}

fn is_accepted(qtype: RecordType, expected: &Shown, got: &Shown) -> bool {
    qtype == RecordType::TXT
        && expected.rcode == "NXDOMAIN"
        && got.rcode == "NOERROR"
        && got.sections[0].is_empty()
        && got.sections[1] == expected.sections[1]
}

fn compare(case: &str) {
    let Some(vectors) = vectors() else {
        return;
    };
    let corefile = std::fs::read_to_string(vectors.join(case).join("Corefile")).unwrap();
    let manifests = format!("manifests {}", vectors.join("cluster.json").display());
    let corefile = corefile
        .replace("kubeconfig {$KUBECONFIG}", &manifests)
        .replace("{$DNS_PORT}", "53");
    let server = Server::new(&corefile);
    let (mut asked, mut different) = (0, Vec::new());
    for line in std::fs::read_to_string(vectors.join(case).join("expected.jsonl"))
        .unwrap()
        .lines()
    {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (qname, text) = (line["q"].as_str().unwrap(), line["t"].as_str().unwrap());
        let qtype = RecordType::from_mnemonic(text).unwrap();
        let (expected, got) = (expected(&line), shown(&server.ask(qname, qtype)));
        asked += 1;
        if expected != got && !is_accepted(qtype, &expected, &got) {
            different.push(format!(
                "{qname} {text}\n  expected {expected:?}\n  got      {got:?}"
            ));
        }
    }
    assert!(asked > 0, "the vectors of {case} are empty");
    let shown = different
        .iter()
        .take(10)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        different.is_empty(),
        "{} of {asked} answers differ:\n{shown}",
        different.len()
    );
}

#[test]
fn the_answers_of_a_usual_corefile_are_those_of_coredns() {
    compare("default");
}

#[test]
fn the_answers_without_fallthrough_and_pods_are_those_of_coredns() {
    compare("bare");
}

#[test]
fn the_answers_without_endpoints_are_those_of_coredns() {
    compare("noendpoints");
}

#[test]
fn the_answers_with_verified_pods_are_those_of_coredns() {
    compare("verified");
}

#[test]
fn the_answers_with_hidden_namespaces_are_those_of_coredns() {
    compare("namespaces");
}

#[test]
fn the_answers_without_empty_services_are_those_of_coredns() {
    compare("ignore-empty");
}

#[test]
fn the_answers_with_selected_objects_are_those_of_coredns() {
    compare("labels");
}

#[test]
fn the_answers_with_selected_namespaces_are_those_of_coredns() {
    compare("namespace-labels");
}
