//! Replies that a UDP socket had no room for, held until it has (`shed`).
//!
//! Without `shed` a worker waits for room, and its queries wait in the kernel meanwhile. With it the worker goes on. What
//! found no room stands here, and a task sends it as room comes, the newest first: who asked last still waits.
//!
//! ```text
//! reply --> socket takes it? yes --> network
//!                            no  --> | oldest . . . . . newest | --> socket, as soon as it takes one
//!                          lost <--- full: the oldest goes, and no query is answered
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;

use crate::net::batch::ReturnPath;
use crate::net::limit::UNSENT_MAX;
use crate::net::service::Service;

/// From one try to the next. The timer knows no less.
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// What one socket has not taken.
#[derive(Default)]
pub struct Unsent {
    stack: Mutex<Stack<Held>>,
    full: AtomicBool,
}

/// A reply and its way home.
struct Held {
    path: ReturnPath,
    octets: Box<[u8]>,
}

/// The newest last, never more than [`UNSENT_MAX`].
struct Stack<T> {
    held: VecDeque<T>,
    /// A task takes from it, and goes when it is empty.
    is_tended: bool,
}

impl<T> Default for Stack<T> {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            is_tended: false,
        }
    }
}

impl<T> Stack<T> {
    /// Puts one on top; the oldest comes back if it has to go.
    fn push(&mut self, one: T) -> Option<T> {
        let oldest = if self.is_full() {
            self.held.pop_front()
        } else {
            None
        };
        self.held.push_back(one);
        oldest
    }

    fn is_full(&self) -> bool {
        self.held.len() >= UNSENT_MAX
    }
}

/// What came of the newest.
enum Tried {
    /// It has left, or never will.
    Gone,
    /// It stays: there is no room.
    NoRoom,
    /// There was none.
    Empty,
}

impl Unsent {
    /// Whether it holds all that it may. Takes no lock.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Holds a reply until `socket` takes it; `lost` counts what has to go.
    pub fn hold(
        self: &Arc<Self>,
        path: ReturnPath,
        octets: &[u8],
        service: &Service,
        socket: &Arc<UdpSocket>,
        lost: &IntCounter,
    ) {
        let octets = octets.into();
        let mut stack = self.lock();
        if stack.push(Held { path, octets }).is_some() {
            lost.inc();
        }
        self.full.store(stack.is_full(), Ordering::Relaxed);
        if !std::mem::replace(&mut stack.is_tended, true) {
            drop(stack);
            let (this, socket, lost) = (Arc::clone(self), Arc::clone(socket), lost.clone());
            // It holds the socket, so a stop waits for it.
            service.spawn(async move { this.empty(&socket, &lost).await });
        }
    }

    /// Sends what is held until nothing is.
    async fn empty(&self, socket: &UdpSocket, lost: &IntCounter) {
        loop {
            match self.send_newest(|held| held.path.send(socket, &held.octets), lost) {
                Tried::Gone => tokio::task::yield_now().await,
                Tried::NoRoom => tokio::time::sleep(TRY_AGAIN).await,
                Tried::Empty => return,
            }
        }
    }

    /// Under the lock, for `send` never waits: so it is the newest that leaves.
    fn send_newest(&self, send: impl FnOnce(&Held) -> io::Result<()>, lost: &IntCounter) -> Tried {
        let mut stack = self.lock();
        let Some(newest) = stack.held.back() else {
            stack.is_tended = false;
            stack.held = VecDeque::new();
            return Tried::Empty;
        };
        match send(newest) {
            Err(error) if is_out_of_room(&error) => return Tried::NoRoom,
            Err(_) => lost.inc(),
            Ok(()) => {}
        }
        stack.held.pop_back();
        self.full.store(false, Ordering::Relaxed);
        Tried::Gone
    }

    fn lock(&self) -> MutexGuard<'_, Stack<Held>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a socket will take the reply when others have left.
pub fn is_out_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::batch::Batch;

    /// A way home, and what stands on the stack by first octet.
    fn unsent(octets: impl Iterator<Item = u16>) -> (Unsent, IntCounter) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&server, true).unwrap(), 1);
        let (unsent, lost) = (Unsent::default(), IntCounter::new("lost", "lost").unwrap());
        for number in octets {
            let held = Held {
                path: batch.return_path(0),
                octets: number.to_be_bytes().into(),
            };
            let mut stack = unsent.lock();
            lost.inc_by(stack.push(held).is_some().into());
            unsent.full.store(stack.is_full(), Ordering::Relaxed);
        }
        (unsent, lost)
    }

    /// What leaves, in order, until the socket takes no more.
    fn sent(unsent: &Unsent, room: usize, lost: &IntCounter) -> Vec<u16> {
        let mut sent = Vec::new();
        loop {
            let tried = unsent.send_newest(
                |held| {
                    if sent.len() == room {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                    sent.push(u16::from_be_bytes([held.octets[0], held.octets[1]]));
                    Ok(())
                },
                lost,
            );
            if !matches!(tried, Tried::Gone) {
                return sent;
            }
        }
    }

    #[test]
    fn the_newest_leaves_first_and_what_finds_no_room_stays() {
        let (unsent, lost) = unsent(0..5);
        assert_eq!(sent(&unsent, 2, &lost), [4, 3]);
        assert_eq!(sent(&unsent, 9, &lost), [2, 1, 0]);
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn past_the_bound_the_oldest_is_lost_and_counted() {
        let all = u16::try_from(UNSENT_MAX).unwrap();
        let (unsent, lost) = unsent(0..all + 3);
        assert!(unsent.is_full());
        assert_eq!(lost.get(), 3);
        let sent = sent(&unsent, usize::MAX, &lost);
        assert!(!unsent.is_full());
        assert_eq!(
            (sent.len(), sent.first(), sent.last()),
            (UNSENT_MAX, Some(&(all + 2)), Some(&3))
        );
    }

    #[test]
    fn a_reply_that_can_never_leave_is_lost_and_the_others_leave() {
        let (unsent, lost) = unsent(0..2);
        let refused = unsent.send_newest(|_| Err(ErrorKind::PermissionDenied.into()), &lost);
        assert!(matches!(refused, Tried::Gone));
        assert_eq!(lost.get(), 1);
        assert_eq!(sent(&unsent, 9, &lost), [0]);
    }
}
