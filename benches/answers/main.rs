//! What one answer costs, socket left out: the whole chain of the kubeadm Corefile over a cluster of 700 Services and
//! one of 10,000 endpoints, question by question; parts of it; and reading that Corefile.
//!
//! `cargo bench --bench answers [FILTER [ROUNDS]]` prints nanoseconds a round. Everything that is measured runs on one
//! thread, and `cargo xtask bench instructions` counts what it executes, nothing outside of [`counted`].

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and prints"
)]

mod cluster;
mod parts;
mod upstream;

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::corefile::render::Color;
use fingerpost::reactor::Reactor;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::loader::Reading;
use fingerpost::server::process::Process;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::name::Name;
use fingerpost::wire::query::Query;
use fingerpost::zone::Zones;
use tokio::runtime::Runtime;

use crate::cluster::{BIG, ENDPOINTS, SERVICES};
use crate::upstream::Upstream;

const ROUNDS_DEFAULT: usize = 500_000;

fn main() {
    // Cargo hands over `--bench`.
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let filter = args.next().unwrap_or_default();
    let rounds = args
        .next()
        .map_or(ROUNDS_DEFAULT, |rounds| rounds.parse().unwrap());
    let bench = Bench { filter, rounds };

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cluster.json"), cluster::objects()).unwrap();
    let mut upstream = Upstream::new();
    let corefile = cluster::corefile(folder.path(), upstream.address());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_generation, zones) = serve(&corefile, &runtime);
    bench.answers(&zones);
    // As on a worker's thread.
    let _entered = runtime.enter();
    bench.forwarding(&zones, &mut upstream, &runtime);
    bench.parts();
    bench.measure("read and check the Corefile", 1000, |_| {
        let octets = black_box(corefile.as_bytes());
        black_box(Reading::of(Path::new("Corefile"), octets, 53));
    });
}

/// What is to be measured, and how often.
struct Bench {
    filter: String,
    rounds: usize,
}

impl Bench {
    fn answers(&self, zones: &Arc<Zones>) {
        let mut out = Vec::with_capacity(4096);
        for (name, qname, qtype, protocol) in QUESTIONS {
            let queries: Vec<Vec<u8>> = (0..SERVICES)
                .filter(|&at| qname.is_about(at))
                .map(|at| query(&qname.of(at), *qtype))
                .collect();
            // A reply of 64 KiB takes a thousand times as long as one of 64 octets.
            let share = match qname {
                Names::Big => 100,
                _ => 1,
            };
            self.measure(name, share, |round| {
                let query = black_box(&queries[round % queries.len()]);
                let outcome = zones.answer(query, arrival(*protocol), &mut out);
                assert!(matches!(outcome, Outcome::Reply));
            });
        }
    }

    /// What the upstream does counts too: some 400 instructions.
    fn forwarding(&self, zones: &Arc<Zones>, upstream: &mut Upstream, runtime: &Runtime) {
        const NAMES: usize = 100;
        let mut out = Vec::with_capacity(4096);
        let name = |number: usize| format!("host-{number}.example.org.");
        let queries: Vec<_> = (0..NAMES)
            .map(|number| query(&name(number), RecordType::A))
            .collect();
        // Whatever the filter says: reading a reply into the cache is no part of reading one out.
        let mut reactor = Reactor::open().unwrap();
        for query in &queries {
            let outcome = zones.answer(query, arrival(Protocol::Udp), &mut out);
            upstream.see_through(outcome, &mut reactor);
        }
        self.measure("from the cache", 1, |round| {
            let query = black_box(&queries[round % NAMES]);
            let outcome = zones.answer(query, arrival(Protocol::Udp), &mut out);
            assert!(matches!(outcome, Outcome::Reply));
        });
        let corefile = format!(
            ".:1053 {{
                errors
                prometheus :0
                forward . {}
            }}",
            upstream.address()
        );
        let (_generation, zones) = serve(&corefile, runtime);
        self.measure("forwarded over UDP", 1, |round| {
            let query = black_box(&queries[round % NAMES]);
            let outcome = zones.answer(query, arrival(Protocol::Udp), &mut out);
            assert!(upstream.see_through(outcome, &mut reactor) > query.len());
        });
    }

    fn parts(&self) {
        let octets = query("svc-1.ns-1.svc.cluster.local.", RecordType::A);
        self.measure("parse a query", 1, |_| {
            black_box(Query::parse(black_box(&octets)).unwrap());
        });
        let zones = parts::chain();
        let mut out = Vec::with_capacity(4096);
        self.measure("walk a chain of 9 links", 1, |_| {
            let outcome = zones.answer(black_box(&octets), arrival(Protocol::Udp), &mut out);
            assert!(matches!(outcome, Outcome::Reply));
        });
        let query = Query::parse(&octets).unwrap();
        let target = |number| format!("pod-{number}.svc-1.ns-1.svc.cluster.local.");
        let targets = [0, 1, 2, 3].map(|number| Name::from_text(&target(number)).unwrap());
        self.measure("write 4 SRV records with glue", 1, |_| {
            parts::write_reply(black_box(&query), black_box(&targets), &mut out);
        });
    }

    /// One round in `share` of what was asked for.
    fn measure(&self, name: &str, share: usize, mut work: impl FnMut(usize)) {
        if !name.contains(&self.filter) {
            return;
        }
        let rounds = (self.rounds / share).max(1);
        // Everything is asked at least once before it counts, as far as there are rounds for it.
        (0..rounds.min(1000)).for_each(&mut work);
        let start = Instant::now();
        counted(rounds, &mut work);
        let each = start.elapsed() / u32::try_from(rounds).unwrap();
        println!("{name:<45} {:>8} ns {rounds:>8} rounds", each.as_nanos());
    }
}

/// What is executed here is counted, each call for itself; `xtask` knows it by its name.
#[inline(never)]
fn counted(rounds: usize, work: &mut dyn FnMut(usize)) {
    (0..rounds).for_each(work);
}

/// Which names a case asks.
enum Names {
    ClusterIp,
    Headless,
    Missing,
    Reverse,
    /// The Service of 10,000 endpoints.
    Big,
    /// One endpoint of it.
    BigEndpoint,
    /// One endpoint of it, by address.
    BigReverse,
    /// One endpoint of a Service with 10.
    SmallEndpoint,
}

impl Names {
    /// Whether this Service is asked about: headless ones have other answers.
    fn is_about(&self, at: usize) -> bool {
        let is_headless = at % 10 == 9;
        match self {
            Self::Headless | Self::SmallEndpoint => is_headless,
            _ => !is_headless,
        }
    }

    fn of(&self, at: usize) -> String {
        match self {
            Self::ClusterIp | Self::Headless => {
                format!("svc-{at}.ns-{}.svc.cluster.local.", at % 20)
            }
            Self::Missing => format!("none-{at}.ns-{}.svc.cluster.local.", at % 20),
            Self::Reverse => format!("{}.{}.97.10.in-addr.arpa.", at % 250, at / 250),
            Self::Big => "big.ns-0.svc.cluster.local.".to_owned(),
            Self::BigEndpoint => format!("pod-{}.big.ns-0.svc.cluster.local.", at * BIG / SERVICES),
            Self::BigReverse => {
                let number = at * BIG / SERVICES;
                format!("{}.{}.25.172.in-addr.arpa.", number % 250, number / 250)
            }
            Self::SmallEndpoint => format!(
                "pod-{0}.svc-{at}.ns-{1}.svc.cluster.local.",
                at % ENDPOINTS,
                at % 20
            ),
        }
    }
}

const QUESTIONS: &[(&str, Names, RecordType, Protocol)] = &[
    (
        "A of a ClusterIP",
        Names::ClusterIp,
        RecordType::A,
        Protocol::Udp,
    ),
    (
        "AAAA of a ClusterIP (NODATA)",
        Names::ClusterIp,
        RecordType::AAAA,
        Protocol::Udp,
    ),
    ("NXDOMAIN", Names::Missing, RecordType::A, Protocol::Udp),
    ("PTR", Names::Reverse, RecordType::PTR, Protocol::Udp),
    (
        "SRV with glue",
        Names::ClusterIp,
        RecordType::SRV,
        Protocol::Udp,
    ),
    (
        "A of a headless Service with 10 endpoints",
        Names::Headless,
        RecordType::A,
        Protocol::Udp,
    ),
    (
        "A of one host name of 10",
        Names::SmallEndpoint,
        RecordType::A,
        Protocol::Udp,
    ),
    (
        "A of one host name of 10,000",
        Names::BigEndpoint,
        RecordType::A,
        Protocol::Udp,
    ),
    (
        "PTR of one endpoint of 10,000",
        Names::BigReverse,
        RecordType::PTR,
        Protocol::Udp,
    ),
    (
        "A of all of 10,000, cut for UDP",
        Names::Big,
        RecordType::A,
        Protocol::Udp,
    ),
    (
        "A of all of 10,000, 64 KiB over TCP",
        Names::Big,
        RecordType::A,
        Protocol::Tcp,
    ),
];

fn serve(corefile: &str, runtime: &Runtime) -> (Generation, Arc<Zones>) {
    let process = Process::new(runtime.handle().clone());
    let reading = Reading::of(Path::new("Corefile"), corefile.as_bytes(), 1053);
    assert_eq!(reading.refusal(Color::Never), None);
    let mut generation =
        Generation::build(&reading.blocks, ServeDefaults { port: 1053 }, &process).unwrap();
    runtime.block_on(async {
        for task in generation.plan.before_serving.drain(..) {
            task.await.unwrap();
        }
    });
    let zones = Arc::clone(generation.zones.values().next().unwrap());
    (generation, zones)
}

fn query(qname: &str, qtype: RecordType) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    octets.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
    octets.extend_from_slice(&qtype.0.to_be_bytes());
    octets.extend_from_slice(&[0, 1]);
    octets.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    octets
}

fn arrival(protocol: Protocol) -> Arrival {
    Arrival {
        client: SocketAddr::from(([127, 0, 0, 1], 5000)),
        local: SocketAddr::from(([127, 0, 0, 1], 1053)),
        protocol,
        received: Instant::now(),
        alias_depth: 0,
        is_crowded: false,
    }
}
