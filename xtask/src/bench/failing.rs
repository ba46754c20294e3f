//! An upstream of our own that takes its time, and that can be told to say nothing or to fail.
//!
//! ```text
//! socket --> reader: counts, makes the reply --> queue --> writer: sleeps until the reply is due --> socket
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an upstream does with queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Answers with an address.
    Well,
    /// Says nothing.
    Silent,
    /// SERVFAIL to a tenth.
    Failing,
}

/// It runs as long as the program.
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    mood: AtomicU8,
    queries: AtomicU64,
    /// When probes came: `forward` asks for NS.
    probes: Mutex<Vec<Instant>>,
}

/// A reply, when it is due, and for whom.
type Reply = (Instant, Vec<u8>, SocketAddr);

const NS: [u8; 2] = [0, 2];
const SERVFAIL: u8 = 2;

impl Upstream {
    /// Each reply comes `latency` after its query, and its record lives for `ttl` seconds.
    pub fn start(latency: Duration, ttl: u32) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("upstream: {error}");
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
        let address = socket.local_addr().map_err(text)?;
        let writer = socket.try_clone().map_err(text)?;
        let state = Arc::new(State {
            mood: AtomicU8::new(Mood::Well as u8),
            queries: AtomicU64::new(0),
            probes: Mutex::default(),
        });
        let (sender, receiver) = channel();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || read(&socket, &shared, &sender, latency, ttl));
        std::thread::spawn(move || write(&writer, &receiver));
        Ok(Self { address, state })
    }

    pub fn set(&self, mood: Mood) {
        self.state.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// Queries so far, probes apart.
    pub fn queries(&self) -> u64 {
        self.state.queries.load(Ordering::Relaxed)
    }

    /// When probes came, as seconds since `start`.
    pub fn probes_since(&self, start: Instant) -> Vec<f64> {
        let probes = self.state.probes.lock();
        let probes = probes.unwrap_or_else(PoisonError::into_inner);
        let since = probes.iter().filter(|&&at| at >= start);
        since.map(|&at| (at - start).as_secs_f64()).collect()
    }
}

fn read(socket: &UdpSocket, state: &State, replies: &Sender<Reply>, latency: Duration, ttl: u32) {
    let mut message = [0; 4096];
    let mut turn = 0u32;
    while let Ok((length, client)) = socket.recv_from(&mut message) {
        let now = Instant::now();
        let Some(end) = question_end(&message[..length]) else {
            continue;
        };
        if message[end - 4..end - 2] == NS {
            let probes = state.probes.lock();
            probes.unwrap_or_else(PoisonError::into_inner).push(now);
        } else {
            state.queries.fetch_add(1, Ordering::Relaxed);
        }
        let mood = state.mood.load(Ordering::Relaxed);
        if mood == Mood::Silent as u8 {
            continue;
        }
        turn += 1;
        let fails = mood == Mood::Failing as u8 && turn.is_multiple_of(10);
        let reply = reply(&message[..end], fails, ttl);
        if replies.send((now + latency, reply, client)).is_err() {
            return;
        }
    }
}

fn write(socket: &UdpSocket, replies: &Receiver<Reply>) {
    while let Ok((due, reply, client)) = replies.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // Whoever has closed its socket meanwhile wants no reply.
        let _ = socket.send_to(&reply, client);
    }
}

/// One past the one question; none if there is none.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match *message.get(at)? {
            0 => break,
            length => at += 1 + usize::from(length),
        }
    }
    let end = at + 5;
    (end <= message.len()).then_some(end)
}

/// The address 192.0.2.1, or SERVFAIL.
fn reply(query: &[u8], fails: bool, ttl: u32) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | if fails { SERVFAIL } else { 0 };
    reply[6..12].fill(0);
    if !fails {
        reply[7] = 1;
        reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01");
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&[0, 4, 192, 0, 2, 1]);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_fails_or_says_nothing_as_it_is_told() {
        let upstream = Upstream::start(Duration::from_millis(1), 7).expect("loopback is there");
        let client = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        client.connect(upstream.address).expect("it is bound");
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let mut reply = [0; 512];
        let mut ask = || {
            client.send(query).expect("loopback is there");
            client
                .recv(&mut reply)
                .map(|length| (length, reply[3] & 15))
        };
        assert_eq!(ask().expect("it is well"), (query.len() + 16, 0));
        upstream.set(Mood::Failing);
        let failed = (0..20).filter(|_| ask().expect("it says so").1 == SERVFAIL);
        assert_eq!(failed.count(), 2);
        upstream.set(Mood::Silent);
        let patience = Some(Duration::from_millis(50));
        client.set_read_timeout(patience).expect("it is above zero");
        assert!(ask().is_err());
        assert_eq!(upstream.queries(), 22);
    }
}
