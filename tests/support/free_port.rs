//! Ports for servers that take a number, not a socket.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Below the range that the system takes the ports of clients from: one of those would be in use again before the server
/// has started.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port on loopback that is free for UDP and TCP now, if there is one. No other caller in this program gets it.
pub(crate) fn find() -> Option<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // Other programs begin elsewhere.
    let start = now.map_or(0, |now| now.subsec_micros() % u32::from(COUNT)) as u16;
    let _ = NEXT.compare_exchange(0, start.max(1), Ordering::Relaxed, Ordering::Relaxed);
    let mut ports = (0..COUNT).map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT);
    ports.find(|&port| {
        let address = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    })
}
