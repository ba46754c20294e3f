//! Who may hold a TCP connection: so many in total, so many from one address; who idles longest gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// In place of a time: the connection is not idle.
const BUSY: u64 = u64::MAX;

/// Connections that may be on their way out while another one is accepted.
const LEAVING_MAX: usize = 16;

/// The connections of one listener.
///
/// The lock is taken when a connection comes or goes, never while it is served. IPv6 sources are counted by their
/// whole address: all pods of a node share a /64, so one of them would shut out the others.
#[derive(Debug)]
pub struct Seats {
    total_max: usize,
    process_max: usize,
    per_source_max: usize,
    epoch: Instant,
    open: IntGauge,
    /// Connections that gave way and are not closed yet.
    leaving: AtomicUsize,
    left: Notify,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    taken: HashMap<u64, Taken>,
    per_source: HashMap<IpAddr, usize>,
    next_id: u64,
}

#[derive(Debug)]
struct Taken {
    source: IpAddr,
    idle_since: Arc<AtomicU64>,
    leave: CancellationToken,
}

/// The right to one connection, for as long as it lives.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    id: u64,
    idle_since: Arc<AtomicU64>,
    /// Cancelled when the connection has to give way, or the listener stops.
    pub leave: CancellationToken,
}

/// What taking a seat came to.
#[derive(Debug)]
pub enum Seating {
    /// There was room.
    Free(Seat),
    /// Somebody idle gave way.
    Evicted(Seat),
    /// There is no room: nobody is idle.
    Full,
}

impl Seats {
    /// So many seats, as long as all listeners together have fewer than `process_max`; `open` shows how many those have.
    pub fn new(
        total_max: usize,
        process_max: usize,
        per_source_max: usize,
        open: IntGauge,
    ) -> Arc<Self> {
        Arc::new(Self {
            total_max,
            process_max,
            per_source_max,
            epoch: Instant::now(),
            open,
            leaving: AtomicUsize::new(0),
            left: Notify::new(),
            table: Mutex::default(),
        })
    }

    /// A seat for a connection from `source`; its `leave` is a child of `stop`.
    pub fn take(self: &Arc<Self>, source: IpAddr, stop: &CancellationToken) -> Seating {
        let mut table = self.lock();
        let from_source = table.per_source.get(&source).copied().unwrap_or(0);
        let evicted = if from_source >= self.per_source_max {
            table.evict(Some(source))
        } else if table.taken.len() >= self.total_max || self.is_process_full() {
            table.evict(None)
        } else {
            return Seating::Free(self.seat(&mut table, source, stop));
        };
        if !evicted {
            return Seating::Full;
        }
        self.open.dec();
        self.leaving.fetch_add(1, Ordering::Relaxed);
        Seating::Evicted(self.seat(&mut table, source, stop))
    }

    /// Waits until only a few of those that gave way still have their descriptors: connections that come faster than
    /// others end would take more of them than there are seats.
    pub async fn settled(&self) {
        while self.leaving.load(Ordering::Relaxed) >= LEAVING_MAX {
            self.left.notified().await;
        }
    }

    /// Two listeners may both find the last place: it is a share of the descriptors, not the last of them.
    fn is_process_full(&self) -> bool {
        usize::try_from(self.open.get()).is_ok_and(|open| open >= self.process_max)
    }

    fn seat(self: &Arc<Self>, table: &mut Table, source: IpAddr, stop: &CancellationToken) -> Seat {
        let id = table.next_id;
        table.next_id += 1;
        let idle_since = Arc::new(AtomicU64::new(self.time(Instant::now())));
        let leave = stop.child_token();
        *table.per_source.entry(source).or_default() += 1;
        table.taken.insert(
            id,
            Taken {
                source,
                idle_since: Arc::clone(&idle_since),
                leave: leave.clone(),
            },
        );
        self.open.inc();
        Seat {
            seats: Arc::clone(self),
            id,
            idle_since,
            leave,
        }
    }

    fn time(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.epoch).as_micros();
        u64::try_from(elapsed).unwrap_or(BUSY - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is whole before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Sends away who idles longest; false if nobody idles. A walk over all seats, when there is none free only.
    fn evict(&mut self, source: Option<IpAddr>) -> bool {
        let oldest = self
            .taken
            .iter()
            .filter(|(_, taken)| source.is_none_or(|source| taken.source == source))
            .map(|(&id, taken)| (taken.idle_since.load(Ordering::Relaxed), id))
            .min();
        match oldest {
            Some((since, id)) if since != BUSY => self.remove(id),
            _ => false,
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(taken) = self.taken.remove(&id) else {
            return false;
        };
        taken.leave.cancel();
        if let Some(count) = self.per_source.get_mut(&taken.source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&taken.source);
            }
        }
        true
    }
}

impl Seat {
    /// The connection has been idle since then.
    pub fn set_idle(&self, since: Instant) {
        let time = self.seats.time(since);
        self.idle_since.store(time, Ordering::Relaxed);
    }

    /// The connection works.
    pub fn set_busy(&self) {
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.seats.lock().remove(self.id) {
            self.seats.open.dec();
        } else {
            // The connection is closed: it is dropped before its seat.
            self.seats.leaving.fetch_sub(1, Ordering::Relaxed);
            self.seats.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn free(seating: Seating) -> Seat {
        match seating {
            Seating::Free(seat) => seat,
            other => panic!("{other:?}"),
        }
    }

    fn seats(total_max: usize, per_source_max: usize) -> (Arc<Seats>, IntGauge) {
        let gauge = IntGauge::new("open", "open").unwrap();
        let seats = Seats::new(total_max, usize::MAX, per_source_max, gauge.clone());
        (seats, gauge)
    }

    #[test]
    fn all_listeners_together_have_so_many_seats() {
        let gauge = IntGauge::new("open", "open").unwrap();
        let new = || Seats::new(10, 2, 10, gauge.clone());
        let (one, other, stop) = (new(), new(), CancellationToken::new());
        let _held = [1, 2].map(|_| free(one.take(address("10.0.0.1"), &stop)));
        assert!(matches!(
            other.take(address("10.0.0.2"), &stop),
            Seating::Full
        ));
        assert!(matches!(
            one.take(address("10.0.0.2"), &stop),
            Seating::Evicted(_)
        ));
    }

    #[test]
    fn who_idles_longest_gives_way_when_all_seats_are_taken() {
        let (seats, gauge) = seats(2, 2);
        let stop = CancellationToken::new();
        let first = free(seats.take(address("10.0.0.1"), &stop));
        let second = free(seats.take(address("10.0.0.2"), &stop));
        first.set_idle(Instant::now() + Duration::from_secs(2));
        second.set_idle(Instant::now() + Duration::from_secs(1));
        let Seating::Evicted(third) = seats.take(address("10.0.0.3"), &stop) else {
            panic!("nobody gave way");
        };
        assert!(second.leave.is_cancelled() && !first.leave.is_cancelled());
        assert_eq!(gauge.get(), 2);
        drop(second);
        assert_eq!(gauge.get(), 2);
        drop((first, third));
        assert_eq!(gauge.get(), 0);
        assert!(seats.lock().per_source.is_empty());
    }

    #[tokio::test]
    async fn only_a_few_are_on_their_way_out_while_another_one_is_accepted() {
        let (seats, _) = seats(LEAVING_MAX, LEAVING_MAX);
        let stop = CancellationToken::new();
        let take = || match seats.take(address("10.0.0.1"), &stop) {
            Seating::Free(seat) | Seating::Evicted(seat) => seat,
            Seating::Full => panic!("everyone idles"),
        };
        let mut first: Vec<Seat> = (0..LEAVING_MAX).map(|_| take()).collect();
        seats.settled().await;
        let _then: Vec<Seat> = (0..LEAVING_MAX).map(|_| take()).collect();
        assert!(
            tokio::time::timeout(Duration::ZERO, seats.settled())
                .await
                .is_err()
        );
        first.pop();
        seats.settled().await;
    }

    #[test]
    fn who_works_keeps_the_seat() {
        let (seats, _) = seats(1, 1);
        let stop = CancellationToken::new();
        let first = free(seats.take(address("10.0.0.1"), &stop));
        first.set_busy();
        assert!(matches!(
            seats.take(address("10.0.0.2"), &stop),
            Seating::Full
        ));
        assert!(!first.leave.is_cancelled());
    }

    #[test]
    fn one_source_takes_seats_from_itself_only() {
        let (seats, _) = seats(10, 1);
        let stop = CancellationToken::new();
        let other = free(seats.take(address("10.0.0.1"), &stop));
        let own = free(seats.take(address("10.0.0.2"), &stop));
        assert!(matches!(
            seats.take(address("10.0.0.2"), &stop),
            Seating::Evicted(_)
        ));
        assert!(own.leave.is_cancelled() && !other.leave.is_cancelled());
    }
}
