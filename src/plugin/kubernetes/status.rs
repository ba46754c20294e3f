//! What a cluster tells about itself: conditions for `/ready?verbose`, and metrics.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::cluster::Cluster;
use crate::cluster::objects::Resource;
use crate::cluster::status::{Observation, WatchStatus};
use crate::server::process::Condition;
use crate::telemetry::exposition::{Draft, Kind};
use crate::telemetry::metrics::Families;

/// Between two lines about times that are none.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Characters of such a time that are shown.
const TIME_SHOWN_MAX: usize = 64;

/// What changes of objects count.
pub(super) struct KubernetesMetrics {
    programming_duration: HistogramVec,
    servable_duration: HistogramVec,
    unusable: IntCounterVec,
    /// When a time that is none was last told.
    told: Mutex<Option<Instant>>,
}

impl Families for KubernetesMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "coredns_kubernetes_dns_programming_duration_seconds",
            "time from the change of a Service's endpoints to its being answered",
        );
        // 1 ms to about 9 minutes.
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 20)?;
        let programming_duration = HistogramVec::new(options.buckets(buckets), &["service_kind"])?;
        let options = HistogramOpts::new(
            "fingerpost_kubernetes_servable_duration_seconds",
            "time from the reception of an event about a Service or its endpoints to its being answered",
        );
        // 2 us to about 4 s.
        let buckets = prometheus::exponential_buckets(0.000_002, 2.0, 22)?;
        let servable_duration = HistogramVec::new(options.buckets(buckets), &["service_kind"])?;
        let unusable = IntCounterVec::new(
            Opts::new(
                "fingerpost_kubernetes_objects_unusable_total",
                "number of times that an object was left out because it can have no name in DNS",
            ),
            &["resource", "reason"],
        )?;
        registry.register(Box::new(programming_duration.clone()))?;
        registry.register(Box::new(servable_duration.clone()))?;
        registry.register(Box::new(unusable.clone()))?;
        Ok(Self {
            programming_duration,
            servable_duration,
            unusable,
            told: Mutex::default(),
        })
    }
}

impl KubernetesMetrics {
    /// Counts one change of endpoints, stamped with the time of its cause, or with a text that is no time.
    pub(super) fn triggered(&self, headless: bool, cause: Result<SystemTime, &str>) {
        let cause = match cause {
            Ok(cause) => cause,
            Err(text) => return self.tell(text, Instant::now()),
        };
        let kind = if headless {
            "headless_with_selector"
        } else {
            "cluster_ip"
        };
        // Clocks differ: what comes from the future took no time.
        let took = SystemTime::now().duration_since(cause).unwrap_or_default();
        self.programming_duration
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
    }

    /// Anybody who may write an EndpointSlice writes this text, as long as an annotation may be and as often as they like.
    fn tell(&self, time: &str, now: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.duration_since(told) >= TELL_INTERVAL) {
            *told = Some(now);
            let shown: String = time.chars().take(TIME_SHOWN_MAX).collect();
            tracing::warn!(target: "plugin/kubernetes", "`{shown}` is not the time of a change (RFC 3339)");
        }
    }

    /// Counts what the writer noticed.
    pub(super) fn noticed(&self, observation: Observation) {
        match observation {
            Observation::Servable { kind, took } => self
                .servable_duration
                .with_label_values(&[kind])
                .observe(took.as_secs_f64()),
            Observation::Unusable { resource, reason } => self
                .unusable
                .with_label_values(&[resource.name(), reason])
                .inc(),
        }
    }
}

/// Gauges that are read when somebody asks for them; until then they cost nothing.
pub(super) struct ClusterGauges(Gauges);

#[derive(Clone)]
struct Gauges {
    clusters: Arc<Mutex<Vec<Weak<Cluster>>>>,
    descs: Vec<Desc>,
}

const OBJECTS: (&str, &str) = (
    "fingerpost_kubernetes_objects",
    "number of objects that the table is made of",
);
const ENDPOINTS: (&str, &str) = (
    "fingerpost_kubernetes_endpoints",
    "number of ready endpoints, one per address and EndpointSlice",
);
const ADDRESSES: (&str, &str) = (
    "fingerpost_kubernetes_addresses",
    "number of addresses that lead to a Service",
);
const VERSION: (&str, &str) = (
    "fingerpost_kubernetes_resource_version",
    "version that the watch of a resource has reached",
);
const CONNECTED: (&str, &str) = (
    "fingerpost_kubernetes_watch_open",
    "whether the watch of a resource is open",
);
const HEARD: (&str, &str) = (
    "fingerpost_kubernetes_heard_age_seconds",
    "time since the API server last sent anything on the watch of a resource",
);
const CONFIRMED: (&str, &str) = (
    "fingerpost_kubernetes_confirmed_age_seconds",
    "time since a list or a comparison last found all of a resource to be as the API server has it",
);

impl ClusterGauges {
    /// Shows this cluster too, for as long as it lives.
    pub(super) fn show(&self, cluster: &Arc<Cluster>) {
        let mut clusters = self.0.lock();
        clusters.retain(|held| held.strong_count() > 0);
        clusters.push(Arc::downgrade(cluster));
    }
}

impl Families for ClusterGauges {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let desc = |(name, help): (&str, &str), labels: &[&str]| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())
        };
        let by_resource = [OBJECTS, VERSION, CONNECTED, HEARD, CONFIRMED];
        let mut descs = vec![desc(ENDPOINTS, &[])?, desc(ADDRESSES, &[])?];
        for family in by_resource {
            descs.push(desc(family, &["resource"])?);
        }
        let gauges = Gauges {
            clusters: Arc::default(),
            descs,
        };
        registry.register(Box::new(gauges.clone()))?;
        Ok(Self(gauges))
    }
}

impl Gauges {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Cluster>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let clusters: Vec<Arc<Cluster>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        if clusters.is_empty() {
            return Vec::new();
        }
        let mut families = sizes(&clusters);
        let watched: Vec<WatchStatus> = clusters
            .iter()
            .flat_map(|cluster| cluster.status())
            .collect();
        let age = |age: Option<Duration>| age.map(|age| age.as_secs_f64());
        let least = f64::min;
        families.push(gauge(VERSION, &watched, least, |status| {
            status.resource_version.as_deref()?.parse().ok()
        }));
        families.push(gauge(CONNECTED, &watched, least, |status| {
            Some(f64::from(u8::from(status.connected)))
        }));
        families.push(gauge(HEARD, &watched, f64::max, |status| {
            age(status.silent_for)
        }));
        families.push(gauge(CONFIRMED, &watched, f64::max, |status| {
            age(status.confirmed_for)
        }));
        families
    }
}

/// What all clusters hold together.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format knows floats only; exact up to 2^53"
)]
fn sizes(clusters: &[Arc<Cluster>]) -> Vec<MetricFamily> {
    let sizes: Vec<_> = clusters.iter().map(|cluster| cluster.sizes()).collect();
    let mut objects = draft(OBJECTS, &["resource"]);
    for (resource, count) in [
        (
            Resource::Namespaces,
            sizes.iter().map(|size| size.namespaces).sum::<usize>(),
        ),
        (
            Resource::Services,
            sizes.iter().map(|size| size.services).sum(),
        ),
        (
            Resource::EndpointSlices,
            sizes.iter().map(|size| size.endpoint_slices).sum(),
        ),
        (Resource::Pods, sizes.iter().map(|size| size.pods).sum()),
    ] {
        objects.gauge(&[resource.name()], count as f64);
    }
    let endpoints: usize = sizes.iter().map(|size| size.endpoints).sum();
    let addresses: usize = sizes.iter().map(|size| size.addresses).sum();
    let mut families = vec![objects.into_family()];
    for (family, count) in [(ENDPOINTS, endpoints), (ADDRESSES, addresses)] {
        let mut draft = draft(family, &[]);
        draft.gauge(&[], count as f64);
        families.push(draft.into_family());
    }
    families
}

fn draft((name, help): (&str, &str), labels: &'static [&'static str]) -> Draft {
    Draft::new(name, help, labels, Kind::Gauge)
}

/// One gauge by resource; of several clusters the worst value.
fn gauge(
    family: (&str, &str),
    watched: &[WatchStatus],
    worse: fn(f64, f64) -> f64,
    value: impl Fn(&WatchStatus) -> Option<f64>,
) -> MetricFamily {
    let mut values: Vec<(Resource, f64)> = Vec::new();
    for status in watched {
        let Some(value) = value(status) else { continue };
        match values
            .iter_mut()
            .find(|(resource, _)| *resource == status.resource)
        {
            Some((_, worst)) => *worst = worse(*worst, value),
            None => values.push((status.resource, value)),
        }
    }
    let mut draft = draft(family, &["resource"]);
    for (resource, value) in values {
        draft.gauge(&[resource.name()], value);
    }
    draft.into_family()
}

/// The conditions of a cluster: each resource, and a snapshot while it stands in for the lists.
pub(super) fn conditions(cluster: &Cluster) -> Vec<Condition> {
    let watched = cluster.status();
    let mut conditions: Vec<Condition> = cluster
        .wanted()
        .iter()
        .map(|&resource| {
            let status = watched.iter().find(|status| status.resource == resource);
            let synced = cluster.resource_synced(resource);
            Condition {
                name: format!("{} synced", resource.name()),
                holds: synced,
                detail: status.map(detail).unwrap_or_default(),
            }
        })
        .collect();
    if !cluster.synced() && cluster.has_taken_over(None) {
        conditions.push(Condition {
            name: "taken over".to_owned(),
            holds: true,
            detail: "serving what the configuration before has known until the lists are in"
                .to_owned(),
        });
    }
    if let Some(saved) = cluster.restored_from() {
        let age = SystemTime::now().duration_since(saved).unwrap_or_default();
        conditions.push(Condition {
            name: "snapshot loaded".to_owned(),
            holds: true,
            detail: format!(
                "serving what was known {} s ago until the lists are in",
                age.as_secs()
            ),
        });
    }
    conditions
}

fn detail(status: &WatchStatus) -> String {
    let mut parts = Vec::new();
    let resource = status.resource.name();
    match &status.trouble {
        Some(("forbidden", why)) => parts.push(format!(
            "not allowed to `list` and `watch` `{resource}`: {why}"
        )),
        Some((_, why)) => parts.push(why.clone()),
        None if !status.connected => parts.push("no watch is open".to_owned()),
        None => {}
    }
    if let Some(age) = status.silent_for {
        parts.push(format!("last heard {} s ago", age.as_secs()));
    }
    if let Some(age) = status.confirmed_for {
        parts.push(format!("confirmed {} s ago", age.as_secs()));
    }
    if let Some(version) = &status.resource_version {
        parts.push(format!("version {version}"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Keep, ObjectSink};
    use crate::telemetry::logging::captured;
    use crate::telemetry::metrics::Metrics;

    fn watched(resource: Resource) -> WatchStatus {
        WatchStatus {
            resource,
            synced: true,
            connected: true,
            silent_for: Some(Duration::from_secs(3)),
            confirmed_for: Some(Duration::from_secs(120)),
            resource_version: Some("41".to_owned()),
            trouble: None,
        }
    }

    fn cluster() -> Arc<Cluster> {
        let wanted = [Resource::Services, Resource::Pods];
        let cluster = Arc::new(Cluster::new(&wanted, Keep::default()));
        cluster.list_started(Resource::Services);
        cluster.list_finished(Resource::Services);
        cluster.watched_by(Box::new(|| {
            let refused = WatchStatus {
                synced: false,
                connected: false,
                silent_for: None,
                confirmed_for: None,
                resource_version: None,
                trouble: Some(("forbidden", "pods is forbidden (403)".to_owned())),
                ..watched(Resource::Pods)
            };
            vec![watched(Resource::Services), refused]
        }));
        cluster
    }

    #[test]
    fn conditions_name_each_resource_and_the_right_that_is_missing() {
        let told: Vec<String> = conditions(&cluster())
            .into_iter()
            .map(|one| format!("{} {}: {}", one.holds, one.name, one.detail))
            .collect();
        assert_eq!(
            told,
            [
                "true services synced: last heard 3 s ago; confirmed 120 s ago; version 41",
                "false pods synced: not allowed to `list` and `watch` `pods`: pods is forbidden (403)",
            ]
        );
    }

    #[test]
    fn a_time_that_is_none_is_told_once_a_minute_and_not_at_any_length() {
        let log = captured(|| {
            let metrics = Metrics::new().families::<KubernetesMetrics>();
            let start = Instant::now();
            let long = "soon".repeat(1000);
            metrics.triggered(true, Err(&long));
            for second in [0, 30, 59, 61, 62] {
                metrics.tell(&long, start + Duration::from_secs(second));
            }
        });
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(log.lines().all(|line| line.len() < 200), "{log}");
    }

    fn shown(metrics: &Metrics) -> Vec<String> {
        let families = metrics.registry().gather();
        let mut lines = Vec::new();
        for family in families {
            for metric in family.get_metric() {
                let labels: Vec<_> = metric.get_label().iter().map(|one| one.value()).collect();
                let value = metric.get_gauge().get_value();
                lines.push(format!("{} {} {value}", family.name(), labels.join(" ")));
            }
        }
        lines
    }

    #[test]
    fn gauges_show_all_clusters_together_and_none_that_is_gone() {
        let metrics = Metrics::new();
        let gauges = metrics.families::<ClusterGauges>();
        assert!(shown(&metrics).is_empty());
        let (first, second) = (cluster(), cluster());
        gauges.show(&first);
        gauges.show(&second);
        let name = |name: &str| crate::cluster::objects::Meta {
            name: name.into(),
            ..Default::default()
        };
        first.applied(crate::cluster::objects::Object::Namespace(name("a")));
        second.applied(crate::cluster::objects::Object::Namespace(name("a")));
        let lines = shown(&metrics);
        for line in [
            "fingerpost_kubernetes_objects namespaces 2",
            "fingerpost_kubernetes_objects services 0",
            "fingerpost_kubernetes_addresses  0",
            "fingerpost_kubernetes_resource_version services 41",
            "fingerpost_kubernetes_heard_age_seconds services 3",
            "fingerpost_kubernetes_confirmed_age_seconds services 120",
            "fingerpost_kubernetes_watch_open services 1",
            "fingerpost_kubernetes_watch_open pods 0",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{line}: {lines:?}");
        }
        drop((first, second));
        assert!(shown(&metrics).is_empty());
    }
}
