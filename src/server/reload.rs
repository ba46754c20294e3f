//! Watching for a changed Corefile.
//!
//! ```text
//! interval -> read -> changed? -> read again until it stands still -> take up -> in force, or the old one serves on
//! signal   -> read ------------------------------------------------> take up
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::corefile::render::Color;
use crate::plugin::reload::ReloadMetrics;
use crate::server::assembly::ReloadSettings;
use crate::server::loader::{Loader, Reading};
use crate::server::running::Server;

/// Between two readings of a file that has changed. Who writes it has written by then, or goes on writing.
const SETTLE_STEP: Duration = Duration::from_millis(200);

/// Readings after which a file that still changes is left to the next look.
const SETTLE_STEPS: usize = 5;

/// What makes us read the Corefile again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The interval of `reload` is over; only a changed Corefile is taken up.
    Interval,
    /// Somebody said so, by this signal.
    Signal(&'static str),
}

/// Remembers which Corefile was tried last.
pub struct Watcher {
    loader: Loader,
    /// The hash of the last Corefile that was tried, good or bad: a bad one is not tried again until it changes.
    tried: String,
    /// Whether the built-in Corefile is served.
    serves_builtin: bool,
    /// Looks in a row that found no Corefile to read.
    misses: usize,
    metrics: Arc<ReloadMetrics>,
}

impl Watcher {
    /// Starts from the Corefile that is served.
    pub fn new(loader: Loader, serving: Reading, server: &Server) -> Self {
        Self {
            loader,
            tried: serving.hash,
            serves_builtin: serving.is_builtin,
            misses: 0,
            metrics: server.process().metrics.families::<ReloadMetrics>(),
        }
    }

    /// Reads the Corefile and takes it up if there is reason to.
    pub async fn look(&mut self, server: &mut Server, cause: Cause) {
        let reading = match self.loader.read() {
            Ok(reading) => reading,
            Err(error) => {
                self.misses += 1;
                // A file that is being replaced is away for a moment: the next look will find it. One that stays away is
                // told of once.
                if matches!(cause, Cause::Signal(_)) || self.misses == 2 {
                    self.metrics.count_failure();
                    tracing::error!(
                        "Restart failed: {error}; the configuration from before serves on"
                    );
                    server.tell_of_failed_reload(&error);
                }
                return;
            }
        };
        self.misses = 0;
        if matches!(cause, Cause::Signal(_)) {
            return self.take_up(server, reading, cause).await;
        }
        if reading.hash != self.tried
            && let Some(reading) = settled(&mut self.loader, reading).await
        {
            self.take_up(server, reading, cause).await;
        }
    }

    async fn take_up(&mut self, server: &mut Server, reading: Reading, cause: Cause) {
        if let Cause::Signal(signal) = cause {
            tracing::info!("{signal}: Reloading");
        }
        tracing::info!("Reloading");
        self.tried.clone_from(&reading.hash);
        self.metrics.show_version(&reading.hash);
        for warning in reading.warnings() {
            tracing::warn!("{warning}");
        }
        let outcome = match reading.refusal(Color::Never) {
            Some(drawn) => Err((reading.first_fault().unwrap_or_default(), Some(drawn))),
            // A file that is being written is empty for a moment. CoreDNS would answer for its client's address then.
            None if reading.is_builtin && !self.serves_builtin => {
                Err(("the Corefile has no server block".to_owned(), None))
            }
            None => server
                .reload(&reading)
                .await
                .map_err(|error| (error.to_string(), None)),
        };
        match outcome {
            Ok(()) => {
                self.serves_builtin = reading.is_builtin;
                if server.watches_corefile() {
                    announce_hash(&reading.hash);
                }
                tracing::info!("Reloading complete");
            }
            Err((why, drawn)) => {
                self.metrics.count_failure();
                tracing::error!("Restart failed: {why}");
                server.tell_of_failed_reload(&why);
                for line in drawn.iter().flat_map(|drawn| drawn.lines()) {
                    tracing::error!(target: "plugin/reload", "{line}");
                }
                tracing::error!(target: "plugin/reload", "Corefile changed but reload failed: the configuration from before serves on");
            }
        }
    }
}

/// Reads again until two readings in a row are the same. None if that takes too long, or nothing can be read any more.
/// The first half of a Corefile may well be one.
async fn settled(loader: &mut Loader, mut last: Reading) -> Option<Reading> {
    for _ in 0..SETTLE_STEPS {
        tokio::time::sleep(SETTLE_STEP).await;
        let next = loader.read().ok()?;
        if next.hash == last.hash {
            return Some(next);
        }
        last = next;
    }
    None
}

/// The log line that names the configuration being served.
pub fn announce_hash(hash: &str) {
    tracing::info!(target: "plugin/reload", "Running configuration SHA512 = {hash}");
}

/// The time until the next look: the interval with up to half the jitter added or taken away, so that replicas do not
/// switch together. Drawn once a generation.
pub fn interval_of(settings: ReloadSettings) -> Duration {
    let mut octets = [0; 8];
    // Without randomness the middle of the range is as good as any.
    let fraction = match getrandom::fill(&mut octets) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a fraction of the jitter need not be exact"
        )]
        Ok(()) => u64::from_be_bytes(octets) as f64 / u64::MAX as f64,
        Err(_) => 0.5,
    };
    let jitter = settings.jitter.min(settings.interval / 2);
    settings.interval - jitter / 2 + jitter.mul_f64(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Options;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_left_until_it_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Corefile");
        let mut loader = Loader::new(&Options {
            conf: Some(path.clone()),
            ..Options::default()
        })
        .unwrap();
        // Every part that is written makes a whole Corefile; none is longer away than two readings.
        let write = |parts: usize| {
            let text: String = (0..parts)
                .map(|part| format!("{part}.test {{\nwhoami\n}}\n"))
                .collect();
            std::fs::write(&path, text).unwrap();
        };
        write(1);
        let first = loader.read().unwrap();
        let writing = async {
            for parts in 2..=4 {
                tokio::time::sleep(SETTLE_STEP * 2 / 3).await;
                write(parts);
            }
        };
        let (reading, ()) = tokio::join!(settled(&mut loader, first), writing);
        assert_eq!(reading.unwrap().blocks.len(), 4);
        let first = loader.read().unwrap();
        let writing = async {
            for parts in 5..100 {
                write(parts);
                tokio::time::sleep(SETTLE_STEP * 2 / 3).await;
            }
        };
        tokio::select! {
            reading = settled(&mut loader, first) => assert!(reading.is_none()),
            () = writing => panic!("the file was waited for"),
        }
        let first = loader.read().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(settled(&mut loader, first).await.is_none());
    }

    #[test]
    fn an_interval_stays_within_half_the_jitter() {
        let settings = ReloadSettings {
            interval: Duration::from_secs(30),
            jitter: Duration::from_secs(15),
        };
        let drawn: Vec<Duration> = (0..100).map(|_| interval_of(settings)).collect();
        assert!(
            drawn
                .iter()
                .all(|time| (22_500..=37_500).contains(&time.as_millis()))
        );
        assert!(
            drawn.iter().any(|time| *time != drawn[0]),
            "replicas must not switch together"
        );
    }
}
