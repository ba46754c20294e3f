//! Asks the chain below again: before an entry expires (`prefetch`), or after (`serve_stale`).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chain::exchange::{Below, Exchange};
use crate::chain::plugin::{Answer, Step, Verdict};
use crate::plugin::cache::budget::RefreshPermit;
use crate::plugin::cache::config::StaleMode;
use crate::plugin::cache::metrics::Counters;
use crate::plugin::cache::store::{Entry, Flight, Key};
use crate::plugin::cache::survey::{Kind, Survey, View, survey};
use crate::plugin::cache::{Cache, SPEC, Shelf, asked, give, is_for_everyone, unix_time};
use crate::server::assembly::Assembly;
use crate::wire::code::Rcode;
use crate::wire::edns::ExtendedError;
use crate::wire::query::{Query, flag};
use crate::wire::writer::ReplyWriter;

/// How often expired entries are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Runs refreshes as tasks of the generation, so that a stop waits for none of them.
pub(in crate::plugin::cache) struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Of the generation being built.
    pub(in crate::plugin::cache) fn of(assembly: &Assembly<'_>) -> Self {
        Self {
            runtime: assembly.process.runtime.clone(),
            tracker: assembly.generation.tasks.clone(),
            stop: assembly.generation.stop.clone(),
        }
    }

    /// Forgets what is over from time to time, so that a name asked for once does not take memory for ever.
    pub(in crate::plugin::cache) fn sweep(&self, shelf: &Arc<Shelf>, server: &Arc<str>) {
        let (shelf, server) = (Arc::clone(shelf), Arc::clone(server));
        self.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                shelf.sweep(Instant::now());
                shelf.count_entries(&shelf.counters.of(&server));
            }
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn_on(
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            },
            &self.runtime,
        );
    }
}

/// One refresh.
struct Refresh {
    shelf: Arc<Shelf>,
    below: Below,
    message: Box<[u8]>,
    key: Key,
    entry: Arc<Entry>,
    counters: Arc<Counters>,
    /// When the query came in that made us refresh.
    asked_at: Instant,
    _permit: RefreshPermit,
}

impl Refresh {
    /// Asks, and keeps what comes back if it is better than nothing. The new entry, kept or not.
    async fn run(self) -> Option<Arc<Entry>> {
        let reply = self.below.ask().await;
        let now = Instant::now().max(self.asked_at);
        let fresh = reply.and_then(|reply| {
            let query = Query::parse(&self.message).ok()?;
            self.shelf
                .take_fresh(&query, &self.key, &reply, &self.counters, now)
        });
        match &fresh {
            Some(fresh) => {
                fresh.inherit_hits(&self.entry);
                self.entry.end_refresh();
            }
            None => self
                .entry
                .refresh_failed(self.asked_at, now, self.shelf.recheck()),
        }
        fresh
    }
}

impl Cache {
    /// Refreshes a good entry that is asked for often and has not much time left.
    pub(in crate::plugin::cache) fn prefetch(
        &self,
        exchange: &Exchange<'_>,
        entry: &Arc<Entry>,
        left: u32,
        key: &Key,
        counters: &Arc<Counters>,
    ) {
        let Some(prefetch) = self.shelf.config.prefetch else {
            return;
        };
        let now = exchange.arrival().received;
        let hits = entry.count_hit(now, prefetch.gap_max);
        let threshold = (u64::from(prefetch.percent) * u64::from(entry.ttl_stored())).div_ceil(100);
        if hits >= prefetch.hits
            && u64::from(left) <= threshold
            && entry.begin_refresh(now)
            && let Some(refresh) = self.refresh(exchange, entry, key, counters)
        {
            self.spawn(refresh, Duration::ZERO);
        }
    }

    /// What to do with an entry that is expired, but not for too long.
    pub(in crate::plugin::cache) fn stale(
        &self,
        exchange: &mut Exchange<'_>,
        entry: &Arc<Entry>,
        key: &Key,
        counters: &Arc<Counters>,
    ) -> Step {
        let Some(stale) = self.shelf.config.stale else {
            return Step::Next;
        };
        let now = exchange.arrival().received;
        // Once a refresh has failed, others run behind the clients' backs until one succeeds: a name whose upstream is
        // down costs a wait once, not every time (RFC 8767, section 5).
        let patience = match stale.mode {
            StaleMode::Immediate => Some(Duration::ZERO),
            StaleMode::Verify(_) if entry.has_failed() => Some(Duration::ZERO),
            StaleMode::Verify(patience) => patience,
        };
        let Some(patience) = patience else {
            if stale.recheck.is_zero() || entry.begin_refresh(now) {
                // The reply to this query is the refresh; `fall_back` sees whether it is any good.
                return Step::Next;
            }
            return give_stale(exchange, entry, stale.ttl, counters);
        };
        let mut flight = None;
        if entry.begin_refresh(now) {
            if let Some(refresh) = self.refresh(exchange, entry, key, counters) {
                flight = self.spawn(refresh, patience);
            }
        } else if !patience.is_zero() {
            flight = entry.flight_to_join(now);
        }
        match flight {
            Some(flight) => wait(exchange, entry, flight, stale.ttl, counters),
            None => give_stale(exchange, entry, stale.ttl, counters),
        }
    }

    /// Runs a refresh in the background. Queries may wait for it, if there is any patience.
    fn spawn(&self, refresh: Refresh, patience: Duration) -> Option<Flight> {
        if patience.is_zero() {
            refresh.counters.prefetch.inc();
            self.tasks.spawn(async {
                refresh.run().await;
            });
            return None;
        }
        let (done, outcome) = watch::channel(None);
        let entry = Arc::clone(&refresh.entry);
        let flight = Flight {
            outcome,
            patience_ends: refresh.asked_at + patience,
        };
        entry.set_flight(Some(flight.clone()));
        self.tasks.spawn(async move {
            // Nobody may be waiting any longer.
            let _ = done.send(refresh.run().await);
            entry.set_flight(None);
        });
        Some(flight)
    }

    fn refresh(
        &self,
        exchange: &Exchange<'_>,
        entry: &Arc<Entry>,
        key: &Key,
        counters: &Arc<Counters>,
    ) -> Option<Refresh> {
        let Some(permit) = self.shelf.budget.begin_refresh() else {
            counters.refused_refreshes.inc();
            entry.put_refresh_off(exchange.arrival().received);
            return None;
        };
        Some(Refresh {
            shelf: Arc::clone(&self.shelf),
            below: exchange.below(),
            message: exchange.query.message().into(),
            key: *key,
            entry: Arc::clone(entry),
            counters: Arc::clone(counters),
            asked_at: exchange.arrival().received,
            _permit: permit,
        })
    }

    /// On the way up, with `serve_stale … verify`: a stale entry is better than no answer.
    pub(in crate::plugin::cache) fn fall_back(
        &self,
        exchange: &mut Exchange<'_>,
        refreshed: bool,
        now: Instant,
    ) {
        let Some(stale) = self.shelf.config.stale else {
            return;
        };
        let key = Key::of(exchange.query);
        let Some(hit) = self.shelf.find(&key, now).filter(|hit| hit.left.is_none()) else {
            return;
        };
        if refreshed {
            hit.entry.end_refresh();
            return;
        }
        let began = exchange.arrival().received;
        hit.entry.refresh_failed(began, now, stale.recheck);
        let state = &mut exchange.state;
        state.dropped = false;
        state.error = None;
        state.upstream = None;
        state.answered_by = Some(SPEC.name);
        let counters = self.shelf.counters.of(&exchange.block().server);
        give_stale(exchange, &hit.entry, stale.ttl, &counters);
    }
}

impl Shelf {
    fn recheck(&self) -> Duration {
        self.config.stale.map_or(Duration::ZERO, |s| s.recheck)
    }

    /// Whether a reply may take a stale entry's place: whole, about the name, and an answer if answers are preferred.
    pub(in crate::plugin::cache) fn is_refreshed(
        &self,
        rcode: Rcode,
        truncated: bool,
        survey: Survey,
    ) -> bool {
        !truncated
            && (rcode == Rcode::NOERROR || rcode == Rcode::NXDOMAIN)
            && survey.kind != Kind::Other
            && (!self.config.prefer_positive || survey.kind == Kind::Answer)
    }

    fn take_fresh(
        &self,
        query: &Query<'_>,
        key: &Key,
        reply: &[u8],
        counters: &Counters,
        now: Instant,
    ) -> Option<Arc<Entry>> {
        let view = View::of_message(reply, query.question_octets());
        if view.is_none() {
            counters.drops.inc();
        }
        let view = view?;
        let survey = survey(view, asked(query), unix_time);
        if !self.is_refreshed(view.rcode, view.truncated, survey) {
            return None;
        }
        let ttl = self.ttl(survey);
        let flags = [flag::AA, reply[3] & (flag::RA | flag::AD)];
        let fresh = Arc::new(Entry::new(
            view,
            flags,
            ttl,
            survey.kind == Kind::Answer,
            now,
        )?);
        if is_for_everyone(query)
            && self.wants(query.qname(), survey, ttl, view.truncated)
            && self.put(key, survey.kind, &fresh, now)
        {
            self.count_entries(counters);
        }
        Some(fresh)
    }
}

/// Flags of the reply in progress that an entry keeps. AA is set on every hit: some stub resolvers of old discard a
/// reply from a cache without it.
pub(in crate::plugin::cache) fn kept_flags(reply: &ReplyWriter<'_>) -> [u8; 2] {
    let when = |set: bool, bit: u8| if set { bit } else { 0 };
    [
        flag::AA,
        when(reply.recursion_available, flag::RA) | when(reply.authentic_data, flag::AD),
    ]
}

/// Answers from an expired entry at once.
pub(in crate::plugin::cache) fn give_stale(
    exchange: &mut Exchange<'_>,
    entry: &Entry,
    ttl: u32,
    counters: &Counters,
) -> Step {
    counters.served_stale.inc();
    exchange.state.extended_error = Some(stale_answer(entry));
    give(exchange, entry, ttl)
}

/// Waits a while for something fresh; the refresh goes on even if that was too long.
fn wait(
    exchange: &Exchange<'_>,
    entry: &Arc<Entry>,
    mut flight: Flight,
    stale_ttl: u32,
    counters: &Arc<Counters>,
) -> Step {
    let (entry, counters) = (Arc::clone(entry), Arc::clone(counters));
    let wants_ad = exchange.query.dnssec_ok() || exchange.query.authentic_data();
    let now = exchange.arrival().received;
    let mut patience = flight.patience_ends.saturating_duration_since(now);
    if let Some(deadline) = exchange.state.deadline {
        // A stale answer in time is worth more than a failure.
        let left = deadline.saturating_duration_since(now);
        patience = patience.min(left.saturating_sub(SPARE));
    }
    Step::Defer(Box::pin(async move {
        let outcome = flight.outcome.wait_for(Option::is_some);
        let outcome = tokio::time::timeout(patience, outcome).await;
        let answer = match outcome.ok().and_then(Result::ok).as_deref() {
            Some(Some(fresh)) => Answer {
                message: fresh.to_message(fresh.ttl_stored(), wants_ad),
                ..Answer::default()
            },
            _ => {
                counters.served_stale.inc();
                Answer {
                    message: entry.to_message(stale_ttl, wants_ad),
                    extended_error: Some(stale_answer(&entry)),
                    ..Answer::default()
                }
            }
        };
        Verdict::Reply(answer)
    }))
}

/// What a query needs at the end of its time to be answered at all.
const SPARE: Duration = Duration::from_millis(2);

/// RFC 8914, sections 4.4 and 4.20.
fn stale_answer(entry: &Entry) -> ExtendedError {
    let code = if entry.rcode() == Rcode::NXDOMAIN {
        ExtendedError::STALE_NXDOMAIN_ANSWER
    } else {
        ExtendedError::STALE_ANSWER
    };
    ExtendedError::new(code, "")
}
