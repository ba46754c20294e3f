//! Private addresses in answers from outside (`deny_private`).
//!
//! A page whose name suddenly has the address of a router or a Pod lets its scripts talk to that (DNS rebinding). The
//! records go, and what is left is the answer, mostly NODATA with extended error 15, as users of Unbound
//! (`private-address`) and dnsmasq (`stop-dns-rebind`) know it. A REFUSED or SERVFAIL would send clients to their next
//! server, which may not filter; NXDOMAIN would deny the other types as well.
//!
//! What may have private addresses is decided by QNAME, as in dnsmasq: it is the name that a browser takes for the
//! origin. Going by the owner, as Unbound does, would let anyone in with an alias that leads to an allowed name.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::plugin::forward::request::Asked;
use crate::wire::code::RecordType;
use crate::wire::name::{Name, NameRef};
use crate::wire::record::RecordRef;
use crate::wire::u16_at;

/// Keys of a service binding that hold addresses (RFC 9460, section 14.3.2).
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// Names that may have no private address: all but those at or below some zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DenyPrivate {
    pub(super) allowed: Vec<Name>,
}

impl DenyPrivate {
    /// Whether the name that was asked may have none.
    pub(super) fn concerns(&self, asked: &Asked) -> bool {
        let qname = NameRef::from_wire(asked.question()).expect("a question begins with a name");
        let mut allowed = self.allowed.iter();
        !allowed.any(|zone| qname.is_at_or_below(zone.as_ref()))
    }
}

/// Whether a record leads to a private address. A service binding with such a hint does as a whole: clients then go by
/// the addresses of its target.
pub(super) fn is_private(record: &RecordRef<'_>) -> bool {
    match record.record_type {
        RecordType::A => record.ipv4().is_some_and(is_private_ipv4),
        RecordType::AAAA => record.ipv6().is_some_and(is_private_ipv6),
        RecordType::SVCB | RecordType::HTTPS => has_private_hint(record),
        _ => false,
    }
}

/// Whether a record signs addresses. What is left of them is not what was signed.
pub(super) fn signs_addresses(record: &RecordRef<'_>) -> bool {
    // The type covered comes first (RFC 4034, section 3.1.1).
    record.record_type == RecordType::RRSIG
        && u16_at(record.rdata(), 0)
            .map(RecordType)
            .is_some_and(|covered| {
                matches!(
                    covered,
                    RecordType::A | RecordType::AAAA | RecordType::SVCB | RecordType::HTTPS
                )
            })
}

fn has_private_hint(record: &RecordRef<'_>) -> bool {
    let Ok((_, mut at)) = record.name_at(2) else {
        return false;
    };
    let rdata = record.rdata();
    while let (Some(key), Some(length)) = (u16_at(rdata, at), u16_at(rdata, at + 2)) {
        let end = at + 4 + usize::from(length);
        let Some(value) = rdata.get(at + 4..end) else {
            return false;
        };
        let is_private = match key {
            IPV4_HINT => chunks::<4>(value).any(|octets| is_private_ipv4(octets.into())),
            IPV6_HINT => chunks::<16>(value).any(|octets| is_private_ipv6(octets.into())),
            _ => false,
        };
        if is_private {
            return true;
        }
        at = end;
    }
    false
}

fn chunks<const N: usize>(value: &[u8]) -> impl Iterator<Item = [u8; N]> {
    value.as_chunks::<N>().0.iter().copied()
}

/// Addresses that mean something only where we are (RFC 6890): this host and network, RFC 1918, RFC 6598, loopback,
/// link-local, broadcast.
fn is_private_ipv4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    matches!(first, 0 | 127)
        || first == 100 && second & 0xc0 == 64
        || address.is_link_local()
        || address.is_private()
        || address.is_broadcast()
}

/// The same for IPv6: loopback, unspecified, link-local, site-local, unique local, the local-use NAT64 prefix, and each
/// private IPv4 address in the forms that a host or a translator takes for it.
fn is_private_ipv6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_ipv4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // The unspecified address, loopback, IPv4-compatible and IPv4-mapped (RFC 4291, section 2.5).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => embedded(high, low),
        // IPv4-translated (RFC 7915, as ::ffff:0:0:0/96).
        [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low),
        // NAT64 (RFC 6052, section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4 (RFC 3056, section 2).
        [0x2002, high, low, ..] => embedded(high, low),
        // RFC 8215; RFC 4193; RFC 4291, section 2.5.6; RFC 3879.
        [first, second, third, ..] => {
            (first, second, third) == (0x64, 0xff9b, 1)
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
                || first & 0xffc0 == 0xfec0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn is_private(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => is_private_ipv4(address),
            IpAddr::V6(address) => is_private_ipv6(address),
        }
    }

    #[test]
    fn addresses_that_mean_something_only_here_are_private_in_every_form() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
        ] {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn addresses_of_the_world_are_not() {
        for text in [
            "1.1.1.1",
            "11.0.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.0.1",
            "192.169.0.1",
            "224.0.0.1",
            "2001:db8::1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "fe00::1",
            "ff02::1",
        ] {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }
}
