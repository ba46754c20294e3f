//! Where this server itself can be reached: NS of the zones and the addresses of `ns.dns`.
//!
//! Our own addresses are looked for among the endpoints of the cluster: the Services that lead to us are the name
//! servers. Where none does, `ns.dns` stands for our own addresses.

use std::net::IpAddr;

use crate::chain::exchange::Exchange;
use crate::cluster::table::{ServiceView, Slot, ViewKind};
use crate::plugin::kubernetes::{Asked, Kubernetes};
use crate::plugin::service::Targets;
use crate::wire::code::RecordType;
use crate::wire::name::{Name, NameBuf, NameRef};
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter};

impl Kubernetes {
    /// Names and addresses of the name servers, each pair once.
    pub(super) fn name_servers(&self, zone: NameRef<'_>) -> Vec<(Name, IpAddr)> {
        let mut all = Vec::new();
        let mut found = false;
        for &local in &self.local_addresses {
            self.table().with_owners(local, |slots| {
                for slot in slots {
                    found |= add_servers(slot, &slot.view(), local, zone, &mut all);
                }
            });
        }
        let mut own = NameBuf::new();
        let fits = own.push_label(b"ns").is_ok()
            && own.push_label(b"dns").is_ok()
            && own.push_name(zone).is_ok();
        if !found && fits {
            all.extend(
                self.local_addresses
                    .iter()
                    .map(|&address| (own.as_ref().to_name(), address)),
            );
        }
        let mut distinct: Vec<(Name, IpAddr)> = Vec::new();
        for server in all {
            if !distinct.contains(&server) {
                distinct.push(server);
            }
        }
        distinct
    }

    /// Writes the zone's NS records with the addresses of their targets.
    pub(super) fn write_name_servers(&self, exchange: &mut Exchange<'_>, zone: NameRef<'_>) {
        let servers = self.name_servers(zone);
        let reply = &mut exchange.reply;
        for (index, (name, _)) in servers.iter().enumerate() {
            if !servers[..index].iter().any(|(before, _)| before == name) {
                reply.name_record(Owner::Question, RecordType::NS, self.ttl, name.as_ref());
            }
        }
        if servers.is_empty() {
            return;
        }
        reply.go_to(Section::Additional);
        for (name, address) in &servers {
            reply.address(Owner::Name(name.as_ref()), self.ttl, *address);
        }
    }

    /// Writes the addresses of `ns.dns` in one family.
    pub(super) fn write_name_server_addresses(
        &self,
        asked: &Asked<'_>,
        owner: Owner<'_>,
        zone: NameRef<'_>,
        reply: &mut ReplyWriter<'_>,
    ) {
        let servers = self.name_servers(zone);
        let is_v4 = asked.qtype == RecordType::A;
        for (index, (_, address)) in servers.iter().enumerate() {
            let new = !servers[..index].iter().any(|(_, before)| before == address);
            if new && address.is_ipv4() == is_v4 {
                reply.address(owner, self.ttl, *address);
            }
        }
    }
}

/// Adds what a Service is known by that has us among its endpoints. Whether it has.
fn add_servers(
    slot: &Slot,
    view: &ServiceView,
    local: IpAddr,
    zone: NameRef<'_>,
    all: &mut Vec<(Name, IpAddr)>,
) -> bool {
    let mut slices: Vec<usize> = view.backends_at(local).map(|(slice, ..)| slice).collect();
    if slices.is_empty() {
        return false;
    }
    let Some(targets) = Targets::new(&slot.labels, Some(b"svc"), zone) else {
        return true;
    };
    match &view.kind {
        ViewKind::Absent | ViewKind::ExternalName(_) => {}
        ViewKind::ClusterIp(addresses) => {
            let service = targets.service().to_name();
            all.extend(addresses.iter().map(|&address| (service.clone(), address)));
        }
        ViewKind::Headless => {
            slices.sort_unstable();
            slices.dedup();
            let slices = slices.into_iter().map(|at| &view.slices[at]);
            for backend in slices.flat_map(|slice| slice.backends()) {
                if let Some(target) = targets.endpoint(&backend) {
                    all.push((target.as_ref().to_name(), backend.address));
                }
            }
        }
    }
    true
}

/// Where we can be reached: the addresses that `bind` names, else those of all interfaces that are of use elsewhere.
///
/// CoreDNS loses them altogether where `bind` is used, and then answers its own NS with no data.
pub(super) fn local_addresses(bind: Option<&[IpAddr]>) -> Box<[IpAddr]> {
    let specific = |addresses: &&[IpAddr]| !addresses.iter().any(IpAddr::is_unspecified);
    if let Some(addresses) = bind.filter(specific) {
        return addresses.into();
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(target: "plugin/kubernetes", "interfaces cannot be listed: {error}");
        Vec::new()
    });
    let addresses = interfaces.iter().map(if_addrs::Interface::ip);
    addresses.filter(is_of_use).collect()
}

/// Whether others may be told of an address. CoreDNS tells link-local ones too, which lead nowhere without an interface
/// (RFC 4472, section 2.1).
fn is_of_use(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 114, where CoreDNS has none.
    #[test]
    fn where_bind_names_addresses_they_are_ours() {
        let bound: [IpAddr; 2] = [[127, 0, 0, 1].into(), [192, 0, 2, 1].into()];
        assert_eq!(*local_addresses(Some(&bound)), bound);
        let everywhere = local_addresses(Some(&[[0, 0, 0, 0].into()]));
        assert_eq!(everywhere, local_addresses(None));
        assert!(everywhere.iter().all(is_of_use));
    }

    #[test]
    fn addresses_that_lead_nowhere_from_elsewhere_are_not_told() {
        for (text, expected) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.20.10", false),
            ("fe80::1", false),
            ("10.1.0.53", true),
            ("fd00::53", true),
        ] {
            let address = text.parse().expect("an address");
            assert_eq!(is_of_use(&address), expected, "{text}");
        }
        // Whoever binds one means it.
        let bound: [IpAddr; 1] = [[169, 254, 20, 10].into()];
        assert_eq!(*local_addresses(Some(&bound)), bound);
    }
}
