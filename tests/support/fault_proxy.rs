//! A proxy between the server and a real API server that does to replies what networks, load balancers and sick API
//! servers do: it refuses, swallows, delays, dribbles, cuts, lies, and leaves events out.
//!
//! ```text
//! fingerpost --HTTP/1.1, plain or TLS--> FaultProxy --HTTPS--> kube-apiserver
//!                                            |
//!                               plan: request -> Treatment
//! ```
//!
//! A plan decides over each request anew and may be replaced at any time; what is open already goes on as it began
//! until [`FaultProxy::cut`]. The proxy speaks HTTP/1.1 only, by hand, so that it can break it at any octet.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of it"
)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::{Client, Config};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ADMIN, ControlPlane, free_port};

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When its head was read.
    pub at: Instant,
    /// Path and query.
    pub uri: String,
    /// The whole `Authorization`.
    pub authorization: Option<String>,
    /// The whole `Accept`.
    pub accept: String,
}

impl Asked {
    /// Whether it is about this resource: `services`, `pods`, …
    pub fn is_of(&self, resource: &str) -> bool {
        let path = self.uri.split('?').next().unwrap_or_default();
        path.rsplit('/').next() == Some(resource)
    }

    /// A watch, with or without a list before it.
    pub fn is_watch(&self) -> bool {
        self.uri.contains("watch=true")
    }

    /// A list, streamed or in pages.
    pub fn is_list(&self) -> bool {
        self.is_streamed_list() || self.uri.contains("limit=") && !self.is_probe()
    }

    /// A watch that begins with a list.
    pub fn is_streamed_list(&self) -> bool {
        self.uri.contains("sendInitialEvents=true")
    }

    /// Asks only whether the server is as far as we are.
    pub fn is_probe(&self) -> bool {
        self.uri.contains("limit=1&resourceVersionMatch=")
    }
}

/// What becomes of one event of a watch: what is passed on in its place.
pub type Edit = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>> + Send + Sync>;

/// What is done to the reply of the API server.
#[derive(Default)]
pub struct Through {
    /// Waits before the request is passed on.
    pub delay: Duration,
    /// Asks for JSON, whatever the client would take.
    pub json: bool,
    /// Takes the place of the client's `Authorization`.
    pub authorization: Option<String>,
    /// Replaces a part of the URI.
    pub rewrite: Option<(&'static str, &'static str)>,
    /// Passes on so many octets at a time, with a pause after each.
    pub dribble: Option<(usize, Duration)>,
    /// Breaks the connection after so many octets of the body.
    pub cut_after: Option<usize>,
    /// Ends the body as if all had been said, after so many octets.
    pub end_after: Option<usize>,
    /// Ends a watch well after this time.
    pub lifetime: Option<Duration>,
    /// Falls silent after so many octets of the body, the connection open.
    pub stall_after: Option<usize>,
    /// Changes the events of a watch, or a whole body that is no watch.
    pub edit: Option<Edit>,
    /// Tells the client to use each connection once.
    pub close: bool,
}

/// What is done with a request.
pub enum Treatment {
    /// Passed on, and its reply as this says.
    Through(Box<Through>),
    /// Answered by the proxy: status, header lines with their line ends, body.
    Reply(u16, String, Vec<u8>),
    /// Never answered.
    Silence,
    /// The connection breaks.
    Break,
}

impl Treatment {
    /// Passed on as it is.
    pub fn pass() -> Self {
        Self::Through(Box::default())
    }

    /// Passed on, with one change.
    pub fn through(change: impl FnOnce(&mut Through)) -> Self {
        let mut through = Through::default();
        change(&mut through);
        Self::Through(Box::new(through))
    }

    /// A Status, as an API server refuses.
    pub fn refusal(code: u16, message: &str) -> Self {
        let body =
            format!(r#"{{"kind":"Status","apiVersion":"v1","code":{code},"message":"{message}"}}"#);
        Self::json(code, "", &body)
    }

    /// A JSON body.
    pub fn json(code: u16, headers: &str, body: &str) -> Self {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        Self::Reply(code, headers, body.as_bytes().to_vec())
    }
}

type Plan = Arc<dyn Fn(&Asked) -> Treatment + Send + Sync>;

struct Shared {
    plan: Mutex<Plan>,
    asked: Mutex<Vec<Asked>>,
    /// Cancelled to break all connections; then a new one takes its place.
    cut: Mutex<CancellationToken>,
    upstream: Mutex<Config>,
    client: Mutex<Arc<OnceCell<Client>>>,
    tls: Mutex<Option<TlsAcceptor>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands at the port.
enum Door {
    /// A listener, and the task that accepts.
    Open(tokio::task::JoinHandle<()>),
    /// Connections are refused.
    Closed,
    /// A listener that nobody accepts from, its queue full: the kernel swallows whoever knocks.
    BlackHole(Socket, Vec<StdStream>),
}

/// The proxy, on a port of 127.0.0.1 that it keeps.
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    door: Mutex<Door>,
    runtime: Runtime,
}

impl FaultProxy {
    /// Before this API server; passes all on.
    pub fn start(plane: &ControlPlane) -> Self {
        // Closed and opened again it must find its port free.
        Self::start_at(plane, (Ipv4Addr::LOCALHOST, free_port()).into())
    }

    /// The same at an address of one's own.
    pub fn start_at(plane: &ControlPlane, address: SocketAddr) -> Self {
        let mut upstream = Config::new(format!("https://{}", plane.host()).parse().unwrap());
        upstream.root_cert_file = Some(plane.authority());
        upstream.default_retry = false;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            plan: Mutex::new(Arc::new(|_| Treatment::pass())),
            asked: Mutex::default(),
            cut: Mutex::default(),
            upstream: Mutex::new(upstream),
            client: Mutex::default(),
            tls: Mutex::default(),
        });
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            shared,
            address,
            door: Mutex::new(Door::Open(accepting)),
            runtime,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Decides over requests from now on.
    pub fn plan(&self, plan: impl Fn(&Asked) -> Treatment + Send + Sync + 'static) {
        *lock(&self.shared.plan) = Arc::new(plan);
    }

    /// Passes all on from now on.
    pub fn pass(&self) {
        self.plan(|_| Treatment::pass());
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.shared.cut)).cancel();
    }

    /// From now on connections are refused; those that there are break.
    pub fn close(&self) {
        self.leave();
        *lock(&self.door) = Door::Closed;
    }

    /// From now on nobody answers who connects, not even to refuse.
    pub fn swallow(&self) {
        self.leave();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&self.address.into()).unwrap();
        socket.listen(0).unwrap();
        // Until the queue is full.
        let patience = Duration::from_millis(200);
        let mut queued = Vec::new();
        while let Ok(stream) = StdStream::connect_timeout(&self.address, patience) {
            queued.push(stream);
        }
        *lock(&self.door) = Door::BlackHole(socket, queued);
    }

    /// Listens again.
    pub fn open(&self) {
        *lock(&self.door) = Door::Closed;
        let listener = self.runtime.block_on(async {
            loop {
                // What was swallowed may hold the port for a moment.
                if let Ok(listener) = TcpListener::bind(self.address).await {
                    return listener;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let accepting = self
            .runtime
            .spawn(accept(listener, Arc::clone(&self.shared)));
        *lock(&self.door) = Door::Open(accepting);
    }

    fn leave(&self) {
        let door = std::mem::replace(&mut *lock(&self.door), Door::Closed);
        if let Door::Open(accepting) = door {
            accepting.abort();
            // It is gone, and its socket with it.
            let _ = self.runtime.block_on(accepting);
        }
        self.cut();
    }

    /// Speaks TLS from now on, or not.
    pub fn set_tls(&self, config: Option<ServerConfig>) {
        *lock(&self.shared.tls) = config.map(|config| TlsAcceptor::from(Arc::new(config)));
    }

    /// The requests so far that `wanted` picks.
    pub fn asked(&self, wanted: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let asked = lock(&self.shared.asked);
        asked
            .iter()
            .filter(|asked| wanted(asked))
            .cloned()
            .collect()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.shared.asked).clear();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (shared, cut) = (Arc::clone(&shared), lock(&shared.cut).clone());
        let tls = lock(&shared.tls).clone();
        tokio::spawn(async move {
            let served = async {
                match tls {
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => serve(stream, &shared).await,
                        Err(error) => Err(error),
                    },
                    None => serve(stream, &shared).await,
                }
            };
            tokio::select! {
                _ = served => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

/// Serves one connection until it breaks.
async fn serve(stream: impl AsyncRead + AsyncWrite, shared: &Shared) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(&mut reader, &mut buffer).await? else {
            return Ok(());
        };
        let asked = asked_in(&head);
        let plan = Arc::clone(&lock(&shared.plan));
        let treatment = plan(&asked);
        lock(&shared.asked).push(asked.clone());
        // Who goes away in the middle of a watch is noticed, so that the watch upstream ends too.
        let gone = async { while let Ok(1..) = reader.read_buf(&mut buffer).await {} };
        let done = tokio::select! {
            done = treat(&asked, treatment, shared, &mut writer) => done?,
            () = gone => return Ok(()),
        };
        if !done {
            return Ok(());
        }
    }
}

async fn read_head(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Option<String>> {
    const END: &[u8] = b"\r\n\r\n";
    loop {
        if let Some(at) = buffer.windows(END.len()).position(|four| four == END) {
            let rest = buffer.split_off(at + END.len());
            let head = std::mem::replace(buffer, rest);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if reader.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn asked_in(head: &str) -> Asked {
    let mut lines = head.lines();
    let uri = lines.next().and_then(|line| line.split(' ').nth(1));
    let header = |name: &str| {
        let of = |line: &str| {
            let (found, value) = line.split_once(':')?;
            let wanted = found.eq_ignore_ascii_case(name);
            wanted.then(|| value.trim().to_owned())
        };
        head.lines().skip(1).find_map(of)
    };
    Asked {
        at: Instant::now(),
        uri: uri.unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        accept: header("accept").unwrap_or_default(),
    }
}

/// Answers one request. Returns whether the connection may serve another one.
async fn treat(
    asked: &Asked,
    treatment: Treatment,
    shared: &Shared,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<bool> {
    match treatment {
        Treatment::Break => Ok(false),
        Treatment::Silence => std::future::pending().await,
        Treatment::Reply(code, headers, body) => {
            let head = format!(
                "HTTP/1.1 {code} X\r\n{headers}Content-Length: {}\r\n\r\n",
                body.len()
            );
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(&body).await?;
            writer.flush().await?;
            Ok(true)
        }
        Treatment::Through(through) => {
            tokio::time::sleep(through.delay).await;
            let Ok(reply) = pass_on(asked, &through, shared).await else {
                // As a load balancer without a server behind it.
                return Ok(false);
            };
            hand_back(asked, reply, *through, writer).await
        }
    }
}

async fn pass_on(
    asked: &Asked,
    through: &Through,
    shared: &Shared,
) -> Result<Response<Body>, kube::Error> {
    let cell = Arc::clone(&lock(&shared.client));
    let config = lock(&shared.upstream).clone();
    let client = cell
        .get_or_try_init(|| async { Client::try_from(config) })
        .await?;
    let uri = match through.rewrite {
        Some((from, to)) => asked.uri.replace(from, to),
        None => asked.uri.clone(),
    };
    let accept = if through.json {
        "application/json"
    } else {
        &asked.accept
    };
    let admin = format!("Bearer {ADMIN}");
    let own = through.authorization.as_ref();
    let authorization = own.or(asked.authorization.as_ref()).unwrap_or(&admin);
    let request = Request::get(uri)
        .header(ACCEPT, accept)
        .header("accept-encoding", "identity")
        .header(AUTHORIZATION, authorization)
        .body(Body::empty())
        .expect("a request that came is one that can be sent");
    client.send(request).await
}

async fn hand_back(
    asked: &Asked,
    reply: Response<Body>,
    mut through: Through,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<bool> {
    let content = reply.headers().get(CONTENT_TYPE);
    let content = content.and_then(|value| value.to_str().ok()).unwrap_or("");
    let close = if through.close {
        "Connection: close\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 {} X\r\nContent-Type: {content}\r\n{close}Transfer-Encoding: chunked\r\n\r\n",
        reply.status().as_u16()
    );
    let by_length = content.starts_with("application/vnd.kubernetes.protobuf");
    writer.write_all(head.as_bytes()).await?;
    writer.flush().await?;
    let mut events = Events {
        by_length,
        whole: !asked.is_watch() || !reply.status().is_success(),
        buffer: Vec::new(),
    };
    let mut body = reply.into_body();
    let mut outlet = Outlet { writer, sent: 0 };
    let lifetime = through.lifetime.unwrap_or(Duration::from_secs(3600));
    let deadline = tokio::time::sleep(lifetime);
    tokio::pin!(deadline);
    loop {
        let piece = tokio::select! {
            piece = body.frame() => piece,
            () = &mut deadline => None,
        };
        let (mut out, last) = match piece {
            Some(Ok(piece)) => (piece.into_data().unwrap_or_default().to_vec(), false),
            Some(Err(_)) => return Ok(false),
            None => (Vec::new(), true),
        };
        if let Some(edit) = &mut through.edit {
            out = events.edited(&out, last, edit);
        }
        if !outlet.pass(&out, &through).await? {
            return Ok(false);
        }
        if last || through.end_after.is_some_and(|end| outlet.sent >= end) {
            outlet.writer.write_all(b"0\r\n\r\n").await?;
            outlet.writer.flush().await?;
            return Ok(!through.close);
        }
    }
}

/// Where a body goes, octet by octet if need be.
struct Outlet<'w, W> {
    writer: &'w mut W,
    sent: usize,
}

impl<W: AsyncWrite + Unpin> Outlet<'_, W> {
    /// Passes a piece on. False if the connection is to break.
    async fn pass(&mut self, piece: &[u8], through: &Through) -> io::Result<bool> {
        let step = through.dribble.map_or(usize::MAX, |(step, _)| step);
        let mut rest = piece;
        while !rest.is_empty() {
            let mut length = rest.len().min(step);
            for limit in [through.cut_after, through.stall_after, through.end_after] {
                length = length.min(limit.unwrap_or(usize::MAX).saturating_sub(self.sent));
            }
            self.chunk(&rest[..length]).await?;
            rest = &rest[length..];
            self.sent += length;
            if through.cut_after.is_some_and(|end| self.sent >= end) {
                return Ok(false);
            }
            if through.stall_after.is_some_and(|end| self.sent >= end) {
                std::future::pending::<()>().await;
            }
            if through.end_after.is_some_and(|end| self.sent >= end) {
                return Ok(true);
            }
            if let Some((_, pause)) = through.dribble {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(true)
    }

    async fn chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        // An empty one would end the body.
        if piece.is_empty() {
            return Ok(());
        }
        self.writer
            .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
            .await?;
        self.writer.write_all(piece).await?;
        self.writer.write_all(b"\r\n").await?;
        self.writer.flush().await
    }
}

/// Cuts a body into events and puts them together again.
struct Events {
    by_length: bool,
    whole: bool,
    buffer: Vec<u8>,
}

impl Events {
    fn edited(&mut self, piece: &[u8], last: bool, edit: &mut Edit) -> Vec<u8> {
        self.buffer.extend_from_slice(piece);
        if self.whole {
            return if last {
                edit(&std::mem::take(&mut self.buffer)).concat()
            } else {
                Vec::new()
            };
        }
        let mut out = Vec::new();
        while let Some(event) = self.next() {
            for event in edit(&event) {
                if self.by_length {
                    let length = u32::try_from(event.len()).expect("events are small");
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(&event);
                } else {
                    out.extend_from_slice(&event);
                    out.push(b'\n');
                }
            }
        }
        out
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        if !self.by_length {
            let end = self.buffer.iter().position(|&octet| octet == b'\n')?;
            let mut event: Vec<u8> = self.buffer.drain(..=end).collect();
            event.pop();
            return Some(event);
        }
        let length = u32::from_be_bytes(*self.buffer.first_chunk()?) as usize;
        if self.buffer.len() < 4 + length {
            return None;
        }
        let event = self.buffer.drain(..4 + length).skip(4).collect();
        Some(event)
    }
}

/// Whether an event speaks of something with this in its octets: a name that stands nowhere else, say.
pub fn speaks_of(event: &[u8], text: &str) -> bool {
    event
        .windows(text.len())
        .any(|octets| octets == text.as_bytes())
}
