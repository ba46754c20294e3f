//! `transfer`: lets chosen clients copy whole zones (AXFR, IXFR), and tells them of changes (NOTIFY).
//!
//! ```text
//! not over TCP:              REFUSED
//! no stanza for the name:    next plugin
//! client not in `to`:        REFUSED
//! nobody below holds it:     NOTAUTH
//! IXFR from what we have:    the SOA alone
//! else:                      the zone, in as many messages as it takes
//! ```
//!
//! The content comes from the plugins below, which hand it out record by record ([`Plugin::content`]). A message is
//! made when the client has taken most of what came before, off the threads that serve, so neither a large zone nor a
//! slow client is felt by anybody else.

mod config;
mod metrics;
mod notify;
mod outgoing;
mod ration;
mod seats;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::chain::content::{Held, ZoneContent};
use crate::chain::exchange::{Exchange, Protocol};
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::transfer::metrics::TransferMetrics;
use crate::plugin::transfer::outgoing::Outgoing;
use crate::plugin::transfer::ration::Ration;
use crate::plugin::transfer::seats::Seats;
use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::{Name, NameRef};
use crate::wire::query::Query;
use crate::wire::record::{Records, Section};
use crate::wire::u32_at;
use crate::wire::writer::Owner;

/// What is known about `transfer`.
pub static SPEC: Spec = Spec {
    name: "transfer",
    summary: "lets chosen clients copy whole zones",
    options: config::OPTIONS,
    parse: config::parse,
};

/// Who may copy the zones of one directive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stanza {
    zones: Vec<Name>,
    /// `to *`
    anybody: bool,
    /// The other words of `to`. The port is where NOTIFY goes; a transfer may come from any.
    to: Vec<SocketAddr>,
    /// Where NOTIFY leaves from.
    source: Option<IpAddr>,
}

impl Stanza {
    fn admits(&self, client: IpAddr) -> bool {
        self.anybody || self.to.iter().any(|to| to.ip() == client)
    }
}

/// The stanza with the longest zone that `name` lies in; of equals the first. Whole labels count, not text: a parent's
/// list must not decide for a zone below it (CVE-2026-33489).
fn stanza_of<'s>(stanzas: &'s [Stanza], name: NameRef<'_>) -> Option<&'s Stanza> {
    let mut best: Option<(usize, &Stanza)> = None;
    for stanza in stanzas {
        for zone in &stanza.zones {
            let labels = zone.as_ref().label_count();
            if name.is_at_or_below(zone.as_ref()) && best.is_none_or(|(most, _)| labels > most) {
                best = Some((labels, stanza));
            }
        }
    }
    best.map(|(_, stanza)| stanza)
}

struct Transfer {
    stanzas: Arc<[Stanza]>,
    seats: Arc<Seats>,
    metrics: Arc<TransferMetrics>,
    lines: Arc<Ration>,
}

impl Plugin for Transfer {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let qtype = exchange.qtype();
        if !matches!(qtype, RecordType::AXFR | RecordType::IXFR) {
            return Step::Next;
        }
        // RFC 5936, section 4.2: AXFR goes over TCP. IXFR could start over UDP; here as in CoreDNS it does not.
        if exchange.arrival().protocol != Protocol::Tcp {
            return self.refuse(exchange, Rcode::REFUSED, ExtendedError::NOT_SUPPORTED);
        }
        let Some(stanza) = stanza_of(&self.stanzas, exchange.qname()) else {
            return Step::Next;
        };
        if !stanza.admits(exchange.arrival().client.ip()) {
            return self.refuse(exchange, Rcode::REFUSED, ExtendedError::PROHIBITED);
        }
        if exchange.query.is_signed() {
            // There is no plugin `tsig` yet, so we know no key (RFC 8945, section 5.2.1). CoreDNS without it sends the
            // whole zone unsigned, which the client throws away.
            let step = self.refuse(exchange, Rcode::NOTAUTH, ExtendedError::NOT_SUPPORTED);
            exchange.state.error = Some("the transfer is signed, and TSIG is not built yet".into());
            return step;
        }
        match exchange.content_below() {
            // RFC 5936, section 2.2.1. CoreDNS' `kubernetes` invents a zone at any name below its own.
            Held::Nothing => {
                self.refuse(exchange, Rcode::NOTAUTH, ExtendedError::NOT_AUTHORITATIVE)
            }
            Held::Unready => self.fail(
                exchange,
                "the zone is not complete yet",
                ExtendedError::NOT_READY,
            ),
            Held::Content(content) if qtype == RecordType::IXFR => {
                let Some(serial) = client_serial(exchange.query) else {
                    return self.fail(exchange, "IXFR without an SOA", ExtendedError::OTHER);
                };
                if is_current(serial, content.serial) {
                    self.send_soa(exchange, &content)
                } else {
                    self.send(exchange, content)
                }
            }
            Held::Content(content) => self.send(exchange, content),
        }
    }
}

impl Transfer {
    fn refuse(&self, exchange: &mut Exchange<'_>, rcode: Rcode, code: u16) -> Step {
        self.metrics.count("refused");
        exchange.reply.rcode = rcode;
        exchange.state.extended_error = Some(ExtendedError::new(code, ""));
        Step::Answered
    }

    fn fail(&self, exchange: &mut Exchange<'_>, why: &'static str, code: u16) -> Step {
        self.metrics.count("failed");
        exchange.fail(Rcode::SERVFAIL, why);
        exchange.state.extended_error = Some(ExtendedError::new(code, why));
        Step::Answered
    }

    /// The client has the zone as it is now.
    fn send_soa(&self, exchange: &mut Exchange<'_>, content: &ZoneContent) -> Step {
        let soa = &content.soa;
        let reply = &mut exchange.reply;
        reply.authoritative = true;
        reply.record(
            Owner::Name(soa.owner.as_ref()),
            soa.record_type,
            Class::IN,
            soa.ttl,
            |rdata| rdata.octets(&soa.rdata),
        );
        self.metrics.count("current");
        if self.lines.take(Instant::now()) {
            tracing::info!(
                target: "plugin/transfer",
                "Outgoing noop, incremental transfer for up to date zone \"{}\" to {} for {} SOA serial",
                exchange.query.qname(),
                exchange.arrival().client.ip(),
                content.serial
            );
        }
        Step::Answered
    }

    fn send(&self, exchange: &mut Exchange<'_>, content: ZoneContent) -> Step {
        let client = exchange.arrival().client.ip();
        let Some(seat) = self.seats.take(client) else {
            return self.fail(exchange, "too many zone transfers", ExtendedError::OTHER);
        };
        let query = exchange.query.message().into();
        let (metrics, lines) = (Arc::clone(&self.metrics), Arc::clone(&self.lines));
        let outgoing = Outgoing::new(query, client, content, seat, metrics, lines);
        Step::Defer(Box::pin(outgoing.start()))
    }
}

/// The serial of the SOA that an IXFR query carries (RFC 1995, section 3).
fn client_serial(query: &Query<'_>) -> Option<u32> {
    let (section, soa) = Records::of_message(query.message()).ok()?.next()?.ok()?;
    let is_soa = section == Section::Authority && soa.record_type == RecordType::SOA;
    let serial_at = soa.rdata().len().checked_sub(20).filter(|_| is_soa)?;
    u32_at(soa.rdata(), serial_at)
}

/// Whether a client with serial `theirs` needs nothing from us: RFC 1995, section 2, says so of the same version and of
/// any newer one, in the arithmetic of RFC 1982. Replicas have serials of their own, so a newer one is no rarity; with
/// a whole zone in return, as CoreDNS sends it, the client would go back to an older state. 0 is said by those who
/// have nothing.
fn is_current(theirs: u32, ours: u32) -> bool {
    let ahead = theirs.wrapping_sub(ours);
    theirs != 0 && ahead < 1 << 31
}
