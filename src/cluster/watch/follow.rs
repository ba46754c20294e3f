//! The task of one resource: lists it, watches it, and starts over as often as it takes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};

use crate::cluster::Inventory;
use crate::cluster::connect::describe;
use crate::cluster::decode;
use crate::cluster::objects::{Object, Resource};
use crate::cluster::protobuf::{self, Malformed};
use crate::cluster::watch::WatchPlan;
use crate::cluster::watch::event::{Event, Page};
use crate::cluster::watch::failure::Failure;
use crate::cluster::watch::frame::{FRAME_MAX, Frames, TooLong};
use crate::cluster::watch::json;
use crate::cluster::watch::metrics::ResourceMetrics;
use crate::cluster::watch::pace::{Delays, chance};
use crate::cluster::watch::preference::Preference;
use crate::cluster::watch::progress::{Progress, Wish};
use crate::cluster::watch::request::{Encoding, Link, PAGE, Stream, Target};

/// The longest delay of a relist that nothing else holds back. It keeps several servers apart.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How a watch ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server ended it.
    Closed,
    /// We did: somebody wished for something else.
    Wished,
}

/// Follows one resource.
pub(super) struct Follower {
    resource: Resource,
    target: Target,
    link: Arc<Link>,
    sink: Arc<dyn Inventory>,
    progress: Arc<Progress>,
    metrics: ResourceMetrics,
    delays: Delays,
    /// A streamed list fell silent before its end, as from a server that does not know of them: pages next time.
    paged: bool,
    encoding: Preference,
    /// The last try failed: the server may have come back with older data.
    suspicious: bool,
    /// Relists at once since the last watch that lived for a while.
    hasty: u32,
    /// How often in a row the resource was not defined.
    absences: u32,
}

impl Follower {
    pub(super) fn new(
        resource: Resource,
        plan: &WatchPlan,
        link: Arc<Link>,
        sink: Arc<dyn Inventory>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            resource,
            target: plan.target(resource),
            metrics: link.metrics.of(resource),
            link,
            sink,
            progress,
            delays: Delays::default(),
            paged: false,
            encoding: match resource {
                // The API server has no protobuf for resources that users define.
                Resource::ServiceImports => Preference::json(),
                _ => Preference::default(),
            },
            suspicious: false,
            hasty: 0,
            absences: 0,
        }
    }

    /// Never ends; whoever wants it to drops it.
    pub(super) async fn run(mut self) {
        loop {
            let began = Instant::now();
            let outcome = self.round().await;
            self.progress.connected.store(false, Ordering::Relaxed);
            let lived = began.elapsed();
            if lived >= self.link.pace.settled {
                self.delays.reset();
                self.hasty = 0;
            }
            let failure = match outcome {
                Ok(End::Wished) => continue,
                Ok(End::Closed) if lived >= self.link.pace.early_end => {
                    self.suspicious = false;
                    continue;
                }
                Ok(End::Closed) => Failure::EndedEarly,
                Err(failure) => self.judged(failure),
            };
            let delay = self.after(&failure);
            sleep(delay).await;
        }
    }

    /// What users define may not be defined, which is no failure of the server.
    fn judged(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(status)
                if status.code == 404 && self.resource == Resource::ServiceImports =>
            {
                Failure::Absent
            }
            other => other,
        }
    }

    /// What is not defined has no objects: that is a list too. Objects that are known stay until it was said twice, since
    /// a server that has just started may not have read its definitions.
    fn after_absence(&mut self) -> Duration {
        self.absences = self.absences.saturating_add(1);
        // That there is nothing to hear of it was heard: what is known of it is not old.
        self.heard();
        if self.absences > 1 || !self.progress.synced.load(Ordering::Acquire) {
            self.progress.forget_version();
            self.list_begun();
            self.sink.list_finished(self.resource);
            self.progress.list_ended();
        }
        self.link.pace.absent_delay.mul_f64(0.75 + chance() / 2.0)
    }

    /// Draws the conclusions from a failure. Returns how long to wait.
    fn after(&mut self, failure: &Failure) -> Duration {
        let pace = &self.link.pace;
        self.link.metrics.failed(self.resource, failure.reason());
        self.link.journal.failed(self.resource, failure);
        self.link.failed(failure);
        self.progress.failed(failure);
        self.suspicious = true;
        if *failure == Failure::Absent {
            return self.after_absence();
        }
        if failure.is_not_acceptable() || matches!(failure, Failure::Garbled(_)) {
            self.encoding.failed();
        }
        let outage = self
            .progress
            .silent_for()
            .is_none_or(|silence| silence > pace.outage_max);
        if failure.needs_list() || outage {
            self.progress.forget_version();
        }
        if matches!(failure, Failure::Expired | Failure::Ahead) {
            self.hasty += 1;
            if self.hasty == 1 {
                if *failure == Failure::Ahead {
                    self.link.rewound();
                }
                return AT_ONCE.mul_f64(chance());
            }
        }
        let delay = match failure {
            Failure::Unreachable(_) => self.delays.after_unreachable(pace),
            Failure::Forbidden(_) | Failure::Unauthorized(_) => {
                self.delays.after_refusal(pace, pace.refused_delay_max)
            }
            _ => self.delays.after_refusal(pace, pace.delay_max),
        };
        match failure.retry_after() {
            Some(asked) => {
                let asked = asked.min(pace.retry_after_max);
                delay.max(asked.mul_f64(1.0 + chance() / 10.0))
            }
            None => delay,
        }
    }

    /// From a request to the end of the watch that it leads to.
    async fn round(&mut self) -> Result<End, Failure> {
        // Between five and ten minutes, as Kubernetes' own clients: long enough to be cheap, short enough that a load
        // balancer gets to spread us again.
        let seconds = 300 + (chance() * 300.0) as u64;
        match self.progress.take_wish() {
            Some(Wish::List) => self.progress.forget_version(),
            Some(Wish::Rewound) => {
                self.progress.forget_version();
                self.sink.history_changed(self.resource);
            }
            Some(Wish::Doubt) => self.suspicious = true,
            None => {}
        }
        let Some(version) = self.progress.version() else {
            return self.list(seconds).await;
        };
        if self.suspicious {
            self.link
                .get(&self.target.probe(&version), self.encoding.is_json_only())
                .await?;
        }
        let stream = self
            .link
            .watch(
                &self.target.watch(&version, seconds),
                false,
                self.encoding.is_json_only(),
            )
            .await?;
        self.follow(stream, false).await
    }

    async fn list(&mut self, seconds: u64) -> Result<End, Failure> {
        if !self.paged {
            match self
                .link
                .watch(
                    &self.target.stream(seconds),
                    true,
                    self.encoding.is_json_only(),
                )
                .await
            {
                Ok(stream) => return self.follow(stream, true).await,
                Err(refusal) if refusal.is_no_streamed_list() => {}
                Err(failure) => return Err(failure),
            }
        }
        self.list_in_pages().await?;
        self.paged = false;
        let version = self.progress.version().unwrap_or_default();
        let stream = self
            .link
            .watch(
                &self.target.watch(&version, seconds),
                false,
                self.encoding.is_json_only(),
            )
            .await?;
        self.follow(stream, false).await
    }

    /// The fallback for servers without streamed lists.
    async fn list_in_pages(&mut self) -> Result<(), Failure> {
        match self.pages(PAGE).await {
            // The token for the next page has expired: in one go, then. Smaller steps might never arrive.
            Err(Failure::Expired) => self.pages(0).await,
            outcome => outcome,
        }
    }

    /// All pages; a limit of zero asks for one that holds all.
    async fn pages(&mut self, limit: usize) -> Result<(), Failure> {
        self.list_begun();
        let mut next: Box<str> = Box::default();
        loop {
            let uri = self.target.page(limit, &next);
            let (encoding, body) = self.link.get(&uri, self.encoding.is_json_only()).await?;
            self.heard();
            let page = self.take_page(encoding, &body)?;
            if page.next.is_empty() {
                self.list_ended(&page.version);
                return Ok(());
            }
            next = page.next;
        }
    }

    fn take_page(&self, encoding: Encoding, body: &[u8]) -> Result<Page, Failure> {
        match encoding {
            Encoding::Protobuf => {
                let each = |object: Result<_, Malformed>| {
                    self.take_listed(object.map_err(|Malformed(why)| why.to_owned()));
                };
                protobuf::page(self.resource, body, each).map_err(garbled)
            }
            Encoding::Json => decode::list_from_json(self.resource, body, &mut |object| {
                self.take_listed(object.map_err(|error| error.to_string()));
            })
            .map(|list| Page {
                version: list.resource_version,
                next: list.continue_token,
            })
            .map_err(|error| Failure::Garbled(error.to_string())),
        }
    }

    fn take_listed(&self, object: Result<Object, String>) {
        match object {
            Ok(object) => self.sink.listed(object),
            Err(why) => self.pass_over(why),
        }
    }

    /// Counts an object that cannot be understood.
    fn pass_over(&self, why: String) {
        self.metrics.garbled.inc();
        let failure = Failure::Garbled(why);
        self.link.journal.failed(self.resource, &failure);
    }

    /// Takes in a watch until it ends.
    async fn follow(&mut self, stream: Stream, mut listing: bool) -> Result<End, Failure> {
        let Stream {
            encoding,
            mut body,
            mut seat,
        } = stream;
        let mut frames = Frames::new(encoding.framing());
        self.heard();
        self.progress.opened();
        self.link.journal.recovered(self.resource);
        if listing {
            self.list_begun();
        }
        loop {
            let pace = &self.link.pace;
            let idle = if listing { pace.list_idle } else { pace.idle };
            let next = tokio::select! {
                next = timeout(idle, body.frame()) => next,
                () = self.progress.wished(), if !listing => return Ok(End::Wished),
            };
            let piece = match next {
                Err(_) => {
                    self.paged |= listing;
                    return Err(Failure::Silent {
                        after: idle,
                        watching: true,
                    });
                }
                Ok(None) if listing => return Err(Failure::EndedEarly),
                Ok(None) => return Ok(End::Closed),
                Ok(Some(Err(error))) => return Err(Failure::Unreachable(describe(&error))),
                Ok(Some(Ok(piece))) => piece,
            };
            self.heard();
            let Some(piece) = piece.data_ref() else {
                continue;
            };
            frames.push(piece);
            self.sink.received(Some(Instant::now()));
            while let Some(frame) = frames.take().map_err(too_long)? {
                let event = match encoding {
                    Encoding::Protobuf => protobuf::event(self.resource, frame).map_err(garbled)?,
                    Encoding::Json => json::event(self.resource, frame)
                        .map_err(|error| Failure::Garbled(error.to_string()))?,
                };
                listing = self.take(event, listing)?;
                if !listing {
                    // What remains is a watch, which is not counted.
                    drop(seat.take());
                }
            }
        }
    }

    /// Passes an event on. Returns whether the list goes on.
    fn take(&mut self, event: Event, listing: bool) -> Result<bool, Failure> {
        match event {
            Event::Set(object) if listing => self.sink.listed(object),
            Event::Set(object) => {
                self.progress.advance(&object.meta().resource_version);
                self.sink.applied(object);
            }
            // The list may overlap with changes that came while it was made.
            Event::Deleted(meta) => {
                self.sink
                    .deleted(self.resource, &meta.namespace, &meta.name);
                if !listing {
                    self.progress.advance(&meta.resource_version);
                }
            }
            Event::Bookmark { version, list_ends } => {
                if listing && list_ends {
                    self.list_ended(&version);
                    return Ok(false);
                }
                if !listing {
                    self.progress.advance(&version);
                }
            }
            Event::Error(status) => return Err(Failure::refused(status)),
            Event::Garbled(why) => self.pass_over(why),
            Event::Unknown => {}
        }
        Ok(listing)
    }

    fn list_begun(&self) {
        self.progress.list_begun();
        self.sink.list_started(self.resource);
    }

    fn list_ended(&mut self, version: &str) {
        self.progress.set_version(version);
        self.sink.list_finished(self.resource);
        self.progress.list_ended();
        self.metrics.lists.inc();
        self.encoding.listed();
        self.suspicious = false;
        self.absences = 0;
    }

    fn heard(&self) {
        self.progress.heard();
        self.metrics.heard();
    }
}

pub(super) fn garbled(Malformed(why): Malformed) -> Failure {
    Failure::Garbled(why.to_owned())
}

fn too_long(_: TooLong) -> Failure {
    Failure::Garbled(format!("an event has more than {} MiB", FRAME_MAX >> 20))
}
