//! A query and its reply in progress: what every plugin of the chain works on.

use std::borrow::Cow;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::chain::Chain;
use crate::chain::content::Held;
use crate::chain::deferred::{Deferred, Outcome, Wait};
use crate::chain::plugin::Messages;
use crate::chain::search::SearchPath;
use crate::wire::UDP_PAYLOAD_DEFAULT;
use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::edns::{CookieOption, ExtendedError};
use crate::wire::name::{NameBuf, NameRef};
use crate::wire::query::{Query, flag};
use crate::wire::record::Section;
use crate::wire::writer::{ReplyOpt, ReplyWriter};
use crate::wire::{MESSAGE_MAX, UDP_CLASSIC_MAX};
use crate::zone::Zones;
use crate::zone::block::ServerBlock;

/// How a query reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// One datagram; the reply has a limit.
    Udp,
    /// A stream; the reply may have 64 KiB.
    Tcp,
}

impl Protocol {
    /// As it stands in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Where and when a query came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Who asked. IPv4-mapped addresses are IPv4 here.
    pub client: SocketAddr,
    /// The address that was asked.
    pub local: SocketAddr,
    /// UDP or TCP.
    pub protocol: Protocol,
    /// When the batch it came in was received.
    pub received: Instant,
    /// Questions that led to this one (an alias' target is a new question); 0 from a client.
    pub alias_depth: u8,
    /// The socket that it came by holds as many unsent replies as it may ([`unsent`](crate::net::unsent)).
    pub is_crowded: bool,
}

/// What is known about a query beside its octets, and survives waiting.
#[derive(Clone, Debug)]
pub struct State {
    /// Where it came from.
    pub arrival: Arrival,
    /// UDP payload that a reply may have at most, and that we advertise; `bufsize` changes it.
    pub udp_payload_max: u16,
    /// The plugin that wrote the reply; none where the server did.
    pub answered_by: Option<&'static str>,
    /// What went wrong, for `errors`.
    pub error: Option<Cow<'static, str>>,
    /// What the client is told about it (RFC 8914).
    pub extended_error: Option<ExtendedError>,
    /// What the client gets back with its cookie (`cookie`).
    pub cookie: Option<CookieOption>,
    /// The upstream that the reply came from.
    pub upstream: Option<SocketAddr>,
    /// Nothing will be sent.
    pub dropped: bool,
    /// When to give up (`cancel`).
    pub deadline: Option<Instant>,
    /// The reply came from the cache, or its owner forbids storing it.
    pub do_not_store: bool,
    /// Queries to upstreams for this one set AD, so that their replies say whether they are authentic even if this
    /// client did not ask (RFC 6840, section 5.7): another one may, and the reply is kept for both.
    pub ask_authentic_data: bool,
    /// Plugins may be asked for what they know of the query ([`Exchange::metadata`]).
    pub metadata: bool,
    /// The reply is for ourselves (a refresh of the cache), so the limit of UDP does not apply.
    pub whole: bool,
    /// A plugin above picks among the records, so none may be left out because it would be cut.
    pub all_records: bool,
}

impl State {
    /// For a query that has just come in.
    pub fn new(arrival: Arrival) -> Self {
        Self {
            arrival,
            udp_payload_max: UDP_PAYLOAD_DEFAULT,
            answered_by: None,
            error: None,
            extended_error: None,
            cookie: None,
            upstream: None,
            dropped: false,
            deadline: None,
            do_not_store: false,
            ask_authentic_data: false,
            metadata: false,
            whole: false,
            all_records: false,
        }
    }

    /// Whether the reply is for ourselves, not for the client: all of it is wanted. `arrival.protocol` still says how
    /// the client asked, which is how `forward` asks.
    pub fn is_whole(&self) -> bool {
        self.whole || self.arrival.alias_depth > 0
    }
}

/// A query on its way down the chain, and its reply on the way up.
pub struct Exchange<'e> {
    /// The query, checked.
    pub query: &'e Query<'e>,
    /// The reply so far.
    pub reply: ReplyWriter<'e>,
    /// All else that is known.
    pub state: State,
    qname: NameRef<'e>,
    block: &'e Arc<ServerBlock>,
    zones: &'e Arc<Zones>,
    pub(in crate::chain) depth: usize,
    /// The messages that follow this reply.
    pub(in crate::chain) rest: Option<Box<dyn Messages>>,
}

impl<'e> Exchange<'e> {
    /// Starts one, with an empty reply in `out`. `qname` is the query's, folded to lower case.
    pub fn new(
        query: &'e Query<'e>,
        qname: &'e NameBuf,
        state: State,
        block: &'e Arc<ServerBlock>,
        zones: &'e Arc<Zones>,
        out: &'e mut Vec<u8>,
    ) -> Self {
        Self {
            query,
            reply: ReplyWriter::new(query, out),
            state,
            qname: qname.as_ref(),
            block,
            zones,
            depth: 0,
            rest: None,
        }
    }

    /// QNAME in lower case, for look-ups. `query.qname()` has the client's spelling.
    pub fn qname(&self) -> NameRef<'e> {
        self.qname
    }

    /// QTYPE.
    pub fn qtype(&self) -> RecordType {
        self.query.qtype()
    }

    /// The server block that this query belongs to.
    pub fn block(&self) -> &'e Arc<ServerBlock> {
        self.block
    }

    /// All server blocks of the listener, for asking a new question.
    pub fn zones(&self) -> &'e Arc<Zones> {
        self.zones
    }

    /// Where and when the query came in.
    pub fn arrival(&self) -> &Arrival {
        &self.state.arrival
    }

    /// Whether a plugin below the one being asked answers this question from data it holds.
    pub fn owned_below(&self) -> bool {
        self.block.chain.owned_below(self)
    }

    /// The whole zone whose apex is QNAME, from the first plugin below the one being asked that holds it.
    pub fn content_below(&self) -> Held {
        self.block.chain.content_below(self)
    }

    pub(in crate::chain) fn depth(&self) -> usize {
        self.depth
    }

    /// Makes the reply a bare failure. `error` goes to the log, never to the client.
    pub fn fail(&mut self, rcode: Rcode, error: impl Into<Cow<'static, str>>) {
        self.reply.reset();
        self.reply.rcode = rcode;
        self.rest = None;
        self.state.error = Some(error.into());
    }

    /// What went wrong, in words for the log.
    pub fn error(&self) -> Option<Cow<'_, str>> {
        let error = self.state.error.as_deref()?;
        if error != super::NO_NEXT_PLUGIN {
            return Some(error.into());
        }
        // The plugin is named only here, where somebody reads it: failing allocates nothing.
        let last = self.block.chain.names().last().unwrap_or_default();
        Some(format!("plugin/{last}: {error}").into())
    }

    /// The reply's limit in octets.
    pub fn limit(&self) -> usize {
        match self.state.arrival.protocol {
            Protocol::Tcp => MESSAGE_MAX,
            Protocol::Udp if self.state.is_whole() => MESSAGE_MAX,
            Protocol::Udp => {
                let client = self.query.edns().map_or(UDP_CLASSIC_MAX, |edns| {
                    edns.payload_size.max(UDP_CLASSIC_MAX)
                });
                usize::from(client.min(self.state.udp_payload_max))
            }
        }
    }

    /// Octets that the reply as it is now would have on the wire, OPT included, if it were not cut to
    /// [`Exchange::limit`].
    pub fn uncut_len(&self) -> usize {
        let opt_len = self.query.edns().map_or(0, |_| {
            let error = self.state.extended_error.as_ref();
            ReplyOpt::len_with(self.options().len(), error)
        });
        self.reply.len() + opt_len
    }

    /// Octets of further records that are of use to anyone. What passes them would be cut, so a plugin with thousands of
    /// records need not write it.
    pub fn room(&self) -> usize {
        let limit = if self.state.all_records {
            MESSAGE_MAX
        } else {
            self.limit()
        };
        limit.saturating_sub(self.uncut_len())
    }

    /// Fills in header and OPT and cuts the reply to its limit.
    pub fn finish(&mut self) {
        let limit = self.limit();
        let opt = self.query.edns().map(|edns| ReplyOpt {
            payload_size: self.state.udp_payload_max,
            dnssec_ok: edns.dnssec_ok,
            extended_error: self.state.extended_error.as_ref(),
            options: self
                .state
                .cookie
                .as_ref()
                .map_or(&[], CookieOption::as_wire),
        });
        self.reply.finish(self.query, limit, opt.as_ref());
    }

    /// Options of the reply's OPT but the extended error.
    fn options(&self) -> &[u8] {
        let cookie = self.state.cookie.as_ref();
        cookie.map_or(&[], CookieOption::as_wire)
    }

    /// A handle for asking the plugins below the one being asked, now or later, apart from this exchange: the reply
    /// comes back whole (no limit of UDP), and nothing above sees it.
    pub fn below(&self) -> Below {
        Below {
            message: self.query.message().into(),
            state: self.aside_state(),
            block: Arc::clone(self.block),
            zones: Arc::clone(self.zones),
            floor: self.depth + 1,
        }
    }

    /// What a question asked aside starts with.
    pub(in crate::chain) fn aside_state(&self) -> State {
        State {
            whole: true,
            ask_authentic_data: self.state.ask_authentic_data,
            metadata: self.state.metadata,
            ..State::new(self.state.arrival)
        }
    }

    pub(in crate::chain) fn surroundings(&self) -> (&Arc<ServerBlock>, &Arc<Zones>) {
        (self.block, self.zones)
    }

    /// The search path of the client for this question, from the plugin of this name below the one being asked; none
    /// if it knows none.
    pub fn search_path_below(&self, plugin: &str) -> Option<SearchPath<'_>> {
        self.block.chain.search_path_below(plugin, self)
    }

    /// Writes what the plugins of the block know of the query under a label; false if none does, or `metadata` does not
    /// allow to ask. Costs nothing where nobody asks.
    pub fn metadata(&self, label: &str, value: &mut dyn std::fmt::Write) -> bool {
        self.state.metadata && self.block.chain.metadata(label, self, value)
    }

    /// Asks a new question of the whole server, as the same client would (the target of an alias, say). The reply is
    /// a whole message in wire form and may carry an OPT.
    pub fn resolve(&self, qname: NameRef<'_>, qtype: RecordType) -> Resolution {
        resolve(self.zones, self.query, self.state.arrival, qname, qtype)
    }

    /// What `resolve` needs, to take along into a future.
    pub fn resolver(&self) -> Resolver {
        Resolver {
            message: self.query.message().into(),
            arrival: self.state.arrival,
            zones: Arc::clone(self.zones),
        }
    }

    /// Records in a section of the reply so far.
    pub fn count(&self, section: Section) -> u16 {
        self.reply.count(section)
    }
}

/// The answer to a new question.
pub enum Resolution {
    /// It was in memory; none if it was dropped.
    Ready(Option<Vec<u8>>),
    /// It has to be waited for.
    Waiting(Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>),
}

/// Asks new questions from within a future.
pub struct Resolver {
    message: Box<[u8]>,
    arrival: Arrival,
    zones: Arc<Zones>,
}

impl Resolver {
    /// As [`Exchange::resolve`].
    pub fn resolve(&self, qname: NameRef<'_>, qtype: RecordType) -> Resolution {
        match Query::parse(&self.message) {
            Ok(query) => resolve(&self.zones, &query, self.arrival, qname, qtype),
            Err(_) => Resolution::Ready(None),
        }
    }
}

/// How many questions may lead to one another before we stop: aliases that point at each other across zones.
pub const ALIAS_DEPTH_MAX: u8 = 11;

fn resolve(
    zones: &Arc<Zones>,
    query: &Query<'_>,
    arrival: Arrival,
    qname: NameRef<'_>,
    qtype: RecordType,
) -> Resolution {
    if arrival.alias_depth >= ALIAS_DEPTH_MAX {
        return Resolution::Ready(None);
    }
    let message = question_message(query, qname, qtype);
    let arrival = Arrival {
        alias_depth: arrival.alias_depth + 1,
        ..arrival
    };
    let mut out = Vec::with_capacity(512);
    match zones.answer(&message, arrival, &mut out) {
        Outcome::Reply => Resolution::Ready(Some(out)),
        Outcome::Drop => Resolution::Ready(None),
        Outcome::Deferred(deferred) => Resolution::Waiting(Box::pin(deferred.finish())),
    }
}

/// A query for something else with the flags and the OPT of this one.
fn question_message(query: &Query<'_>, qname: NameRef<'_>, qtype: RecordType) -> Vec<u8> {
    let mut message = Vec::with_capacity(qname.len() + 32);
    write_question(query, qname, qtype, &mut message);
    message
}

/// Appends such a query.
pub(in crate::chain) fn write_question(
    query: &Query<'_>,
    qname: NameRef<'_>,
    qtype: RecordType,
    message: &mut Vec<u8>,
) {
    message.extend_from_slice(&query.id().to_be_bytes());
    message.extend_from_slice(&[
        query.message()[2] & flag::RD,
        query.message()[3] & (flag::CD | flag::AD),
    ]);
    let additional = u8::from(query.edns().is_some());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, additional]);
    message.extend_from_slice(qname.as_wire());
    message.extend_from_slice(&qtype.0.to_be_bytes());
    message.extend_from_slice(&Class::IN.0.to_be_bytes());
    if let Some(edns) = query.edns() {
        message.push(0);
        message.extend_from_slice(&RecordType::OPT.0.to_be_bytes());
        message.extend_from_slice(&edns.payload_size.to_be_bytes());
        message.extend_from_slice(&[0, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
}

/// The rest of a chain, to be asked apart from any exchange (a cache refreshing an entry).
pub struct Below {
    pub(in crate::chain) message: Box<[u8]>,
    pub(in crate::chain) state: State,
    pub(in crate::chain) block: Arc<ServerBlock>,
    pub(in crate::chain) zones: Arc<Zones>,
    pub(in crate::chain) floor: usize,
}

impl Below {
    /// Asks; none if the query was dropped. The reply carries an OPT if the query did.
    pub async fn ask(self) -> Option<Vec<u8>> {
        let deferred = {
            let query = Query::parse(&self.message).ok()?;
            let mut out = Vec::with_capacity(512);
            let qname = NameBuf::lower_of(query.qname());
            let (block, zones) = (&self.block, &self.zones);
            let mut exchange = Exchange::new(&query, &qname, self.state, block, zones, &mut out);
            match Chain::start(&mut exchange, self.floor) {
                Outcome::Reply => return Some(out),
                Outcome::Drop => return None,
                Outcome::Deferred(deferred) => deferred,
            }
        };
        deferred.finish().await
    }
}

pub(in crate::chain) struct Parts {
    pub(in crate::chain) message: Arc<[u8]>,
    pub(in crate::chain) state: State,
    pub(in crate::chain) block: Arc<ServerBlock>,
    pub(in crate::chain) zones: Arc<Zones>,
    pub(in crate::chain) rest: Option<Box<dyn Messages>>,
}

impl Exchange<'_> {
    /// What has to be kept while waiting: the query's octets are copied once. The exchange is over then.
    pub(in crate::chain) fn suspend(
        &mut self,
        pending: crate::chain::plugin::Pending,
        floor: usize,
        wait: Wait,
    ) -> Box<Deferred> {
        let reply = (wait == Wait::Up).then(|| self.reply.to_partial());
        let nothing = State::new(self.state.arrival);
        let parts = Parts {
            message: self.query.message().into(),
            state: std::mem::replace(&mut self.state, nothing),
            block: Arc::clone(self.block),
            zones: Arc::clone(self.zones),
            rest: self.rest.take(),
        };
        let stays = wait == Wait::DownHere;
        Box::new(Deferred::new(
            parts, pending, stays, self.depth, floor, reply,
        ))
    }
}
