//! The one thread that feeds the cluster table.
//!
//! Watches, decoding and the table's writer share a single-threaded runtime on a thread of their own: the threads that
//! answer queries never do their work, there is one writer by construction, and it costs less memory than a second
//! worker would. The client's own tasks live on this runtime too, so a client is made here and used here only.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::cluster::source::ConnectError;
use crate::server::process::Process;

/// The thread, alive as long as somebody holds it.
pub struct ClusterThread {
    handle: Handle,
    stop: CancellationToken,
}

impl ClusterThread {
    /// The thread of this process; started if nobody holds it.
    pub fn of(process: &Process) -> Result<Arc<Self>, ConnectError> {
        process.shared.get_or_try("", Self::start)
    }

    fn start() -> Result<Arc<Self>, ConnectError> {
        let refuse =
            |error| ConnectError(format!("the thread `cluster` cannot be started: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Host names are looked up on helper threads; addresses, the usual case, need none.
            .max_blocking_threads(2)
            .build()
            .map_err(refuse)?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || {
                yield_to_workers();
                runtime.block_on(stopped.cancelled());
                // A host name that is still being looked up must not hold the thread.
                runtime.shutdown_background();
            })
            .map_err(refuse)?;
        Ok(Arc::new(Self { handle, stop }))
    }

    /// Runs a task until it ends or `stop` is cancelled.
    pub fn spawn(&self, stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// A list keeps the thread busy for a tenth of a second, and where all cores are in use no query should wait for it.
fn yield_to_workers() {
    /// About a third of a worker's weight (sched(7)): enough to keep up with any list.
    const NICENESS: i32 = 5;
    // Linux, unlike POSIX, takes the caller's own niceness for that of the thread (setpriority(2)).
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, NICENESS)
    {
        tracing::debug!("the thread `cluster` stays as it was scheduled: {error}");
    }
}

impl Drop for ClusterThread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
