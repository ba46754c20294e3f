//! The TO words of `forward`: addresses, files in resolv.conf format, names of hosts.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::ServerName;

use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::Word;
use crate::plugin::BuildError;
use crate::plugin::forward::resolver;
use crate::wire::name::Name;

/// Where queries may go, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) place: Place,
}

/// What is spoken to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Over UDP or TCP.
    Dns,
    /// Over TLS, with the name after `%`, if any.
    Tls(Option<ServerName<'static>>),
    Https,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At an address.
    Address(HostPort),
    /// In a file in resolv.conf format; its `nameserver` lines are read when the plugin is built.
    File(PathBuf),
    /// At the addresses that a name has when the plugin is built.
    Host { name: String, port: u16 },
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
pub(super) fn read(word: &Word) -> Result<Target, Diagnostic> {
    let fault = |message: String, label: &str| Err(Diagnostic::error(word.span, message, label));
    let text = word.text.as_str();
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    if rest.is_empty() {
        let message = format!("`{text}` is not an address");
        return fault(message, "expected an upstream such as 192.0.2.1:53");
    }
    match scheme {
        "dns" => plain(word, rest),
        // CoreDNS would take the file, and ask its upstreams in plain text.
        "tls" if rest.contains('/') => fault(
            format!("`{text}` has a path; a file names upstreams without TLS"),
            "expected an address",
        ),
        "tls" => {
            let (host, name) = split_server_name(rest);
            let name = name.map(|name| server_name(word, &name)).transpose()?;
            Ok(Target {
                protocol: Protocol::Tls(name),
                place: address_or_name(word, &host, TLS_PORT)?,
            })
        }
        "https" if rest.contains('/') => fault(
            format!("`{text}` has a path; the path is always `/dns-query`"),
            "expected an address without a path",
        ),
        "https" => Ok(Target {
            protocol: Protocol::Https,
            place: address_or_name(word, rest, HTTPS_PORT)?,
        }),
        _ => fault(
            format!("`{scheme}` is not a protocol that `forward` speaks"),
            "expected dns://, tls:// or https://",
        ),
    }
}

fn plain(word: &Word, text: &str) -> Result<Target, Diagnostic> {
    // A name without a slash may be a file all the same; a local look decides, as it does in CoreDNS.
    let place = if text.contains('/') || Path::new(text).is_file() {
        Place::File(text.into())
    } else {
        address_or_name(word, text, DNS_PORT)?
    };
    Ok(Target {
        protocol: Protocol::Dns,
        place,
    })
}

/// The name that a certificate must be for.
pub(super) fn server_name(word: &Word, text: &str) -> Result<ServerName<'static>, Diagnostic> {
    ServerName::try_from(text.to_owned()).map_err(|_| {
        let message = format!("`{text}` is no name of a server");
        Diagnostic::error(
            word.span,
            message,
            "expected a name such as dns.example.org",
        )
    })
}

/// An address, or what may be the name of a host.
fn address_or_name(word: &Word, text: &str, port: u16) -> Result<Place, Diagnostic> {
    let fault = |what: &str, label: &str| {
        let message = format!("`{}` {what}", word.text);
        Err(Diagnostic::error(word.span, message, label))
    };
    if let Some(address) = HostPort::parse_bare(text, port) {
        return Ok(Place::Address(address));
    }
    let Some((host, digits)) = text.rsplit_once(':') else {
        if is_name(text) {
            let name = text.to_owned();
            return Ok(Place::Host { name, port });
        }
        return fault(
            "is neither an address nor a file nor a name",
            "not an upstream",
        );
    };
    let Some(port) = digits.parse().ok().filter(|&port: &u16| port != 0) else {
        return fault("has no port from 1 to 65535", "not a port");
    };
    match HostPort::parse_bare(host, port) {
        // Without brackets nothing tells a port from the last group of an IPv6 address.
        Some(address) if address.address.is_ipv4() || host.starts_with('[') => {
            Ok(Place::Address(address))
        }
        None if is_name(host) => Ok(Place::Host {
            name: host.to_owned(),
            port,
        }),
        _ => fault(
            "is neither an address nor a file nor a name",
            "not an upstream",
        ),
    }
}

/// Whether this can be the name of a host. Names may hold almost anything, and CoreDNS looks them all up (a template
/// that nobody filled in, `{{IP}}`, too); digits and dots alone, or the marks of an address, are an address that went
/// wrong.
fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|octet| octet.is_ascii_graphic() && !b"%[]:".contains(&octet))
        && text.bytes().any(|octet| octet.is_ascii_alphabetic())
        && Name::from_text(text).is_ok()
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

/// One upstream of a directive.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    /// The file that named it.
    pub(super) file: Option<PathBuf>,
    /// The name that it was given by.
    pub(super) host: Option<String>,
}

/// The addresses behind the targets, in order, each once. Names are asked of these servers, or of the system. Blocks.
pub(super) fn resolve(
    targets: &[Target],
    servers: &[SocketAddr],
) -> Result<Vec<Destination>, BuildError> {
    let hosts: Vec<&str> = targets
        .iter()
        .filter_map(|target| match &target.place {
            Place::Host { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let mut found = resolver::lookup(&hosts, servers)?.into_iter();
    let mut list: Vec<Destination> = Vec::new();
    for Target { protocol, place } in targets {
        let mut add = |address: SocketAddr, file: Option<&Path>, host: Option<&str>| {
            if !list.iter().any(|known| known.address == address) {
                list.push(Destination {
                    address,
                    protocol: protocol.clone(),
                    file: file.map(Path::to_path_buf),
                    host: host.map(str::to_owned),
                });
            }
        };
        match place {
            Place::Address(address) => add(address.resolve()?, None, None),
            Place::File(path) => {
                for address in nameservers(path)? {
                    add(address.resolve()?, Some(path), None);
                }
            }
            Place::Host { name, port } => {
                let addresses = found.next().expect("each host has been looked up");
                for address in addresses {
                    add(SocketAddr::new(address, *port), None, Some(name));
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
        let target = match read(&word) {
            Ok(target) => target,
            Err(fault) => return fault.message,
        };
        let place = match target.place {
            Place::Address(address) => address.to_string(),
            Place::File(path) => format!("file {}", path.display()),
            Place::Host { name, port } => format!("host {name} {port}"),
        };
        match target.protocol {
            Protocol::Dns => place,
            Protocol::Tls(None) => format!("{place} over TLS"),
            Protocol::Tls(Some(name)) => format!("{place} over TLS as {}", name.to_str()),
            Protocol::Https => format!("{place} over HTTPS"),
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
            (
                "tls://9.9.9.9%dns.quad9.net",
                "9.9.9.9:853 over TLS as dns.quad9.net",
            ),
            (
                "tls://9.9.9.9%dns.quad9.net:8853",
                "9.9.9.9:8853 over TLS as dns.quad9.net",
            ),
            (
                "tls://[2620:fe::fe%dns.quad9.net]:853",
                "[2620:fe::fe]:853 over TLS as dns.quad9.net",
            ),
            (
                "tls://2620:fe::fe%dns.quad9.net",
                "[2620:fe::fe]:853 over TLS as dns.quad9.net",
            ),
            ("tls://1.1.1.1", "1.1.1.1:853 over TLS"),
            ("tls://dns.google", "host dns.google 853 over TLS"),
            ("https://1.1.1.1", "1.1.1.1:443 over HTTPS"),
            ("dns.google", "host dns.google 53"),
            ("dns.google:5353", "host dns.google 5353"),
            ("{{IP}}", "host {{IP}} 53"),
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
                "tls://9.9.9.9%dns..net",
                "`dns..net` is no name of a server",
            ),
            (
                "tls:///etc/resolv.conf",
                "`tls:///etc/resolv.conf` has a path; a file names upstreams without TLS",
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
        let target = |path: &Path| Target {
            protocol: Protocol::Dns,
            place: Place::File(path.to_path_buf()),
        };
        let list = resolve(&[target(&path)], &[]).unwrap();
        let shown: Vec<_> = list
            .iter()
            .map(|destination| destination.address.to_string())
            .collect();
        assert_eq!(shown, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert!(list.iter().all(|one| one.file.as_ref() == Some(&path)));
        let missing = resolve(&[target(&folder.path().join("none"))], &[]);
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
