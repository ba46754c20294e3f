//! What a `cookie` directive says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Directive;
use crate::plugin::cookie::server::Secret;
use crate::plugin::cookie::{Cookie, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;

pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "secret",
        syntax: "secret HEX|FILE",
        default: "drawn at random at start",
        help: "32 hexadecimal digits, or a file with one such line for each secret; of several the first makes cookies, all are accepted",
    },
    OptionSpec {
        name: "require",
        syntax: "require",
        default: "off",
        help: "answers BADCOOKIE over UDP to clients that use cookies and do not have ours yet",
    },
];

/// Secrets at most: the new one, the old one, and some to spare.
const SECRETS_MAX: usize = 4;

/// Octets of a file of secrets at most.
const FILE_MAX: u64 = 4096;

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Text(Secret),
    File(String),
}

/// A checked `cookie` directive.
#[derive(Debug)]
struct CookieConfig {
    secrets: Vec<Source>,
    require: bool,
}

pub(super) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let directive = context.once();
    let mut whole = context.directives.len() == 1;
    whole &= context.faults.note(Args::of(directive).finish()).is_some();
    let mut config = CookieConfig {
        secrets: Vec::new(),
        require: false,
    };
    for option in directive.options() {
        whole &= context.has_no_options(option);
        let read = config.read_option(option);
        whole &= context.faults.note(read).is_some();
    }
    whole.then(|| Box::new(config) as Box<dyn Config>)
}

impl CookieConfig {
    fn read_option(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        match option.name.text.as_str() {
            "secret" => {
                let word = args.take("32 hexadecimal digits, or a file")?;
                args.finish()?;
                if self.secrets.len() == SECRETS_MAX {
                    let text = format!("more than {SECRETS_MAX} secrets");
                    return Err(Diagnostic::error(word.span, text, "one too many"));
                }
                self.secrets.push(match secret(&word.text) {
                    Some(secret) => Source::Text(secret),
                    None => Source::File(word.text.clone()),
                });
                Ok(())
            }
            "require" => {
                self.require = true;
                args.finish()
            }
            _ => Err(unknown_option(SPEC.name, option, SPEC.option_names())),
        }
    }

    fn secrets(&self, root: &Path) -> Result<Vec<Secret>, BuildError> {
        let mut secrets = Vec::new();
        for source in &self.secrets {
            match source {
                Source::Text(secret) => secrets.push(*secret),
                Source::File(file) => secrets.extend(read(&root.join(file))?),
            }
        }
        if secrets.len() > SECRETS_MAX {
            return Err(BuildError(format!("more than {SECRETS_MAX} secrets")));
        }
        Ok(secrets)
    }
}

impl Config for CookieConfig {
    fn files(&self, root: &Path) -> Vec<PathBuf> {
        let file = |source: &Source| match source {
            Source::Text(_) => None,
            Source::File(file) => Some(root.join(file)),
        };
        self.secrets.iter().filter_map(file).collect()
    }

    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let mut secrets = self.secrets(assembly.root)?;
        let mut drawn = None;
        if secrets.is_empty() {
            // Kept across reloads: it is found as long as the generation before is there.
            let shared = assembly.process.shared.get_or_try("", || {
                let mut octets = [0; 16];
                let filled = getrandom::fill(&mut octets);
                filled.map(|()| Arc::new(Drawn(Secret(octets))))
            });
            let text = |error| BuildError(format!("no random secret: {error}"));
            let shared = shared.map_err(text)?;
            secrets.push(shared.0);
            drawn = Some(shared);
        }
        let families = assembly.process.metrics.families();
        let cookie = Cookie::new(secrets, drawn, self.require, families);
        Ok(vec![Arc::new(cookie)])
    }
}

/// The secret that this process has drawn.
pub(super) struct Drawn(Secret);

/// One secret a line; empty lines and those that begin with `#` do not count. No message repeats the content.
fn read(path: &Path) -> Result<Vec<Secret>, BuildError> {
    let fault = |what: &str| BuildError(format!("file of secrets `{}` {what}", path.display()));
    let length =
        std::fs::metadata(path).map_err(|error| fault(&format!("cannot be read: {error}")))?;
    if length.len() > FILE_MAX {
        return Err(fault("is too large"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| fault(&format!("cannot be read: {error}")))?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let secrets: Option<Vec<Secret>> = lines.map(secret).collect();
    secrets
        .filter(|secrets| !secrets.is_empty())
        .ok_or_else(|| fault("needs lines of 32 hexadecimal digits"))
}

fn secret(text: &str) -> Option<Secret> {
    from_hex(text)?.try_into().ok().map(Secret)
}

/// Octets from pairs of hexadecimal digits.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}
