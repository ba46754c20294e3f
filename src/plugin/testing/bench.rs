//! A server block of several plugins in one process, questions to it with every knob, and replies as hickory-proto
//! reads them. May wait, unlike [`super::ask`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::chain::Chain;
use crate::chain::deferred::Outcome;
use crate::chain::exchange::{Arrival, Exchange, Protocol};
use crate::chain::plugin::{Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::testing::{faults, keys, parse};
use crate::server::assembly::{Assembly, Plan};
use crate::server::process::Process;
use crate::telemetry::metrics::ServerMetrics;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::Name;
use crate::wire::query::flag;
use crate::wire::record::{Records, Section};
use crate::zone::Zones;
use crate::zone::block::ServerBlock;

/// The only fault of `text`: its message, and the words that it points at.
pub(crate) fn fault(spec: &Spec, text: &str) -> String {
    let all = faults(spec, text);
    assert_eq!(all.len(), 1, "one fault in {text:?}: {all:?}");
    let fault = &all[0];
    fault.strip_prefix("error: ").unwrap_or(fault).to_owned()
}

/// The runtime of all tests: nothing is ever stopped in it.
pub(crate) fn runtime() -> tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime")
        })
        .handle()
        .clone()
}

/// A server with one block for the root.
pub(crate) struct Bench {
    pub(crate) process: Arc<Process>,
    pub(crate) plan: Plan,
    pub(crate) zones: Arc<Zones>,
}

/// One link of a bench's chain.
pub(crate) enum Link {
    /// A plugin of the registry, with its directives.
    Corefile(&'static Spec, &'static str),
    /// Any plugin.
    Made(Arc<dyn Plugin>),
}

impl Bench {
    /// A block of these plugins, in this order, in a process of its own.
    pub(crate) fn new(links: Vec<Link>) -> Self {
        Self::within(&Process::new(runtime()), 1, links)
    }

    /// The same in a process that is there already; `fingerprint` stands for what is configured.
    pub(crate) fn within(process: &Arc<Process>, fingerprint: u64, links: Vec<Link>) -> Self {
        let mut plan = Plan::default();
        let server: Arc<str> = "dns://:53".into();
        let keys = keys(&["."]);
        let mut chain: Vec<Arc<dyn Plugin>> = Vec::new();
        for link in links {
            match link {
                Link::Made(plugin) => chain.push(plugin),
                Link::Corefile(spec, text) => {
                    let (config, faults) = parse(spec, text);
                    assert!(faults.is_empty(), "{faults:?}");
                    let config = config.expect("it has no faults");
                    config.demand(&mut plan.demands);
                    let mut assembly = Assembly {
                        process,
                        keys: &keys,
                        server: &server,
                        root: Path::new(""),
                        fingerprint_below: fingerprint,
                        generation: &mut plan,
                    };
                    chain.extend(config.build(&mut assembly).expect("it can be built"));
                }
            }
        }
        let metrics = Arc::new(ServerMetrics::new(&process.metrics, &server));
        let block = ServerBlock {
            origin: Name::root(),
            server,
            chain: Chain::new(chain),
        };
        Self {
            process: Arc::clone(process),
            plan,
            zones: Arc::new(Zones::new(vec![Arc::new(block)], metrics)),
        }
    }

    /// Asks over UDP, without EDNS.
    pub(crate) fn ask(&self, qname: &str, qtype: RecordType) -> Reply {
        self.send(&Ask::new(qname, qtype))
    }

    /// Asks; the query must not be dropped.
    pub(crate) fn send(&self, ask: &Ask) -> Reply {
        self.try_send(ask).expect("it is answered")
    }

    /// Asks, and waits if the chain does; none if the query was dropped.
    pub(crate) fn try_send(&self, ask: &Ask) -> Option<Reply> {
        let mut out = Vec::new();
        match self.zones.answer(&ask.octets(), ask.arrival, &mut out) {
            Outcome::Reply => Some(Reply { octets: out }),
            Outcome::Drop => None,
            Outcome::Deferred(deferred) => runtime()
                .block_on(deferred.finish())
                .map(|octets| Reply { octets }),
        }
    }

    /// Every sample of the metric families that start with `prefix`, one a line: `name{label="value"} 1`.
    pub(crate) fn metrics(&self, prefix: &str) -> Vec<String> {
        let families = self.process.metrics.registry().gather();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .expect("metrics are text");
        text.lines()
            .filter(|line| line.starts_with(prefix))
            .map(str::to_owned)
            .collect()
    }
}

/// One query.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) qname: String,
    pub(crate) qtype: RecordType,
    pub(crate) qclass: u16,
    /// Third and fourth header octets.
    pub(crate) flags: [u8; 2],
    /// Payload size and DO.
    pub(crate) edns: Option<(u16, bool)>,
    pub(crate) arrival: Arrival,
}

impl Ask {
    pub(crate) fn new(qname: &str, qtype: RecordType) -> Self {
        Self {
            qname: qname.to_owned(),
            qtype,
            qclass: 1,
            flags: [flag::RD, 0],
            edns: None,
            arrival: Arrival {
                client: SocketAddr::from(([192, 0, 2, 7], 4444)),
                local: SocketAddr::from((Ipv4Addr::LOCALHOST, 53)),
                protocol: Protocol::Udp,
                received: Instant::now(),
                alias_depth: 0,
                is_crowded: false,
            },
        }
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut octets = vec![0x12, 0x34, self.flags[0], self.flags[1]];
        octets.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        let qname = Name::from_text(&self.qname).expect("a name");
        octets.extend_from_slice(qname.as_ref().as_wire());
        octets.extend_from_slice(&self.qtype.0.to_be_bytes());
        octets.extend_from_slice(&self.qclass.to_be_bytes());
        if let Some((size, dnssec_ok)) = self.edns {
            octets.extend_from_slice(&[0, 0, 41]);
            octets.extend_from_slice(&size.to_be_bytes());
            octets.extend_from_slice(&[0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
        }
        octets
    }
}

/// One reply.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) octets: Vec<u8>,
}

impl Reply {
    pub(crate) fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.octets[3] & 0x0f))
    }

    pub(crate) fn has_aa(&self) -> bool {
        self.octets[2] & flag::AA != 0
    }

    pub(crate) fn has_ad(&self) -> bool {
        self.octets[3] & flag::AD != 0
    }

    pub(crate) fn has_tc(&self) -> bool {
        self.octets[2] & flag::TC != 0
    }

    /// Every record but OPT, one a line: `answer web.example.org. 30 IN A 10.0.0.1`. hickory-proto reads them.
    pub(crate) fn records(&self) -> Vec<String> {
        let message = hickory_proto::op::Message::from_vec(&self.octets).expect("a message");
        let section = |name: &'static str, records: &[hickory_proto::rr::Record]| {
            records
                .iter()
                .map(|record| format!("{name} {record}"))
                .collect::<Vec<_>>()
        };
        [
            section("answer", &message.answers),
            section("authority", &message.authorities),
            section("additional", &message.additionals),
        ]
        .concat()
    }

    /// UDP payload that its OPT advertises.
    pub(crate) fn payload_size(&self) -> Option<u16> {
        Records::of_message(&self.octets)
            .expect("a message")
            .flatten()
            .find(|(section, record)| {
                *section == Section::Additional && record.record_type == RecordType::OPT
            })
            .map(|(_, record)| record.class.0)
    }
}

type Script = Box<dyn Fn(&mut Exchange<'_>, usize) -> Step + Send + Sync>;

/// The last link: does what its script says, given how often it was asked before.
pub(crate) struct Upstream {
    script: Script,
    asked: AtomicUsize,
}

impl Upstream {
    pub(crate) fn new(
        script: impl Fn(&mut Exchange<'_>, usize) -> Step + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            asked: AtomicUsize::new(0),
        })
    }

    /// Answers.
    pub(crate) fn answering(
        script: impl Fn(&mut Exchange<'_>, usize) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::new(move |exchange, before| {
            script(exchange, before);
            Step::Answered
        })
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Plugin for Upstream {
    fn name(&self) -> &'static str {
        "upstream"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let before = self.asked.fetch_add(1, Ordering::SeqCst);
        (self.script)(exchange, before)
    }
}

/// For what another thread does. Gives up after a while, so that a mistake fails the test instead of hanging it.
pub(crate) fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it never happened"
        );
        runtime().block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
    }
}
