//! `debug`: debug lines in the log, and a panic that ends the process instead of one query.

use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::Args;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::Assembly;

/// `debug`
pub static SPEC: Spec = Spec {
    name: "debug",
    summary: "turns on debug lines, and lets a panic end the process",
    options: &[],
    parse,
};

#[derive(Debug)]
struct DebugConfig;

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let mut whole = true;
    for directive in context.directives {
        whole &= context.has_no_options(directive);
        whole &= context.faults.note(Args::of(directive).finish()).is_some();
    }
    whole.then(|| Box::new(DebugConfig) as Box<dyn Config>)
}

impl Config for DebugConfig {
    /// Sees no query: the server reads the wish from the plan. It holds for the whole process, whichever block has it.
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        assembly.generation.debug = true;
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::bench::{Bench, Link, fault};

    #[test]
    fn it_asks_for_debug_lines_and_puts_no_link_into_the_chain() {
        let bench = Bench::new(vec![Link::Corefile(&SPEC, "debug")]);
        assert!(bench.plan.debug);
        assert!(bench.zones.blocks().all(|block| block.chain.is_empty()));
    }

    #[test]
    fn arguments_are_faults() {
        assert_eq!(fault(&SPEC, "debug all"), "`debug` takes no `all` @ all");
    }
}
