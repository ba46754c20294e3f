//! Where entries live: one partition per `cache` and kind, all within one budget of octets.
//!
//! ```text
//! Budget (one a process)
//!  |- Partition  success of `. { cache 30 }`            up to CAPACITY x 1 KiB
//!  |- Partition  denial  of `. { cache 30 }`            up to CAPACITY x 1 KiB
//!  '- …                                                 all are cut alike if they ask for more than there is
//! ```
//!
//! An entry weighs its octets, and 1 KiB at least, so CAPACITY bounds entries and octets at once. A block's partitions
//! are found again by everything that is configured for it and below it: a reload that changes none of this keeps them,
//! any other starts afresh, and no block ever reads what another one stored. Eviction resists scans: an entry that was
//! never asked for again goes before one that was.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};
use tokio::sync::watch;

use crate::plugin::cache::budget::Budget;
use crate::plugin::cache::survey::View;
use crate::wire::code::Rcode;
use crate::wire::name::NAME_MAX;
use crate::wire::query::{Query, flag};

/// The least that an entry weighs.
const WEIGHT_MIN: u64 = 1024;

/// What an entry takes beside its octets: its key, its counters, its place in the table.
const OVERHEAD: u64 = 192;

/// The most octets that a partition asks for, whatever CAPACITY says: a number that the sum of all cannot overflow.
const WANTED_MAX: u64 = 1 << 40;

/// The least entries that a partition has room for, whatever CAPACITY says, as in CoreDNS.
const CAPACITY_MIN: u64 = 1024;

/// What an entry is found by: DO and CD, type, class, and the name in lower case.
#[derive(Clone, Copy)]
pub(in crate::plugin::cache) struct Key {
    octets: [u8; 5 + NAME_MAX],
    length: usize,
}

impl Key {
    /// For this query.
    pub(in crate::plugin::cache) fn of(query: &Query<'_>) -> Self {
        let mut octets = [0; 5 + NAME_MAX];
        octets[0] = u8::from(query.dnssec_ok()) << 1 | u8::from(query.checking_disabled());
        octets[1..3].copy_from_slice(&query.qtype().0.to_be_bytes());
        octets[3..5].copy_from_slice(&query.qclass().0.to_be_bytes());
        let name = query.qname().as_wire();
        let length = 5 + name.len();
        for (to, from) in octets[5..length].iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        Self { octets, length }
    }

    fn as_octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// One reply, ready to be copied behind a client's question.
pub(in crate::plugin::cache) struct Entry {
    /// The whole message: header, question, records, no OPT.
    message: Box<[u8]>,
    /// Where the TTLs stand in it.
    ttl_places: Box<[u16]>,
    stored: Instant,
    ttl: u32,
    /// Holds what was asked.
    pub(in crate::plugin::cache) answers: bool,
    /// Hits, none further apart than `prefetch` says.
    hits: AtomicU32,
    /// When the last hit was, in milliseconds after `stored`.
    last_hit: AtomicU64,
    /// Until when nobody need refresh it, in milliseconds after `stored`.
    refresh_after: AtomicU64,
    /// Refreshes in a row that failed.
    failures: AtomicU32,
    /// When the last of them failed, in milliseconds after `stored`.
    failed_at: AtomicU64,
    /// The refresh that queries wait for. Touched only once it is expired.
    flight: Mutex<Option<Flight>>,
}

/// A refresh under way that queries wait for.
#[derive(Clone)]
pub(in crate::plugin::cache) struct Flight {
    /// The new entry, if there was one, as soon as it is over.
    pub(in crate::plugin::cache) outcome: watch::Receiver<Option<Arc<Entry>>>,
    /// When nobody waits for it any longer.
    pub(in crate::plugin::cache) patience_ends: Instant,
}

/// The least pause after a refresh that failed: an upstream in trouble is not asked at every hit
/// (RFC 9520, section 3.2).
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause unless `serve_stale` says otherwise (the failure recheck timer of RFC 8767, section 5).
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Milliseconds after which a refresh counts as lost: whoever refreshes may be given up and never come back.
const REFRESH_TIME_MAX: u64 = 10_000;

impl Entry {
    /// Copies a reply; none if it is broken. All its records get the one TTL.
    pub(in crate::plugin::cache) fn new(
        view: View<'_>,
        flags: [u8; 2],
        ttl: u32,
        answers: bool,
        now: Instant,
    ) -> Option<Self> {
        let mut message: Box<[u8]> = view.octets.into();
        let records: u32 = view.counts.iter().map(|&count| u32::from(count)).sum();
        let ttl_places: Box<[u16]> = view
            .places()
            .map_while(|place| u16::try_from(place.ttl_at).ok())
            .collect();
        if ttl_places.len() != usize::try_from(records).ok()? {
            return None;
        }
        message[2] = flags[0];
        message[3] = flags[1]
            | u8::try_from(view.rcode.0)
                .ok()
                .filter(|&rcode| rcode < 16)?;
        message[4..6].copy_from_slice(&1u16.to_be_bytes());
        for (index, count) in view.counts.iter().enumerate() {
            message[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
        for &place in &ttl_places {
            let place = usize::from(place);
            message[place..place + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        Some(Self {
            message,
            ttl_places,
            stored: now,
            ttl,
            answers,
            hits: AtomicU32::new(0),
            last_hit: AtomicU64::new(0),
            refresh_after: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
            flight: Mutex::new(None),
        })
    }

    /// The message as it was stored. [`Entry::set_ttls`] sets its TTLs right.
    pub(in crate::plugin::cache) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Gives a copy of the message this TTL throughout.
    pub(in crate::plugin::cache) fn set_ttls(&self, message: &mut [u8], ttl: u32) {
        let ttl = ttl.to_be_bytes();
        for &place in &self.ttl_places {
            let place = usize::from(place);
            message[place..place + 4].copy_from_slice(&ttl);
        }
    }

    /// The message with this TTL throughout, AD only for those who asked for it.
    pub(in crate::plugin::cache) fn to_message(&self, ttl: u32, wants_ad: bool) -> Vec<u8> {
        let mut message = self.message.to_vec();
        self.set_ttls(&mut message, ttl);
        if !wants_ad {
            message[3] &= !flag::AD;
        }
        message
    }

    /// The TTL it came with.
    pub(in crate::plugin::cache) fn ttl_stored(&self) -> u32 {
        self.ttl
    }

    /// RCODE.
    pub(in crate::plugin::cache) fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.message[3] & 0x0f))
    }

    /// AD.
    pub(in crate::plugin::cache) fn authentic_data(&self) -> bool {
        self.message[3] & flag::AD != 0
    }

    /// Seconds it has left; none if it is expired, and then how long it has been that.
    pub(in crate::plugin::cache) fn left(&self, now: Instant) -> Result<u32, u64> {
        let age = now.saturating_duration_since(self.stored).as_secs();
        match u64::from(self.ttl).checked_sub(age) {
            Some(left) if left > 0 => Ok(u32::try_from(left).unwrap_or(self.ttl)),
            _ => Err(age - u64::from(self.ttl)),
        }
    }

    fn since_stored(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.stored);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a hit, and returns how many there were with no gap longer than `gap_max`.
    pub(in crate::plugin::cache) fn count_hit(&self, now: Instant, gap_max: Duration) -> u32 {
        let now = self.since_stored(now);
        let before = self.last_hit.swap(now, Ordering::Relaxed);
        if Duration::from_millis(now.saturating_sub(before)) > gap_max {
            self.hits.store(1, Ordering::Relaxed);
            return 1;
        }
        self.hits.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Goes on counting where the entry that this one replaces left off.
    pub(in crate::plugin::cache) fn inherit_hits(&self, older: &Self) {
        let hits = older.hits.load(Ordering::Relaxed);
        self.hits.store(hits, Ordering::Relaxed);
    }

    /// Whether the caller is the one to refresh it now: one at a time, and after a failure not before the pause is over.
    pub(in crate::plugin::cache) fn begin_refresh(&self, now: Instant) -> bool {
        let now = self.since_stored(now);
        let after = self.refresh_after.load(Ordering::Acquire);
        now >= after
            && self
                .refresh_after
                .compare_exchange(
                    after,
                    now.saturating_add(REFRESH_TIME_MAX),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }

    /// The refresh is over, and this entry is too.
    pub(in crate::plugin::cache) fn end_refresh(&self) {
        self.refresh_after.store(0, Ordering::Release);
    }

    /// There was no room for the refresh.
    pub(in crate::plugin::cache) fn put_refresh_off(&self, now: Instant) {
        self.pause(self.since_stored(now), PAUSE_MIN);
    }

    /// A refresh that began at `began` failed. The next one waits for `recheck`; if that is zero, for twice as long as
    /// after the failure before.
    pub(in crate::plugin::cache) fn refresh_failed(
        &self,
        began: Instant,
        now: Instant,
        recheck: Duration,
    ) {
        let (began, now) = (self.since_stored(began), self.since_stored(now));
        let failures = self.failures.load(Ordering::Relaxed);
        // Those that began before the last one failed say nothing new.
        if failures != 0 && began < self.failed_at.load(Ordering::Relaxed) {
            return;
        }
        self.failed_at.store(now, Ordering::Relaxed);
        self.failures
            .store(failures.saturating_add(1), Ordering::Relaxed);
        let pause = if recheck.is_zero() {
            PAUSE_MIN
                .saturating_mul(1 << failures.min(16))
                .min(PAUSE_MAX)
        } else {
            recheck.max(PAUSE_MIN)
        };
        self.pause(now, pause);
    }

    fn pause(&self, now: u64, pause: Duration) {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.refresh_after
            .store(now.saturating_add(pause), Ordering::Release);
    }

    /// Whether the last refresh failed, so that no query waits for the next one.
    pub(in crate::plugin::cache) fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
    }

    /// Lets other queries wait for the refresh under way, or no longer.
    pub(in crate::plugin::cache) fn set_flight(&self, flight: Option<Flight>) {
        *self.flight() = flight;
    }

    /// The refresh under way that a query may still wait for.
    pub(in crate::plugin::cache) fn flight_to_join(&self, now: Instant) -> Option<Flight> {
        let flight = self.flight().clone();
        flight.filter(|flight| flight.patience_ends > now)
    }

    fn flight(&self) -> MutexGuard<'_, Option<Flight>> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Octets;

impl Weighter<Box<[u8]>, Arc<Entry>> for Octets {
    fn weight(&self, key: &Box<[u8]>, entry: &Arc<Entry>) -> u64 {
        let octets = key.len() + entry.message.len() + 2 * entry.ttl_places.len();
        (u64::try_from(octets).unwrap_or(u64::MAX) + OVERHEAD).max(WEIGHT_MIN)
    }
}

/// Counts what had to go to make room.
#[derive(Clone)]
struct Evictions(IntCounter);

impl Lifecycle<Box<[u8]>, Arc<Entry>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _key: Box<[u8]>, _entry: Arc<Entry>) {
        self.0.inc();
    }
}

type Table = Cache<Box<[u8]>, Arc<Entry>, Octets, foldhash::quality::RandomState, Evictions>;

/// The entries of one kind of one `cache`.
pub(in crate::plugin::cache) struct Partition {
    table: Table,
    /// Octets it would like to have; 0 once its `cache` is gone.
    wanted: AtomicU64,
}

impl Partition {
    /// Room for `capacity` entries of up to 1 KiB, until the budget of so many octets is shared out.
    fn new(capacity: u64, budget: u64, evictions: IntCounter) -> Arc<Self> {
        let items = capacity.clamp(CAPACITY_MIN, WANTED_MAX / WEIGHT_MIN);
        let wanted = items * WEIGHT_MIN;
        // What is remembered of entries that had to go depends on it, so it must not pass what there can be.
        let items = items.min(budget / WEIGHT_MIN);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(items).unwrap_or(usize::MAX))
            .weight_capacity(wanted.min(budget))
            .build()
            .expect("both capacities are set");
        let hasher = foldhash::quality::RandomState::default();
        Arc::new(Self {
            table: Table::with_options(options, Octets, hasher, Evictions(evictions)),
            wanted: AtomicU64::new(wanted),
        })
    }

    /// The entry for this key, whether or not it is expired.
    pub(in crate::plugin::cache) fn find(&self, key: &Key) -> Option<Arc<Entry>> {
        self.table.get(key.as_octets())
    }

    /// Keeps an entry in place of the one that is there.
    pub(in crate::plugin::cache) fn put(&self, key: &Key, entry: Arc<Entry>) {
        self.table.insert(key.as_octets().into(), entry);
    }

    /// Forgets the entry for this key.
    pub(in crate::plugin::cache) fn remove(&self, key: &Key) {
        self.table.remove(key.as_octets());
    }

    /// Forgets every entry that is `over`. Readers are held up for one removal at most, not for the whole walk.
    pub(in crate::plugin::cache) fn forget(&self, over: impl Fn(&Entry) -> bool) {
        let keys: Vec<Box<[u8]>> = self
            .table
            .iter()
            .filter(|(_, entry)| over(entry))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            // A newer one may be there by now.
            self.table.remove_if(&*key, |entry| over(entry));
        }
    }

    /// Entries in it, expired ones too.
    pub(in crate::plugin::cache) fn len(&self) -> usize {
        self.table.len()
    }

    /// Octets that it would like to have; none once its `cache` is gone.
    pub(in crate::plugin::cache) fn wanted(&self) -> Option<u64> {
        Some(self.wanted.load(Ordering::Acquire)).filter(|&wanted| wanted > 0)
    }

    /// Octets that its entries weigh.
    pub(in crate::plugin::cache) fn weight(&self) -> u64 {
        self.table.weight()
    }

    /// Octets that they may weigh.
    #[cfg(test)]
    pub(in crate::plugin::cache) fn weight_max(&self) -> u64 {
        self.table.capacity()
    }

    /// From now on its entries may weigh so many octets; what is too much goes.
    pub(in crate::plugin::cache) fn set_weight_max(&self, octets: u64) {
        self.table.set_capacity(octets);
    }
}

/// All entries of one `cache`.
pub(in crate::plugin::cache) struct Entries {
    /// Answers.
    pub(in crate::plugin::cache) success: Arc<Partition>,
    /// Denials and failures.
    pub(in crate::plugin::cache) denial: Arc<Partition>,
    budget: Arc<Budget>,
}

impl Entries {
    /// Room for so many answers and denials, within the budget.
    pub(in crate::plugin::cache) fn new(
        budget: &Arc<Budget>,
        capacities: [u64; 2],
        evictions: [IntCounter; 2],
    ) -> Arc<Self> {
        let [success, denial] = evictions;
        let octets = budget.octets();
        let this = Self {
            success: Partition::new(capacities[0], octets, success),
            denial: Partition::new(capacities[1], octets, denial),
            budget: Arc::clone(budget),
        };
        budget.take_in([&this.success, &this.denial]);
        Arc::new(this)
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        for partition in [&self.success, &self.denial] {
            partition.wanted.store(0, Ordering::Release);
        }
        self.budget.take_in([]);
    }
}
