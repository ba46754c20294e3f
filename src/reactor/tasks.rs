//! Futures that one thread polls.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::reactor::source::Waits;
use crate::reactor::watch::{self, Watch};

/// Turns without anything that waits, until the socket is watched no longer.
const QUIET_TURNS: u32 = 64;

/// How long a socket may go without a look that cannot be watched.
const UNWATCHED: Duration = Duration::from_millis(1);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The futures of one thread, and what they wait for. They may be as many as the caller lets in.
pub struct Reactor<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    /// Those that are polled now; kept for its room.
    round: Vec<usize>,
    waits: Waits,
    quiet_turns: u32,
}

struct Slot<T> {
    task: Option<Task<T>>,
    bell: Arc<Bell>,
    /// Of the bell, which outlives the task: the next one here has the same.
    waker: Waker,
}

/// Wakes the task of one slot.
struct Bell {
    slot: usize,
    has_rung: AtomicBool,
    woken: Arc<Woken>,
}

/// The slots that were woken.
struct Woken {
    slots: Mutex<Vec<usize>>,
    /// The thread waits, or is about to.
    asleep: AtomicBool,
    wake_up: OwnedFd,
}

impl Woken {
    fn slots(&self) -> MutexGuard<'_, Vec<usize>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.has_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        self.woken.slots().push(self.slot);
        if self.woken.asleep.swap(false, Ordering::AcqRel) {
            // It can only be full of wake-ups that were not read yet.
            let _ = rustix::io::write(&self.woken.wake_up, &1_u64.to_ne_bytes());
        }
    }
}

impl<T> Reactor<T> {
    /// Makes this thread one that sees its futures through. There may be one on each.
    pub fn open() -> io::Result<Self> {
        let wake_up = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let waits = Watch::open(&wake_up)?;
        Ok(Self {
            slots: Vec::new(),
            free: Vec::new(),
            woken: Arc::new(Woken {
                slots: Mutex::default(),
                asleep: AtomicBool::new(false),
                wake_up,
            }),
            round: Vec::new(),
            waits,
            quiet_turns: 0,
        })
    }

    /// Whether anything waits here, so that [`wait`](Self::wait) has to be called.
    pub fn is_busy(&self) -> bool {
        self.slots.len() != self.free.len() || self.waits.are_any()
    }

    /// Polls a future at once, and keeps it if it has to wait.
    pub fn start(&mut self, task: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            let bell = Arc::new(Bell {
                slot,
                has_rung: AtomicBool::new(false),
                woken: Arc::clone(&self.woken),
            });
            let waker = Waker::from(Arc::clone(&bell));
            let task = None;
            self.slots.push(Slot { task, bell, waker });
            slot
        });
        self.slots[slot].task = Some(Box::pin(task));
        self.poll(slot)
    }

    fn poll(&mut self, at: usize) -> Option<T> {
        let slot = &mut self.slots[at];
        slot.bell.has_rung.store(false, Ordering::Release);
        // Woken by whoever kept the waker of a task before.
        let mut task = slot.task.take()?;
        let mut context = Context::from_waker(&slot.waker);
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => {
                slot.task = Some(task);
                None
            }
            Ok(Poll::Ready(done)) => {
                self.free.push(at);
                Some(done)
            }
            Err(panic) => {
                self.free.push(at);
                resume_unwind(panic)
            }
        }
    }

    /// Sends what was put off, waits until something comes, for `patience` at most, and lets the sources take what came.
    /// Whether `socket` may have something to read.
    pub fn wait(&mut self, socket: impl AsFd, patience: Duration) -> io::Result<bool> {
        self.quiet_turns = 0;
        watch::send();
        let is_watched = watch::watch_socket(socket, true).is_ok();
        self.woken.asleep.store(true, Ordering::Release);
        let patience = if !self.woken.slots().is_empty() {
            Duration::ZERO
        } else if is_watched {
            patience
        } else {
            // The kernel has no room for one more: then somebody has to look.
            patience.min(UNWATCHED)
        };
        let others = watch::wait(patience);
        self.woken.asleep.store(false, Ordering::Release);
        let others = others?;
        if others.wake_up {
            // Whoever rings from now on finds it empty.
            let _ = rustix::io::read(&self.woken.wake_up, &mut [0_u8; 8]);
        }
        Ok(others.socket || !is_watched)
    }

    /// Polls what was woken; `done` gets what is ready.
    pub fn run_woken(&mut self, mut done: impl FnMut(T)) {
        let mut round = std::mem::take(&mut self.round);
        std::mem::swap(&mut *self.woken.slots(), &mut round);
        for slot in round.drain(..) {
            if let Some(ready) = self.poll(slot) {
                done(ready);
            }
        }
        self.round = round;
    }

    /// For turns in which nothing waits. A socket that is watched costs a little with each datagram, so after some of them
    /// it is watched no longer.
    pub fn rest(&mut self, socket: impl AsFd, now: Instant) {
        if self.quiet_turns < QUIET_TURNS {
            self.quiet_turns += 1;
            if self.quiet_turns == QUIET_TURNS {
                // If that fails it only stays dearer.
                let _ = watch::watch_socket(socket, false);
            }
        }
        if watch::has_sources() {
            watch::look(now);
        }
    }
}

impl<T> Drop for Reactor<T> {
    fn drop(&mut self) {
        // Futures first: their waits end with them.
        self.slots.clear();
        Watch::close();
    }
}
