//! Compares what is known with what the API server has, from time to time, and repairs what differs.
//!
//! ```text
//! names and versions, in pages, at version R  --all known--> confirmed
//!                    | some differ: a change on its way, or one that was lost
//!                    v
//! the watch reaches R --now known, or newer--> confirmed
//!                    | still differ: lost
//!                    v
//! each looked at alone (many: a new list), taken in or taken away, counted
//! ```
//!
//! The list asks for no version, so the server gives its newest state, from its own cache where it knows that one to be
//! fresh: what a proxy, a server or we ourselves lost on the way shows. Nothing is undone by a server that lags, because
//! a list older than the watch is not used, and what the watch told after the list stands. A watch that has reached R
//! has told all that led to R, so what differs then was lost and is not just late: bookmarks, one a minute, bring every
//! watch there. Versions are compared as numbers, as the API allows since Kubernetes 1.35 and every server before did;
//! where they are none, the resource is listed again instead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::cluster::Inventory;
use crate::cluster::decode;
use crate::cluster::objects::{Meta, Object, Resource};
use crate::cluster::protobuf;
use crate::cluster::watch::event::Page;
use crate::cluster::watch::failure::Failure;
use crate::cluster::watch::follow::garbled;
use crate::cluster::watch::json;
use crate::cluster::watch::metrics::ReconcileMetrics;
use crate::cluster::watch::pace::chance;
use crate::cluster::watch::progress::{Progress, Wish};
use crate::cluster::watch::request::{Encoding, Link, PAGE, Target};

/// What differs is remembered up to here; what is beyond is repaired and not counted.
const SUSPECTS_MAX: usize = 10_000;

/// Up to so many are looked at alone; more are one list.
const LOOKED_AT_MAX: usize = 32;

/// An object that changes at each look is left to the next comparison.
const LOOKS_MAX: usize = 3;

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing differs.
    Same,
    /// So much was lost, and is there again.
    Repaired(u64),
    /// The server does not let itself be compared with: listed again.
    Relisted,
    /// A list of the watch came in between, which is as good.
    Superseded,
    /// The list was older than what the watch told.
    Behind,
}

impl Outcome {
    /// The metric's label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Repaired(_) => "repaired",
            Self::Relisted => "relisted",
            Self::Superseded => "superseded",
            Self::Behind => "behind",
        }
    }
}

/// An object that is not known as the server has it.
struct Suspect {
    namespace: Box<str>,
    name: Box<str>,
    /// Its version at the server; none if it is not there.
    there: Option<u64>,
    /// The version of the list that said so.
    read_at: u64,
}

/// Namespace, name, and the version as a number if it is one.
type Named = (Box<str>, Box<str>, Option<u64>);

/// What one look at a suspect found.
enum Finding {
    /// Right by now, or not decided: nothing to do.
    Settled,
    /// Was lost, and is repaired.
    Repaired,
    /// DNS has no use for it, so nothing is known of it.
    Unusable,
    /// The server's history is not the one that we saw.
    Contradiction,
}

/// Why a comparison cannot go on.
enum Stop {
    Ended(Outcome),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Compares one resource.
pub(super) struct Reconciler {
    pub(super) resource: Resource,
    pub(super) target: Target,
    pub(super) interval: Duration,
    pub(super) link: Arc<Link>,
    pub(super) sink: Arc<dyn Inventory>,
    pub(super) progress: Arc<Progress>,
    pub(super) metrics: ReconcileMetrics,
    /// Objects that DNS has no use for, in the version that was looked at: they are not looked at again.
    pub(super) unusable: HashMap<(Box<str>, Box<str>), u64>,
}

impl Reconciler {
    /// Never ends; whoever wants it to drops it.
    pub(super) async fn run(mut self) {
        // Replicas that start together, and the resources of one, do not ask together.
        let mut pause = self.interval.mul_f64(0.1 + 0.9 * chance());
        loop {
            sleep(pause).await;
            pause = self.interval.mul_f64(0.9 + 0.1 * chance());
            // Before the first list and without a watch there is nothing to compare; a list follows anyway.
            if self.progress.version().is_none() {
                continue;
            }
            match self.compare().await {
                Ok(outcome) => {
                    self.metrics.ended(outcome.name());
                    if let Outcome::Repaired(count) = outcome {
                        self.link.journal.repaired(self.resource, count);
                    }
                }
                Err(failure) => {
                    self.metrics.ended("failed");
                    self.link.journal.not_compared(self.resource, &failure);
                }
            }
        }
    }

    async fn compare(&mut self) -> Result<Outcome, Failure> {
        match self.find_and_repair().await {
            Ok(outcome) => Ok(outcome),
            Err(Stop::Ended(outcome)) => {
                match outcome {
                    Outcome::Relisted => self.progress.wish(Wish::List),
                    Outcome::Behind => self.progress.wish(Wish::Doubt),
                    _ => {}
                }
                Ok(outcome)
            }
            // Not allowed, or not understood: the list that the watch begins with may be.
            Err(Stop::Failed(failure)) if failure.is_for_good() => {
                self.link.journal.not_compared(self.resource, &failure);
                self.progress.wish(Wish::List);
                Ok(Outcome::Relisted)
            }
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    fn json_only(&self) -> bool {
        // The API server has no protobuf for resources that users define.
        self.resource == Resource::ServiceImports
    }

    async fn find_and_repair(&mut self) -> Result<Outcome, Stop> {
        let lists = self.progress.lists_begun();
        let (read_at, named) = self.survey(lists).await?;
        let mut suspects = self.gather(named, read_at)?;
        if suspects.is_empty() {
            self.progress.confirmed();
            return Ok(Outcome::Same);
        }
        let caught_up = self.caught_up(read_at).await;
        if self.progress.lists_begun() != lists {
            return Ok(Outcome::Superseded);
        }
        suspects.retain(|suspect| !self.is_settled(suspect));
        let repaired = if !caught_up || suspects.len() > LOOKED_AT_MAX {
            self.list_again(suspects).await?
        } else {
            self.look_at_each(suspects).await?
        };
        self.progress.confirmed();
        Ok(match repaired {
            0 => Outcome::Same,
            count => Outcome::Repaired(count),
        })
    }

    /// Reads the list. Returns its version and what it names otherwise than we know it.
    async fn survey(&self, lists: u64) -> Result<(u64, Vec<Named>), Stop> {
        let (mut limit, mut next) = (PAGE, Box::<str>::default());
        let mut read_at = None;
        let mut suspects = Vec::new();
        let told = self.progress.number();
        self.sink.comparison_started(self.resource);
        loop {
            let uri = self.target.page(limit, &next);
            let page = self.link.get_metadata(&uri, self.json_only()).await;
            if self.progress.lists_begun() != lists {
                return Err(Stop::Ended(Outcome::Superseded));
            }
            let (encoding, body) = match page {
                // The token of the next page expired: once more, as one page.
                Err(Failure::Expired) if limit != 0 => {
                    (limit, next, read_at) = (0, Box::default(), None);
                    suspects.clear();
                    self.sink.comparison_started(self.resource);
                    continue;
                }
                page => page?,
            };
            let page = read_page(encoding, &body, |meta| {
                if !self.sink.confirmed(self.resource, &meta) && suspects.len() < SUSPECTS_MAX {
                    suspects.push((meta.namespace, meta.name, number(&meta.resource_version)));
                }
            })?;
            let read_at = match read_at {
                Some(read_at) => read_at,
                None => *read_at.insert(self.usable(&page.version, told)?),
            };
            if page.next.is_empty() {
                return Ok((read_at, suspects));
            }
            next = page.next;
        }
    }

    /// The version of a list, if it can be compared with what the watch told before.
    fn usable(&self, version: &str, told: Option<u64>) -> Result<u64, Stop> {
        match (number(version), told) {
            (Some(version), Some(told)) if version >= told => Ok(version),
            (Some(_), Some(_)) => Err(Stop::Ended(Outcome::Behind)),
            _ => Err(Stop::Ended(Outcome::Relisted)),
        }
    }

    /// What the list has otherwise, and what it has not.
    fn gather(&mut self, named: Vec<Named>, read_at: u64) -> Result<Vec<Suspect>, Stop> {
        let room = SUSPECTS_MAX - named.len();
        let mut suspects = Vec::with_capacity(named.len());
        let mut unusable = std::mem::take(&mut self.unusable);
        for (namespace, name, version) in named {
            let Some(version) = version else {
                return Err(Stop::Ended(Outcome::Relisted));
            };
            let id = (namespace, name);
            if unusable.remove(&id) == Some(version) {
                self.unusable.insert(id, version);
                continue;
            }
            suspects.push(Suspect {
                namespace: id.0,
                name: id.1,
                there: Some(version),
                read_at,
            });
        }
        let unnamed = self.sink.unconfirmed(self.resource, room).into_iter();
        suspects.extend(unnamed.map(|meta| Suspect {
            namespace: meta.namespace,
            name: meta.name,
            there: None,
            read_at,
        }));
        suspects.retain(|suspect| !self.is_settled(suspect));
        Ok(suspects)
    }

    /// Waits until the watch has told all that led to a version.
    async fn caught_up(&self, version: u64) -> bool {
        let reached = |progress: &Progress| progress.number().is_some_and(|told| told >= version);
        self.progress.wait(self.link.pace.catch_up, reached).await
    }

    /// Whether what we know is what the server has, or newer than its list.
    fn is_settled(&self, suspect: &Suspect) -> bool {
        match (suspect.there, self.known(suspect)) {
            (there, known) if there == known => true,
            (_, Some(known)) => known > suspect.read_at,
            (_, None) => false,
        }
    }

    fn known(&self, suspect: &Suspect) -> Option<u64> {
        let version = self
            .sink
            .version_of(self.resource, &suspect.namespace, &suspect.name);
        version.as_deref().and_then(number)
    }

    /// Returns how many were repaired.
    async fn look_at_each(&mut self, suspects: Vec<Suspect>) -> Result<u64, Stop> {
        let mut repaired = 0;
        let mut contradictions = Vec::new();
        for mut suspect in suspects {
            match self.look(&mut suspect).await? {
                Finding::Settled => {}
                Finding::Repaired => {
                    self.metrics.repaired(1);
                    repaired += 1;
                }
                Finding::Unusable => self.pass_over(suspect),
                Finding::Contradiction => contradictions.push(suspect),
            }
        }
        if !contradictions.is_empty() {
            self.sink.history_changed(self.resource);
            repaired += self.list_again(contradictions).await?;
        }
        Ok(repaired)
    }

    fn pass_over(&mut self, suspect: Suspect) {
        if let Some(version) = suspect.there
            && self.unusable.len() < SUSPECTS_MAX
        {
            let id = (suspect.namespace, suspect.name);
            self.unusable.insert(id, version);
        }
    }

    /// Looks at one object, which the watch had the time to tell of, and repairs it.
    async fn look(&self, suspect: &mut Suspect) -> Result<Finding, Stop> {
        for _ in 0..LOOKS_MAX {
            let told = self.progress.number();
            let (version, object) = self.fetch(suspect).await?;
            let read_at = self.usable(&version, told)?;
            let there = object
                .as_ref()
                .and_then(|object| number(&object.meta().resource_version));
            let unchanged = there == suspect.there;
            (suspect.there, suspect.read_at) = (there, read_at);
            if self.is_settled(suspect) {
                return Ok(Finding::Settled);
            }
            let known = self.known(suspect);
            if unchanged && there.is_some() && known > there {
                return Ok(Finding::Contradiction);
            }
            // The watch may have told of a deletion after this look: then it is not to be undone.
            let newest = known.is_some() || self.progress.number() <= Some(read_at);
            if unchanged && newest {
                return Ok(self.take_in(suspect, object));
            }
            if !self.caught_up(read_at).await || self.is_settled(suspect) {
                return Ok(Finding::Settled);
            }
        }
        Ok(Finding::Settled)
    }

    fn take_in(&self, suspect: &Suspect, object: Option<Object>) -> Finding {
        // It was not received on the watch, so how fast it is shown says nothing.
        self.sink.received(None);
        match object {
            Some(object) => self.sink.applied(object),
            None => self
                .sink
                .deleted(self.resource, &suspect.namespace, &suspect.name),
        }
        if self.known(suspect) == suspect.there {
            Finding::Repaired
        } else {
            Finding::Unusable
        }
    }

    /// One object as it is now, and the version of that answer.
    async fn fetch(&self, suspect: &Suspect) -> Result<(Box<str>, Option<Object>), Failure> {
        let uri = self.target.one(&suspect.namespace, &suspect.name);
        let (encoding, body) = self.link.get(&uri, self.json_only()).await?;
        let mut found = None;
        let mut each = |object: Object| {
            let meta = object.meta();
            if meta.namespace == suspect.namespace && meta.name == suspect.name {
                found = Some(object);
            }
        };
        let version = match encoding {
            Encoding::Protobuf => {
                let each = |object: Result<Object, _>| object.into_iter().for_each(&mut each);
                let page = protobuf::page(self.resource, &body, each).map_err(garbled)?;
                page.version
            }
            Encoding::Json => {
                let list = decode::list_from_json(self.resource, &body, &mut |object| {
                    object.into_iter().for_each(&mut each);
                });
                let list = list.map_err(|error| Failure::Garbled(error.to_string()))?;
                list.resource_version
            }
        };
        Ok((version, found))
    }

    /// Lists all of the resource again. Returns how many of the suspects it changed.
    async fn list_again(&mut self, suspects: Vec<Suspect>) -> Result<u64, Stop> {
        let before: Vec<_> = suspects.iter().map(|suspect| self.known(suspect)).collect();
        let lists = self.progress.lists_ended();
        self.progress.wish(Wish::List);
        let ended = |progress: &Progress| progress.lists_ended() > lists;
        if !self.progress.wait(self.link.pace.relist, ended).await {
            return Err(Stop::Ended(Outcome::Superseded));
        }
        let mut repaired = 0;
        for (suspect, before) in suspects.into_iter().zip(before) {
            match self.known(&suspect) {
                known if known != before => repaired += 1,
                None => self.pass_over(suspect),
                Some(_) => {}
            }
        }
        self.metrics.repaired(repaired);
        Ok(repaired)
    }
}

fn read_page(encoding: Encoding, body: &[u8], each: impl FnMut(Meta)) -> Result<Page, Failure> {
    match encoding {
        Encoding::Protobuf => protobuf::metadata_page(body, each).map_err(garbled),
        Encoding::Json => {
            json::metadata_page(body, each).map_err(|error| Failure::Garbled(error.to_string()))
        }
    }
}

/// A version as a number.
fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}
