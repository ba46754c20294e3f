//! The five families that every query counts in: `coredns_dns_requests_total` and its kin.
//!
//! Counting must cost next to nothing, so there are no label strings on the way: a row is looked up once per server
//! block and kept, and within it every combination of labels has its place in an array.
//!
//! ```text
//! row (server, zone, view) -> shard of this thread -> requests[proto][family][type], responses[plugin][rcode], …
//! ```
//!
//! Each worker and each thread of the runtime has a shard of its own, so that no two of them write to one cache line, and
//! none needs the locked instructions that adding to a shared counter takes: eight of them would cost a tenth of an answer.
//! Text is made only when somebody asks for the metrics.

mod collector;

use std::array;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::Registry;

use crate::chain::exchange::Protocol;
use crate::telemetry::metrics::Families;
use crate::telemetry::requests::collector::RequestCollector;
use crate::wire::code::{Rcode, RecordType};

/// What one query was, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// UDP or TCP.
    pub protocol: Protocol,
    /// The client has an IPv6 address.
    pub is_ipv6: bool,
    /// QTYPE.
    pub qtype: RecordType,
    /// The client set DO.
    pub dnssec_ok: bool,
    /// Octets of the query.
    pub request_len: usize,
    /// Octets of the reply; 0 if there was none.
    pub response_len: usize,
    /// From reception to the finished reply.
    pub elapsed: Duration,
    /// RCODE of the reply.
    pub rcode: Rcode,
    /// The plugin that answered; empty if the server did, or nobody.
    pub plugin: &'static str,
}

/// The types that have a label of their own; all others share `other`.
const TYPES: [RecordType; 19] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::PTR,
    RecordType::SRV,
    RecordType::HTTPS,
    RecordType::SVCB,
    RecordType::TXT,
    RecordType::MX,
    RecordType::NS,
    RecordType::SOA,
    RecordType::CNAME,
    RecordType::DS,
    RecordType::DNSKEY,
    RecordType::RRSIG,
    RecordType::NSEC,
    RecordType::NSEC3,
    RecordType::IXFR,
    RecordType::AXFR,
    RecordType::ANY,
];

/// RCODEs with a place of their own: all that are assigned. Larger ones share the label `other`.
const RCODES: usize = 24;

/// Plugins with a place of their own in a shard. There are fewer of them; should there ever be more, the last place is
/// shared.
const PLUGINS: usize = 48;

/// Upper bounds in seconds: 0.25 ms, doubled 15 times.
const TIME_BOUNDS: usize = 16;

const TIME_FIRST: u64 = 250_000;

/// Upper bounds in octets, as CoreDNS has them (8291 included).
const SIZE_BOUNDS: [u16; 14] = [
    0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000,
];

/// Counts of one histogram; the last bucket has no upper bound.
struct Histogram<const BUCKETS: usize> {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    fn new() -> Self {
        Self {
            buckets: counters(),
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, bucket: usize, value: u64, access: Access) {
        access.add(&self.buckets[bucket], 1);
        access.add(&self.sum, value);
    }
}

type Sizes = Histogram<{ SIZE_BOUNDS.len() + 1 }>;

fn counters<const COUNT: usize>() -> [AtomicU64; COUNT] {
    array::from_fn(|_| AtomicU64::new(0))
}

/// Who else may write to a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Nobody.
    Alone,
    /// Other threads.
    Shared,
}

impl Access {
    fn add(self, counter: &AtomicU64, value: u64) {
        match self {
            Self::Alone => {
                let count = counter.load(Ordering::Relaxed).wrapping_add(value);
                counter.store(count, Ordering::Relaxed);
            }
            Self::Shared => {
                counter.fetch_add(value, Ordering::Relaxed);
            }
        }
    }
}

/// What one thread counts in one row.
struct Shard {
    requests: [[[AtomicU64; TYPES.len() + 1]; 2]; 2],
    dnssec_ok: AtomicU64,
    duration: Histogram<{ TIME_BOUNDS + 1 }>,
    request_size: [Sizes; 2],
    response_size: [Sizes; 2],
    responses: [OnceLock<Responses>; PLUGINS],
}

/// The replies of one plugin.
struct Responses {
    plugin: &'static str,
    rcodes: [AtomicU64; RCODES + 1],
}

impl Shard {
    fn new() -> Self {
        Self {
            requests: array::from_fn(|_| array::from_fn(|_| counters())),
            dnssec_ok: AtomicU64::new(0),
            duration: Histogram::new(),
            request_size: array::from_fn(|_| Histogram::new()),
            response_size: array::from_fn(|_| Histogram::new()),
            responses: array::from_fn(|_| OnceLock::new()),
        }
    }

    fn count(&self, sample: &Sample, access: Access) {
        let protocol = match sample.protocol {
            Protocol::Udp => 0,
            Protocol::Tcp => 1,
        };
        let family = usize::from(sample.is_ipv6);
        let qtype = TYPES.iter().position(|&known| known == sample.qtype);
        let requests = &self.requests[protocol][family];
        access.add(&requests[qtype.unwrap_or(TYPES.len())], 1);
        if sample.dnssec_ok {
            access.add(&self.dnssec_ok, 1);
        }
        let nanoseconds = u64::try_from(sample.elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.duration
            .add(time_bucket(nanoseconds), nanoseconds, access);
        for (sizes, octets) in [
            (&self.request_size[protocol], sample.request_len),
            (&self.response_size[protocol], sample.response_len),
        ] {
            sizes.add(size_bucket(octets), octets as u64, access);
        }
        let rcode = usize::from(sample.rcode.0).min(RCODES);
        access.add(&self.responses_of(sample.plugin).rcodes[rcode], 1);
    }

    fn responses_of(&self, plugin: &'static str) -> &Responses {
        let (last, others) = self
            .responses
            .split_last()
            .expect("there are places for plugins");
        for place in others {
            let responses = place.get_or_init(|| Responses::of(plugin));
            if responses.plugin == plugin {
                return responses;
            }
        }
        last.get_or_init(|| Responses::of("other"))
    }
}

impl Responses {
    fn of(plugin: &'static str) -> Self {
        Self {
            plugin,
            rcodes: counters(),
        }
    }
}

/// The place of the first bound that is not below: bounds double, so this is a logarithm.
fn time_bucket(nanoseconds: u64) -> usize {
    let doublings = u64::BITS - (nanoseconds.saturating_sub(1) / TIME_FIRST).leading_zeros();
    (doublings as usize).min(TIME_BOUNDS)
}

fn size_bucket(octets: usize) -> usize {
    SIZE_BOUNDS
        .iter()
        .position(|&bound| octets <= usize::from(bound))
        .unwrap_or(SIZE_BOUNDS.len())
}

/// The counters of one (server, zone, view).
pub struct Row {
    shards: Box<[OnceLock<Box<Shard>>]>,
}

/// The most threads that have a shard of their own.
const SEATS_MAX: usize = 64;

/// Shards that belong to one thread each: one for the worker and one for the runtime's thread of each core. One more is
/// for all other threads.
static SEATS: LazyLock<usize> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (2 * cores).min(SEATS_MAX)
});

/// Seats that nobody has. The lock hands what the last one has counted to the next.
static FREE: LazyLock<Mutex<Vec<usize>>> =
    LazyLock::new(|| Mutex::new((0..*SEATS).rev().collect()));

/// The shard that a thread counts in, in every row.
struct Seat(usize);

impl Seat {
    fn take() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        Self(free.pop().unwrap_or(*SEATS))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        NUMBER.set(Some(*SEATS));
        if self.0 < *SEATS {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(self.0);
        }
    }
}

thread_local! {
    /// Apart from the seat, because a value that has to be dropped is dearer to look at.
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    static SEAT: Seat = Seat::take();
}

/// The place of this thread's shard, and how to write to it.
fn shard_of_thread() -> (usize, Access) {
    let number = NUMBER.get().unwrap_or_else(|| {
        let number = SEAT.with(|seat| seat.0);
        NUMBER.set(Some(number));
        number
    });
    let access = if number < *SEATS {
        Access::Alone
    } else {
        Access::Shared
    };
    (number, access)
}

impl Row {
    fn new() -> Self {
        Self {
            shards: (0..=*SEATS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Counts one query. Takes no lock; allocates only when a thread meets this row for the first time.
    pub fn count(&self, sample: &Sample) {
        let (place, access) = shard_of_thread();
        self.shards[place]
            .get_or_init(|| Box::new(Shard::new()))
            .count(sample, access);
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(|shard| Some(&**shard.get()?))
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards()
            .map(|shard| counter(shard).load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// Counts per bucket and the sum.
    fn histogram<const BUCKETS: usize>(
        &self,
        of: impl Fn(&Shard) -> &Histogram<BUCKETS>,
    ) -> ([u64; BUCKETS], u64) {
        let buckets = array::from_fn(|at| self.sum(|shard| &of(shard).buckets[at]));
        (buckets, self.sum(|shard| &of(shard).sum))
    }
}

/// Server, zone and view: the labels of a row.
type RowLabels = [String; 3];

/// Every row. Rows are never taken away: a counter does not go back.
#[derive(Default)]
struct Rows {
    rows: Mutex<BTreeMap<RowLabels, Arc<Row>>>,
}

/// The five families.
pub struct RequestMetrics {
    rows: Arc<Rows>,
}

impl RequestMetrics {
    /// The row with these labels. Takes a lock: keep the row.
    pub fn row(&self, server: &str, zone: &str, view: &str) -> Arc<Row> {
        let labels = [server, zone, view].map(str::to_owned);
        let mut rows = self
            .rows
            .rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rows.entry(labels).or_insert_with(|| Arc::new(Row::new())))
    }
}

impl Families for RequestMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let rows = Arc::new(Rows::default());
        let collector = RequestCollector::new(Arc::clone(&rows))?;
        registry.register(Box::new(collector))?;
        Ok(Self { rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_takes_what_is_not_above_its_bound() {
        assert_eq!(time_bucket(0), 0);
        assert_eq!(time_bucket(250_000), 0);
        assert_eq!(time_bucket(250_001), 1);
        assert_eq!(time_bucket(500_000), 1);
        assert_eq!(time_bucket(500_001), 2);
        assert_eq!(time_bucket(8_192_000_000), 15);
        assert_eq!(time_bucket(8_192_000_001), 16);
        assert_eq!(time_bucket(u64::MAX), 16);
        assert_eq!(size_bucket(0), 0);
        assert_eq!(size_bucket(1), 1);
        assert_eq!(size_bucket(511), 5);
        assert_eq!(size_bucket(512), 6);
        assert_eq!(size_bucket(64_000), 13);
        assert_eq!(size_bucket(65_535), 14);
    }

    const SAMPLE: Sample = Sample {
        protocol: Protocol::Udp,
        is_ipv6: false,
        qtype: RecordType::A,
        dnssec_ok: true,
        request_len: 23,
        response_len: 39,
        elapsed: Duration::from_micros(3),
        rcode: Rcode::NOERROR,
        plugin: "hosts",
    };

    fn shown(registry: &Registry) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap()
    }

    #[test]
    fn rcodes_and_types_without_a_name_share_a_label() {
        let registry = Registry::new();
        let metrics = RequestMetrics::register(&registry).unwrap();
        let row = metrics.row("dns://:53", ".", "");
        for number in [24, 4000, 4095] {
            row.count(&Sample {
                qtype: RecordType(60_000 + number),
                rcode: Rcode(number),
                ..SAMPLE
            });
        }
        let text = shown(&registry);
        for line in [
            "coredns_dns_requests_total{family=\"1\",proto=\"udp\",server=\"dns://:53\",type=\"other\",view=\"\",zone=\".\"} 3",
            "coredns_dns_responses_total{plugin=\"hosts\",rcode=\"other\",server=\"dns://:53\",view=\"\",zone=\".\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn counts_of_all_threads_add_up() {
        let registry = Registry::new();
        let metrics = RequestMetrics::register(&registry).unwrap();
        let row = metrics.row("dns://:53", ".", "");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| row.count(&SAMPLE)));
            }
        });
        // Those who come later sit where others sat, and more at a time than there are seats share a shard.
        for _ in 0..2 * *SEATS {
            std::thread::scope(|scope| drop(scope.spawn(|| row.count(&SAMPLE))));
        }
        std::thread::scope(|scope| {
            for _ in 0..*SEATS + 2 {
                scope.spawn(|| row.count(&SAMPLE));
            }
        });
        (0..1998 - 3 * *SEATS).for_each(|_| row.count(&SAMPLE));
        let text = shown(&registry);
        for line in [
            "coredns_dns_requests_total{family=\"1\",proto=\"udp\",server=\"dns://:53\",type=\"A\",view=\"\",zone=\".\"} 4000",
            "coredns_dns_do_requests_total{server=\"dns://:53\",view=\"\",zone=\".\"} 4000",
            "coredns_dns_request_duration_seconds_count{server=\"dns://:53\",view=\"\",zone=\".\"} 4000",
            "coredns_dns_request_duration_seconds_sum{server=\"dns://:53\",view=\"\",zone=\".\"} 0.012",
            "coredns_dns_request_size_bytes_sum{proto=\"udp\",server=\"dns://:53\",view=\"\",zone=\".\"} 92000",
            "coredns_dns_response_size_bytes_bucket{proto=\"udp\",server=\"dns://:53\",view=\"\",zone=\".\",le=\"100\"} 4000",
            "coredns_dns_responses_total{plugin=\"hosts\",rcode=\"NOERROR\",server=\"dns://:53\",view=\"\",zone=\".\"} 4000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
