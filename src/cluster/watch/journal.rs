//! The log lines of failures: one for each kind of trouble, then one a minute for as long as it lasts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::objects::Resource;
use crate::cluster::watch::failure::{ABSENT, FORBIDDEN, Failure};

/// The same trouble is told again after this.
const REPEAT: Duration = Duration::from_secs(60);

/// What was told, and when.
pub(super) struct Journal {
    host: String,
    /// Bounded: there are few resources and few reasons.
    told: Mutex<HashMap<(Option<Resource>, &'static str), Instant>>,
    /// It was told that the server cannot be used.
    away: AtomicBool,
}

impl Journal {
    pub(super) fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            told: Mutex::default(),
            away: AtomicBool::new(false),
        }
    }

    /// A list or watch failed.
    pub(super) fn failed(&self, resource: Resource, failure: &Failure) {
        if let Some(line) = self.line(resource, failure, Instant::now()) {
            match failure {
                // Part of every restart of an API server, and dealt with at once.
                Failure::Expired => tracing::info!(target: "plugin/kubernetes", "{line}"),
                Failure::Forbidden(_) => tracing::error!(target: "plugin/kubernetes", "{line}"),
                _ => tracing::warn!(target: "plugin/kubernetes", "{line}"),
            }
        }
    }

    /// The line, unless it was told lately.
    fn line(&self, resource: Resource, failure: &Failure, now: Instant) -> Option<String> {
        let scope = (!failure.is_of_server()).then_some(resource);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (scope, failure.reason());
        // Neither a role nor a definition mends itself: said once, until it is mended.
        let repeat = if matches!(failure, Failure::Forbidden(_) | Failure::Absent) {
            Duration::MAX
        } else {
            REPEAT
        };
        if told
            .get(&key)
            .is_some_and(|before| now.duration_since(*before) < repeat)
        {
            return None;
        }
        told.insert(key, now);
        self.away.fetch_or(scope.is_none(), Ordering::Relaxed);
        let host = &self.host;
        let name = resource.name();
        Some(match failure {
            Failure::Forbidden(_) => format!(
                "API server `{host}` does not let us watch `{name}`: {failure}; it takes `list` and `watch` on `{name}` \
                 in the ClusterRole of our service account"
            ),
            Failure::Absent => format!(
                "API server `{host}` has no `{name}`: {failure}; there are none as long as it is not, and it is looked for \
                 every minute"
            ),
            Failure::Expired | Failure::Ahead => {
                format!("listing `{name}` again from API server `{host}`: {failure}")
            }
            Failure::Credentials(why) => {
                format!(
                    "no credentials for API server `{host}`: {why}; trying again, and serving what is known"
                )
            }
            Failure::Unauthorized(_) => {
                format!(
                    "no use of API server `{host}`: {failure}; trying again, and serving what is known"
                )
            }
            _ if scope.is_none() => {
                format!(
                    "no connection to API server `{host}`: {failure}; trying again, and serving what is known"
                )
            }
            _ => format!("watching `{name}` of API server `{host}`: {failure}; trying again"),
        })
    }

    /// A comparison found what the watch had lost.
    pub(super) fn repaired(&self, resource: Resource, count: u64) {
        let (host, name) = (&self.host, resource.name());
        tracing::warn!(
            target: "plugin/kubernetes",
            "{count} of `{name}` were not as API server `{host}` has them, and are now: its watch, or something on the \
             way, loses events"
        );
    }

    /// A comparison was not possible. There is one in ten minutes or so.
    pub(super) fn not_compared(&self, resource: Resource, failure: &Failure) {
        let (host, name) = (&self.host, resource.name());
        tracing::warn!(
            target: "plugin/kubernetes",
            "`{name}` cannot be compared with API server `{host}`: {failure}"
        );
    }

    /// A watch is open: what was wrong is over. Returns whether the server was told to be away.
    pub(super) fn recovered(&self, resource: Resource) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // The rest stays, so that a server that flaps is not told of with each turn.
        told.remove(&(Some(resource), FORBIDDEN));
        let was_absent = told.remove(&(Some(resource), ABSENT)).is_some();
        drop(told);
        if was_absent {
            let name = resource.name();
            tracing::info!(target: "plugin/kubernetes", "API server `{}` has `{name}` now", self.host);
        }
        let was_away = self.away.swap(false, Ordering::Relaxed);
        if was_away {
            tracing::info!(target: "plugin/kubernetes", "API server `{}` answers again", self.host);
        }
        was_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::watch::event::Status;

    #[test]
    fn a_server_that_is_away_is_told_once_a_minute_whatever_is_watched() {
        let journal = Journal::new("192.0.2.1:443");
        let away = Failure::Unreachable("connection refused".into());
        let now = Instant::now();
        let first = journal.line(Resource::Services, &away, now);
        assert_eq!(
            first.as_deref(),
            Some(
                "no connection to API server `192.0.2.1:443`: connection refused; trying again, and serving what is known"
            )
        );
        assert_eq!(journal.line(Resource::Pods, &away, now + REPEAT / 2), None);
        assert!(journal.line(Resource::Pods, &away, now + REPEAT).is_some());
    }

    #[test]
    fn a_server_that_answers_again_is_told_once() {
        let journal = Journal::new("192.0.2.1:443");
        assert!(!journal.recovered(Resource::Services));
        journal.failed(Resource::Services, &Failure::Unreachable("refused".into()));
        assert!(journal.recovered(Resource::Services));
        assert!(!journal.recovered(Resource::Pods));
    }

    #[test]
    fn a_missing_right_is_named_once_until_it_is_granted() {
        let journal = Journal::new("192.0.2.1:443");
        let forbidden = Failure::Forbidden(Status {
            code: 403,
            ..Status::default()
        });
        let now = Instant::now();
        let line = journal.line(Resource::Pods, &forbidden, now).unwrap();
        assert!(line.contains("`list` and `watch` on `pods`"), "{line}");
        assert_eq!(
            journal.line(Resource::Pods, &forbidden, now + 100 * REPEAT),
            None
        );
        assert!(journal.line(Resource::Services, &forbidden, now).is_some());
        journal.recovered(Resource::Pods);
        assert!(journal.line(Resource::Pods, &forbidden, now).is_some());
    }

    #[test]
    fn a_resource_that_is_not_defined_is_told_once_until_it_is() {
        let journal = Journal::new("192.0.2.1:443");
        let resource = Resource::ServiceImports;
        let now = Instant::now();
        let line = journal.line(resource, &Failure::Absent, now);
        assert!(line.is_some_and(|line| line.contains("has no `serviceimports`")));
        assert_eq!(
            journal.line(resource, &Failure::Absent, now + 100 * REPEAT),
            None
        );
        journal.recovered(resource);
        assert!(journal.line(resource, &Failure::Absent, now).is_some());
    }
}
