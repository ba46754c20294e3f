//! Addresses out of the names below `in-addr.arpa` and `ip6.arpa`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::name::{NameBuf, NameRef};

/// The address that a reverse name stands for (RFC 1035, section 3.5; RFC 3596, section 2.5). None if the name is no
/// whole address, or writes a number as nobody would (`01`). An IPv4-mapped address comes back as IPv4.
pub fn address_of(name: NameRef<'_>) -> Option<IpAddr> {
    let wire = name.as_wire();
    if let Some(mut labels) = left_of(wire, IN_ADDR) {
        let mut octets = [0; 4];
        for octet in octets.iter_mut().rev() {
            *octet = decimal(take_label(&mut labels)?)?;
        }
        return labels
            .is_empty()
            .then(|| IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let mut labels = left_of(wire, IP6)?;
    let mut octets = [0; 16];
    for octet in octets.iter_mut().rev() {
        let low = nibble(take_label(&mut labels)?)?;
        *octet = nibble(take_label(&mut labels)?)? << 4 | low;
    }
    labels
        .is_empty()
        .then(|| IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

const IN_ADDR: &[u8] = b"\x07in-addr\x04arpa\0";
const IP6: &[u8] = b"\x03ip6\x04arpa\0";

/// The octets left of a tree. They are whole labels if they end with one.
fn left_of<'w>(wire: &'w [u8], tree: &[u8]) -> Option<&'w [u8]> {
    let (labels, tail) = wire.split_at_checked(wire.len().checked_sub(tree.len())?)?;
    tail.eq_ignore_ascii_case(tree).then_some(labels)
}

fn take_label<'w>(labels: &mut &'w [u8]) -> Option<&'w [u8]> {
    let (&length, rest) = labels.split_first()?;
    let (label, rest) = rest.split_at_checked(usize::from(length))?;
    *labels = rest;
    Some(label)
}

/// The reverse name of an address, in lower case.
pub fn name_of(address: IpAddr) -> NameBuf {
    const FITS: &str = "a reverse name has at most 74 octets";
    let mut name = NameBuf::new();
    let family: &[u8] = match address {
        IpAddr::V4(address) => {
            for octet in address.octets().iter().rev() {
                name.push_label(octet.to_string().as_bytes()).expect(FITS);
            }
            b"in-addr"
        }
        IpAddr::V6(address) => {
            for octet in address.octets().iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    name.push_label(&[b"0123456789abcdef"[usize::from(nibble)]])
                        .expect(FITS);
                }
            }
            b"ip6"
        }
    };
    name.push_label(family).expect(FITS);
    name.push_label(b"arpa").expect(FITS);
    name
}

fn decimal(label: &[u8]) -> Option<u8> {
    if label.len() > 1 && label[0] == b'0' {
        return None;
    }
    label.iter().try_fold(0u8, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn nibble(label: &[u8]) -> Option<u8> {
    let &[digit] = label else {
        return None;
    };
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    fn address(text: &str) -> Option<String> {
        let name = Name::from_text(text).expect(text);
        address_of(name.as_ref()).map(|address| address.to_string())
    }

    #[test]
    fn a_whole_address_is_read_backwards() {
        assert_eq!(address("4.3.2.1.IN-ADDR.arpa").as_deref(), Some("1.2.3.4"));
        let nibbles = "8.B.d.0.1.0.0.2.".to_owned();
        let name = format!("{}{nibbles}ip6.arpa", "1.".to_owned() + &"0.".repeat(23));
        assert_eq!(address(&name).as_deref(), Some("2001:db8::1"));
        let mapped = format!("4.0.3.0.2.0.1.0.f.f.f.f.{}ip6.arpa", "0.".repeat(20));
        assert_eq!(address(&mapped).as_deref(), Some("1.2.3.4"));
    }

    #[test]
    fn anything_but_a_whole_address_is_none() {
        for wrong in [
            "3.2.1.in-addr.arpa",
            "5.4.3.2.1.in-addr.arpa",
            "256.3.2.1.in-addr.arpa",
            "04.3.2.1.in-addr.arpa",
            "x.3.2.1.in-addr.arpa",
            "4.3.2.1.in-addr.org",
            "4.3.2.1.ip6.arpa",
            "example.org",
            ".",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
        let long = format!("10.{}ip6.arpa", "0.".repeat(31));
        assert_eq!(address(&long), None);
    }

    #[test]
    fn an_address_is_found_again_in_its_reverse_name() {
        for text in ["10.1.0.255", "fd00:1::2f", "::"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(address_of(name_of(address).as_ref()), Some(address));
        }
        let name = name_of([10, 1, 0, 255].into());
        assert_eq!(name.as_ref().to_string(), "255.0.1.10.in-addr.arpa.");
    }
}
