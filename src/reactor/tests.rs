//! What a reactor promises to those who wait.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::*;

/// Long enough for any machine; no test waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pair of sockets: what is sent to the first one can be read there.
fn pair() -> (UdpSocket, UdpSocket) {
    let [one, other] = ["127.0.0.1:0"; 2].map(|any| UdpSocket::bind(any).unwrap());
    other.connect(one.local_addr().unwrap()).unwrap();
    one.set_nonblocking(true).unwrap();
    (one, other)
}

/// A socket whose first datagram wakes whoever waits.
struct Mailbox {
    socket: UdpSocket,
    token: Token,
    waits: Waits,
    has_come: AtomicBool,
    is_closed: AtomicBool,
    sent: AtomicUsize,
    due: Option<Instant>,
    waker: Mutex<Option<Waker>>,
}

impl Mailbox {
    fn wake(&self) {
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Waits for the datagram, or for the end.
    fn wait(self: Arc<Self>) -> impl Future<Output = bool> + Send {
        self.waits.begin();
        poll_fn(move |context| {
            if self.has_come.load(Ordering::Relaxed) || self.is_closed.load(Ordering::Relaxed) {
                self.waits.end();
                return Poll::Ready(self.has_come.load(Ordering::Relaxed));
            }
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(context.waker().clone());
            Poll::Pending
        })
    }
}

impl Source for Mailbox {
    fn file(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn take(&self) -> bool {
        let has_come = self.socket.recv(&mut [0; 8]).is_ok();
        self.has_come.store(has_come, Ordering::Relaxed);
        self.wake();
        !has_come
    }

    fn send(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn look(&self, now: Instant) -> Fate {
        if self.due.is_some_and(|due| due <= now) {
            self.close();
            return Fate::Over;
        }
        Fate::Stays(self.due)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.wake();
    }
}

fn mailbox(due: Option<Instant>) -> (Arc<Mailbox>, UdpSocket) {
    let (socket, sender) = pair();
    let mut made = None;
    add(|token, waits| {
        let mailbox = Arc::new(Mailbox {
            socket,
            token,
            waits,
            has_come: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            due,
            waker: Mutex::default(),
        });
        made = Some(Arc::clone(&mailbox));
        mailbox
    })
    .unwrap();
    due.into_iter().for_each(note_due);
    (made.unwrap(), sender)
}

#[test]
fn a_thread_without_a_reactor_watches_nothing() {
    let (socket, _sender) = pair();
    let reactor = Reactor::<()>::open().unwrap();
    assert!(is_here());
    drop(reactor);
    assert!(!is_here());
    let refused = add(|token, waits| {
        Arc::new(Mailbox {
            socket,
            token,
            waits,
            has_come: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            due: None,
            waker: Mutex::default(),
        })
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn what_comes_to_a_source_ends_the_wait_for_it() {
    let (own, _asker) = pair();
    let mut reactor = Reactor::open().unwrap();
    let (mailbox, sender) = mailbox(None);
    assert!(reactor.start(mailbox.wait()).is_none() && reactor.is_busy());
    sender.send(b"x").unwrap();
    let mut done = Vec::new();
    while done.is_empty() {
        assert!(!reactor.wait(&own, PATIENCE).unwrap(), "nobody has asked");
        reactor.run_woken(|has_come| done.push(has_come));
    }
    assert_eq!(done, [true]);
    assert!(!reactor.is_busy());
}

#[test]
fn a_query_ends_the_wait_as_well() {
    let (own, asker) = pair();
    let mut reactor = Reactor::open().unwrap();
    let (mailbox, _sender) = mailbox(None);
    assert!(reactor.start(mailbox.wait()).is_none());
    asker.send(b"x").unwrap();
    assert!(reactor.wait(&own, PATIENCE).unwrap());
    reactor.run_woken(|_| panic!("nothing has come for it"));
    assert!(reactor.is_busy());
}

#[test]
fn another_thread_may_wake() {
    let (own, _asker) = pair();
    let mut reactor = Reactor::open().unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel::<u8>();
    assert!(reactor.start(receiver).is_none());
    let other = std::thread::spawn(move || sender.send(7).unwrap());
    let mut done = Vec::new();
    while done.is_empty() {
        reactor.wait(&own, PATIENCE).unwrap();
        reactor.run_woken(|number| done.push(number.unwrap()));
    }
    assert_eq!(done, [7]);
    other.join().unwrap();
}

#[test]
fn a_source_is_looked_at_when_it_wants_to() {
    let (own, _asker) = pair();
    let mut reactor = Reactor::open().unwrap();
    let due = Instant::now() + Duration::from_millis(20);
    let (mailbox, _sender) = mailbox(Some(due));
    assert!(reactor.start(mailbox.wait()).is_none());
    let mut done = Vec::new();
    while done.is_empty() {
        reactor.wait(&own, PATIENCE).unwrap();
        reactor.run_woken(|has_come| done.push(has_come));
    }
    assert_eq!(done, [false]);
    assert!(Instant::now() >= due);
}

#[test]
fn what_was_put_off_is_sent_before_the_wait_and_once() {
    let (own, asker) = pair();
    let mut reactor = Reactor::<()>::open().unwrap();
    let (mailbox, _sender) = mailbox(None);
    let before = round();
    note_unsent(mailbox.token);
    assert_eq!((mailbox.sent.load(Ordering::Relaxed), round()), (0, before));
    asker.send(b"x").unwrap();
    for _ in 0..2 {
        assert!(reactor.wait(&own, PATIENCE).unwrap());
    }
    assert_eq!(mailbox.sent.load(Ordering::Relaxed), 1);
    assert_ne!(round(), before);
}

#[test]
fn who_waits_is_told_that_the_thread_ends() {
    let reactor = Reactor::<bool>::open().unwrap();
    let (mailbox, _sender) = mailbox(None);
    drop(reactor);
    assert!(mailbox.is_closed.load(Ordering::Relaxed));
}

#[test]
fn a_task_that_panics_leaves_its_place() {
    let mut reactor = Reactor::<()>::open().unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        reactor.start(async { panic!("a bug") })
    }));
    assert!(panic.is_err() && !reactor.is_busy());
    assert!(reactor.start(async {}).is_some());
}
