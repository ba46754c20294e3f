//! What the tests of plugins stand on: directives from text, a chain, questions and answers, all without sockets.

#![allow(
    dead_code,
    reason = "a kit: which parts are used depends on the plugins built in"
)]

/// A whole server block, and questions to it with every knob.
pub(crate) mod bench;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::chain::Chain;
use crate::chain::deferred::Outcome;
use crate::chain::exchange::{Arrival, Exchange, Protocol};
use crate::chain::plugin::{Plugin, Step};
use crate::corefile::diagnostic::{Faults, Severity, Span};
use crate::corefile::key::{Key, Scheme};
use crate::corefile::parser::parse_directives;
use crate::corefile::tree::Directive;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::{Assembly, Plan};
use crate::server::process::Process;
use crate::telemetry::metrics::ServerMetrics;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::Name;
use crate::wire::record::{RecordRef, Records, Section};
use crate::wire::writer::Owner;
use crate::zone::Zones;
use crate::zone::block::ServerBlock;

/// Reads directives as they stand within a server block.
pub(crate) fn directives(text: &str) -> Vec<Directive> {
    let (directives, faults) = parse_directives(text);
    assert!(faults.is_empty(), "{faults:?}");
    directives
}

/// Parses the directives in `text`, all of one plugin, in a block for `.`.
pub(crate) fn parse(spec: &Spec, text: &str) -> (Option<Box<dyn Config>>, Faults) {
    parse_in(spec, &["."], text)
}

/// Parses them in a block for these zones.
pub(crate) fn parse_in(
    spec: &Spec,
    zones: &[&str],
    text: &str,
) -> (Option<Box<dyn Config>>, Faults) {
    let directives = directives(text);
    let mut faults = Faults::default();
    let config = (spec.parse)(&mut Context {
        directives: &directives.iter().collect::<Vec<_>>(),
        keys: &keys(zones),
        block: &directives,
        faults: &mut faults,
    });
    (config, faults)
}

pub(crate) fn keys(zones: &[&str]) -> Vec<Key> {
    let key = |zone: &&str| Key {
        scheme: Scheme::Dns,
        zone: Name::from_text(zone).unwrap().to_lower(),
        port: None,
        span: Span::default(),
    };
    zones.iter().map(key).collect()
}

/// The config in `text`, which must be free of faults.
pub(crate) fn config(spec: &Spec, text: &str) -> Box<dyn Config> {
    let (config, faults) = parse(spec, text);
    assert!(faults.is_empty(), "{faults:?}");
    config.expect("no fault, so there is a config")
}

/// The faults in `text`, each as `error: message @ the words it points at`.
pub(crate) fn faults(spec: &Spec, text: &str) -> Vec<String> {
    let (config, faults) = parse(spec, text);
    assert_eq!(
        config.is_none(),
        faults.worst() == Some(Severity::Error),
        "{faults:?}"
    );
    faults
        .iter()
        .map(|fault| {
            let severity = match fault.severity {
                Severity::Warning => "warning",
                Severity::NotBuilt => "not built",
                Severity::Error => "error",
            };
            let place = &text[fault.span.start..fault.span.end];
            format!("{severity}: {} @ {place}", fault.message)
        })
        .collect()
}

/// A process to build plugins in.
pub(crate) struct Bed {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) process: Arc<Process>,
    pub(crate) plan: Plan,
    pub(crate) zones: Vec<&'static str>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        Self {
            runtime,
            process,
            plan: Plan::default(),
            zones: vec!["."],
        }
    }

    pub(crate) fn build(
        &mut self,
        config: &dyn Config,
    ) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        config.build(&mut Assembly {
            process: &self.process,
            keys: &keys(&self.zones),
            server: &"dns://:53".into(),
            root: Path::new(""),
            fingerprint_below: 0,
            generation: &mut self.plan,
        })
    }

    /// Builds the plugin that `text` configures and puts it above `below`.
    pub(crate) fn chain(&mut self, spec: &Spec, text: &str, below: impl Plugin) -> Arc<Zones> {
        let (config, faults) = parse_in(spec, &self.zones, text);
        assert!(faults.worst() < Some(Severity::NotBuilt), "{faults:?}");
        let mut links = self.build(&*config.unwrap()).unwrap();
        links.push(Arc::new(below));
        zones(".", links)
    }

    /// What Prometheus would read.
    pub(crate) fn metrics(&self) -> String {
        let families = self.process.metrics.registry().gather();
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap()
    }
}

/// A listener with one block.
pub(crate) fn zones(origin: &str, links: Vec<Arc<dyn Plugin>>) -> Arc<Zones> {
    let block = Arc::new(ServerBlock {
        origin: Name::from_text(origin).unwrap(),
        server: "dns://:53".into(),
        chain: Chain::new(links),
    });
    let metrics = crate::telemetry::metrics::Metrics::new();
    Arc::new(Zones::new(
        vec![block],
        Arc::new(ServerMetrics::new(&metrics, "dns://:53")),
    ))
}

/// The last link: answers as it is told.
pub(crate) enum Below {
    /// One A record with TTL 60.
    Address,
    /// This many A records.
    Addresses(u8),
    /// A bare rcode.
    Rcode(Rcode),
    /// SERVFAIL with an error for the log.
    Error(&'static str),
    /// Silence.
    Drop,
}

impl Plugin for Below {
    fn name(&self) -> &'static str {
        "below"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let reply = &mut exchange.reply;
        match *self {
            Self::Address => {
                reply.a(Owner::Question, 60, [192, 0, 2, 1].into());
            }
            Self::Addresses(count) => {
                for last in 0..count {
                    reply.a(Owner::Question, 60, [192, 0, 2, last].into());
                }
            }
            Self::Rcode(rcode) => reply.rcode = rcode,
            Self::Error(text) => exchange.fail(Rcode::SERVFAIL, text),
            Self::Drop => return Step::Drop,
        }
        Step::Answered
    }
}

/// A query as a stub resolver sends it: RD, no EDNS, ID 1.
pub(crate) fn query(qname: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
    message.extend_from_slice(&qtype.0.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// Adds an OPT with DO to such a query.
pub(crate) fn with_edns(mut message: Vec<u8>, payload_size: u16, dnssec_ok: bool) -> Vec<u8> {
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41]);
    message.extend_from_slice(&payload_size.to_be_bytes());
    message.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    message
}

/// Over UDP, from 10.240.0.1:40212.
pub(crate) fn arrival() -> Arrival {
    Arrival {
        client: ([10, 240, 0, 1], 40212).into(),
        local: ([127, 0, 0, 1], 53).into(),
        protocol: Protocol::Udp,
        received: Instant::now(),
        alias_depth: 0,
        is_crowded: false,
    }
}

/// Asks and waits for nothing.
pub(crate) fn send(zones: &Arc<Zones>, message: &[u8], arrival: Arrival) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match zones.answer(message, arrival, &mut out) {
        Outcome::Reply => Some(out),
        Outcome::Drop => None,
        Outcome::Deferred(_) => panic!("the answer is in memory"),
    }
}

/// Asks, and returns the reply in one line: `NOERROR aa: a.org. 60 A 192.0.2.1; …`.
pub(crate) fn ask(zones: &Arc<Zones>, qname: &str, qtype: RecordType) -> String {
    let message = query(qname, qtype);
    send(zones, &message, arrival()).map_or_else(|| "dropped".to_owned(), |reply| shown(&reply))
}

/// A reply in one line, OPT left out.
pub(crate) fn shown(reply: &[u8]) -> String {
    let mut text = Rcode(u16::from(reply[3] & 15)).to_string();
    for (octet, bit, name) in [(2, 0x04, " aa"), (2, 0x02, " tc"), (3, 0x80, " ra")] {
        if reply[octet] & bit != 0 {
            text.push_str(name);
        }
    }
    let mut before = ": ";
    for (section, record) in Records::of_message(reply).unwrap().map(Result::unwrap) {
        if record.record_type == RecordType::OPT {
            continue;
        }
        let mark = match section {
            Section::Answer => "",
            Section::Authority => "(authority) ",
            Section::Additional => "(additional) ",
        };
        let (owner, ttl, kind) = (record.owner(), record.ttl, record.record_type);
        let rdata = rdata(&record);
        write!(text, "{before}{mark}{owner:?} {ttl} {kind} {rdata}").unwrap();
        before = "; ";
    }
    text
}

fn rdata(record: &RecordRef<'_>) -> String {
    match record.record_type {
        RecordType::A => record.ipv4().unwrap().to_string(),
        RecordType::AAAA => record.ipv6().unwrap().to_string(),
        RecordType::PTR | RecordType::CNAME | RecordType::NS => {
            format!("{:?}", record.rdata_name().unwrap())
        }
        _ => format!("{:?}", record.rdata()),
    }
}
