//! The twin of the batch for kernels other than Linux: one datagram at a time, by nothing but the standard library.
//!
//! Replies of a wildcard socket leave from the address that the routing table picks.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Datagram, QueueFill, SOME};
use crate::net::limit::{DATAGRAM_MAX, STOP_LOOK};

/// Receives one datagram and sends its reply.
#[derive(Default)]
pub struct Batch {
    octets: Vec<u8>,
    received: Option<(usize, SocketAddr)>,
    reply: Vec<u8>,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            octets: vec![0; DATAGRAM_MAX + 1],
            ..Self::default()
        }
    }

    /// Takes a datagram if one is waiting, or waits for it as long as a worker may.
    pub fn receive(&mut self, socket: &UdpSocket, wait: bool) -> io::Result<usize> {
        self.reply.clear();
        self.received = None;
        let patience = if wait {
            STOP_LOOK
        } else {
            Duration::from_millis(1)
        };
        socket.set_read_timeout(Some(patience))?;
        self.received = Some(socket.recv_from(&mut self.octets)?);
        Ok(1)
    }

    /// The datagram.
    pub fn datagram(&self, _index: usize) -> Datagram<'_> {
        let (length, peer) = self.received.expect("asked for what was received");
        Datagram {
            octets: &self.octets[..length.min(DATAGRAM_MAX)],
            is_cut: length > DATAGRAM_MAX,
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            asked: None,
        }
    }

    /// Nobody tells us.
    pub fn kernel_drops(&self) -> u32 {
        0
    }

    /// Queues the reply.
    pub fn reply(&mut self, _index: usize, octets: &[u8]) {
        self.reply.extend_from_slice(octets);
    }

    /// How to reply later.
    pub fn return_path(&self, _index: usize) -> ReturnPath {
        let (_, peer) = self.received.expect("asked for what was received");
        ReturnPath { peer }
    }

    /// Sends the queued reply; returns how many are lost.
    pub fn send(&mut self, socket: &UdpSocket) -> usize {
        match self.received {
            Some((_, peer)) if !self.reply.is_empty() => {
                usize::from(socket.send_to(&self.reply, peer).is_err())
            }
            _ => 0,
        }
    }

    /// The same; hands back a reply that found no room.
    pub fn send_what_fits(
        &mut self,
        socket: &UdpSocket,
        mut unsent: impl FnMut(ReturnPath, &[u8]),
    ) -> usize {
        if self.received.is_none() || self.reply.is_empty() {
            return 0;
        }
        let path = self.return_path(0);
        match path.send(socket, &self.reply) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                unsent(path, &self.reply);
                0
            }
            sent => usize::from(sent.is_err()),
        }
    }
}

/// How to reply to a datagram that is gone.
#[derive(Clone, Copy)]
pub struct ReturnPath {
    peer: SocketAddr,
}

impl ReturnPath {
    /// Sends one reply.
    pub fn send(&self, socket: &UdpSocket, octets: &[u8]) -> io::Result<()> {
        socket.send_to(octets, self.peer).map(|_| ())
    }
}

/// Sends replies whose datagrams are gone; returns how many are lost. Those that found no room are handed back.
pub fn send_late(
    socket: &UdpSocket,
    replies: &[(ReturnPath, Vec<u8>)],
    _may_wait: bool,
    mut unsent: impl FnMut(&(ReturnPath, Vec<u8>)),
) -> usize {
    let mut lost = 0;
    for reply in replies {
        match reply.0.send(socket, &reply.1) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => unsent(reply),
            sent => lost += usize::from(sent.is_err()),
        }
    }
    lost
}

/// Sends datagrams over a connected socket; returns how many of them the kernel took.
pub fn send_some<'d>(
    socket: &UdpSocket,
    datagrams: impl Iterator<Item = &'d [u8]>,
) -> io::Result<usize> {
    let mut count = 0;
    for octets in datagrams.take(SOME) {
        match socket.send(octets) {
            Err(error) if count == 0 => return Err(error),
            Err(_) => break,
            Ok(_) => count += 1,
        }
    }
    Ok(count)
}

/// Room for what a connected socket receives.
#[derive(Default)]
pub struct Inbox {
    octets: Vec<u8>,
    length: usize,
}

impl Inbox {
    /// Takes one datagram of a socket that does not block, if there is one.
    pub fn receive(&mut self, socket: &UdpSocket, _count: usize) -> io::Result<usize> {
        self.octets.resize(1 << 16, 0);
        self.length = socket.recv(&mut self.octets)?;
        Ok(1)
    }

    /// The datagram.
    pub fn datagram(&self, _index: usize) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// Sizes the receive queue; returns the octets it got.
pub fn prepare(socket: &socket2::Socket, _address: &SocketAddr, queue: usize) -> io::Result<usize> {
    socket.set_recv_buffer_size(queue)?;
    socket.recv_buffer_size()
}

/// Nobody tells us.
pub fn queue_fill(_socket: &UdpSocket) -> io::Result<QueueFill> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Leaves the limit of open files as it is.
pub fn raise_file_limit() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twin_takes_a_datagram_and_replies_to_its_sender() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        prepare(
            &server.try_clone().unwrap().into(),
            &server.local_addr().unwrap(),
            1 << 16,
        )
        .unwrap();
        let mut batch = Batch::new();
        assert!(batch.receive(&server, false).is_err());
        client
            .send_to(b"ping", server.local_addr().unwrap())
            .unwrap();
        assert_eq!(batch.receive(&server, true).unwrap(), 1);
        assert_eq!(batch.datagram(0).octets, b"ping");
        assert_eq!(batch.datagram(0).peer, client.local_addr().unwrap());
        assert!(!batch.datagram(0).is_cut && batch.datagram(0).asked.is_none());
        batch.reply(0, b"pong");
        assert_eq!((batch.send(&server), batch.kernel_drops()), (0, 0));
        batch.return_path(0).send(&server, b"later").unwrap();
        let mut octets = [0; 16];
        assert_eq!(client.recv(&mut octets).unwrap(), 4);
        assert_eq!(client.recv(&mut octets).unwrap(), 5);
    }
}
