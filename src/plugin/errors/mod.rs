//! `errors`: logs what went wrong further down the chain.
//!
//! An error is logged once, on the way up. One that matches a `consolidate` pattern is only counted, and the count is
//! logged when the pattern's time is over:
//!
//! ```text
//! error -> first matching pattern -> count 0 -> 1: wake its task -> sleep DURATION -> log the count, set it to 0
//!       '-> none                  -> log, unless there were a thousand in this second
//! ```

mod config;
mod consolidate;
mod limit;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Passes, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::errors::config::LogLevel;
use crate::plugin::errors::consolidate::{Hit, Pattern};
use crate::plugin::errors::limit::{Counter, LINES_MAX, Limit, Turn};

/// What is known about `errors`.
pub static SPEC: Spec = Spec {
    name: "errors",
    summary: "logs errors met further down the chain",
    options: config::OPTIONS,
    parse: config::parse,
};

pub(in crate::plugin::errors) struct Errors {
    patterns: Vec<Arc<Pattern>>,
    limit: Limit,
    counter: Arc<Counter>,
}

impl Plugin for Errors {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Queries
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        if let Some(error) = exchange.error() {
            self.report(exchange, &error);
        }
        After::Done
    }
}

impl Errors {
    #[cold]
    fn report(&self, exchange: &Exchange<'_>, error: &str) {
        let matching = self.patterns.iter().find(|pattern| pattern.matches(error));
        let level = match matching.map(|pattern| pattern.count()) {
            None if !self.has_room(exchange.arrival().received) => return,
            None => LogLevel::Error,
            Some(Hit::Print(level)) => level,
            Some(Hit::Counted) => return,
        };
        let (rcode, qname, qtype) = (exchange.reply.rcode.0, exchange.qname(), exchange.qtype());
        level.print(format_args!("{rcode} {qname} {qtype}: {error}"));
    }

    /// Whether one more line may be printed now.
    fn has_room(&self, now: Instant) -> bool {
        match self.limit.take(now) {
            Turn::HoldBack => {
                self.counter.held_back.inc();
                return false;
            }
            Turn::Print(0) => {}
            Turn::Print(held_back) => LogLevel::Error.print(format_args!(
                "{held_back} more errors were not logged, past {LINES_MAX} in a second"
            )),
        }
        true
    }
}
