//! What one answer from memory costs, socket left out: the whole chain of the kubeadm Corefile over a cluster of
//! 1,000 Services and one of 10,000 endpoints, question by question; and reading that Corefile.
//!
//! `cargo bench --bench answers [FILTER [ROUNDS]]` prints nanoseconds a round. Under `valgrind --tool=callgrind` a
//! filter and a fixed number of rounds give instruction counts that repeat.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and prints"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::corefile::render::Color;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::loader::Reading;
use fingerpost::server::process::Process;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::name::Name;
use fingerpost::wire::query::Query;
use fingerpost::zone::Zones;

const SERVICES: usize = 1000;

/// Of each Service's endpoints.
const ENDPOINTS: usize = 10;

/// Of the Service `big`, whose endpoints have host names; 100 stand in one slice.
const BIG: usize = 10_000;

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

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cluster.json"), cluster()).unwrap();
    let corefile = corefile(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (_generation, zones) = serve(&corefile, &runtime);

    for (name, qname, qtype, protocol) in QUESTIONS {
        let queries: Vec<Vec<u8>> = (0..SERVICES)
            .filter(|at| at % 10 == qname.parity())
            .map(|at| query(&qname.of(at), *qtype))
            .collect();
        let mut out = Vec::with_capacity(4096);
        // A reply of 64 KiB takes a thousand times as long as one of 64 octets.
        let rounds = match qname {
            Names::Big => rounds / 100,
            _ => rounds,
        };
        measure(name, &filter, rounds, |round| {
            let outcome = zones.answer(
                black_box(&queries[round % queries.len()]),
                arrival(*protocol),
                &mut out,
            );
            assert!(matches!(outcome, Outcome::Reply));
        });
    }
    let octets = query("svc-1.ns-1.svc.cluster.local.", RecordType::A);
    measure("parse a query", &filter, rounds, |_| {
        black_box(Query::parse(black_box(&octets)).unwrap());
    });
    measure(
        "read and check the Corefile",
        &filter,
        rounds / 1000,
        |_| {
            black_box(Reading::of(
                Path::new("Corefile"),
                black_box(corefile.as_bytes()),
                53,
            ));
        },
    );
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
    /// The last digit of the Services it is about.
    fn parity(&self) -> usize {
        match self {
            Self::Headless | Self::SmallEndpoint => 9,
            _ => 1,
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

fn measure(name: &str, filter: &str, rounds: usize, mut work: impl FnMut(usize)) {
    if !name.contains(filter) {
        return;
    }
    (0..rounds / 10).for_each(&mut work);
    let start = Instant::now();
    (0..rounds).for_each(&mut work);
    let each = start.elapsed() / u32::try_from(rounds.max(1)).unwrap();
    println!("{name:<45} {:>8} ns", each.as_nanos());
}

fn serve(corefile: &str, runtime: &tokio::runtime::Runtime) -> (Generation, Arc<Zones>) {
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

/// kubeadm's, with objects from a file.
fn corefile(folder: &Path) -> String {
    format!(
        ".:1053 {{
    errors
    health :0 {{
       lameduck 5s
    }}
    ready :0
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       manifests {}
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :0
    forward . 127.0.0.1:9 {{
       max_concurrent 1000
    }}
    cache 30
    reload
    loadbalance
}}
",
        folder.display()
    )
}

/// Every tenth Service is headless.
fn cluster() -> String {
    let mut items = Vec::new();
    for at in 0..SERVICES {
        let namespace = at % 20;
        let ip = if at % 10 == 9 {
            "None".to_owned()
        } else {
            format!("10.97.{}.{}", at / 250, at % 250)
        };
        items.push(format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{at}","namespace":"ns-{namespace}"}},"spec":{{"clusterIP":"{ip}","clusterIPs":["{ip}"],"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}}}"#
        ));
        let mut endpoints = String::new();
        for endpoint in 0..ENDPOINTS {
            let comma = if endpoint == 0 { "" } else { "," };
            let number = at * ENDPOINTS + endpoint;
            // As of a StatefulSet.
            let hostname = match at % 10 {
                9 => format!(r#","hostname":"pod-{endpoint}""#),
                _ => String::new(),
            };
            write!(
                endpoints,
                r#"{comma}{{"addresses":["172.24.{}.{}"]{hostname}}}"#,
                number / 250,
                number % 250
            )
            .unwrap();
        }
        items.push(format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{at}-x","namespace":"ns-{namespace}","labels":{{"kubernetes.io/service-name":"svc-{at}"}}}},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}]}}"#
        ));
    }
    items.extend(big());
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
        items.join(",")
    )
}

/// A headless Service of many endpoints with host names.
fn big() -> Vec<String> {
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"big","namespace":"ns-0"},"spec":{"clusterIP":"None","ports":[{"name":"http","port":80,"protocol":"TCP"}]}}"#;
    let slice = |at: usize| {
        let endpoint = |number: usize| {
            format!(
                r#"{{"addresses":["172.25.{}.{}"],"hostname":"pod-{number}"}}"#,
                number / 250,
                number % 250
            )
        };
        let endpoints: Vec<_> = (at * 100..(at + 1) * 100).map(endpoint).collect();
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"big-{at}","namespace":"ns-0","labels":{{"kubernetes.io/service-name":"big"}}}},"addressType":"IPv4","endpoints":[{}],"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}]}}"#,
            endpoints.join(",")
        )
    };
    std::iter::once(service.to_owned())
        .chain((0..BIG / 100).map(slice))
        .collect()
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
