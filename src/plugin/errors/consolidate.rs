//! Patterns whose errors are counted rather than logged one by one.

use std::sync::atomic::{AtomicU64, Ordering};

use regex::Regex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::plugin::errors::config::{Consolidate, LogLevel};

/// One pattern with the errors it has swallowed.
pub(in crate::plugin::errors) struct Pattern {
    config: Consolidate,
    regex: Regex,
    count: AtomicU64,
    first: Notify,
    stop: CancellationToken,
}

/// What becomes of an error that matches.
pub(in crate::plugin::errors) enum Hit {
    /// It will be in the summary.
    Counted,
    /// It is logged too.
    Print(LogLevel),
}

impl Pattern {
    pub(in crate::plugin::errors) fn new(
        config: Consolidate,
        regex: Regex,
        stop: CancellationToken,
    ) -> Self {
        Self {
            config,
            regex,
            count: AtomicU64::new(0),
            first: Notify::new(),
            stop,
        }
    }

    pub(in crate::plugin::errors) fn matches(&self, error: &str) -> bool {
        self.regex.is_match(error)
    }

    /// Counts one error. Once the generation stops there will be no summary, so errors are logged as they come.
    pub(in crate::plugin::errors) fn count(&self) -> Hit {
        if self.stop.is_cancelled() {
            return Hit::Print(LogLevel::Error);
        }
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first.notify_one();
            if self.config.show_first {
                return Hit::Print(self.config.level);
            }
        }
        Hit::Counted
    }

    /// Logs a summary at the end of each period that began with an error, and a last one when the generation stops.
    pub(in crate::plugin::errors) async fn summarize(&self) {
        loop {
            tokio::select! {
                () = self.first.notified() => {}
                () = self.stop.cancelled() => return self.print(),
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.period) => self.print(),
                () = self.stop.cancelled() => return self.print(),
            }
        }
    }

    fn print(&self) {
        let count = self.count.swap(0, Ordering::Relaxed);
        if count > u64::from(self.config.show_first) {
            let Consolidate {
                level,
                period_text,
                pattern,
                ..
            } = &self.config;
            level.print(format_args!(
                "{count} errors like '{pattern}' occurred in last {period_text}"
            ));
        }
    }
}
