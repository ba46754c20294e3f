//! The twin for kernels other than Linux: no thread has a reactor, so what waits does so on the runtime.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::reactor::source::{Source, Token, Waits};

/// There is none.
pub fn is_here() -> bool {
    false
}

/// Nobody would watch it.
pub fn add(_make: impl FnOnce(Token, Waits) -> Arc<dyn Source>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nobody does.
pub fn remove(_token: Token) {}

/// Nobody looks.
pub fn note_due(_at: Instant) {}

/// Nobody sends.
pub fn note_unsent(_token: Token) {}

/// Always the same.
pub fn round() -> u64 {
    0
}

/// What no thread has.
pub struct Reactor<T> {
    never: Infallible,
    _task: std::marker::PhantomData<fn() -> T>,
}

impl<T> Reactor<T> {
    /// There is none.
    pub fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// It is not there.
    pub fn is_busy(&self) -> bool {
        match self.never {}
    }

    /// It is not there.
    pub fn start(&mut self, _task: impl Future<Output = T> + Send + 'static) -> Option<T> {
        match self.never {}
    }

    /// It is not there.
    pub fn wait(&mut self, _socket: impl AsFd, _patience: Duration) -> io::Result<bool> {
        match self.never {}
    }

    /// It is not there.
    pub fn run_woken(&mut self, _done: impl FnMut(T)) {
        match self.never {}
    }

    /// It is not there.
    pub fn rest(&mut self, _socket: impl AsFd, _now: Instant) {
        match self.never {}
    }
}
