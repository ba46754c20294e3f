//! A Corefile's chains without listeners, and clients that are asked for nothing but a question.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "it is part of tests, each of which uses what it needs"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::Chain;
use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::corefile::parser::parse_text;
use fingerpost::plugin::BuildError;
use fingerpost::plugin::configure::configure;
use fingerpost::server::assembly::{Assembly, Plan, Upstreams};
use fingerpost::server::process::Process;
use fingerpost::telemetry::metrics::ServerMetrics;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::edns::option_code;
use fingerpost::wire::name::Name;
use fingerpost::wire::record::{Records, Section};
use fingerpost::zone::Zones;
use fingerpost::zone::block::ServerBlock;

/// A generation of server blocks.
pub struct Bed {
    pub process: Arc<Process>,
    pub zones: Arc<Zones>,
    pub plan: Plan,
}

impl Bed {
    /// Of a process of its own.
    pub fn new(corefile: &str) -> Self {
        Self::within(&Process::new(tokio::runtime::Handle::current()), corefile)
    }

    /// Another generation of a process.
    pub fn within(process: &Arc<Process>, corefile: &str) -> Self {
        Self::try_within(process, corefile).unwrap()
    }

    pub fn try_within(process: &Arc<Process>, corefile: &str) -> Result<Self, BuildError> {
        let (corefile, mut faults) = parse_text(corefile);
        let blocks = configure(&corefile, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let mut plan = Plan::default();
        let server: Arc<str> = "dns://:53".into();
        let mut served = Vec::new();
        for block in blocks {
            plan.upstreams = Upstreams::default();
            let mut links = Vec::new();
            for (_, config) in &block.plugins {
                links.extend(config.build(&mut Assembly {
                    process,
                    keys: &block.keys,
                    server: &server,
                    root: Path::new(""),
                    fingerprint_below: 0,
                    generation: &mut plan,
                })?);
            }
            served.push(Arc::new(ServerBlock {
                origin: block.keys[0].zone.clone(),
                server: Arc::clone(&server),
                chain: Chain::new(links),
            }));
        }
        let metrics = Arc::new(ServerMetrics::new(&process.metrics, "dns://:53"));
        Ok(Self {
            process: Arc::clone(process),
            zones: Arc::new(Zones::new(served, metrics)),
            plan,
        })
    }

    /// Asks for an A record over UDP.
    pub async fn ask(&self, qname: &str) -> Reply {
        ask(&self.zones, &query(qname, RecordType::A), Protocol::Udp).await
    }

    pub async fn ask_over_tcp(&self, qname: &str) -> Reply {
        ask(&self.zones, &query(qname, RecordType::A), Protocol::Tcp).await
    }

    pub async fn send(&self, message: &[u8]) -> Reply {
        ask(&self.zones, message, Protocol::Udp).await
    }

    /// The value of a series as it stands in the metrics: `name{label="value"}`; 0 if it does not.
    pub fn metric(&self, series: &str) -> u64 {
        let families = self.process.metrics.registry().gather();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .map_or(0, |value| value.parse().unwrap())
    }
}

/// Asks zones and waits.
pub async fn ask(zones: &Arc<Zones>, message: &[u8], protocol: Protocol) -> Reply {
    ask_as(zones, message, protocol, 0).await
}

/// Asks as a plugin asks for the target of an alias that stands this deep.
pub async fn ask_as(
    zones: &Arc<Zones>,
    message: &[u8],
    protocol: Protocol,
    alias_depth: u8,
) -> Reply {
    let arrival = Arrival {
        client: ([10, 240, 0, 1], 40212).into(),
        local: ([127, 0, 0, 1], 53).into(),
        protocol,
        received: Instant::now(),
        alias_depth,
        is_crowded: false,
    };
    answer(zones, message, arrival).await.map_or_else(
        || panic!("the query was dropped"),
        |octets| Reply { octets },
    )
}

async fn answer(zones: &Arc<Zones>, message: &[u8], arrival: Arrival) -> Option<Vec<u8>> {
    let deferred = {
        let mut out = Vec::new();
        match zones.answer(message, arrival, &mut out) {
            Outcome::Reply => return Some(out),
            Outcome::Drop => return None,
            Outcome::Deferred(deferred) => deferred,
        }
    };
    deferred.finish().await
}

/// Serves zones over UDP on a port of 127.0.0.1, until the task is aborted.
pub fn serve(socket: tokio::net::UdpSocket, zones: Arc<Zones>) -> tokio::task::JoinHandle<()> {
    let socket = Arc::new(socket);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let arrival = Arrival {
                client,
                local: socket.local_addr().unwrap(),
                protocol: Protocol::Udp,
                received: Instant::now(),
                alias_depth: 0,
                is_crowded: false,
            };
            let message = buffer[..length].to_vec();
            let (zones, socket) = (Arc::clone(&zones), Arc::clone(&socket));
            tokio::spawn(async move {
                if let Some(reply) = answer(&zones, &message, arrival).await {
                    drop(socket.send_to(&reply, client).await);
                }
            });
        }
    })
}

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub octets: Vec<u8>,
}

impl Reply {
    pub fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.octets[3] & 15))
    }

    pub fn is_truncated(&self) -> bool {
        self.octets[2] & 0x02 != 0
    }

    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        Records::of_message(&self.octets)
            .unwrap()
            .map(Result::unwrap)
            .filter(|(section, _)| *section == Section::Answer)
            .filter_map(|(_, record)| record.ipv4())
            .collect()
    }

    /// The last octet of the one address in it, which is the number of the upstream.
    pub fn number(&self) -> u8 {
        match self.addresses()[..] {
            [address] => address.octets()[3],
            ref other => panic!("one address, not {other:?}: {self:?}"),
        }
    }

    /// INFO-CODE of its extended error (RFC 8914).
    pub fn extended_error(&self) -> Option<u16> {
        let opt = Records::of_message(&self.octets)
            .unwrap()
            .map(|record| record.unwrap().1)
            .find(|record| record.record_type == RecordType::OPT)?;
        let rdata = opt.rdata();
        let is_error = rdata.starts_with(&option_code::EXTENDED_ERROR.to_be_bytes());
        is_error.then(|| u16::from_be_bytes([rdata[4], rdata[5]]))
    }

    pub fn qname_octets(&self) -> &[u8] {
        let end = 12
            + self.octets[12..]
                .iter()
                .position(|&octet| octet == 0)
                .unwrap();
        &self.octets[12..end]
    }
}

/// A query as a stub resolver sends it: RD, EDNS with 1232.
pub fn query(qname: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = plain_query(qname, qtype);
    message[11] = 1;
    message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    message
}

/// The same without EDNS.
pub fn plain_query(qname: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
    message.extend_from_slice(&qtype.0.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// An address on which nobody listens, neither over UDP nor over TCP.
pub fn nobody() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}
