//! Whether two server blocks want the same zone on the same address.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::corefile::diagnostic::{Diagnostic, Faults, Span};
use crate::corefile::key::{Key, Scheme};
use crate::corefile::tree::Block;
use crate::wire::name::Name;

/// What a block wants apart from its address.
type Want = (Scheme, Name, Option<u16>);

/// What the blocks so far want. An address is a text: empty for the wildcard, else an IP address or the name of an
/// interface.
#[derive(Debug)]
pub struct Claims {
    dns_port: u16,
    /// Who wants it, by address.
    taken: HashMap<Want, HashMap<String, Span>>,
}

impl Claims {
    /// None yet. Plain DNS keys without a port are on `dns_port`.
    pub fn new(dns_port: u16) -> Self {
        Self {
            dns_port,
            taken: HashMap::new(),
        }
    }

    /// Checks all keys of a block against those before it, on the addresses that its `bind` names.
    pub fn check(&mut self, block: &Block, keys: &[Key], faults: &mut Faults) {
        let addresses = addresses(block);
        // Blocks with a `view` share a zone by design; they only may not mix bound and unbound listeners.
        let filtered = block
            .directives
            .iter()
            .any(|directive| directive.name.text == "view");
        for key in keys {
            for address in &addresses {
                let claimed = self.claim(key, address, filtered);
                faults.note(claimed);
            }
        }
    }

    /// Registers one key on one address.
    pub fn claim(&mut self, key: &Key, address: &str, filtered: bool) -> Result<(), Diagnostic> {
        let port = key.port.or_else(|| key.scheme.default_port(self.dns_port));
        let shown = |address: &str| {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            let on = if address.is_empty() { "" } else { " on " };
            format!("{}://{}{port}{on}{address}", key.scheme.as_str(), key.zone)
        };
        let taken = self
            .taken
            .entry((key.scheme, key.zone.clone(), port))
            .or_default();
        if let Some(&first) = taken.get(address) {
            if filtered {
                return Ok(());
            }
            return Err(Diagnostic::error(
                key.span,
                format!("cannot serve {} - it is already defined", shown(address)),
                "expected another zone, port or `bind` address",
            )
            .with_related(first, "first defined here"));
        }
        let clash = if address.is_empty() {
            taken.iter().min_by_key(|(_, first)| **first)
        } else {
            taken.get_key_value("")
        };
        if let Some((other, &first)) = clash {
            return Err(Diagnostic::error(
                key.span,
                format!(
                    "cannot serve {} - zone overlap listener capacity with {}",
                    shown(address),
                    shown(other)
                ),
                "expected `bind` in both server blocks or in none",
            )
            .with_related(first, "this one overlaps"));
        }
        if !filtered {
            taken.insert(address.to_owned(), key.span);
        }
        Ok(())
    }
}

/// The addresses that `bind` names, as far as the text tells; the wildcard without `bind`.
fn addresses(block: &Block) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    for directive in &block.directives {
        if directive.name.text != "bind" {
            continue;
        }
        let listed = directive.args.iter().map(|word| word.text.as_str());
        for text in listed {
            let address = text
                .parse::<IpAddr>()
                .map_or_else(|_| text.to_owned(), |address| address.to_string());
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    if addresses.is_empty() {
        addresses.push(String::new());
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::key::parse_keys;
    use crate::corefile::parser::parse_text;

    fn clashes(text: &str, dns_port: u16) -> Vec<String> {
        let (corefile, mut faults) = parse_text(text);
        assert!(faults.is_empty(), "{faults:?}");
        let mut claims = Claims::new(dns_port);
        for block in &corefile.blocks {
            let keys = parse_keys(block, &mut faults);
            claims.check(block, &keys, &mut faults);
        }
        faults.iter().map(|fault| fault.message.clone()).collect()
    }

    #[test]
    fn the_same_zone_port_and_scheme_twice_is_refused() {
        let already = ["cannot serve dns://a.org.:53 - it is already defined"];
        assert_eq!(clashes("a.org {\n}\nA.ORG:53 {\n}", 53), already);
        assert_eq!(clashes("a.org a.org {\n}", 53), already);
        assert!(clashes("a.org {\n}\na.org:53 {\n}", 1053).is_empty());
        assert!(clashes("a.org {\n}\ntls://a.org:53 {\n}", 53).is_empty());
    }

    #[test]
    fn two_addresses_may_serve_one_zone_but_not_beside_the_wildcard() {
        let bound = "a {\n bind 127.0.0.1\n}\na {\n bind 127.0.0.2\n}";
        assert!(clashes(bound, 53).is_empty());
        assert_eq!(
            clashes("a {\n bind ::1\n}\na {\n bind 0:0::1\n}", 53),
            ["cannot serve dns://a.:53 on ::1 - it is already defined"]
        );
        assert_eq!(
            clashes("a {\n bind 127.0.0.1\n}\na {\n}", 53),
            [
                "cannot serve dns://a.:53 - zone overlap listener capacity with dns://a.:53 on 127.0.0.1"
            ]
        );
        assert_eq!(
            clashes("a {\n}\na {\n bind 127.0.0.1\n}", 53),
            [
                "cannot serve dns://a.:53 on 127.0.0.1 - zone overlap listener capacity with dns://a.:53"
            ]
        );
    }

    #[test]
    fn a_block_with_a_view_may_share_its_zone() {
        assert!(clashes("a {\n view x {\n }\n}\na {\n}\na {\n view y {\n }\n}", 53).is_empty());
        assert_eq!(
            clashes("a {\n}\na {\n bind ::1\n view y {\n }\n}", 53).len(),
            1
        );
    }
}
