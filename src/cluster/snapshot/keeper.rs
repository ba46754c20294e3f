//! The thread that saves and loads.
//!
//! ```text
//! start --lists in---------------------------------------------> save from time to time
//!   |                                                               ^
//!   '--no octet from the API server, or no end of the lists--> load '--lists in at last
//! ```
//!
//! A server that answers is waited for: its lists take less than a second, and are true. One that has not sent an octet
//! after [`Pace::grace`] is away, or as good as that.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use crate::cluster::Cluster;
use crate::cluster::snapshot::file;
use crate::cluster::snapshot::format::{Encoder, Key, Refusal, Snapshot};
use crate::cluster::snapshot::metrics::SnapshotMetrics;
use crate::server::process::Process;

/// What is kept, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file.
    pub path: PathBuf,
    /// What is older is not loaded.
    pub age_max: Duration,
    /// Which cluster.
    pub key: Key,
    /// How long lists that have begun may take before the snapshot is served after all.
    pub patience: Duration,
    /// The API server, as log lines name it.
    pub host: String,
}

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// An API server that has sent nothing for so long after the start is away. One in the same network answers within
    /// a few milliseconds.
    pub grace: Duration,
    /// Between two files, at least; more if they are large.
    pub interval: Duration,
    /// Octets written in a second, in the long run: 5 GB a day.
    pub rate: u64,
    /// A file of which nothing has changed is still written anew after this, so that its age tells how long ago the
    /// cluster was last seen, not how long it has been quiet.
    pub confirm: Duration,
    /// Between two looks whether the lists are in.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(100),
            interval: Duration::from_secs(30),
            rate: 64 << 10,
            confirm: Duration::from_secs(600),
            look: Duration::from_secs(1),
        }
    }
}

impl Pace {
    /// Time from a file of so many octets to the next one.
    fn interval_after(&self, size: usize) -> Duration {
        let by_rate = Duration::from_secs(size as u64 / self.rate.max(1));
        self.interval.max(by_rate)
    }
}

/// How long each resource's watch has been silent; none before its first octet.
pub type Silence = Box<dyn Fn() -> Vec<Option<Duration>> + Send>;

/// Keeps the thread running: it ends when the last one is dropped.
pub struct Keeper {
    orders: Sender<oneshot::Sender<()>>,
}

impl Keeper {
    /// Starts the thread.
    pub fn start(
        plan: Plan,
        pace: Pace,
        cluster: Arc<Cluster>,
        silence: Silence,
        process: &Process,
    ) -> io::Result<Arc<Self>> {
        let claim = process
            .shared
            .get_or_try(&plan.path.to_string_lossy(), || {
                Ok::<_, io::Error>(Arc::new(Claims::default()))
            })?;
        let metrics = process.metrics.families::<SnapshotMetrics>();
        metrics.watch(&cluster);
        let (orders, received) = channel();
        let work = Work {
            claim: Claim::make(&claim, &plan),
            plan,
            pace,
            cluster,
            silence,
            metrics,
            saved: None,
            failing: false,
        };
        std::thread::Builder::new()
            .name("snapshot".to_owned())
            .spawn(move || work.run(&received))?;
        Ok(Arc::new(Self { orders }))
    }

    /// Saves what has changed, now. Returns when the file is on the disk, or could not be written.
    pub async fn flush(&self) {
        let (done, saved) = oneshot::channel();
        if self.orders.send(done).is_ok() {
            // Nothing comes if the thread is gone.
            let _ = saved.await;
        }
    }
}

/// Who writes a path. While a reload is under way two may want to: the newer one does, and the older again if the newer
/// is given up.
#[derive(Default)]
struct Claims {
    holders: Mutex<Vec<Arc<()>>>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

struct Claim {
    of: Arc<Claims>,
    own: Arc<()>,
}

impl Claim {
    fn make(of: &Arc<Claims>, plan: &Plan) -> Self {
        let own = Arc::new(());
        let mut holders = lock(&of.holders);
        if !holders.is_empty() {
            tracing::info!(
                target: "plugin/kubernetes",
                "`{}` now takes the snapshot of another configuration", plan.path.display()
            );
        }
        holders.push(Arc::clone(&own));
        drop(holders);
        let of = Arc::clone(of);
        Self { of, own }
    }

    /// The right to write now, if it is ours.
    fn write(&self) -> Option<MutexGuard<'_, ()>> {
        let writing = lock(&self.of.writing);
        let holders = lock(&self.of.holders);
        let is_ours = holders
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, &self.own));
        drop(holders);
        is_ours.then_some(writing)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.of.holders).retain(|holder| !Arc::ptr_eq(holder, &self.own));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last file that was written.
#[derive(Clone, Copy)]
struct Saved {
    changes: u64,
    /// What it is the state of, by a clock that does not jump.
    as_of: Instant,
    size: usize,
}

/// The thread's own.
struct Work {
    plan: Plan,
    pace: Pace,
    claim: Claim,
    cluster: Arc<Cluster>,
    silence: Silence,
    metrics: Arc<SnapshotMetrics>,
    saved: Option<Saved>,
    /// The last attempt to write failed, and it was told.
    failing: bool,
}

/// Nobody holds the [`Keeper`] any more.
struct Dropped;

impl Work {
    fn run(mut self, orders: &Receiver<oneshot::Sender<()>>) {
        file::sweep(&self.plan.path);
        if self.start(orders).is_err() {
            return;
        }
        let mut pause = Duration::ZERO;
        while self.wait(pause, orders).is_ok() {
            pause = if !self.cluster.synced() {
                self.pace.look
            } else {
                if self.is_due() {
                    self.save();
                }
                let size = self.saved.map_or(0, |saved| saved.size);
                self.pace.interval_after(size)
            };
        }
    }

    /// Waits for the lists as long as there is hope, then loads the file.
    fn start(&mut self, orders: &Receiver<oneshot::Sender<()>>) -> Result<(), Dropped> {
        let began = Instant::now();
        self.wait(self.pace.grace, orders)?;
        let is_away = || (self.silence)().iter().all(Option::is_none);
        if !is_away() {
            while !self.cluster.synced() && began.elapsed() < self.plan.patience {
                let left = self.plan.patience.saturating_sub(began.elapsed());
                self.wait(left.min(self.pace.grace), orders)?;
            }
        }
        // What was known a moment ago is better than what was saved then, and comes if the lists do not.
        if !self.cluster.usable() && !self.cluster.has_predecessor() {
            self.load();
        }
        Ok(())
    }

    /// Carries out orders for so long.
    fn wait(
        &mut self,
        time: Duration,
        orders: &Receiver<oneshot::Sender<()>>,
    ) -> Result<(), Dropped> {
        let end = Instant::now() + time;
        loop {
            match orders.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(done) => {
                    let has_changed = |saved: Saved| saved.changes != self.cluster.changes();
                    if self.cluster.synced() && self.saved.is_none_or(has_changed) {
                        self.save();
                    }
                    // Whoever ordered it may have gone.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Dropped),
            }
        }
    }

    /// How long ago what we know was the cluster's state: at the last octet on the watch that has been silent the
    /// longest. A healthy one is never silent for much more than a minute.
    fn lag(&self) -> Duration {
        let silence = (self.silence)().into_iter().flatten().max();
        silence.unwrap_or_default()
    }

    fn is_due(&self) -> bool {
        self.saved.is_none_or(|saved| {
            let later = saved.as_of.elapsed().saturating_sub(self.lag());
            saved.changes != self.cluster.changes() || later >= self.pace.confirm
        })
    }

    fn save(&mut self) {
        // Before the objects are looked at: what changes meanwhile is saved again.
        let (changes, lag) = (self.cluster.changes(), self.lag());
        let saved_at = SystemTime::now().checked_sub(lag);
        let saved_at = saved_at.unwrap_or(SystemTime::UNIX_EPOCH);
        let now = Instant::now();
        let Some(_ours) = self.claim.write() else {
            return;
        };
        let written = file::replace(&self.plan.path, |file| self.write(file, saved_at));
        let path = self.plan.path.display();
        match written {
            Ok(size) => {
                self.metrics.saved(saved_at, size);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(target: "plugin/kubernetes", "the snapshot `{path}` is written again");
                }
                self.saved = Some(Saved {
                    changes,
                    as_of: now.checked_sub(lag).unwrap_or(now),
                    size,
                });
            }
            Err(error) => {
                self.metrics.save_failed();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(
                        target: "plugin/kubernetes",
                        "the snapshot `{path}` cannot be written: {error}; trying again"
                    );
                }
            }
        }
    }

    fn write(&self, file: &File, saved_at: SystemTime) -> io::Result<usize> {
        let mut encoder = Encoder::new(file, self.plan.key, saved_at);
        self.cluster.export(|object| encoder.object(object))?;
        let (_, size) = encoder.finish()?;
        Ok(size)
    }

    fn load(&self) {
        let path = self.plan.path.display();
        match self.try_load() {
            Ok((objects, age)) => {
                self.metrics.loaded("loaded");
                tracing::warn!(
                    target: "plugin/kubernetes",
                    "API server `{}` does not answer: serving {objects} objects of the snapshot `{path}`, {} s old",
                    self.plan.host, age.as_secs()
                );
            }
            Err(NotLoaded::Missing) => {
                self.metrics.loaded("missing");
                tracing::info!(target: "plugin/kubernetes", "there is no snapshot `{path}` yet");
            }
            Err(why) => {
                self.metrics.loaded(why.reason());
                tracing::error!(target: "plugin/kubernetes", "the snapshot `{path}` is not used: {why}");
            }
        }
    }

    fn try_load(&self) -> Result<(usize, Duration), NotLoaded> {
        let octets = file::read(&self.plan.path).map_err(NotLoaded::Unreadable)?;
        let octets = octets.ok_or(NotLoaded::Missing)?;
        let snapshot = Snapshot::open(&octets, self.plan.key).map_err(NotLoaded::Refused)?;
        // A clock that was set back, or has not been set yet, says nothing about the age.
        let age = snapshot.saved_at().elapsed().unwrap_or_default();
        if age > self.plan.age_max {
            return Err(NotLoaded::TooOld(age, self.plan.age_max));
        }
        let count = self
            .cluster
            .restore(snapshot.objects(), snapshot.saved_at());
        Ok((count, age))
    }
}

/// Why a file is not served.
#[derive(Debug)]
enum NotLoaded {
    Missing,
    Unreadable(io::Error),
    Refused(Refusal),
    TooOld(Duration, Duration),
}

impl NotLoaded {
    /// As the metric has it.
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable(_) => "unreadable",
            Self::Refused(Refusal::Unknown(_)) => "unknown",
            Self::Refused(Refusal::Corrupt(_)) => "corrupt",
            Self::Refused(Refusal::Foreign) => "foreign",
            Self::TooOld(..) => "too_old",
        }
    }
}

impl std::fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none"),
            Self::Unreadable(error) => write!(f, "{error}"),
            Self::Refused(Refusal::Unknown(why) | Refusal::Corrupt(why)) => f.write_str(why),
            Self::Refused(Refusal::Foreign) => {
                f.write_str("it is of another API server, or of other options")
            }
            Self::TooOld(age, max) => {
                write!(
                    f,
                    "it is {} s old, and {} s are allowed",
                    age.as_secs(),
                    max.as_secs()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
