//! The loop: send what is due, read what has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::load::client::Client;
use crate::load::report::{Counts, Outcome};
use crate::load::{Protocol, Questions};

/// Queries sent before we look for replies again.
const BURST: usize = 32;

/// What is later than this is not sent any more: a generator that lags must not make up for it by a flood.
const LATE_MAX: Duration = Duration::from_millis(20);

/// The thread sleeps only if nothing is due for so long: the clock of the poll counts milliseconds.
const IDLE: Duration = Duration::from_millis(2);

/// What to send where.
pub struct Plan {
    /// IPv4, for the clients have addresses of IPv4's loopback.
    pub server: SocketAddr,
    pub duration: Duration,
    /// Set by another thread to end it sooner.
    pub is_over: Option<Arc<AtomicBool>>,
    /// A reply after this is none.
    pub patience: Duration,
    pub streams: Vec<Stream>,
}

impl Plan {
    fn is_told_to_end(&self) -> bool {
        let told = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        self.is_over.as_ref().is_some_and(told)
    }
}

/// Clients that do the same.
pub struct Stream {
    /// Asked in place of the plan's, if it is another one.
    pub server: Option<SocketAddr>,
    pub name: String,
    /// A client for each.
    pub addresses: Vec<Ipv4Addr>,
    /// Queries a second of each client.
    pub rate: f64,
    pub questions: Questions,
    pub protocol: Protocol,
    /// Without, replies are left to the kernel, which drops them: a client that only sends costs least.
    pub is_read: bool,
}

/// When a client sends next, and which it is.
type Due = Reverse<(Duration, usize)>;

struct Sender {
    client: Client,
    stream: usize,
    interval: Duration,
}

/// Runs all streams side by side on this thread.
pub fn run(plan: &Plan) -> Result<Vec<Outcome>, String> {
    let failed = |error: std::io::Error| format!("load: {error}");
    let mut poll = Poll::new().map_err(failed)?;
    let (mut senders, mut due) = (Vec::new(), BinaryHeap::new());
    for (number, stream) in plan.streams.iter().enumerate() {
        open(plan, number, stream, &poll, &mut senders, &mut due).map_err(failed)?;
    }
    let mut counts = vec![Counts::default(); plan.streams.len()];
    let mut events = Events::with_capacity(1024);
    let (mut message, mut number) = (Vec::new(), 0);
    let start = Instant::now();
    let mut duration = plan.duration;
    loop {
        let now = start.elapsed();
        if now < duration && plan.is_told_to_end() {
            duration = now;
        }
        let is_over = now >= duration;
        if is_over
            && (now >= duration + plan.patience
                || senders.iter().all(|one: &Sender| one.client.is_idle()))
        {
            break;
        }
        for _ in 0..if is_over { 0 } else { BURST } {
            let Some(mut next) = due.peek_mut() else {
                break;
            };
            let now = start.elapsed();
            let Reverse((at, index)) = *next;
            if at > now {
                break;
            }
            let sender = &mut senders[index];
            let counts = &mut counts[sender.stream];
            if now - at > LATE_MAX {
                counts.skipped +=
                    ((now - at).as_nanos() / sender.interval.as_nanos().max(1)) as u64;
                *next = Reverse((now + sender.interval, index));
                continue;
            }
            *next = Reverse((at + sender.interval, index));
            let stream = &plan.streams[sender.stream];
            stream
                .questions
                .write(number, sender.client.next_id(), &mut message);
            number += 1;
            sender.client.send(&message, now, stream.is_read, counts);
        }
        let is_idle = due
            .peek()
            .is_none_or(|Reverse((at, _))| *at > start.elapsed() + IDLE);
        let wait = if is_over || is_idle {
            Duration::from_millis(1)
        } else {
            Duration::ZERO
        };
        match poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(failed(error));
            }
            _ => {}
        }
        for event in &events {
            let sender = &mut senders[event.token().0];
            let counts = &mut counts[sender.stream];
            sender
                .client
                .read(|| start.elapsed(), plan.patience, counts);
        }
    }
    Ok(outcomes(plan, duration, senders, counts))
}

fn open(
    plan: &Plan,
    number: usize,
    stream: &Stream,
    poll: &Poll,
    senders: &mut Vec<Sender>,
    due: &mut BinaryHeap<Due>,
) -> std::io::Result<()> {
    let interval = Duration::from_secs_f64(1.0 / stream.rate);
    let server = stream.server.unwrap_or(plan.server);
    let waiting = (stream.rate * plan.patience.as_secs_f64()) as usize;
    for (place, &address) in stream.addresses.iter().enumerate() {
        let mut client = Client::new(address, server, stream.protocol, waiting)?;
        if !stream.is_read {
            client.keep_nothing()?;
        } else {
            client.register(poll.registry(), Token(senders.len()))?;
        }
        // One after the other, not all at once.
        let first = interval.mul_f64(place as f64 / stream.addresses.len() as f64);
        due.push(Reverse((first, senders.len())));
        senders.push(Sender {
            client,
            stream: number,
            interval,
        });
    }
    Ok(())
}

fn outcomes(
    plan: &Plan,
    elapsed: Duration,
    mut senders: Vec<Sender>,
    mut counts: Vec<Counts>,
) -> Vec<Outcome> {
    let table = udp_table();
    let mut own_drops = vec![0; plan.streams.len()];
    for sender in &mut senders {
        if !plan.streams[sender.stream].is_read {
            continue;
        }
        sender.client.give_up(&mut counts[sender.stream]);
        own_drops[sender.stream] += kernel_drops(&table, &sender.client.name_in_proc());
    }
    let both = plan.streams.iter().zip(counts).zip(own_drops);
    both.map(|((stream, counts), own_drops)| Outcome {
        name: stream.name.clone(),
        elapsed,
        is_read: stream.is_read,
        counts,
        own_drops,
    })
    .collect()
}

/// The kernel's list of UDP sockets.
pub fn udp_table() -> String {
    std::fs::read_to_string("/proc/net/udp").unwrap_or_default()
}

/// Datagrams that the kernel had no room for, of the socket with this name in the list.
pub fn kernel_drops(table: &str, name: &str) -> u64 {
    let line = table
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(name));
    let drops = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
    drops.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::addresses;
    use std::net::UdpSocket;

    /// Answers all but every tenth query of each client, until it is told to stop.
    fn forgetful() -> SocketAddr {
        let server = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        let address = server.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, client)) = server.recv_from(&mut message) {
                message[2] |= 0x80;
                if message[1] % 10 != 3 {
                    let _ = server.send_to(&message[..length], client);
                }
            }
        });
        address
    }

    fn plan(server: SocketAddr, protocol: Protocol) -> Plan {
        Plan {
            server,
            duration: Duration::from_millis(500),
            is_over: None,
            patience: Duration::from_millis(500),
            streams: vec![Stream {
                server: None,
                name: "test".into(),
                addresses: addresses(Ipv4Addr::new(127, 0, 1, 1), 5),
                rate: 40.0,
                questions: Questions::of_names(&["u%.example"]).expect("a name"),
                protocol,
                is_read: true,
            }],
        }
    }

    #[test]
    fn losses_are_known_by_their_ids() {
        let plan = plan(forgetful(), Protocol::Udp);
        let outcome = run(&plan).expect("loopback is there").remove(0);
        let counts = &outcome.counts;
        assert_eq!(counts.sent, counts.lost + counts.times.total());
        // IDs 3 and 13, unless the machine was too busy to send them.
        assert!((1..=10).contains(&outcome.lost_by_server()), "{outcome}");
        assert_eq!((counts.strange, outcome.own_drops), (0, 0), "{outcome}");
    }

    #[test]
    fn replies_over_tcp_are_told_apart_in_the_stream() {
        use std::io::{Read, Write};
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let plan = plan(server.local_addr().expect("it is bound"), Protocol::Tcp);
        std::thread::spawn(move || {
            for mut stream in server.incoming().flatten() {
                // What came is given back in pieces that end anywhere.
                std::thread::spawn(move || {
                    let mut octets = [0; 7];
                    while let Ok(length @ 1..) = stream.read(&mut octets) {
                        let _ = stream.write_all(&octets[..length]);
                    }
                });
            }
        });
        let outcome = run(&plan).expect("loopback is there").remove(0);
        let counts = &outcome.counts;
        assert!(counts.sent > 0 && counts.strange == 0, "{outcome}");
        assert_eq!(
            (counts.lost, counts.sent),
            (0, counts.times.total()),
            "{outcome}"
        );
    }
}
