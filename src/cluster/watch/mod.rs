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
//!
//! Protobuf is asked for first and JSON second; a server that has no streamed lists is listed in pages.

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

/// What is asked of the API server.
mod request;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::cluster::ObjectSink;
use crate::cluster::connect::{Connection, Surroundings};
use crate::cluster::objects::Resource;
use crate::cluster::source::{ApiSource, ConnectError, Limits};
use crate::cluster::thread::ClusterThread;
use crate::cluster::watch::follow::Follower;
use crate::cluster::watch::metrics::ClientMetrics;
use crate::cluster::watch::pace::Pace;
use crate::cluster::watch::request::Link;
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
    /// `apiserver_*`: how often and how widely the API server is asked.
    pub limits: Limits,
}

/// Keeps watches running: when the last one is dropped they stop. The sink must not hold it, since the watches hold the
/// sink.
pub struct WatchHandle {
    followed: Vec<(Resource, Arc<Progress>)>,
    host: String,
    stop: CancellationToken,
    _thread: Arc<ClusterThread>,
}

/// How one resource is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStatus {
    /// Which.
    pub resource: Resource,
    /// A list was taken in to its end.
    pub synced: bool,
    /// A watch is open right now.
    pub connected: bool,
    /// Time since the last byte; none before the first.
    pub silent_for: Option<Duration>,
    /// What we have is the state of this version; none before the first list.
    pub resource_version: Option<String>,
}

impl WatchHandle {
    /// How each resource is doing, in the order of the plan.
    pub fn status(&self) -> Vec<WatchStatus> {
        self.followed
            .iter()
            .map(|(resource, progress)| progress.status(*resource))
            .collect()
    }

    /// Host and port of the API server.
    pub fn host(&self) -> &str {
        &self.host
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
    sink: Arc<dyn ObjectSink>,
    process: &Arc<Process>,
) -> Result<Arc<WatchHandle>, ConnectError> {
    let connection = Connection::of(&source, &Surroundings::of_process())?;
    start_on(connection, plan, sink, process, Pace::default())
}

/// Starts to watch over a connection, at a pace of one's own.
pub fn start_on(
    connection: Connection,
    plan: WatchPlan,
    sink: Arc<dyn ObjectSink>,
    process: &Arc<Process>,
    pace: Pace,
) -> Result<Arc<WatchHandle>, ConnectError> {
    let thread = ClusterThread::of(process)?;
    let metrics = process.metrics.families::<ClientMetrics>();
    let stop = CancellationToken::new();
    let host = connection.host().to_owned();
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
        followed.push((resource, progress));
    }
    Ok(Arc::new(WatchHandle {
        followed,
        host,
        stop,
        _thread: thread,
    }))
}

/// What a task tells about itself, read by others.
#[derive(Debug)]
struct Progress {
    began: Instant,
    /// Milliseconds from `began` to the last byte, plus one; zero means none came yet.
    heard: AtomicU64,
    synced: AtomicBool,
    connected: AtomicBool,
    version: Mutex<Option<String>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            heard: AtomicU64::new(0),
            synced: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            version: Mutex::new(None),
        }
    }
}

impl Progress {
    fn heard(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(millis + 1, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.began
                .elapsed()
                .saturating_sub(Duration::from_millis(heard)),
        )
    }

    fn version(&self) -> Option<String> {
        self.version
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_version(&self, version: &str) {
        let mut held = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get_or_insert_default();
        held.clear();
        held.push_str(version);
    }

    fn forget_version(&self) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn status(&self, resource: Resource) -> WatchStatus {
        WatchStatus {
            resource,
            synced: self.synced.load(Ordering::Acquire),
            connected: self.connected.load(Ordering::Relaxed),
            silent_for: self.silent_for(),
            resource_version: self.version(),
        }
    }
}
