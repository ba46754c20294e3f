//! What a thread can wait for.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// A file that brings what futures of a thread wait for.
pub trait Source: Send + Sync {
    /// What is watched. It must not block.
    fn file(&self) -> BorrowedFd<'_>;

    /// Something has come, or went wrong. What is left is told again. False if the source is done with.
    fn take(&self) -> bool;

    /// Sends what was put off ([`note_unsent`]).
    fn send(&self);

    /// A look at the clock, for waits that are over.
    fn look(&self, now: Instant) -> Fate;

    /// Its thread ends: nothing will come any more.
    fn close(&self);
}

/// What becomes of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays, and wants a look at this time, if any.
    Stays(Option<Instant>),
    /// It is done with.
    Over,
}

/// A source's number; no other has it, on any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(super) u64);

impl Token {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How many waits there are for the sources of a thread. It may be told from any.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<AtomicUsize>);

impl Waits {
    /// One more.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn are_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}
