//! Where the endpoints of a slice are: topology zones and clusters, kept by who asked for them alone.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::cluster::objects::EndpointSlice;
use crate::wire::name::LABEL_MAX;

/// What most slices have nothing of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Origin {
    /// The cluster it was imported from: a label in lower case.
    pub(in crate::cluster) cluster: Option<Box<[u8]>>,
    /// The zones of its endpoints.
    pub(in crate::cluster) zones: Option<Zones>,
}

/// Topology zones of endpoints: two octets an endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct Zones {
    /// Each zone once, as labels in lower case: a name that asks for it has them in a row.
    names: Box<[Arc<[u8]>]>,
    /// For each endpoint, IPv4 first, which of them; past the last one is none.
    of: Box<[u16]>,
}

/// Endpoints without a zone, or with one that no name can spell.
const NOWHERE: u16 = u16::MAX;

impl Zones {
    /// Those of a slice's ready endpoints; none if no endpoint has one. Where an address stands more than once, its last
    /// zone counts, as in CoreDNS. Texts are shared through `known`.
    pub(in crate::cluster) fn of(
        slice: &EndpointSlice,
        known: &mut HashSet<Arc<[u8]>>,
    ) -> Option<Self> {
        let mut names = Vec::new();
        let mut places: HashMap<IpAddr, u16> = HashMap::new();
        let ready = || slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        for endpoint in ready() {
            let Some(zone) = &endpoint.zone else {
                continue;
            };
            let place = wire(zone).map_or(NOWHERE, |zone| place_of(&zone, &mut names, known));
            places.extend(endpoint.addresses.iter().map(|&address| (address, place)));
        }
        if names.is_empty() {
            return None;
        }
        let of_family = |v4: bool| {
            let all = ready().flat_map(|endpoint| &endpoint.addresses);
            all.filter(move |address| address.is_ipv4() == v4)
        };
        let place = |address: &IpAddr| places.get(address).copied().unwrap_or(NOWHERE);
        Some(Self {
            names: names.into(),
            of: of_family(true).chain(of_family(false)).map(place).collect(),
        })
    }

    /// The zone of the endpoint at this place, as an object spells it in lower case.
    pub(in crate::cluster) fn text(&self, place: usize) -> Option<Box<str>> {
        let name = self.names.get(usize::from(*self.of.get(place)?))?;
        let (mut text, mut rest) = (Vec::with_capacity(name.len()), &**name);
        while let Some((&length, behind)) = rest.split_first() {
            let (label, behind) = behind.split_at_checked(length.into())?;
            if !text.is_empty() {
                text.push(b'.');
            }
            text.extend_from_slice(label);
            rest = behind;
        }
        String::from_utf8(text).ok().map(Into::into)
    }

    /// Places of the endpoints in this zone.
    pub(in crate::cluster) fn places(&self, zone: &[u8]) -> impl Iterator<Item = usize> {
        let wanted = self.names.iter().position(|name| **name == *zone);
        let wanted = wanted.and_then(|place| u16::try_from(place).ok());
        let all = self.of.iter().enumerate();
        all.filter(move |&(_, &place)| place != NOWHERE && Some(place) == wanted)
            .map(|(index, _)| index)
    }
}

/// Where a zone stands among `names`; put there if it does not.
fn place_of(zone: &[u8], names: &mut Vec<Arc<[u8]>>, known: &mut HashSet<Arc<[u8]>>) -> u16 {
    let place = names.iter().position(|name| **name == *zone);
    let place = place.unwrap_or_else(|| {
        let shared = known.get_or_insert_with(zone, |zone| zone.into());
        names.push(Arc::clone(shared));
        names.len() - 1
    });
    // An object has a thousand endpoints; what a file lists beyond all measure is nowhere.
    u16::try_from(place).unwrap_or(NOWHERE)
}

/// `\7eu-west\11` from `EU-West.1`: a zone's value may have dots, and a name has a label for each piece. None if a piece
/// is no label, so that no name can ask for it.
fn wire(zone: &str) -> Option<Vec<u8>> {
    let mut labels = Vec::with_capacity(1 + zone.len());
    for piece in zone.split('.') {
        let length = u8::try_from(piece.len()).ok()?;
        if length == 0 || usize::from(length) > LABEL_MAX {
            return None;
        }
        labels.push(length);
        labels.extend(piece.bytes().map(|octet| octet.to_ascii_lowercase()));
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::objects::{Endpoint, Meta};

    /// Zones of endpoints, each `ADDRESS ZONE`, without a zone where it is left out.
    fn zones(endpoints: &[&str], known: &mut HashSet<Arc<[u8]>>) -> Option<Zones> {
        let endpoint = |text: &&str| {
            let (address, zone) = text.split_once(' ').unwrap_or((text, ""));
            Endpoint {
                addresses: vec![address.parse().expect("an address")],
                hostname: None,
                target_name: None,
                ready: true,
                zone: (!zone.is_empty()).then(|| zone.into()),
            }
        };
        let slice = EndpointSlice {
            meta: Meta::default(),
            service: Box::default(),
            import: None,
            ports: Vec::new(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            trigger_time: None,
        };
        Zones::of(&slice, known)
    }

    fn places(zones: &Zones, zone: &[u8]) -> Vec<usize> {
        zones.places(zone).collect()
    }

    #[test]
    fn endpoints_are_found_by_zone_in_the_order_of_the_view() {
        let all = ["fd00::1 a", "10.0.0.1 A", "10.0.0.2", "10.0.0.3 b.C"];
        let zones = zones(&all, &mut HashSet::default()).expect("zones");
        assert_eq!(places(&zones, b"\x01a"), [0, 3]);
        assert_eq!(places(&zones, b"\x01b\x01c"), [2]);
        assert_eq!(zones.text(2).as_deref(), Some("b.c"));
        assert_eq!(zones.text(1), None);
        for missing in [b"\x01c".as_slice(), b"", b"\x01b"] {
            assert!(places(&zones, missing).is_empty());
        }
    }

    #[test]
    fn the_last_zone_of_an_address_counts() {
        let all = ["10.0.0.1 a", "10.0.0.1", "10.0.0.1 b"];
        let zones = zones(&all, &mut HashSet::default()).expect("zones");
        assert!(places(&zones, b"\x01a").is_empty());
        assert_eq!(places(&zones, b"\x01b"), [0, 1, 2]);
    }

    #[test]
    fn zones_that_no_name_can_spell_are_none() {
        let long = format!("10.0.0.1 {}", "z".repeat(64));
        for text in [long.as_str(), "10.0.0.1 a..b", "10.0.0.1 .a", "10.0.0.1"] {
            assert_eq!(zones(&[text], &mut HashSet::default()), None, "{text}");
        }
    }

    #[test]
    fn slices_share_the_text_of_a_zone() {
        let known = &mut HashSet::default();
        let first = zones(&["10.0.0.1 a"], known).expect("zones");
        let second = zones(&["10.0.0.2 A"], known).expect("zones");
        assert!(Arc::ptr_eq(&first.names[0], &second.names[0]));
    }
}
