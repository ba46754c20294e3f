//! Queries over HTTPS (RFC 8484): one HTTP/2 connection to an upstream, with many queries on it at a time.
//!
//! The ID is 0, as RFC 8484, section 4.1, wants it; which reply belongs to which query HTTP knows. A connection that
//! ends under a query (GOAWAY, or just closed) costs it one more try, on a new one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout_at};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::plugin::forward::config::Transport;
use crate::plugin::forward::metrics::{Proto, UpstreamMetrics};
use crate::plugin::forward::random;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::tcp;
use crate::plugin::forward::tls::{self, Tls};
use crate::plugin::forward::trouble::Trouble;

/// Queries to one upstream at a time.
const OUTSTANDING_MAX: usize = 512;

/// How long a connection may take to open.
const DIAL_MAX: Duration = Duration::from_secs(4);

/// Octets of a message, and so of a body.
const MESSAGE_MAX: usize = 65_535;

/// Octets of all headers of a response.
const HEADERS_MAX: u32 = 16 * 1024;

const MESSAGE_TYPE: &str = "application/dns-message";

/// One upstream over HTTPS.
pub(super) struct Doh {
    to: SocketAddr,
    source: Option<IpAddr>,
    tls: Tls,
    method: Method,
    /// `https://dns.example.org/dns-query`.
    url: String,
    expire: Duration,
    max_age: Duration,
    read_timeout: Duration,
    /// Locked while a connection is opened, so that one query opens it for all.
    session: Mutex<Option<Session>>,
    outstanding: Semaphore,
    runtime: Handle,
    metrics: Arc<UpstreamMetrics>,
}

struct Session {
    sender: SendRequest<Full<Bytes>>,
    opened: Instant,
    /// How old it may become; zero means any age.
    age_max: Duration,
    used: Instant,
}

/// How one try ended, if not well.
enum Failed {
    /// The connection did; a new one may do better.
    Connection(Trouble),
    Other(Trouble),
}

impl Doh {
    pub(super) fn new(
        to: SocketAddr,
        transport: &Transport,
        (tls, method): (Tls, Method),
        runtime: Handle,
        metrics: Arc<UpstreamMetrics>,
    ) -> Arc<Self> {
        let host = match &tls.name {
            ServerName::DnsName(name) if to.port() == 443 => name.as_ref().to_owned(),
            ServerName::DnsName(name) => format!("{}:{}", name.as_ref(), to.port()),
            _ => to.to_string(),
        };
        Arc::new(Self {
            to,
            source: transport.source,
            tls,
            method,
            url: format!("https://{host}/dns-query"),
            expire: transport.expire,
            max_age: transport.max_age.unwrap_or_default(),
            read_timeout: transport.read_timeout,
            session: Mutex::default(),
            outstanding: Semaphore::new(OUTSTANDING_MAX),
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
        let body = self.post(request.message(0), deadline).await?;
        if body.starts_with(&[0, 0])
            && let Some(reply) = Reply::accept(&body, &request.asked())
        {
            return Ok(reply);
        }
        self.metrics.ignored(Proto::Tls);
        Err(self.network("the body is no reply to the query"))
    }

    /// Sends one message and shows what comes back.
    pub(super) async fn probe(
        self: &Arc<Self>,
        message: &[u8],
        is_alive: impl Fn(&[u8]) -> bool,
        until: Instant,
    ) -> Result<(), Trouble> {
        let body = self.post(message.to_vec(), until).await?;
        if is_alive(&body) {
            return Ok(());
        }
        Err(self.network("the body is no reply to the query"))
    }

    /// Message for message, over the connection that is open or a new one.
    async fn post(self: &Arc<Self>, message: Vec<u8>, deadline: Instant) -> Result<Bytes, Trouble> {
        let _permit = self
            .outstanding
            .try_acquire()
            .map_err(|_| self.network("too many queries wait"))?;
        let message = Bytes::from(message);
        let (mut sender, opened) = self.sender(None, deadline).await?;
        let mut tried = false;
        loop {
            let until = deadline.min(Instant::now() + self.read_timeout);
            let request = self.http(&message)?;
            let failed = match timeout_at(until.into(), self.talk(&mut sender, request)).await {
                Ok(Ok(body)) => return Ok(body),
                Ok(Err(Failed::Other(trouble))) => return Err(trouble),
                Ok(Err(Failed::Connection(trouble))) => trouble,
                Err(_) => {
                    // It may be dead, and not know.
                    self.forget(opened).await;
                    return Err(Trouble::late(format!("{}: i/o timeout", self.what())));
                }
            };
            if tried {
                return Err(failed);
            }
            tried = true;
            (sender, _) = self.sender(Some(opened), deadline).await?;
        }
    }

    fn http(&self, message: &Bytes) -> Result<HttpRequest<Full<Bytes>>, Trouble> {
        let builder = HttpRequest::builder()
            .method(self.method.clone())
            .header(ACCEPT, MESSAGE_TYPE);
        let made = if self.method == Method::GET {
            let query = URL_SAFE_NO_PAD.encode(message);
            let uri = format!("{}?dns={query}", self.url);
            builder.uri(uri).body(Full::default())
        } else {
            let builder = builder.header(CONTENT_TYPE, MESSAGE_TYPE).uri(&self.url);
            builder.body(Full::new(message.clone()))
        };
        made.map_err(|error| self.network(&error.to_string()))
    }

    async fn talk(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        request: HttpRequest<Full<Bytes>>,
    ) -> Result<Bytes, Failed> {
        let broken = |error: &dyn std::error::Error| {
            let cause = error
                .source()
                .map_or(error.to_string(), ToString::to_string);
            Failed::Connection(self.network(&cause))
        };
        sender.ready().await.map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| broken(&error))?;
        if response.status() != StatusCode::OK {
            let text = format!("status {}", response.status().as_u16());
            return Err(Failed::Other(self.network(&text)));
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default();
        let (essence, _) = content_type.split_once(';').unwrap_or((content_type, ""));
        if !essence.trim().eq_ignore_ascii_case(MESSAGE_TYPE) {
            let shown: String = essence.chars().take(64).collect();
            let text = format!("content type `{shown}`");
            return Err(Failed::Other(self.network(&text)));
        }
        match Limited::new(response.into_body(), MESSAGE_MAX)
            .collect()
            .await
        {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => match error.downcast_ref::<hyper::Error>() {
                Some(error) => Err(broken(error)),
                None => Err(Failed::Other(
                    self.network("the body is longer than any message"),
                )),
            },
        }
    }

    fn what(&self) -> String {
        format!("{} {} ({})", self.method, self.url, self.to)
    }

    fn network(&self, text: &str) -> Trouble {
        Trouble::network(format!("{}: {text}", self.what()))
    }

    /// The connection, opened if there is none or it is the one that was found broken.
    async fn sender(
        self: &Arc<Self>,
        broken: Option<Instant>,
        deadline: Instant,
    ) -> Result<(SendRequest<Full<Bytes>>, Instant), Trouble> {
        let late = || Trouble::late(format!("dial tcp-tls {}: i/o timeout", self.to));
        let mut session = timeout_at(deadline.into(), self.session.lock())
            .await
            .map_err(|_| late())?;
        let kept = session.take().filter(|session| {
            Some(session.opened) != broken && !session.sender.is_closed() && self.is_fresh(session)
        });
        self.metrics.socket(Proto::Tls, kept.is_some());
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let until = deadline.min(Instant::now() + DIAL_MAX);
                timeout_at(until.into(), Box::pin(self.open()))
                    .await
                    .map_err(|_| late())??
            }
        };
        let session = session.insert(kept);
        session.used = Instant::now();
        Ok((session.sender.clone(), session.opened))
    }

    async fn open(self: &Arc<Self>) -> Result<Session, Trouble> {
        let to = self.to;
        let trouble = |error: &io::Error| tls::trouble(format_args!("dial tcp-tls {to}"), error);
        let stream = tcp::connect(to, self.source)
            .await
            .map_err(|error| Trouble::io(format_args!("dial tcp-tls {to}: connect"), &error))?;
        let stream = self.tls.handshake(stream).await;
        let stream = stream.map_err(|error| trouble(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(self.network("the upstream does not speak HTTP/2"));
        }
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .max_header_list_size(HEADERS_MAX)
            .initial_stream_window_size(65_535)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.network(&error.to_string()))?;
        // It ends when nobody can send over it any more.
        self.runtime.spawn(connection);
        let now = Instant::now();
        self.runtime.spawn(sweep(Arc::downgrade(self), now));
        Ok(Session {
            sender,
            opened: now,
            age_max: random::shortened(self.max_age),
            used: now,
        })
    }

    fn is_fresh(&self, session: &Session) -> bool {
        session.used.elapsed() < self.expire
            && (session.age_max.is_zero() || session.opened.elapsed() < session.age_max)
    }

    /// Takes no more queries over the connection that was opened then.
    async fn forget(&self, opened: Instant) {
        let mut session = self.session.lock().await;
        session.take_if(|session| session.opened == opened);
    }
}

/// Closes a connection that is idle or old.
async fn sweep(doh: Weak<Doh>, opened: Instant) {
    loop {
        let Some(doh) = doh.upgrade() else { return };
        let mut session = doh.session.lock().await;
        let ours = session.as_ref().filter(|kept| kept.opened == opened);
        let is_over = ours.map(|kept| kept.sender.is_closed() || !doh.is_fresh(kept));
        match is_over {
            Some(true) => {
                *session = None;
                return;
            }
            // There is another one, or it has not been put there yet.
            None if opened.elapsed() > DIAL_MAX => return,
            _ => {}
        }
        let period = doh.expire.max(Duration::from_millis(100));
        drop(session);
        drop(doh);
        sleep(period).await;
    }
}
