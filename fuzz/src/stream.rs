use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fingerpost::chain::exchange::Protocol;
use fingerpost::net::limit::{BAD_MESSAGES_MAX, Limits};
use fingerpost::net::service::Service;
use fingerpost::net::stream::accept;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::fingerprint;
use crate::server::{Server, ask};

const COREFILE: &str = ". {\n any\n hosts {\n 10.0.0.1 web.example.org\n ttl 60\n }\n}\n";

/// Far more than one exchange on loopback takes.
const PATIENCE: Duration = Duration::from_secs(8);

struct Bed {
    server: Server,
    address: SocketAddr,
    runs: u32,
}

thread_local! {
    static BED: std::cell::RefCell<Bed> = std::cell::RefCell::new(Bed::new());
}

impl Bed {
    fn new() -> Self {
        let server = Server::new(COREFILE);
        let listener = server.runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let zones = Arc::new(ArcSwap::new(Arc::clone(&server.zones)));
        let service = Service::new(address, zones, Limits::default(), &server.process);
        server.runtime.spawn(accept(listener, service));
        Self {
            server,
            address,
            runs: 0,
        }
    }

    /// An address for the client that changes: connections that have ended block their pair of ports for a while.
    fn client(&mut self) -> SocketAddr {
        self.runs = self.runs.wrapping_add(1);
        let [_, b, c, d] = (self.runs / 256).to_be_bytes();
        let address = Ipv4Addr::new(127, b, c, d.max(1));
        SocketAddr::new(IpAddr::V4(address), 0)
    }
}

/// Where to cut the stream in two (2 octets), and what a client sends over TCP.
pub fn run(data: &[u8]) -> u64 {
    let Some((at, octets)) = data.split_at_checked(2) else {
        return 0;
    };
    let at = usize::from(u16::from_be_bytes([at[0], at[1]])) % (octets.len() + 1);
    BED.with_borrow_mut(|bed| {
        let ends = [bed.client(), bed.address];
        let exchange = exchange(ends, [&octets[..at], &octets[at..]]);
        let (sent, came) = bed.server.runtime.block_on(async {
            let came = tokio::time::timeout(PATIENCE, exchange).await;
            (
                expected(&bed.server, octets).await,
                came.expect("a client that is done is let go"),
            )
        });
        match came {
            Ok(came) if sent.ends_well => assert_eq!(came, sent.replies.concat()),
            Ok(came) => assert!(sent.replies.concat().starts_with(&came)),
            // What was not read when the server gave up is answered with a reset.
            Err(error) => assert!(!sent.ends_well, "{error}"),
        }
        let kinds: Vec<_> = sent
            .replies
            .iter()
            .map(|reply| (reply[5] & 15, reply.len()))
            .collect();
        fingerprint((kinds, sent.ends_well))
    })
}

async fn exchange([client, server]: [SocketAddr; 2], pieces: [&[u8]; 2]) -> io::Result<Vec<u8>> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(client).expect("the loopback network");
    let mut stream = socket.connect(server).await.expect("it listens");
    stream.set_nodelay(true)?;
    for piece in pieces {
        stream.write_all(piece).await?;
        // Lets the server read the first piece by itself.
        tokio::task::yield_now().await;
    }
    stream.shutdown().await?;
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await?;
    Ok(came)
}

/// What the client should get.
struct Expected {
    replies: Vec<Vec<u8>>,
    /// The server does not end the connection on its own.
    ends_well: bool,
}

async fn expected(server: &Server, mut octets: &[u8]) -> Expected {
    let mut replies = Vec::new();
    let mut bad = 0;
    while let Some((length, rest)) = octets.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        // A frame that cannot hold a header, and too many replies, end the connection.
        if length < 12 || bad == BAD_MESSAGES_MAX {
            return Expected {
                replies,
                ends_well: false,
            };
        }
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        octets = rest;
        match ask(&server.zones, message, Protocol::Tcp).await {
            Some(reply) => {
                let length = u16::try_from(reply.len()).expect("it fits a frame");
                replies.push([&length.to_be_bytes()[..], &reply].concat());
            }
            None => bad += 1,
        }
    }
    Expected {
        replies,
        ends_well: bad < BAD_MESSAGES_MAX,
    }
}
