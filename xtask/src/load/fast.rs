//! One server, as fast as it goes or at a steady rate, over UDP: every query is sent once, and known by its ID.
//!
//! This thread does not sleep: it sends what is due, takes what has come, and looks again, so a time is as exact as a turn
//! is short. At a steady rate a query is sent when it is due and never waits for others to fill a batch. In a window as
//! many are on their way as it holds.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::load::batch::{Asker, BATCH};
use crate::load::report::{Counts, Outcome};
use crate::load::run::{kernel_drops, udp_table};
use crate::load::waiting::Waiting;
use crate::load::{Questions, addresses};

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Queries a second.
    Rate(f64),
    /// Queries on their way at any time; what the server does then is its saturation.
    Window(usize),
}

/// What to ask, and whom.
pub struct Run<'q> {
    pub server: SocketAddrV4,
    pub questions: &'q Questions,
    pub pace: Pace,
    pub queries: u64,
    /// The number of the first of them: with numbers in names, two runs share no name if they share no number.
    pub first: u64,
    /// A reply after this is none.
    pub patience: Duration,
}

/// Queries come from so many addresses, so that several sockets of the server get their share.
const SOURCES: u32 = 64;

/// What is later than this is not sent any more: a generator that lags must not make up for it by a flood.
const LATE_MAX: f64 = 0.02;

/// Runs it on this thread, which should have a core of its own.
pub fn udp(run: &Run) -> Result<Outcome, String> {
    let sources = addresses(Ipv4Addr::new(127, 0, 1, 1), SOURCES);
    let mut asker = Asker::new(run.server, sources).map_err(|error| format!("load: {error}"))?;
    let (mut waiting, mut counts) = (Waiting::new(usize::from(u16::MAX)), Counts::default());
    let (mut message, mut number, mut last_reply) = (Vec::new(), 0, Duration::ZERO);
    let start = Instant::now();
    while number < run.queries || waiting.count() > 0 {
        let now = start.elapsed();
        waiting.give_up(now, run.patience, &mut counts);
        let (skipped, due) = run.pace.due(number, now, waiting.count());
        let skipped = skipped.min(run.queries - number);
        counts.skipped += skipped;
        number += skipped;
        for _ in 0..due.min(BATCH as u64).min(run.queries - number) {
            run.questions
                .write(run.first + number, waiting.next_id(), &mut message);
            asker.queue(&message);
            waiting.start(start.elapsed(), &mut counts);
            number += 1;
        }
        counts.send_failures += asker.flush() as u64;
        let mut came = None;
        asker.receive(|reply| {
            let now = *came.get_or_insert_with(|| start.elapsed());
            waiting.note(reply, now, &mut counts);
        });
        last_reply = came.unwrap_or(last_reply);
        if came.is_none() && due == 0 {
            // An upstream may have to run on this core too.
            std::thread::yield_now();
        }
    }
    Ok(Outcome {
        name: "clients".into(),
        elapsed: last_reply.max(Duration::from_nanos(1)),
        is_read: true,
        counts,
        own_drops: kernel_drops(&udp_table(), &format!("00000000:{:04X}", asker.port())),
    })
}

impl Pace {
    /// How many queries are to be left out now, and how many to be sent, when so many are done and so many on their way.
    fn due(self, number: u64, now: Duration, waiting: usize) -> (u64, u64) {
        match self {
            Self::Window(window) => (0, window.saturating_sub(waiting) as u64),
            Self::Rate(rate) => {
                // The first is due at once.
                let due = (now.as_secs_f64() * rate) as u64 + 1;
                let late = due.saturating_sub(number);
                let late_max = (rate * LATE_MAX).max(1.0) as u64;
                let skipped = if late > late_max { late - 1 } else { 0 };
                (skipped, late - skipped)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_what_is_too_late_is_left_out() {
        let pace = Pace::Rate(1000.0);
        let at = Duration::from_micros;
        assert_eq!(pace.due(0, at(0), 0), (0, 1));
        assert_eq!(pace.due(1, at(500), 9), (0, 0));
        assert_eq!(pace.due(1, at(3500), 9), (0, 3));
        assert_eq!(pace.due(1, at(100_500), 9), (99, 1));
        assert_eq!(Pace::Window(8).due(100, at(0), 5), (0, 3));
    }

    #[test]
    fn all_queries_of_a_window_are_answered_by_an_echo() {
        let port = crate::server::free_port().expect("loopback is there");
        std::thread::spawn(move || crate::load::batch::echo(port, |_, length| length));
        while !crate::server::answers(port) {}
        let questions = Questions::of_names(&["u%.example"]).expect("a name");
        let outcome = udp(&Run {
            server: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            questions: &questions,
            pace: Pace::Window(100),
            queries: 5000,
            first: 0,
            patience: Duration::from_secs(5),
        });
        let outcome = outcome.expect("loopback is there");
        let counts = &outcome.counts;
        assert_eq!(
            (counts.sent, counts.times.total()),
            (5000, 5000),
            "{outcome}"
        );
        assert_eq!((counts.lost, counts.strange), (0, 0), "{outcome}");
    }
}
