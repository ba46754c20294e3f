//! `errors`: logs what went wrong further down the chain.
//!
//! An error is logged once, on the way up. One that matches a `consolidate` pattern is only counted, and the count is
//! logged when the pattern's time is over:
//!
//! ```text
//! error -> first matching pattern -> count 0 -> 1: wake its task -> sleep DURATION -> log the count, set it to 0
//!       '-> none                  -> log
//! ```

mod config;
mod consolidate;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::errors::config::LogLevel;
use crate::plugin::errors::consolidate::{Hit, Pattern};

/// What is known about `errors`.
pub static SPEC: Spec = Spec {
    name: "errors",
    summary: "logs errors met further down the chain",
    options: config::OPTIONS,
    parse: config::parse,
};

pub(in crate::plugin::errors) struct Errors {
    patterns: Vec<Arc<Pattern>>,
}

impl Plugin for Errors {
    fn name(&self) -> &'static str {
        SPEC.name
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
            None => LogLevel::Error,
            Some(Hit::Print(level)) => level,
            Some(Hit::Counted) => return,
        };
        let (rcode, qname, qtype) = (exchange.reply.rcode.0, exchange.qname(), exchange.qtype());
        level.print(format_args!("{rcode} {qname} {qtype}: {error}"));
    }
}
