//! Log lines on their way out: a bounded buffer and the one thread that writes it.
//!
//! ```text
//! any thread --push--> | pending, at most 1 MiB | --swap--> writer thread --write--> stdout
//! ```
//!
//! Whoever logs copies its line under a lock that is never held during a write, so a reader of our standard output
//! that stops reading stops nothing but the log. Lines that do not fit are counted, and the count is a metric.
//!
//! To wake the writer costs more than a line, so it is woken only where it sleeps for want of lines. After each write it
//! rests a moment, and what comes meanwhile goes out together.

use std::io::Write;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

/// Octets that may wait for the writer. About ten thousand lines: what a busy server logs in a blink.
pub const PENDING_MAX: usize = 1 << 20;

/// How long lines are gathered after a write. In this time a busy core logs some 100 KiB.
const REST: Duration = Duration::from_millis(1);

/// Where lines go.
pub struct Lines {
    shared: Arc<Shared>,
    dropped: IntCounter,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// The writer thread waits for lines.
    idle: bool,
    /// The writer thread holds lines that are not out yet.
    writing: bool,
    /// Nobody pushes any more.
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Starts the thread that writes to `out`. If there can be no thread, every line is dropped and counted.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let dropped = IntCounter::new(
            "fingerpost_log_dropped_total",
            "log lines lost because standard output did not take them in time",
        )
        .expect("the name is a valid metric name");
        let (theirs, lost) = (Arc::clone(&shared), dropped.clone());
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_until_closed(&theirs, &lost, out));
        if thread.is_err() {
            shared.state().closed = true;
        }
        Self { shared, dropped }
    }

    /// Hands over one line without its line feed. Never waits for the writer; a line that finds no room is dropped
    /// and counted.
    pub fn push(&self, line: &str) {
        let mut state = self.shared.state();
        if state.closed || state.pending.len() + line.len() + 1 > PENDING_MAX {
            self.dropped.inc();
            return;
        }
        state.pending.extend_from_slice(line.as_bytes());
        state.pending.push(b'\n');
        let was_idle = mem::replace(&mut state.idle, false);
        drop(state);
        if was_idle {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything pushed so far is out, for so long at most. For the end of the process.
    pub fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.state();
        while state.writing || !state.pending.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> &IntCounter {
        &self.dropped
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
    }
}

fn write_until_closed(shared: &Shared, lost: &IntCounter, mut out: impl Write) {
    let mut batch = Vec::new();
    loop {
        {
            let mut state = shared.state();
            state.writing = false;
            shared.changed.notify_all();
            while state.pending.is_empty() {
                if state.closed {
                    return;
                }
                state.idle = true;
                state = shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            mem::swap(&mut state.pending, &mut batch);
            state.writing = true;
        }
        if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
            // Nobody reads; there is nowhere to say so but the metric.
            let lines = batch.iter().filter(|&&octet| octet == b'\n').count();
            lost.inc_by(lines as u64);
        }
        batch.clear();
        std::thread::park_timeout(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Takes octets only when it is told to.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.recv().map_err(std::io::Error::other)?;
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_but_no_time_and_no_memory() {
        let (free, stuck) = mpsc::channel();
        let lines = Lines::to(Stuck(stuck));
        let line = "x".repeat(1023);
        for _ in 0..4096 {
            lines.push(&line);
        }
        // One batch may be with the writer, one waits.
        let lost = lines.dropped().get();
        assert!((4096 - 2048..=4096 - 1024).contains(&lost), "{lost}");
        drop(free);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (free, stuck) = mpsc::channel();
        let lines = Lines::to(Stuck(stuck));
        drop(free);
        lines.push("one");
        lines.push("two");
        lines.flush(Duration::from_secs(30));
        assert_eq!(lines.dropped().get(), 2);
    }
}
