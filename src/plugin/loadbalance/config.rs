//! What `loadbalance` directives say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, FromWord, GoDuration, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::loadbalance::weights::Weights;
use crate::plugin::loadbalance::{LoadBalance, Policy, SPEC};
use crate::plugin::{BuildError, Config, Context, OptionSpec};
use crate::server::assembly::Assembly;

/// The options of `loadbalance`.
pub(in crate::plugin::loadbalance) static OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "prefer",
        syntax: "prefer CIDR...",
        default: "none",
        help: "addresses in these networks go first, in this order; not with `weighted`",
    },
    OptionSpec {
        name: "reload",
        syntax: "reload DURATION",
        default: "30s",
        help: "how often FILE is looked at, 0 never; only with `weighted`",
    },
];

const POLICY: &str = "`round_robin` or `weighted FILE`";
const NETWORK: &str = "a network such as `10.0.0.0/8`";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin::loadbalance) enum LoadBalanceConfig {
    /// Any order, but these networks first.
    Shuffle(Vec<IpNet>),
    /// One address to the front, by weight.
    Weighted { file: PathBuf, reload: Duration },
}

/// Reads the directives. As in CoreDNS there may be several: the last policy counts, networks add up.
pub(in crate::plugin::loadbalance) fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let mut whole = true;
    let mut config = LoadBalanceConfig::Shuffle(Vec::new());
    for directive in context.directives {
        let policy = read_policy(directive, &mut config);
        whole &= context.faults.note(policy).is_some();
        for option in directive.options() {
            whole &= context.has_no_options(option);
            let read = config.read_option(option);
            whole &= context.faults.note(read).is_some();
        }
    }
    whole.then(|| Box::new(config) as Box<dyn Config>)
}

fn read_policy(directive: &Directive, config: &mut LoadBalanceConfig) -> Result<(), Diagnostic> {
    let networks = match config {
        LoadBalanceConfig::Shuffle(networks) => std::mem::take(networks),
        LoadBalanceConfig::Weighted { .. } => Vec::new(),
    };
    *config = LoadBalanceConfig::Shuffle(networks);
    let mut args = Args::of(directive);
    let Some(policy) = args.peek() else {
        return Ok(());
    };
    args.take(POLICY)?;
    match policy.text.as_str() {
        "round_robin" => {}
        "weighted" => {
            *config = LoadBalanceConfig::Weighted {
                file: PathBuf::from(&args.take("the name of a file with weights")?.text),
                reload: Duration::from_secs(30),
            };
        }
        _ => return Err(not(policy, POLICY)),
    }
    args.finish()
}

fn not(word: &Word, expected: &str) -> Diagnostic {
    Diagnostic::error(
        word.span,
        format!("`{}` is not {expected}", word.text),
        format!("expected {expected}"),
    )
}

impl LoadBalanceConfig {
    fn read_option(&mut self, option: &Directive) -> Result<(), Diagnostic> {
        let mut args = Args::of(option);
        match (option.name.text.as_str(), self) {
            ("prefer", Self::Shuffle(networks)) => {
                args.take(NETWORK)?;
                for word in &option.args {
                    networks.push(word.text.parse().map_err(|_| not(word, NETWORK))?);
                }
                Ok(())
            }
            ("reload", Self::Weighted { reload, .. }) => {
                const DURATION: &str = "a duration, such as `30s`";
                let word = args.take(DURATION)?;
                args.finish()?;
                *reload = GoDuration::from_word(&word.text)
                    .and_then(GoDuration::to_duration)
                    .ok_or_else(|| not(word, DURATION))?;
                Ok(())
            }
            ("prefer", Self::Weighted { .. }) => Err(misplaced(option, "without `weighted`")),
            ("reload", Self::Shuffle(_)) => Err(misplaced(option, "with `weighted`")),
            _ => Err(unknown_option(SPEC.name, option, SPEC.option_names())),
        }
    }
}

fn misplaced(option: &Directive, when: &str) -> Diagnostic {
    Diagnostic::error(
        option.name.span,
        format!("`{}` has a meaning only {when}", option.name.text),
        "not with this policy",
    )
}

impl Config for LoadBalanceConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let policy = match self {
            Self::Shuffle(networks) => Policy::Shuffle(networks.clone().into()),
            Self::Weighted { file, reload } => {
                let path = resolve(assembly.root, file);
                Policy::Weighted(Weights::start(path, *reload, assembly)?)
            }
        };
        Ok(vec![Arc::new(LoadBalance { policy })])
    }

    fn files(&self, root: &Path) -> Vec<PathBuf> {
        match self {
            Self::Shuffle(_) => Vec::new(),
            Self::Weighted { file, .. } => vec![resolve(root, file)],
        }
    }
}

fn resolve(root: &Path, file: &Path) -> PathBuf {
    root.join(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::bench::fault;
    use crate::plugin::testing::config;

    fn read(text: &str) -> LoadBalanceConfig {
        let any: Box<dyn std::any::Any> = config(&SPEC, text);
        *any.downcast().unwrap()
    }

    #[test]
    fn policies_and_their_options_are_read() {
        let shuffle = LoadBalanceConfig::Shuffle;
        assert_eq!(read("loadbalance"), shuffle(vec![]));
        assert_eq!(read("loadbalance round_robin"), shuffle(vec![]));
        assert_eq!(
            read(
                "loadbalance {\n prefer 10.1.0.0/16 fd00::/8\n}\nloadbalance {\n prefer 10.0.0.0/8\n}"
            ),
            shuffle(
                ["10.1.0.0/16", "fd00::/8", "10.0.0.0/8"]
                    .map(|net| net.parse().unwrap())
                    .into()
            )
        );
        assert_eq!(
            read("loadbalance weighted weights.txt {\n reload 5s\n}"),
            LoadBalanceConfig::Weighted {
                file: "weights.txt".into(),
                reload: Duration::from_secs(5)
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, expected) in [
            (
                "loadbalance fair",
                "`fair` is not `round_robin` or `weighted FILE` @ fair",
            ),
            (
                "loadbalance round_robin x",
                "`loadbalance` takes no `x` @ x",
            ),
            (
                "loadbalance weighted",
                "`loadbalance` needs the name of a file with weights @ loadbalance weighted",
            ),
            ("loadbalance weighted a b", "`loadbalance` takes no `b` @ b"),
            (
                "loadbalance {\n prefer 10.0.0.1\n}",
                "`10.0.0.1` is not a network such as `10.0.0.0/8` @ 10.0.0.1",
            ),
            (
                "loadbalance {\n reload 1s\n}",
                "`reload` has a meaning only with `weighted` @ reload",
            ),
            (
                "loadbalance weighted a {\n prefer 10.0.0.0/8\n}",
                "`prefer` has a meaning only without `weighted` @ prefer",
            ),
            (
                "loadbalance weighted a {\n reload -1s\n}",
                "`-1s` is not a duration, such as `30s` @ -1s",
            ),
            (
                "loadbalance {\n preferr 10.0.0.0/8\n}",
                "`loadbalance` has no option `preferr` @ preferr",
            ),
        ] {
            assert_eq!(fault(&SPEC, text), expected);
        }
    }
}
