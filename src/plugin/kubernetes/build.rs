//! From a configuration to a running plugin: the source of the cluster, the wait at start, readiness.

use std::any::Any;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::chain::plugin::Plugin;
#[cfg(feature = "kubernetes")]
use crate::cluster::Inventory;
use crate::cluster::objects::Resource;
use crate::cluster::scope::Scope;
use crate::cluster::source::ApiSource;
use crate::cluster::succession::Line;
use crate::cluster::{Cluster, Feed, Keep, ObjectSink, manifests};
use crate::plugin::kubernetes::config::KubernetesConfig;
#[cfg(feature = "kubernetes")]
use crate::plugin::kubernetes::config::SnapshotConfig;
use crate::plugin::kubernetes::status::{self, ClusterGauges, KubernetesMetrics};
use crate::plugin::kubernetes::{Kubernetes, Origin, PodMode, SPEC, nameserver};
use crate::plugin::{BuildError, Config, resolv_conf};
use crate::server::assembly::Assembly;
use crate::server::lent::{Demands, LentCluster};
use crate::server::process::{Conditions, Process};
use crate::wire::name::{Name, NameBuf};

/// Time between two lines that say we are waiting.
const WAIT_LINE_INTERVAL: Duration = Duration::from_millis(500);

/// Pods have the search domains of their node, and so has this server.
const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Config for KubernetesConfig {
    fn demand(&self, demands: &mut Demands) {
        // Blocks may share the cluster.
        demands.clients |= self.clients;
    }

    fn files(&self, root: &Path) -> Vec<PathBuf> {
        let api: &[PathBuf] = match &self.api {
            _ if !self.manifests.is_empty() => &self.manifests,
            ApiSource::Kubeconfig { path, .. } => std::slice::from_ref(path),
            ApiSource::Endpoint {
                tls: Some(files), ..
            } => files,
            ApiSource::Endpoint { .. } | ApiSource::Default => &[],
        };
        api.iter().map(|path| root.join(path)).collect()
    }

    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let process = Arc::clone(assembly.process);
        let keep = self.keep(assembly.generation.demands);
        let key = self.feed_key(assembly.root, keep);
        let feed = process
            .shared
            .get_or_try(&key, || self.feed(assembly.root, keep, &process))?;
        #[cfg(feature = "kubernetes")]
        {
            if let Some(snapshot) = &self.snapshot {
                self.keep_snapshot(snapshot, keep, &feed, assembly)?;
            }
            self.write_events(assembly)?;
        }
        let (waiting, timeout) = (Arc::clone(&feed.cluster), self.startup_timeout);
        assembly
            .generation
            .before_serving
            .push(Box::pin(async move {
                wait(&waiting, timeout).await;
                take_over(waiting).await;
                Ok(())
            }));
        let probed = Arc::clone(&feed.cluster);
        let explained = Arc::clone(&feed.cluster);
        let conditions: Conditions = Arc::new(move || status::conditions(&explained));
        assembly
            .generation
            .conditions
            .push((SPEC.name.to_owned(), conditions));
        let probe = Arc::new(move || probed.usable());
        assembly
            .generation
            .readiness
            .push((SPEC.name.to_owned(), probe));
        let local_addresses = nameserver::local_addresses(assembly.generation.bind.as_deref());
        let scope = Arc::new(Scope::new(feed, self.exposed_namespaces()));
        assembly.generation.cluster.lend(LentCluster {
            scope: Arc::clone(&scope),
            ttl: self.ttl,
            local_addresses: local_addresses.clone(),
        });
        Ok(vec![Arc::new(self.plugin(scope, local_addresses))])
    }
}

impl KubernetesConfig {
    fn plugin(&self, scope: Arc<Scope>, local_addresses: Box<[IpAddr]>) -> Kubernetes {
        let mut zones = self.zones.clone();
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.as_ref().len()));
        let mut service_suffix = NameBuf::new();
        service_suffix.push_label(b"svc").expect("a label");
        let primary = service_suffix.push_name(self.primary_zone.as_ref());
        primary.expect("the parser keeps zones short enough");
        Kubernetes {
            scope,
            zones: Origin::all(zones, self.fallthrough.as_ref()),
            service_suffix: service_suffix.as_ref().to_name(),
            ttl: self.ttl,
            pods: self.pods,
            search: self.search().into(),
            ignore_empty_service: self.ignore_empty_service,
            zonal: self.zonal,
            multicluster: self.multicluster.as_slice().into(),
            fallthrough: self.fallthrough.clone(),
            local_addresses,
        }
    }

    /// What `autopath` tries after the names of the cluster: read once, as in CoreDNS.
    fn search(&self) -> Vec<Name> {
        if !self.searched {
            return Vec::new();
        }
        resolv_conf::read(Path::new(RESOLV_CONF)).unwrap_or_else(|why| {
            tracing::warn!(target: "plugin/kubernetes", "no search domains of this server for `autopath`: {why}");
            Vec::new()
        })
    }

    fn resources(&self) -> Vec<Resource> {
        let mut resources = vec![Resource::Namespaces, Resource::Services];
        if self.endpoints || !self.multicluster.is_empty() {
            resources.push(Resource::EndpointSlices);
        }
        if self.pods == PodMode::Verified {
            resources.push(Resource::Pods);
        }
        if !self.multicluster.is_empty() {
            resources.push(Resource::ServiceImports);
        }
        resources
    }

    /// The namespaces that `namespaces` lists.
    fn exposed_namespaces(&self) -> Option<Box<[Box<[u8]>]>> {
        let names = self.namespaces.as_ref()?.iter();
        Some(names.filter_map(|name| namespace_label(name)).collect())
    }

    pub(super) fn keep(&self, demands: Demands) -> Keep {
        Keep {
            pod_names: self.endpoint_pod_names,
            external: demands.external,
            external_endpoints: demands.external_endpoints,
            zones: self.zonal,
            imports: !self.multicluster.is_empty(),
            imported_slices_only: !self.endpoints,
            clients: demands.clients && self.pods == PodMode::Verified,
        }
    }

    /// All that one cluster differs from another in: blocks and generations with the same share it.
    pub(super) fn feed_key(&self, root: &Path, keep: Keep) -> String {
        let source = (&self.manifests, &self.api, root);
        let content = self.content_key(keep);
        format!(
            "{source:?} {content} {:?} {:?}",
            self.limits, self.reconcile
        )
    }

    /// All that decides what of a cluster is kept, and how. A snapshot of anything else is foreign.
    fn content_key(&self, keep: Keep) -> String {
        let selectors = (&self.labels, &self.namespace_labels);
        let resources = self.resources();
        format!("{resources:?} {keep:?} {selectors:?}")
    }

    /// Keeps the cluster in a file for as long as this generation or a later one wants it there. What has changed since
    /// the last time is saved when the generation ends.
    #[cfg(feature = "kubernetes")]
    fn keep_snapshot(
        &self,
        snapshot: &SnapshotConfig,
        keep: Keep,
        feed: &Arc<Feed>,
        assembly: &Assembly<'_>,
    ) -> Result<(), BuildError> {
        use crate::cluster::snapshot::format::Key;
        use crate::cluster::snapshot::keeper::{Keeper, Pace, Plan, Silence};
        use crate::cluster::watch::WatchHandle;
        let Ok(watch) = Arc::clone(&feed.source).downcast::<WatchHandle>() else {
            // The parser refuses `snapshot` beside `manifests`.
            return Ok(());
        };
        let content = self.content_key(keep);
        let plan = Plan {
            path: assembly.root.join(&snapshot.path),
            age_max: snapshot.age_max,
            key: Key::of(&format!("{} {content}", watch.server_key())),
            patience: self.startup_timeout,
            host: watch.host().to_owned(),
        };
        // Two sources may lead to one server: the file belongs to one of them.
        let shared = format!("{plan:?} {}", self.feed_key(assembly.root, keep));
        let weak = Arc::downgrade(&watch);
        let silence: Silence = Box::new(move || {
            let status = weak.upgrade().map(|watch| watch.status());
            let status = status.unwrap_or_default().into_iter();
            status.map(|resource| resource.silent_for).collect()
        });
        let process = assembly.process;
        let keeper = process.shared.get_or_try(&shared, || {
            let cluster = Arc::clone(&feed.cluster);
            Keeper::start(plan, Pace::default(), cluster, silence, process).map_err(|error| {
                BuildError(format!("the thread `snapshot` cannot be started: {error}"))
            })
        })?;
        let stop = assembly.generation.stop.clone();
        let tasks = &assembly.generation.tasks;
        tasks.spawn_on(
            async move {
                stop.cancelled().await;
                keeper.flush().await;
            },
            &process.runtime,
        );
        Ok(())
    }

    pub(super) fn feed(
        &self,
        root: &Path,
        keep: Keep,
        process: &Arc<Process>,
    ) -> Result<Arc<Feed>, BuildError> {
        let cluster = Arc::new(Cluster::new(&self.resources(), keep));
        let metrics = process.metrics.families::<KubernetesMetrics>();
        cluster.observe_triggers(Box::new(move |headless, time| {
            metrics.triggered(headless, time)
        }));
        let metrics = process.metrics.families::<KubernetesMetrics>();
        cluster.observe(Box::new(move |observation| metrics.noticed(observation)));
        process.metrics.families::<ClusterGauges>().show(&cluster);
        let mut line = Arc::<Line>::default();
        let source: Arc<dyn Any + Send + Sync> = if self.manifests.is_empty() {
            let (source, server) = self.watch_api(root, &cluster, process)?;
            // Of the same API server, with the same selectors: what one of them knows is true for the others.
            let key = format!("{server} {:?} {:?}", self.labels, self.namespace_labels);
            let found = process
                .shared
                .get_or_try(&key, || Ok::<_, Infallible>(Arc::clone(&line)));
            let Ok(found) = found;
            line = found;
            line.add(&cluster);
            source
        } else {
            let sink: Arc<dyn ObjectSink> = cluster.clone();
            let paths = self.manifests.iter().map(|path| root.join(path)).collect();
            let filter = manifests::Filter {
                labels: self.labels.clone().unwrap_or_default(),
                namespace_labels: self.namespace_labels.clone().unwrap_or_default(),
            };
            let started = manifests::start(paths, filter, cluster.wanted(), sink, &process.runtime);
            Arc::new(started.map_err(|faults| {
                let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
                BuildError(lines.join("; "))
            })?)
        };
        Ok(Arc::new(Feed {
            cluster,
            source,
            line,
        }))
    }

    /// Reloads that fail are told at our own Pod, if we know which that is.
    #[cfg(feature = "kubernetes")]
    fn write_events(&self, assembly: &mut Assembly<'_>) -> Result<(), BuildError> {
        use crate::cluster::connect::{Connection, Surroundings};
        use crate::cluster::events::{Events, GAP, OwnPod};
        if !self.manifests.is_empty() || assembly.generation.herald.is_some() {
            return Ok(());
        }
        let Some(pod) = OwnPod::of_process() else {
            return Ok(());
        };
        let (process, source) = (assembly.process, self.source(assembly.root));
        let make = || -> Result<_, BuildError> {
            let connection = Connection::of(&source, &Surroundings::of_process())?;
            Ok(Arc::new(Events::new(connection, pod, GAP, process)?))
        };
        // A later generation goes on with the series.
        let events = process.shared.get_or_try(&format!("{source:?}"), make)?;
        assembly.generation.herald = Some(events);
        Ok(())
    }

    /// The API server, with files below `root`.
    #[cfg(feature = "kubernetes")]
    fn source(&self, root: &Path) -> ApiSource {
        let mut source = self.api.clone();
        match &mut source {
            ApiSource::Kubeconfig { path, .. } => *path = root.join(&*path),
            ApiSource::Endpoint {
                tls: Some(files), ..
            } => {
                for file in files {
                    *file = root.join(&*file);
                }
            }
            ApiSource::Endpoint { .. } | ApiSource::Default => {}
        }
        source
    }

    /// Starts to watch. Returns what keeps the watch running, and what this API server differs from another in.
    #[cfg(feature = "kubernetes")]
    fn watch_api(
        &self,
        root: &Path,
        cluster: &Arc<Cluster>,
        process: &Arc<Process>,
    ) -> Result<(Arc<dyn Any + Send + Sync>, String), BuildError> {
        use crate::cluster::selector::Selector;
        use crate::cluster::watch;
        let source = self.source(root);
        let text = |selector: &Option<Selector>| selector.as_ref().map(|one| one.text().to_owned());
        let plan = watch::WatchPlan {
            resources: self.resources(),
            label_selector: text(&self.labels),
            namespace_label_selector: text(&self.namespace_labels),
            imported_slices_only: !self.endpoints,
            limits: self.limits,
            reconcile: self.reconcile,
        };
        let sink: Arc<dyn Inventory> = Arc::clone(cluster) as _;
        let handle = watch::start(source, plan, sink, process)?;
        cluster.watched_by(handle.probe());
        let server = handle.server_key().to_owned();
        Ok((handle, server))
    }

    #[cfg(not(feature = "kubernetes"))]
    fn watch_api(
        &self,
        _: &Path,
        _: &Arc<Cluster>,
        _: &Arc<Process>,
    ) -> Result<(Arc<dyn Any + Send + Sync>, String), BuildError> {
        Err(BuildError(
            "this build reads `manifests` only: it has no API client".to_owned(),
        ))
    }
}

/// Without lists what the configuration before has known is served.
async fn take_over(cluster: Arc<Cluster>) {
    let taken = tokio::task::spawn_blocking(move || cluster.take_over());
    // A panic in it has been logged, and costs no more than what was not taken.
    if let Ok(true) = taken.await {
        tracing::warn!(
            target: "plugin/kubernetes",
            "the API server has not told what is there: going on with what the configuration before has known"
        );
    }
}

/// Waits for the first lists or a snapshot, but not for ever: forwarding must work without the API server.
async fn wait(cluster: &Cluster, timeout: Duration) {
    let servable = cluster.wait_servable();
    tokio::pin!(servable);
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            biased;
            () = &mut servable => return,
            () = &mut deadline => {
                if !timeout.is_zero() && !cluster.has_predecessor() {
                    tracing::warn!(target: "plugin/kubernetes", "starting server with unsynced Kubernetes API");
                }
                return;
            }
            () = tokio::time::sleep(WAIT_LINE_INTERVAL) => {
                tracing::info!(target: "plugin/kubernetes", "waiting for Kubernetes API before starting server");
            }
        }
    }
}

/// `\4shop` from `shop`, in the letter case given: as in CoreDNS, a name with capitals matches no namespace. None if
/// it is no label, which no namespace can have either.
fn namespace_label(name: &str) -> Option<Box<[u8]>> {
    let wire = Name::from_text(name).ok()?;
    let labels = wire.as_ref();
    (labels.label_count() == 1).then(|| labels.as_wire()[..labels.len() - 1].into())
}
