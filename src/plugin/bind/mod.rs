//! `bind`: where a server block listens, by address or by interface. No link in the chain.
//!
//! Interfaces are looked up when the block is built, so a reload follows addresses that have changed. An interface
//! whose name looks like an address is an interface.

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::plugin::Plugin;
use crate::corefile::args::{Args, unknown_option};
use crate::corefile::diagnostic::Diagnostic;
use crate::corefile::tree::{Directive, Word};
use crate::plugin::{BuildError, Config, Context, OptionSpec, Spec};
use crate::server::assembly::Assembly;

/// What is known about `bind`.
pub static SPEC: Spec = Spec {
    name: "bind",
    summary: "names the addresses or interfaces that a server block listens on",
    options: OPTIONS,
    parse,
};

const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "except",
    syntax: "except ADDRESS|INTERFACE...",
    default: "none",
    help: "leaves these out of what the same `bind` names",
}];

/// What the `bind` directives of a block say, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BindConfig {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    hosts: Vec<String>,
    except: Vec<String>,
}

/// One address of one interface.
struct InterfaceAddress {
    interface: String,
    address: IpAddr,
}

fn parse(context: &mut Context<'_>) -> Option<Box<dyn Config>> {
    let errors = context.faults.error_count();
    let mut lines = Vec::new();
    for directive in context.directives {
        let line = line(directive, context);
        lines.extend(context.faults.note(line));
    }
    (context.faults.error_count() == errors).then(|| Box::new(BindConfig { lines }) as _)
}

fn line(directive: &Directive, context: &mut Context<'_>) -> Result<Line, Diagnostic> {
    let hosts = hosts(directive)?;
    let mut except = Vec::new();
    for option in directive.options() {
        // In CoreDNS a second `except` silently replaces the first.
        let result = match option.name.text.as_str() {
            "except" if except.is_empty() => self::hosts(option).map(|hosts| except = hosts),
            "except" => Err(Diagnostic::error(
                option.name.span,
                "`except` stands twice in this `bind`",
                "only once per `bind`",
            )),
            _ => Err(unknown_option("bind", option, SPEC.option_names())),
        };
        context.faults.note(result);
    }
    Ok(Line { hosts, except })
}

fn hosts(directive: &Directive) -> Result<Vec<String>, Diagnostic> {
    let mut args = Args::of(directive);
    let first = args.take("an address or an interface such as 127.0.0.1 or eth0")?;
    std::iter::once(first)
        .chain(args.rest())
        .map(host)
        .collect()
}

/// An address, or what can be the name of an interface: which ones there are is not asked before the block is built.
fn host(word: &Word) -> Result<String, Diagnostic> {
    let text = &word.text;
    let can_be_interface = !text.is_empty()
        && text.len() < INTERFACE_NAME_SIZE
        && !text.contains(|c: char| c == '/' || c.is_whitespace());
    if can_be_interface || text.parse::<IpAddr>().is_ok() {
        return Ok(text.clone());
    }
    Err(Diagnostic::error(
        word.span,
        format!("`{text}` is neither an IP address nor the name of an interface"),
        "expected an address or an interface such as 127.0.0.1 or eth0",
    ))
}

/// IFNAMSIZ: the most octets of an interface's name, with the zero octet that ends it.
const INTERFACE_NAME_SIZE: usize = 16;

impl Config for BindConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let interfaces = if_addrs::get_if_addrs()
            .map_err(|error| {
                tracing::warn!(target: "plugin/bind", "interfaces cannot be listed: {error}");
            })
            .unwrap_or_default()
            .into_iter()
            .map(|found| InterfaceAddress {
                address: found.ip(),
                interface: found.name,
            })
            .collect::<Vec<_>>();
        assembly.generation.bind = Some(self.addresses(&interfaces)?);
        Ok(Vec::new())
    }
}

impl BindConfig {
    /// All addresses, each once, in the order they are named.
    fn addresses(&self, interfaces: &[InterfaceAddress]) -> Result<Vec<IpAddr>, BuildError> {
        let mut addresses = Vec::new();
        for line in &self.lines {
            let except = expand(&line.except, interfaces)?;
            for address in expand(&line.hosts, interfaces)? {
                if !except.contains(&address) && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        if addresses.is_empty() {
            return Err(BuildError("`bind` leaves no address to listen on".into()));
        }
        Ok(addresses)
    }
}

fn expand(hosts: &[String], interfaces: &[InterfaceAddress]) -> Result<Vec<IpAddr>, BuildError> {
    let mut addresses = Vec::new();
    for host in hosts {
        let mut is_interface = false;
        for found in interfaces.iter().filter(|found| found.interface == *host) {
            is_interface = true;
            if needs_zone(found.address) {
                let address = found.address;
                tracing::info!(
                    target: "plugin/bind",
                    "`{address}%{host}` is left out: link-local addresses are not built yet"
                );
            } else {
                addresses.push(found.address);
            }
        }
        if is_interface {
            continue;
        }
        let address = host.parse().map_err(|_| {
            BuildError(format!(
                "`{host}` is neither an IP address nor an interface of this machine"
            ))
        })?;
        addresses.push(address);
    }
    Ok(addresses)
}

/// Whether an address means nothing without its interface, which `IpAddr` cannot hold (RFC 4007, section 6).
fn needs_zone(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testing::{Bed, config, faults};

    fn addresses(text: &str) -> Result<String, String> {
        let config = config(&SPEC, text);
        let config = (&*config as &dyn std::any::Any)
            .downcast_ref::<BindConfig>()
            .unwrap();
        let interfaces = [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "10.0.0.5"),
            ("eth0", "fe80::1"),
            ("10.9.9.9", "10.0.0.6"),
        ]
        .map(|(interface, address)| InterfaceAddress {
            interface: interface.into(),
            address: address.parse().unwrap(),
        });
        config
            .addresses(&interfaces)
            .map(|list| {
                let list: Vec<_> = list.iter().map(IpAddr::to_string).collect();
                list.join(" ")
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_and_interfaces_add_up_each_once() {
        assert_eq!(
            addresses("bind 192.0.2.1 lo\nbind ::1 eth0").as_deref(),
            Ok("192.0.2.1 127.0.0.1 ::1 10.0.0.5")
        );
    }

    #[test]
    fn an_interface_named_like_an_address_is_an_interface() {
        assert_eq!(addresses("bind 10.9.9.9").as_deref(), Ok("10.0.0.6"));
    }

    #[test]
    fn except_counts_for_its_own_line_only() {
        assert_eq!(
            addresses("bind lo {\nexcept ::1\n}\nbind eth0 {\nexcept 10.0.0.9\n}").as_deref(),
            Ok("127.0.0.1 10.0.0.5")
        );
    }

    #[test]
    fn what_cannot_be_listened_on_fails_the_build() {
        assert_eq!(
            addresses("bind eth7").unwrap_err(),
            "`eth7` is neither an IP address nor an interface of this machine"
        );
        assert_eq!(
            addresses("bind lo {\nexcept lo\n}").unwrap_err(),
            "`bind` leaves no address to listen on"
        );
    }

    #[test]
    fn the_machines_own_interfaces_are_found() {
        let interfaces = if_addrs::get_if_addrs().unwrap();
        let loopback = interfaces
            .iter()
            .find(|found| found.ip().is_loopback())
            .unwrap();
        let mut bed = Bed::new();
        let text = format!("bind {}", loopback.name);
        let links = bed.build(&*config(&SPEC, &text)).unwrap();
        assert!(links.is_empty());
        assert!(bed.plan.bind.unwrap().contains(&loopback.ip()));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        for (text, fault) in [
            (
                "bind",
                "error: `bind` needs an address or an interface such as 127.0.0.1 or eth0 @ bind",
            ),
            (
                "bind 10.0.0.0/24",
                "error: `10.0.0.0/24` is neither an IP address nor the name of an interface @ 10.0.0.0/24",
            ),
            (
                "bind lo {\nexcept\n}",
                "error: `except` needs an address or an interface such as 127.0.0.1 or eth0 @ except",
            ),
            (
                "bind lo {\nexcept ::1\nexcept ::2\n}",
                "error: `except` stands twice in this `bind` @ except",
            ),
            (
                "bind lo {\nexcpet ::1\n}",
                "error: `bind` has no option `excpet` @ excpet",
            ),
        ] {
            assert_eq!(faults(&SPEC, text), [fault], "{text}");
        }
    }
}
