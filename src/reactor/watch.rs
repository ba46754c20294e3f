//! What one thread waits for: an epoll with its sources.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::reactor::source::{Fate, Source, Token, Waits};

/// The least time between two looks at all sources, and the longest while any is there.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Events taken at once.
const EVENTS: usize = 128;

/// In place of a source's number: the worker's own socket, and the wake-up from other threads.
const SOCKET: u64 = u64::MAX;
const WAKE_UP: u64 = u64::MAX - 1;

/// What the thread watches.
pub(super) struct Watch {
    epoll: OwnedFd,
    sources: HashMap<Token, Arc<dyn Source>, RandomState>,
    waits: Waits,
    /// When a source wants a look, and when all had one.
    due: Option<Instant>,
    looked: Instant,
    events: Vec<epoll::Event>,
    watches_socket: bool,
    /// Sources that have put something off.
    unsent: Vec<Token>,
    /// How often it has waited.
    round: u64,
}

thread_local! {
    static HERE: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Whether futures that are polled on this thread now may wait for sources.
pub fn is_here() -> bool {
    HERE.with_borrow(Option::is_some)
}

/// Watches a source on this thread, which owns it from now on. It is told where its waits are counted.
pub fn add(make: impl FnOnce(Token, Waits) -> Arc<dyn Source>) -> io::Result<()> {
    with(|watch| {
        let token = Token::new();
        let source = make(token, watch.waits.clone());
        let data = epoll::EventData::new_u64(token.0);
        epoll::add(&watch.epoll, source.file(), data, epoll::EventFlags::IN)?;
        watch.sources.insert(token, source);
        Ok(())
    })
    .unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))
}

/// Watches it no longer, if it is one of this thread.
pub fn remove(token: Token) {
    let gone = with(|watch| watch.remove(token));
    // Dropped here, where it may ask for anything of this thread.
    drop(gone);
}

/// A source wants a look at this time.
pub fn note_due(at: Instant) {
    with(|watch| {
        if watch.due.is_none_or(|due| at < due) {
            watch.due = Some(at);
        }
    });
}

/// A source has put something off, until the thread is about to wait: then it is sent with what else there is.
pub fn note_unsent(token: Token) {
    with(|watch| watch.unsent.push(token));
}

/// A number that is the same until the thread waits.
pub fn round() -> u64 {
    with(|watch| watch.round).unwrap_or(0)
}

/// Has sources send what they have put off.
pub(super) fn send() {
    let mut unsent = with(|watch| {
        watch.round += 1;
        std::mem::take(&mut watch.unsent)
    })
    .unwrap_or_default();
    for token in unsent.drain(..) {
        let source = with(|watch| watch.sources.get(&token).cloned());
        if let Some(source) = source.flatten() {
            source.send();
        }
    }
    // Back for its room.
    with(|watch| {
        if watch.unsent.is_empty() {
            watch.unsent = unsent;
        }
    });
}

fn with<T>(work: impl FnOnce(&mut Watch) -> T) -> Option<T> {
    HERE.with_borrow_mut(|watch| watch.as_mut().map(work))
}

impl Watch {
    /// Begins to watch on this thread.
    pub(super) fn open(wake_up: impl AsFd) -> io::Result<Waits> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(WAKE_UP);
        epoll::add(&epoll, wake_up, data, epoll::EventFlags::IN)?;
        let waits = Waits::default();
        HERE.set(Some(Self {
            epoll,
            sources: HashMap::default(),
            waits: waits.clone(),
            due: None,
            looked: Instant::now(),
            events: Vec::with_capacity(EVENTS),
            watches_socket: false,
            unsent: Vec::new(),
            round: 0,
        }));
        Ok(waits)
    }

    /// Ends it; whoever waits for a source is told.
    pub(super) fn close() {
        let watch = HERE.take();
        for source in watch.iter().flat_map(|watch| watch.sources.values()) {
            source.close();
        }
    }

    fn remove(&mut self, token: Token) -> Option<Arc<dyn Source>> {
        let source = self.sources.remove(&token)?;
        // A file that is closed is forgotten anyhow.
        let _ = epoll::delete(&self.epoll, source.file());
        Some(source)
    }

    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).unwrap_or_default();
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How long to wait at most, if all sources are to have their look in time.
    fn patience(&self, most: Duration, now: Instant) -> Duration {
        let due = self
            .due
            .map_or(LOOK_MAX, |due| due.saturating_duration_since(now));
        most.min(due.max(LOOK_MIN))
    }
}

/// Whether there is anything that wants a look now and then.
pub(super) fn has_sources() -> bool {
    with(|watch| !watch.sources.is_empty()).unwrap_or(false)
}

/// Watches the worker's own socket as well, or no longer.
pub(super) fn watch_socket(socket: impl AsFd, watches: bool) -> io::Result<()> {
    with(|watch| {
        if watch.watches_socket == watches {
            return Ok(());
        }
        if watches {
            let data = epoll::EventData::new_u64(SOCKET);
            epoll::add(&watch.epoll, socket, data, epoll::EventFlags::IN)?;
        } else {
            epoll::delete(&watch.epoll, socket)?;
        }
        watch.watches_socket = watches;
        Ok(())
    })
    .unwrap_or(Ok(()))
}

/// What there is besides sources.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Others {
    /// The worker's own socket can be read.
    pub(super) socket: bool,
    /// Another thread has woken a future.
    pub(super) wake_up: bool,
}

/// Waits until something comes, and lets the sources take what came.
pub(super) fn wait(patience: Duration) -> io::Result<Others> {
    let now = Instant::now();
    let waited = with(|watch| {
        let patience = if patience.is_zero() {
            patience
        } else {
            watch.patience(patience, now)
        };
        watch.wait(patience)?;
        Ok::<_, io::Error>(watch.events.len())
    });
    let count = waited.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))?;
    let mut others = Others::default();
    for at in 0..count {
        // One by one: what a source does may change the watch.
        let next = with(|watch| {
            let number = watch.events.get(at)?.data.u64();
            Some((number, watch.sources.get(&Token(number)).cloned()))
        });
        match next.flatten() {
            Some((SOCKET, _)) => others.socket = true,
            Some((WAKE_UP, _)) => others.wake_up = true,
            Some((number, Some(source))) if !source.take() => remove(Token(number)),
            _ => {}
        }
    }
    look(now);
    Ok(others)
}

/// Lets all sources look at the clock, if one wants to or it was long ago.
pub(super) fn look(now: Instant) {
    let sources = with(|watch| {
        let since = now.saturating_duration_since(watch.looked);
        let is_due = watch.due.is_some_and(|due| due <= now) && since >= LOOK_MIN;
        (is_due || since >= LOOK_MAX).then(|| {
            watch.looked = now;
            watch.due = None;
            let sources = watch.sources.iter();
            sources
                .map(|(&token, source)| (token, Arc::clone(source)))
                .collect::<Vec<_>>()
        })
    });
    for (token, source) in sources.flatten().unwrap_or_default() {
        match source.look(now) {
            Fate::Over => remove(token),
            Fate::Stays(Some(at)) => note_due(at),
            Fate::Stays(None) => {}
        }
    }
}
