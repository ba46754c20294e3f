//! `autopath`: walks the search path of a client's resolver in its place, so that a name takes one query and not one for
//! each element.
//!
//! ```text
//! query  shop.example.org.web.svc.cluster.local. ->  next plugins
//! reply  NXDOMAIN  <-'  shop.example.org.svc.cluster.local.  ->  next plugins
//!                       shop.example.org.cluster.local.      ->  next plugins
//!                       shop.example.org.                    ->  an answer: CNAME, then its records
//! ```
//!
//! The first element is what the client asked for, so the query simply goes on; only a name error on the way back up
//! costs anything. What memory knows is tried at once, what has to be fetched is waited for, and each name goes through
//! the rest of the chain: a `cache` below keeps them one by one.

mod config;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::chain::aside::{Aside, Room};
use crate::chain::deferred::Deferred;
use crate::chain::exchange::{Below, Exchange, State};
use crate::chain::plugin::{After, Answer, Failure, Passes, Plugin, Step, Verdict};
use crate::chain::search::SearchPath;
use crate::plugin::Spec;
use crate::telemetry::metrics::Families;
use crate::wire::MESSAGE_MAX;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::{Name, NameBuf};
use crate::wire::query::{Query, flag};
use crate::wire::record::{Records, Section};
use crate::wire::writer::{Owner, ReplyWriter};

/// What is known about `autopath`.
pub static SPEC: Spec = Spec {
    name: "autopath",
    summary: "walks the search path of a client's resolver in its place",
    options: &[],
    parse: config::parse,
};

/// Who knows the search path.
enum Source {
    /// A file: the same for every client.
    File(Box<[Name]>),
    /// A plugin below.
    Plugin(Box<str>),
}

struct Autopath {
    zones: Box<[Name]>,
    source: Source,
    successes: Successes,
}

/// What counts names that were found, by listener: a block may have keys on several.
struct Successes {
    families: Arc<AutopathMetrics>,
    by_server: ArcSwap<Vec<(Arc<str>, IntCounter)>>,
}

struct AutopathMetrics {
    successes: IntCounterVec,
}

impl Families for AutopathMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "coredns_autopath_success_total",
            "names of a search path that were found, at once or further down the path",
        );
        let successes = IntCounterVec::new(options, &["server"])?;
        registry.register(Box::new(successes.clone()))?;
        Ok(Self { successes })
    }
}

impl Successes {
    fn new(families: Arc<AutopathMetrics>) -> Self {
        Self {
            families,
            by_server: ArcSwap::default(),
        }
    }

    /// The counter of a listener. Without a lock, once it is known.
    fn of(&self, server: &Arc<str>) -> IntCounter {
        let known = self.by_server.load();
        match known.iter().find(|(name, _)| name == server) {
            Some((_, counter)) => counter.clone(),
            None => self.add(server),
        }
    }

    /// Twice for one listener does no harm: equal labels lead to one counter.
    #[cold]
    fn add(&self, server: &Arc<str>) -> IntCounter {
        let counter = self.families.successes.with_label_values(&[&**server]);
        self.by_server.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push((Arc::clone(server), counter.clone()));
            known
        });
        counter
    }
}

impl Plugin for Autopath {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Queries
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        thread_local! {
            static ROOM: Cell<Room> = const { Cell::new(Room::new()) };
        }
        // A failure says nothing about the name, so nobody looks further. The target of an alias is no name that a
        // resolver has searched for.
        let state = &exchange.state;
        if state.dropped || state.error.is_some() || state.arrival.alias_depth > 0 {
            return After::Done;
        }
        let Some(path) = self.path(exchange) else {
            return After::Done;
        };
        let successes = self.successes.of(&exchange.block().server);
        if exchange.reply.rcode != Rcode::NXDOMAIN {
            successes.inc();
            return After::Done;
        }
        let mut room = ROOM.take();
        let found = search(exchange, path, &mut room, &successes);
        let after = match found {
            Found::Nothing => After::Done,
            Found::Reply(state) => {
                take(exchange, room.reply(), state);
                After::Done
            }
            Found::Dropped => {
                exchange.state.dropped = true;
                After::Done
            }
            Found::Later(search) => After::Defer(Box::pin(search.verdict())),
        };
        ROOM.set(room);
        after
    }
}

impl Autopath {
    fn path<'e>(&'e self, exchange: &'e Exchange<'_>) -> Option<SearchPath<'e>> {
        let qname = exchange.qname();
        let in_zone = |zone: &Name| qname.is_at_or_below(zone.as_ref());
        if !self.zones.iter().any(in_zone) {
            return None;
        }
        match &self.source {
            Source::Plugin(name) => exchange.search_path_below(name),
            Source::File(elements) => {
                let (first, others) = elements.split_first()?;
                // QNAME itself has no base: CoreDNS fails then, which tells the client that the server is ill.
                let base = qname.prefix_len(first.as_ref()).filter(|&base| base > 0)?;
                Some(SearchPath {
                    base,
                    within: None,
                    others,
                })
            }
        }
    }
}

/// What the rest of a search path led to.
#[expect(clippy::large_enum_variant, reason = "a box would allocate")]
enum Found {
    /// No element has the name.
    Nothing,
    /// The reply, in the room.
    Reply(State),
    /// There will be none.
    Dropped,
    /// It has to be waited for.
    Later(Box<Search>),
}

/// Looks for the names after the first.
fn search(
    exchange: &Exchange<'_>,
    path: SearchPath<'_>,
    room: &mut Room,
    successes: &IntCounter,
) -> Found {
    let mut names = path.further(exchange.query.qname(), exchange.qname());
    while let Some(name) = names.next() {
        match exchange.ask_below(name.as_ref(), room) {
            Aside::Reply(state) if is_name_error(&state, room.reply()) => {}
            Aside::Reply(state) => {
                count(successes, &state);
                return Found::Reply(state);
            }
            Aside::Drop => return Found::Dropped,
            Aside::Deferred(waiting) => {
                return Found::Later(Box::new(Search {
                    message: exchange.query.message().into(),
                    waiting,
                    names: names.map(|name| name.as_ref().to_name()).collect(),
                    below: exchange.below(),
                    successes: successes.clone(),
                }));
            }
        }
    }
    Found::Nothing
}

/// A search that waits.
struct Search {
    message: Box<[u8]>,
    waiting: Box<Deferred>,
    /// Those that are left.
    names: Vec<Name>,
    below: Below,
    successes: IntCounter,
}

impl Search {
    async fn verdict(self: Box<Self>) -> Verdict {
        let Self {
            message,
            mut waiting,
            names,
            below,
            successes,
        } = *self;
        let mut names = names.into_iter();
        let mut room = Room::new();
        loop {
            let Some((reply, state)) = waiting.finish_aside().await else {
                return Verdict::Drop;
            };
            if !is_name_error(&state, &reply) {
                count(&successes, &state);
                return verdict(&message, &reply, state);
            }
            waiting = loop {
                let Some(name) = names.next() else {
                    // The first reply stays as it is.
                    return Verdict::Next;
                };
                match below.ask_for(name.as_ref(), &mut room) {
                    Aside::Reply(state) if is_name_error(&state, room.reply()) => {}
                    Aside::Reply(state) => {
                        count(&successes, &state);
                        return verdict(&message, room.reply(), state);
                    }
                    Aside::Drop => return Verdict::Drop,
                    Aside::Deferred(next) => break next,
                }
            };
        }
    }
}

/// Whether this element of the path does not have the name.
fn is_name_error(state: &State, reply: &[u8]) -> bool {
    state.error.is_none() && u16::from(reply[3] & 0x0f) == Rcode::NXDOMAIN.0
}

fn count(successes: &IntCounter, state: &State) {
    if state.error.is_none() {
        successes.inc();
    }
}

/// Makes the reply to another name that to the client's.
fn take(exchange: &mut Exchange<'_>, reply: &[u8], state: State) {
    exchange.reply.reset();
    let high = write(exchange.query, reply, &mut exchange.reply);
    exchange.reply.rcode.0 |= u16::from(high) << 4;
    exchange.state.answered_by = state.answered_by;
    exchange.state.error = state.error;
    exchange.state.extended_error = state.extended_error;
    exchange.state.upstream = state.upstream;
}

/// The same for a query that waited.
fn verdict(message: &[u8], reply: &[u8], state: State) -> Verdict {
    let query = Query::parse(message).expect("it was checked before it waited");
    if let Some(error) = state.error {
        return Verdict::Fail(Failure {
            rcode: Rcode(u16::from(reply[3] & 0x0f)),
            error,
            extended_error: state.extended_error,
        });
    }
    let mut out = Vec::with_capacity(reply.len() + 64);
    let mut writer = ReplyWriter::new(&query, &mut out);
    let rcode_high = write(&query, reply, &mut writer);
    writer.finish(&query, MESSAGE_MAX, None);
    Verdict::Reply(Answer {
        message: out,
        rcode_high,
        extended_error: state.extended_error,
        upstream: state.upstream,
        answered_by: state.answered_by,
        ..Answer::default()
    })
}

/// Writes a reply to another name as one to this query: an alias leads from its name to the other one, unless there is
/// nothing to lead to. The upper bits of the RCODE come back.
fn write(query: &Query<'_>, message: &[u8], reply: &mut ReplyWriter<'_>) -> u8 {
    reply.rcode = Rcode(u16::from(message[3] & 0x0f));
    reply.authoritative = message[2] & flag::AA != 0;
    reply.truncated = message[2] & flag::TC != 0;
    reply.recursion_available = message[3] & flag::RA != 0;
    reply.authentic_data = message[3] & flag::AD != 0;
    let mut rcode_high = 0;
    let records = Records::of_message(message).into_iter().flatten().flatten();
    for (section, record) in records {
        if record.record_type == RecordType::OPT {
            [rcode_high, ..] = record.ttl.to_be_bytes();
            continue;
        }
        if section == Section::Answer && reply.count(Section::Answer) == 0 {
            let owner: NameBuf = record.owner();
            if owner.as_ref() != query.qname() {
                let target = owner.as_ref();
                reply.name_record(Owner::Question, RecordType::CNAME, record.ttl, target);
            }
        }
        reply.go_to(section);
        reply.copy(&record);
    }
    rcode_high
}
