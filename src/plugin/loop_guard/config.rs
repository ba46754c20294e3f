//! `loop { exit }`.

use crate::corefile::args::{Args, unknown_option};
use crate::plugin::loop_guard::SPEC;
use crate::plugin::{Config, Context, OptionSpec};

pub(super) const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "exit",
    syntax: "exit",
    default: "the looping upstream is taken out",
    help: "ends the process when a loop is found, as CoreDNS does",
}];

/// What a `loop` directive says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoopConfig {
    /// A loop ends the process.
    pub(super) exit: bool,
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let directive = context.once();
    let mut config = LoopConfig::default();
    let mut whole = context.directives.len() == 1;
    whole &= context.faults.note(Args::of(directive).finish()).is_some();
    for option in directive.options() {
        let result = match option.name.text.as_str() {
            "exit" => Args::of(option).finish().map(|()| config.exit = true),
            _ => Err(unknown_option("loop", option, SPEC.option_names())),
        };
        whole &= context.faults.note(result).is_some();
    }
    whole.then(|| Box::new(config) as Box<dyn Config>)
}
