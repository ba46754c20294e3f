//! `transfer [ZONES...] { to ADDRESS|* ... ; source ADDRESS }`: what the directives say, checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::{Diagnostic, Span};
use crate::corefile::tree::{Directive, Word};
use crate::plugin::transfer::metrics::TransferMetrics;
use crate::plugin::transfer::notify::Notifier;
use crate::plugin::transfer::ration::Ration;
use crate::plugin::transfer::seats::Seats;
use crate::plugin::transfer::{SPEC, Stanza, Transfer};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;

const DNS_PORT: u16 = 53;

const EXPECTED: &str = "an address such as 192.0.2.1 or [2001:db8::1]:53, or `*`";

pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "to",
        syntax: "to ADDRESS|*...",
        default: "",
        help: "who may copy the zones and is told of changes; `*` is anybody, who is told nothing",
    },
    OptionSpec {
        name: "source",
        syntax: "source ADDRESS",
        default: "what the kernel takes",
        help: "the address that NOTIFY is sent from",
    },
];

/// What the `transfer` directives of a block say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TransferConfig {
    pub(super) stanzas: Vec<Stanza>,
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let directives = context.directives;
    let stanzas = directives
        .iter()
        .map(|directive| read_stanza(directive, context))
        .collect();
    let config = TransferConfig { stanzas };
    (context.faults.error_count() == errors).then(|| Box::new(config) as Box<dyn Config>)
}

fn read_stanza(directive: &Directive, context: &mut Context<'_>) -> Stanza {
    let mut stanza = Stanza {
        zones: context.zones_or_origins(&directive.args),
        anybody: false,
        to: Vec::new(),
        source: None,
    };
    let (mut named, mut source) = (false, None);
    for option in directive.options() {
        named |= option.name.text == "to";
        let result = read_option(option, &mut stanza, &mut source);
        context.faults.note(result);
    }
    if !named {
        context.faults.push(Diagnostic::error(
            directive.span(),
            "`transfer` needs `to`",
            "expected `to` in its braces: without it nobody may copy anything",
        ));
    }
    check_source(&stanza, source, context);
    stanza
}

fn read_option(
    option: &Directive,
    stanza: &mut Stanza,
    source: &mut Option<Span>,
) -> Result<(), Diagnostic> {
    let mut args = Args::of(option);
    match option.name.text.as_str() {
        "to" => {
            args.take(EXPECTED)?;
            for word in &option.args {
                match word.text.as_str() {
                    "*" => stanza.anybody = true,
                    _ => stanza.to.push(read_target(word)?),
                }
            }
            args.rest();
        }
        "source" => {
            if let Some(first) = source {
                let again = Diagnostic::error(
                    option.name.span,
                    "`source` stands twice",
                    "expected one address",
                );
                return Err(again.with_related(*first, "first here"));
            }
            *source = Some(option.name.span);
            stanza.source = Some(args.take_as("an address such as 192.0.2.1")?);
        }
        _ => return Err(unknown_option(SPEC.name, option, SPEC.option_names())),
    }
    args.finish()
}

/// An address with or without a port.
fn read_target(word: &Word) -> Result<SocketAddr, Diagnostic> {
    let text = word.text.as_str();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>().ok();
    let target = address.map_or_else(
        || text.parse::<SocketAddr>().ok(),
        |address| Some(SocketAddr::new(address, DNS_PORT)),
    );
    // Clients are compared in this form.
    let target = target.map(|to| SocketAddr::new(to.ip().to_canonical(), to.port()));
    target.filter(|to| to.port() != 0).ok_or_else(|| {
        Diagnostic::error(
            word.span,
            format!("`{text}` is not {EXPECTED}"),
            format!("expected {EXPECTED}"),
        )
    })
}

/// A source that no NOTIFY can leave from has no effect, which nobody would notice.
fn check_source(stanza: &Stanza, span: Option<Span>, context: &mut Context<'_>) {
    let (Some(source), Some(span)) = (stanza.source, span) else {
        return;
    };
    let fits = |to: &SocketAddr| to.is_ipv4() == source.is_ipv4();
    let message = if stanza.to.is_empty() {
        "`source` is for NOTIFY, and `to` names nobody to send it to".to_owned()
    } else if let Some(to) = stanza.to.iter().find(|to| !fits(to)) {
        format!("nothing can be sent from `{source}` to `{}`", to.ip())
    } else {
        return;
    };
    let label = "of the other family, or of no use";
    context
        .faults
        .push(Diagnostic::warning(span, message, label));
}

impl Config for TransferConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let process = Arc::clone(assembly.process);
        let metrics = process.metrics.families::<TransferMetrics>();
        let seats = process.shared.get_or_try::<Seats, BuildError>("", || {
            Ok(Arc::new(Seats::new(metrics.running.clone())))
        })?;
        let lines = process
            .shared
            .get_or_try::<Ration, BuildError>("", || Ok(Arc::new(Ration::new(Instant::now()))))?;
        let stanzas: Arc<[Stanza]> = self.stanzas.as_slice().into();
        if stanzas.iter().any(|stanza| !stanza.to.is_empty()) {
            let links = assembly.generation.links.clone();
            let notifier = Notifier::new(Arc::clone(&stanzas), links, Arc::clone(&metrics));
            let plan = &mut assembly.generation;
            plan.after_serving.push(Box::pin(notifier.run()));
        }
        Ok(vec![Arc::new(Transfer {
            stanzas,
            seats,
            metrics,
            lines,
        })])
    }
}
