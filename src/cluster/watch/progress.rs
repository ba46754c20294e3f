//! What the task of one resource tells about itself, and what others may ask of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::cluster::objects::Resource;
use crate::cluster::status::WatchStatus;
use crate::cluster::watch::failure::Failure;

/// What someone else found out about a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// The server may have gone back in time: look, and go on from the same version if not.
    Doubt,
    /// List again.
    List,
    /// The server went back in time, as after a restore: what happened since then is another history, in which versions
    /// that we saw stand for other things. List again, and take no version for known.
    Rewound,
}

/// A moment that others see, kept as milliseconds since the watch was made, plus one; zero means never.
#[derive(Debug, Default)]
struct Stamp(AtomicU64);

impl Stamp {
    fn set(&self, began: Instant) {
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.0.store(millis + 1, Ordering::Relaxed);
    }

    fn age(&self, began: Instant) -> Option<Duration> {
        let at = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        Some(began.elapsed().saturating_sub(Duration::from_millis(at)))
    }
}

/// Written by the task, read by others.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    heard: Stamp,
    confirmed: Stamp,
    pub(super) synced: AtomicBool,
    pub(super) connected: AtomicBool,
    version: Mutex<Option<String>>,
    lists_begun: AtomicU64,
    lists_ended: AtomicU64,
    /// What went wrong since the watch was open last: a word, and a sentence.
    trouble: Mutex<Option<(&'static str, String)>>,
    wish: Mutex<Option<Wish>>,
    wished: Notify,
    advanced: Notify,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            heard: Stamp::default(),
            confirmed: Stamp::default(),
            synced: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            version: Mutex::new(None),
            lists_begun: AtomicU64::new(0),
            lists_ended: AtomicU64::new(0),
            trouble: Mutex::new(None),
            wish: Mutex::new(None),
            wished: Notify::new(),
            advanced: Notify::new(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// A byte came in just now.
    pub(super) fn heard(&self) {
        self.heard.set(self.began);
    }

    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.heard.age(self.began)
    }

    /// A watch is open.
    pub(super) fn opened(&self) {
        self.connected.store(true, Ordering::Relaxed);
        *lock(&self.trouble) = None;
    }

    pub(super) fn failed(&self, failure: &Failure) {
        *lock(&self.trouble) = Some((failure.reason(), failure.to_string()));
    }

    /// What we have was found to be what the server has.
    pub(super) fn confirmed(&self) {
        self.confirmed.set(self.began);
    }

    pub(super) fn version(&self) -> Option<String> {
        lock(&self.version).clone()
    }

    /// The version as a number; none before the first list, or if the server does not count.
    pub(super) fn number(&self) -> Option<u64> {
        lock(&self.version).as_deref()?.parse().ok()
    }

    /// An event or a bookmark brought us to this version. A smaller number than before is none of them: events come in
    /// order.
    pub(super) fn advance(&self, version: &str) {
        let back = match (self.number(), version.parse::<u64>()) {
            (Some(held), Ok(version)) => version < held,
            _ => false,
        };
        if !back {
            self.set_version(version);
        }
    }

    /// The list that just ended is of this version, whatever came before.
    pub(super) fn set_version(&self, version: &str) {
        let mut held = lock(&self.version);
        let held = held.get_or_insert_default();
        held.clear();
        held.push_str(version);
        self.advanced.notify_waiters();
    }

    pub(super) fn forget_version(&self) {
        *lock(&self.version) = None;
    }

    pub(super) fn list_begun(&self) {
        self.lists_begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn list_ended(&self) {
        self.synced.store(true, Ordering::Release);
        self.lists_ended.fetch_add(1, Ordering::Relaxed);
        self.confirmed();
        self.advanced.notify_waiters();
    }

    /// Lists begun, finished or not.
    pub(super) fn lists_begun(&self) -> u64 {
        self.lists_begun.load(Ordering::Relaxed)
    }

    /// Lists taken in to their end.
    pub(super) fn lists_ended(&self) -> u64 {
        self.lists_ended.load(Ordering::Relaxed)
    }

    /// Waits until the version, or a list, says what is wanted; false if it does not in time.
    pub(super) async fn wait(&self, patience: Duration, wanted: impl Fn(&Self) -> bool) -> bool {
        let waited = async {
            loop {
                // Made before the look, so that no change in between is missed.
                let advanced = self.advanced.notified();
                if wanted(self) {
                    return;
                }
                advanced.await;
            }
        };
        tokio::time::timeout(patience, waited).await.is_ok()
    }

    /// Asks the task for something; the stronger of two wishes counts.
    pub(super) fn wish(&self, wish: Wish) {
        let mut held = lock(&self.wish);
        *held = (*held).max(Some(wish));
        self.wished.notify_one();
    }

    pub(super) fn take_wish(&self) -> Option<Wish> {
        lock(&self.wish).take()
    }

    /// Waits for a wish, which then waits to be taken.
    pub(super) async fn wished(&self) {
        while lock(&self.wish).is_none() {
            self.wished.notified().await;
        }
    }

    pub(super) fn status(&self, resource: Resource) -> WatchStatus {
        WatchStatus {
            resource,
            synced: self.synced.load(Ordering::Acquire),
            connected: self.connected.load(Ordering::Relaxed),
            silent_for: self.silent_for(),
            confirmed_for: self.confirmed.age(self.began),
            resource_version: self.version(),
            trouble: lock(&self.trouble).clone(),
        }
    }
}
