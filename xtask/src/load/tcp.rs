//! One server over TCP: a few connections with many queries on their way on each, or a connection for each query.
//!
//! Both keep so many queries on their way as were asked for. A pipelined connection writes as many new queries at once as
//! it has read replies, as a proxy does; a connection for one query is closed by the client once it has its reply.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::load::addresses;
use crate::load::fast::Run;
use crate::load::report::{Counts, Outcome};
use crate::load::waiting::Waiting;

/// Addresses that connections come from: each has a range of ports of its own, which are taken for a minute after use.
const SOURCES: u32 = 200;

/// How many connections, and who ends them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Use {
    /// So many, each with so many queries on their way.
    Pipelined { connections: usize, window: usize },
    /// So many at a time, each for one query.
    Once { connections: usize },
}

struct Connection {
    stream: TcpStream,
    waiting: Waiting,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Load<'r> {
    run: &'r Run<'r>,
    poll: Poll,
    sources: Vec<Ipv4Addr>,
    counts: Counts,
    start: Instant,
    /// Queries on their way on a connection.
    room: usize,
    /// The next query.
    number: u64,
    opened: usize,
    last_reply: Duration,
}

/// Runs it on this thread, which should have a core of its own.
pub fn tcp(run: &Run, how: Use) -> Result<Outcome, String> {
    let failed = |error: io::Error| format!("load: {error}");
    let (count, window, is_kept) = match how {
        Use::Pipelined {
            connections,
            window,
        } => (connections, window, true),
        Use::Once { connections } => (connections, 1, false),
    };
    let mut load = Load {
        run,
        poll: Poll::new().map_err(failed)?,
        sources: addresses(Ipv4Addr::new(127, 0, 2, 1), SOURCES),
        counts: Counts::default(),
        start: Instant::now(),
        room: window,
        number: 0,
        opened: 0,
        last_reply: Duration::ZERO,
    };
    let mut connections = Vec::new();
    for place in 0..count {
        let mut connection = load.open(place).map_err(failed)?;
        load.ask(&mut connection, window);
        connections.push(connection);
    }
    load.drive(&mut connections, is_kept).map_err(failed)?;
    Ok(Outcome {
        name: "clients".into(),
        elapsed: load.last_reply.max(Duration::from_nanos(1)),
        is_read: true,
        counts: load.counts,
        own_drops: 0,
    })
}

impl Load<'_> {
    /// Reads, and asks again for each reply, until all are answered or given up.
    fn drive(&mut self, connections: &mut [Connection], is_kept: bool) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut looked = Duration::ZERO;
        while self.number < self.run.queries
            || connections.iter().any(|one| one.waiting.count() > 0)
        {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(10)))?;
            for event in &events {
                let place = event.token().0;
                let connection = &mut connections[place];
                let (replies, is_open) = self.take(connection);
                if is_kept && is_open {
                    self.ask(connection, replies);
                } else if !is_kept && (replies > 0 || !is_open) {
                    self.renew(connection, place)?;
                } else if !is_open {
                    return Err(ErrorKind::ConnectionReset.into());
                }
            }
            let now = self.start.elapsed();
            if now > looked + Duration::from_millis(100) {
                looked = now;
                for (place, connection) in connections.iter_mut().enumerate() {
                    let before = self.counts.lost;
                    let patience = self.run.patience;
                    connection.waiting.give_up(now, patience, &mut self.counts);
                    if !is_kept && self.counts.lost > before {
                        self.renew(connection, place)?;
                    } else if is_kept {
                        let lost = usize::try_from(self.counts.lost - before).unwrap_or(0);
                        self.ask(connection, lost);
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, place: usize) -> io::Result<Connection> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let source = self.sources[self.opened % self.sources.len()];
        self.opened += 1;
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
        match socket.connect(&self.run.server.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            result => result?,
        }
        let mut stream = TcpStream::from_std(socket.into());
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(place), both)?;
        Ok(Connection {
            stream,
            waiting: Waiting::new(self.room),
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Ends the connection and opens the next one in its place, if there is more to ask.
    fn renew(&mut self, connection: &mut Connection, place: usize) -> io::Result<()> {
        let mut ended = std::mem::replace(&mut connection.waiting, Waiting::new(self.room));
        ended.give_up(Duration::MAX, Duration::ZERO, &mut self.counts);
        if self.number < self.run.queries {
            *connection = self.open(place)?;
            self.ask(connection, 1);
        }
        Ok(())
    }

    /// Sends so many queries more, or as many as are left.
    fn ask(&mut self, connection: &mut Connection, count: usize) {
        let mut message = Vec::new();
        for _ in 0..(count as u64).min(self.run.queries - self.number) {
            let id = connection.waiting.next_id();
            let number = self.run.first + self.number;
            self.run.questions.write(number, id, &mut message);
            let length = u16::try_from(message.len()).expect("queries are short");
            connection.output.extend_from_slice(&length.to_be_bytes());
            connection.output.extend_from_slice(&message);
            connection
                .waiting
                .start(self.start.elapsed(), &mut self.counts);
            self.number += 1;
        }
        let _ = connection.flush();
    }

    /// Takes what has come; how many replies, and whether the connection is still open.
    fn take(&mut self, connection: &mut Connection) -> (usize, bool) {
        let mut buffer = [0; 1 << 14];
        let mut is_open = connection.flush().is_ok();
        while is_open {
            match connection.stream.read(&mut buffer) {
                Ok(0) => is_open = false,
                Ok(length) => {
                    connection.input.extend_from_slice(&buffer[..length]);
                    // Less than there was room for: the next read would find nothing.
                    if length < buffer.len() {
                        break;
                    }
                }
                // Not connected: it is on its way.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    break;
                }
                Err(_) => is_open = false,
            }
        }
        let now = self.start.elapsed();
        let (mut replies, mut at) = (0, 0);
        while let Some([high, low]) = connection.input[at..].first_chunk() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(reply) = connection.input[at + 2..].get(..length) else {
                break;
            };
            connection.waiting.note(reply, now, &mut self.counts);
            (replies, at) = (replies + 1, at + 2 + length);
            self.last_reply = now;
        }
        connection.input.drain(..at);
        (replies, is_open)
    }
}

impl Connection {
    /// Writes what it can; what is left goes when the socket says so.
    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Questions;
    use std::net::TcpListener;

    /// Gives back what came, in pieces that end anywhere; without `keep`, a second query ends the connection.
    fn server(keep: bool) -> SocketAddrV4 {
        let server = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = server.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            for mut stream in server.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut octets, mut seen) = ([0; 7], 0);
                    while let Ok(length @ 1..) = stream.read(&mut octets) {
                        seen += length;
                        let _ = stream.write_all(&octets[..length]);
                        if !keep && seen > 60 {
                            return;
                        }
                    }
                });
            }
        });
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    fn ask(keep: bool, how: Use) -> Outcome {
        let questions = Questions::of_names(&["u%.example"]).expect("a name");
        let run = Run {
            server: server(keep),
            questions: &questions,
            pace: crate::load::fast::Pace::Window(0),
            queries: 500,
            first: 0,
            patience: Duration::from_secs(10),
        };
        tcp(&run, how).expect("loopback is there")
    }

    #[test]
    fn all_queries_of_a_pipeline_and_of_single_connections_are_answered() {
        let pipelined = Use::Pipelined {
            connections: 3,
            window: 20,
        };
        for (keep, how) in [(true, pipelined), (false, Use::Once { connections: 5 })] {
            let outcome = ask(keep, how);
            let counts = &outcome.counts;
            assert_eq!((counts.sent, counts.times.total()), (500, 500), "{outcome}");
            assert_eq!((counts.lost, counts.strange), (0, 0), "{outcome}");
        }
    }
}
