//! The TO words of `forward`: addresses, files in resolv.conf format, and what is not built yet.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Word;
use crate::plugin::BuildError;
use crate::wire::name::Name;

/// Where queries may go, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An address.
    Address(HostPort),
    /// A file in resolv.conf format; its `nameserver` lines are read when the plugin is built.
    File(PathBuf),
}

/// A target, or something right that this version cannot do.
#[derive(Debug)]
pub(super) enum Reading {
    Target(Target),
    /// `tls://…` with the name after `%`, if any.
    Tls(Option<String>),
    Https,
    HostName,
}

/// An address with its port, and the link that a link-local address is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    address: IpAddr,
    /// `eth0` of `fe80::1%eth0`.
    link: Option<String>,
    port: u16,
}

const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;

/// Reads one TO word.
pub(super) fn read(word: &Word) -> Result<Reading, Diagnostic> {
    let fault = |message: String, label: &str| Err(Diagnostic::error(word.span, message, label));
    let text = word.text.as_str();
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    if rest.is_empty() {
        let message = format!("`{text}` is not an address");
        return fault(message, "expected an upstream such as 192.0.2.1:53");
    }
    match scheme {
        "dns" => plain(word, rest),
        "tls" => {
            let (host, name) = split_server_name(rest);
            address_or_name(word, &host, TLS_PORT)?;
            Ok(Reading::Tls(name))
        }
        "https" if rest.contains('/') => fault(
            format!("`{text}` has a path; the path is always `/dns-query`"),
            "expected an address without a path",
        ),
        "https" => {
            address_or_name(word, rest, HTTPS_PORT)?;
            Ok(Reading::Https)
        }
        _ => fault(
            format!("`{scheme}` is not a protocol that `forward` speaks"),
            "expected dns://, tls:// or https://",
        ),
    }
}

fn plain(word: &Word, text: &str) -> Result<Reading, Diagnostic> {
    // A name without a slash may be a file all the same; a local look decides, as it does in CoreDNS.
    if text.contains('/') || Path::new(text).is_file() {
        return Ok(Reading::Target(Target::File(text.into())));
    }
    Ok(match address_or_name(word, text, DNS_PORT)? {
        Some(address) => Reading::Target(Target::Address(address)),
        None => Reading::HostName,
    })
}

/// An address, or none for what may be the name of a host.
fn address_or_name(word: &Word, text: &str, port: u16) -> Result<Option<HostPort>, Diagnostic> {
    let fault = |what: &str, label: &str| {
        let message = format!("`{}` {what}", word.text);
        Err(Diagnostic::error(word.span, message, label))
    };
    if let Some(address) = HostPort::parse_bare(text, port) {
        return Ok(Some(address));
    }
    let Some((host, digits)) = text.rsplit_once(':') else {
        return name(text).map_or_else(
            || {
                fault(
                    "is neither an address nor a file nor a name",
                    "not an upstream",
                )
            },
            |()| Ok(None),
        );
    };
    let Some(port) = digits.parse().ok().filter(|&port: &u16| port != 0) else {
        return fault("has no port from 1 to 65535", "not a port");
    };
    match HostPort::parse_bare(host, port) {
        // Without brackets nothing tells a port from the last group of an IPv6 address.
        Some(address) if address.address.is_ipv4() || host.starts_with('[') => Ok(Some(address)),
        None if name(host).is_some() => Ok(None),
        _ => fault(
            "is neither an address nor a file nor a name",
            "not an upstream",
        ),
    }
}

/// Whether this can be the name of a host. Names may hold almost anything, and CoreDNS looks them all up (a template
/// that nobody filled in, `{{IP}}`, too); digits and dots alone, or the marks of an address, are an address that went
/// wrong.
fn name(text: &str) -> Option<()> {
    let is_name = text
        .bytes()
        .all(|octet| octet.is_ascii_graphic() && !b"%[]:".contains(&octet))
        && text.bytes().any(|octet| octet.is_ascii_alphabetic())
        && Name::from_text(text).is_ok();
    is_name.then_some(())
}

/// `9.9.9.9%dns.quad9.net:853` into `9.9.9.9:853` and the name.
fn split_server_name(text: &str) -> (String, Option<String>) {
    let Some((host, rest)) = text.rsplit_once('%') else {
        return (text.to_owned(), None);
    };
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, port)) => (name, format!(":{port}")),
        None => (rest, String::new()),
    };
    let bracket = if host.starts_with('[') { "]" } else { "" };
    let name = name.trim_end_matches(']').to_owned();
    (format!("{host}{bracket}{port}"), Some(name))
}

impl HostPort {
    /// An address without a port; IPv6 with or without brackets.
    fn parse_bare(text: &str, port: u16) -> Option<Self> {
        let text = match text.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None => text,
        };
        let (address, link) = match text.split_once('%') {
            Some((address, link)) if !link.is_empty() => (address, Some(link.to_owned())),
            Some(_) => return None,
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        (link.is_none() || address.is_ipv6()).then_some(Self {
            address,
            link,
            port,
        })
    }

    /// The socket address; a link is looked up by its name or taken as a number.
    fn resolve(&self) -> Result<SocketAddr, BuildError> {
        match (self.address, &self.link) {
            (IpAddr::V6(address), Some(link)) => {
                let index = link_index(link)
                    .ok_or_else(|| BuildError(format!("`{self}`: no network link `{link}`")))?;
                Ok(SocketAddrV6::new(address, self.port, 0, index).into())
            }
            (address, _) => Ok(SocketAddr::new(address, self.port)),
        }
    }
}

fn link_index(link: &str) -> Option<u32> {
    if let Ok(index) = link.parse() {
        return Some(index);
    }
    if link.contains(['/', '.']) {
        return None;
    }
    let text = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?;
    text.trim().parse().ok()
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, port) = (self.address, self.port);
        match &self.link {
            Some(link) => write!(f, "[{address}%{link}]:{port}"),
            None => write!(f, "{}", SocketAddr::new(address, port)),
        }
    }
}

/// An upstream's address with the file it came from.
pub(super) type Named = (SocketAddr, Option<PathBuf>);

/// The addresses behind the targets, in order, each once.
pub(super) fn resolve(targets: &[Target]) -> Result<Vec<Named>, BuildError> {
    let mut list: Vec<Named> = Vec::new();
    let mut add = |address: SocketAddr, file: Option<&Path>| {
        if !list.iter().any(|(known, _)| *known == address) {
            list.push((address, file.map(Path::to_path_buf)));
        }
    };
    for target in targets {
        match target {
            Target::Address(address) => add(address.resolve()?, None),
            Target::File(path) => {
                for address in nameservers(path)? {
                    add(address.resolve()?, Some(path));
                }
            }
        }
    }
    Ok(list)
}

/// Octets of such a file that are looked at.
const FILE_MAX: u64 = 1 << 20;

/// The `nameserver` lines of a file (resolv.conf(5)).
fn nameservers(path: &Path) -> Result<Vec<HostPort>, BuildError> {
    use std::io::Read;
    let fault = |error: std::io::Error| BuildError(format!("`{}`: {error}", path.display()));
    let mut octets = Vec::new();
    std::fs::File::open(path)
        .map_err(fault)?
        .take(FILE_MAX)
        .read_to_end(&mut octets)
        .map_err(fault)?;
    let text = String::from_utf8_lossy(&octets);
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(word) = words.next() else { continue };
        match HostPort::parse_bare(word, DNS_PORT) {
            Some(address) => list.push(address),
            None => tracing::warn!(
                target: "plugin/forward",
                "`{}`: nameserver `{word}` is not an address and is left out", path.display()
            ),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::diagnostic::Span;

    fn reading(text: &str) -> String {
        let word = Word {
            text: text.into(),
            span: Span::default(),
            line: 1,
        };
        match read(&word) {
            Ok(Reading::Target(Target::Address(address))) => address.to_string(),
            Ok(Reading::Target(Target::File(path))) => format!("file {}", path.display()),
            Ok(Reading::Tls(name)) => format!("tls {}", name.unwrap_or_default()),
            Ok(other) => format!("{other:?}"),
            Err(fault) => fault.message,
        }
    }

    #[test]
    fn an_upstream_is_an_address_a_file_or_a_url() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("fe80::1%lo", "[fe80::1%lo]:53"),
            ("[fe80::1%lo]:54", "[fe80::1%lo]:54"),
            ("dns://192.0.2.1", "192.0.2.1:53"),
            ("dns://[2001:db8::1]:54", "[2001:db8::1]:54"),
            ("/etc/resolv.conf", "file /etc/resolv.conf"),
            ("dns:///etc/resolv.conf", "file /etc/resolv.conf"),
            ("tls://9.9.9.9%dns.quad9.net", "tls dns.quad9.net"),
            ("tls://9.9.9.9%dns.quad9.net:8853", "tls dns.quad9.net"),
            ("tls://[2620:fe::fe%dns.quad9.net]:853", "tls dns.quad9.net"),
            ("tls://1.1.1.1", "tls "),
            ("https://1.1.1.1", "Https"),
            ("dns.google", "HostName"),
            ("dns.google:5353", "HostName"),
            ("{{IP}}", "HostName"),
        ] {
            assert_eq!(reading(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_upstream_says_why() {
        for (text, expected) in [
            ("", "`` is not an address"),
            ("tls://", "`tls://` is not an address"),
            (
                "quic://192.0.2.1",
                "`quic` is not a protocol that `forward` speaks",
            ),
            (
                "unix:///run/dns",
                "`unix` is not a protocol that `forward` speaks",
            ),
            (
                "https://1.1.1.1/dns-query",
                "`https://1.1.1.1/dns-query` has a path; the path is always `/dns-query`",
            ),
            (
                "1.1.1.1:99999",
                "`1.1.1.1:99999` has no port from 1 to 65535",
            ),
            ("1.1.1.1:0", "`1.1.1.1:0` has no port from 1 to 65535"),
            (
                "300.1.1.1",
                "`300.1.1.1` is neither an address nor a file nor a name",
            ),
            (
                "192.0.2.1%eth0",
                "`192.0.2.1%eth0` is neither an address nor a file nor a name",
            ),
        ] {
            assert_eq!(reading(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_gives_its_nameservers_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let text = "# nameserver 192.0.2.9\nsearch a.org\nnameserver 192.0.2.1\nnameserver\n\
                    nameserver 2001:db8::1 # second\nnameserver wrong\nnameserver 192.0.2.1\n";
        std::fs::write(&path, text).unwrap();
        let list = resolve(&[Target::File(path.clone())]).unwrap();
        let shown: Vec<_> = list
            .iter()
            .map(|(address, _)| address.to_string())
            .collect();
        assert_eq!(shown, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert!(list.iter().all(|(_, file)| file.as_ref() == Some(&path)));
        let missing = resolve(&[Target::File(folder.path().join("none"))]);
        assert!(missing.unwrap_err().0.contains("No such file"));
    }

    #[test]
    fn a_link_is_found_by_name_or_number() {
        assert!(link_index("lo").is_some());
        assert_eq!(link_index("7"), Some(7));
        assert_eq!(link_index("../lo"), None);
        assert_eq!(link_index("no-such-link"), None);
    }
}
