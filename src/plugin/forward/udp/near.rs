//! Sockets of a thread that sees its own queries through: who sends also receives, and looks at the time.
//!
//! Each such thread has lanes of its own, so a worker's query is on one of as many ports as any other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::plugin::forward::random;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::udp::{Lanes, Link, Socket, Waiters, Weight, lock};
use crate::reactor::{self, Fate, Inbox, Source, Token, Waits};
use foldhash::fast::RandomState;

/// Pause before a datagram that found no room in the send queue is tried again.
const SEND_AGAIN: Duration = Duration::from_millis(1);

/// What a socket has of its thread.
pub(super) struct Near {
    pub(super) udp: UdpSocket,
    token: Token,
    waits: Waits,
    lifetime: Duration,
    unsent: Mutex<Unsent>,
}

/// Queries that leave when the thread has nothing else to do.
#[derive(Default)]
struct Unsent {
    octets: Vec<u8>,
    /// Their IDs, and where each ends.
    queries: Vec<(u16, usize)>,
    /// So many have left, and so many octets with them.
    left: usize,
    left_octets: usize,
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.queries.len() == self.left
    }

    /// Those that have not left.
    fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let queries = self.queries[self.left..].iter();
        queries.scan(self.left_octets, |start, &(_, end)| {
            let octets = &self.octets[*start..end];
            *start = end;
            Some(octets)
        })
    }

    /// Takes so many of them off.
    fn leave(&mut self, count: usize) {
        self.left += count;
        self.left_octets = match self.left.checked_sub(1) {
            Some(last) => self.queries[last].1,
            None => 0,
        };
        if self.is_empty() {
            self.octets.clear();
            self.queries.clear();
            (self.left, self.left_octets) = (0, 0);
        }
    }
}

/// Tells one upstream's lanes from those of another, for as long as it lives.
pub(super) struct Number(Arc<u64>);

impl Number {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

/// An upstream's lanes on one thread.
struct Own {
    upstream: Weak<u64>,
    lanes: Box<[Weak<Socket>]>,
    /// The one that queries take in this round.
    lane: usize,
    round: Option<u64>,
}

thread_local! {
    static OWN: RefCell<HashMap<u64, Own, RandomState>> = RefCell::default();
}

/// Lends one of the thread's lanes to an upstream. It is drawn anew after each wait: queries that came together leave
/// together. Nobody outside can foresee it any more than if each drew its own.
pub(super) fn with_lane<T>(lanes: &Lanes, work: impl FnOnce(&mut Weak<Socket>) -> T) -> T {
    OWN.with_borrow_mut(|own| {
        let number = *lanes.number.0;
        if !own.contains_key(&number) {
            // Those of generations that are gone go as well.
            own.retain(|_, own| own.upstream.strong_count() != 0);
        }
        let own = own.entry(number).or_insert_with(|| Own {
            upstream: Arc::downgrade(&lanes.number.0),
            lanes: lanes.lanes.iter().map(|_| Weak::new()).collect(),
            lane: 0,
            round: None,
        });
        let round = Some(reactor::round());
        if own.round != round {
            own.round = round;
            own.lane = random::below(own.lanes.len());
        }
        work(&mut own.lanes[own.lane])
    })
}

/// Makes a socket of this thread, which receives until it is unused.
pub(super) fn open(
    udp: UdpSocket,
    lifetime: Duration,
    make: impl FnOnce(Near) -> Arc<Socket>,
) -> io::Result<Arc<Socket>> {
    let mut made = None;
    reactor::add(|token, waits| {
        let socket = make(Near {
            udp,
            token,
            waits,
            lifetime,
            unsent: Mutex::default(),
        });
        made = Some(Arc::clone(&socket));
        socket
    })?;
    made.ok_or_else(|| ErrorKind::Unsupported.into())
}

impl Near {
    pub(super) fn begin_wait(&self, waiters: &mut Waiters, until: Instant) {
        self.waits.begin();
        if waiters.earliest.is_none_or(|earliest| until < earliest) {
            waiters.earliest = Some(until);
            reactor::note_due(until);
        }
    }

    pub(super) fn end_wait(&self) {
        self.waits.end();
    }

    /// Closes the socket. Where this is another thread its own one finds that at its next look.
    pub(super) fn tell_done(&self) {
        reactor::remove(self.token);
    }

    /// Puts a query off. It is told if it cannot leave.
    pub(super) fn put_off(&self, request: &Request, id: u16) {
        let mut unsent = lock(&self.unsent);
        if unsent.is_empty() {
            reactor::note_unsent(self.token);
        }
        request.write(id, &mut unsent.octets);
        let end = unsent.octets.len();
        unsent.queries.push((id, end));
    }
}

impl Socket {
    fn near(&self) -> Option<&Near> {
        match &self.link {
            Link::Near(near) => Some(near),
            Link::Task(_) => None,
        }
    }
}

impl Source for Socket {
    fn file(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Near(near) => near.udp.as_fd(),
            Link::Task(udp) => udp.as_fd(),
        }
    }

    fn take(&self) -> bool {
        let Some(near) = self.near() else {
            return false;
        };
        // As many as may have come: to ask for one more would cost a call. Forged ones are told again.
        let count = lock(&self.waiters).by_id.len().max(1);
        if let Err(error) = self.receive_some(&near.udp, count) {
            self.end(&error);
            return false;
        }
        !(self.retired.load(Ordering::Relaxed) && self.close_if_unused(near.lifetime))
    }

    fn send(&self) {
        let Some(near) = self.near() else {
            return;
        };
        let mut unsent = lock(&near.unsent);
        let mut tried_again = false;
        while !unsent.is_empty() {
            match reactor::send_some(&near.udp, unsent.rest()) {
                Ok(count) => unsent.leave(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Its look tries again.
                    reactor::note_due(Instant::now() + SEND_AGAIN);
                    return;
                }
                Err(error) if !tried_again && Weight::may_be_old(&error) => {
                    tried_again = true;
                    continue;
                }
                Err(error) => {
                    let (id, _) = unsent.queries[unsent.left];
                    self.fail(id, &error);
                    unsent.leave(1);
                }
            }
            tried_again = false;
        }
    }

    fn look(&self, now: Instant) -> Fate {
        let Some(near) = self.near() else {
            return Fate::Over;
        };
        let earliest = self.tell_late(now);
        if !lock(&near.unsent).is_empty() {
            self.send();
        }
        if self.close_if_unused(near.lifetime) {
            Fate::Over
        } else {
            Fate::Stays(earliest)
        }
    }

    fn close(&self) {
        let mut waiters = lock(&self.waiters);
        waiters.closed = true;
        for (_, waiter) in waiters.by_id.drain() {
            let _ = waiter.sender.send(Err(self.gone()));
        }
    }
}

impl Socket {
    /// Takes what has come, so many datagrams at most.
    fn receive_some(&self, udp: &UdpSocket, count: usize) -> io::Result<()> {
        thread_local! {
            static INBOX: RefCell<Inbox> = RefCell::default();
        }
        INBOX.with_borrow_mut(|inbox| match inbox.receive(udp, count) {
            Ok(count) => {
                (0..count).for_each(|index| self.deliver(inbox.datagram(index)));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => self.meet(error),
        })
    }

    /// One query cannot leave.
    fn fail(&self, id: u16, error: &io::Error) {
        if let Some(waiter) = lock(&self.waiters).by_id.remove(&id) {
            let _ = waiter.sender.send(Err(self.not_sent(error)));
        }
    }

    /// An error that is the socket's end.
    fn end(&self, error: &io::Error) {
        lock(&self.waiters).closed = true;
        self.fail_all(error);
    }

    /// Tells those whose time is over; returns when that of the next one is.
    fn tell_late(&self, now: Instant) -> Option<Instant> {
        let mut waiters = lock(&self.waiters);
        if waiters.earliest.is_some_and(|earliest| earliest <= now) {
            let late = waiters.by_id.extract_if(|_, waiter| waiter.until <= now);
            for (_, waiter) in late {
                let _ = waiter.sender.send(Err(self.late()));
            }
            waiters.earliest = waiters.by_id.values().map(|waiter| waiter.until).min();
        }
        waiters.earliest
    }
}
