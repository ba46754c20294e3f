//! A server without sockets, and its replies as text.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::chain::plugin::Next;
use fingerpost::corefile::parser;
use fingerpost::plugin::configure::configure;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::process::Process;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::name::Name;
use fingerpost::wire::record::{RecordRef, Records, Section, expand_name};
use fingerpost::wire::{u16_at, u32_at};
use fingerpost::zone::Zones;

/// A server of one Corefile, without sockets.
pub(crate) struct Server {
    zones: Arc<Zones>,
    _generation: Generation,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Built from a Corefile's text; waits as long as a start would.
    pub(crate) fn new(corefile: &str) -> Self {
        let (corefile, mut faults) = parser::parse(Path::new("Corefile"), corefile.as_bytes());
        let blocks = configure(&corefile, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let defaults = ServeDefaults { port: 53 };
        let mut generation = Generation::build(&blocks, defaults, &process).unwrap();
        for task in generation.plan.before_serving.drain(..) {
            runtime.block_on(task).unwrap();
        }
        let (_, zones) = generation.zones.pop_first().unwrap();
        Self {
            zones,
            _generation: generation,
            runtime,
        }
    }

    /// Asks as dnspython does: EDNS with 4096 octets, over TCP where UDP is cut.
    pub(crate) fn ask(&self, qname: &str, qtype: RecordType) -> Vec<u8> {
        self.ask_from([127, 0, 0, 1], qname, qtype)
    }

    /// The same as another client.
    pub(crate) fn ask_from(&self, client: [u8; 4], qname: &str, qtype: RecordType) -> Vec<u8> {
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
        message.extend_from_slice(&qtype.0.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        let udp = self.send_from(client, &message, Protocol::Udp);
        if udp[2] & 0x02 == 0 {
            udp
        } else {
            self.send_from(client, &message, Protocol::Tcp)
        }
    }

    /// Sends a whole message from 127.0.0.1.
    #[allow(dead_code, reason = "each test uses its part of the kit")]
    pub(crate) fn send(&self, message: &[u8], protocol: Protocol) -> Vec<u8> {
        self.send_from([127, 0, 0, 1], message, protocol)
    }

    fn send_from(&self, client: [u8; 4], message: &[u8], protocol: Protocol) -> Vec<u8> {
        let arrival = Arrival {
            client: (client, 40212).into(),
            local: ([127, 0, 0, 1], 53).into(),
            protocol,
            received: Instant::now(),
            alias_depth: 0,
            is_crowded: false,
        };
        let mut out = Vec::new();
        match self.zones.answer(message, arrival, &mut out) {
            Outcome::Reply => out,
            Outcome::Deferred(_) | Outcome::Drop => panic!("every answer is in memory"),
        }
    }

    /// Asks for a zone over TCP from `client`; every message of the reply. With a serial it is IXFR.
    #[allow(dead_code, reason = "each test uses its part of the kit")]
    pub(crate) fn transfer(
        &self,
        zone: &str,
        serial: Option<u32>,
        client: [u8; 4],
    ) -> Vec<Vec<u8>> {
        let arrival = Arrival {
            client: (client, 40212).into(),
            local: ([127, 0, 0, 1], 53).into(),
            protocol: Protocol::Tcp,
            received: Instant::now(),
            alias_depth: 0,
            is_crowded: false,
        };
        let mut out = Vec::new();
        match self
            .zones
            .answer(&transfer_query(zone, serial), arrival, &mut out)
        {
            Outcome::Reply => vec![out],
            Outcome::Drop => panic!("a transfer is not dropped"),
            Outcome::Deferred(deferred) => {
                let first = self.runtime.block_on(deferred.finish_all()).unwrap();
                let mut messages = vec![first.message];
                if let Some(mut rest) = first.rest {
                    loop {
                        let mut message = Vec::new();
                        let next = rest.next(&mut message);
                        messages.push(message);
                        if next != Next::More {
                            assert_eq!(next, Next::Last);
                            break;
                        }
                    }
                }
                messages
            }
        }
    }
}

/// AXFR, or IXFR from this serial (RFC 1995, section 3: the SOA that the client has).
#[allow(dead_code, reason = "each test uses its part of the kit")]
pub(crate) fn transfer_query(zone: &str, serial: Option<u32>) -> Vec<u8> {
    let ixfr = serial.is_some();
    let mut message = vec![0, 9, 0, 0, 0, 1, 0, 0, 0, u8::from(ixfr), 0, 0];
    message.extend_from_slice(Name::from_text(zone).unwrap().as_ref().as_wire());
    message.extend_from_slice(&[0, if ixfr { 251 } else { 252 }, 0, 1]);
    if let Some(serial) = serial {
        message.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
        message.extend_from_slice(&serial.to_be_bytes());
        message.extend_from_slice(&[0; 16]);
    }
    message
}

/// What is compared of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) rcode: String,
    /// AA, RA, RD.
    pub(crate) flags: [bool; 3],
    /// Answer, authority, additional, each sorted.
    pub(crate) sections: [Vec<String>; 3],
}

/// A reply as text; SOA serials read `SERIAL`.
pub(crate) fn shown(reply: &[u8]) -> Shown {
    let mut sections: [Vec<String>; 3] = Default::default();
    for (section, record) in Records::of_message(reply).unwrap().map(Result::unwrap) {
        if record.record_type != RecordType::OPT {
            let index = [Section::Answer, Section::Authority, Section::Additional]
                .iter()
                .position(|&s| s == section);
            sections[index.unwrap()].push(record_text(reply, &record));
        }
    }
    sections.iter_mut().for_each(|section| section.sort());
    Shown {
        rcode: Rcode(u16::from(reply[3] & 15)).to_string(),
        flags: [reply[2] & 4 != 0, reply[3] & 0x80 != 0, reply[2] & 1 != 0],
        sections,
    }
}

pub(crate) fn record_text(reply: &[u8], record: &RecordRef<'_>) -> String {
    let at = record.rdata_at;
    let name = |at: usize| expand_name(reply, at).unwrap();
    let rdata = match record.record_type {
        RecordType::A => Ipv4Addr::from(<[u8; 4]>::try_from(record.rdata()).unwrap()).to_string(),
        RecordType::AAAA => {
            Ipv6Addr::from(<[u8; 16]>::try_from(record.rdata()).unwrap()).to_string()
        }
        RecordType::SRV => {
            let number = |offset| u16_at(reply, at + offset).unwrap();
            format!(
                "{} {} {} {:?}",
                number(0),
                number(2),
                number(4),
                name(at + 6).0
            )
        }
        RecordType::SOA => {
            let (mname, next) = name(at);
            let (rname, next) = name(next);
            let number = |offset| u32_at(reply, next + offset).unwrap();
            let rest = [4, 8, 12, 16]
                .map(|offset| number(offset).to_string())
                .join(" ");
            format!("{mname:?} {rname:?} SERIAL {rest}")
        }
        RecordType::TXT => format!("{:?}", String::from_utf8_lossy(&record.rdata()[1..])),
        _ => format!("{:?}", name(at).0),
    };
    format!(
        "{:?} {} {} {rdata}",
        record.owner(),
        record.ttl,
        record.record_type
    )
}
