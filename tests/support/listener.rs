//! A listener with a plugin whose answers depend on the first label, and the few octets that clients need.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "it is part of a test, not of a library"
)]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fingerpost::chain::Chain;
use fingerpost::chain::exchange::Exchange;
use fingerpost::chain::plugin::{After, Answer, Messages, Next, Plugin, Step, Verdict};
use fingerpost::net::limit::Limits;
use fingerpost::net::listen::{BindError, Listener, Options};
use fingerpost::server::process::Process;
use fingerpost::telemetry::metrics::ServerMetrics;
use fingerpost::wire::code::{Class, RecordType};
use fingerpost::wire::name::Name;
use fingerpost::wire::query::flag;
use fingerpost::wire::record::Records;
use fingerpost::wire::writer::Owner;
use fingerpost::zone::Zones;
use fingerpost::zone::block::ServerBlock;
use tokio::sync::Semaphore;

pub const A: RecordType = RecordType::A;
pub const AAAA: RecordType = RecordType::AAAA;
pub const TXT: RecordType = RecordType::TXT;
pub const NOERROR: u8 = 0;
pub const FORMERR: u8 = 1;
pub const SERVFAIL: u8 = 2;
pub const REFUSED: u8 = 5;

/// Answers from memory, later, or not at all, as the first label says. What waits in `here.test` does so on the thread that
/// serves, as far as it can.
struct Actor {
    /// `wait` waits for one of these, `release` gives one.
    gate: Arc<Semaphore>,
    /// How many messages of `pages` and `torn` were made.
    made: Arc<AtomicUsize>,
}

/// Messages that follow a first one: so many, and then the end or none.
#[derive(Debug)]
struct Pages {
    question: Vec<u8>,
    left: usize,
    torn: bool,
    made: Arc<AtomicUsize>,
}

impl Messages for Pages {
    fn next(&mut self, out: &mut Vec<u8>) -> Next {
        if self.left == 0 {
            return Next::GivenUp;
        }
        self.left -= 1;
        out.extend_from_slice(&self.question);
        out.resize(PAGE_LEN, 0);
        self.made.fetch_add(1, Ordering::SeqCst);
        match self.left {
            0 if !self.torn => Next::Last,
            _ => Next::More,
        }
    }
}

/// Octets of each of them.
pub const PAGE_LEN: usize = 40_000;

/// Messages that follow the first of `pages`: more than the kernel keeps for a client that does not read.
pub const PAGES: usize = 1000;

impl Plugin for Actor {
    fn name(&self) -> &'static str {
        "actor"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let mut labels = exchange.query.qname().labels();
        let (label, place) = (labels.next().unwrap_or(b""), labels.next());
        let defer = match place {
            Some(b"here" | b"leaves") => Step::DeferHere,
            _ => Step::Defer,
        };
        let arrival = *exchange.arrival();
        let address = match label {
            b"panic" => panic!("asked to"),
            b"panic-later" => return defer(Box::pin(async { panic!("asked to, later") })),
            b"wait" => {
                let gate = Arc::clone(&self.gate);
                let reply = empty_reply(exchange);
                return defer(Box::pin(async move {
                    gate.acquire().await.expect("never closed").forget();
                    reply
                }));
            }
            b"soon" => {
                let reply = empty_reply(exchange);
                return defer(Box::pin(async move {
                    tokio::task::yield_now().await;
                    reply
                }));
            }
            b"pages" | b"torn" => {
                let Verdict::Reply(mut answer) = empty_reply(exchange) else {
                    unreachable!("it is a reply");
                };
                let torn = label == b"torn";
                answer.rest = Some(Box::new(Pages {
                    question: answer.message.clone(),
                    left: if torn { 2 } else { PAGES },
                    torn,
                    made: Arc::clone(&self.made),
                }));
                let reply = Verdict::Reply(answer);
                return defer(Box::pin(async move { reply }));
            }
            b"big" => {
                for _ in 0..400 {
                    exchange
                        .reply
                        .txt(Owner::Question, Class::IN, 5, &[&[b'x'; 100]]);
                }
                return Step::Answered;
            }
            b"release" => {
                self.gate.add_permits(1);
                Ipv4Addr::LOCALHOST.into()
            }
            b"local" => arrival.local.ip(),
            b"client" => arrival.client.ip(),
            _ => Ipv4Addr::new(10, 96, 1, 1).into(),
        };
        exchange.reply.address(Owner::Question, 5, address);
        Step::Answered
    }
}

/// Stands above, and keeps replies from `leaves.test` for a while, which is nothing for the thread that serves.
struct Keeper;

impl Plugin for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        if exchange.query.qname().labels().nth(1) != Some(b"leaves") {
            return After::Done;
        }
        After::Defer(Box::pin(async {
            let worker = tokio::task::try_id().is_none();
            assert!(!worker, "this is for the runtime");
            Verdict::Next
        }))
    }
}

fn empty_reply(exchange: &Exchange<'_>) -> Verdict {
    let query = exchange.query;
    let mut message = query.message()[..12 + query.question_octets().len()].to_vec();
    message[2] |= flag::QR;
    message[6..12].fill(0);
    Verdict::Reply(Answer {
        message,
        ..Answer::default()
    })
}

/// A listener on its own runtime.
pub struct Server {
    process: Arc<Process>,
    listener: Option<Listener>,
    gate: Arc<Semaphore>,
    made: Arc<AtomicUsize>,
    // Last, so that everything else is gone when it ends.
    runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Bound and serving.
    pub fn start(address: &str, limits: Limits) -> Self {
        let mut server = Self::open(address, limits);
        server.serve();
        server
    }

    /// Bound only.
    pub fn open(address: &str, limits: Limits) -> Self {
        Self::try_open(address.parse().unwrap(), limits).expect("the address is free")
    }

    pub fn try_open(address: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let gate = Arc::new(Semaphore::new(0));
        let made = Arc::new(AtomicUsize::new(0));
        let block = ServerBlock {
            origin: Name::from_text("test.").unwrap(),
            server: "dns://:53".into(),
            chain: Chain::new(vec![
                Arc::new(Keeper),
                Arc::new(Actor {
                    gate: Arc::clone(&gate),
                    made: Arc::clone(&made),
                }),
            ]),
        };
        let zones = zones_of(&process, vec![Arc::new(block)]);
        let options = Options {
            workers: NonZeroUsize::new(2).unwrap(),
            limits,
        };
        let listener = Listener::open(address, Arc::new(ArcSwap::new(zones)), &options, &process)?;
        Ok(Self {
            process,
            listener: Some(listener),
            gate,
            made,
            runtime,
        })
    }

    pub fn serve(&mut self) {
        self.listener
            .as_mut()
            .expect("it runs")
            .start()
            .expect("threads can be started");
    }

    pub fn port(&self) -> u16 {
        self.listener.as_ref().expect("it runs").address().port()
    }

    pub fn gate(&self) -> Arc<Semaphore> {
        Arc::clone(&self.gate)
    }

    /// Messages of `pages` and `torn` made so far.
    pub fn pages_made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    pub fn swap_for_no_zones(&self) {
        let listener = self.listener.as_ref().expect("it runs");
        listener.zones().store(zones_of(&self.process, Vec::new()));
    }

    pub fn stop(mut self) {
        let listener = self.listener.take().expect("it runs");
        self.runtime.block_on(listener.stop());
    }

    pub fn watch(&self) {
        self.listener.as_ref().expect("it runs").watch();
    }

    pub fn heard(&self) -> (u64, Option<IpAddr>) {
        self.listener.as_ref().expect("it runs").heard()
    }

    pub fn send_away(&self) {
        self.listener.as_ref().expect("it runs").send_away();
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> i64 {
        self.sum(name, "")
    }

    /// Connections closed because `wait` took too long.
    pub fn timeouts(&self, wait: &str) -> i64 {
        self.sum("fingerpost_tcp_timeouts_total", wait)
    }

    fn sum(&self, name: &str, label: &str) -> i64 {
        let families = self.process.metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], |family| family.get_metric());
        let sum: f64 = metrics
            .iter()
            .filter(|metric| {
                label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
            })
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum();
        sum as i64
    }

    pub fn wait_for(&self, name: &str, value: i64) {
        self.wait_while(|server| server.metric(name) != value);
    }

    pub fn wait_while(&self, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while condition(self) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "what was waited for did not happen"
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn zones_of(process: &Process, blocks: Vec<Arc<ServerBlock>>) -> Arc<Zones> {
    let metrics = Arc::new(ServerMetrics::new(&process.metrics, "dns://:53"));
    Arc::new(Zones::new(blocks, metrics))
}

/// A query with RD.
pub fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut octets = id.to_be_bytes().to_vec();
    octets.extend_from_slice(&[flag::RD, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    octets.extend_from_slice(Name::from_text(name).unwrap().as_ref().as_wire());
    octets.extend_from_slice(&kind.0.to_be_bytes());
    octets.extend_from_slice(&Class::IN.0.to_be_bytes());
    octets
}

pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut octets = (message.len() as u16).to_be_bytes().to_vec();
    octets.extend_from_slice(message);
    octets
}

pub fn ask(client: &UdpSocket, query: &[u8]) -> Vec<u8> {
    client.send(query).unwrap();
    let mut reply = [0; 4096];
    let length = client.recv(&mut reply).expect("a reply");
    reply[..length].to_vec()
}

pub fn read_reply(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a reply");
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).expect("all of a reply");
    reply
}

pub fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub fn rcode(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

/// The question section: everything up to the fourth octet behind the name.
pub fn question_of(message: &[u8]) -> Vec<u8> {
    let end = fingerpost::wire::record::skip_name(message, 12).unwrap() + 4;
    message[12..end].to_vec()
}

/// The address in the first record of the answer.
pub fn answer_address(reply: &[u8]) -> String {
    let (_, record) = Records::of_message(reply)
        .unwrap()
        .next()
        .expect("an answer")
        .unwrap();
    let address: IpAddr = match record.ipv4() {
        Some(address) => address.into(),
        None => record.ipv6().unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
    };
    address.to_string()
}
