//! Asks a server on loopback, and looks whether the answer is the right one.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

pub const A: u16 = 1;
pub const PTR: u16 = 12;

const NXDOMAIN: u8 = 3;

/// What an answer must be.
#[derive(Clone, Debug)]
pub enum Right {
    /// It has this address.
    Address(Ipv4Addr),
    /// It has a record whose data contain this label.
    Label(String),
    /// There is no such name.
    NameError,
}

/// One socket.
pub struct Client {
    socket: UdpSocket,
    id: u16,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new(port: u16) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("127.0.0.1:{port}: {error}");
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
        socket.connect(("127.0.0.1", port)).map_err(text)?;
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .map_err(text)?;
        Ok(Self {
            socket,
            id: 0,
            buffer: vec![0; 4096],
        })
    }

    /// The reply; none if there was none in time.
    pub fn ask(&mut self, qname: &str, qtype: u16) -> Option<&[u8]> {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&query(self.id, qname, qtype)).ok()?;
        loop {
            let length = self.socket.recv(&mut self.buffer).ok()?;
            // Replies to questions that we gave up come late.
            if length >= 12 && self.buffer[..2] == self.id.to_be_bytes() {
                return Some(&self.buffer[..length]);
            }
        }
    }

    /// Whether the answer is the right one now.
    pub fn is_right(&mut self, qname: &str, qtype: u16, right: &Right) -> bool {
        self.ask(qname, qtype)
            .is_some_and(|reply| right.is_in(reply))
    }

    /// Asks until the answer is right; the time that took. None if it did not become so.
    pub fn wait_for(
        &mut self,
        qname: &str,
        qtype: u16,
        right: &Right,
        patience: Duration,
    ) -> Option<Duration> {
        let start = Instant::now();
        loop {
            if self.is_right(qname, qtype, right) {
                return Some(start.elapsed());
            }
            if start.elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Right {
    pub fn is_in(&self, reply: &[u8]) -> bool {
        let (rcode, answers) = (reply[3] & 15, u16::from_be_bytes([reply[6], reply[7]]));
        let has = |octets: &[u8]| reply.windows(octets.len()).any(|window| window == octets);
        match self {
            Self::Address(address) => rcode == 0 && answers > 0 && has(&address.octets()),
            Self::Label(label) => rcode == 0 && answers > 0 && has(label.as_bytes()),
            Self::NameError => rcode == NXDOMAIN,
        }
    }
}

fn query(id: u16, qname: &str, qtype: u16) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in qname.split('.') {
        octets.push(u8::try_from(label.len()).expect("names of the bench have short labels"));
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets.extend_from_slice(&qtype.to_be_bytes());
    octets.extend_from_slice(&[0, 1]);
    octets
}

/// The name that an address is asked by.
pub fn reverse(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

/// An upstream that knows no name; it answers as long as the program runs.
pub fn start_upstream() -> Result<u16, String> {
    let text = |error: std::io::Error| format!("upstream: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    let port = socket.local_addr().map_err(text)?.port();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut message) {
            if length >= 12 {
                message[2] |= 0x80;
                message[3] = NXDOMAIN;
                let _ = socket.send_to(&message[..length], client);
            }
        }
    });
    Ok(port)
}
