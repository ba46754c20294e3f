//! What a `shed` directive says: nothing beyond its name.

use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::Args;
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::key::Scheme;
use crate::plugin::shed::Shed;
use crate::plugin::{BuildError, Config, Context};
use crate::server::assembly::Assembly;

#[derive(Debug)]
struct ShedConfig;

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let directive = context.once();
    let mut whole = context.directives.len() == 1;
    whole &= context.has_no_options(directive);
    whole &= context.faults.note(Args::of(directive).finish()).is_some();
    if let Some(key) = context.keys.iter().find(|key| key.scheme != Scheme::Dns) {
        whole = false;
        context.faults.push(Diagnostic::error(
            directive.name.span,
            format!("`shed` does nothing for `{}://`", key.scheme.as_str()),
            "only where all keys of the server block are plain DNS",
        ));
    }
    whole.then(|| Box::new(ShedConfig) as Box<dyn Config>)
}

impl Config for ShedConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        Ok(vec![Arc::new(Shed {
            metrics: assembly.process.metrics.families(),
        })])
    }
}
