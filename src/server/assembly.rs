//! What a plugin is built with.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chain::content::Held;
use crate::chain::plugin::Plugin;
use crate::corefile::key::Key;
use crate::plugin::BuildError;
use crate::server::lent::{ClusterSlot, Demands};
use crate::server::process::{Conditions, Process, ReadyProbe};
use crate::wire::code::RecordType;
use crate::wire::name::{Name, NameRef};

/// A future that somebody else runs.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Lent to each plugin's `build`: what is shared, and where to leave what must run.
pub struct Assembly<'a> {
    /// What outlives this generation.
    pub process: &'a Arc<Process>,
    /// The zones of the server block.
    pub keys: &'a [Key],
    /// The metrics label `server` of the block's first key: `dns://:53`.
    pub server: &'a Arc<str>,
    /// The folder that relative file names are looked up in (`root`); empty means the working directory.
    pub root: &'a Path,
    /// A hash of everything configured below this plugin in this block: two caches may share an entry only if it is
    /// the same.
    pub fingerprint_below: u64,
    /// What this generation must run.
    pub generation: &'a mut Plan,
}

impl Assembly<'_> {
    /// The zones of the server block, each once.
    pub fn origins(&self) -> Vec<Name> {
        let mut origins: Vec<Name> = Vec::new();
        for key in self.keys {
            if !origins.contains(&key.zone) {
                origins.push(key.zone.clone());
            }
        }
        origins
    }

    /// Runs a task for as long as this generation serves.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.generation.spawn(&self.process.runtime, task);
    }
}

/// What a generation of server blocks must run beside its chains. Filled by the plugins, carried out by the server.
#[derive(Default)]
pub struct Plan {
    /// Awaited, all at once, before the sockets answer from this generation. An error gives the generation up.
    pub before_serving: Vec<Task<Result<(), BuildError>>>,
    /// Spawned as soon as the sockets answer from this generation.
    pub after_serving: Vec<Task<()>>,
    /// HTTP listeners.
    pub http: Vec<HttpEndpoint>,
    /// Who has to be ready.
    pub readiness: Vec<(String, ReadyProbe)>,
    /// What readiness is made of, for those who want to know.
    pub conditions: Vec<(String, Conditions)>,
    /// How long to serve on after the signal to stop; the longest counts.
    pub lameduck: Duration,
    /// How long it has to be quiet then, before it stops; the longest counts.
    pub quiet: Quiet,
    /// How to watch the Corefile; the last one counts.
    pub reload: Option<ReloadSettings>,
    /// The upstreams of the block being built; the server puts an empty list here before each block.
    pub upstreams: Upstreams,
    /// What the plugins of all blocks need of each other; complete before the first is built.
    pub demands: Demands,
    /// The cluster of the block being built; the server puts an empty slot here before each block.
    pub cluster: ClusterSlot,
    /// The links of the block being built, likewise.
    pub links: Links,
    /// Addresses to listen on instead of the wildcard, for the block being built.
    pub bind: Option<Vec<std::net::IpAddr>>,
    /// Who says outside of the log what is wrong, if anybody does; the first one counts.
    pub herald: Option<Arc<dyn Herald>>,
    /// Debug lines are wanted, and a panic ends the process.
    pub debug: bool,
    /// Cancelled when the generation is retired.
    pub stop: CancellationToken,
    /// Its tasks.
    pub tasks: TaskTracker,
}

impl Plan {
    /// Runs a task until the generation is retired.
    pub fn spawn(
        &self,
        runtime: &tokio::runtime::Handle,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            },
            runtime,
        );
    }
}

/// The upstreams of one server block: who sends queries out adds its own, who looks after them reads the list once
/// the block serves. Clones share one list.
#[derive(Clone, Default)]
pub struct Upstreams {
    list: Arc<Mutex<Vec<Arc<dyn Upstream>>>>,
}

impl Upstreams {
    /// Adds one.
    pub fn add(&self, upstream: Arc<dyn Upstream>) {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(upstream);
    }

    /// All of them, in the order they were added.
    pub fn all(&self) -> Vec<Arc<dyn Upstream>> {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The links of one server block, known once all are built: for tasks that look at what the others hold while the block
/// serves. A link must not keep it, only a task of the generation, else they would keep each other alive.
#[derive(Clone, Default)]
pub struct Links {
    all: Arc<OnceLock<Vec<Arc<dyn Plugin>>>>,
}

impl Links {
    /// Says which they are; only the first word counts.
    pub fn set(&self, links: &[Arc<dyn Plugin>]) {
        self.all.get_or_init(|| links.to_vec());
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<dyn Plugin>> {
        self.all.get().into_iter().flatten()
    }

    /// The apexes of all zones that can be handed out whole.
    pub fn zones_held(&self) -> Vec<Name> {
        self.iter().flat_map(|link| link.zones_held()).collect()
    }

    /// What the first link that holds the zone has of it.
    pub fn content(&self, apex: NameRef<'_>) -> Held {
        self.iter()
            .map(|link| link.content(apex))
            .find(|held| !matches!(held, Held::Nothing))
            .unwrap_or(Held::Nothing)
    }
}

/// Says what is wrong where people look who do not read the log.
pub trait Herald: Send + Sync {
    /// Says it; waits for nothing. `reason` is a word in CamelCase.
    fn warn(self: Arc<Self>, reason: &'static str, note: &str);
}

/// A server that a block sends queries to.
pub trait Upstream: Send + Sync {
    /// Where it is.
    fn address(&self) -> SocketAddr;

    /// The file that named it (`/etc/resolv.conf`); none if the Corefile did.
    fn file(&self) -> Option<&Path>;

    /// Only names at or below this one are sent to it.
    fn origin(&self) -> &Name;

    /// Sends it one question, whether or not it is up or taken out. True if any reply came in time.
    fn ask(&self, qname: &Name, qtype: RecordType) -> Task<bool>;

    /// Sends it no more queries as long as what comes back is kept.
    fn take_out(&self) -> TakenOut;
}

/// Keeps an upstream out until it is dropped.
#[derive(Debug)]
pub struct TakenOut(Arc<AtomicUsize>);

impl TakenOut {
    /// Counts itself in `holders`; the upstream is out while there are any.
    pub fn new(holders: &Arc<AtomicUsize>) -> Self {
        holders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(holders))
    }
}

impl Drop for TakenOut {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When clients have gone elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// They have if nothing has come in for so long; zero: they are not waited for.
    pub time: Duration,
    /// They are not waited for any longer, counted from the signal to stop.
    pub patience: Duration,
}

/// How the Corefile is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadSettings {
    /// Time between two looks.
    pub interval: Duration,
    /// Half of this is added or taken away at random, once a generation, so that replicas do not switch together.
    pub jitter: Duration,
}

/// What an HTTP listener that cannot be opened means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBindFailure {
    /// The start, or the reload, fails.
    Fatal,
    /// A log line.
    Log,
}

/// The answer to one HTTP request, decided from method and path.
pub type HttpHandler =
    Arc<dyn Fn(&http::Method, &http::Uri) -> http::Response<Bytes> + Send + Sync>;

/// One HTTP listener. Two with the same address share it if they belong to the same plugin.
pub struct HttpEndpoint {
    /// Who wants it.
    pub plugin: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// What a failure to bind means.
    pub on_bind_failure: OnBindFailure,
    /// Answers.
    pub handler: HttpHandler,
}
