//! Addresses as labels: `10-1-0-4`, `fd00-1--1`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::name::LABEL_MAX;

/// Some text of at most a label's length, made without allocating.
#[derive(Clone, Copy)]
pub(in crate::plugin) struct LabelBuf {
    length: u8,
    octets: [u8; LABEL_MAX],
}

impl LabelBuf {
    fn new() -> Self {
        Self {
            length: 0,
            octets: [0; LABEL_MAX],
        }
    }

    /// Its octets.
    pub(in crate::plugin) fn as_bytes(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }

    fn map(&mut self, from: u8, to: u8) {
        for octet in &mut self.octets[..usize::from(self.length)] {
            if *octet == from {
                *octet = to;
            }
        }
    }
}

impl std::fmt::Write for LabelBuf {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let start = usize::from(self.length);
        let end = start + text.len();
        self.octets
            .get_mut(start..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.length = u8::try_from(end).map_err(|_| std::fmt::Error)?;
        Ok(())
    }
}

/// An address as one label: dots and colons become dashes. `fd00:1::` becomes `fd00-1--`.
fn dashed(address: IpAddr) -> LabelBuf {
    use std::fmt::Write;
    let mut label = LabelBuf::new();
    write!(label, "{address}").expect("an address has at most 45 characters");
    label.map(if address.is_ipv4() { b'.' } else { b':' }, b'-');
    label
}

/// The host name of an endpoint that has none of its own: `10-1-0-4`, `fd00-1--0`. A label may not end in a dash, so
/// such a one gets a zero.
pub(in crate::plugin) fn endpoint_label(address: IpAddr) -> LabelBuf {
    let mut label = dashed(address);
    if label.as_bytes().ends_with(b"-") {
        label.octets[usize::from(label.length)] = b'0';
        label.length += 1;
    }
    label
}

/// The address that a Pod's label spells: three single dashes make it IPv4, all else is IPv6. With `exact`, only the
/// spelling that Kubernetes would use counts.
pub(in crate::plugin) fn pod_address(label: &[u8], exact: bool) -> Option<IpAddr> {
    let address = undash(label)?;
    (!exact || dashed(address).as_bytes() == label).then_some(address)
}

/// The address of which this is the [`endpoint_label`].
pub(in crate::plugin) fn endpoint_address(label: &[u8]) -> Option<IpAddr> {
    let address = undash(label)?;
    (endpoint_label(address).as_bytes() == label).then_some(address)
}

fn undash(label: &[u8]) -> Option<IpAddr> {
    let mut text = LabelBuf::new();
    text.length = u8::try_from(label.len()).ok()?;
    text.octets.get_mut(..label.len())?.copy_from_slice(label);
    let dashes = label.iter().filter(|&&octet| octet == b'-').count();
    let is_v4 = dashes == 3 && !label.windows(2).any(|pair| pair == b"--");
    text.map(b'-', if is_v4 { b'.' } else { b':' });
    let text = std::str::from_utf8(text.as_bytes()).ok()?;
    if is_v4 {
        text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    } else {
        // IPv4-mapped addresses mean IPv4.
        text.parse::<Ipv6Addr>()
            .ok()
            .map(|address| IpAddr::V6(address).to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_names_its_endpoint_by_one_label_that_does_not_end_in_a_dash() {
        for (address, label) in [
            ("10.1.0.4", "10-1-0-4"),
            ("fd00:1::1", "fd00-1--1"),
            ("fd00:1::", "fd00-1--0"),
            ("::1", "--1"),
            (
                "1111:2222:3333:4444:5555:6666:7777:8888",
                "1111-2222-3333-4444-5555-6666-7777-8888",
            ),
        ] {
            assert_eq!(endpoint_label(ip(address)).as_bytes(), label.as_bytes());
            assert_eq!(endpoint_address(label.as_bytes()), Some(ip(address)));
        }
        // Only that form.
        assert_eq!(endpoint_address(b"fd00-1--"), None);
        assert_eq!(endpoint_address(b"fd00-1-0-0-0-0-0-1"), None);
    }

    #[test]
    fn a_pods_label_is_ipv4_with_three_single_dashes_and_ipv6_otherwise() {
        let address = |label: &str| pod_address(label.as_bytes(), false);
        assert_eq!(address("1-2-3-4"), Some(ip("1.2.3.4")));
        assert_eq!(address("--1"), Some(ip("::1")));
        assert_eq!(address("fd00--1"), Some(ip("fd00::1")));
        assert_eq!(address("1-2-3-4-5-6-7-8"), Some(ip("1:2:3:4:5:6:7:8")));
        assert_eq!(address("--ffff-a00-1"), Some(ip("10.0.0.1")));
        for wrong in [
            "foo",
            "1-2-3",
            "1-2-3-400",
            "01-2-3-4",
            "1-2--3-4-",
            "",
            "-",
            "1.2.3.4",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
        assert_eq!(pod_address(b"fd00-1--0", true), None);
        assert_eq!(pod_address(b"fd00-1--", true), Some(ip("fd00:1::")));
        assert_eq!(pod_address(b"--ffff-a00-1", true), None);
    }
}
