use std::cell::RefCell;
use std::net::SocketAddr;

use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::record::Records;
use hickory_proto::op::Message;
use tokio::net::UdpSocket;

use crate::fingerprint;
use crate::server::{Server, ask, query};

struct Bed {
    server: Server,
    upstream: UdpSocket,
    runs: u64,
}

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(Bed::new());
}

impl Bed {
    fn new() -> Self {
        // The upstream lives on the runtime of the server, so it is bound first and handed over.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        let address = socket.local_addr().expect("it is bound");
        let corefile = format!(". {{\n cache\n forward . {address}\n}}\n");
        let server = Server::new(&corefile);
        let upstream = {
            let _within = server.runtime.enter();
            UdpSocket::from_std(socket).expect("a socket")
        };
        Self {
            server,
            upstream,
            runs: 0,
        }
    }
}

/// An upstream's reply behind ID and question: flags, counts (3 octets), records.
pub fn run(data: &[u8]) -> u64 {
    let Some((head, records)) = data.split_at_checked(5) else {
        return 0;
    };
    let records = &records[..records.len().min(4000)];
    BED.with_borrow_mut(|bed| {
        bed.runs += 1;
        // Always as long, so that an input means the same to every run.
        let question = query(&format!("n{:08}.example.org", bed.runs));
        let (server, upstream) = (&bed.server, &bed.upstream);
        server.runtime.block_on(async {
            let mut asked = 0;
            let lies = lie(upstream, head, records, &mut asked);
            let client = async {
                let first = ask(&server.zones, &question, Protocol::Udp).await;
                let again = ask(&server.zones, &question, Protocol::Udp).await;
                (first.expect("a reply"), again.expect("a reply"))
            };
            let (first, again) = tokio::select! {
                replies = client => replies,
                never = lies => match never {},
            };
            check(&question, &first);
            check(&question, &again);
            if asked == 1 {
                kept_as_it_came(&first, &again);
            }
            fingerprint((asked, first[3] & 15, first[2] & 6, first.len() / 16))
        })
    })
}

/// Answers every query twice: as the data says, and with the truth, should the first not count.
async fn lie(
    upstream: &UdpSocket,
    head: &[u8],
    records: &[u8],
    asked: &mut u64,
) -> std::convert::Infallible {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, client)) = upstream.recv_from(&mut buffer).await else {
            // What the system has to say of a socket that we sent to before.
            continue;
        };
        *asked += 1;
        let message = &buffer[..length];
        send(upstream, client, message, head, records).await;
        let truth = b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\x02\x01";
        send(upstream, client, message, &[0x80, 0x80, 1, 0, 0], truth).await;
    }
}

async fn send(upstream: &UdpSocket, client: SocketAddr, query: &[u8], head: &[u8], records: &[u8]) {
    let end = query[12..]
        .iter()
        .position(|&octet| octet == 0)
        .map(|at| 12 + at + 5);
    let mut reply = query[..end.expect("a query has a name")].to_vec();
    reply[2..4].copy_from_slice(&head[..2]);
    for (place, count) in reply[6..12].chunks_mut(2).zip(&head[2..5]) {
        place.copy_from_slice(&[0, *count]);
    }
    reply.extend_from_slice(records);
    upstream.send_to(&reply, client).await.expect("loopback");
}

/// Whatever the upstream said, the client gets a reply to its question that it can read.
fn check(query: &[u8], reply: &[u8]) {
    assert!(reply.len() <= 512);
    assert_eq!(reply[..2], query[..2]);
    assert_eq!(reply[2] & 0xf9, 0x81, "QR and RD, opcode 0");
    assert_eq!(reply[4..6], [0, 1]);
    assert_eq!(reply[12..query.len()], query[12..]);
    let mut records = Records::of_message(reply).expect("we read what we write");
    for record in records.by_ref() {
        let (_, record) = record.expect("no broken record gets through");
        assert_ne!(
            record.record_type,
            RecordType::OPT,
            "the client has no EDNS"
        );
        assert!(record.ttl <= 0x7fff_ffff);
    }
    assert_eq!(records.position(), reply.len());
    // What stands in RDATA is the upstream's; but if hickory reads it, it reads the same records.
    if let Ok(theirs) = Message::from_vec(reply) {
        let count = theirs.answers.len() + theirs.authorities.len();
        let ours =
            u16::from_be_bytes([reply[6], reply[7]]) + u16::from_be_bytes([reply[8], reply[9]]);
        assert_eq!(count, usize::from(ours));
    }
}

/// From the cache comes what came from the upstream, but for AA and the TTLs. (One second may have passed.)
fn kept_as_it_came(first: &[u8], again: &[u8]) {
    let shown = |reply: &[u8]| {
        let records = Records::of_message(reply).expect("it was read");
        records
            .flatten()
            .map(|(section, record)| {
                let owner = record.owner().as_ref().as_wire().to_vec();
                let rdata = record.rdata().to_vec();
                (
                    section as u8,
                    owner,
                    record.record_type,
                    record.class,
                    rdata,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(again), shown(first));
    assert_eq!(again[3], first[3]);
}
