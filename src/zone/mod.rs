//! Finds the server block that owns a name.
//!
//! A QNAME belongs to the block with the longest matching origin:
//!
//! ```text
//! web.shop.svc.cluster.local.   blocks:  .   cluster.local.
//!              ^^^^^^^^^^^^^^            longest match wins
//! ```
//!
//! DS is the exception: it lives on the parent side of a zone cut (RFC 4035, section 2.4), so the shortest matching
//! zone but the root wins. Matching is a walk over labels, with a hash lookup for each suffix that is as long as some
//! origin; a name has 127 labels at most.

/// A server block: what one key of the Corefile serves.
pub mod block;

use std::sync::Arc;

use hashbrown::HashMap;

use crate::chain::Chain;
use crate::chain::deferred::Outcome;
use crate::chain::exchange::{Arrival, Exchange, State};
use crate::telemetry::metrics::ServerMetrics;
use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::{NAME_MAX, Name, NameBuf};
use crate::wire::query::{Malformed, Query, write_rejection};
use crate::wire::writer::{ReplyOpt, ReplyWriter};
use crate::wire::{UDP_CLASSIC_MAX, UDP_PAYLOAD_DEFAULT};
use crate::zone::block::ServerBlock;

/// All zones that one listening address serves.
pub struct Zones {
    blocks: HashMap<Name, Vec<Arc<ServerBlock>>, foldhash::fast::RandomState>,
    /// Whether any origin has so many octets: suffixes of another length need no look-up.
    has_length: [bool; NAME_MAX + 1],
    metrics: Arc<ServerMetrics>,
}

impl Zones {
    /// Zones of these blocks, in Corefile order.
    pub fn new(blocks: Vec<Arc<ServerBlock>>, metrics: Arc<ServerMetrics>) -> Self {
        let mut this = Self {
            blocks: HashMap::default(),
            has_length: [false; NAME_MAX + 1],
            metrics,
        };
        for block in blocks {
            this.has_length[block.origin.as_ref().len()] = true;
            this.blocks
                .entry(block.origin.clone())
                .or_default()
                .push(block);
        }
        this
    }

    /// Every block, in no particular order.
    pub fn blocks(&self) -> impl Iterator<Item = &Arc<ServerBlock>> {
        self.blocks.values().flatten()
    }

    /// The block that answers for `qname`, which is in lower case.
    pub fn find(&self, qname: &NameBuf, qtype: RecordType) -> Option<&Arc<ServerBlock>> {
        let mut suffix = qname.as_ref();
        let mut parent_side = None;
        loop {
            if self.has_length[suffix.len()]
                && let Some(block) = self
                    .blocks
                    .get(suffix.as_wire())
                    .and_then(|blocks| blocks.first())
            {
                if qtype != RecordType::DS {
                    return Some(block);
                }
                // The root is used only if nothing else matched.
                if parent_side.is_none() || !suffix.is_root() {
                    parent_side = Some(block);
                }
            }
            match suffix.parent() {
                Some(parent) => suffix = parent,
                None => return parent_side,
            }
        }
    }

    /// Answers one message as far as memory can take it. The reply, if there is one, stands in `out`.
    pub fn answer(
        self: &Arc<Self>,
        message: &[u8],
        arrival: Arrival,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Malformed::Drop) => return Outcome::Drop,
            Err(Malformed::Reject(rcode)) => {
                write_rejection(message, rcode, out);
                return Outcome::Reply;
            }
        };
        let qclass = query.qclass();
        // All data is of class IN. Another class is not forwarded either: what an upstream says of itself in class CH is
        // none of the client's business.
        if qclass != Class::IN && qclass != Class::ANY {
            return self.refuse(&query, arrival, out, Rcode::REFUSED, None);
        }
        if query.edns().is_some_and(|edns| edns.version != 0) {
            return self.refuse(&query, arrival, out, Rcode::BADVERS, None);
        }
        let qname = NameBuf::lower_of(query.qname());
        let Some(block) = self.find(&qname, query.qtype()) else {
            let why = ExtendedError::new(ExtendedError::NOT_AUTHORITATIVE, "");
            return self.refuse(&query, arrival, out, Rcode::REFUSED, Some(why));
        };
        if block.chain.is_empty() {
            return self.refuse(&query, arrival, out, Rcode::REFUSED, None);
        }
        let mut exchange = Exchange::new(&query, &qname, State::new(arrival), block, self, out);
        Chain::start(&mut exchange, 0)
    }

    /// A reply that no plugin wrote.
    fn refuse(
        &self,
        query: &Query<'_>,
        arrival: Arrival,
        out: &mut Vec<u8>,
        rcode: Rcode,
        why: Option<ExtendedError>,
    ) -> Outcome {
        if rcode != Rcode::BADVERS {
            self.metrics.count_unserved(query, &arrival, rcode);
        }
        let mut reply = ReplyWriter::new(query, out);
        reply.rcode = rcode;
        // An error reply is never larger than its query, so it cannot amplify: the extended error goes. That limit is
        // not the client's, so what goes is no reason to ask again over TCP (TC, RFC 8914, section 3).
        let limit = query.message().len().min(usize::from(UDP_CLASSIC_MAX));
        let why = why.filter(|why| reply.len() + ReplyOpt::len_with(0, Some(why)) <= limit);
        let opt = query.edns().map(|edns| ReplyOpt {
            payload_size: UDP_PAYLOAD_DEFAULT,
            dnssec_ok: edns.dnssec_ok && edns.version == 0,
            extended_error: why.as_ref(),
            options: &[],
        });
        reply.finish(query, limit, opt.as_ref());
        Outcome::Reply
    }
}
