//! Queries over TCP, with or without TLS: connections that are kept for the next query, each with one query at a time.
//!
//! One at a time, because then a connection in doubt costs one query only, and because replies in order need no
//! table. Which one is taken is the last that was used, so those too many grow idle and are closed. A busy one would
//! live for ever, and with it what the first packet decided: the server behind a Service's address that it leads to. So
//! each has an age at which it is closed, drawn for itself, for those that were opened together must not end together.
//!
//! An upstream may close a kept connection whenever it likes, mostly just as we write; such a query is sent
//! again on another one, and that does not count as an attempt.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::plugin::forward::config::Transport;
use crate::plugin::forward::metrics::{Proto, UpstreamMetrics};
use crate::plugin::forward::random;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::tls::{self, Tls};
use crate::plugin::forward::trouble::Trouble;

/// Connections to one upstream with a query on them.
const BUSY_MAX: usize = 512;

/// Connections to one upstream that are kept, unless `max_idle_conns` says otherwise, and at most.
const IDLE_MAX: usize = 64;

/// How old a connection without TLS may become, unless `max_age` says otherwise: within a minute a new server behind
/// the upstream's address has its share. A handshake costs more, and what speaks TLS is mostly not behind one.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Bounds of the time a connection may take to open; between them it is twice the average.
const DIAL_MIN: Duration = Duration::from_secs(1);
const DIAL_MAX: Duration = Duration::from_secs(5);

/// The connections to one upstream.
pub(super) struct Streams {
    to: SocketAddr,
    source: Option<IpAddr>,
    tls: Option<Tls>,
    proto: Proto,
    expire: Duration,
    max_age: Duration,
    read_timeout: Duration,
    idle_max: usize,
    idle: Mutex<Kept>,
    busy: Semaphore,
    /// Average time to open, in microseconds.
    dial: AtomicU64,
    runtime: Handle,
    metrics: Arc<UpstreamMetrics>,
}

#[derive(Default)]
struct Kept {
    connections: Vec<Connection>,
    /// A task closes those that were idle for too long.
    swept: bool,
}

/// A TLS session is large, and rare; a plain connection pays no more for it than a look at which one it is.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

struct Connection {
    stream: Stream,
    local: SocketAddr,
    opened: Instant,
    /// How old it may become; zero means any age.
    age_max: Duration,
    used: Instant,
}

/// How an exchange on one connection ended, if not well.
enum Broken {
    /// Closed by the upstream before it said anything.
    Closed(Trouble),
    Other(Trouble),
}

impl Streams {
    pub(super) fn new(
        to: SocketAddr,
        transport: &Transport,
        tls: Option<Tls>,
        runtime: Handle,
        metrics: Arc<UpstreamMetrics>,
    ) -> Arc<Self> {
        let idle_max = match transport.max_idle_conns {
            0 => IDLE_MAX,
            count => count.min(IDLE_MAX),
        };
        let max_age = match transport.max_age {
            Some(max_age) => max_age,
            None if tls.is_some() => Duration::ZERO,
            None => AGE_MAX.max(transport.expire),
        };
        Arc::new(Self {
            to,
            source: transport.source,
            proto: if tls.is_some() {
                Proto::Tls
            } else {
                Proto::Tcp
            },
            tls,
            expire: transport.expire,
            max_age,
            read_timeout: transport.read_timeout,
            idle_max,
            idle: Mutex::default(),
            busy: Semaphore::new(BUSY_MAX),
            dial: AtomicU64::new(2_000_000),
            runtime,
            metrics,
        })
    }

    /// Sends the query and waits for its reply, until `deadline` at most.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Reply, Trouble> {
        let _permit = self
            .busy
            .try_acquire()
            .map_err(|_| Trouble::network(format!("too many connections to {}", self.to)))?;
        loop {
            let kept = self.take();
            let reused = kept.is_some();
            self.metrics.socket(self.proto, reused);
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.dial(deadline).await?,
            };
            let until = deadline.min(Instant::now() + self.read_timeout);
            match self.talk(&mut connection, request, until).await {
                Ok(reply) => {
                    self.keep(connection);
                    return Ok(reply);
                }
                Err(Broken::Closed(_)) if reused => {}
                Err(Broken::Closed(trouble) | Broken::Other(trouble)) => return Err(trouble),
            }
        }
    }

    async fn dial(&self, deadline: Instant) -> Result<Connection, Trouble> {
        let start = Instant::now();
        let average = self.dial.load(Ordering::Relaxed);
        let limit = Duration::from_micros(average * 2).clamp(DIAL_MIN, DIAL_MAX);
        let until = deadline.min(start + limit);
        let result = self.open(until).await;
        // A weight of a quarter for the newest; a lost update matters to nobody.
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let average = average - average / 4 + took / 4;
        self.dial.store(average, Ordering::Relaxed);
        result
    }

    /// Opens a connection, ready for a query.
    async fn open(&self, until: Instant) -> Result<Connection, Trouble> {
        let (to, proto) = (self.to, self.proto.as_str());
        let trouble = |error| Trouble::io(format_args!("dial {proto} {to}: connect"), &error);
        let stream = timeout_at(until.into(), connect(to, self.source))
            .await
            .map_err(|_| Trouble::late(format!("dial {proto} {to}: i/o timeout")))?
            .map_err(trouble)?;
        let local = stream.local_addr().map_err(trouble)?;
        let stream = match &self.tls {
            None => Either::Left(stream),
            // Boxed, because the state of a handshake is much larger than that of everything else here.
            Some(tls) => match timeout_at(until.into(), Box::pin(tls.handshake(stream))).await {
                Ok(Ok(stream)) => Either::Right(stream),
                Ok(Err(error)) => {
                    return Err(tls::trouble(format_args!("dial {proto} {to}"), &error));
                }
                Err(_) => {
                    let text = format!("dial {proto} {to}: tls handshake: i/o timeout");
                    return Err(Trouble::late(text));
                }
            },
        };
        let now = Instant::now();
        Ok(Connection {
            local,
            stream,
            opened: now,
            age_max: random::shortened(self.max_age),
            used: now,
        })
    }

    /// Sends one message over a connection of its own and hands on what comes back, until something is taken.
    pub(super) async fn probe(
        &self,
        message: &[u8],
        is_alive: impl Fn(&[u8]) -> bool,
        until: Instant,
    ) -> Result<(), Trouble> {
        let mut connection = self.open(until).await?;
        let Connection { stream, local, .. } = &mut connection;
        let exchange = async {
            send(stream, message).await?;
            while !is_alive(&receive(stream).await?) {}
            Ok(())
        };
        let (to, proto) = (self.to, self.proto.as_str());
        timeout_at(until.into(), exchange)
            .await
            .map_err(|_| Trouble::late(format!("read {proto} {local}->{to}: i/o timeout")))?
            .map_err(|error: io::Error| {
                tls::trouble(format_args!("read {proto} {local}->{to}: read"), &error)
            })
    }

    async fn talk(
        &self,
        connection: &mut Connection,
        request: &Request,
        until: Instant,
    ) -> Result<Reply, Broken> {
        let (local, to, proto) = (connection.local, self.to, self.proto.as_str());
        let stream = &mut connection.stream;
        match timeout_at(until.into(), self.exchange_on(stream, request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => {
                let what = format_args!("read {proto} {local}->{to}: read");
                let trouble = tls::trouble(what, &error);
                Err(match error.kind() {
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe => Broken::Closed(trouble),
                    _ => Broken::Other(trouble),
                })
            }
            Err(_) => Err(Broken::Other(Trouble::late(format!(
                "read {proto} {local}->{to}: i/o timeout"
            )))),
        }
    }

    async fn exchange_on(&self, stream: &mut Stream, request: &Request) -> io::Result<Reply> {
        let id = random::number();
        send(stream, &request.message(id)).await?;
        let asked = request.asked();
        loop {
            let message = receive(stream).await?;
            if message.starts_with(&id.to_be_bytes())
                && let Some(reply) = Reply::accept(&message, &asked)
            {
                return Ok(reply);
            }
            self.metrics.ignored(self.proto);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, connection: &Connection) -> bool {
        connection.used.elapsed() < self.expire
            && (connection.age_max.is_zero() || connection.opened.elapsed() < connection.age_max)
    }

    /// The connection that was used last.
    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept();
        kept.connections
            .retain(|connection| self.is_fresh(connection));
        kept.connections.pop()
    }

    fn keep(self: &Arc<Self>, mut connection: Connection) {
        connection.used = Instant::now();
        let mut kept = self.kept();
        if kept.connections.len() >= self.idle_max || !self.is_fresh(&connection) {
            return;
        }
        kept.connections.push(connection);
        if !kept.swept {
            kept.swept = true;
            let period = self.expire.max(Duration::from_millis(100));
            self.runtime.spawn(sweep(Arc::downgrade(self), period));
        }
    }
}

/// Closes connections that were idle for too long, as long as there are any.
async fn sweep(streams: Weak<Streams>, period: Duration) {
    loop {
        sleep(period).await;
        let Some(streams) = streams.upgrade() else {
            return;
        };
        let mut kept = streams.kept();
        kept.connections
            .retain(|connection| streams.is_fresh(connection));
        if kept.connections.is_empty() {
            kept.swept = false;
            return;
        }
    }
}

/// Opens a plain connection.
pub(super) async fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes one message with its length (RFC 1035, section 4.2.2), in one segment (RFC 7766, section 8).
async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).expect("a query has less than 300 octets");
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    // TLS may have taken the octets without sending all of them.
    stream.flush().await
}

/// Reads one message.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::forward::config::Stanza;
    use crate::plugin::forward::metrics::ForwardMetrics;
    use crate::telemetry::metrics::Metrics;
    use crate::wire::name::Name;

    /// The ages of connections that were opened together.
    async fn ages(change: impl FnOnce(&mut Transport)) -> Vec<Duration> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut transport = Stanza::new(Name::root()).transport;
        change(&mut transport);
        let families: Arc<ForwardMetrics> = Metrics::new().families();
        let metrics = Arc::new(UpstreamMetrics::new(families, to));
        let streams = Streams::new(to, &transport, None, Handle::current(), metrics);
        let until = Instant::now() + Duration::from_secs(20);
        let opened = (0..32).map(|_| streams.open(until));
        let opened = futures_util::future::join_all(opened).await;
        let ages = opened.into_iter().map(|connection| match connection {
            Ok(connection) => connection.age_max,
            Err(trouble) => panic!("{}", trouble.text),
        });
        ages.collect()
    }

    #[tokio::test]
    async fn connections_that_were_opened_together_end_apart() {
        let mut ages = ages(|transport| transport.max_age = Some(Duration::from_secs(100))).await;
        ages.sort_unstable();
        assert!(ages[0] >= Duration::from_secs(75) && ages[31] <= Duration::from_secs(100));
        // 32 draws within a fifth of their range are one run in 10^20.
        assert!(ages[31] - ages[0] > Duration::from_secs(5), "{ages:?}");
    }

    #[tokio::test]
    async fn plain_connections_live_for_a_minute_unless_the_corefile_says_otherwise() {
        let minute = Duration::from_secs(45)..=Duration::from_secs(60);
        assert!(ages(|_| ()).await.iter().all(|age| minute.contains(age)));
        let any = ages(|transport| transport.max_age = Some(Duration::ZERO)).await;
        assert_eq!(any, [Duration::ZERO; 32]);
        let hour = Duration::from_secs(3600);
        let idle = ages(|transport| transport.expire = hour).await;
        assert!(idle.iter().all(|&age| age >= hour * 3 / 4));
    }
}
