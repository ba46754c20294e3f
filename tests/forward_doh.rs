//! What `forward` does with upstreams over HTTPS.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/bed.rs"]
mod bed;
#[path = "support/secure.rs"]
mod secure;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use authority::Authority;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bed::Bed;
use bytes::Bytes;
use fingerpost::wire::code::Rcode;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// What the upstream does with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Good,
    Html,
    Status(u16),
    /// A body without end.
    Endless,
    OtherQuestion,
    Silent,
    /// Closes the connection under the first query on it, this time only.
    CloseOnce,
    /// Says GOAWAY with each reply.
    GoAway,
}

#[derive(Debug)]
struct Seen {
    method: String,
    path: String,
    authority: String,
    message: Vec<u8>,
    from: SocketAddr,
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<usize>,
}

/// One running upstream; dropped, it is gone.
struct DohUpstream {
    address: SocketAddr,
    log: Arc<Log>,
    habit: Arc<Mutex<Habit>>,
    task: JoinHandle<()>,
    ca: String,
    _folder: tempfile::TempDir,
}

impl Drop for DohUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl DohUpstream {
    async fn start(protocol: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let identity = authority.sign(&["dns.test", "127.0.0.1"]);
        let mut config = ServerConfig::clone(&secure::config(&identity, None));
        config.alpn_protocols = vec![protocol.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (log, habit) = (Arc::new(Log::default()), Arc::new(Mutex::new(Habit::Good)));
        let task = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&log),
            Arc::clone(&habit),
        ));
        Self {
            address,
            log,
            habit,
            task,
            ca: authority.write(folder.path()).display().to_string(),
            _folder: folder,
        }
    }

    fn bed(&self, options: &str) -> Bed {
        let (to, ca) = (self.address, &self.ca);
        Bed::new(&format!(
            ". {{\nforward . https://{to} {{\ntls {ca}\nread_timeout 2s\n{options}\n}}\n}}"
        ))
    }

    fn set(&self, habit: Habit) {
        *self.habit.lock().unwrap() = habit;
    }

    fn connections(&self) -> usize {
        *self.log.connections.lock().unwrap()
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    log: Arc<Log>,
    habit: Arc<Mutex<Habit>>,
) {
    loop {
        let (stream, from) = listener.accept().await.unwrap();
        let (acceptor, log, habit) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&habit));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            *log.connections.lock().unwrap() += 1;
            let (close, mut closed) = watch::channel(false);
            let (goodbye, mut told) = watch::channel(false);
            let service = service_fn(move |request| {
                let (log, habit) = (Arc::clone(&log), Arc::clone(&habit));
                let (close, goodbye) = (close.clone(), goodbye.clone());
                async move {
                    let now = *habit.lock().unwrap();
                    if now == Habit::CloseOnce {
                        *habit.lock().unwrap() = Habit::Good;
                        close.send_replace(true);
                        std::future::pending::<()>().await;
                    }
                    if now == Habit::GoAway {
                        goodbye.send_replace(true);
                    }
                    answer(request, from, &log, now).await
                }
            });
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = closed.wait_for(|&closed| closed) => return,
                _ = told.wait_for(|&told| told) => connection.as_mut().graceful_shutdown(),
                _ = connection.as_mut() => return,
            }
            let _ = connection.await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    log: &Log,
    habit: Habit,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let message = match query.strip_prefix("dns=") {
        Some(text) => URL_SAFE_NO_PAD.decode(text).unwrap(),
        None => body.collect().await.unwrap().to_bytes().to_vec(),
    };
    let mut reply = secure::reply(&message, 1);
    log.seen.lock().unwrap().push(Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        authority: head.uri.authority().unwrap().to_string(),
        message,
        from,
    });
    let mut builder = Response::builder().header(
        "content-type",
        if habit == Habit::Html {
            "text/html; charset=utf-8"
        } else {
            "application/dns-message"
        },
    );
    match habit {
        Habit::Status(code) => builder = builder.status(StatusCode::from_u16(code).unwrap()),
        Habit::Silent => std::future::pending().await,
        Habit::OtherQuestion => reply[13] ^= 1,
        Habit::Endless => {
            let chunk = || Ok(Frame::data(Bytes::from_static(&[0; 16_384])));
            let endless = stream::iter(std::iter::repeat_with(chunk));
            return Ok(builder.body(StreamBody::new(endless).boxed()).unwrap());
        }
        _ => {}
    }
    Ok(builder.body(Full::from(reply).boxed()).unwrap())
}

#[tokio::test]
async fn a_query_is_posted_with_id_zero_to_the_path_of_the_standard() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("");
    assert_eq!(bed.ask("www.test").await.number(), 1);
    let seen = upstream.log.seen.lock().unwrap().remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/dns-query")
    );
    assert_eq!(seen.authority, upstream.address.to_string());
    assert_eq!(seen.message[..2], [0, 0]);
}

#[tokio::test]
async fn a_query_by_get_is_in_the_url() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("doh_method GET\ntls_servername dns.test");
    assert_eq!(bed.ask("www.test").await.number(), 1);
    let seen = upstream.log.seen.lock().unwrap().remove(0);
    assert_eq!(seen.method, "GET");
    let port = upstream.address.port();
    assert_eq!(seen.authority, format!("dns.test:{port}"));
    assert!(seen.message.windows(5).any(|part| part == b"\x03www\x04"));
}

#[tokio::test]
async fn many_queries_share_one_connection() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("");
    let names: Vec<_> = (0..50).map(|turn| format!("{turn}.test")).collect();
    let asks = names.iter().map(|name| bed.ask(name));
    for reply in futures_util::future::join_all(asks).await {
        assert_eq!(reply.number(), 1);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn what_is_no_reply_of_dns_is_refused() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("max_connect_attempts 1\nmax_fails 0");
    let habits = [
        Habit::Html,
        Habit::Status(302),
        Habit::Status(413),
        Habit::Status(500),
        Habit::Endless,
        Habit::OtherQuestion,
    ];
    for (turn, habit) in habits.into_iter().enumerate() {
        upstream.set(habit);
        let reply = bed.ask(&format!("www{turn}.test")).await;
        let got = (reply.rcode(), reply.extended_error());
        assert_eq!(got, (Rcode::SERVFAIL, Some(23)), "{habit:?}");
    }
    upstream.set(Habit::Good);
    assert_eq!(bed.ask("www.test").await.number(), 1);
    assert_eq!(upstream.connections(), 1, "none of it costs the connection");
}

#[tokio::test]
async fn a_connection_that_ends_under_a_query_costs_no_attempt() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("max_connect_attempts 1");
    upstream.set(Habit::CloseOnce);
    assert_eq!(bed.ask("www.test").await.number(), 1);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn an_upstream_that_says_goaway_is_asked_over_another_connection() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("max_connect_attempts 1");
    upstream.set(Habit::GoAway);
    for turn in 0..5 {
        assert_eq!(bed.ask(&format!("{turn}.test")).await.number(), 1);
    }
    assert!(upstream.connections() >= 2);
}

#[tokio::test]
async fn a_reply_that_does_not_come_is_a_time_out_and_the_connection_is_given_up() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("read_timeout 50ms\nmax_connect_attempts 1\nmax_fails 0");
    upstream.set(Habit::Silent);
    let reply = bed.ask("www.test").await;
    let got = (reply.rcode(), reply.extended_error());
    assert_eq!(got, (Rcode::SERVFAIL, Some(22)));
    upstream.set(Habit::Good);
    while bed.ask("www.test").await.rcode() != Rcode::NOERROR {}
    let seen = upstream.log.seen.lock().unwrap();
    assert_ne!(seen[0].from, seen[seen.len() - 1].from);
}

#[tokio::test]
async fn an_upstream_without_http_2_is_refused() {
    let upstream = DohUpstream::start(b"http/1.1").await;
    let bed = upstream.bed("");
    assert_eq!(bed.ask("www.test").await.rcode(), Rcode::SERVFAIL);
}

#[tokio::test]
async fn an_upstream_that_failed_is_probed_over_https() {
    let upstream = DohUpstream::start(b"h2").await;
    let bed = upstream.bed("health_check 10ms domain Probe.test\nmax_connect_attempts 1");
    upstream.set(Habit::Status(500));
    bed.ask("www.test").await;
    upstream.set(Habit::Good);
    let is_probe = |seen: &Seen| seen.message.ends_with(b"\x05probe\x04test\0\0\x02\0\x01");
    let wait = async {
        while !upstream.log.seen.lock().unwrap().iter().any(is_probe) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait)
        .await
        .unwrap();
}
