//! What `forward` counts.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    exponential_buckets,
};

use crate::telemetry::metrics::Families;
use crate::wire::code::Rcode;

/// Names and labels are CoreDNS'; those that begin with `fingerpost_` are ours.
pub(super) struct ForwardMetrics {
    durations: HistogramVec,
    health_failures: IntCounterVec,
    hits: IntCounterVec,
    misses: IntCounterVec,
    ignored: IntCounterVec,
    stripped: IntCounterVec,
    spent: IntCounterVec,
    private: IntCounterVec,
    /// All upstreams of a directive were down.
    pub(super) broken: IntCounter,
    /// Upstreams that were passed over because they are doubtful or silent.
    pub(super) passed_over: IntCounter,
    /// Queries past `max_concurrent`.
    pub(super) rejected: IntCounter,
    /// Queries that got the reply to another client's identical question.
    pub(super) shared: IntCounter,
    /// Second tries, by what became of them: see [`Hedged`].
    hedges: [IntCounter; 3],
    /// Queries that failed because an identical one had, a moment ago.
    pub(super) remembered: IntCounter,
    /// Failures that were forgotten before their second was over.
    pub(super) forgotten: IntCounter,
}

impl Families for ForwardMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let vec = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counter = |name: &str, help: &str| {
            let family = IntCounter::new(name, help)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let hedges = vec(
            "fingerpost_forward_hedges_total",
            "second tries of `hedge`: `won` if their reply counted, `lost` if another did or none, `refused` if there were \
             too many",
            &["outcome"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "coredns_proxy_request_duration_seconds",
                "time an upstream took to reply",
            )
            .buckets(exponential_buckets(0.00025, 2.0, 16)?),
            &["proxy_name", "to", "rcode"],
        )?;
        registry.register(Box::new(durations.clone()))?;
        Ok(Self {
            durations,
            health_failures: vec(
                "coredns_proxy_healthcheck_failures_total",
                "probes that an upstream did not answer",
                &["proxy_name", "to"],
            )?,
            hits: vec(
                "coredns_proxy_conn_cache_hits_total",
                "queries that went out over a socket that was open",
                &["proxy_name", "to", "proto"],
            )?,
            misses: vec(
                "coredns_proxy_conn_cache_misses_total",
                "queries that a socket was opened for",
                &["proxy_name", "to", "proto"],
            )?,
            ignored: vec(
                "fingerpost_forward_ignored_replies_total",
                "messages from an upstream that answered nothing that was asked",
                &["to", "proto"],
            )?,
            stripped: vec(
                "fingerpost_forward_stripped_replies_total",
                "replies that held records of names that were not asked, or aliases in a circle",
                &["to"],
            )?,
            spent: vec(
                "fingerpost_forward_budget_spent_total",
                "messages that were not sent to an upstream because of `packet_budget`",
                &["to"],
            )?,
            private: vec(
                "fingerpost_forward_private_replies_total",
                "replies that `deny_private` has taken private addresses out of",
                &["to"],
            )?,
            broken: counter(
                "coredns_forward_healthcheck_broken_total",
                "queries that found all upstreams down",
            )?,
            passed_over: counter(
                "fingerpost_forward_passed_over_total",
                "times an upstream that does not reply was passed over for one that does",
            )?,
            rejected: counter(
                "coredns_forward_max_concurrent_rejects_total",
                "queries refused because of `max_concurrent`",
            )?,
            shared: counter(
                "fingerpost_forward_shared_total",
                "queries that got the reply to an identical one",
            )?,
            hedges: ["won", "lost", "refused"].map(|label| hedges.with_label_values(&[label])),
            remembered: counter(
                "fingerpost_forward_remembered_failures_total",
                "queries that failed at once because no upstream had replied to an identical one",
            )?,
            forgotten: counter(
                "fingerpost_forward_forgotten_failures_total",
                "failures that were forgotten before their second was over, for want of room",
            )?,
        })
    }
}

/// What became of a second try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hedged {
    /// Its reply counted.
    Won,
    /// The first upstream's did, or none.
    Lost,
    /// It was not made, as there were too many.
    Refused,
}

impl ForwardMetrics {
    pub(super) fn hedged(&self, outcome: Hedged) {
        self.hedges[outcome as usize].inc();
    }
}

/// RCODEs whose histogram is looked up only once.
const RCODES: usize = 24;

/// The families for one upstream. A series exists from its first use on, as in CoreDNS.
pub(super) struct UpstreamMetrics {
    families: Arc<ForwardMetrics>,
    to: String,
    durations: [OnceLock<Histogram>; RCODES],
    health_failures: OnceLock<IntCounter>,
    /// For each [`Proto`].
    hits: [OnceLock<IntCounter>; 3],
    misses: [OnceLock<IntCounter>; 3],
    ignored: [OnceLock<IntCounter>; 3],
    stripped: OnceLock<IntCounter>,
    spent: OnceLock<IntCounter>,
    private: OnceLock<IntCounter>,
}

/// The transport of a socket, as it stands in labels and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proto {
    Udp,
    Tcp,
    Tls,
}

impl Proto {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tcp-tls",
        }
    }
}

const NAME: &str = "forward";

impl UpstreamMetrics {
    pub(super) fn new(families: Arc<ForwardMetrics>, to: SocketAddr) -> Self {
        Self {
            families,
            to: to.to_string(),
            durations: Default::default(),
            health_failures: OnceLock::new(),
            hits: Default::default(),
            misses: Default::default(),
            ignored: Default::default(),
            stripped: OnceLock::new(),
            spent: OnceLock::new(),
            private: OnceLock::new(),
        }
    }

    pub(super) fn replied(&self, rcode: Rcode, after: Duration) {
        let make = || {
            // A number stands bare where there is no mnemonic, as in CoreDNS.
            let text = match rcode.mnemonic() {
                Some(text) => text.to_owned(),
                None => rcode.0.to_string(),
            };
            self.families
                .durations
                .with_label_values(&[NAME, &self.to, &text])
        };
        let seconds = after.as_secs_f64();
        match self.durations.get(usize::from(rcode.0)) {
            Some(known) => known.get_or_init(make).observe(seconds),
            None => make().observe(seconds),
        }
    }

    pub(super) fn health_failed(&self) {
        self.health_failures
            .get_or_init(|| {
                self.families
                    .health_failures
                    .with_label_values(&[NAME, &self.to])
            })
            .inc();
    }

    /// A socket was wanted; `hit` if one was open.
    pub(super) fn socket(&self, proto: Proto, hit: bool) {
        let (counters, family) = if hit {
            (&self.hits, &self.families.hits)
        } else {
            (&self.misses, &self.families.misses)
        };
        counters[proto as usize]
            .get_or_init(|| family.with_label_values(&[NAME, &self.to, proto.as_str()]))
            .inc();
    }

    pub(super) fn stripped(&self) {
        self.stripped
            .get_or_init(|| self.families.stripped.with_label_values(&[&self.to]))
            .inc();
    }

    pub(super) fn spent(&self) {
        self.spent
            .get_or_init(|| self.families.spent.with_label_values(&[&self.to]))
            .inc();
    }

    pub(super) fn private(&self) {
        self.private
            .get_or_init(|| self.families.private.with_label_values(&[&self.to]))
            .inc();
    }

    pub(super) fn ignored(&self, proto: Proto) {
        self.ignored[proto as usize]
            .get_or_init(|| {
                self.families
                    .ignored
                    .with_label_values(&[&self.to, proto.as_str()])
            })
            .inc();
    }
}
