//! `hosts [FILE [ZONES...]] { INLINE... | ttl | no_reverse | reload | fallthrough | fallthrough_unsupported }`.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, GoDuration, nearest};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::fallthrough::Fallthrough;
use crate::plugin::hosts::file::{HostsFile, HostsMetrics};
use crate::plugin::hosts::table::{Scope, Table, address_of};
use crate::plugin::hosts::{Hosts, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;

/// Read where no file is named.
const FILE_DEFAULT: &str = "/etc/hosts";

/// Seconds.
const TTL_DEFAULT: u16 = 3600;

const RELOAD_DEFAULT: Duration = Duration::from_secs(5);

pub(in crate::plugin::hosts) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "ttl",
        syntax: "ttl SECONDS",
        default: "3600",
        help: "TTL of every record, 1 to 65535 s",
    },
    OptionSpec {
        name: "no_reverse",
        syntax: "no_reverse",
        default: "PTR is answered",
        help: "answers no PTR",
    },
    OptionSpec {
        name: "reload",
        syntax: "reload DURATION",
        default: "5s",
        help: "time between two looks at the file; 0 reads it once",
    },
    OptionSpec {
        name: "fallthrough",
        syntax: "fallthrough [ZONES...]",
        default: "SERVFAIL for unknown names",
        help: "passes unknown names on, all or those in ZONES",
    },
    OptionSpec {
        name: "fallthrough_unsupported",
        syntax: "fallthrough_unsupported",
        default: "NODATA for other types of known names",
        help: "passes types other than A, AAAA and PTR on, where fallthrough applies",
    },
];

/// What a `hosts` directive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::hosts) struct HostsConfig {
    file: Option<String>,
    scope: Scope,
    inline: String,
    ttl: u16,
    reload: Duration,
    fallthrough: Option<Fallthrough>,
    fallthrough_unsupported: bool,
}

pub(in crate::plugin::hosts) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directive = context.once();
    let (file, zones) = match directive.args.split_first() {
        Some((file, zones)) => (Some(file.text.clone()), zones),
        None => (None, &[][..]),
    };
    let origins = context.zones_or_origins(zones);
    let mut config = HostsConfig {
        file,
        scope: Scope {
            origins,
            reverse: true,
        },
        inline: String::new(),
        ttl: TTL_DEFAULT,
        reload: RELOAD_DEFAULT,
        fallthrough: None,
        fallthrough_unsupported: false,
    };
    let mut unsupported = None;
    for option in directive.options() {
        if option.name.text == "fallthrough_unsupported" {
            unsupported = Some(option);
        }
        let result = config.option(option, context);
        context.faults.note(result);
    }
    if let Some(option) = unsupported
        && config.fallthrough.is_none()
    {
        context.faults.push(Diagnostic::error(
            option.name.span,
            "`fallthrough_unsupported` needs `fallthrough`",
            "no name is passed on without it",
        ));
    }
    (context.faults.error_count() == errors).then(|| Box::new(config) as Box<dyn Config>)
}

impl HostsConfig {
    fn option(&mut self, option: &Directive, context: &mut Context<'_>) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        match option.name.text.as_str() {
            "fallthrough" => {
                self.fallthrough = Some(Fallthrough::parse(option, context));
                return Ok(());
            }
            "fallthrough_unsupported" => self.fallthrough_unsupported = true,
            "no_reverse" => self.scope.reverse = false,
            "ttl" => self.ttl = ttl(&mut args)?,
            "reload" => self.reload = interval(&mut args)?,
            _ => return self.inline(option, context),
        }
        args.finish()
    }

    /// CoreDNS takes every unknown line for a line of hosts until it has met `fallthrough`. So do we, but we say so
    /// when it cannot be one.
    fn inline(&mut self, option: &Directive, context: &mut Context<'_>) -> Result<(), Diagnostic> {
        let first = &option.name;
        if self.fallthrough.is_some() {
            let fault = Diagnostic::error(
                first.span,
                format!("`{}` stands after `fallthrough`", first.text),
                "expected an option",
            );
            return Err(if address_of(first.text.as_bytes()).is_some() {
                fault.with_help("lines of hosts stand before `fallthrough`")
            } else {
                with_nearest(fault, &first.text)
            });
        }
        if address_of(first.text.as_bytes()).is_none() {
            let fault = Diagnostic::warning(
                first.span,
                format!("`{}` is neither an option nor an address", first.text),
                "this line has no effect",
            );
            context.faults.push(with_nearest(fault, &first.text));
        }
        self.inline.push_str(&first.text);
        for word in &option.args {
            self.inline.push(' ');
            self.inline.push_str(&word.text);
        }
        self.inline.push('\n');
        Ok(())
    }
}

fn with_nearest(fault: Diagnostic, word: &str) -> Diagnostic {
    match nearest(word, SPEC.option_names()) {
        Some(near) => fault.with_help(format!("did you mean `{near}`?")),
        None => fault,
    }
}

fn ttl(args: &mut Args<'_>) -> Result<u16, Diagnostic> {
    const EXPECTED: &str = "a TTL in seconds, 1 to 65535";
    let span = args.peek().map_or(args.span(), |word| word.span);
    match args.take_as::<u16>(EXPECTED)? {
        0 => Err(Diagnostic::error(
            span,
            format!("`0` is not {EXPECTED}"),
            format!("expected {EXPECTED}"),
        )),
        ttl => Ok(ttl),
    }
}

fn interval(args: &mut Args<'_>) -> Result<Duration, Diagnostic> {
    const EXPECTED: &str = "a duration such as 5s, or 0 to read once";
    let span = args.peek().map_or(args.span(), |word| word.span);
    let given: GoDuration = args.take_as(EXPECTED)?;
    given.to_duration().ok_or_else(|| {
        Diagnostic::error(
            span,
            format!("`{given}` is negative"),
            format!("expected {EXPECTED}"),
        )
    })
}

impl Config for HostsConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let metrics = assembly.process.metrics.families::<HostsMetrics>();
        let inline = Table::parse(self.inline.as_bytes(), &self.scope);
        let path = match &self.file {
            Some(name) => assembly.root.join(name),
            None => FILE_DEFAULT.into(),
        };
        let file = HostsFile::new(path, self.scope.clone(), inline.len(), metrics);
        let seen = file.read_first(self.file.is_none());
        let file = Arc::new(file);
        if !self.reload.is_zero() {
            assembly.spawn(Arc::clone(&file).follow(seen, self.reload));
        }
        Ok(vec![Arc::new(Hosts {
            origins: self.scope.origins.clone(),
            ttl: u32::from(self.ttl),
            fallthrough: self.fallthrough.clone(),
            fallthrough_unsupported: self.fallthrough_unsupported,
            inline,
            file,
        })])
    }
}
