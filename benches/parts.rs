//! What the parts of one answer cost, each by itself: reading a query, finding the server block, walking the chain,
//! looking a Service up, writing a reply; and reading a Corefile. `answers` measures them together.
//!
//! `cargo bench --bench parts [FILTER [ROUNDS]]` prints nanoseconds a round; under `valgrind --tool=callgrind` a filter
//! and a fixed number of rounds give instruction counts that repeat.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and prints"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::cluster::objects::{Meta, Object, Port, Resource, Service, ServiceKind};
use fingerpost::cluster::{Cluster, Keep, ObjectSink};
use fingerpost::corefile::parser;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::loader::Reading;
use fingerpost::server::process::Process;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::name::{Name, NameBuf};
use fingerpost::wire::query::Query;
use fingerpost::wire::record::Section;
use fingerpost::wire::writer::{Owner, ReplyWriter};
use fingerpost::zone::Zones;

const ROUNDS_DEFAULT: usize = 500_000;

/// Octets of a reply over UDP without EDNS.
const LIMIT: usize = 512;

const QNAME: &str = "svc-1234.ns-34.svc.cluster.local.";

struct Bench {
    filter: String,
    rounds: usize,
}

fn main() {
    // Cargo hands over `--bench`.
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let bench = Bench {
        filter: args.next().unwrap_or_default(),
        rounds: args
            .next()
            .map_or(ROUNDS_DEFAULT, |rounds| rounds.parse().unwrap()),
    };
    bench.parsing();
    bench.writing();
    for services in [100, 10_000, 100_000] {
        bench.lookups(services);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for blocks in [1, 10, 50] {
        bench.blocks(blocks, &runtime);
    }
    bench.chains(&runtime);
    bench.corefiles();
}

impl Bench {
    fn measure(&self, name: &str, rounds: usize, mut work: impl FnMut(usize)) {
        if !name.contains(&self.filter) {
            return;
        }
        let rounds = rounds.max(1);
        (0..rounds / 10).for_each(&mut work);
        let start = Instant::now();
        (0..rounds).for_each(&mut work);
        let each = start.elapsed().as_nanos() as f64 / rounds as f64;
        println!("{name:<45} {each:>9.1} ns");
    }

    fn parsing(&self) {
        let plain = query(QNAME, RecordType::A, false);
        self.measure("parse a query", self.rounds, |_| {
            black_box(Query::parse(black_box(&plain)).unwrap());
        });
        let with_edns = query(QNAME, RecordType::A, true);
        self.measure("parse a query with EDNS", self.rounds, |_| {
            black_box(Query::parse(black_box(&with_edns)).unwrap());
        });
        let parsed = Query::parse(&plain).unwrap();
        self.measure("copy its name in lower case", self.rounds, |_| {
            black_box(NameBuf::lower_of(black_box(parsed.qname())));
        });
    }

    fn writing(&self) {
        let octets = query(QNAME, RecordType::A, false);
        let query = Query::parse(&octets).unwrap();
        let mut out = Vec::with_capacity(4096);
        let address = Ipv4Addr::new(10, 96, 1, 2);
        for count in [1, 10] {
            let name = format!("write {count} A");
            self.measure(&name, self.rounds, |_| {
                let mut reply = ReplyWriter::new(black_box(&query), &mut out);
                for _ in 0..count {
                    reply.a(Owner::Question, 30, black_box(address));
                }
                reply.finish(&query, LIMIT, None);
            });
        }
        let target = Name::from_text(QNAME).unwrap();
        self.measure("write SRV with glue", self.rounds, |_| {
            let mut reply = ReplyWriter::new(black_box(&query), &mut out);
            reply.srv(Owner::Question, 30, 0, 100, 80, target.as_ref());
            reply.go_to(Section::Additional);
            reply.a(Owner::Name(target.as_ref()), 30, black_box(address));
            reply.finish(&query, LIMIT, None);
        });
    }

    /// Names in an order that no cache of the processor knows.
    fn lookups(&self, services: usize) {
        let name = format!("look up one of {services} Services");
        if !name.contains(&self.filter) {
            return;
        }
        let cluster = Cluster::new(&[Resource::Services], Keep::default());
        (0..services).for_each(|at| cluster.applied(service(at)));
        let keys: Vec<Vec<u8>> = (0..services)
            .map(|at| {
                let labels = format!("svc-{at}.ns-{}.", at % 20);
                let wire = Name::from_text(&labels).unwrap();
                let wire = wire.as_ref().as_wire();
                wire[..wire.len() - 1].to_vec()
            })
            .collect();
        self.measure(&name, self.rounds, |round| {
            let key = &keys[round.wrapping_mul(2_654_435_761) % services];
            let view = cluster.table.service(black_box(key)).unwrap();
            black_box(&**view);
        });
    }

    fn blocks(&self, count: usize, runtime: &tokio::runtime::Runtime) {
        let name = format!("find one of {count} server blocks");
        if !name.contains(&self.filter) {
            return;
        }
        let mut corefile = "cluster.local:1053 {\n whoami\n}\n".to_owned();
        for at in 1..count {
            write!(corefile, "zone-{at}.example:1053 {{\n whoami\n}}\n").unwrap();
        }
        let (_generation, zones) = serve(&corefile, runtime);
        let octets = query(QNAME, RecordType::A, false);
        let qname = NameBuf::lower_of(Query::parse(&octets).unwrap().qname());
        self.measure(&name, self.rounds, |_| {
            black_box(zones.find(black_box(&qname), RecordType::A).unwrap());
        });
    }

    /// The difference is the walk down and up again.
    fn chains(&self, runtime: &tokio::runtime::Runtime) {
        let above = "errors\n prometheus :0\n cache 30 other.example\n loadbalance\n any\n hosts {\n  192.0.2.1 a.example\n  \
                     fallthrough\n }\n";
        for (name, above) in [
            ("answer: whoami alone", ""),
            ("answer: whoami below six that pass", above),
        ] {
            if !name.contains(&self.filter) {
                continue;
            }
            let corefile = format!(".:1053 {{\n {above} whoami\n}}\n");
            let (_generation, zones) = serve(&corefile, runtime);
            let octets = query(QNAME, RecordType::A, false);
            let mut out = Vec::with_capacity(4096);
            self.measure(name, self.rounds, |_| {
                let outcome = zones.answer(black_box(&octets), arrival(), &mut out);
                assert!(matches!(outcome, Outcome::Reply));
            });
        }
    }

    fn corefiles(&self) {
        let mut blocks = String::new();
        for at in 0..50 {
            writeln!(
                blocks,
                "zone-{at}.example:1053 {{\n errors\n cache 30\n forward . 192.0.2.1\n}}"
            )
            .unwrap();
        }
        for (name, text) in [
            (
                "parse a Corefile of one server block",
                ".:1053 {\n errors\n cache 30\n forward . 192.0.2.1\n}\n",
            ),
            ("parse a Corefile of 50 server blocks", &blocks),
        ] {
            self.measure(name, self.rounds / 1000, |_| {
                black_box(parser::parse(
                    Path::new("Corefile"),
                    black_box(text.as_bytes()),
                ));
            });
        }
    }
}

fn service(at: usize) -> Object {
    let address = Ipv4Addr::from_bits(0x0a61_0000 + u32::try_from(at).unwrap());
    Object::Service(Service {
        meta: Meta {
            namespace: format!("ns-{}", at % 20).into(),
            name: format!("svc-{at}").into(),
            resource_version: "1".into(),
        },
        kind: ServiceKind::ClusterIp(vec![IpAddr::V4(address)]),
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: Some(80),
        }],
        external: Vec::new(),
    })
}

fn serve(corefile: &str, runtime: &tokio::runtime::Runtime) -> (Generation, Arc<Zones>) {
    let process = Process::new(runtime.handle().clone());
    let reading = Reading::of(Path::new("Corefile"), corefile.as_bytes(), 1053);
    assert_eq!(
        reading.refusal(fingerpost::corefile::render::Color::Never),
        None
    );
    let generation =
        Generation::build(&reading.blocks, ServeDefaults { port: 1053 }, &process).unwrap();
    let zones = Arc::clone(generation.zones.values().next().unwrap());
    (generation, zones)
}

fn query(qname: &str, qtype: RecordType, with_edns: bool) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(with_edns)];
    octets.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
    octets.extend_from_slice(&qtype.0.to_be_bytes());
    octets.extend_from_slice(&[0, 1]);
    if with_edns {
        octets.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    octets
}

fn arrival() -> Arrival {
    Arrival {
        client: SocketAddr::from(([127, 0, 0, 1], 5000)),
        local: SocketAddr::from(([127, 0, 0, 1], 1053)),
        protocol: Protocol::Udp,
        received: Instant::now(),
        alias_depth: 0,
        is_crowded: false,
    }
}
