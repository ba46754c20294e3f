//! What a query costs that waits for an upstream, beside its own octets.

#![allow(unsafe_code, reason = "an allocator has no safe interface")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fingerpost::corefile::parser;
use fingerpost::net::listen::{Listener, Options};
use fingerpost::net::metrics::NetMetrics;
use fingerpost::plugin::configure::configure;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::process::Process;
use prometheus::IntGauge;

/// The system's allocator, with a count of the pieces in use by size.
struct Counting;

/// What a query may cost, with its octets, which are there three times: as it came, as it goes out, and as it is known by.
const BOUND: usize = 2600;

/// Pieces of up to so many double words have a counter each.
const SIZES: usize = 1024;
static IN_USE: [AtomicUsize; SIZES] = [const { AtomicUsize::new(0) }; SIZES];
/// Octets of all larger ones.
static LARGE: AtomicUsize = AtomicUsize::new(0);

/// Octets of a piece as glibc has it: a word more for itself, in whole double words.
fn with_overhead(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call is the system's, with the caller's own arguments; counting touches no memory of the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let octets = with_overhead(layout);
        match IN_USE.get(octets / 16) {
            Some(counter) => counter.fetch_add(1, Ordering::Relaxed),
            None => LARGE.fetch_add(octets, Ordering::Relaxed),
        };
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let octets = with_overhead(layout);
        match IN_USE.get(octets / 16) {
            Some(counter) => counter.fetch_sub(1, Ordering::Relaxed),
            None => LARGE.fetch_sub(octets, Ordering::Relaxed),
        };
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pieces in use by size, and octets of all that are larger.
fn in_use() -> (Vec<usize>, usize) {
    let pieces = IN_USE.iter().map(|count| count.load(Ordering::Relaxed));
    (pieces.collect(), LARGE.load(Ordering::Relaxed))
}

/// Octets of each query.
const QUERY_LEN: usize = 50;

fn query(number: u32) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 20];
    query.extend_from_slice(format!("u{number:019}").as_bytes());
    query.extend_from_slice(b"\x07example\x03com\0\0\x01\0\x01");
    assert_eq!(query.len(), QUERY_LEN);
    query
}

/// A listener whose upstream is bound and never read.
struct Server {
    runtime: tokio::runtime::Runtime,
    listener: Option<Listener>,
    process: Arc<Process>,
    waiting: IntGauge,
    clients: Vec<UdpSocket>,
    sent: u32,
    _upstream: UdpSocket,
    _generation: Generation,
}

impl Server {
    fn start() -> Self {
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let text = format!(
            ".:53 {{\n errors\n prometheus 127.0.0.1:0\n cache\n forward . {}\n}}\n",
            upstream.local_addr().unwrap()
        );
        let (corefile, mut faults) = parser::parse(Path::new("Corefile"), text.as_bytes());
        let blocks = configure(&corefile, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let defaults = ServeDefaults { port: 53 };
        let mut generation = Generation::build(&blocks, defaults, &process).unwrap();
        let (_, zones) = generation.zones.pop_first().unwrap();
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let zones = Arc::new(ArcSwap::new(zones));
        let mut listener = Listener::open(address, zones, &Options::default(), &process).unwrap();
        let address = listener.address();
        listener.start().unwrap();
        let clients = (1..=8).map(|last| {
            let client = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, last), 0)).unwrap();
            client.connect(address).unwrap();
            client
        });
        Self {
            clients: clients.collect(),
            runtime,
            listener: Some(listener),
            waiting: process.metrics.families::<NetMetrics>().in_flight.clone(),
            process,
            sent: 0,
            _upstream: upstream,
            _generation: generation,
        }
    }

    /// So many more queries, each for a name of its own; returns when all of them wait.
    fn ask(&mut self, more: u32) {
        for number in self.sent..self.sent + more {
            let client = &self.clients[number as usize % self.clients.len()];
            client.send(&query(number)).unwrap();
        }
        self.sent += more;
        let end = Instant::now() + Duration::from_secs(4);
        while self.asked() < self.sent as usize {
            assert!(Instant::now() < end, "not all of them wait");
            std::thread::yield_now();
        }
        assert_eq!(self.waiting.get(), i64::from(self.sent));
    }
}

impl Server {
    /// Queries that have gone to the upstream.
    fn asked(&self) -> usize {
        let families = self.process.metrics.registry().gather();
        let sockets = families
            .iter()
            .filter(|family| family.name().starts_with("coredns_proxy_conn_cache_"));
        let samples = sockets.flat_map(|family| family.get_metric());
        samples
            .map(|sample| sample.get_counter().get_value() as usize)
            .sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.runtime.block_on(listener.stop());
        }
    }
}

#[test]
fn a_query_that_waits_costs_little_beside_its_octets() {
    const MORE: u32 = 4000;
    let mut server = Server::start();
    // Threads, sockets and tables are there.
    server.ask(500);
    let (pieces, large) = in_use();
    server.ask(MORE);
    let (pieces_then, large_then) = in_use();
    let more = pieces.iter().zip(&pieces_then).enumerate();
    let mut text = String::new();
    let mut octets = large_then.saturating_sub(large);
    for (size, (before, after)) in more {
        octets += 16 * size * after.saturating_sub(*before);
        if after.saturating_sub(*before) > MORE as usize / 4 {
            write!(text, " {}x{}", after - before, 16 * size).unwrap();
        }
    }
    let each = octets / MORE as usize;
    eprintln!(
        "{each} octets a query of {QUERY_LEN}; pieces:{text}; tables: {}",
        large_then.saturating_sub(large)
    );
    assert!(each <= BOUND, "{each} octets each:{text}");
}
