//! The probes that are out: who sent one waits here to see it come back as a query.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::name::{Name, NameBuf, NameRef};

/// Probes that are out. Mostly none, and then a query costs one load.
#[derive(Debug, Default)]
pub(super) struct Watch {
    out: AtomicUsize,
    /// At most one for each upstream of a block.
    probes: Mutex<Vec<Sighting>>,
}

#[derive(Debug)]
struct Sighting {
    name: Name,
    /// Where it came from, if it has come back.
    client: Option<SocketAddr>,
}

/// A probe that is out. Its name means something only as long as this lives.
pub(super) struct Probe<'w> {
    watch: &'w Watch,
    pub(super) name: Name,
}

impl Watch {
    fn probes(&self) -> MutexGuard<'_, Vec<Sighting>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new probe, its name random and below `zone`; none if `zone` leaves no room for it, or there is no
    /// randomness: a name that others may guess is worse than none (CVE-2026-26018).
    pub(super) fn probe(&self, zone: NameRef<'_>) -> Option<Probe<'_>> {
        let mut octets = [0; 16];
        getrandom::fill(&mut octets).ok()?;
        let label = octets.iter().fold(String::new(), |mut label, octet| {
            write!(label, "{octet:02x}").expect("a string takes it");
            label
        });
        let mut name = NameBuf::new();
        name.push_label(label.as_bytes()).ok()?;
        name.push_name(zone).ok()?;
        let name = name.as_ref().to_lower();
        self.probes().push(Sighting {
            name: name.clone(),
            client: None,
        });
        self.out.fetch_add(1, Ordering::Release);
        Some(Probe { watch: self, name })
    }

    /// Notes that a query for this name came in; whether it is a probe of ours.
    pub(super) fn notice(&self, qname: NameRef<'_>, client: SocketAddr) -> bool {
        if self.out.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut probes = self.probes();
        let Some(sighting) = probes.iter_mut().find(|probe| probe.name.as_ref() == qname) else {
            return false;
        };
        sighting.client = Some(client);
        true
    }
}

impl Probe<'_> {
    /// Where it came back from, if it did.
    pub(super) fn seen_from(&self) -> Option<SocketAddr> {
        let probes = self.watch.probes();
        probes.iter().find(|probe| probe.name == self.name)?.client
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.watch.out.fetch_sub(1, Ordering::Release);
        self.watch.probes().retain(|probe| probe.name != self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::ROOT;

    const CLIENT: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        53,
    );

    #[test]
    fn a_probe_is_noticed_while_it_is_out_and_not_after() {
        let watch = Watch::default();
        let probe = watch.probe(ROOT).unwrap();
        assert_eq!(probe.seen_from(), None);
        let name = probe.name.clone();
        assert!(watch.notice(name.as_ref(), CLIENT));
        assert_eq!(probe.seen_from(), Some(CLIENT));
        drop(probe);
        assert!(!watch.notice(name.as_ref(), CLIENT));
    }

    #[test]
    fn another_name_is_no_probe_and_no_two_probes_are_alike() {
        let watch = Watch::default();
        let zone = Name::from_text("a.org").unwrap();
        let (one, two) = (watch.probe(zone.as_ref()), watch.probe(zone.as_ref()));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one.name, two.name);
        assert_eq!(one.name.as_ref().len(), 1 + 32 + zone.as_ref().len());
        let other = Name::from_text("00000000000000000000000000000000.a.org").unwrap();
        assert!(!watch.notice(other.as_ref(), CLIENT));
        assert!(watch.notice(two.name.as_ref(), CLIENT));
        assert_eq!(one.seen_from(), None);
    }

    #[test]
    fn a_zone_without_room_for_a_probe_gets_none() {
        let zone = Name::from_text(&"a.".repeat(127)).unwrap();
        assert!(Watch::default().probe(zone.as_ref()).is_none());
    }
}
