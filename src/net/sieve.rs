//! Keeps one sender that floods a UDP receive queue from drowning the others.
//!
//! What overflows is lost before we see it, whoever sent it. So before the queue is full, those who fill it are found
//! out, and the kernel is told to drop a part of what they send in front of the queue, where a datagram costs least:
//!
//! ```text
//!               filter                      queue
//! flood  ====>  | 1 of 3 passes | ======>  |....|  ==> worker: batches full?  largest sender: fewer pass
//! others ---->  | all pass      | ------>  |....|              batches short? all limited: more pass
//! ```
//!
//! Whoever sends most is limited, again and again, until batches are short: so nobody is limited below what the
//! busiest of the others gets through, and a flood gets what they leave. Dropping is silence, not a truncated reply:
//! a reply costs more than half of an answer, which is what there is too little of, and a client that storms would
//! come again over TCP at once. Without pressure all this is one comparison a batch.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::net::limit::BATCH;
use crate::net::{batch, filter};

/// Full batches in a row after which we look how much stands in the queue.
const LOOK_EVERY: u32 = 2;

/// Part of the queue's room at which it is about to overflow: one half.
const FILLING: usize = 2;

/// From one look at the senders to the next.
const WINDOW: Duration = Duration::from_millis(5);

/// The first is shorter: there is not much room left.
const FIRST_WINDOW: Duration = Duration::from_micros(500);

/// Datagrams of a batch from which on those who came wait too long.
const CROWDED: usize = BATCH / 2;

/// And up to which there is room for more.
const QUIET: usize = BATCH / 4;

/// A sender is to blame for the crowd if this part of it is its own: an eighth.
const BLAME: u32 = 8;

/// And nobody is for less than this.
const BLAME_MIN: u32 = 16;

/// Senders looked at in a window. All that send more than a 16th of everything are among them.
const SENDERS_MAX: usize = 16;

/// Senders limited at a time.
pub const LIMITED_MAX: usize = 8;

/// What passes of a sender that has just been found out, and least.
const PASS_FIRST: f64 = 0.25;
const PASS_MIN: f64 = 1.0 / 65_536.0;

/// What becomes of it in a crowd, and without.
const PASS_LESS: f64 = 0.7;
const PASS_MORE: f64 = 1.05;

/// Windows without anybody limited after which the senders are not looked at any more.
const CALM_WINDOWS: u32 = 200;

/// A sender of the window.
#[derive(Clone, Copy, Debug)]
struct Sender {
    client: IpAddr,
    count: u32,
}

/// A sender of which only a part passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limited {
    /// Its address.
    pub client: IpAddr,
    /// The part, below 1.
    pub pass: f64,
}

/// Looks after one socket.
#[derive(Debug, Default)]
pub struct Sieve {
    full_in_a_row: u32,
    window: Option<Window>,
    senders: Vec<Sender>,
    limited: Vec<Limited>,
    /// What stands in the queue came before the filter did.
    is_draining: bool,
}

#[derive(Debug)]
struct Window {
    ends: Instant,
    received: u32,
    batch_max: usize,
    calm: u32,
}

impl Sieve {
    /// For a socket that nothing is known about. What it needs under pressure it has from now on.
    pub fn new() -> Self {
        Self {
            senders: Vec::with_capacity(SENDERS_MAX),
            limited: Vec::with_capacity(LIMITED_MAX),
            ..Self::default()
        }
    }

    /// Looks at a batch of so many datagrams. True means: ask [`Sieve::is_excess`] about each.
    #[inline]
    pub fn look(&mut self, count: usize, now: Instant, socket: &UdpSocket) -> bool {
        if count < BATCH && self.window.is_none() {
            self.full_in_a_row = 0;
            return false;
        }
        self.look_closer(count, now, socket)
    }

    #[cold]
    fn look_closer(&mut self, count: usize, now: Instant, socket: &UdpSocket) -> bool {
        if count < BATCH {
            self.is_draining = false;
        }
        if self.window.is_none() {
            self.full_in_a_row += 1;
            let is_time = self.full_in_a_row.is_multiple_of(LOOK_EVERY);
            if !is_time || !is_filling(socket) {
                return false;
            }
            self.window = Some(Window {
                ends: now + FIRST_WINDOW,
                received: 0,
                batch_max: 0,
                calm: 0,
            });
        }
        if self.close_window(count, now) {
            // Where the kernel takes no filter, the worker alone drops the excess, as long as batches are full.
            let _ = filter::apply(socket, &self.limited);
        }
        self.window.is_some()
    }

    /// Counts the batch, and at the end of a window decides who is limited; true if that has changed.
    fn close_window(&mut self, count: usize, now: Instant) -> bool {
        let Some(window) = &mut self.window else {
            return false;
        };
        if now < window.ends {
            window.batch_max = window.batch_max.max(count);
            window.received += u32::try_from(count).unwrap_or(0);
            return false;
        }
        let (received, batch_max) = (window.received, window.batch_max);
        window.calm = if self.limited.is_empty() {
            window.calm + 1
        } else {
            0
        };
        let is_calm = window.calm > CALM_WINDOWS;
        window.received = u32::try_from(count).unwrap_or(0);
        // This batch belongs to the next window: its senders are counted after this.
        (window.batch_max, window.ends) = (count, now + WINDOW);
        let changed = if batch_max >= CROWDED {
            self.limit_the_worst(received)
        } else {
            batch_max <= QUIET && self.loosen()
        };
        self.senders.clear();
        if is_calm {
            self.window = None;
            self.full_in_a_row = 0;
        }
        changed
    }

    fn limit_the_worst(&mut self, received: u32) -> bool {
        let worst = self.senders.iter().max_by_key(|sender| sender.count);
        let Some(&Sender { client, count }) = worst else {
            return false;
        };
        if count < BLAME_MIN || count <= received / BLAME {
            return false;
        }
        if let Some(one) = self.limited.iter_mut().find(|one| one.client == client) {
            one.pass = (one.pass * PASS_LESS).max(PASS_MIN);
        } else if self.limited.len() < LIMITED_MAX {
            let pass = PASS_FIRST;
            self.limited.push(Limited { client, pass });
        } else {
            return false;
        }
        self.is_draining = true;
        true
    }

    fn loosen(&mut self) -> bool {
        let had = !self.limited.is_empty();
        for one in &mut self.limited {
            one.pass *= PASS_MORE;
        }
        self.limited.retain(|one| one.pass < 1.0);
        had
    }

    /// Whether the datagram of this sender is to be dropped here: it came before the filter did.
    pub fn is_excess(&mut self, client: IpAddr) -> bool {
        self.count(client);
        self.is_draining && self.limited.iter().any(|one| one.client == client)
    }

    /// Counts a datagram: a new sender takes the place of the one with least, and its count (Space-Saving, Metwally and
    /// others, 2005).
    fn count(&mut self, client: IpAddr) {
        if let Some(sender) = self.senders.iter_mut().find(|one| one.client == client) {
            sender.count += 1;
        } else if self.senders.len() < SENDERS_MAX {
            self.senders.push(Sender { client, count: 1 });
        } else if let Some(least) = self.senders.iter_mut().min_by_key(|one| one.count) {
            *least = Sender {
                client,
                count: least.count + 1,
            };
        }
    }

    /// Who is limited most now.
    pub fn worst(&self) -> Option<Limited> {
        let least = |a: &&Limited, b: &&Limited| a.pass.total_cmp(&b.pass);
        self.limited.iter().min_by(least).copied()
    }
}

/// Whether the queue is about to overflow.
fn is_filling(socket: &UdpSocket) -> bool {
    batch::queue_fill(socket).is_ok_and(|fill| fill.queued > fill.room / FILLING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    /// Under pressure since now.
    fn pressed(now: Instant) -> Sieve {
        let mut sieve = Sieve::new();
        sieve.window = Some(Window {
            ends: now + WINDOW,
            received: 0,
            batch_max: 0,
            calm: 0,
        });
        sieve
    }

    /// A window of full batches in which each client sends so many datagrams; the time when it is over.
    fn window(sieve: &mut Sieve, start: Instant, sent: &[(u32, u32)], batch: usize) -> Instant {
        let total: u32 = sent.iter().map(|(_, count)| count).sum();
        // Mixed as they would come, not one after the other.
        for turn in 0..sent.iter().map(|(_, count)| *count).max().unwrap_or(0) {
            for &(number, count) in sent {
                if turn < count {
                    sieve.is_excess(client(number));
                }
            }
        }
        sieve.close_window(batch, start);
        sieve.window.as_mut().expect("it is pressed").received = total;
        let end = start + WINDOW * 2;
        sieve.close_window(1, end);
        end
    }

    #[test]
    fn without_pressure_nobody_is_looked_at() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sieve = Sieve::new();
        for _ in 0..1000 {
            // A client that keeps a few hundred queries under way fills batches for ever, but no queue.
            assert!(!sieve.look(BATCH, Instant::now(), &socket));
        }
        assert!(!sieve.look(1, Instant::now(), &socket));
        assert!(sieve.senders.is_empty() && sieve.window.is_none());
    }

    #[test]
    fn who_sends_most_is_limited_until_batches_are_short_and_gets_more_then() {
        let now = Instant::now();
        let mut sieve = pressed(now);
        let mut sent: Vec<(u32, u32)> = (1..=200).map(|number| (number, 1)).collect();
        sent.push((1000, 2000));
        let mut end = window(&mut sieve, now, &sent, BATCH);
        assert_eq!(
            sieve.worst().map(|one| (one.client, one.pass)),
            Some((client(1000), 0.25))
        );
        assert!(
            sieve.is_excess(client(1000)),
            "what stands in the queue goes"
        );
        assert!(!sieve.is_excess(client(1)));
        end = window(&mut sieve, end, &sent, BATCH);
        assert_eq!(
            (sieve.limited.len(), sieve.limited[0].pass),
            (1, 0.25 * PASS_LESS)
        );
        for _ in 0..40 {
            end = window(&mut sieve, end, &sent, QUIET);
        }
        assert_eq!(sieve.limited, []);
        for _ in 0..=CALM_WINDOWS {
            if sieve.window.is_some() {
                end = window(&mut sieve, end, &sent, QUIET);
            }
        }
        assert!(
            sieve.window.is_none(),
            "a second later nobody is looked at any more"
        );
    }

    #[test]
    fn of_several_that_flood_each_gets_the_same_and_the_others_all() {
        let now = Instant::now();
        let (mut sieve, mut end) = (pressed(now), now);
        // What arrives in front of the filter in a window, against room for 1000.
        let arriving = [(1, 4000.0), (2, 2000.0), (3, 1000.0), (4, 100.0), (5, 10.0)];
        let mut passed = Vec::new();
        for _ in 0..400 {
            passed = arriving
                .map(|(number, count): (u32, f64)| {
                    let limited = sieve
                        .limited
                        .iter()
                        .find(|one| one.client == client(number));
                    (number, (count * limited.map_or(1.0, |one| one.pass)) as u32)
                })
                .to_vec();
            let total: u32 = passed.iter().map(|(_, count)| count).sum();
            let batch = if total > 1000 { BATCH } else { 1 };
            end = window(&mut sieve, end, &passed, batch);
        }
        let shares: Vec<u32> = passed.iter().map(|(_, count)| *count).collect();
        assert!(
            shares[..3].iter().all(|share| (150..=450).contains(share)),
            "{shares:?}"
        );
        assert_eq!(shares[3..], [100, 10]);
    }

    #[test]
    fn a_crowd_that_comes_at_the_end_of_a_window_is_not_blamed_on_who_came_before() {
        let now = Instant::now();
        let mut sieve = pressed(now);
        sieve.close_window(2, now);
        sieve.is_excess(client(1));
        sieve.is_excess(client(1));
        sieve.close_window(BATCH, now + WINDOW * 2);
        assert_eq!(sieve.limited, []);
    }

    #[test]
    fn a_crowd_in_which_nobody_stands_out_is_nobodys_fault() {
        let now = Instant::now();
        let mut sieve = pressed(now);
        let sent: Vec<(u32, u32)> = (1..=100).map(|number| (number, 20)).collect();
        window(&mut sieve, now, &sent, BATCH);
        assert_eq!(sieve.limited, []);
    }
}
