//! `log [NAMES...] [FORMAT] { class all|denial|error|success... }`, as often as wanted.

use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::unknown_option;
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::log::class::Classes;
use crate::plugin::log::format::{COMMON, Format};
use crate::plugin::log::{Log, Rule, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;
use crate::telemetry::logging::{self, LogMetrics};
use crate::wire::name::Name;

pub(in crate::plugin::log) const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "class",
    syntax: "class all|denial|error|success...",
    default: "all",
    help: "logs replies of these classes only",
}];

/// What all `log` directives of a block say: one list of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::log) struct LogConfig {
    pub(in crate::plugin::log) rules: Vec<Rule>,
}

pub(in crate::plugin::log) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let mut rules = Vec::new();
    for directive in context.directives {
        let (names, format) = arguments(directive, context);
        let format = Arc::new(Format::parse(format));
        let classes = classes(directive, context);
        for scope in scopes(names, context) {
            rules.push(Rule {
                scope,
                classes,
                format: Arc::clone(&format),
            });
        }
    }
    (context.faults.error_count() == errors).then(|| Box::new(LogConfig { rules }) as _)
}

/// Names and format. The last of several words is the format if it holds a brace; a single word is always a name.
fn arguments<'d>(directive: &'d Directive, context: &mut Context<'_>) -> (&'d [Word], &'d str) {
    match directive.args.split_last() {
        Some((last, names)) if last.text.contains('{') => {
            if names.is_empty() {
                let fault = Diagnostic::warning(
                    last.span,
                    format!("`{}` is read as a name, not as a format", last.text),
                    "a single word is a name",
                );
                let help = format!(
                    "to log every name in this format, write `log . {}`",
                    last.text
                );
                context.faults.push(fault.with_help(help));
                return (&directive.args, COMMON);
            }
            (names, &last.text)
        }
        _ => (&directive.args, COMMON),
    }
}

fn scopes(names: &[Word], context: &mut Context<'_>) -> Vec<Name> {
    if names.is_empty() {
        return vec![Name::root()];
    }
    let mut scopes = Vec::with_capacity(names.len());
    for word in names {
        let scope = Name::from_text(&word.text).map_err(|error| {
            let message = format!("`{}` is not a name", word.text);
            Diagnostic::error(word.span, message, error.to_string())
        });
        scopes.extend(context.faults.note(scope).map(|scope| scope.to_lower()));
    }
    scopes
}

fn classes(directive: &Directive, context: &mut Context<'_>) -> Classes {
    const EXPECTED: &str = "`all`, `denial`, `error` or `success`";
    let mut classes = Classes::default();
    for option in directive.options() {
        if option.name.text != "class" {
            let fault = unknown_option("log", option, SPEC.option_names());
            context.faults.push(fault);
            continue;
        }
        if option.args.is_empty() {
            context.faults.push(Diagnostic::error(
                option.span(),
                format!("`class` needs {EXPECTED}"),
                format!("expected {EXPECTED} after this"),
            ));
        }
        for word in &option.args {
            if !classes.add(&word.text) {
                context.faults.push(Diagnostic::error(
                    word.span,
                    format!("`{}` is not a class", word.text),
                    format!("expected {EXPECTED}"),
                ));
            }
        }
    }
    if classes.is_empty() {
        Classes::ALL
    } else {
        classes
    }
}

impl Config for LogConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        assembly.process.metrics.families::<LogMetrics>();
        let lines = Arc::clone(logging::stdout());
        Ok(vec![Arc::new(Log::new(self.rules.clone(), lines))])
    }
}
