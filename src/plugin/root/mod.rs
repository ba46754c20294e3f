//! `root`: the folder that relative file names of a server block start in. No link in the chain.
//!
//! The server asks for it before it builds the other plugins of the block, wherever the directive stands.

use std::any::Any;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::{BuildError, Config, Context, Spec};
use crate::server::assembly::Assembly;

/// What is known about `root`.
pub static SPEC: Spec = Spec {
    name: "root",
    summary: "names the folder that relative file names start in",
    options: &[],
    parse,
};

/// What the last `root` directive of a block says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RootConfig {
    path: PathBuf,
}

/// The folder, if this is the configuration of `root`.
pub fn path_of(config: &dyn Config) -> Option<&Path> {
    let config: &dyn Any = config;
    let root = config.downcast_ref::<RootConfig>()?;
    Some(&root.path)
}

/// As in CoreDNS the last of several directives counts; we warn.
fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let mut last = None;
    for (place, directive) in context.directives.iter().enumerate() {
        if place > 0 {
            context.faults.push(Diagnostic::warning(
                directive.name.span,
                "`root` stands twice in this server block",
                "it replaces the one above",
            ));
        }
        let path = path(directive);
        last = context.faults.note(path);
        for option in directive.options() {
            context.faults.push(unknown_option("root", option, []));
        }
    }
    let path = last?;
    (context.faults.error_count() == errors).then(|| Box::new(RootConfig { path }) as _)
}

fn path(directive: &Directive) -> Result<PathBuf, Diagnostic> {
    let mut args = Args::of(directive);
    let path = args.take("a folder such as /etc/coredns")?;
    args.finish()?;
    Ok(PathBuf::from(&path.text))
}

impl Config for RootConfig {
    fn build(&self, _assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(_) => Ok(Vec::new()),
            // It may appear later.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(target: "plugin/root", "Root path does not exist: {path}");
                Ok(Vec::new())
            }
            Err(error) => Err(BuildError(format!("`{path}` cannot be used: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::{Bed, config, faults, parse};
    use crate::telemetry::logging::captured;

    #[test]
    fn the_last_folder_counts_with_a_warning() {
        let text = "root /a\nroot \"/b c\"";
        let (config, _) = parse(&SPEC, text);
        assert_eq!(path_of(&*config.unwrap()), Some(Path::new("/b c")));
        assert_eq!(
            faults(&SPEC, text),
            ["warning: `root` stands twice in this server block @ root"]
        );
    }

    #[test]
    fn a_folder_that_is_missing_is_a_warning() {
        let mut bed = Bed::new();
        let missing = config(&SPEC, "root /nonexistent");
        let text = captured(|| assert!(bed.build(&*missing).unwrap().is_empty()));
        assert_eq!(
            text,
            "[WARNING] plugin/root: Root path does not exist: /nonexistent\n"
        );
        let folder = tempfile::tempdir().unwrap();
        let there = config(&SPEC, &format!("root {}", folder.path().display()));
        let text = captured(|| drop(bed.build(&*there)));
        assert_eq!(text, "");
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, fault) in [
            (
                "root",
                "error: `root` needs a folder such as /etc/coredns @ root",
            ),
            ("root /a /b", "error: `root` takes no `/b` @ /b"),
            ("root /a {\nx\n}", "error: `root` has no option `x` @ x"),
        ] {
            assert_eq!(faults(&SPEC, text), [fault], "{text}");
        }
    }
}
