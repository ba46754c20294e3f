//! `autopath [ZONES...] RESOLV-CONF | @PLUGIN`: what it says.

use std::path::PathBuf;
use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Word;
use crate::plugin::autopath::{Autopath, SPEC, Source, Successes};
use crate::plugin::{BuildError, Config, Context, PLUGINS, resolv_conf};
use crate::server::assembly::Assembly;
use crate::wire::name::Name;

/// The plugins that know search paths ([`Plugin::search_path`]).
const KNOWING: &[&str] = &["kubernetes"];

const EXPECTED: &str = "a file such as /etc/resolv.conf, or @kubernetes";

#[derive(Debug)]
pub(super) struct AutopathConfig {
    zones: Vec<Name>,
    source: Written,
}

/// Who knows the search path, as the Corefile says it.
#[derive(Debug)]
enum Written {
    File(PathBuf),
    Plugin(String),
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    // As in CoreDNS it may stand more than once; the last one counts.
    let (last, before) = context.directives.split_last()?;
    for directive in before {
        context.faults.push(Diagnostic::warning(
            directive.span(),
            "only the last `autopath` of a server block counts",
            "this line has no effect",
        ));
    }
    context.has_no_options(last);
    let Some((source, zones)) = last.args.split_last() else {
        context.faults.push(Diagnostic::error(
            last.name.span,
            "`autopath` needs a search path",
            format!("expected {EXPECTED}"),
        ));
        return None;
    };
    let config = AutopathConfig {
        zones: context.zones_or_origins(zones),
        source: read_source(source, context),
    };
    (context.faults.error_count() == errors).then(|| Box::new(config) as _)
}

fn read_source(word: &Word, context: &mut Context<'_>) -> Written {
    let Some(name) = word.text.strip_prefix('@') else {
        return Written::File(PathBuf::from(&word.text));
    };
    let is_here = context.has_plugin(name) && PLUGINS.iter().any(|spec| spec.name == name);
    if !is_here {
        // CoreDNS says nothing, and does nothing.
        context.faults.push(Diagnostic::warning(
            word.span,
            format!("there is no plugin `{name}` in this server block"),
            "without it `autopath` has no effect",
        ));
    } else if !KNOWING.contains(&name) {
        let message = format!("`{name}` knows no search paths");
        let expected = format!("expected {EXPECTED}");
        context
            .faults
            .push(Diagnostic::error(word.span, message, expected));
    }
    Written::Plugin(name.to_owned())
}

impl Config for AutopathConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let source = match &self.source {
            Written::Plugin(name) => Source::Plugin(name.as_str().into()),
            Written::File(path) => {
                let search = resolv_conf::read(path);
                let search = search.map_err(BuildError)?;
                if search.is_empty() {
                    tracing::warn!(
                        target: "plugin/autopath",
                        "`{}` names no search domains, so `{}` has no effect", path.display(), SPEC.name
                    );
                }
                Source::File(search.into())
            }
        };
        let successes = Successes::new(assembly.process.metrics.families());
        successes.of(assembly.server);
        Ok(vec![Arc::new(Autopath {
            zones: self.zones.clone().into(),
            source,
            successes,
        })])
    }
}
