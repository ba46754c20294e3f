//! What a cluster's objects take in memory, and what one change of them costs, from the frame of a watch event to the
//! answer that is servable.
//!
//! `cargo bench --bench changes [FILTER [ROUNDS]]`. The octets are exact: every allocation is counted, rounded up as
//! glibc does. The time of a change is that of the thread that feeds the table; instruction counts
//! (`valgrind --tool=callgrind`, with a filter and a fixed number of rounds) repeat.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an allocator has no safe interface; a bench stops at the first surprise, and prints"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fingerpost::cluster::objects::Resource;
use fingerpost::cluster::protobuf;
use fingerpost::cluster::watch::event::Event;
use fingerpost::cluster::{Cluster, Keep, ObjectSink};

/// The system's allocator, with a count of what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// What glibc takes for a piece: 8 octets of its own, in steps of 16, at least 32.
fn chunk(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call is the system's, with the caller's own arguments; counting touches no memory of the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(chunk(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(chunk(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [u32; 3] = [1000, 10_000, 100_000];

/// Of each Service.
const ENDPOINTS: u32 = 10;

const ROUNDS_DEFAULT: u32 = 200_000;

fn main() {
    // Cargo hands over `--bench`.
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let filter = args.next().unwrap_or_default();
    let rounds = args
        .next()
        .map_or(ROUNDS_DEFAULT, |rounds| rounds.parse().unwrap());
    for size in SIZES {
        if format!("memory at {size} Services").contains(&filter) {
            memory(size);
        }
        let name = format!("one changed slice at {size} Services");
        if name.contains(&filter) {
            changes(&name, size, rounds);
        }
    }
    let name = "one changed slice of a Service with 10000 endpoints";
    if name.contains(&filter) {
        changes_of_one(name, rounds / 10);
    }
}

const WANTED: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
];

/// A cluster with nothing in it, as `endpoint_pod_names` is off.
fn empty() -> Cluster {
    Cluster::new(&WANTED, Keep::default())
}

fn memory(size: u32) {
    let cluster = empty();
    let start = HELD.load(Ordering::Relaxed);
    let mut before = start;
    let mut step = |what: &str, count: u32, frames: &mut dyn Iterator<Item = Vec<u8>>, resource| {
        frames.for_each(|frame| apply(&cluster, resource, &frame));
        let held = HELD.load(Ordering::Relaxed);
        println!(
            "memory at {size} Services: {:>6.1} octets {what}",
            (held - before) as f64 / f64::from(count)
        );
        before = held;
    };
    let mut services = (0..size).map(service);
    step("a Service", size, &mut services, Resource::Services);
    let mut slices = (0..size).map(|at| slice(at, 0, 1));
    let endpoints = size * ENDPOINTS;
    step(
        "an endpoint",
        endpoints,
        &mut slices,
        Resource::EndpointSlices,
    );
    let mut pods = (0..size).map(pod);
    step("a Pod", size, &mut pods, Resource::Pods);
    black_box(cluster);
}

fn filled(size: u32) -> Cluster {
    let cluster = empty();
    for at in 0..size {
        apply(&cluster, Resource::Services, &service(at));
        apply(&cluster, Resource::EndpointSlices, &slice(at, 0, 1));
    }
    cluster
}

/// Every change is of another Service, in an order that no cache of the processor knows.
fn changes(name: &str, size: u32, rounds: u32) {
    let cluster = filled(size);
    let frame = |round: u32| {
        let at = round.wrapping_mul(2_654_435_761) % size;
        slice(at, round / size + 1, u64::from(round) + 2)
    };
    report(name, &cluster, rounds, frame);
}

fn changes_of_one(name: &str, rounds: u32) {
    let cluster = empty();
    apply(&cluster, Resource::Services, &service(9));
    for part in 0..100 {
        apply(&cluster, Resource::EndpointSlices, &part_of_one(part, 0, 1));
    }
    let frame = |round: u32| part_of_one(round * 37 % 100, round / 100 + 1, u64::from(round) + 2);
    report(name, &cluster, rounds, frame);
}

/// One endpoint of the slice differs from version to version.
fn part_of_one(part: u32, change: u32, version: u64) -> Vec<u8> {
    let addresses: Vec<Ipv4Addr> = (0..100)
        .map(|n| {
            let number = part * 100 + n;
            let moved = if n == 50 {
                20_000 + (change % 2) * 20_000
            } else {
                0
            };
            Ipv4Addr::from_bits(0xac18_0000 + number + moved)
        })
        .collect();
    slice_of(
        "svc-9",
        "ns-9",
        &format!("svc-9-{part}"),
        &addresses,
        version,
    )
}

fn report(name: &str, cluster: &Cluster, rounds: u32, frame: impl Fn(u32) -> Vec<u8>) {
    // Made beforehand in pieces, so that only the change is measured.
    const PIECE: u32 = 1000;
    let (mut done, mut spent) = (0, std::time::Duration::ZERO);
    while done < rounds {
        let frames: Vec<_> = (done..(done + PIECE).min(rounds)).map(&frame).collect();
        let start = Instant::now();
        for frame in &frames {
            apply(cluster, Resource::EndpointSlices, frame);
        }
        spent += start.elapsed();
        done += PIECE;
    }
    println!("{name:<60} {:>8} ns", (spent / rounds.max(1)).as_nanos());
}

/// As the watch does with a frame.
fn apply(cluster: &Cluster, resource: Resource, frame: &[u8]) {
    match protobuf::event(resource, black_box(frame)).unwrap() {
        Event::Set(object) => cluster.applied(object),
        other => panic!("not an object: {other:?}"),
    }
}

fn service(at: u32) -> Vec<u8> {
    let address = match at % 10 {
        9 => "None".to_owned(),
        _ => Ipv4Addr::from_bits(0x0a61_0000 + at).to_string(),
    };
    let port =
        |name: &str, number: u64| [text(1, name), text(2, "TCP"), number_field(3, number)].concat();
    let spec = [
        bytes(1, &port("http", 80)),
        bytes(1, &port("metrics", 9090)),
        text(3, &address),
        text(4, "ClusterIP"),
        text(18, &address),
    ];
    let metadata = metadata(&format!("ns-{}", at % 500), &format!("svc-{at}"), 1, None);
    event("Service", &[bytes(1, &metadata), bytes(2, &spec.concat())])
}

/// The slice of a Service; every change moves one of its endpoints.
fn slice(at: u32, change: u32, version: u64) -> Vec<u8> {
    let addresses: Vec<Ipv4Addr> = (0..ENDPOINTS)
        .map(|n| {
            let number = at * ENDPOINTS + n;
            let moved = if n == 5 { (change % 2) << 24 } else { 0 };
            Ipv4Addr::from_bits(0xac18_0001 + number + moved)
        })
        .collect();
    let (service, namespace) = (format!("svc-{at}"), format!("ns-{}", at % 500));
    let name = format!("{service}-{:05x}", at * 7);
    slice_of(&service, &namespace, &name, &addresses, version)
}

fn slice_of(
    service: &str,
    namespace: &str,
    name: &str,
    addresses: &[Ipv4Addr],
    version: u64,
) -> Vec<u8> {
    let endpoint = |(at, address): (usize, &Ipv4Addr)| {
        let pod = format!("{service}-7d9f8b6c5d-{at:05x}");
        let target = [text(1, "Pod"), text(2, namespace), text(3, &pod)].concat();
        let endpoint = [
            text(1, &address.to_string()),
            bytes(2, &number_field(1, 1)),
            bytes(4, &target),
            text(6, &format!("node-{at}")),
            text(7, "zone-a"),
        ];
        bytes(2, &endpoint.concat())
    };
    let port =
        |name: &str, number: u64| [text(1, name), text(2, "TCP"), number_field(3, number)].concat();
    let mut fields = vec![bytes(1, &metadata(namespace, name, version, Some(service)))];
    fields.extend(addresses.iter().enumerate().map(endpoint));
    fields.push(bytes(3, &port("http", 8080)));
    fields.push(bytes(3, &port("metrics", 9090)));
    fields.push(text(4, "IPv4"));
    event("EndpointSlice", &fields)
}

fn pod(at: u32) -> Vec<u8> {
    let metadata = metadata(
        &format!("ns-{}", at % 500),
        &format!("pod-7d9f8b6c5d-{at:06x}"),
        1,
        None,
    );
    let address = IpAddr::from(Ipv4Addr::from_bits(0xac14_0001 + at));
    let status = [text(1, "Running"), text(6, &address.to_string())].concat();
    event("Pod", &[bytes(1, &metadata), bytes(3, &status)])
}

fn metadata(namespace: &str, name: &str, version: u64, service: Option<&str>) -> Vec<u8> {
    let entry = |key: &str, value: &str| [text(1, key), text(2, value)].concat();
    let mut fields = vec![
        text(1, name),
        text(3, namespace),
        text(6, &(7_000_000 + version).to_string()),
    ];
    if let Some(service) = service {
        fields.push(bytes(11, &entry("kubernetes.io/service-name", service)));
        let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
        fields.push(bytes(12, &entry(annotation, "2026-01-02T03:04:05Z")));
    }
    fields.concat()
}

/// A frame of a watch, as the API server encodes it.
fn event(kind: &str, fields: &[Vec<u8>]) -> Vec<u8> {
    let unknown = [bytes(1, &text(2, kind)), bytes(2, &fields.concat())].concat();
    let raw = [b"k8s\0".as_slice(), &unknown].concat();
    [text(1, "ADDED"), bytes(2, &bytes(1, &raw))].concat()
}

fn text(number: u8, text: &str) -> Vec<u8> {
    bytes(number, text.as_bytes())
}

fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut octets = varint(u64::from(number) << 3 | 2);
    octets.extend(varint(content.len() as u64));
    octets.extend_from_slice(content);
    octets
}

fn number_field(number: u8, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut octets = Vec::new();
    while value >= 0x80 {
        octets.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    octets.push(value as u8);
    octets
}
