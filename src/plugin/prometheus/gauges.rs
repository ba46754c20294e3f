//! What does not count queries: the build, the process, the runtime, the plugins in use.

use std::sync::OnceLock;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::runtime::Handle;

use crate::cli::{COMMIT, RUSTC, VERSION};
use crate::plugin::prometheus::SPEC;
use crate::telemetry::exposition::{Draft, Kind};
use crate::telemetry::metrics::{Families, Metrics};
use crate::zone::block::ServerBlock;

/// `coredns_build_info` and `process_*`.
pub(in crate::plugin::prometheus) struct ProcessMetrics;

impl Families for ProcessMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let build = IntGaugeVec::new(
            Opts::new(
                "coredns_build_info",
                "version and revision of fingerpost; `goversion` is Rust's, under the name that dashboards know",
            ),
            &["version", "revision", "goversion"],
        )?;
        let rust = format!("rust{RUSTC}");
        build.with_label_values(&[VERSION, COMMIT, &rust]).set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self)
    }
}

/// `coredns_plugin_enabled`.
struct EnabledMetrics(IntGaugeVec);

impl Families for EnabledMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let enabled = IntGaugeVec::new(
            Opts::new(
                "coredns_plugin_enabled",
                "plugins in the chains of server blocks that load `prometheus`; always 1",
            ),
            &["server", "zone", "view", "name"],
        )?;
        registry.register(Box::new(enabled.clone()))?;
        Ok(Self(enabled))
    }
}

/// Shows which plugins the blocks of a generation have, in place of those of the last one. Blocks that do not load
/// `prometheus` are left out. For the server, once a generation serves.
pub fn show_enabled<'b>(metrics: &Metrics, blocks: impl IntoIterator<Item = &'b ServerBlock>) {
    let enabled = &metrics.families::<EnabledMetrics>().0;
    enabled.reset();
    for block in blocks {
        if !block.chain.names().any(|name| name == SPEC.name) {
            continue;
        }
        let zone = block.origin.to_string();
        for name in block.chain.names() {
            let labels = [&*block.server, &zone, "", name];
            enabled.with_label_values(&labels).set(1);
        }
    }
}

/// `fingerpost_runtime_*`, shown once the runtime is named.
pub(in crate::plugin::prometheus) struct RuntimeMetrics(RuntimeCollector);

#[derive(Clone)]
struct RuntimeCollector {
    runtime: std::sync::Arc<OnceLock<Handle>>,
    descs: Vec<Desc>,
}

/// Name and help.
const RUNTIME: [(&str, &str); 3] = [
    (
        "fingerpost_runtime_workers",
        "threads of the asynchronous runtime",
    ),
    (
        "fingerpost_runtime_tasks",
        "tasks of the asynchronous runtime that are alive",
    ),
    (
        "fingerpost_runtime_queue",
        "tasks that wait for a thread of the asynchronous runtime",
    ),
];

impl RuntimeMetrics {
    /// Shows this runtime. Once on, it stays on until the process ends, as in CoreDNS.
    pub(in crate::plugin::prometheus) fn watch(&self, runtime: &Handle) {
        self.0.runtime.get_or_init(|| runtime.clone());
    }
}

impl Families for RuntimeMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let desc = |(name, help): (&str, &str)| {
            Desc::new(
                name.to_owned(),
                help.to_owned(),
                Vec::new(),
                Default::default(),
            )
        };
        let collector = RuntimeCollector {
            runtime: Default::default(),
            descs: RUNTIME.into_iter().map(desc).collect::<Result<_, _>>()?,
        };
        registry.register(Box::new(collector.clone()))?;
        Ok(Self(collector))
    }
}

impl Collector for RuntimeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "the format knows floats only; exact up to 2^53"
    )]
    fn collect(&self) -> Vec<MetricFamily> {
        let Some(runtime) = self.runtime.get() else {
            return Vec::new();
        };
        let metrics = runtime.metrics();
        let values = [
            metrics.num_workers(),
            metrics.num_alive_tasks(),
            metrics.global_queue_depth(),
        ];
        let family = |((name, help), value): ((&str, &str), usize)| {
            let mut draft = Draft::new(name, help, &[], Kind::Gauge);
            draft.gauge(&[], value as f64);
            draft.into_family()
        };
        RUNTIME.into_iter().zip(values).map(family).collect()
    }
}
