//! Weights of addresses, from a file that is read again when it changes.
//!
//! ```text
//! # comment
//! www.example.org
//! 192.0.2.1 3
//! 192.0.2.2 1
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use crate::plugin::BuildError;
use crate::server::assembly::Assembly;
use crate::wire::name::{Name, NameRef};

/// What one version of the file says. Names are in lower case.
pub(in crate::plugin::loadbalance) type Domains = HashMap<Name, Vec<(IpAddr, u8)>>;

/// The most octets that are read of a file of weights.
const FILE_LEN_MAX: u64 = 16 << 20;

/// The weights in force.
#[derive(Default)]
pub(in crate::plugin::loadbalance) struct Weights {
    domains: ArcSwap<Domains>,
}

impl Weights {
    /// Reads the file, and again whenever it has changed. A file that is not there yet is worth only a warning, since
    /// it may come; a wrong one at the start is an error, and later a log line, with the last good one in force.
    pub(in crate::plugin::loadbalance) fn start(
        path: PathBuf,
        reload: Duration,
        assembly: &Assembly<'_>,
    ) -> Result<Arc<Self>, BuildError> {
        let this = Arc::new(Self::default());
        let mut text = None;
        match read(&path) {
            Ok(found) => {
                this.domains
                    .store(Arc::new(parse(&found).map_err(BuildError)?));
                text = Some(found);
            }
            Err(error) if reload.is_zero() => return Err(BuildError(error)),
            Err(error) => tracing::warn!(target: "plugin/loadbalance", "{error}"),
        }
        if !reload.is_zero() {
            let weights = Arc::clone(&this);
            assembly.spawn(async move {
                loop {
                    tokio::time::sleep(reload).await;
                    let path = path.clone();
                    let found = tokio::task::spawn_blocking(move || read(&path)).await;
                    let Ok(found) = found else { return };
                    weights.renew(found, &mut text);
                }
            });
        }
        Ok(this)
    }

    fn renew(&self, found: Result<String, String>, text: &mut Option<String>) {
        let domains = match found {
            Ok(found) if text.as_ref() == Some(&found) => return,
            Ok(found) => parse(text.insert(found)),
            Err(error) => Err(error),
        };
        match domains {
            Ok(domains) => self.domains.store(Arc::new(domains)),
            Err(error) => tracing::error!(target: "plugin/loadbalance", "{error}"),
        }
    }

    /// The weights of the addresses of a name, which is in lower case.
    pub(in crate::plugin::loadbalance) fn with<R>(
        &self,
        owner: NameRef<'_>,
        work: impl FnOnce(&[(IpAddr, u8)]) -> R,
    ) -> R {
        let domains = self.domains.load();
        let weights = domains.get(owner.as_wire());
        work(weights.map_or(&[], Vec::as_slice))
    }
}

fn read(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("weight file `{}`: {error}", path.display());
    let length = std::fs::metadata(path).map_err(fault)?.len();
    if length > FILE_LEN_MAX {
        return Err(format!(
            "weight file `{}` has {length} octets, more than {FILE_LEN_MAX}",
            path.display()
        ));
    }
    std::fs::read_to_string(path).map_err(fault)
}

fn parse(text: &str) -> Result<Domains, String> {
    let mut domains = Domains::new();
    let mut domain: Option<Name> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let fault = |what: &str| format!("weight file, line {number}: {what}");
        if line.trim_start().starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some(name), None, _) => {
                let name = Name::from_text(name)
                    .map_err(|error| fault(&format!("`{name}`: {error}")))?
                    .to_lower();
                domains.entry(name.clone()).or_default();
                domain = Some(name);
            }
            (Some(address), Some(weight), None) => {
                let name = domain
                    .as_ref()
                    .ok_or_else(|| fault("an address stands before any name"))?;
                let address = address
                    .parse()
                    .map_err(|_| fault(&format!("`{address}` is not an address")))?;
                let weight = weight
                    .parse()
                    .ok()
                    .filter(|&weight| weight > 0)
                    .ok_or_else(|| fault(&format!("`{weight}` is not a weight, 1 to 255")))?;
                domains
                    .entry(name.clone())
                    .or_default()
                    .push((address, weight));
            }
            _ => return Err(fault("expected a name, or an address and a weight")),
        }
    }
    Ok(domains)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_addresses_below_them() {
        let text = "# comment\nWWW.example.org\n192.0.2.1 3\n\n 2001:db8::1 255\nb.org.\n";
        let domains = parse(text).unwrap();
        let name = |text| Name::from_text(text).unwrap();
        let expected: Vec<(IpAddr, u8)> = vec![
            ("192.0.2.1".parse().unwrap(), 3),
            ("2001:db8::1".parse().unwrap(), 255),
        ];
        assert_eq!(domains[&name("www.example.org.")], expected);
        assert!(domains[&name("b.org.")].is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            (
                "192.0.2.1 3",
                "weight file, line 1: an address stands before any name",
            ),
            (
                "a.org\n1.2.3 3",
                "weight file, line 2: `1.2.3` is not an address",
            ),
            (
                "a.org\n192.0.2.1 0",
                "weight file, line 2: `0` is not a weight, 1 to 255",
            ),
            (
                "a.org\n192.0.2.1 256",
                "weight file, line 2: `256` is not a weight, 1 to 255",
            ),
            (
                "a b c",
                "weight file, line 1: expected a name, or an address and a weight",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_wrong_version_leaves_the_last_good_one_in_force() {
        let weights = Weights::default();
        let mut text = None;
        weights.renew(Ok("a.org\n192.0.2.1 3".to_owned()), &mut text);
        weights.renew(Ok("a.org\n192.0.2.1 wrong".to_owned()), &mut text);
        weights.renew(Err("gone".to_owned()), &mut text);
        let count = |text| weights.with(Name::from_text(text).unwrap().as_ref(), <[_]>::len);
        assert_eq!(count("a.org"), 1);
        weights.renew(Ok("a.org".to_owned()), &mut text);
        assert_eq!(count("a.org"), 0);
    }
}
