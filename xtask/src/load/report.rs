//! What became of the queries of a stream.

use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

use crate::load::histogram::Histogram;

/// Lost queries that are named.
const NAMED_MAX: usize = 10;

/// A query without a reply in time.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    pub client: SocketAddrV4,
    pub id: u16,
    /// When it was sent, since the start of the run.
    pub sent: Duration,
}

/// Counted while a stream runs.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub sent: u64,
    pub lost: u64,
    /// Sockets that did not take a query.
    pub send_failures: u64,
    /// Queries that were due long ago, when the generator came to them, and were left out.
    pub skipped: u64,
    /// Replies to nothing that is waited for.
    pub strange: u64,
    pub rcodes: [u64; 16],
    pub times: Histogram,
    lost_first: Vec<Lost>,
}

impl Counts {
    pub fn answer(&mut self, rcode: u8, took: Duration) {
        self.rcodes[usize::from(rcode & 15)] += 1;
        self.times.add(took);
    }

    pub fn lose(&mut self, lost: Lost) {
        self.lost += 1;
        if self.lost_first.len() < NAMED_MAX {
            self.lost_first.push(lost);
        }
    }
}

/// A stream at its end.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: String,
    pub elapsed: Duration,
    pub is_read: bool,
    pub counts: Counts,
    /// Replies that came and that the kernel had no room for in our sockets: no fault of the server.
    pub own_drops: u64,
}

impl Outcome {
    /// Queries that the server has not answered, as far as can be known.
    pub fn lost_by_server(&self) -> u64 {
        self.counts.lost.saturating_sub(self.own_drops)
    }

    /// Queries a second that were sent.
    pub fn rate(&self) -> f64 {
        self.counts.sent as f64 / self.elapsed.as_secs_f64()
    }

    /// A part of all times, in milliseconds.
    pub fn milliseconds(&self, part: f64) -> f64 {
        self.counts.times.quantile(part).as_secs_f64() * 1000.0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        write!(
            f,
            "{}: sent {} ({:.0}/s)",
            self.name,
            counts.sent,
            self.rate()
        )?;
        if self.is_read {
            write!(
                f,
                ", answered {}, lost {}",
                counts.times.total(),
                self.lost_by_server()
            )?;
        }
        for (name, count) in [
            ("own drops", self.own_drops),
            ("not sent", counts.send_failures),
            ("skipped", counts.skipped),
            ("strange", counts.strange),
        ] {
            if count != 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        for (rcode, count) in counts
            .rcodes
            .iter()
            .enumerate()
            .filter(|(_, count)| **count != 0)
        {
            write!(f, ", rcode {rcode}: {count}")?;
        }
        writeln!(f)?;
        if self.is_read {
            let [median, p99, p999] = [0.5, 0.99, 0.999].map(|part| self.milliseconds(part));
            let max = counts.times.max().as_secs_f64() * 1000.0;
            writeln!(
                f,
                "  ms: median {median:.3}, p99 {p99:.3}, p99.9 {p999:.3}, max {max:.3}"
            )?;
        }
        for Lost { client, id, sent } in &counts.lost_first {
            let at = sent.as_secs_f64();
            writeln!(f, "  lost: ID {id} of {client}, sent at {at:.3} s")?;
        }
        Ok(())
    }
}
