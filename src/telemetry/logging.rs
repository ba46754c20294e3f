//! Log lines as CoreDNS prints them: standard output, no time stamp, `[LEVEL] plugin/NAME: text`.
//!
//! | event | line |
//! |---|---|
//! | `tracing::info!(target: "plugin/forward", "text")` | `[INFO] plugin/forward: text` |
//! | `tracing::warn!("text")` | `[WARNING] text` |
//! | `tracing::error!(fatal = true, "text")` | `[FATAL] text` |
//! | `tracing::info!(zone = "a.org", "text")` | `[INFO] text zone=a.org` |
//!
//! Events of other crates show from WARNING up, ours from INFO up, or DEBUG while `debug` is loaded. Spans are not
//! used. Control characters are escaped, so no name or error text can forge a line.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::telemetry::lines::Lines;
use crate::telemetry::metrics::Families;

static STDOUT: OnceLock<Arc<Lines>> = OnceLock::new();
static DEBUG: AtomicBool = AtomicBool::new(false);

/// Everything that is printed to standard output goes through this; its thread starts at first use.
pub fn stdout() -> &'static Arc<Lines> {
    STDOUT.get_or_init(|| Arc::new(Lines::to(std::io::stdout())))
}

/// Sends every event of the process to standard output. A second call changes nothing.
pub fn init() {
    let subscriber = LineSubscriber::new(Arc::clone(stdout()));
    // Only a second call can fail, and then the first one holds.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Turns debug lines on or off for the whole process (`debug`).
pub fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Waits until all lines are out, at most a second. Call it before the process ends.
pub fn flush() {
    if let Some(lines) = STDOUT.get() {
        lines.flush(Duration::from_secs(1));
    }
}

/// `fingerpost_log_dropped_total`.
pub struct LogMetrics;

impl Families for LogMetrics {
    fn register(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        registry.register(Box::new(stdout().dropped().clone()))?;
        Ok(Self)
    }
}

/// Turns events into lines.
pub struct LineSubscriber {
    lines: Arc<Lines>,
}

impl LineSubscriber {
    /// Prints to these lines.
    pub fn new(lines: Arc<Lines>) -> Self {
        Self { lines }
    }
}

fn is_wanted(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let ours = target.starts_with("plugin/") || target.starts_with(env!("CARGO_PKG_NAME"));
    match *metadata.level() {
        Level::ERROR | Level::WARN => true,
        Level::INFO => ours,
        Level::DEBUG => ours && DEBUG.load(Ordering::Relaxed),
        Level::TRACE => false,
    }
}

impl Subscriber for LineSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if DEBUG.load(Ordering::Relaxed) {
            LevelFilter::DEBUG
        } else {
            LevelFilter::INFO
        })
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Line::default();
        event.record(&mut fields);
        let mut line = String::with_capacity(fields.message.len() + 64);
        write_line(&mut line, event.metadata(), &fields);
        self.lines.push(&line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn write_line(line: &mut String, metadata: &Metadata<'_>, fields: &Line) {
    line.push_str(match *metadata.level() {
        Level::ERROR if fields.fatal => "[FATAL] ",
        Level::ERROR => "[ERROR] ",
        Level::WARN => "[WARNING] ",
        Level::INFO => "[INFO] ",
        Level::DEBUG | Level::TRACE => "[DEBUG] ",
    });
    if metadata.target().starts_with("plugin/") {
        line.push_str(metadata.target());
        line.push_str(": ");
    }
    push_escaped(line, &fields.message);
    push_escaped(line, &fields.others);
}

/// Appends `text` with its control characters escaped.
pub fn push_escaped(line: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(char::is_control) {
        line.push_str(&rest[..at]);
        let control = rest[at..].chars().next().expect("found just above");
        line.extend(control.escape_default());
        rest = &rest[at + control.len_utf8()..];
    }
    line.push_str(rest);
}

/// What an event says.
#[derive(Default)]
struct Line {
    fatal: bool,
    message: String,
    others: String,
}

impl Visit for Line {
    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "fatal" {
            self.fatal = value;
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.others, " {}={value:?}", field.name())
        };
    }
}

/// Collects what is logged while `body` runs on this thread.
#[cfg(test)]
pub(crate) fn captured(body: impl FnOnce()) -> String {
    let log = TestLog::new();
    tracing::subscriber::with_default(LineSubscriber::new(Arc::clone(&log.lines)), body);
    log.text()
}

/// Lines in memory.
#[cfg(test)]
pub(crate) struct TestLog {
    pub(crate) lines: Arc<Lines>,
    out: TestOut,
}

#[cfg(test)]
#[derive(Clone, Default)]
struct TestOut(Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl std::io::Write for TestOut {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl TestLog {
    pub(crate) fn new() -> Self {
        let out = TestOut::default();
        let lines = Arc::new(Lines::to(out.clone()));
        Self { lines, out }
    }

    /// Everything logged so far.
    pub(crate) fn text(&self) -> String {
        self.lines.flush(Duration::from_secs(30));
        String::from_utf8(self.out.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_level_and_plugin_and_no_time() {
        let text = captured(|| {
            tracing::info!(target: "plugin/forward", "upstream `{}` is up", "10.0.0.2:53");
            tracing::warn!("no plugin here");
            tracing::error!(fatal = true, "the end");
            tracing::error!(target: "plugin/errors", count = 2, name = "a", "text");
        });
        assert_eq!(
            text,
            "[INFO] plugin/forward: upstream `10.0.0.2:53` is up\n\
             [WARNING] no plugin here\n\
             [FATAL] the end\n\
             [ERROR] plugin/errors: text count=2 name=a\n"
        );
    }

    #[test]
    fn no_text_can_forge_a_line() {
        let text = captured(|| {
            tracing::error!(target: "plugin/errors", "a\n[INFO] b\u{1b}[2J\u{9b}c");
        });
        assert_eq!(
            text,
            "[ERROR] plugin/errors: a\\n[INFO] b\\u{1b}[2J\\u{9b}c\n"
        );
    }

    #[test]
    fn debug_lines_and_chatter_of_libraries_are_left_out() {
        let text = captured(|| {
            tracing::debug!(target: "plugin/cache", "detail");
            tracing::info!(target: "hyper::client", "chatter");
            tracing::warn!(target: "kube_client", "trouble");
        });
        assert_eq!(text, "[WARNING] trouble\n");
    }
}
