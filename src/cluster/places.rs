//! Which namespaces have a Pod of some address.
//!
//! ```text
//! 10.1.2.0/24  --> | .4 shop | .7 web | .9 web, on its way out | ...   one Pod each, 8 octets
//!                  | .1 kube-system 7 Pods, web 2 Pods                 shared: those on a node's network
//! "\4shop"     --> number of the namespace
//! ```
//!
//! Pods of a node stand close together, so 256 neighbors share one entry of the lock-free map: an address costs some ten
//! octets. A change copies one piece, and readers see it before or after, never between. A number is never given to a
//! second namespace, so what a reader found a moment ago cannot come to mean another one.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::table::Map;

/// Pods of one namespace with one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) struct Place {
    /// The number of their namespace.
    pub(in crate::cluster) namespace: u32,
    /// They are on their way out: the address may be another Pod's by now.
    pub(in crate::cluster) going: bool,
    /// They share the network of their node, and its address.
    pub(in crate::cluster) host: bool,
    /// How many they are.
    pub(in crate::cluster) pods: u32,
}

/// The only Pod of an address, as it is kept.
#[derive(Clone, Copy)]
struct Single {
    namespace: u32,
    last: u8,
    going: bool,
    host: bool,
}

/// Neighboring addresses, both lists in order of their last octet; immutable.
#[derive(Clone, Default)]
struct Piece {
    singles: Box<[Single]>,
    shared: Box<[(u8, Arc<[Place]>)]>,
}

/// Pods by address. One writer, any number of readers that never wait.
#[derive(Default)]
pub(in crate::cluster) struct Places {
    v4: Map<u32, Piece>,
    v6: Map<u128, Piece>,
    namespaces: Map<Box<[u8]>, u32>,
}

impl Place {
    fn is_like(&self, other: &Self) -> bool {
        (self.namespace, self.going, self.host) == (other.namespace, other.going, other.host)
    }
}

impl Single {
    fn place(self) -> Place {
        Place {
            namespace: self.namespace,
            going: self.going,
            host: self.host,
            pods: 1,
        }
    }
}

impl Piece {
    fn with<R>(&self, last: u8, look: impl FnOnce(&[Place]) -> R) -> R {
        if let Ok(at) = self
            .singles
            .binary_search_by_key(&last, |single| single.last)
        {
            return look(&[self.singles[at].place()]);
        }
        let shared = self.shared.binary_search_by_key(&last, |(last, _)| *last);
        look(shared.map_or(&[], |at| &self.shared[at].1))
    }

    /// This piece with other Pods for one member; none if nobody is left.
    fn replaced(&self, last: u8, places: &[Place]) -> Option<Self> {
        let single = match places {
            [place] if place.pods == 1 => Some(Single {
                namespace: place.namespace,
                last,
                going: place.going,
                host: place.host,
            }),
            _ => None,
        };
        let shared = (single.is_none() && !places.is_empty()).then(|| (last, places.into()));
        let singles = spliced(&self.singles, single, |single| single.last, last);
        let shared = spliced(&self.shared, shared, |(last, _)| *last, last);
        (!singles.is_empty() || !shared.is_empty()).then_some(Self { singles, shared })
    }
}

/// A row in order of its keys with the element of one key replaced, put in or taken out.
fn spliced<T: Clone>(row: &[T], new: Option<T>, key: impl Fn(&T) -> u8, at: u8) -> Box<[T]> {
    let before = row.partition_point(|element| key(element) < at);
    let behind = row.partition_point(|element| key(element) <= at);
    let before = row[..before].iter().cloned();
    before
        .chain(new)
        .chain(row[behind..].iter().cloned())
        .collect()
}

/// The Pods of an address that have a claim to it: one on its way out has none where a running one has the address,
/// which was given away then. Those on a node's network share theirs.
fn claimants(places: &[Place]) -> impl Iterator<Item = &Place> {
    let taken = places.iter().any(|place| !place.going && !place.host);
    places
        .iter()
        .filter(move |place| !(taken && place.going && !place.host))
}

impl Places {
    fn with<R>(&self, address: IpAddr, look: impl FnOnce(&[Place]) -> R) -> R {
        match address {
            IpAddr::V4(address) => {
                let [rest @ .., last] = address.octets();
                let [a, b, c] = rest;
                let pieces = self.v4.pin();
                match pieces.get(&u32::from_be_bytes([0, a, b, c])) {
                    Some(piece) => piece.with(last, look),
                    None => look(&[]),
                }
            }
            IpAddr::V6(address) => {
                let [.., last] = address.octets();
                let pieces = self.v6.pin();
                match pieces.get(&(address.to_bits() >> 8)) {
                    Some(piece) => piece.with(last, look),
                    None => look(&[]),
                }
            }
        }
    }

    /// How many Pods of a namespace have this address; its label in lower case, with its length.
    pub(in crate::cluster) fn count(&self, address: IpAddr, namespace: &[u8]) -> u32 {
        let Some(number) = self.namespaces.pin().get(namespace).copied() else {
            return 0;
        };
        self.with(address, |places| {
            let of_namespace = claimants(places).filter(|place| place.namespace == number);
            of_namespace.fold(0, |pods: u32, place| pods.saturating_add(place.pods))
        })
    }

    /// Whether this address is a Pod's of this namespace, and of no other, nor of a node.
    pub(in crate::cluster) fn is_of(&self, address: IpAddr, namespace: &[u8]) -> bool {
        let Some(number) = self.namespaces.pin().get(namespace).copied() else {
            return false;
        };
        self.with(address, |places| {
            let mut claimants = claimants(places).peekable();
            claimants.peek().is_some()
                && claimants.all(|place| place.namespace == number && !place.host)
        })
    }

    /// Names a namespace that has Pods, or had its last one. For the one writer only, as all below.
    pub(in crate::cluster) fn set_namespace(&self, label: &[u8], number: Option<u32>) {
        let namespaces = self.namespaces.pin();
        match number {
            Some(number) => drop(namespaces.insert(label.into(), number).is_some()),
            None => drop(namespaces.remove(label).is_some()),
        }
    }

    /// Takes a Pod from an address, and puts one there; both count for one. Readers see both done or neither.
    pub(in crate::cluster) fn change(
        &self,
        address: IpAddr,
        old: Option<Place>,
        new: Option<Place>,
    ) {
        let mut places = self.with(address, <[Place]>::to_vec);
        if let Some(old) = old
            && let Some(place) = places.iter_mut().find(|place| place.is_like(&old))
        {
            place.pods = place.pods.saturating_sub(1);
        }
        if let Some(new) = new {
            match places.iter_mut().find(|place| place.is_like(&new)) {
                Some(place) => place.pods = place.pods.saturating_add(1),
                None => places.push(new),
            }
        }
        places.retain(|place| place.pods > 0);
        self.replace(address, &places);
    }

    fn replace(&self, address: IpAddr, places: &[Place]) {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, last] = address.octets();
                replace_in(&self.v4, u32::from_be_bytes([0, a, b, c]), last, places);
            }
            IpAddr::V6(address) => {
                let [.., last] = address.octets();
                replace_in(&self.v6, address.to_bits() >> 8, last, places);
            }
        }
    }
}

fn replace_in<K: std::hash::Hash + Eq>(pieces: &Map<K, Piece>, key: K, last: u8, places: &[Place]) {
    let pieces = pieces.pin();
    let changed = match pieces.get(&key) {
        Some(piece) => piece.replaced(last, places),
        None => Piece::default().replaced(last, places),
    };
    match changed {
        Some(piece) => drop(pieces.insert(key, piece).is_some()),
        None => drop(pieces.remove(&key).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &[u8] = b"\x04shop";
    const WEB: &[u8] = b"\x03web";

    fn places() -> Places {
        let places = Places::default();
        places.set_namespace(SHOP, Some(1));
        places.set_namespace(WEB, Some(2));
        places
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn pod(namespace: u32) -> Place {
        Place {
            namespace,
            going: false,
            host: false,
            pods: 1,
        }
    }

    fn going(namespace: u32) -> Place {
        Place {
            going: true,
            ..pod(namespace)
        }
    }

    fn host(namespace: u32) -> Place {
        Place {
            host: true,
            ..pod(namespace)
        }
    }

    #[test]
    fn neighbors_do_not_disturb_each_other() {
        let places = places();
        for prefix in ["10.1.0.", "fd00::"] {
            for last in 0..=99 {
                places.change(ip(&format!("{prefix}{last}")), None, Some(pod(1)));
            }
            for last in (0..=99).step_by(3) {
                let address = ip(&format!("{prefix}{last}"));
                places.change(address, Some(pod(1)), Some(pod(2)));
            }
            for last in (1..=99).step_by(3) {
                places.change(ip(&format!("{prefix}{last}")), Some(pod(1)), None);
            }
            for last in 0..=99 {
                let address = ip(&format!("{prefix}{last}"));
                let counts = (places.count(address, SHOP), places.count(address, WEB));
                assert_eq!(counts, [(0, 1), (0, 0), (1, 0)][last % 3], "{address}");
            }
        }
    }

    #[test]
    fn who_is_on_its_way_out_keeps_the_address_until_somebody_else_has_it() {
        let (places, address) = (places(), ip("10.1.0.4"));
        places.change(address, None, Some(going(1)));
        assert!(places.is_of(address, SHOP) && places.count(address, SHOP) == 1);
        places.change(address, None, Some(pod(2)));
        assert!(places.is_of(address, WEB) && !places.is_of(address, SHOP));
        assert_eq!(
            (places.count(address, SHOP), places.count(address, WEB)),
            (0, 1)
        );
        places.change(address, Some(pod(2)), None);
        assert!(places.is_of(address, SHOP));
    }

    #[test]
    fn an_address_of_two_namespaces_or_of_a_node_is_nobodys() {
        let (places, address) = (places(), ip("10.1.0.4"));
        places.change(address, None, Some(pod(1)));
        places.change(address, None, Some(pod(1)));
        assert!(places.is_of(address, SHOP) && places.count(address, SHOP) == 2);
        places.change(address, None, Some(pod(2)));
        assert!(!places.is_of(address, SHOP) && !places.is_of(address, WEB));
        assert_eq!(
            (places.count(address, SHOP), places.count(address, WEB)),
            (2, 1)
        );
        let node = ip("192.0.2.1");
        places.change(node, None, Some(host(1)));
        assert!(!places.is_of(node, SHOP));
        // Those that share a node's address do not lose it to one another.
        places.change(
            node,
            Some(host(1)),
            Some(Place {
                going: true,
                ..host(1)
            }),
        );
        places.change(node, None, Some(host(2)));
        assert_eq!((places.count(node, SHOP), places.count(node, WEB)), (1, 1));
    }

    #[test]
    fn what_nobody_has_leaves_nothing_behind() {
        let places = places();
        for address in ["10.1.0.4", "fd00::4"].map(ip) {
            places.change(address, None, Some(pod(1)));
            places.change(address, None, Some(host(2)));
            places.change(address, Some(pod(1)), None);
            places.change(address, Some(host(2)), None);
        }
        assert!(places.v4.is_empty() && places.v6.is_empty());
    }
}
