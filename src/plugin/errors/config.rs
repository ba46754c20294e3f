//! `errors [stdout] { stacktrace | consolidate DURATION REGEXP [LEVEL] [show_first] }`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, GoDuration, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::errors::consolidate::Pattern;
use crate::plugin::errors::limit::Limit;
use crate::plugin::errors::{Errors, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;

/// Octets of a pattern, as CoreDNS limits them.
const PATTERN_MAX: usize = 10_000;

pub(in crate::plugin::errors) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "stacktrace",
        syntax: "stacktrace",
        default: "off",
        help: "adds a backtrace to the log line of a recovered panic; not built yet",
    },
    OptionSpec {
        name: "consolidate",
        syntax: "consolidate DURATION REGEXP [LEVEL] [show_first]",
        default: "each error is logged",
        help: "counts errors that match and logs one line per DURATION; the first matching pattern takes an error",
    },
];

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::errors) enum LogLevel {
    Warning,
    Error,
    Info,
    Debug,
}

impl LogLevel {
    fn from_word(text: &str) -> Option<Self> {
        Some(match text {
            "warning" => Self::Warning,
            "error" => Self::Error,
            "info" => Self::Info,
            "debug" => Self::Debug,
            _ => return None,
        })
    }

    pub(in crate::plugin::errors) fn print(self, text: fmt::Arguments<'_>) {
        match self {
            Self::Warning => tracing::warn!(target: "plugin/errors", "{text}"),
            Self::Error => tracing::error!(target: "plugin/errors", "{text}"),
            Self::Info => tracing::info!(target: "plugin/errors", "{text}"),
            Self::Debug => tracing::debug!(target: "plugin/errors", "{text}"),
        }
    }
}

/// One `consolidate` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::errors) struct Consolidate {
    pub(in crate::plugin::errors) period: Duration,
    /// The period as Go prints it.
    pub(in crate::plugin::errors) period_text: String,
    pub(in crate::plugin::errors) pattern: String,
    pub(in crate::plugin::errors) level: LogLevel,
    pub(in crate::plugin::errors) show_first: bool,
}

/// What an `errors` directive says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin::errors) struct ErrorsConfig {
    pub(in crate::plugin::errors) consolidate: Vec<Consolidate>,
}

pub(in crate::plugin::errors) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.once();
    let mut config = ErrorsConfig::default();
    context.faults.note(arguments(directive));
    for option in directive.options() {
        let result = match option.name.text.as_str() {
            "stacktrace" => Args::of(option).finish().map(|()| {
                let what = "`errors` option `stacktrace`";
                context
                    .faults
                    .push(Diagnostic::not_built(option.span(), what));
            }),
            "consolidate" => consolidate(option).map(|line| config.consolidate.push(line)),
            _ => Err(unknown_option("errors", option, SPEC.option_names())),
        };
        context.faults.note(result);
    }
    (context.faults.error_count() == errors).then(|| Box::new(config) as Box<dyn Config>)
}

fn arguments(directive: &Directive) -> Result<(), Diagnostic> {
    let mut args = Args::of(directive);
    if let Some(word) = args.peek() {
        if word.text != "stdout" {
            return Err(Diagnostic::error(
                word.span,
                format!("`{}` is not where errors can go", word.text),
                "expected `stdout` or nothing",
            ));
        }
        args.take("`stdout`")?;
    }
    args.finish()
}

fn consolidate(option: &Directive) -> Result<Consolidate, Diagnostic> {
    const PERIOD: &str = "a duration such as 5m";
    let mut args = Args::of(option);
    let word = args.take(PERIOD)?;
    let (period_text, period) = crate::corefile::args::read_as::<GoDuration>(word, PERIOD)
        .and_then(|given| {
            given
                .to_duration()
                .map(|period| (given.to_string(), period))
                .ok_or_else(|| {
                    Diagnostic::error(
                        word.span,
                        format!("`{}` is negative", word.text),
                        format!("expected {PERIOD}"),
                    )
                })
        })?;
    let pattern = args.take("a regular expression such as \".* i/o timeout$\"")?;
    regex_of(pattern)?;
    let (level, show_first) = loudness(&mut args)?;
    args.finish()?;
    Ok(Consolidate {
        period,
        period_text,
        pattern: pattern.text.clone(),
        level,
        show_first,
    })
}

fn loudness(args: &mut Args<'_>) -> Result<(LogLevel, bool), Diagnostic> {
    let mut level = None;
    if let Some(given) = args.peek().and_then(|word| LogLevel::from_word(&word.text)) {
        level = Some(given);
        args.take("a level")?;
    }
    let Some(word) = args.peek() else {
        return Ok((level.unwrap_or(LogLevel::Error), false));
    };
    if word.text != "show_first" {
        let message = if LogLevel::from_word(&word.text).is_some() {
            "`consolidate` takes one level".to_owned()
        } else {
            format!("`consolidate` takes no `{}`", word.text)
        };
        let label = if level.is_some() {
            "expected `show_first` or the end of the line"
        } else {
            "expected `warning`, `error`, `info`, `debug` or `show_first`"
        };
        return Err(Diagnostic::error(word.span, message, label));
    }
    args.take("`show_first`")?;
    if let Some(late) = args.peek()
        && LogLevel::from_word(&late.text).is_some()
    {
        return Err(Diagnostic::error(
            late.span,
            "the level of `consolidate` stands after `show_first`",
            "expected before `show_first`",
        ));
    }
    Ok((level.unwrap_or(LogLevel::Error), true))
}

fn regex_of(word: &Word) -> Result<Regex, Diagnostic> {
    if word.text.len() > PATTERN_MAX {
        let length = word.text.len();
        return Err(Diagnostic::error(
            word.span,
            format!("a pattern of {length} octets is too long"),
            format!("expected at most {PATTERN_MAX} octets"),
        ));
    }
    Regex::new(&word.text).map_err(|error| {
        // The last line says what is wrong; those before it draw the pattern.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.trim_start_matches("error: ");
        Diagnostic::error(
            word.span,
            format!("`{}` is not a regular expression", word.text),
            reason,
        )
    })
}

impl Config for ErrorsConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let mut patterns = Vec::with_capacity(self.consolidate.len());
        for line in &self.consolidate {
            let regex = Regex::new(&line.pattern).map_err(|error| BuildError(error.to_string()))?;
            let stop = assembly.generation.stop.clone();
            let pattern = Arc::new(Pattern::new(line.clone(), regex, stop));
            patterns.push(Arc::clone(&pattern));
            // Not `assembly.spawn`: a task that is stopped from outside could not print its last summary.
            let runtime = &assembly.process.runtime;
            assembly
                .generation
                .tasks
                .spawn_on(async move { pattern.summarize().await }, runtime);
        }
        Ok(vec![Arc::new(Errors {
            patterns,
            limit: Limit::new(Instant::now()),
            counter: assembly.process.metrics.families(),
        })])
    }
}
