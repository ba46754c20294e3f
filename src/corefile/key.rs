//! Server block keys: `[SCHEME://]ZONE[:PORT]`.
//!
//! A zone may be written as a network: `10.0.0.0/24` is `0.0.10.in-addr.arpa.`. Zones are cut at octets (IPv4) or
//! nibbles (IPv6), so a network between two cuts stands for several zones, together exactly the network.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::corefile::diagnostic::{Diagnostic, Faults, Span};
use crate::corefile::tree::{Block, Word};
use crate::wire::name::Name;

/// The most zones of one server block. A key can stand for 128.
const ZONES_MAX: usize = 65_536;

/// The most octets of a zone as written.
const TEXT_MAX: usize = 255;

/// How a server block is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// UDP and TCP.
    Dns,
    /// DNS over TLS.
    Tls,
    /// DNS over QUIC.
    Quic,
    /// DNS over HTTPS.
    Https,
    /// DNS over HTTP/3.
    Https3,
    /// gRPC.
    Grpc,
    /// A Unix socket: recognized, never listened on.
    Unix,
}

impl Scheme {
    const ALL: [Self; 7] = [
        Self::Dns,
        Self::Tls,
        Self::Quic,
        Self::Https,
        Self::Https3,
        Self::Grpc,
        Self::Unix,
    ];

    /// The port of a key that names none; that of plain DNS is a flag. None for what has no port.
    pub fn default_port(self, dns_port: u16) -> Option<u16> {
        match self {
            Self::Dns => Some(dns_port),
            Self::Tls | Self::Quic => Some(853),
            Self::Https | Self::Https3 | Self::Grpc => Some(443),
            Self::Unix => None,
        }
    }

    /// Splits a text at its scheme, which counts only in lower case; without one it is plain DNS.
    fn split(text: &str) -> (Self, &str) {
        Self::ALL
            .into_iter()
            .find_map(|scheme| {
                let rest = text.strip_prefix(scheme.as_str())?;
                Some((scheme, rest.strip_prefix("://")?))
            })
            .unwrap_or((Self::Dns, text))
    }

    /// As it is written, without `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Https => "https",
            Self::Https3 => "https3",
            Self::Grpc => "grpc",
            Self::Unix => "unix",
        }
    }
}

/// One zone of a key. (A CIDR off an octet boundary stands for several.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// How it is reached.
    pub scheme: Scheme,
    /// Its zone in lower case.
    pub zone: Name,
    /// The port it names; none means the default of its scheme.
    pub port: Option<u16>,
    /// Where it stands.
    pub span: Span,
}

impl Key {
    /// The root zone over plain DNS.
    pub fn root(span: Span) -> Self {
        Self {
            scheme: Scheme::Dns,
            zone: Name::root(),
            port: None,
            span,
        }
    }
}

/// Reads the keys of a server block. Comes back empty only if every one of them is wrong, or none names a zone.
pub fn parse_keys(block: &Block, faults: &mut Faults) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let hint = foreign_text(block);
    for word in &block.keys {
        let parts = match split(word) {
            Ok(parts) => parts,
            Err(mut diagnostic) => {
                diagnostic.help = diagnostic.help.or(hint.map(str::to_owned));
                faults.push(diagnostic);
                continue;
            }
        };
        if keys.len() + parts.zones.len() > ZONES_MAX {
            faults.push(Diagnostic::error(
                word.span,
                format!("a server block of more than {ZONES_MAX} zones"),
                "this one is too many",
            ));
            return keys;
        }
        if hint.is_none() {
            warn_of_odd_zone(word, &parts, faults);
        }
        keys.extend(parts.zones.into_iter().map(|zone| Key {
            scheme: parts.scheme,
            zone,
            port: parts.port,
            span: word.span,
        }));
    }
    keys
}

/// Reads a zone argument: a scheme and a port are dropped, a network becomes one or more reverse zones.
pub fn parse_zone(word: &Word) -> Result<Vec<Name>, Diagnostic> {
    split(word).map(|parts| parts.zones)
}

/// Whether a zone is the root, a reverse zone, or made of labels as host names have them (RFC 1035, section 2.3.1).
/// CoreDNS warns of any other at start.
pub fn is_host_like(zone: &Name) -> bool {
    let zone = zone.as_ref();
    let is_reverse = ["in-addr.arpa", "ip6.arpa"].iter().any(|text| {
        let reverse = Name::from_text(text).expect("a constant name");
        zone.is_at_or_below(reverse.as_ref())
    });
    is_reverse
        || zone.labels().all(|label| {
            label.first().is_some_and(u8::is_ascii_alphabetic)
                && label.last().is_some_and(u8::is_ascii_alphanumeric)
                && label
                    .iter()
                    .all(|&octet| octet.is_ascii_alphanumeric() || octet == b'-')
        })
}

/// What a key is made of.
struct Parts {
    scheme: Scheme,
    zones: Vec<Name>,
    port: Option<u16>,
}

fn split(word: &Word) -> Result<Parts, Diagnostic> {
    let wrong = |message: String, label: &str| Err(Diagnostic::error(word.span, message, label));
    let (scheme, rest) = Scheme::split(&word.text);
    if rest.ends_with(':') {
        return wrong(
            format!("`{}` ends in a colon", word.text),
            "expected a port after this",
        );
    }
    // A colon that no number follows belongs to the zone.
    let (text, port) = match rest.rsplit_once(':') {
        Some((zone, number)) => match number.parse::<i64>() {
            Ok(number) => (zone, Some(number)),
            Err(_) => (rest, None),
        },
        None => (rest, None),
    };
    if text.len() > TEXT_MAX {
        return wrong(
            format!("a zone of {} octets", text.len()),
            "expected at most 255",
        );
    }
    let port = match port.map(u16::try_from) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => {
            return wrong(
                format!("`{}` has an invalid port", word.text),
                "expected a port from 0 to 65535",
            );
        }
    };
    if text.is_empty() {
        return Err(
            not_a_zone(word, &word.text, "expected a zone before the port")
                .with_help(format!("write `.{}` for all names", word.text)),
        );
    }
    let name = match Name::from_text(text) {
        Ok(name) => name.to_lower(),
        Err(error) => return Err(not_a_zone(word, text, &error.to_string())),
    };
    let zones = match text.parse::<IpNet>() {
        Ok(_) if text.starts_with(':') || (text.starts_with('0') && text.contains(':')) => {
            return Err(not_a_zone(
                word,
                text,
                "expected a network that starts with another digit than 0",
            )
            .with_help("write the zone itself, such as `ip6.arpa`"));
        }
        Ok(network) => reverse_zones(network.trunc()),
        Err(_) => vec![name],
    };
    Ok(Parts {
        scheme,
        zones,
        port,
    })
}

fn not_a_zone(word: &Word, text: &str, why: &str) -> Diagnostic {
    Diagnostic::error(word.span, format!("`{text}` is not a zone"), why)
}

/// The reverse zones that together are a network.
fn reverse_zones(network: IpNet) -> Vec<Name> {
    let step = match network {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    let length = network.prefix_len().div_ceil(step) * step;
    network
        .subnets(length)
        .expect("the next cut is not before the prefix and not past the address")
        .map(|subnet| reverse_zone(subnet.addr(), length))
        .collect()
}

/// The reverse name of the first `length` bits of an address.
fn reverse_zone(address: IpAddr, length: u8) -> Name {
    let (mut labels, suffix): (Vec<String>, &str) = match address {
        IpAddr::V4(address) => (
            address
                .octets()
                .iter()
                .take(usize::from(length / 8))
                .map(u8::to_string)
                .collect(),
            "in-addr.arpa",
        ),
        IpAddr::V6(address) => (
            address
                .octets()
                .iter()
                .flat_map(|octet| [octet >> 4, octet & 15])
                .take(usize::from(length / 4))
                .map(|nibble| format!("{nibble:x}"))
                .collect(),
            "ip6.arpa",
        ),
    };
    labels.reverse();
    labels.push(suffix.to_owned());
    Name::from_text(&labels.join(".")).expect("at most 34 short labels")
}

/// What keys look like that were never meant for a Corefile.
fn foreign_text(block: &Block) -> Option<&'static str> {
    let first = block.keys.first()?;
    if first.text == "apiVersion:" {
        Some(
            "this looks like a Kubernetes manifest; the Corefile is the text below its `Corefile: |`",
        )
    } else if block.keys.iter().any(|word| word.text.contains("{{")) {
        Some("`{{` looks like a template that was not rendered")
    } else {
        None
    }
}

/// Points out zones that are legal but probably meant otherwise.
fn warn_of_odd_zone(word: &Word, parts: &Parts, faults: &mut Faults) {
    let [zone] = parts.zones.as_slice() else {
        return;
    };
    if is_host_like(zone) || word.text == "}" {
        return;
    }
    let (_, text) = Scheme::split(&word.text);
    let warning = Diagnostic::warning(
        word.span,
        format!("zone `{zone}` is no host name"),
        "read as a zone all the same",
    );
    let is_address = text.parse::<IpAddr>().is_ok()
        || text
            .rsplit_once(':')
            .is_some_and(|(host, _)| host.parse::<Ipv4Addr>().is_ok());
    faults.push(if text.starts_with([';', '/']) {
        warning.with_help("a comment starts with `#`")
    } else if is_address {
        warning.with_help("a key names a zone; `bind` names addresses to listen on")
    } else if let Some((before, _)) = text.split_once("://") {
        let known: Vec<_> = Scheme::ALL.iter().map(|scheme| scheme.as_str()).collect();
        warning.with_help(format!(
            "`{before}` is no scheme; schemes: {}",
            known.join(", ")
        ))
    } else if text.contains(':') {
        warning.with_help("only a number after the last colon is a port")
    } else {
        warning
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word {
            text: text.to_owned(),
            span: Span::default(),
            line: 1,
        }
    }

    fn keys(text: &str) -> (Vec<String>, Vec<String>) {
        let block = Block {
            keys: vec![word(text)],
            directives: Vec::new(),
        };
        let mut faults = Faults::default();
        let keys = parse_keys(&block, &mut faults)
            .iter()
            .map(|key| {
                let port = key.port.map_or(String::new(), |port| format!(":{port}"));
                format!("{}://{}{port}", key.scheme.as_str(), key.zone)
            })
            .collect();
        (
            keys,
            faults.iter().map(|fault| fault.message.clone()).collect(),
        )
    }

    fn zones(text: &str) -> Vec<String> {
        parse_zone(&word(text))
            .expect(text)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_key_is_a_scheme_a_zone_and_a_port() {
        for (text, expected) in [
            (".", "dns://."),
            (".:53", "dns://.:53"),
            ("dns://Example.ORG:0053", "dns://example.org.:53"),
            ("tls://.:853", "tls://.:853"),
            ("https3://a.b", "https3://a.b."),
            ("quic://a:0", "quic://a.:0"),
            ("unix://a", "unix://a."),
            ("a:+53", "dns://a.:53"),
        ] {
            assert_eq!(keys(text), (vec![expected.to_owned()], vec![]), "{text}");
        }
    }

    #[test]
    fn a_colon_without_a_number_belongs_to_the_zone() {
        for (text, zone) in [
            ("a.org:dns", "dns://a.org:dns."),
            ("foo://a", "dns://foo://a."),
            ("TLS://a", "dns://tls://a."),
            ("127.0.0.1:53", "dns://127.0.0.1.:53"),
            ("a:99999999999999999999", "dns://a:99999999999999999999."),
        ] {
            let (keys, faults) = keys(text);
            assert_eq!(keys, [zone], "{text}");
            assert_eq!(faults.len(), 1, "{text}: a warning says so");
        }
    }

    #[test]
    fn a_key_that_is_none_is_a_fault() {
        for (text, message) in [
            ("a:", "`a:` ends in a colon"),
            (".:-1", "`.:-1` has an invalid port"),
            (".:99999", "`.:99999` has an invalid port"),
            (":53", "`:53` is not a zone"),
            ("a..b", "`a..b` is not a zone"),
            ("::/0", "`::/0` is not a zone"),
            ("0::/8", "`0::/8` is not a zone"),
        ] {
            assert_eq!(keys(text), (vec![], vec![message.to_owned()]), "{text}");
        }
        let long = "a.".repeat(128);
        assert_eq!(keys(&long).1, ["a zone of 256 octets"]);
    }

    #[test]
    fn a_network_is_its_reverse_zones() {
        assert_eq!(zones("10.0.0.7/24"), ["0.0.10.in-addr.arpa."]);
        assert_eq!(zones("0.0.0.0/0"), ["in-addr.arpa."]);
        assert_eq!(zones("10.1.2.3/32"), ["3.2.1.10.in-addr.arpa."]);
        assert_eq!(
            zones("10.0.128.0/23"),
            ["128.0.10.in-addr.arpa.", "129.0.10.in-addr.arpa."]
        );
        assert_eq!(zones("10.0.0.0/30").len(), 4);
        assert_eq!(zones("10.0.0.0/9").len(), 128);
        assert_eq!(zones("2001:db8::/32:5300"), ["8.b.d.0.1.0.0.2.ip6.arpa."]);
        assert_eq!(
            zones("2001:db8::/31"),
            ["8.b.d.0.1.0.0.2.ip6.arpa.", "9.b.d.0.1.0.0.2.ip6.arpa."]
        );
        assert_eq!(zones("10.0.0.1"), ["10.0.0.1."]);
    }

    #[test]
    fn a_port_goes_by_its_scheme() {
        assert_eq!(Scheme::Dns.default_port(1053), Some(1053));
        assert_eq!(Scheme::Grpc.default_port(1053), Some(443));
        assert_eq!(Scheme::Unix.default_port(1053), None);
    }
}
