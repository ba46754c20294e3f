//! Zone transfers of the real program to real secondaries, and to clients that mean no good.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fingerpost::wire::code::RecordType;
use fingerpost::wire::name::Name;
use fingerpost::wire::record::{Records, Section, expand_name};
use hickory_proto::rr::RecordType::A;
use program::{PATIENCE, Program, free_port, wait_until};
use tempfile::TempDir;

const ZONES: [&str; 2] = ["cluster.local.", "10.in-addr.arpa."];

/// A namespace with so many Services of each kind, and so many endpoints behind each headless one.
fn cluster(services: usize, endpoints: usize) -> String {
    let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n".to_owned();
    for service in 0..services {
        write!(text, "{}", cluster_ip(service)).unwrap();
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: set-{service}, namespace: shop}}\n\
             spec: {{clusterIP: None, ports: [{{name: http, port: 80, protocol: TCP}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: set-{service}-1, namespace: shop, labels: {{kubernetes.io/service-name: set-{service}}}}}\n\
             ports: [{{name: http, port: 80, protocol: TCP}}]\nendpoints:\n"
        )
        .unwrap();
        for endpoint in 0..endpoints {
            let number = service * endpoints + endpoint;
            let (high, low) = (number / 250, number % 250 + 1);
            let (a, b) = (high / 250, high % 250);
            writeln!(text, "- {{addresses: [10.{}.{b}.{low}]}}", 128 + a).unwrap();
        }
        text.push_str("---\n");
    }
    text
}

fn cluster_ip(service: usize) -> String {
    let (high, low) = (service / 250, service % 250 + 1);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web-{service}, namespace: shop}}\n\
         spec: {{type: ClusterIP, clusterIP: 10.96.{high}.{low}, clusterIPs: [10.96.{high}.{low}], \
         ports: [{{name: http, port: 80, protocol: TCP}}]}}\n---\n"
    )
}

/// The program with such a cluster, in `objects/` of its folder.
fn primary(transfer: &str, objects: &str) -> Program {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("objects")).unwrap();
    std::fs::write(folder.path().join("objects/all.yaml"), objects).unwrap();
    let manifests = folder.path().join("objects");
    let corefile = format!(
        ".:PORT {{\nbind 127.0.0.1\nerrors\ntransfer {{\n{transfer}\n}}\n\
         kubernetes cluster.local 10.in-addr.arpa {{\nmanifests {}\n}}\n}}\n",
        manifests.display()
    );
    Program::start_in(folder, &corefile, None)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask_for(stream: &mut TcpStream, zone: &str) {
    let name = Name::from_text(zone).unwrap();
    let mut query = vec![0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(name.as_ref().as_wire());
    query.extend_from_slice(&[0, 252, 0, 1]);
    let length = u16::try_from(query.len()).unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(&query).unwrap();
}

fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

/// One record, names in full and in lower case.
type Record = (String, RecordType, u32, Vec<u8>);

fn records_of(message: &[u8]) -> Vec<Record> {
    let records = Records::of_message(message).unwrap().map(Result::unwrap);
    let answers = records.filter(|(section, _)| *section == Section::Answer);
    let record = |record: fingerpost::wire::record::RecordRef<'_>| {
        let mut rdata = record.rdata().to_vec();
        let first_name = match record.record_type {
            RecordType::NS | RecordType::CNAME | RecordType::PTR | RecordType::SOA => Some(0),
            RecordType::SRV => Some(6),
            _ => None,
        };
        if let Some(offset) = first_name {
            rdata.truncate(offset);
            let (name, mut next) = expand_name(message, record.rdata_at + offset).unwrap();
            rdata.extend_from_slice(name.as_ref().as_wire());
            if record.record_type == RecordType::SOA {
                let (name, end) = expand_name(message, next).unwrap();
                rdata.extend_from_slice(name.as_ref().as_wire());
                next = end;
            }
            rdata.extend_from_slice(&message[next..record.end]);
        }
        let owner = record.owner().as_ref().to_string().to_lowercase();
        (owner, record.record_type, record.ttl, rdata)
    };
    answers.map(|(_, found)| record(found)).collect()
}

/// A whole zone from a server, and in how many messages it came; none if it is refused.
fn axfr(port: u16, zone: &str) -> Option<(BTreeSet<Record>, usize)> {
    let mut stream = connect(port);
    ask_for(&mut stream, zone);
    let (mut records, mut messages, mut ends) = (BTreeSet::new(), 0, 0);
    while ends < 2 {
        let message = read_message(&mut stream);
        if message[3] & 15 != 0 {
            return None;
        }
        messages += 1;
        for record in records_of(&message) {
            if record.1 == RecordType::SOA {
                ends += 1;
            } else {
                assert!(records.insert(record.clone()), "{record:?} comes twice");
                continue;
            }
            records.insert(record);
        }
    }
    Some((records, messages))
}

/// Knot DNS as a secondary of both zones, stopped on drop.
struct Knot {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Knot {
    /// None where it is not installed: `cargo xtask test` provides it.
    fn start(primary: u16, port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let mut conf = format!(
            "server:\n  listen: 127.0.0.1@{port}\n  rundir: {path}\n  background-workers: 2\n\
             database:\n  storage: {path}\n  journal-db-max-size: 16M\n\
             log:\n- target: {path}/log\n  any: info\n\
             remote:\n- id: primary\n  address: 127.0.0.1@{primary}\n\
             acl:\n- id: all\n  address: 127.0.0.1\n  action: [notify, transfer]\n\
             template:\n- id: default\n  storage: {path}\n  zonefile-sync: -1\n  zonefile-load: none\n  journal-content: none\n\
             zone:\n"
        );
        for zone in ZONES {
            writeln!(conf, "- domain: {zone}\n  master: primary\n  acl: all").unwrap();
        }
        std::fs::write(folder.path().join("conf"), conf).unwrap();
        let child = Command::new("knotd")
            .arg("-c")
            .arg(folder.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("skipped: no knotd");
            return None;
        };
        Some(Self {
            child,
            port,
            folder,
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Longer than others wait: changes are told every 10 s at most.
    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + 3 * PATIENCE;
        while !holds() {
            let log = self.log();
            assert!(Instant::now() < end, "waited in vain for {what}:\n{log}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn has(&self, name: &str) -> bool {
        // While it starts, nobody listens.
        let reply = program::try_ask(self.port, name, A);
        reply.is_some_and(|reply| !program::answers(&reply).is_empty())
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_secondary_follows_the_cluster_by_notify_and_holds_what_we_hold() {
    let port = free_port();
    let primary = primary(
        &format!("to 127.0.0.1:{port}\nsource 127.0.0.1"),
        &cluster(20, 150),
    );
    let Some(knot) = Knot::start(primary.port, port) else {
        return;
    };
    let first = "web-1.shop.svc.cluster.local.";
    knot.wait_for("the first transfer", || knot.has(first));
    // A change, and Knot learns of it long before its refresh time of two hours.
    let added = primary.folder.path().join("objects/added.yaml");
    std::fs::write(added, cluster_ip(900)).unwrap();
    let name = "web-900.shop.svc.cluster.local.";
    knot.wait_for("the change", || knot.has(name));
    for zone in ZONES {
        let ours = || axfr(primary.port, zone).unwrap().0;
        knot.wait_for("the same zone", || {
            axfr(knot.port, zone).is_some_and(|(theirs, _)| theirs == ours())
        });
        assert!(ours().len() > 3000, "{}", ours().len());
    }
    let log = knot.log();
    assert!(log.contains("AXFR, incoming"), "{log}");
    assert!(!log.contains("semantic"), "{log}");
}

#[test]
fn a_large_zone_comes_in_many_messages_that_other_clients_read() {
    let primary = primary("to *", &cluster(50, 150));
    let (records, messages) = axfr(primary.port, "cluster.local.").unwrap();
    assert!(messages > 5, "{messages}");
    // Two Services with two SRV each; three records an endpoint; SOA, NS, ns.dns, dns-version.
    assert_eq!(records.len(), 50 * 3 + 50 * 150 * 3 + 4);
    primary.wait_for_output(
        "Outgoing transfer of 22655 records of zone \"cluster.local.\"",
        1,
    );
    for program in ["dig", "kdig"] {
        let output = Command::new(program)
            .args([
                "@127.0.0.1",
                "-p",
                &primary.port.to_string(),
                "+noall",
                "+answer",
            ])
            .args(["cluster.local", "AXFR"])
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: no {program}");
            continue;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.contains("cluster.local."));
        let answers = lines.filter(|line| !line.starts_with(';'));
        assert_eq!(answers.count(), records.len() + 1, "{program}");
    }
}

#[test]
fn clients_that_do_not_read_or_go_away_hold_nobody_up() {
    // Some 20 MB for each: far more than the kernels take for those who do not read.
    let primary = primary("to *", &cluster(250, 250));
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(primary.port);
            ask_for(&mut stream, "cluster.local.");
            let first = read_message(&mut stream);
            assert_eq!(first[3] & 15, 0);
            stream
        })
        .collect();
    // Queries go on, and what is made for them all is two messages each.
    assert_eq!(
        primary.ask("web-1.shop.svc.cluster.local.", A),
        ["10.96.0.2"]
    );
    assert!(resident(&primary) < 200_000, "{} kB", resident(&primary));
    // Half of them go away; the others are cut off when they have taken nothing for a while.
    drop(slow.into_iter().step_by(2).collect::<Vec<_>>());
    wait_until("a seat", || {
        axfr(primary.port, "10.in-addr.arpa.").is_some()
    });
    primary.wait_for_output("ended after", 8);
}

/// Kilobytes that the program holds.
fn resident(primary: &Program) -> u64 {
    let status = std::fs::read_to_string(
        Path::new("/proc")
            .join(primary.id().to_string())
            .join("status"),
    );
    let status = status.unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
