//! Asks the chain below again: before an entry expires (`prefetch`), or after (`serve_stale`).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chain::exchange::{Below, Exchange};
use crate::chain::plugin::{Answer, Step, Verdict};
use crate::plugin::cache::config::StaleMode;
use crate::plugin::cache::metrics::Counters;
use crate::plugin::cache::store::{Entry, Key, RefreshPermit};
use crate::plugin::cache::survey::{Kind, Survey, View, survey};
use crate::plugin::cache::{Cache, SPEC, Shelf, asked, give, is_for_everyone, unix_time};
use crate::server::assembly::Assembly;
use crate::wire::code::Rcode;
use crate::wire::edns::ExtendedError;
use crate::wire::query::{Query, flag};
use crate::wire::writer::ReplyWriter;

/// The least pause after a refresh that failed: an upstream in trouble is not asked at every hit
/// (RFC 9520, section 3.2).
const PAUSE_MIN: Duration = Duration::from_secs(1);

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
                self.entry.end_refresh(now, Duration::ZERO);
            }
            None => {
                let recheck = self
                    .shelf
                    .config
                    .stale
                    .map_or(Duration::ZERO, |s| s.recheck);
                self.entry.end_refresh(now, recheck.max(PAUSE_MIN));
            }
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
            counters.prefetch.inc();
            self.tasks.spawn(async {
                refresh.run().await;
            });
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
        if let StaleMode::Verify(None) = stale.mode
            && (stale.recheck.is_zero() || entry.begin_refresh(now))
        {
            // The reply to this query is the refresh; `fall_back` sees whether it is any good.
            return Step::Next;
        }
        let refresh = match stale.mode {
            StaleMode::Verify(None) => None,
            _ if entry.begin_refresh(now) => self.refresh(exchange, entry, key, counters),
            _ => None,
        };
        match (refresh, stale.mode) {
            (Some(refresh), StaleMode::Verify(Some(timeout))) => {
                self.verify(exchange, refresh, timeout, stale.ttl)
            }
            (refresh, _) => {
                if let Some(refresh) = refresh {
                    counters.prefetch.inc();
                    self.tasks.spawn(async {
                        refresh.run().await;
                    });
                }
                counters.served_stale.inc();
                exchange.state.extended_error = Some(stale_answer());
                give(exchange, entry, stale.ttl)
            }
        }
    }

    /// Waits a while for something fresh; the refresh goes on even if that was too long.
    fn verify(
        &self,
        exchange: &Exchange<'_>,
        refresh: Refresh,
        timeout: Duration,
        stale_ttl: u32,
    ) -> Step {
        let (done, result) = oneshot::channel();
        let entry = Arc::clone(&refresh.entry);
        let counters = Arc::clone(&refresh.counters);
        let wants_ad = exchange.query.dnssec_ok() || exchange.query.authentic_data();
        self.tasks.spawn(async {
            // Nobody may be waiting any longer.
            let _ = done.send(refresh.run().await);
        });
        Step::Defer(Box::pin(async move {
            let fresh = tokio::time::timeout(timeout, result).await;
            if let Ok(Ok(Some(fresh))) = fresh {
                return Verdict::Reply(Answer {
                    message: fresh.to_message(fresh.ttl_stored(), wants_ad),
                    ..Answer::default()
                });
            }
            counters.served_stale.inc();
            Verdict::Reply(Answer {
                message: entry.to_message(stale_ttl, wants_ad),
                extended_error: Some(stale_answer()),
                ..Answer::default()
            })
        }))
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
            entry.end_refresh(exchange.arrival().received, PAUSE_MIN);
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
            hit.entry.end_refresh(now, Duration::ZERO);
            return;
        }
        if !stale.recheck.is_zero() {
            hit.entry.end_refresh(now, stale.recheck);
        }
        self.shelf
            .counters
            .of(&exchange.block().server)
            .served_stale
            .inc();
        let state = &mut exchange.state;
        state.dropped = false;
        state.error = None;
        state.upstream = None;
        state.answered_by = Some(SPEC.name);
        state.extended_error = Some(stale_answer());
        give(exchange, &hit.entry, stale.ttl);
    }
}

impl Shelf {
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

fn stale_answer() -> ExtendedError {
    ExtendedError::new(ExtendedError::STALE_ANSWER, "")
}
