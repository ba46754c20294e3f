//! What `cache` counts.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::plugin::cache::budget::Budget;
use crate::telemetry::exposition::{Draft, Kind};
use crate::telemetry::metrics::Families;

/// The metric families of all caches.
pub(in crate::plugin::cache) struct CacheFamilies {
    entries: IntGaugeVec,
    hits: IntCounterVec,
    evictions: IntCounterVec,
    requests: IntCounterVec,
    misses: IntCounterVec,
    prefetch: IntCounterVec,
    drops: IntCounterVec,
    served_stale: IntCounterVec,
    refused_refreshes: IntCounterVec,
}

const BY_TYPE: &[&str] = &["server", "type", "zones", "view"];
const BY_ZONES: &[&str] = &["server", "zones", "view"];

impl Families for CacheFamilies {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let entries = IntGaugeVec::new(
            Opts::new(
                "coredns_cache_entries",
                "entries in the cache, expired ones too",
            ),
            BY_TYPE,
        )?;
        registry.register(Box::new(entries.clone()))?;
        Ok(Self {
            entries,
            hits: counter(
                "coredns_cache_hits_total",
                "look-ups that found an entry",
                BY_TYPE,
            )?,
            evictions: counter(
                "coredns_cache_evictions_total",
                "entries that had to go to make room",
                BY_TYPE,
            )?,
            requests: counter("coredns_cache_requests_total", "look-ups", BY_ZONES)?,
            misses: counter(
                "coredns_cache_misses_total",
                "look-ups that found nothing",
                BY_ZONES,
            )?,
            prefetch: counter(
                "coredns_cache_prefetch_total",
                "refreshes begun in the background",
                BY_ZONES,
            )?,
            drops: counter(
                "coredns_cache_drops_total",
                "replies not kept because their question is another one",
                BY_ZONES,
            )?,
            served_stale: counter(
                "coredns_cache_served_stale_total",
                "replies from expired entries",
                BY_ZONES,
            )?,
            refused_refreshes: counter(
                "fingerpost_cache_refused_refreshes_total",
                "refreshes not begun because too many were under way",
                BY_ZONES,
            )?,
        })
    }
}

/// The counters of one cache on one listener.
pub(in crate::plugin::cache) struct Counters {
    server: Arc<str>,
    /// Entries, answers first.
    pub(in crate::plugin::cache) entries: [IntGauge; 2],
    /// Hits, answers first.
    pub(in crate::plugin::cache) hits: [IntCounter; 2],
    /// Look-ups.
    pub(in crate::plugin::cache) requests: IntCounter,
    /// Look-ups in vain.
    pub(in crate::plugin::cache) misses: IntCounter,
    /// Refreshes in the background.
    pub(in crate::plugin::cache) prefetch: IntCounter,
    /// Replies to another question.
    pub(in crate::plugin::cache) drops: IntCounter,
    /// Replies from expired entries.
    pub(in crate::plugin::cache) served_stale: IntCounter,
    /// Refreshes for which there was no room.
    pub(in crate::plugin::cache) refused_refreshes: IntCounter,
}

/// The counters of one cache, by listener: a block may have keys on several.
pub(in crate::plugin::cache) struct CounterSet {
    families: Arc<CacheFamilies>,
    zones: String,
    by_server: ArcSwap<Vec<Arc<Counters>>>,
}

impl CounterSet {
    /// For a cache of these zones.
    pub(in crate::plugin::cache) fn new(
        families: Arc<CacheFamilies>,
        zones: String,
        server: &Arc<str>,
    ) -> Self {
        let this = Self {
            families,
            zones,
            by_server: ArcSwap::default(),
        };
        this.add(server);
        this
    }

    /// The counters of a listener. Without a lock, once it is known.
    pub(in crate::plugin::cache) fn of(&self, server: &Arc<str>) -> Arc<Counters> {
        let known = self.by_server.load();
        match known.iter().find(|counters| counters.server == *server) {
            Some(counters) => Arc::clone(counters),
            None => self.add(server),
        }
    }

    /// Counters of evictions, answers first.
    pub(in crate::plugin::cache) fn evictions(&self, server: &str) -> [IntCounter; 2] {
        self.by_type(server)
            .map(|labels| self.families.evictions.with_label_values(&labels))
    }

    fn by_type<'l>(&'l self, server: &'l str) -> [[&'l str; 4]; 2] {
        ["success", "denial"].map(|kind| [server, kind, &self.zones, ""])
    }

    /// Twice for one listener does no harm: equal labels lead to one counter.
    #[cold]
    fn add(&self, server: &Arc<str>) -> Arc<Counters> {
        let families = &self.families;
        let labels = [&**server, &self.zones, ""];
        let by_type = self.by_type(server);
        let counters = Arc::new(Counters {
            server: Arc::clone(server),
            entries: by_type.map(|labels| families.entries.with_label_values(&labels)),
            hits: by_type.map(|labels| families.hits.with_label_values(&labels)),
            requests: families.requests.with_label_values(&labels),
            misses: families.misses.with_label_values(&labels),
            prefetch: families.prefetch.with_label_values(&labels),
            drops: families.drops.with_label_values(&labels),
            served_stale: families.served_stale.with_label_values(&labels),
            refused_refreshes: families.refused_refreshes.with_label_values(&labels),
        });
        self.by_server.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push(Arc::clone(&counters));
            known
        });
        counters
    }
}

/// What the entries of all caches take and may take, read when somebody asks.
#[derive(Clone)]
pub(in crate::plugin::cache) struct BudgetGauges {
    budget: Arc<Mutex<Weak<Budget>>>,
    descs: Arc<[Desc]>,
}

const OCTETS_MAX: (&str, &str) = (
    "fingerpost_cache_budget_bytes",
    "octets that the entries of all caches may take",
);
const OCTETS: (&str, &str) = (
    "fingerpost_cache_used_bytes",
    "octets that the entries of all caches take, 1 KiB each at least",
);

impl BudgetGauges {
    /// Shows this one from now on, for as long as it lives.
    pub(in crate::plugin::cache) fn show(&self, budget: &Arc<Budget>) {
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(budget);
    }
}

impl Families for BudgetGauges {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let desc = |(name, help): (&str, &str)| {
            Desc::new(
                name.to_owned(),
                help.to_owned(),
                Vec::new(),
                Default::default(),
            )
        };
        let this = Self {
            budget: Arc::default(),
            descs: [desc(OCTETS_MAX)?, desc(OCTETS)?].into(),
        };
        registry.register(Box::new(this.clone()))?;
        Ok(this)
    }
}

impl Collector for BudgetGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "the format knows floats only; exact up to 2^53"
    )]
    fn collect(&self) -> Vec<MetricFamily> {
        let budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(budget) = budget.upgrade() else {
            return Vec::new();
        };
        [(OCTETS_MAX, budget.octets()), (OCTETS, budget.weight())]
            .map(|((name, help), octets)| {
                let mut draft = Draft::new(name, help, &[], Kind::Gauge);
                draft.gauge(&[], octets as f64);
                draft.into_family()
            })
            .into()
    }
}
