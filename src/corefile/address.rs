//! Addresses of HTTP listeners: `[HOST]:PORT`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::corefile::args::Args;
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};

/// Reads where to listen. No host means every address, IPv4 and IPv6, and comes back as `[::]`; `localhost` is
/// 127.0.0.1. Other names are refused: a DNS server that needs DNS to start is a trap.
fn parse_listen_address(word: &Word) -> Result<SocketAddr, Diagnostic> {
    const EXPECTED: &str = "expected an address such as :8080, localhost:8080 or [::1]:8080";
    let text = &word.text;
    let fault = |what: &str| Diagnostic::error(word.span, format!("`{text}` {what}"), EXPECTED);
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(fault("has no port"));
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 1;
    if host.contains(':') && !is_bracketed {
        return Err(fault("needs brackets around its IPv6 address"));
    }
    let port: u16 = port.parse().map_err(|_| fault("has no valid port"))?;
    let ip = match host {
        "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ if is_bracketed => host[1..host.len() - 1]
            .parse()
            .map(IpAddr::V6)
            .map_err(|_| fault("is not an IPv6 address"))?,
        _ => host
            .parse()
            .map(IpAddr::V4)
            .map_err(|_| fault("is not an IP address"))?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// Reads a directive whose one argument, if it has any, says where to listen; without one `address` stays.
pub fn read_listen_address(
    directive: &Directive,
    address: &mut SocketAddr,
) -> Result<(), Diagnostic> {
    let mut args = Args::of(directive);
    if args.peek().is_some() {
        *address = parse_listen_address(args.take("an address")?)?;
    }
    args.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::diagnostic::Span;

    fn read(text: &str) -> Result<String, String> {
        let word = Word {
            text: text.into(),
            span: Span::default(),
            line: 1,
        };
        parse_listen_address(&word)
            .map(|address| address.to_string())
            .map_err(|fault| fault.message)
    }

    #[test]
    fn a_host_is_nothing_localhost_or_an_address() {
        for (text, address) in [
            (":8080", "[::]:8080"),
            ("localhost:9153", "127.0.0.1:9153"),
            ("10.0.0.1:0", "10.0.0.1:0"),
            ("0.0.0.0:9153", "0.0.0.0:9153"),
            ("[::1]:8181", "[::1]:8181"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, message) in [
            ("9153", "`9153` has no port"),
            (":", "`:` has no valid port"),
            (":65536", "`:65536` has no valid port"),
            ("::1:80", "`::1:80` needs brackets around its IPv6 address"),
            ("[::1%lo]:80", "`[::1%lo]:80` is not an IPv6 address"),
            ("[]:80", "`[]:80` is not an IPv6 address"),
            ("[:80", "`[:80` is not an IP address"),
            ("node7:80", "`node7:80` is not an IP address"),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
    }
}
