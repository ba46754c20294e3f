//! The hosts file: read when the plugin is built, then whenever it has changed.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus::{Gauge, IntGaugeVec, Opts, Registry};

use crate::plugin::hosts::table::{Scope, Table};
use crate::telemetry::metrics::Families;

/// Octets that a hosts file may have. The largest public block lists have a tenth of it.
const FILE_MAX: u64 = 256 << 20;

/// `coredns_hosts_*`.
pub(in crate::plugin::hosts) struct HostsMetrics {
    entries: IntGaugeVec,
    reload_timestamp: Gauge,
}

impl Families for HostsMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let this = Self {
            entries: IntGaugeVec::new(
                Opts::new(
                    "coredns_hosts_entries",
                    "entries of the hosts file and the Corefile, both directions counted",
                ),
                &["hostsfile"],
            )?,
            reload_timestamp: Gauge::new(
                "coredns_hosts_reload_timestamp_seconds",
                "modification time of the hosts file that was read last",
            )?,
        };
        registry.register(Box::new(this.entries.clone()))?;
        registry.register(Box::new(this.reload_timestamp.clone()))?;
        Ok(this)
    }
}

/// What tells one version of a file from another.
type Version = (SystemTime, u64);

/// A hosts file and what it said when it was read last.
pub(in crate::plugin::hosts) struct HostsFile {
    path: PathBuf,
    scope: Scope,
    table: ArcSwap<Table>,
    inline_len: usize,
    metrics: Arc<HostsMetrics>,
}

impl HostsFile {
    /// Nothing is read yet.
    pub(in crate::plugin::hosts) fn new(
        path: PathBuf,
        scope: Scope,
        inline_len: usize,
        metrics: Arc<HostsMetrics>,
    ) -> Self {
        let this = Self {
            path,
            scope,
            table: ArcSwap::default(),
            inline_len,
            metrics,
        };
        this.count_entries(0);
        this
    }

    /// What it says now.
    pub(in crate::plugin::hosts) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Reads it unless it is still the version `seen`. Blocks. A file that is gone, or cannot be read, leaves the last
    /// contents in place.
    pub(in crate::plugin::hosts) fn read(&self, seen: &mut Option<Version>) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let version = (metadata.modified()?, metadata.len());
        if *seen == Some(version) {
            return Ok(());
        }
        // A file that cannot be used is not tried again until it changes.
        *seen = Some(version);
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut text = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > FILE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let table = Table::parse(&text, &self.scope);
        tracing::debug!(target: "plugin/hosts", "`{}` holds {} entries", self.path.display(), table.len());
        self.count_entries(table.len());
        if let Ok(since) = version.0.duration_since(UNIX_EPOCH) {
            self.metrics.reload_timestamp.set(since.as_secs_f64());
        }
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// Reads it at once, and says so if that is not possible.
    pub(in crate::plugin::hosts) fn read_first(&self, is_default: bool) -> Option<Version> {
        let mut seen = None;
        if let Err(error) = self.read(&mut seen)
            && !(is_default && error.kind() == io::ErrorKind::NotFound)
        {
            self.warn(&error);
        }
        seen
    }

    /// Looks every `interval` whether it has changed. Never ends.
    pub(in crate::plugin::hosts) async fn follow(
        self: Arc<Self>,
        mut seen: Option<Version>,
        interval: Duration,
    ) {
        loop {
            tokio::time::sleep(interval).await;
            let this = Arc::clone(&self);
            let before = seen;
            let read = tokio::task::spawn_blocking(move || {
                let result = this.read(&mut seen);
                (seen, result)
            });
            // It fails only if the runtime is shutting down.
            let Ok((now, result)) = read.await else {
                return;
            };
            seen = now;
            if let Err(error) = result
                && now != before
            {
                self.warn(&error);
            }
        }
    }

    fn warn(&self, error: &io::Error) {
        let path = self.path.display();
        tracing::warn!(target: "plugin/hosts", "hosts file `{path}` cannot be read: {error}");
    }

    fn count_entries(&self, in_file: usize) {
        let entries = i64::try_from(in_file + self.inline_len).unwrap_or(i64::MAX);
        let path = self.path.to_string_lossy();
        self.metrics
            .entries
            .with_label_values(&[&path])
            .set(entries);
    }
}
