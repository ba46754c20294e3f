//! One client: a socket on an address of its own, and what it still waits for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::load::Protocol;
use crate::load::report::{Counts, Lost};

/// Queries that a client may wait for at once; an ID is free again when the oldest of so many is given up.
const WAITING_MAX: usize = 1 << 16;

/// A query that has no reply yet.
#[derive(Clone, Copy)]
struct Waiting {
    id: u16,
    /// Since the start of the run.
    sent: Duration,
}

impl Waiting {
    fn lost_by(self, client: SocketAddrV4) -> Lost {
        Lost {
            client,
            id: self.id,
            sent: self.sent,
        }
    }
}

/// Sends queries, and knows its replies by their IDs.
pub struct Client {
    address: SocketAddrV4,
    socket: Connection,
    waiting: Vec<Option<Waiting>>,
    next_id: u16,
}

enum Connection {
    Udp(UdpSocket),
    Tcp {
        stream: TcpStream,
        input: Vec<u8>,
        output: Vec<u8>,
    },
}

impl Client {
    /// Connected to the server; `waiting` queries fit at least.
    pub fn new(
        address: Ipv4Addr,
        server: SocketAddr,
        protocol: Protocol,
        waiting: usize,
    ) -> io::Result<Self> {
        let kind = match protocol {
            Protocol::Udp => Type::DGRAM,
            Protocol::Tcp => Type::STREAM,
        };
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.bind(&SocketAddrV4::new(address, 0).into())?;
        socket.connect(&server.into())?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?.as_socket_ipv4();
        let address = local.unwrap_or(SocketAddrV4::new(address, 0));
        let socket = match protocol {
            Protocol::Udp => Connection::Udp(UdpSocket::from_std(socket.into())),
            Protocol::Tcp => {
                socket.set_tcp_nodelay(true)?;
                Connection::Tcp {
                    stream: TcpStream::from_std(socket.into()),
                    input: Vec::new(),
                    output: Vec::new(),
                }
            }
        };
        let waiting = waiting.next_power_of_two().clamp(16, WAITING_MAX);
        Ok(Self {
            address,
            socket,
            waiting: vec![None; waiting],
            next_id: 0,
        })
    }

    /// For a client that reads no replies: ten thousand of them must not fill what the kernel has for all sockets.
    pub fn keep_nothing(&self) -> io::Result<()> {
        match &self.socket {
            Connection::Udp(socket) => socket2::SockRef::from(socket).set_recv_buffer_size(1),
            Connection::Tcp { .. } => Ok(()),
        }
    }

    /// Address and port as `/proc/net/udp` writes them.
    pub fn name_in_proc(&self) -> String {
        let address = u32::from_le_bytes(self.address.ip().octets());
        format!("{address:08X}:{:04X}", self.address.port())
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match &mut self.socket {
            Connection::Udp(socket) => socket.register(registry, token, Interest::READABLE),
            Connection::Tcp { stream, .. } => stream.register(registry, token, both),
        }
    }

    /// The ID of the next query.
    pub fn next_id(&self) -> u16 {
        self.next_id
    }

    /// Sends the query, which has that ID. What has waited for longest is given up if there is no room.
    pub fn send(&mut self, message: &[u8], now: Duration, is_read: bool, counts: &mut Counts) {
        let id = self.next_id;
        let sent = match &mut self.socket {
            Connection::Udp(socket) => socket.send(message).map(|_| ()),
            Connection::Tcp { stream, output, .. } => {
                let length = u16::try_from(message.len()).expect("queries are short");
                output.extend_from_slice(&length.to_be_bytes());
                output.extend_from_slice(message);
                flush(stream, output)
            }
        };
        // A port that nobody listens on any more is reported by the send after the one that it concerns.
        if sent.is_err() {
            counts.send_failures += 1;
            return;
        }
        counts.sent += 1;
        self.next_id = id.wrapping_add(1);
        if is_read {
            let place = usize::from(id) & (self.waiting.len() - 1);
            let before = self.waiting[place].replace(Waiting { id, sent: now });
            if let Some(before) = before {
                counts.lose(before.lost_by(self.address));
            }
        }
    }

    /// Takes all replies that are there; how many there were.
    pub fn read(
        &mut self,
        elapsed: impl Fn() -> Duration,
        patience: Duration,
        counts: &mut Counts,
    ) -> usize {
        let mut buffer = [0; 4096];
        let mut taken = 0;
        loop {
            match &mut self.socket {
                Connection::Udp(socket) => match socket.recv(&mut buffer) {
                    Ok(length) => {
                        taken += 1;
                        let reply = &buffer[..length];
                        note(
                            &mut self.waiting,
                            self.address,
                            reply,
                            elapsed(),
                            patience,
                            counts,
                        );
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                    // Unreachable, say: it concerns a query that will count as lost.
                    Err(_) => {}
                },
                Connection::Tcp {
                    stream,
                    input,
                    output,
                } => {
                    let _ = flush(stream, output);
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return taken,
                        Ok(length) => input.extend_from_slice(&buffer[..length]),
                    }
                    while let [high, low, rest @ ..] = &input[..] {
                        let length = usize::from(u16::from_be_bytes([*high, *low]));
                        let Some(reply) = rest.get(..length) else {
                            break;
                        };
                        taken += 1;
                        note(
                            &mut self.waiting,
                            self.address,
                            reply,
                            elapsed(),
                            patience,
                            counts,
                        );
                        input.drain(..2 + length);
                    }
                }
            }
        }
    }

    /// Counts what is still waited for as lost.
    pub fn give_up(&mut self, counts: &mut Counts) {
        for waiting in self.waiting.iter_mut().filter_map(Option::take) {
            counts.lose(waiting.lost_by(self.address));
        }
    }

    /// Whether every query has its reply.
    pub fn is_idle(&self) -> bool {
        self.waiting.iter().all(Option::is_none)
    }
}

fn flush(stream: &mut TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    while !output.is_empty() {
        match stream.write(output) {
            Ok(length) => drop(output.drain(..length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn note(
    waiting: &mut [Option<Waiting>],
    address: SocketAddrV4,
    reply: &[u8],
    now: Duration,
    patience: Duration,
    counts: &mut Counts,
) {
    let [high, low, _, flags, ..] = *reply else {
        counts.strange += 1;
        return;
    };
    let id = u16::from_be_bytes([high, low]);
    let place = usize::from(id) & (waiting.len() - 1);
    match waiting[place].take_if(|waiting| waiting.id == id) {
        Some(waiting) => {
            let took = now.saturating_sub(waiting.sent);
            if took > patience {
                counts.lose(waiting.lost_by(address));
            } else {
                counts.answer(flags & 15, took);
            }
        }
        None => counts.strange += 1,
    }
}
