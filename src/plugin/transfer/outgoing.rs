//! One transfer on its way to a client: records into messages, one message at a time.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chain::content::{ZoneContent, ZoneRecord};
use crate::chain::plugin::{Answer, Failure, Messages, Next, Verdict};
use crate::plugin::transfer::metrics::TransferMetrics;
use crate::plugin::transfer::ration::Ration;
use crate::plugin::transfer::seats::Seat;
use crate::wire::MESSAGE_MAX;
use crate::wire::code::{Class, Rcode};
use crate::wire::query::Query;
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter};

/// Octets that a message has at most before its OPT. Large ones compress better and cost fewer round trips.
const MESSAGE_LEN: usize = 63_000;

/// For the whole of a transfer. Who reads too slowly within it is the connection's business (its write time-out).
const TIME_MAX: Duration = Duration::from_secs(300);

/// What comes next.
enum Place {
    Opening,
    Records,
    Done,
}

/// A transfer, whole or in part.
pub(super) struct Outgoing {
    query: Box<[u8]>,
    client: IpAddr,
    content: ZoneContent,
    place: Place,
    /// A record that did not fit into the last message.
    held: Option<ZoneRecord>,
    sent: u64,
    deadline: Instant,
    metrics: Arc<TransferMetrics>,
    lines: Arc<Ration>,
    _seat: Seat,
}

impl Outgoing {
    pub(super) fn new(
        query: Box<[u8]>,
        client: IpAddr,
        content: ZoneContent,
        seat: Seat,
        metrics: Arc<TransferMetrics>,
        lines: Arc<Ration>,
    ) -> Self {
        Self {
            query,
            client,
            content,
            place: Place::Opening,
            held: None,
            sent: 0,
            deadline: Instant::now() + TIME_MAX,
            metrics,
            lines,
            _seat: seat,
        }
    }

    /// Makes the first message.
    pub(super) async fn start(mut self) -> Verdict {
        let made = tokio::task::spawn_blocking(move || {
            let mut message = Vec::new();
            let next = self.next(&mut message);
            (message, next, self)
        });
        match made.await {
            Ok((message, Next::Last, _)) => Verdict::Reply(Answer {
                message,
                ..Answer::default()
            }),
            Ok((message, Next::More, this)) => Verdict::Reply(Answer {
                message,
                rest: Some(Box::new(this)),
                ..Answer::default()
            }),
            Ok((_, Next::GivenUp, _)) | Err(_) => Verdict::Fail(Failure {
                rcode: Rcode::SERVFAIL,
                error: "the zone transfer could not be started".into(),
                extended_error: None,
            }),
        }
    }

    /// The next record. The SOA stands at both ends (RFC 5936, section 2.2).
    fn draw(&mut self) -> Option<ZoneRecord> {
        if let Some(record) = self.held.take() {
            return Some(record);
        }
        match self.place {
            Place::Opening => {
                self.place = Place::Records;
                Some(self.content.soa.clone())
            }
            Place::Records => Some(self.content.records.next().unwrap_or_else(|| {
                self.place = Place::Done;
                self.content.soa.clone()
            })),
            Place::Done => None,
        }
    }

    /// Writes as many records as fit.
    fn fill(&mut self, reply: &mut ReplyWriter<'_>) -> Next {
        while let Some(record) = self.draw() {
            let most = record.owner.as_ref().len() + 10 + record.rdata.len();
            if reply.count(Section::Answer) > 0 && reply.len() + most > MESSAGE_LEN {
                self.held = Some(record);
                return Next::More;
            }
            let owner = Owner::Name(record.owner.as_ref());
            let rdata = &record.rdata;
            let written = reply.record(owner, record.record_type, Class::IN, record.ttl, |to| {
                to.octets(rdata)
            });
            if !written {
                // No message has room for such a record; no query could get it either.
                return Next::GivenUp;
            }
        }
        Next::Last
    }

    fn zone(&self) -> &crate::wire::name::Name {
        &self.content.soa.owner
    }
}

impl Messages for Outgoing {
    fn next(&mut self, out: &mut Vec<u8>) -> Next {
        if Instant::now() >= self.deadline {
            return Next::GivenUp;
        }
        let message = std::mem::take(&mut self.query);
        let query = Query::parse(&message).expect("it was checked when it came in");
        // The question stands in each message: names are compressed against it, and CoreDNS has it there too. OPT is
        // for the first one, to which the chain adds it (RFC 5936, section 2.2.5).
        let mut reply = ReplyWriter::new(&query, out);
        reply.authoritative = true;
        let next = self.fill(&mut reply);
        let records = u64::from(reply.count(Section::Answer));
        reply.finish(&query, MESSAGE_MAX, None);
        self.query = message;
        self.sent += records;
        self.metrics.records.inc_by(records);
        if next == Next::Last && self.lines.take(Instant::now()) {
            tracing::info!(
                target: "plugin/transfer",
                "Outgoing transfer of {} records of zone \"{}\" to {} for {} SOA serial",
                self.sent,
                self.zone(),
                self.client,
                self.content.serial
            );
        }
        next
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if matches!(self.place, Place::Done) && self.held.is_none() {
            self.metrics.count("sent");
            return;
        }
        self.metrics.count("cut");
        if !self.lines.take(Instant::now()) {
            return;
        }
        tracing::warn!(
            target: "plugin/transfer",
            "Outgoing transfer of zone \"{}\" to {} ended after {} records: the client left, was too slow, or the server stopped",
            self.zone(),
            self.client,
            self.sent
        );
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("zone", self.zone())
            .field("client", &self.client)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
