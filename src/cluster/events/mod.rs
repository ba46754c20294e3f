//! Events at our own Pod: what `kubectl describe pod` shows of a trouble that nobody reads the log for.
//!
//! ```text
//! warn -> the latest one waits -> every ten seconds at most -> the same as before? PATCH its series : POST
//! ```
//!
//! They are a courtesy. Who the Pod is comes from the downward API (`POD_NAMESPACE`, `POD_NAME`, `POD_UID`); without it, or
//! without the right, there are none, and nothing is tried again until there is something new to say. `kubectl describe`
//! asks for Events by the Pod's UID, so without that they show in `kubectl get events` only.

/// One request.
mod request;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cluster::connect::Connection;
use crate::cluster::events::request::Collection;
use crate::cluster::source::ConnectError;
use crate::cluster::thread::ClusterThread;
use crate::server::assembly::Herald;
use crate::server::process::Process;

/// Between two requests.
pub const GAP: Duration = Duration::from_secs(10);

/// The API server forgets Events after an hour without a change; the same trouble after this is a new one.
const SERIES_MAX: Duration = Duration::from_secs(30 * 60);

/// Octets of a note that the API server takes.
const NOTE_MAX: usize = 1024;

/// Octets of the other words.
const WORD_MAX: usize = 128;

/// Who reports.
const CONTROLLER: &str = "fingerpost";

/// The Pod that we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, if we were told.
    pub uid: Option<String>,
}

impl OwnPod {
    /// As the downward API says.
    pub fn of_process() -> Option<Self> {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self {
            namespace: text("POD_NAMESPACE")?,
            name: text("POD_NAME")?,
            uid: text("POD_UID"),
        })
    }
}

/// Says at our Pod what is wrong.
pub struct Events {
    collection: Collection,
    pod: OwnPod,
    gap: Duration,
    thread: Arc<ClusterThread>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is to be said next. One at a time: who did not come to it is in the log.
    waiting: Option<Said>,
    is_running: bool,
    /// It was told that Events cannot be written.
    is_told: bool,
    series: Option<Series>,
}

/// Something to say, so many times.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    reason: &'static str,
    note: String,
    count: u64,
}

/// What was said last, and where it stands.
struct Series {
    said: Said,
    object: String,
    begun: Instant,
}

impl Herald for Events {
    fn warn(self: Arc<Self>, reason: &'static str, note: &str) {
        let note = cut(note, NOTE_MAX).to_owned();
        let mut state = self.state();
        let count = match &state.waiting {
            Some(waiting) if waiting.note == note => waiting.count + 1,
            _ => 1,
        };
        state.waiting = Some(Said {
            reason,
            note,
            count,
        });
        if !std::mem::replace(&mut state.is_running, true) {
            drop(state);
            let this = Arc::clone(&self);
            // It ends by itself, soon: each request has its time.
            self.thread
                .spawn(CancellationToken::new(), async move { this.run().await });
        }
    }
}

impl Events {
    /// Over this connection, with so much time between two requests.
    pub fn new(
        connection: Connection,
        pod: OwnPod,
        gap: Duration,
        process: &Process,
    ) -> Result<Self, ConnectError> {
        let namespace = pod.namespace.clone();
        Ok(Self {
            collection: Collection {
                connection,
                namespace,
            },
            pod,
            gap,
            thread: ClusterThread::of(process)?,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what waits until nothing does.
    async fn run(&self) {
        loop {
            let said = {
                let mut state = self.state();
                let Some(said) = state.waiting.take() else {
                    state.is_running = false;
                    return;
                };
                said
            };
            let next = Instant::now() + self.gap;
            let outcome = self.say(said).await;
            self.note_outcome(outcome);
            // What comes meanwhile is counted, or takes the place of what waits.
            sleep_until(next).await;
        }
    }

    fn note_outcome(&self, outcome: Result<(), String>) {
        let mut state = self.state();
        match outcome {
            Ok(()) => state.is_told = false,
            Err(why) => {
                if !std::mem::replace(&mut state.is_told, true) {
                    let OwnPod {
                        namespace, name, ..
                    } = &self.pod;
                    tracing::warn!(target: "plugin/reload", "no Event at Pod `{namespace}/{name}`: {why}");
                }
            }
        }
    }

    async fn say(&self, said: Said) -> Result<(), String> {
        let known = {
            let mut state = self.state();
            let is_same = |series: &Series| {
                (series.said.reason, &series.said.note) == (said.reason, &said.note)
                    && series.begun.elapsed() < SERIES_MAX
            };
            state.series.take().filter(is_same)
        };
        if let Some(mut series) = known {
            series.said.count += said.count;
            let body = json!({"series": self.series(series.said.count)});
            if self
                .collection
                .ask(Method::PATCH, &series.object, &body)
                .await?
                .is_some()
            {
                self.state().series = Some(series);
                return Ok(());
            }
            // Somebody has deleted it.
        }
        let created = self
            .collection
            .ask(Method::POST, "", &self.event(&said))
            .await?;
        let object = created.ok_or_else(|| "there is no such namespace".to_owned())?;
        self.state().series = Some(Series {
            said,
            object: format!("/{object}"),
            begun: Instant::now(),
        });
        Ok(())
    }

    fn event(&self, said: &Said) -> Value {
        let OwnPod {
            namespace,
            name,
            uid,
        } = &self.pod;
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": namespace, "generateName": format!("{name}-")},
            "eventTime": now(),
            "type": "Warning",
            "reason": said.reason,
            "action": "Reload",
            "note": said.note,
            "reportingController": CONTROLLER,
            "reportingInstance": cut(name, WORD_MAX),
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name},
        });
        if let Some(uid) = uid {
            event["regarding"]["uid"] = json!(uid);
        }
        // One is no series.
        if said.count > 1 {
            event["series"] = self.series(said.count);
        }
        event
    }

    fn series(&self, count: u64) -> Value {
        json!({"count": count, "lastObservedTime": now()})
    }
}

/// As the API writes times: to the microsecond.
fn now() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    format!("{now:.6}")
}

/// At most so many octets, and whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connect::Surroundings;
    use crate::cluster::source::ApiSource;
    use crate::telemetry::logging::{LineSubscriber, TestLog};

    #[test]
    fn a_time_has_six_digits_behind_the_second() {
        let now = now();
        assert_eq!(now.len(), "2026-11-22T13:00:00.000000Z".len(), "{now}");
        assert!(now.ends_with('Z'), "{now}");
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_told_of_once() {
        let log = TestLog::new();
        let _logging =
            tracing::subscriber::set_default(LineSubscriber::new(Arc::clone(&log.lines)));
        let source = ApiSource::Endpoint {
            // Nobody listens there.
            url: "http://127.0.0.1:1".to_owned(),
            tls: None,
        };
        let process = Process::new(tokio::runtime::Handle::current());
        let connection = Connection::of(&source, &Surroundings::default()).unwrap();
        let pod = OwnPod {
            namespace: "kube-system".to_owned(),
            name: "dns-1".to_owned(),
            uid: None,
        };
        let events = Events::new(connection, pod, GAP, &process).unwrap();
        for note in ["a", "b", "b"] {
            let said = Said {
                reason: "ReloadFailed",
                note: note.to_owned(),
                count: 1,
            };
            events.note_outcome(events.say(said).await);
        }
        let text = log.text();
        let start = "[WARNING] plugin/reload: no Event at Pod `kube-system/dns-1`: API server `127.0.0.1:1`: ";
        assert!(text.starts_with(start), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        // Once it worked, the next trouble is news.
        events.note_outcome(Ok(()));
        events.note_outcome(Err("gone again".to_owned()));
        assert_eq!(log.text().lines().count(), 2);
    }

    #[test]
    fn a_note_is_cut_between_two_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("añb", 99), "añb");
    }
}
