//! An upstream over TLS on a port of 127.0.0.1. It keeps what it was sent, and can be told to misbehave.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "it is part of tests, each of which uses what it needs"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, RootCertStore, ServerConfig};

use crate::authority::{Authority, Identity};

/// One running upstream; dropped, it is gone.
pub struct SecureUpstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    number: u8,
    config: Mutex<Arc<ServerConfig>>,
    habit: Mutex<Habit>,
    seen: Mutex<Vec<Session>>,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    Good,
    /// Takes the connection and says nothing.
    StallsHandshake,
    /// Says goodbye after the handshake.
    ClosesAtOnce,
    /// Says goodbye after each reply.
    ClosesAfterReply,
    /// Reads queries and says nothing.
    Silent,
}

/// A connection as it came in.
#[derive(Clone, Debug)]
pub struct Session {
    pub from: SocketAddr,
    pub protocol: Option<Vec<u8>>,
    /// SNI.
    pub name: Option<String>,
    pub resumed: bool,
    /// What the client showed.
    pub certificate: Option<CertificateDer<'static>>,
    pub queries: Vec<Vec<u8>>,
}

/// A server's configuration; with an authority it demands a certificate that this has signed.
pub fn config(identity: &Identity, clients: Option<&Authority>) -> Arc<ServerConfig> {
    config_with(identity, clients, &[&TLS12, &TLS13])
}

pub fn config_with(
    identity: &Identity,
    clients: Option<&Authority>,
    versions: &[&'static tokio_rustls::rustls::SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain(), identity.key())
        .unwrap();
    config.alpn_protocols = vec![b"dot".to_vec()];
    Arc::new(config)
}

impl SecureUpstream {
    pub async fn start(number: u8, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            number,
            config: Mutex::new(config),
            habit: Mutex::new(Habit::Good),
            seen: Mutex::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    pub fn set(&self, habit: Habit) {
        *self.shared.habit.lock().unwrap() = habit;
    }

    pub fn set_config(&self, config: Arc<ServerConfig>) {
        *self.shared.config.lock().unwrap() = config;
    }

    /// The sessions whose handshake was done, in order.
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for SecureUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { drop(session(stream, from, shared).await) });
    }
}

async fn session(stream: TcpStream, from: SocketAddr, shared: Arc<Shared>) -> std::io::Result<()> {
    if shared.habit() == Habit::StallsHandshake {
        // Until the client gives up.
        let mut stream = stream;
        while stream.read(&mut [0; 512]).await? != 0 {}
        return Ok(());
    }
    let config = Arc::clone(&shared.config.lock().unwrap());
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    let place = {
        let (_, connection) = stream.get_ref();
        let mut seen = shared.seen.lock().unwrap();
        seen.push(Session {
            from,
            protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
            name: connection.server_name().map(str::to_owned),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: connection
                .peer_certificates()
                .and_then(|chain| Some(chain.first()?.clone().into_owned())),
            queries: Vec::new(),
        });
        seen.len() - 1
    };
    while shared.habit() != Habit::ClosesAtOnce {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let reply = reply(&query, shared.number);
        shared.seen.lock().unwrap()[place].queries.push(query);
        if shared.habit() == Habit::Silent {
            continue;
        }
        let length = u16::try_from(reply.len()).unwrap();
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&reply).await?;
        stream.flush().await?;
        if shared.habit() == Habit::ClosesAfterReply {
            break;
        }
    }
    stream.shutdown().await
}

impl Shared {
    fn habit(&self) -> Habit {
        *self.habit.lock().unwrap()
    }
}

/// One address, 192.0.2 and the number.
pub fn reply(query: &[u8], number: u8) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let mut reply = query[..end + 5].to_vec();
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\x02");
    reply.push(number);
    reply
}
