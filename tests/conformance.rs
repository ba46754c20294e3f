//! CoreDNS' answers about a cluster, asked again in process: RCODE, flags and every record must be the same.
//!
//! SOA serials, the order of records and OPT are not compared. One deviation is accepted: a TXT question at an empty
//! non-terminal is NODATA, where CoreDNS denies the name (RFC 8020, section 2).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::Chain;
use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::corefile::parser;
use fingerpost::plugin::configure::configure;
use fingerpost::server::assembly::{Assembly, Plan};
use fingerpost::server::process::Process;
use fingerpost::telemetry::metrics::ServerMetrics;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::name::Name;
use fingerpost::wire::record::{RecordRef, Records, Section, expand_name};
use fingerpost::wire::{u16_at, u32_at};
use fingerpost::zone::Zones;
use fingerpost::zone::block::ServerBlock;

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

/// A server of one Corefile, without sockets.
struct Server {
    zones: Arc<Zones>,
    _plan: Plan,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn new(corefile: &str) -> Self {
        let (corefile, mut faults) = parser::parse(Path::new("Corefile"), corefile.as_bytes());
        let blocks = configure(&corefile, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let mut plan = Plan::default();
        let server: Arc<str> = "dns://:53".into();
        let mut served = Vec::new();
        for block in &blocks {
            let mut links = Vec::new();
            for (_, config) in &block.plugins {
                let mut assembly = Assembly {
                    process: &process,
                    keys: &block.keys,
                    server: &server,
                    root: Path::new(""),
                    fingerprint_below: 0,
                    generation: &mut plan,
                };
                links.extend(config.build(&mut assembly).unwrap());
            }
            served.push(Arc::new(ServerBlock {
                origin: block.keys[0].zone.clone(),
                server: Arc::clone(&server),
                chain: Chain::new(links),
                serves_chaos: false,
            }));
        }
        for task in plan.before_serving.drain(..) {
            runtime.block_on(task).unwrap();
        }
        let metrics = Arc::new(ServerMetrics::new(&process.metrics, &server));
        Self {
            zones: Arc::new(Zones::new(served, metrics)),
            _plan: plan,
            _runtime: runtime,
        }
    }

    /// Asks as dnspython does: EDNS with 4096 octets, over TCP where UDP is cut.
    fn ask(&self, qname: &str, qtype: RecordType) -> Vec<u8> {
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
        message.extend_from_slice(&qtype.0.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        let udp = self.send(&message, Protocol::Udp);
        if udp[2] & 0x02 == 0 {
            udp
        } else {
            self.send(&message, Protocol::Tcp)
        }
    }

    fn send(&self, message: &[u8], protocol: Protocol) -> Vec<u8> {
        let arrival = Arrival {
            client: ([127, 0, 0, 1], 40212).into(),
            local: ([127, 0, 0, 1], 53).into(),
            protocol,
            received: Instant::now(),
            alias_depth: 0,
        };
        let mut out = Vec::new();
        match self.zones.answer(message, arrival, &mut out) {
            Outcome::Reply => out,
            Outcome::Deferred(_) | Outcome::Drop => panic!("every answer is in memory"),
        }
    }
}

/// What is compared of a reply.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    rcode: String,
    /// AA, RA, RD.
    flags: [bool; 3],
    /// Answer, authority, additional, each sorted.
    sections: [Vec<String>; 3],
}

fn shown(reply: &[u8]) -> Shown {
    let mut sections: [Vec<String>; 3] = Default::default();
    for (section, record) in Records::of_message(reply).unwrap().map(Result::unwrap) {
        if record.record_type != RecordType::OPT {
            let index = [Section::Answer, Section::Authority, Section::Additional]
                .iter()
                .position(|&s| s == section);
            sections[index.unwrap()].push(record_text(reply, &record));
        }
    }
    sections.iter_mut().for_each(|section| section.sort());
    Shown {
        rcode: Rcode(u16::from(reply[3] & 15)).to_string(),
        flags: [reply[2] & 4 != 0, reply[3] & 0x80 != 0, reply[2] & 1 != 0],
        sections,
    }
}

fn record_text(reply: &[u8], record: &RecordRef<'_>) -> String {
    let at = record.rdata_at;
    let name = |at: usize| expand_name(reply, at).unwrap();
    let rdata = match record.record_type {
        RecordType::A => Ipv4Addr::from(<[u8; 4]>::try_from(record.rdata()).unwrap()).to_string(),
        RecordType::AAAA => {
            Ipv6Addr::from(<[u8; 16]>::try_from(record.rdata()).unwrap()).to_string()
        }
        RecordType::SRV => {
            let number = |offset| u16_at(reply, at + offset).unwrap();
            format!(
                "{} {} {} {:?}",
                number(0),
                number(2),
                number(4),
                name(at + 6).0
            )
        }
        RecordType::SOA => {
            let (mname, next) = name(at);
            let (rname, next) = name(next);
            let number = |offset| u32_at(reply, next + offset).unwrap();
            let rest = [4, 8, 12, 16]
                .map(|offset| number(offset).to_string())
                .join(" ");
            format!("{mname:?} {rname:?} SERIAL {rest}")
        }
        RecordType::TXT => format!("{:?}", String::from_utf8_lossy(&record.rdata()[1..])),
        _ => format!("{:?}", name(at).0),
    };
    format!(
        "{:?} {} {} {rdata}",
        record.owner(),
        record.ttl,
        record.record_type
    )
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
