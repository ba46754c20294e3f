//! Rules of the HTTP listeners, asked over real sockets.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn endpoint(plugin: &'static str, path: &'static str, body: &'static str) -> HttpEndpoint {
    endpoint_at(([127, 0, 0, 1], 0).into(), plugin, path, body)
}

fn endpoint_at(
    address: SocketAddr,
    plugin: &'static str,
    path: &'static str,
    body: &'static str,
) -> HttpEndpoint {
    HttpEndpoint {
        plugin,
        address,
        on_bind_failure: OnBindFailure::Fatal,
        handler: Arc::new(move |_, uri| match uri.path() == path {
            true => text(StatusCode::OK, body),
            false => not_found(),
        }),
    }
}

fn servers() -> HttpServers {
    servers_with(Limits::default())
}

fn servers_with(limits: Limits) -> HttpServers {
    let process = Process::new(tokio::runtime::Handle::current());
    HttpServers::with_limits(&process, limits)
}

fn short() -> Limits {
    Limits {
        patience: Duration::from_millis(50),
        ..Limits::default()
    }
}

fn only(servers: &HttpServers) -> SocketAddr {
    let mut addresses = servers.local_addresses();
    let (_, local) = addresses.next().unwrap();
    assert!(addresses.next().is_none());
    local
}

/// Sends octets and reads until the server closes.
async fn send(address: SocketAddr, octets: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(octets.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8(reply).unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let reply = send(address, &request).await;
    let status = reply.split(' ').nth(1).unwrap_or("closed");
    let body = reply.split("\r\n\r\n").nth(1).unwrap_or_default();
    format!("{status} {body}")
}

#[tokio::test]
async fn a_path_is_answered_whatever_the_method_and_others_are_404() {
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let address = only(&servers);
    assert_eq!(ask(address, "GET", "/health").await, "200 OK");
    assert_eq!(ask(address, "POST", "/health").await, "200 OK");
    assert_eq!(ask(address, "HEAD", "/health").await, "200 ");
    let missing = "404 404 page not found\n";
    assert_eq!(ask(address, "GET", "/").await, missing);
    assert_eq!(ask(address, "GET", "/health/x").await, missing);
    servers.stop().await;
}

#[tokio::test]
async fn plugins_share_an_address_each_with_its_path() {
    let mut servers = servers();
    servers
        .apply(vec![
            endpoint("health", "/health", "OK"),
            endpoint("ready", "/ready", "yes"),
        ])
        .await
        .unwrap();
    let address = only(&servers);
    assert_eq!(ask(address, "GET", "/health").await, "200 OK");
    assert_eq!(ask(address, "GET", "/ready").await, "200 yes");
}

#[tokio::test]
async fn a_connection_is_kept_for_further_requests() {
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let mut stream = TcpStream::connect(only(&servers)).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"OK") {
            assert_ne!(stream.read_buf(&mut reply).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off() {
    let mut servers = servers_with(short());
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let mut stream = TcpStream::connect(only(&servers)).await.unwrap();
    let begun = Instant::now();
    let mut written = stream.write_all(b"GET /health HTTP/1.1\r\n").await;
    // A header line now and then, as slowloris does.
    while written.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never cut off");
        tokio::time::sleep(Duration::from_millis(5)).await;
        written = stream.write_all(b"X: y\r\n").await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut servers = servers_with(short());
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let address = only(&servers);
    let mut fresh = TcpStream::connect(address).await.unwrap();
    assert_eq!(read_to_end(&mut fresh).await, "");
    let reply = send(address, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(reply.ends_with("OK"), "{reply}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_let_go() {
    let mut servers = servers_with(Limits {
        connection_time: Duration::from_millis(50),
        connections: 1,
        ..short()
    });
    let body = "x".repeat(32 << 20);
    let large = HttpEndpoint {
        handler: Arc::new(move |_, uri| match uri.path() {
            "/large" => text(StatusCode::OK, body.clone()),
            _ => text(StatusCode::OK, "OK"),
        }),
        ..endpoint("health", "/", "")
    };
    servers.apply(vec![large]).await.unwrap();
    let address = only(&servers);
    let mut deaf = TcpStream::connect(address).await.unwrap();
    deaf.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    // There is one place, and the deaf client has it until it is let go.
    assert_eq!(ask(address, "GET", "/small").await, "200 OK");
}

#[tokio::test]
async fn one_client_cannot_take_every_connection() {
    let mut servers = servers_with(Limits {
        connections_per_client: 2,
        ..Limits::default()
    });
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let address = only(&servers);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        assert_ne!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        held.push(stream);
    }
    assert_eq!(ask(address, "GET", "/health").await, "closed ");
    assert_eq!(servers.metrics.refused.get(), 1);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let address = only(&servers);
    let long = format!(
        "GET /health HTTP/1.1\r\nX: {}\r\n\r\n",
        "y".repeat(2 * HEAD_MAX)
    );
    let reply = send(address, &long).await;
    assert!(
        reply.is_empty() || reply.starts_with("HTTP/1.1 431"),
        "{reply}"
    );
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    let reply = send(address, &many).await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
}

#[tokio::test]
async fn a_reload_keeps_the_socket_and_its_connections_and_swaps_the_handler() {
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "old")])
        .await
        .unwrap();
    let address = only(&servers);
    let mut stream = TcpStream::connect(address).await.unwrap();
    servers
        .apply(vec![endpoint("health", "/health", "new")])
        .await
        .unwrap();
    assert_eq!(only(&servers), address);
    stream
        .write_all(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("new"));
}

#[tokio::test]
async fn an_address_that_nobody_wants_any_more_is_closed() {
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let address = only(&servers);
    servers.apply(Vec::new()).await.unwrap();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_fails_the_generation_and_leaves_the_old_one() {
    // Without SO_REUSEPORT, so it cannot be shared.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "old")])
        .await
        .unwrap();
    let old = only(&servers);
    let error = servers
        .apply(vec![endpoint_at(address, "health", "/health", "new")])
        .await
        .unwrap_err();
    let port = address.port();
    assert_eq!(
        error.0,
        format!("plugin/health: tcp port {port} on 127.0.0.1 is taken by another program")
    );
    assert_eq!(ask(old, "GET", "/health").await, "200 old");
    let unimportant = HttpEndpoint {
        on_bind_failure: OnBindFailure::Log,
        ..endpoint_at(address, "prometheus", "/metrics", "")
    };
    servers.apply(vec![unimportant]).await.unwrap();
    assert_eq!(servers.local_addresses().count(), 0);
}

#[tokio::test]
async fn a_stop_closes_the_socket_and_idle_connections() {
    let mut servers = servers();
    servers
        .apply(vec![endpoint("health", "/health", "OK")])
        .await
        .unwrap();
    let address = only(&servers);
    let mut idle = TcpStream::connect(address).await.unwrap();
    servers.stop().await;
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_wildcard_takes_ipv4_too() {
    let mut servers = servers();
    let wildcard = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    servers
        .apply(vec![endpoint_at(wildcard, "health", "/health", "OK")])
        .await
        .unwrap();
    let port = only(&servers).port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(ask(address, "GET", "/health").await, "200 OK");
}
