//! Queries over UDP: sockets that many queries share, and the match of each reply to its query.
//!
//! ```text
//! query -> lane, drawn at random -> socket (random port, connected) -> upstream
//!                                      |
//! query <- oneshot <- waiter by ID <- receiver task <-----------------'
//! ```
//!
//! One task a socket receives for all queries on it, rather than each query for itself: under load one wake-up of the
//! runtime then delivers many replies, and the number of sockets does not grow with the number of queries. Threads that
//! see their queries through have lanes of their own, and receive by themselves (`near.rs`).
//!
//! What an outsider must guess to forge a reply: the ID (16 bits) and the port (15.7 bits: ports are drawn from 10240
//! to 65535, the kernel's own range would give 14.8). A socket takes at most [`USES_MAX`] queries and no new one after
//! [`AGE_MAX`], so a port that was found out is soon worth nothing; even then the query is on one of [`LANES`] ports,
//! which leaves 21 bits. Identical questions are asked once (`flight.rs`), so guesses do not add up. The socket is
//! connected, so the kernel drops what another address sends.
//!
//! An ICMP message is as easily forged as a reply, and names no ID. So none may do more than send the queries of one
//! socket on to the next upstream, as a refused connection does; any reply makes up for that. Reports of narrow paths
//! do nothing (SAD DNS finds open ports by them, RFC 9715 fears fragments): what we send fits any path.

mod near;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, SockRef, Socket as RawSocket, Type};
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout_at};

use crate::plugin::forward::config::Transport;
use crate::plugin::forward::metrics::{Proto, UpstreamMetrics};
use crate::plugin::forward::random;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::{Asked, Request};
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::udp::near::{Near, Number};
use crate::reactor;
use crate::wire::u16_at;

/// Sockets to one upstream that take queries at the same time.
const LANES: usize = 32;

/// Queries that one socket takes before its port is changed.
const USES_MAX: u32 = 256;

/// How long a socket takes queries before its port is changed.
const AGE_MAX: Duration = Duration::from_secs(10);

/// Queries that wait for one upstream. With [`USES_MAX`] it bounds the sockets to 32 + 64.
const OUTSTANDING_MAX: usize = 16_384;

/// The first port that is drawn. Below lie the ports of most services that may start after us.
const PORT_MIN: u16 = 10_240;

/// Datagrams taken before other tasks have their turn.
const BATCH: usize = 64;

/// A datagram, or the news that there will be none.
const ARRIVAL: Interest = Interest::READABLE.add(Interest::ERROR);

/// The sockets to one upstream.
pub(super) struct Lanes {
    to: SocketAddr,
    source: Option<IpAddr>,
    expire: Duration,
    age_max: Duration,
    /// The receiver task owns a socket, so it is closed when that ends.
    lanes: Box<[Mutex<Weak<Socket>>]>,
    /// Tells its lanes on each thread from those of others.
    number: Number,
    outstanding: Arc<AtomicUsize>,
    runtime: Handle,
    metrics: Arc<UpstreamMetrics>,
}

struct Socket {
    link: Link,
    local: SocketAddr,
    to: SocketAddr,
    opened: Instant,
    uses: AtomicU32,
    waiters: Mutex<Waiters>,
    /// Takes no new query.
    retired: AtomicBool,
    /// Retired, and nobody waits any more.
    done: Notify,
    metrics: Arc<UpstreamMetrics>,
}

/// Who receives.
enum Link {
    /// A task of the runtime.
    Task(UdpSocket),
    /// The thread that sends.
    Near(Near),
}

struct Waiters {
    by_id: HashMap<u16, Waiter, RandomState>,
    last_used: Instant,
    /// When the first of them has waited for long enough, or before. Near sockets alone look at it: elsewhere each query
    /// has a timer of its own.
    earliest: Option<Instant>,
    /// The receiver has ended.
    closed: bool,
}

struct Waiter {
    asked: Asked,
    until: Instant,
    sender: oneshot::Sender<Result<Reply, Trouble>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    pub(super) fn new(
        to: SocketAddr,
        transport: &Transport,
        runtime: Handle,
        metrics: Arc<UpstreamMetrics>,
    ) -> Self {
        let count = match transport.max_idle_conns {
            0 => LANES,
            count => count.min(LANES),
        };
        let age_max = match transport.max_age {
            None | Some(Duration::ZERO) => AGE_MAX,
            Some(max_age) => max_age.min(AGE_MAX),
        };
        Self {
            to,
            source: transport.source,
            expire: transport.expire,
            age_max,
            lanes: (0..count).map(|_| Mutex::default()).collect(),
            number: Number::new(),
            outstanding: Arc::default(),
            runtime,
            metrics,
        }
    }

    /// Sends the query now and waits for its reply.
    pub(super) async fn exchange(
        &self,
        request: &Request,
        now: Instant,
        until: Instant,
    ) -> Result<Reply, Trouble> {
        let mut ticket = self.ticket(request, now, until)?;
        ticket.send(request, until).await?;
        ticket.reply(until).await
    }

    /// Sends one message over a socket of its own and waits until something that comes back is taken.
    pub(super) async fn probe(
        &self,
        message: &[u8],
        is_alive: impl Fn(&[u8]) -> bool,
        until: Instant,
    ) -> Result<(), Trouble> {
        let to = self.to;
        let exchange = async {
            let socket = connect(to, self.source)?;
            socket.send(message).await?;
            // The header is all that counts; the rest of a datagram may be cut off.
            let mut reply = [0; 512];
            loop {
                let length = socket.recv(&mut reply).await?;
                if is_alive(&reply[..length]) {
                    return Ok(());
                }
            }
        };
        timeout_at(until.into(), exchange)
            .await
            .map_err(|_| Trouble::late(format!("read udp {to}: i/o timeout")))?
            .map_err(|error: io::Error| Trouble::io(format_args!("read udp {to}: read"), &error))
    }

    /// A place on some socket, opened if there is none.
    fn ticket(&self, request: &Request, now: Instant, until: Instant) -> Result<Ticket, Trouble> {
        let share = Share::of(&self.outstanding)
            .ok_or_else(|| Trouble::network(format!("too many queries wait for {}", self.to)))?;
        let is_near = reactor::is_here();
        if is_near {
            near::with_lane(self, |lane| {
                self.ticket_of(lane, is_near, share, request, (now, until))
            })
        } else {
            let mut lane = lock(&self.lanes[random::below(self.lanes.len())]);
            self.ticket_of(&mut lane, is_near, share, request, (now, until))
        }
    }

    fn ticket_of(
        &self,
        lane: &mut Weak<Socket>,
        is_near: bool,
        share: Share,
        request: &Request,
        (now, until): (Instant, Instant),
    ) -> Result<Ticket, Trouble> {
        let ticket = |socket: Arc<Socket>, (id, receiver)| Ticket {
            socket,
            id,
            receiver,
            _share: share,
        };
        if let Some(socket) = lane.upgrade() {
            let fresh = now.saturating_duration_since(socket.opened) < self.age_max;
            if fresh && let Some(place) = socket.register(request.asked(), now, until, self.expire)
            {
                self.metrics.socket(Proto::Udp, true);
                return Ok(ticket(socket, place));
            }
            socket.retire();
        }
        self.metrics.socket(Proto::Udp, false);
        let socket = self
            .open(is_near, now)
            .map_err(|error| Trouble::io(format_args!("dial udp {}: connect", self.to), &error))?;
        let place = socket
            .register(request.asked(), now, until, Duration::MAX)
            .expect("a new socket takes a query");
        *lane = Arc::downgrade(&socket);
        Ok(ticket(socket, place))
    }

    /// Opens a socket, and has somebody receive.
    fn open(&self, is_near: bool, now: Instant) -> io::Result<Arc<Socket>> {
        let udp = connect_bare(self.to, self.source)?;
        let local = udp.local_addr()?;
        let socket = |link| {
            Arc::new(Socket {
                link,
                local,
                to: self.to,
                opened: now,
                uses: AtomicU32::new(0),
                waiters: Mutex::new(Waiters {
                    by_id: HashMap::default(),
                    last_used: now,
                    earliest: None,
                    closed: false,
                }),
                retired: AtomicBool::new(false),
                done: Notify::new(),
                metrics: Arc::clone(&self.metrics),
            })
        };
        let lifetime = self.expire.min(self.age_max);
        if is_near {
            return near::open(udp, lifetime, |near| socket(Link::Near(near)));
        }
        let _context = self.runtime.enter();
        let socket = socket(Link::Task(UdpSocket::from_std(udp)?));
        self.runtime.spawn(receive(Arc::clone(&socket), lifetime));
        Ok(socket)
    }
}

/// A socket on a random port that hears only `to`. Must be called within the runtime.
pub(super) fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    UdpSocket::from_std(connect_bare(to, source)?)
}

/// The same without the runtime. It does not block.
fn connect_bare(to: SocketAddr, source: Option<IpAddr>) -> io::Result<std::net::UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // Kernels before 3.15 do not know the value; they are no worse off than without.
    let _ = match to {
        SocketAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT),
        SocketAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::OMIT),
    };
    let source = source.unwrap_or(match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    let range = usize::from(u16::MAX - PORT_MIN) + 1;
    // Ports in use are drawn again; on a host that is full of them the kernel chooses.
    let bound = (0..8).any(|_| {
        let drawn = u16::try_from(random::below(range)).expect("the range is one of ports");
        let address = SocketAddr::new(source, PORT_MIN + drawn);
        socket.bind(&address.into()).is_ok()
    });
    if !bound {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&to.into())?;
    // What came in before the socket was connected may be from anyone.
    while SockRef::from(&socket)
        .recv(&mut [std::mem::MaybeUninit::uninit(); 1])
        .is_ok()
    {}
    Ok(socket.into())
}

impl Socket {
    /// A waiter with an ID of its own; none if the socket takes no more.
    fn register(
        &self,
        asked: Asked,
        now: Instant,
        until: Instant,
        idle_max: Duration,
    ) -> Option<(u16, Receiver)> {
        let mut waiters = lock(&self.waiters);
        if waiters.closed
            || now.saturating_duration_since(waiters.last_used) >= idle_max
            || self.retired.load(Ordering::Relaxed)
            || self.uses.fetch_add(1, Ordering::Relaxed) >= USES_MAX
        {
            return None;
        }
        let id = loop {
            // At most USES_MAX of 65,536 are taken.
            let id = random::number();
            if !waiters.by_id.contains_key(&id) {
                break id;
            }
        };
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            asked,
            until,
            sender,
        };
        waiters.by_id.insert(id, waiter);
        waiters.last_used = now;
        if let Link::Near(near) = &self.link {
            near.begin_wait(&mut waiters, until);
        }
        Some((id, receiver))
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        if lock(&self.waiters).by_id.is_empty() {
            self.tell_done();
        }
    }

    /// It is retired, and nobody waits any more.
    fn tell_done(&self) {
        match &self.link {
            Link::Task(_) => self.done.notify_one(),
            Link::Near(near) => near.tell_done(),
        }
    }

    /// Takes the errors that have arrived. One that ICMP brought makes the socket ready for nothing but errors.
    fn drain_errors(&self, udp: &UdpSocket) -> io::Result<()> {
        let none_left = || io::Error::from(io::ErrorKind::WouldBlock);
        let take = || udp.take_error()?.ok_or_else(none_left);
        while let Ok(error) = udp.try_io(Interest::ERROR, take) {
            self.meet(error)?;
        }
        Ok(())
    }

    /// What an error means for the queries on the socket, or that it is the socket's end.
    fn meet(&self, error: io::Error) -> io::Result<()> {
        match Weight::of(&error) {
            Weight::None => {}
            Weight::Queries => self.fail_all(&error),
            Weight::Socket => return Err(error),
        }
        Ok(())
    }

    /// Takes what has arrived.
    fn drain(&self, udp: &UdpSocket, ready: Ready) -> io::Result<()> {
        if ready.is_error() {
            self.drain_errors(udp)?;
        }
        self.receive_up_to(BATCH, |buffer| udp.try_recv(buffer))
    }

    /// Receives so many datagrams at most, as far as there are any.
    fn receive_up_to(
        &self,
        count: usize,
        receive: impl Fn(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 65_535]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..count {
                match receive(buffer) {
                    Ok(length) => self.deliver(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => self.meet(error)?,
                }
            }
            Ok(())
        })
    }

    /// Hands a reply to its waiter. What answers nothing is ignored, and the wait goes on.
    fn deliver(&self, datagram: &[u8]) {
        let mut waiters = lock(&self.waiters);
        let reply = u16_at(datagram, 0).and_then(|id| {
            let waiter = waiters.by_id.get(&id)?;
            Some((id, Reply::accept(datagram, &waiter.asked)?))
        });
        let Some((id, reply)) = reply else {
            self.metrics.ignored(Proto::Udp);
            return;
        };
        if let Some(waiter) = waiters.by_id.remove(&id) {
            // If it has gone meanwhile, nobody wants the reply.
            let _ = waiter.sender.send(Ok(reply));
        }
    }

    /// An error of the socket concerns every query on it.
    fn fail_all(&self, error: &io::Error) {
        let prefix = format!("read udp {}->{}: read", self.local, self.to);
        let trouble = Trouble::io(format_args!("{prefix}"), error);
        for (_, waiter) in lock(&self.waiters).by_id.drain() {
            let _ = waiter.sender.send(Err(trouble.clone()));
        }
    }

    /// What a query is told whose time is over.
    fn late(&self) -> Trouble {
        Trouble::late(format!("read udp {}->{}: i/o timeout", self.local, self.to))
    }

    /// What it is told if nobody receives any more.
    fn gone(&self) -> Trouble {
        Trouble::network(format!(
            "read udp {}->{}: the socket was closed",
            self.local, self.to
        ))
    }

    fn not_sent(&self, error: &io::Error) -> Trouble {
        let (local, to) = (self.local, self.to);
        Trouble::io(format_args!("write udp {local}->{to}: write"), error)
    }

    /// Whether the receiver may end; from then on the socket takes no query.
    fn close_if_unused(&self, lifetime: Duration) -> bool {
        let mut waiters = lock(&self.waiters);
        let over = self.retired.load(Ordering::Relaxed)
            || waiters.last_used.elapsed() >= lifetime
            || self.opened.elapsed() >= AGE_MAX;
        waiters.closed = over && waiters.by_id.is_empty();
        waiters.closed
    }
}

/// How much is wrong if the kernel says so.
enum Weight {
    /// Nothing: a narrow path is no matter.
    None,
    /// ICMP told us that nobody is there now; the socket itself is sound.
    Queries,
    Socket,
}

impl Weight {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EMSGSIZE) => Self::None,
            // All that ICMP may become.
            Some(
                libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPROTO
                | libc::EACCES,
            ) => Self::Queries,
            _ => Self::Socket,
        }
    }

    /// Whether the error may be that of something sent before, kept by the kernel for whoever comes next.
    fn may_be_old(error: &io::Error) -> bool {
        !matches!(Self::of(error), Self::Socket)
    }
}

/// Receives for a socket until it is unused.
async fn receive(socket: Arc<Socket>, lifetime: Duration) {
    let Link::Task(udp) = &socket.link else {
        return;
    };
    let mut look = pin!(sleep(lifetime));
    loop {
        tokio::select! {
            ready = udp.ready(ARRIVAL) => {
                if let Err(error) = ready.and_then(|ready| socket.drain(udp, ready)) {
                    lock(&socket.waiters).closed = true;
                    socket.fail_all(&error);
                    return;
                }
                if socket.retired.load(Ordering::Relaxed) && socket.close_if_unused(lifetime) {
                    return;
                }
            }
            () = socket.done.notified() => {
                if socket.close_if_unused(lifetime) {
                    return;
                }
            }
            () = look.as_mut() => {
                if socket.close_if_unused(lifetime) {
                    return;
                }
                // Never below what a busy loop would be.
                look.set(sleep(lifetime.max(Duration::from_millis(50))));
            }
        }
    }
}

/// A query's place on a socket; dropped, the place is free.
struct Ticket {
    socket: Arc<Socket>,
    id: u16,
    receiver: Receiver,
    _share: Share,
}

type Receiver = oneshot::Receiver<Result<Reply, Trouble>>;

impl Ticket {
    async fn send(&self, request: &Request, until: Instant) -> Result<(), Trouble> {
        let socket = &self.socket;
        let udp = match &socket.link {
            Link::Task(udp) => udp,
            Link::Near(near) => {
                near.put_off(request, self.id);
                return Ok(());
            }
        };
        let message = request.message(self.id);
        // The runtime knows a new socket as writable only after a turn of its own; the kernel knows at once.
        let raw = SockRef::from(udp);
        let mut sent = raw.send(&message);
        if sent.as_ref().is_err_and(Weight::may_be_old) {
            sent = raw.send(&message);
        }
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It is rare, so those that wait for their replies need no place for it.
                let room = Box::pin(timeout_at(until.into(), udp.send(&message)));
                match room.await {
                    Ok(sent) => sent.map(drop).map_err(|error| socket.not_sent(&error)),
                    Err(_) => Err(socket.late()),
                }
            }
            sent => sent.map(drop).map_err(|error| socket.not_sent(&error)),
        }
    }

    async fn reply(&mut self, until: Instant) -> Result<Reply, Trouble> {
        let reply = match &self.socket.link {
            // Its thread looks at the time, and tells.
            Link::Near(_) => (&mut self.receiver).await,
            Link::Task(_) => match timeout_at(until.into(), &mut self.receiver).await {
                Ok(reply) => reply,
                Err(_) => return Err(self.socket.late()),
            },
        };
        reply.unwrap_or_else(|_| Err(self.socket.gone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiters = lock(&self.socket.waiters);
        waiters.by_id.remove(&self.id);
        if let Link::Near(near) = &self.socket.link {
            near.end_wait();
        }
        if waiters.by_id.is_empty() && self.socket.retired.load(Ordering::Relaxed) {
            self.socket.tell_done();
        }
    }
}

/// One of the queries that may wait for an upstream.
struct Share(Arc<AtomicUsize>);

impl Share {
    fn of(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let share = Self(Arc::clone(taken));
        let before = taken.fetch_add(1, Ordering::Relaxed);
        (before < OUTSTANDING_MAX).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
