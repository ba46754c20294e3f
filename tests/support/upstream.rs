//! An upstream that lies, on one port of 127.0.0.1 for UDP and TCP: the first label of the name, up to a hyphen, says
//! how. It keeps what it was sent.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "it is part of tests, each of which uses what it needs"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// What a lie is followed by: long enough that nobody takes both for one.
const PAUSE: Duration = Duration::from_millis(30);

/// The address that only forged records hold.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(6, 6, 6, 6);

/// One running upstream; dropped, it is gone.
pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The address in its answers is 192.0.2 and this.
    number: u8,
    seen: Mutex<Vec<Seen>>,
    /// Says nothing at all.
    silent: AtomicBool,
    /// RCODE of every reply.
    rcode: AtomicU16,
    /// Each so many queries get SERVFAIL; 0 for none.
    failing: AtomicU16,
    /// Each so many packets are lost; 0 for none.
    lossy: AtomicU16,
    /// Names that begin with `gate` wait for a permit.
    gate: Semaphore,
}

/// A query as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub message: Vec<u8>,
    pub from: SocketAddr,
    pub over_tcp: bool,
}

impl Seen {
    /// QNAME in its own spelling.
    pub fn qname(&self) -> String {
        name_of(&self.message)
    }

    pub fn is_probe(&self) -> bool {
        // QTYPE NS.
        self.qtype() == 2
    }

    pub fn qtype(&self) -> u16 {
        let end = question_end(&self.message);
        u16::from_be_bytes([self.message[end - 4], self.message[end - 3]])
    }
}

enum Act {
    Send(Vec<u8>),
    /// Octets on a stream, without a length before them.
    Raw(Vec<u8>),
    Pause,
    Wait,
    /// Closes a stream, with RST.
    Reset,
}

impl Upstream {
    pub async fn start(number: u8) -> Self {
        // A port that is free for UDP need not be free for TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let shared = Arc::new(Shared {
            number,
            seen: Mutex::default(),
            silent: AtomicBool::new(false),
            rcode: AtomicU16::new(0),
            failing: AtomicU16::new(0),
            lossy: AtomicU16::new(0),
            gate: Semaphore::new(0),
        });
        let tasks = vec![
            tokio::spawn(serve_udp(Arc::new(udp), Arc::clone(&shared))),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&shared))),
        ];
        Self {
            address,
            shared,
            tasks,
        }
    }

    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    pub fn set_rcode(&self, rcode: u16) {
        self.shared.rcode.store(rcode, Ordering::Relaxed);
    }

    /// SERVFAIL to one of so many queries.
    pub fn set_failing(&self, one_of: u16) {
        self.shared.failing.store(one_of, Ordering::Relaxed);
    }

    /// One of so many packets is lost, queries and probes alike.
    pub fn set_lossy(&self, one_of: u16) {
        self.shared.lossy.store(one_of, Ordering::Relaxed);
    }

    /// Lets so many gated queries go.
    pub fn open_gate(&self, count: usize) {
        self.shared.gate.add_permits(count);
    }

    /// All queries so far but the probes.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| !seen.is_probe())
            .cloned()
            .collect()
    }

    pub fn probes(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.is_probe())
            .cloned()
            .collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let message = buffer[..length].to_vec();
        let acts = shared.acts(&message, from, false);
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
        tokio::spawn(async move {
            for act in acts {
                match act {
                    Act::Send(reply) => drop(socket.send_to(&reply, from).await),
                    Act::Pause => tokio::time::sleep(PAUSE).await,
                    Act::Wait => shared.gate.acquire().await.unwrap().forget(),
                    Act::Raw(_) | Act::Reset => unreachable!("it is for streams"),
                }
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { drop(serve_stream(stream, from, shared).await) });
    }
}

async fn serve_stream(
    mut stream: TcpStream,
    from: SocketAddr,
    shared: Arc<Shared>,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        for act in shared.acts(&message, from, true) {
            match act {
                Act::Send(reply) => {
                    let length = u16::try_from(reply.len()).unwrap();
                    stream.write_all(&length.to_be_bytes()).await?;
                    stream.write_all(&reply).await?;
                }
                Act::Raw(octets) => stream.write_all(&octets).await?,
                Act::Pause => tokio::time::sleep(PAUSE).await,
                Act::Wait => shared.gate.acquire().await.unwrap().forget(),
                Act::Reset => return stream.set_zero_linger(),
            }
        }
        if name_of(&message).starts_with("once") {
            return Ok(());
        }
    }
}

impl Shared {
    fn acts(&self, message: &[u8], from: SocketAddr, over_tcp: bool) -> Vec<Act> {
        let count = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen {
                message: message.to_vec(),
                from,
                over_tcp,
            });
            seen.len()
        };
        let lossy = usize::from(self.lossy.load(Ordering::Relaxed));
        let is_lost = lossy != 0 && count.is_multiple_of(lossy);
        if is_lost || self.silent.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let name = name_of(message).to_ascii_lowercase();
        let word = name.split(['.', '-']).next().unwrap();
        let good = reply(
            message,
            0x8180,
            &a(Ipv4Addr::new(192, 0, 2, self.number), 30),
            1,
        );
        let forged = reply(message, 0x8180, &a(FORGED, 30), 1);
        match self.rcode.load(Ordering::Relaxed) {
            0 => {}
            rcode => return vec![Act::Send(reply(message, 0x8180 | rcode, b"", 0))],
        }
        match self.failing.load(Ordering::Relaxed) {
            0 => {}
            one_of if count % usize::from(one_of) != 0 => {}
            _ => return vec![Act::Send(reply(message, 0x8182, b"", 0))],
        }
        script(word, message, over_tcp, good, forged)
    }
}

/// What follows on a query, by the first word of its name.
fn script(word: &str, message: &[u8], over_tcp: bool, good: Vec<u8>, forged: Vec<u8>) -> Vec<Act> {
    use Act::{Pause, Send, Wait};
    let bare = |flags| reply(message, flags, b"", 0);
    let (word, then_good) = match word.strip_suffix("thengood") {
        Some(word) => (word, true),
        None => (word, false),
    };
    if over_tcp && let Some(acts) = stream_script(word, &good) {
        return acts;
    }
    let mut acts = match word {
        "timeout" => vec![],
        "wrongid" => vec![Send(changed(&forged, 0, 0x55))],
        "garbage" => vec![Send(vec![0xff; 30])],
        "short" => vec![Send(vec![0])],
        "qr0" => vec![Send(changed(&forged, 2, 0x80))],
        "malformed" => vec![Send(forged[..forged.len() - 3].to_vec())],
        "wrongq" => vec![Send(changed(&forged, 13, 0x01))],
        "wrongtype" => vec![Send(changed(&forged, question_end(message) - 3, 28 ^ 1))],
        "wrongclass" => vec![Send(changed(&forged, question_end(message) - 1, 3 ^ 1))],
        "qd0" => vec![Send(without_question(&forged))],
        "lying" => vec![Send(reply(message, 0x8180, b"", 0xffff))],
        "pointer" => {
            let here = u16::try_from(question_end(message)).unwrap() | 0xc000;
            let record = [&here.to_be_bytes(), &a(FORGED, 30)[2..]].concat();
            vec![Send(reply(message, 0x8180, &record, 1))]
        }
        "tc" => vec![Send(bare(0x8380))],
        "tcudp" if !over_tcp => vec![Send(bare(0x8380))],
        "servfail" => vec![Send(bare(0x8182))],
        "refused" => vec![Send(bare(0x8185))],
        "formerr" => vec![Send(bare(0x8181))],
        "notimp" => vec![Send(bare(0x8184))],
        "nxdomain" => vec![Send(bare(0x8183))],
        "nodata" => vec![Send(bare(0x8180))],
        "aa" => vec![Send(changed(&changed(&good, 2, 0x04), 3, 0x80))],
        "dup" => vec![Send(good.clone()), Send(good.clone()), Send(good)],
        "case" => {
            let mut flipped = good;
            let end = question_end(message) - 4;
            for octet in &mut flipped[12..end] {
                if octet.is_ascii_alphabetic() {
                    *octet ^= 0x20;
                }
            }
            vec![Send(flipped)]
        }
        "poisonans" => {
            let records = [a(Ipv4Addr::new(192, 0, 2, 1), 30), victim()].concat();
            vec![Send(reply(message, 0x8180, &records, 2))]
        }
        "poisonmid" => {
            let records = [victim(), a(Ipv4Addr::new(192, 0, 2, 1), 30)].concat();
            vec![Send(reply(message, 0x8180, &records, 2))]
        }
        "poisonauth" => {
            let mut poisoned = good;
            (poisoned[9], poisoned[11]) = (1, 1);
            poisoned.extend_from_slice(
                b"\x04test\0\0\x02\0\x01\0\0\x0e\x10\0\x0e\x02ns\x04evil\x04test\0",
            );
            poisoned.extend_from_slice(b"\x02ns\x04evil\x04test\0\0\x01\0\x01\0\0\x0e\x10\0\x04");
            poisoned.extend_from_slice(&FORGED.octets());
            vec![Send(poisoned)]
        }
        "cnameloop" => {
            let record = b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x02\xc0\x0c";
            vec![Send(reply(message, 0x8180, record, 1))]
        }
        "wild" => vec![Send(reply(message, 0x8180, &a(FORGED, u32::MAX), 1))],
        "big" => {
            let records: Vec<u8> = (0..200)
                .flat_map(|last| a(Ipv4Addr::new(10, 0, 0, last), 30))
                .collect();
            vec![Send(reply(message, 0x8180, &records, 200))]
        }
        // An alias that leads to a private address, and one of the world.
        "rebind" => {
            let target: &[u8] = b"\x04host\x05alias\x04test\0";
            let owner = u16::try_from(question_end(message) + 12).unwrap() | 0xc000;
            let mut records = b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x11".to_vec();
            records.extend_from_slice(target);
            for address in [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 1)] {
                records.extend_from_slice(&owner.to_be_bytes());
                records.extend_from_slice(&a(address, 30)[2..]);
            }
            vec![Send(changed(&reply(message, 0x8180, &records, 3), 3, 0x20))]
        }
        "router" => vec![Send(reply(
            message,
            0x8180,
            &a(Ipv4Addr::new(192, 168, 1, 1), 30),
            1,
        ))],
        // An HTTPS record of the owner itself, with the hint 127.0.0.1.
        "hint" => {
            let record = b"\xc0\x0c\0\x41\0\x01\0\0\0\x1e\0\x0b\0\x01\0\0\x04\0\x04\x7f\0\0\x01";
            vec![Send(reply(message, 0x8180, record, 1))]
        }
        "ede" => {
            let mut refusal = bare(0x8185);
            refusal[11] = 1;
            refusal.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x0a\0\x0f\0\x06\0\x0fsink");
            vec![Send(refusal)]
        }
        "gate" => vec![Wait, Send(good)],
        _ if then_good => panic!("no lie is called {word}"),
        _ => return vec![Send(good)],
    };
    if then_good {
        let address = [192, 0, 2, 1];
        acts.extend([
            Pause,
            Send(reply(message, 0x8180, &a(address.into(), 30), 1)),
        ]);
    }
    acts
}

/// What follows only over TCP.
fn stream_script(word: &str, good: &[u8]) -> Option<Vec<Act>> {
    use Act::{Pause, Raw, Reset};
    let length = u16::try_from(good.len()).unwrap().to_be_bytes();
    let framed = [&length[..], good].concat();
    Some(match word {
        "rst" => vec![Reset],
        "midrst" => vec![Raw(framed[..framed.len() / 2].to_vec()), Pause, Reset],
        "drip" => framed
            .chunks(1)
            .flat_map(|octet| [Raw(octet.to_vec()), Pause])
            .collect(),
        "glued" => vec![Raw([&framed[..], &framed].concat())],
        "longlength" => vec![Raw([&[0xff; 2], &good[..10]].concat())],
        _ => return None,
    })
}

/// An address of a name that nobody asked for.
fn victim() -> Vec<u8> {
    let mut record = b"\x06victim\x05fault\x04test\0\0\x01\0\x01\0\0\x0e\x10\0\x04".to_vec();
    record.extend_from_slice(&FORGED.octets());
    record
}

fn changed(message: &[u8], place: usize, by: u8) -> Vec<u8> {
    let mut message = message.to_vec();
    message[place] ^= by;
    message
}

fn without_question(message: &[u8]) -> Vec<u8> {
    let mut bare = message[..12].to_vec();
    bare[5] = 0;
    bare.extend_from_slice(&message[question_end(message)..]);
    bare
}

/// A record of the name that was asked.
fn a(address: Ipv4Addr, ttl: u32) -> Vec<u8> {
    let mut record = b"\xc0\x0c\0\x01\0\x01".to_vec();
    record.extend_from_slice(&ttl.to_be_bytes());
    record.extend_from_slice(&[0, 4]);
    record.extend_from_slice(&address.octets());
    record
}

fn reply(query: &[u8], flags: u16, records: &[u8], answers: u16) -> Vec<u8> {
    let mut reply = query[..2].to_vec();
    reply.extend_from_slice(&flags.to_be_bytes());
    for count in [1, answers, 0, 0] {
        reply.extend_from_slice(&count.to_be_bytes());
    }
    reply.extend_from_slice(&query[12..question_end(query)]);
    reply.extend_from_slice(records);
    reply
}

fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 5
}

fn name_of(message: &[u8]) -> String {
    let mut name = String::new();
    let mut at = 12;
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        name.push_str(&String::from_utf8_lossy(&message[at + 1..end]));
        name.push('.');
        at = end;
    }
    name
}
