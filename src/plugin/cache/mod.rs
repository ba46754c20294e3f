//! `cache`: keeps replies for as long as their TTLs allow.
//!
//! ```text
//! query  owned below? ------------------------------> Next, and nothing is kept
//!        entry, good ------> copied behind the client's own question -> Answered
//!        entry, expired ---> `serve_stale` says what comes first
//!        none -------------------------------------------> Next
//! reply  survey: kind and TTL -> every record gets the one TTL -> kept if its kind is
//! ```
//!
//! Misses are not brought together here: whoever waits below waits for `forward` in the end, aliases and searches too, and
//! that asks identical questions once.
//!
//! What a plugin below answers from data it holds is never looked up nor kept here, so a name of the cluster is right
//! the moment the cluster table is; only its TTLs leave as they would on any miss. An entry is a whole message in wire
//! form: same question, same octets up to letter case, so its compression pointers hold behind every client's question.

mod budget;
mod config;
mod metrics;
mod refresh;
mod store;
mod survey;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::chain::exchange::{Exchange, State};
use crate::chain::plugin::{After, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::cache::budget::Budget;
use crate::plugin::cache::config::{CacheConfig, StaleMode};
use crate::plugin::cache::metrics::{BudgetGauges, CacheFamilies, CounterSet, Counters};
use crate::plugin::cache::refresh::{Tasks, give_stale, kept_flags};
use crate::plugin::cache::store::{Entries, Entry, Key};
use crate::plugin::cache::survey::{Asked, Kind, Survey, View, set_ttls, survey};
use crate::server::assembly::Assembly;
use crate::wire::HEADER_LEN;
use crate::wire::code::Rcode;
use crate::wire::edns::ExtendedError;
use crate::wire::name::{Name, NameRef};
use crate::wire::query::Query;

/// What is known about `cache`.
pub static SPEC: Spec = Spec {
    name: "cache",
    summary: "keeps replies for as long as their TTLs allow",
    options: config::OPTIONS,
    parse: config::parse,
};

pub(in crate::plugin::cache) struct Cache {
    shelf: Arc<Shelf>,
    tasks: Tasks,
}

/// All of a cache but its tasks: what a refresh takes along.
pub(in crate::plugin::cache) struct Shelf {
    config: CacheConfig,
    entries: Arc<Entries>,
    counters: CounterSet,
    budget: Arc<Budget>,
}

/// An entry that answers a query, and whether its time is over.
struct Hit {
    entry: Arc<Entry>,
    /// Seconds left; none if it is stale.
    left: Option<u32>,
    /// 0 for an answer, 1 for a denial.
    kind: usize,
}

impl Cache {
    pub(in crate::plugin::cache) fn new(config: CacheConfig, assembly: &mut Assembly<'_>) -> Self {
        let process = assembly.process;
        let octets = budget::octets(assembly.generation.demands.cache_octets);
        let Ok(budget) = process
            .shared
            .get_or_try("", || Ok::<_, Infallible>(Budget::new(octets)));
        process.metrics.families::<BudgetGauges>().show(&budget);
        // Not before this generation serves: it may be given up, and then all stays as it was.
        let later = Arc::clone(&budget);
        let change = Box::pin(async move { later.set_octets(octets) });
        assembly.generation.after_serving.push(change);
        let zones: Vec<String> = config.zones.iter().map(Name::to_string).collect();
        let counters = CounterSet::new(
            process.metrics.families::<CacheFamilies>(),
            zones.join(","),
            assembly.server,
        );
        // Everything that decides what an entry says: with any of it changed, a reload starts with an empty cache.
        let origins = assembly.origins();
        let (server, below) = (assembly.server, assembly.fingerprint_below);
        let alone = config.without_memory();
        let key = format!("{server} {origins:?} {below:x} {alone:?}");
        let Ok(entries) = process.shared.get_or_try(&key, || {
            Ok::<_, Infallible>(Entries::new(
                &budget,
                [config.success.capacity, config.denial.capacity],
                counters.evictions(server),
            ))
        });
        let shelf = Arc::new(Shelf {
            config,
            entries,
            counters,
            budget,
        });
        let tasks = Tasks::of(assembly);
        tasks.sweep(&shelf, assembly.server);
        Self { shelf, tasks }
    }
}

impl Plugin for Cache {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let shelf = &self.shelf;
        if !is_within(exchange.qname(), &shelf.config.zones) {
            return Step::Next;
        }
        if exchange.owned_below() {
            exchange.state.do_not_store = true;
            return Step::Next;
        }
        exchange.state.ask_authentic_data = true;
        let now = exchange.arrival().received;
        let key = Key::of(exchange.query);
        let counters = shelf.counters.of(&exchange.block().server);
        counters.requests.inc();
        let Some(hit) = shelf.find(&key, now) else {
            counters.misses.inc();
            return Step::Next;
        };
        counters.hits[hit.kind].inc();
        match hit.left {
            Some(left) => {
                self.prefetch(exchange, &hit.entry, left, &key, &counters);
                if hit.entry.rcode() == Rcode::SERVFAIL {
                    let cached = ExtendedError::new(ExtendedError::CACHED_ERROR, "");
                    exchange.state.extended_error = Some(cached);
                }
                give(exchange, &hit.entry, shelf.ttl_left(&hit.entry, left))
            }
            None => self.stale(exchange, &hit.entry, &key, &counters),
        }
    }

    /// Only `serve_stale … verify TIMEOUT` waits here, and what is stale is better than nothing.
    fn answer_at_once(&self, exchange: &mut Exchange<'_>) -> bool {
        let shelf = &self.shelf;
        let now = exchange.arrival().received;
        let Some(stale) = shelf.config.stale else {
            return false;
        };
        let Some(hit) = shelf.find(&Key::of(exchange.query), now) else {
            return false;
        };
        let step = match hit.left {
            // The refresh has come back meanwhile.
            Some(left) => give(exchange, &hit.entry, shelf.ttl_left(&hit.entry, left)),
            None => {
                let counters = shelf.counters.of(&exchange.block().server);
                give_stale(exchange, &hit.entry, stale.ttl, &counters)
            }
        };
        matches!(step, Step::Answered)
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        let shelf = &self.shelf;
        if !is_within(exchange.qname(), &shelf.config.zones) {
            return After::Done;
        }
        let received = exchange.arrival().received;
        // What is not kept has no need of the time, and reading the clock costs as much as a look-up.
        let now = if exchange.state.do_not_store {
            received
        } else {
            Instant::now().max(received)
        };
        let refreshed = match shelf.survey_reply(exchange) {
            None => false,
            Some(survey) => {
                let mut ttl = shelf.ttl(survey);
                if exchange.state.error.is_some() {
                    ttl = ttl.min(UNREACHABLE_TTL);
                }
                // A transfer leaves as it is: its TTLs are the zone's own.
                if survey.kind != Kind::Transfer {
                    let counts = exchange.reply.counts();
                    let question_end = HEADER_LEN + exchange.query.question_octets().len();
                    set_ttls(exchange.reply.octets_mut(), question_end, counts, ttl);
                }
                self.keep(exchange, survey, ttl, now);
                let reply = &exchange.reply;
                shelf.is_refreshed(reply.rcode, reply.truncated, survey)
            }
        };
        if !exchange.query.dnssec_ok() && !exchange.query.authentic_data() {
            exchange.reply.authentic_data = false;
        }
        if let Some(stale) = shelf.config.stale
            && let StaleMode::Verify(None) = stale.mode
            && !exchange.state.do_not_store
        {
            self.fall_back(exchange, refreshed, now);
        }
        After::Done
    }
}

impl Cache {
    /// Keeps the reply on its way up, if it is one to be kept.
    fn keep(&self, exchange: &Exchange<'_>, survey: Survey, ttl: u32, now: Instant) {
        if exchange.state.do_not_store || !is_for_everyone(exchange.query) || exchange.owned_below()
        {
            return;
        }
        let shelf = &self.shelf;
        let view = view(exchange);
        if !shelf.wants(exchange.qname(), survey, ttl, view.truncated) {
            return;
        }
        let flags = kept_flags(&exchange.reply);
        let answers = survey.kind == Kind::Answer;
        let Some(entry) = Entry::new(view, flags, ttl, answers, now) else {
            return;
        };
        if shelf.put(&Key::of(exchange.query), survey.kind, &Arc::new(entry), now) {
            shelf.count_entries(&shelf.counters.of(&exchange.block().server));
        }
    }
}

impl Shelf {
    /// The entry to answer from. An answer goes first: where a denial stands beside one, the denial is a failure, or
    /// the Corefile prefers answers.
    fn find(&self, key: &Key, now: Instant) -> Option<Hit> {
        let partitions = [&self.entries.success, &self.entries.denial];
        partitions.iter().enumerate().find_map(|(kind, partition)| {
            let entry = partition.find(key)?;
            let left = self.usable(&entry, now)?;
            Some(Hit { entry, left, kind })
        })
    }

    /// The TTL that an entry with so many seconds left leaves with.
    fn ttl_left(&self, entry: &Entry, left: u32) -> u32 {
        if self.config.keep_ttl {
            entry.ttl_stored()
        } else {
            left
        }
    }

    /// Seconds that an entry has left, none of them if it is stale; none if it is of no use any more.
    fn usable(&self, entry: &Entry, now: Instant) -> Option<Option<u32>> {
        let stale_max = self.config.stale.map_or(0, |stale| stale.seconds_max);
        match entry.left(now) {
            Ok(left) => Some(Some(left)),
            // A failure is no data, so there is nothing to hold on to.
            Err(past) if past < u64::from(stale_max) && says_something(entry.rcode()) => Some(None),
            Err(_) => None,
        }
    }

    /// None if there is nothing to look at: no reply, or one that only says that something went wrong here.
    fn survey_reply(&self, exchange: &Exchange<'_>) -> Option<Survey> {
        let state = &exchange.state;
        if state.dropped || (state.error.is_some() && !is_unreachable(state)) {
            return None;
        }
        Some(survey(view(exchange), asked(exchange.query), unix_time))
    }

    /// The one TTL that all records of a reply get.
    fn ttl(&self, survey: Survey) -> u32 {
        match survey.kind {
            // RFC 2308, section 5: a denial lives no longer than its SOA's MINIMUM. (CoreDNS looks at the TTL alone.)
            Kind::Denial => {
                let ttl = survey
                    .soa_minimum
                    .map_or(survey.ttl, |minimum| survey.ttl.min(minimum));
                self.config.denial.clamp(ttl)
            }
            Kind::BareDenial => self.config.denial.clamp(survey.ttl),
            Kind::Failure => self.config.failure_ttl,
            _ => self.config.success.clamp(survey.ttl),
        }
    }

    /// Whether such a reply is kept.
    fn wants(&self, qname: NameRef<'_>, survey: Survey, ttl: u32, truncated: bool) -> bool {
        let off = if survey.kind.is_negative() {
            &self.config.denial_off
        } else {
            &self.config.success_off
        };
        ttl > 0 && survey.kind.is_kept() && !truncated && !is_within(qname, off)
    }

    /// Keeps an entry, unless something better is there. The newest word on a name stands alone: an answer takes the
    /// place of a denial, and the other way round.
    fn put(&self, key: &Key, kind: Kind, entry: &Arc<Entry>, now: Instant) -> bool {
        let (success, denial) = (&self.entries.success, &self.entries.denial);
        let is_usable = |known: &Arc<Entry>| self.usable(known, now).is_some();
        let holds_answer = || {
            let known = success.find(key).filter(is_usable);
            self.config.prefer_positive && known.is_some_and(|known| known.answers)
        };
        match kind {
            Kind::Failure => {
                // A failure says nothing about the name: whatever is known stays.
                let known = denial.find(key).filter(is_usable);
                if known.is_some_and(|known| says_something(known.rcode())) {
                    return false;
                }
                denial.put(key, Arc::clone(entry));
            }
            Kind::Denial => {
                denial.put(key, Arc::clone(entry));
                // Only now: a name is never without an entry in between.
                if !holds_answer() {
                    success.remove(key);
                }
            }
            _ => {
                if kind != Kind::Answer && holds_answer() {
                    return false;
                }
                success.put(key, Arc::clone(entry));
                denial.remove(key);
            }
        }
        true
    }

    /// Forgets what is expired and of no use any more.
    fn sweep(&self, now: Instant) {
        for partition in [&self.entries.success, &self.entries.denial] {
            partition.forget(|entry| self.usable(entry, now).is_none());
        }
    }

    fn count_entries(&self, counters: &Counters) {
        for (gauge, partition) in counters
            .entries
            .iter()
            .zip([&self.entries.success, &self.entries.denial])
        {
            gauge.set(i64::try_from(partition.len()).unwrap_or(i64::MAX));
        }
    }
}

/// Answers from an entry.
fn give(exchange: &mut Exchange<'_>, entry: &Entry, ttl: u32) -> Step {
    if exchange.reply.adopt(entry.message()).is_err() {
        // The key holds the whole question, so this is a mistake of ours; the chain below still knows the answer.
        exchange.reply.reset();
        return Step::Next;
    }
    entry.set_ttls(exchange.reply.octets_mut(), ttl);
    // RFC 6840, sections 5.7 and 5.8: AD is for those who asked for it.
    exchange.reply.authentic_data =
        entry.authentic_data() && (exchange.query.dnssec_ok() || exchange.query.authentic_data());
    exchange.state.do_not_store = true;
    Step::Answered
}

fn view<'x>(exchange: &'x Exchange<'_>) -> View<'x> {
    View {
        octets: exchange.reply.octets(),
        question_end: HEADER_LEN + exchange.query.question_octets().len(),
        counts: exchange.reply.counts(),
        rcode: exchange.reply.rcode,
        truncated: exchange.reply.truncated,
    }
}

fn asked<'q>(query: &Query<'q>) -> Asked<'q> {
    Asked {
        qname: query.qname(),
        qtype: query.qtype(),
        qclass: query.qclass(),
        dnssec_ok: query.dnssec_ok(),
    }
}

fn is_within(qname: NameRef<'_>, zones: &[Name]) -> bool {
    zones.iter().any(|zone| qname.is_at_or_below(zone.as_ref()))
}

/// Whether a reply says something about the name.
fn says_something(rcode: Rcode) -> bool {
    rcode == Rcode::NOERROR || rcode == Rcode::NXDOMAIN
}

/// Seconds for which it is remembered that no upstream could be reached for a name. That long at least
/// (RFC 9520, section 3.2), and no longer: the next attempt may well succeed.
const UNREACHABLE_TTL: u32 = 1;

/// Whether it went wrong because no upstream could be reached. Other failures without a reply are those of this moment:
/// no room, no time, not synced yet.
fn is_unreachable(state: &State) -> bool {
    state.extended_error.as_ref().is_some_and(|error| {
        error.code == ExtendedError::NO_REACHABLE_AUTHORITY
            || error.code == ExtendedError::NETWORK_ERROR
    })
}

/// Whether the reply to this query may be given to others. Without RD an upstream tells what it happens to know, mostly
/// nothing; a signed reply is the signer's. (A client subnet makes no difference: `forward` sends none on.)
fn is_for_everyone(query: &Query<'_>) -> bool {
    query.recursion_desired() && !query.is_signed()
}

fn unix_time() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    // Signature times are serial numbers of 32 bits (RFC 4034, section 3.1.5).
    u32::try_from(since.as_secs() & 0xffff_ffff).unwrap_or(u32::MAX)
}
