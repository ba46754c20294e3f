//! The HTTP listeners of `health`, `ready` and `prometheus`: small, bounded, and kept through a reload.
//!
//! ```text
//! address -> socket -> at most 64 connections, 16 of one client -> handlers of the address, first that knows the path
//! ```
//!
//! A listener belongs to its address. A reload that still wants the address only swaps the handlers, so no probe ever
//! finds the port closed; plugins that name the same address share it. Everything a client can do slowly has a time
//! limit: sending a request, staying idle, reading the reply.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounter, Registry};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::net::listen::BindError;
use crate::plugin::BuildError;
use crate::server::assembly::{HttpEndpoint, HttpHandler, OnBindFailure};
use crate::server::process::Process;
use crate::telemetry::metrics::Families;

/// What a client may take of a listener.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Limits {
    /// To send a whole request head, to stay idle between two requests, and to end when asked to.
    patience: Duration,
    /// For a whole connection, so that a client that reads nothing is let go too.
    connection_time: Duration,
    /// Connections at a time; further ones wait to be accepted.
    connections: usize,
    /// Connections of one client at a time; further ones are closed.
    connections_per_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            connection_time: Duration::from_secs(30),
            connections: 64,
            connections_per_client: 16,
        }
    }
}

/// Octets of a request head.
const HEAD_MAX: usize = 16 << 10;

/// Header lines of a request.
const HEADERS_MAX: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// `fingerpost_http_*`.
struct HttpMetrics {
    refused: IntCounter,
    accept_failures: IntCounter,
}

impl Families for HttpMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refused = IntCounter::new(
            "fingerpost_http_refused_total",
            "connections to the HTTP listeners closed because their client had too many",
        )?;
        registry.register(Box::new(refused.clone()))?;
        let accept_failures = IntCounter::new(
            "fingerpost_http_accept_failures_total",
            "errors while accepting connections to the HTTP listeners",
        )?;
        registry.register(Box::new(accept_failures.clone()))?;
        Ok(Self {
            refused,
            accept_failures,
        })
    }
}

/// Every HTTP listener of the process.
pub struct HttpServers {
    runtime: tokio::runtime::Handle,
    metrics: Arc<HttpMetrics>,
    limits: Limits,
    open: BTreeMap<SocketAddr, Open>,
}

type Handlers = Arc<ArcSwap<Vec<HttpHandler>>>;

/// One listener.
struct Open {
    local: SocketAddr,
    handlers: Handlers,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What one generation wants at one address.
struct Wanted {
    plugin: &'static str,
    on_bind_failure: OnBindFailure,
    handlers: Vec<HttpHandler>,
}

impl HttpServers {
    /// None yet.
    pub fn new(process: &Process) -> Self {
        Self::with_limits(process, Limits::default())
    }

    fn with_limits(process: &Process, limits: Limits) -> Self {
        Self {
            runtime: process.runtime.clone(),
            metrics: process.metrics.families(),
            limits,
            open: BTreeMap::new(),
        }
    }

    /// Serves what a new generation wants: opens new addresses first, then swaps the handlers of those that stay, then
    /// closes those that nobody wants any more. After an error everything is as it was.
    pub async fn apply(&mut self, endpoints: Vec<HttpEndpoint>) -> Result<(), BuildError> {
        let wanted = by_address(endpoints);
        let mut opened = Vec::new();
        for (&address, wanted) in &wanted {
            if self.open.contains_key(&address) {
                continue;
            }
            match listen(address) {
                Ok(socket) => opened.push((address, socket)),
                Err(error) => {
                    let protocol = "tcp";
                    report(
                        wanted,
                        &BindError {
                            address,
                            protocol,
                            error,
                        },
                    )?;
                }
            }
        }
        self.open.retain(|address, open| {
            let stays = wanted.contains_key(address);
            if !stays {
                open.stop.cancel();
            }
            stays
        });
        let mut sockets: HashMap<_, _> = opened.into_iter().collect();
        for (address, wanted) in wanted {
            if let Some(open) = self.open.get(&address) {
                open.handlers.store(Arc::new(wanted.handlers));
            } else if let Some(socket) = sockets.remove(&address) {
                let open = self.serve(socket, wanted.handlers);
                match open {
                    Ok(open) => drop(self.open.insert(address, open)),
                    Err(error) => tracing::error!("`{address}` is not served: {error}"),
                }
            }
        }
        Ok(())
    }

    /// Where the listeners really are, by the address that was asked for: they differ where the port is 0.
    pub fn local_addresses(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.open
            .iter()
            .map(|(&address, open)| (address, open.local))
    }

    /// Closes every listener and waits until replies under way are out, for so long as a client has anyway.
    pub async fn stop(mut self) {
        let open = std::mem::take(&mut self.open);
        for open in open.values() {
            open.stop.cancel();
        }
        let patience = self.limits.patience;
        let drained = async {
            for open in open.values() {
                open.tasks.wait().await;
            }
        };
        if tokio::time::timeout(patience, drained).await.is_err() {
            tracing::info!("HTTP connections are still open after {patience:?}");
        }
    }

    fn serve(&self, socket: std::net::TcpListener, handlers: Vec<HttpHandler>) -> io::Result<Open> {
        let local = socket.local_addr()?;
        let listener = {
            let _runtime = self.runtime.enter();
            TcpListener::from_std(socket)?
        };
        let handlers: Handlers = Arc::new(ArcSwap::from_pointee(handlers));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let acceptor = Acceptor {
            listener,
            handlers: Arc::clone(&handlers),
            limits: self.limits,
            room: Arc::new(Semaphore::new(self.limits.connections)),
            clients: Clients::default(),
            metrics: Arc::clone(&self.metrics),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn_on(acceptor.run(), &self.runtime);
        tasks.close();
        Ok(Open {
            local,
            handlers,
            stop,
            tasks,
        })
    }
}

impl Drop for HttpServers {
    fn drop(&mut self) {
        for open in self.open.values() {
            open.stop.cancel();
        }
    }
}

fn by_address(endpoints: Vec<HttpEndpoint>) -> BTreeMap<SocketAddr, Wanted> {
    let mut wanted: BTreeMap<SocketAddr, Wanted> = BTreeMap::new();
    for endpoint in endpoints {
        let at = wanted.entry(endpoint.address).or_insert_with(|| Wanted {
            plugin: endpoint.plugin,
            on_bind_failure: endpoint.on_bind_failure,
            handlers: Vec::new(),
        });
        if endpoint.on_bind_failure == OnBindFailure::Fatal {
            at.on_bind_failure = OnBindFailure::Fatal;
            at.plugin = endpoint.plugin;
        }
        at.handlers.push(endpoint.handler);
    }
    wanted
}

fn report(wanted: &Wanted, error: &BindError) -> Result<(), BuildError> {
    let plugin = wanted.plugin;
    let text = format!("plugin/{plugin}: {error}");
    match wanted.on_bind_failure {
        OnBindFailure::Fatal => Err(BuildError(text)),
        OnBindFailure::Log => {
            tracing::error!("{text}");
            Ok(())
        }
    }
}

/// Opens a socket that takes IPv4 too where the address is `[::]`, and is IPv4 where the machine has no IPv6.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = match Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    ) {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            return listen((Ipv4Addr::UNSPECIFIED, address.port()).into());
        }
        socket => socket?,
    };
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    // As CoreDNS does: a second process can take over without a gap.
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections of each client.
#[derive(Clone, Default)]
struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place among those of its client.
struct Place(Clients, IpAddr);

impl Clients {
    /// A place, if the client has one left. Bounded by the connections of the listener.
    fn admit(&self, client: IpAddr, places: usize) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        if *count >= places {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), client))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

/// Takes connections for one listener.
struct Acceptor {
    listener: TcpListener,
    handlers: Handlers,
    limits: Limits,
    room: Arc<Semaphore>,
    clients: Clients,
    metrics: Arc<HttpMetrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.accept() => {}
        }
    }

    async fn accept(&self) {
        loop {
            // The semaphore is never closed.
            let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
                return;
            };
            let Ok((stream, client)) = self.listener.accept().await else {
                self.metrics.accept_failures.inc();
                // Out of descriptors, mostly: better wait than spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let client = client.ip().to_canonical();
            let Some(place) = self
                .clients
                .admit(client, self.limits.connections_per_client)
            else {
                self.metrics.refused.inc();
                continue;
            };
            let (handlers, stop) = (Arc::clone(&self.handlers), self.stop.clone());
            let limits = self.limits;
            self.tasks.spawn(async move {
                serve_connection(stream, handlers, limits, stop).await;
                drop((room, place));
            });
        }
    }
}

/// Serves one connection until it ends, is told to end, or has lasted long enough.
async fn serve_connection(
    stream: TcpStream,
    handlers: Handlers,
    limits: Limits,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let reply = respond(&handlers.load(), request.method(), request.uri());
        std::future::ready(Ok::<_, Infallible>(reply.map(Full::new)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.patience)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What a client breaks, it may keep: errors of a connection are nobody else's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(limits.connection_time) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.patience, connection).await;
}

/// The reply of the first handler that knows the path.
fn respond(handlers: &[HttpHandler], method: &Method, uri: &Uri) -> Response<Bytes> {
    handlers
        .iter()
        .map(|handler| handler(method, uri))
        .find(|reply| reply.status() != StatusCode::NOT_FOUND)
        .unwrap_or_else(not_found)
}

/// 404, for handlers too.
pub fn not_found() -> Response<Bytes> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A reply in plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    reply
}

#[cfg(test)]
mod tests;
