//! Services by address: the largest part of a cluster's table, so it is kept in pieces.
//!
//! ```text
//! 10.1.2.64/27 --> | which of the 32 have owners (bits) | owners, one after the other |
//! fd00::1      --> owners
//! ```
//!
//! Pods of a node and Services of a cluster stand close together. Thirty-two neighbors share one entry of the
//! lock-free map, which costs some 60 octets whatever is in it: an address takes about 10 octets instead of 70. A change
//! copies one piece, 32 owners at most, and readers see it before or after, never between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::cluster::status::Count;
use crate::cluster::table::{Map, Slot};

/// Bits of an IPv4 address that tell the addresses of one piece apart: as many as a `u32` can flag.
const PIECE_BITS: u32 = 5;

/// The Services that an address belongs to, as their own or behind them, if they are many. A rare thing.
type Several = Arc<[Arc<Slot>]>;

/// Neighboring addresses; immutable.
#[derive(Default)]
struct Piece {
    /// Those with one owner: one pointer each.
    present: u32,
    owners: Box<[Arc<Slot>]>,
    /// Those with several, by their flag.
    shared: Box<[(u32, Several)]>,
}

impl Piece {
    /// Where the owner of this member stands, or would stand.
    fn rank(&self, bit: u32) -> usize {
        // At most 32, which any usize holds.
        (self.present & (bit - 1)).count_ones() as usize
    }

    fn get(&self, bit: u32) -> &[Arc<Slot>] {
        if self.present & bit != 0 {
            return std::slice::from_ref(&self.owners[self.rank(bit)]);
        }
        self.shared
            .iter()
            .find(|(other, _)| *other == bit)
            .map_or(&[], |(_, owners)| owners)
    }

    /// This piece with other owners for one member; none if nobody is left.
    fn with(&self, bit: u32, slots: &[Arc<Slot>]) -> Option<Self> {
        let rank = self.rank(bit);
        let behind = rank + usize::from(self.present & bit != 0);
        let (present, single) = match slots {
            [slot] => (self.present | bit, Some(slot)),
            _ => (self.present & !bit, None),
        };
        let before = self.owners[..rank].iter();
        let owners = before.chain(single).chain(&self.owners[behind..]);
        let several = (slots.len() > 1).then(|| (bit, slots.into()));
        let others = self.shared.iter().filter(|(other, _)| *other != bit);
        let this = Self {
            present,
            owners: owners.cloned().collect(),
            shared: others.cloned().chain(several).collect(),
        };
        (present != 0 || !this.shared.is_empty()).then_some(this)
    }
}

/// Services by address. One writer, any number of readers that never wait.
#[derive(Default)]
pub(in crate::cluster) struct Addresses {
    v4: Map<u32, Piece>,
    v6: Map<u128, Several>,
    count: Count,
}

fn place(address: Ipv4Addr) -> (u32, u32) {
    let bits = address.to_bits();
    (bits >> PIECE_BITS, 1 << (bits & ((1 << PIECE_BITS) - 1)))
}

impl Addresses {
    /// Looks at the owners of an address: none, mostly one, or several.
    pub(in crate::cluster) fn with<R>(
        &self,
        address: IpAddr,
        look: impl FnOnce(&[Arc<Slot>]) -> R,
    ) -> R {
        match address {
            IpAddr::V4(address) => {
                let (key, bit) = place(address);
                let pieces = self.v4.pin();
                look(
                    pieces
                        .get(&key)
                        .map(|piece| piece.get(bit))
                        .unwrap_or_default(),
                )
            }
            IpAddr::V6(address) => {
                let owners = self.v6.pin();
                let found = owners.get(&address.to_bits());
                look(found.map_or(&[], |owners| owners))
            }
        }
    }

    /// How many addresses have owners.
    pub(in crate::cluster) fn len(&self) -> usize {
        self.count.get()
    }

    /// Every address that has owners, in no particular order.
    pub(in crate::cluster) fn all(&self) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
        let mut v4 = Vec::new();
        for (&key, piece) in &self.v4.pin() {
            let members = (0..1 << PIECE_BITS).filter(|member| !piece.get(1 << member).is_empty());
            v4.extend(members.map(|member| Ipv4Addr::from_bits(key << PIECE_BITS | member)));
        }
        let map = self.v6.pin();
        (v4, map.keys().copied().map(Ipv6Addr::from_bits).collect())
    }

    /// Replaces the owners of an address; nobody takes it out. For the one writer only.
    pub(in crate::cluster) fn set(&self, address: IpAddr, slots: &[Arc<Slot>]) {
        let had = self.with(address, |owners| !owners.is_empty());
        let has = !slots.is_empty();
        self.count.change(usize::from(had), usize::from(has));
        match address {
            IpAddr::V4(address) => self.set_v4(address, slots),
            IpAddr::V6(address) => {
                let map = self.v6.pin();
                let key = address.to_bits();
                match slots {
                    [] => drop(map.remove(&key).is_some()),
                    slots => drop(map.insert(key, slots.into()).is_some()),
                }
            }
        }
    }

    fn set_v4(&self, address: Ipv4Addr, slots: &[Arc<Slot>]) {
        let (key, bit) = place(address);
        let pieces = self.v4.pin();
        let changed = pieces
            .get(&key)
            .unwrap_or(&Piece::default())
            .with(bit, slots);
        match changed {
            Some(piece) => drop(pieces.insert(key, piece).is_some()),
            None => drop(pieces.remove(&key).is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn slot(name: &str) -> Arc<Slot> {
        Arc::new(Slot::new(name.as_bytes()))
    }

    fn labels(addresses: &Addresses, address: IpAddr) -> Vec<String> {
        addresses.with(address, |slots| {
            slots
                .iter()
                .map(|slot| String::from_utf8_lossy(&slot.labels).into_owned())
                .collect()
        })
    }

    #[test]
    fn neighbors_do_not_disturb_each_other() {
        let addresses = Addresses::default();
        let mut expected: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        // A fixed walk over two pieces and a few addresses far away; each is set, changed and taken out in turn.
        let mut state = 1u32;
        for round in 0..2000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let last = (state >> 16) % 64;
            let address = match state >> 30 {
                0 => IpAddr::from(Ipv6Addr::from(u128::from(last))),
                1 => IpAddr::from(Ipv4Addr::from_bits(u32::MAX - last)),
                _ => IpAddr::from(Ipv4Addr::from_bits(0x0a01_0240 + last)),
            };
            let names: Vec<String> = (0..(state >> 8) % 4)
                .map(|n| format!("{round}-{n}"))
                .collect();
            let slots: Vec<_> = names.iter().map(|name| slot(name)).collect();
            addresses.set(address, &slots);
            expected.insert(address, names);
            if round % 50 == 0 {
                for (address, names) in &expected {
                    assert_eq!(&labels(&addresses, *address), names, "{address}");
                }
            }
        }
    }

    #[test]
    fn what_nobody_owns_leaves_nothing_behind() {
        let addresses = Addresses::default();
        for last in 0..=255u8 {
            addresses.set(IpAddr::from([10, 0, 0, last]), &[slot("a"), slot("b")]);
            addresses.set(IpAddr::from([u16::from(last); 8]), &[slot("a")]);
        }
        assert_eq!(addresses.len(), 512);
        for last in 0..=255u8 {
            addresses.set(IpAddr::from([10, 0, 0, last]), &[]);
            addresses.set(IpAddr::from([u16::from(last); 8]), &[]);
        }
        assert!(addresses.v4.is_empty() && addresses.v6.is_empty());
        assert_eq!(addresses.len(), 0);
    }
}
