//! The families that every query counts in, as Prometheus reads them.

use std::array;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::telemetry::exposition::{Draft, Kind};
use crate::telemetry::requests::{RCODES, Row, Rows, SIZE_BOUNDS, TIME_BOUNDS, TYPES};
use crate::wire::code::Rcode;

const PROTOCOLS: [&str; 2] = ["udp", "tcp"];

const FAMILIES: [&str; 2] = ["1", "2"];

const ROW: &[&str] = &["server", "zone", "view"];
const ROW_PROTO: &[&str] = &["server", "zone", "view", "proto"];

type DraftParts = (&'static str, &'static str, &'static [&'static str], Kind);

/// Name, help, labels, kind.
static DRAFTS: [DraftParts; 6] = [
    (
        "coredns_dns_requests_total",
        "queries by protocol, family of the client's address (1: IPv4, 2: IPv6) and type",
        &["server", "zone", "view", "proto", "family", "type"],
        Kind::Counter,
    ),
    (
        "coredns_dns_do_requests_total",
        "queries with DO set",
        ROW,
        Kind::Counter,
    ),
    (
        "coredns_dns_request_duration_seconds",
        "time from the reception of a query to its finished reply",
        ROW,
        Kind::Histogram,
    ),
    (
        "coredns_dns_request_size_bytes",
        "size of queries as received",
        ROW_PROTO,
        Kind::Histogram,
    ),
    (
        "coredns_dns_response_size_bytes",
        "size of replies as sent; 0 if none was sent",
        ROW_PROTO,
        Kind::Histogram,
    ),
    (
        "coredns_dns_responses_total",
        "replies by RCODE and the plugin that answered",
        &["server", "zone", "view", "rcode", "plugin"],
        Kind::Counter,
    ),
];

/// Turns rows into families when somebody asks.
pub(in crate::telemetry::requests) struct RequestCollector {
    rows: Arc<Rows>,
    descs: Vec<Desc>,
}

impl RequestCollector {
    pub(in crate::telemetry::requests) fn new(rows: Arc<Rows>) -> Result<Self, prometheus::Error> {
        let desc = |(name, help, labels, _): &DraftParts| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new((*name).into(), (*help).into(), labels, HashMap::new())
        };
        let descs = DRAFTS.iter().map(desc).collect::<Result<_, _>>()?;
        Ok(Self { rows, descs })
    }
}

impl Collector for RequestCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let rows = self
            .rows
            .rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut drafts =
            DRAFTS.map(|(name, help, labels, kind)| Draft::new(name, help, labels, kind));
        for (labels, row) in &rows {
            let labels = labels.each_ref().map(String::as_str);
            collect_requests(&mut drafts, labels, row);
            collect_histograms(&mut drafts, labels, row);
            collect_responses(&mut drafts[5], labels, row);
        }
        drafts.into_iter().map(Draft::into_family).collect()
    }
}

fn collect_requests(drafts: &mut [Draft; 6], [server, zone, view]: [&str; 3], row: &Row) {
    for (protocol, proto) in PROTOCOLS.iter().enumerate() {
        for (family, family_label) in FAMILIES.iter().enumerate() {
            for qtype in 0..=TYPES.len() {
                let count = row.sum(|shard| &shard.requests[protocol][family][qtype]);
                if count > 0 {
                    let label = TYPES.get(qtype).and_then(|qtype| qtype.mnemonic());
                    let label = label.unwrap_or("other");
                    drafts[0].count(&[server, zone, view, proto, family_label, label], count);
                }
            }
        }
    }
    let dnssec_ok = row.sum(|shard| &shard.dnssec_ok);
    if dnssec_ok > 0 {
        drafts[1].count(&[server, zone, view], dnssec_ok);
    }
}

fn collect_histograms(drafts: &mut [Draft; 6], [server, zone, view]: [&str; 3], row: &Row) {
    let bounds: [f64; TIME_BOUNDS] = array::from_fn(|at| 0.000_25 * f64::from(1u32 << at));
    let (buckets, nanoseconds) = row.histogram(|shard| &shard.duration);
    let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
    drafts[2].histogram(&[server, zone, view], &bounds, &buckets, seconds);
    let bounds = SIZE_BOUNDS.map(f64::from);
    for (protocol, proto) in PROTOCOLS.iter().enumerate() {
        let labels = &[server, zone, view, proto];
        let (buckets, octets) = row.histogram(|shard| &shard.request_size[protocol]);
        drafts[3].histogram(labels, &bounds, &buckets, octets as f64);
        let (buckets, octets) = row.histogram(|shard| &shard.response_size[protocol]);
        drafts[4].histogram(labels, &bounds, &buckets, octets as f64);
    }
}

fn collect_responses(draft: &mut Draft, [server, zone, view]: [&str; 3], row: &Row) {
    let mut plugins: BTreeMap<&str, [u64; RCODES + 1]> = BTreeMap::new();
    for responses in row.shards().flat_map(|shard| &shard.responses) {
        let Some(responses) = responses.get() else {
            continue;
        };
        let counts = plugins.entry(responses.plugin).or_insert([0; RCODES + 1]);
        for (count, more) in counts.iter_mut().zip(&responses.rcodes) {
            *count = count.wrapping_add(more.load(Ordering::Relaxed));
        }
    }
    for (plugin, counts) in plugins {
        for (rcode, count) in (0u16..).zip(counts).filter(|&(_, count)| count > 0) {
            let label = match usize::from(rcode) {
                RCODES => "other".to_owned(),
                _ => Rcode(rcode).to_string(),
            };
            draft.count(&[server, zone, view, &label, plugin], count);
        }
    }
}
