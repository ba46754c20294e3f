//! Lists and watches the API server, and tells a sink what there is.
//!
//! ```text
//!              410, data gone back in time, long silence
//!        +--------------------------------------------------+
//!        v                                                  |
//!   list, as a stream  --list ends-->  watch  --ends-->  resume from the last version
//!        |  refused                      ^                  |
//!        v                               |                  |
//!   list, in pages  ---------------------+------------------+
//! ```
//!
//! One task a resource, all on the thread `cluster`. Rules that every task keeps:
//!
//! - What was listed is served on while we fail: a sink hears of a loss from a complete list or a delete event only.
//! - Nothing waits forever: the head of a reply, the next byte of a list and the next byte of a watch each have a
//!   deadline ([`pace::Pace`]).
//! - A failure is followed by a growing delay with jitter; so is a watch that ends well but at once. Only the first 410
//!   is not: our data are stale then, and the server is well.
//! - No request is sent before the rate allows it, and no more lists run at once than allowed ([`Limits`]).
//! - Every byte received is noted ([`WatchStatus::silent_for`]), so that staleness can be seen.
//! - From time to time what is known is compared with what the server has: events may be lost without a sign.
//!
//! Protobuf is asked for first and JSON second, and JSON alone for a while after protobuf that cannot be read; a server that has no streamed lists is listed in pages.

/// What a watch says.
pub mod event;

/// Why a watch failed, and what follows from it.
mod failure;

/// The task of one resource.
mod follow;

/// The body of a watch, cut into events.
pub mod frame;

/// JSON events.
mod json;

/// The log lines of failures, few of them.
mod journal;

/// What is counted.
pub mod metrics;

/// Holds requests back.
mod limit;

/// Deadlines and delays.
pub mod pace;

/// Which encoding is asked for.
mod preference;

/// What a task tells about itself.
mod progress;

/// Finds out what the watch lost.
mod reconcile;

/// What is asked of the API server.
mod request;

/// The client, and when it is made anew.
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cluster::Inventory;
use crate::cluster::connect::{Connection, Surroundings};
use crate::cluster::objects::Resource;
use crate::cluster::source::{ApiSource, ConnectError, Limits};
use crate::cluster::status::StatusProbe;
pub use crate::cluster::status::WatchStatus;
use crate::cluster::thread::ClusterThread;
use crate::cluster::watch::follow::Follower;
use crate::cluster::watch::metrics::ClientMetrics;
use crate::cluster::watch::pace::Pace;
use crate::cluster::watch::progress::Progress;
use crate::cluster::watch::reconcile::Reconciler;
use crate::cluster::watch::request::{Link, Target};
use crate::server::process::Process;

/// What is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchPlan {
    /// The resources.
    pub resources: Vec<Resource>,
    /// `labels`: which Services, EndpointSlices and Pods.
    pub label_selector: Option<String>,
    /// `namespace_labels`: which Namespaces and ServiceImports.
    pub namespace_label_selector: Option<String>,
    /// Only the EndpointSlices that come from other clusters.
    pub imported_slices_only: bool,
    /// `apiserver_*`: how often and how widely the API server is asked.
    pub limits: Limits,
    /// `reconcile`: how often what is known is compared with what the API server has; none is never.
    pub reconcile: Option<Duration>,
}

impl WatchPlan {
    fn target(&self, resource: Resource) -> Target {
        if resource == Resource::EndpointSlices && self.imported_slices_only {
            let imported = Some("multicluster.kubernetes.io/service-name");
            let labels = [self.label_selector.as_deref(), imported];
            let labels: Vec<&str> = labels.into_iter().flatten().collect();
            return Target::new(resource, Some(&labels.join(",")));
        }
        let labels = match resource {
            // CoreDNS asks for ServiceImports by the labels that are meant for namespaces.
            Resource::Namespaces | Resource::ServiceImports => &self.namespace_label_selector,
            Resource::Services | Resource::EndpointSlices | Resource::Pods => &self.label_selector,
        };
        Target::new(resource, labels.as_deref())
    }
}

/// Keeps watches running: when the last one is dropped they stop. The sink must not hold it, since the watches hold the
/// sink.
pub struct WatchHandle {
    followed: Vec<(Resource, Arc<Progress>)>,
    host: String,
    server_key: String,
    stop: CancellationToken,
    _thread: Arc<ClusterThread>,
}

impl WatchHandle {
    /// How each resource is doing, in the order of the plan.
    pub fn status(&self) -> Vec<WatchStatus> {
        self.followed
            .iter()
            .map(|(resource, progress)| progress.status(*resource))
            .collect()
    }

    /// Says the same for as long as anybody asks, and keeps nothing running.
    pub fn probe(&self) -> StatusProbe {
        let followed = self.followed.clone();
        Box::new(move || {
            followed
                .iter()
                .map(|(resource, progress)| progress.status(*resource))
                .collect()
        })
    }

    /// Host and port of the API server.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What this API server differs from another in, also from one with the same address.
    pub fn server_key(&self) -> &str {
        &self.server_key
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Reads the configuration and the credentials, then starts to watch. Waits for no network.
pub fn start(
    source: ApiSource,
    plan: WatchPlan,
    sink: Arc<dyn Inventory>,
    process: &Arc<Process>,
) -> Result<Arc<WatchHandle>, ConnectError> {
    let connection = Connection::of(&source, &Surroundings::of_process())?;
    start_on(connection, plan, sink, process, Pace::default())
}

/// Starts to watch over a connection, at a pace of one's own.
pub fn start_on(
    connection: Connection,
    plan: WatchPlan,
    sink: Arc<dyn Inventory>,
    process: &Arc<Process>,
    pace: Pace,
) -> Result<Arc<WatchHandle>, ConnectError> {
    let thread = ClusterThread::of(process)?;
    let metrics = process.metrics.families::<ClientMetrics>();
    let stop = CancellationToken::new();
    let host = connection.host().to_owned();
    let server_key = connection.server_key();
    let link = Arc::new(Link::new(connection, metrics, pace, plan.limits));
    let mut followed = Vec::new();
    for &resource in &plan.resources {
        let progress = Arc::new(Progress::default());
        let follower = Follower::new(
            resource,
            &plan,
            Arc::clone(&link),
            Arc::clone(&sink),
            Arc::clone(&progress),
        );
        thread.spawn(stop.clone(), follower.run());
        if let Some(interval) = plan.reconcile {
            let reconciler = Reconciler {
                resource,
                target: plan.target(resource),
                interval,
                link: Arc::clone(&link),
                sink: Arc::clone(&sink),
                progress: Arc::clone(&progress),
                metrics: link.metrics.reconcile(resource),
                unusable: HashMap::new(),
            };
            thread.spawn(stop.clone(), reconciler.run());
        }
        followed.push((resource, progress));
    }
    let progresses = followed.iter().map(|(_, progress)| Arc::clone(progress));
    // The tasks have not asked for anything yet that could tell of a restore.
    let _ = link.followed.set(progresses.collect());
    Ok(Arc::new(WatchHandle {
        followed,
        host,
        server_key,
        stop,
        _thread: thread,
    }))
}
