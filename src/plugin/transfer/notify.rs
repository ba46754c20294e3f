//! NOTIFY: tells the targets of `to` that a zone has another serial than they were told last (RFC 1996).
//!
//! CoreDNS sends it when a zone is loaded, and never for `kubernetes`, whose serial moves with every change of the
//! cluster: secondaries would be up to two hours behind. Here the serials of all zones are looked at from time to time,
//! which costs next to nothing, and one NOTIFY stands for all changes since the last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use hashbrown::{HashMap, HashSet};
use tokio::net::UdpSocket;

use crate::chain::content::Held;
use crate::plugin::transfer::metrics::TransferMetrics;
use crate::plugin::transfer::{Stanza, stanza_of};
use crate::server::assembly::Links;
use crate::wire::HEADER_LEN;
use crate::wire::code::{Class, Opcode, RecordType};
use crate::wire::name::Name;
use crate::wire::query::flag;

/// Time between two looks at the serials.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A zone's changes are told no more often than this: each may cost a transfer of all of it.
const TOLD_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// How often a target is told that does not answer, and how long it has each time.
const TRIES: u32 = 3;
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// Targets that are told at a time.
const TELLING_MAX: usize = 64;

/// What was last told about a zone.
struct Told {
    serial: u32,
    at: Instant,
}

/// Sends NOTIFY for as long as a generation serves.
pub(super) struct Notifier {
    stanzas: Arc<[Stanza]>,
    links: Links,
    metrics: Arc<TransferMetrics>,
    told: HashMap<Name, Told>,
    /// Targets that did not answer when last told: each is named in the log once.
    silent: HashSet<SocketAddr>,
}

impl Notifier {
    pub(super) fn new(stanzas: Arc<[Stanza]>, links: Links, metrics: Arc<TransferMetrics>) -> Self {
        Self {
            stanzas,
            links,
            metrics,
            told: HashMap::new(),
            silent: HashSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = self.due(Instant::now());
            let told: Vec<_> = stream::iter(due)
                .map(|(zone, to, source)| async move {
                    let result = tell(&zone, to, source).await;
                    (zone, to, result)
                })
                .buffer_unordered(TELLING_MAX)
                .collect()
                .await;
            for (zone, to, result) in told {
                self.note(&zone, to, result);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Which zones are to be told of, to whom, and from where.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Name, SocketAddr, Option<IpAddr>)> {
        let mut due = Vec::new();
        let held: HashSet<Name> = self.links.zones_held().into_iter().collect();
        self.told.retain(|zone, _| held.contains(zone));
        for zone in held {
            let Some(stanza) = stanza_of(&self.stanzas, zone.as_ref()) else {
                continue;
            };
            let Held::Content(content) = self.links.content(zone.as_ref()) else {
                continue;
            };
            let serial = content.serial;
            let is_told = self
                .told
                .get(&zone)
                .is_some_and(|told| told.serial == serial || now < told.at + TOLD_INTERVAL_MIN);
            if is_told {
                continue;
            }
            let targets = stanza.to.iter();
            due.extend(targets.map(|&to| (zone.clone(), to, stanza.source)));
            self.told.insert(zone, Told { serial, at: now });
        }
        due
    }

    fn note(&mut self, zone: &Name, to: SocketAddr, result: Result<(), String>) {
        let Err(why) = result else {
            self.metrics.count_notify("accepted");
            self.silent.remove(&to);
            tracing::debug!(target: "plugin/transfer", "notify for zone \"{zone}\" was accepted by `{to}`");
            return;
        };
        self.metrics.count_notify("failed");
        if self.silent.insert(to) {
            tracing::warn!(target: "plugin/transfer", "notify for zone \"{zone}\" was not accepted by `{to}`: {why}");
        }
    }
}

/// Tells one target, a few times if need be.
async fn tell(zone: &Name, to: SocketAddr, source: Option<IpAddr>) -> Result<(), String> {
    let mut result = Ok(());
    for _ in 0..TRIES {
        result = match tokio::time::timeout(TRY_TIMEOUT, try_tell(zone, to, source)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(rcode)) => Err(format!("rcode was {}", crate::wire::code::Rcode(rcode))),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no reply".to_owned()),
        };
    }
    result
}

/// Sends one NOTIFY and waits for its reply; the RCODE comes back.
async fn try_tell(zone: &Name, to: SocketAddr, source: Option<IpAddr>) -> std::io::Result<u16> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0)).await?;
    // Connected, the socket takes replies from the target alone.
    socket.connect(to).await?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(std::io::Error::other)?;
    let message = notify_message(id, zone);
    socket.send(&message).await?;
    let mut reply = [0; 512];
    loop {
        let length = socket.recv(&mut reply).await?;
        let reply = &reply[..length];
        if length >= HEADER_LEN
            && reply[..2] == id
            && reply[2] & 0xf8 == flag::QR | message[2] & 0x78
        {
            return Ok(u16::from(reply[3] & 0x0f));
        }
    }
}

/// RFC 1996, section 3.7: opcode NOTIFY, AA, the zone with QTYPE SOA.
fn notify_message(id: [u8; 2], zone: &Name) -> Vec<u8> {
    let mut message = id.to_vec();
    message.extend_from_slice(&[Opcode::NOTIFY.0 << 3 | flag::AA, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(zone.as_ref().as_wire());
    message.extend_from_slice(&RecordType::SOA.0.to_be_bytes());
    message.extend_from_slice(&Class::IN.0.to_be_bytes());
    message
}
