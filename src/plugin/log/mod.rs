//! `log`: one line per reply, for the names and kinds of replies that are asked for.
//!
//! ```text
//! qname -> first rule whose NAME holds it -> is the reply of one of its classes? -> its format -> bounded writer
//! ```
//!
//! The rule is chosen by name alone: one that does not want this class of reply keeps later rules from seeing it. Lines
//! go through [`crate::telemetry::lines`], so a reader of standard output that stops reading costs lines, never time.

mod class;
mod config;
mod format;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::Arc;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Passes, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::log::class::Classes;
use crate::plugin::log::format::Format;
use crate::telemetry::lines::Lines;
use crate::wire::name::Name;

/// What is known about `log`.
pub static SPEC: Spec = Spec {
    name: "log",
    summary: "prints one line per reply",
    options: config::OPTIONS,
    parse: config::parse,
};

/// Which replies are logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::log) struct Rule {
    /// Names at or below this one.
    pub(in crate::plugin::log) scope: Name,
    pub(in crate::plugin::log) classes: Classes,
    pub(in crate::plugin::log) format: Arc<Format>,
}

pub(in crate::plugin::log) struct Log {
    rules: Vec<Rule>,
    lines: Arc<Lines>,
}

impl Log {
    pub(in crate::plugin::log) fn new(rules: Vec<Rule>, lines: Arc<Lines>) -> Self {
        Self { rules, lines }
    }
}

impl Plugin for Log {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Queries
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn metadata(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn std::fmt::Write,
    ) -> bool {
        let text = match label {
            "log/class" => class::class_of(exchange).as_str(),
            "log/type" => class::type_of(exchange),
            _ => return false,
        };
        value.write_str(text).is_ok()
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        thread_local! {
            /// One line's room, used again and again.
            static LINE: Cell<String> = const { Cell::new(String::new()) };
        }
        let qname = exchange.qname();
        let rule = self
            .rules
            .iter()
            .find(|rule| qname.is_at_or_below(rule.scope.as_ref()));
        if let Some(rule) = rule
            && rule.classes.hold(exchange)
        {
            let mut line = LINE.take();
            line.clear();
            line.push_str("[INFO] ");
            rule.format.write(&mut line, exchange);
            self.lines.push(&line);
            LINE.set(line);
        }
        After::Done
    }
}
