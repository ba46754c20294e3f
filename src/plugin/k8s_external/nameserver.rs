//! Where this server can be reached from outside: the name server of the zones.
//!
//! As within the cluster, our own addresses are looked for among its endpoints; of the Services that lead to us the
//! external addresses count. Where no Service leads to us, our own addresses stand for themselves.

use std::net::IpAddr;

use crate::cluster::table::{ExternalTarget, ServiceView, ViewKind};
use crate::plugin::k8s_external::{Asked, External};
use crate::server::lent::LentCluster;
use crate::wire::code::RecordType;
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter};

impl External {
    /// The addresses of the name server, each once.
    pub(super) fn name_server_addresses(&self, cluster: &LentCluster) -> Vec<IpAddr> {
        let mut all = Vec::new();
        let mut found = false;
        for &local in &cluster.local_addresses {
            cluster.scope.table().with_owners(local, |slots| {
                for slot in slots {
                    found |= self.add_addresses(&slot.view(), local, &mut all);
                }
            });
        }
        if !found {
            all.extend_from_slice(&cluster.local_addresses);
        }
        let mut distinct: Vec<IpAddr> = Vec::new();
        for address in all {
            if !distinct.contains(&address) {
                distinct.push(address);
            }
        }
        distinct
    }

    /// Adds where a Service is reached that has us among its endpoints. Whether it has.
    fn add_addresses(&self, view: &ServiceView, local: IpAddr, all: &mut Vec<IpAddr>) -> bool {
        let mut slices: Vec<usize> = view.backends_at(local).map(|(slice, ..)| slice).collect();
        if slices.is_empty() {
            return false;
        }
        if self.headless && view.kind == ViewKind::Headless {
            slices.sort_unstable();
            slices.dedup();
            let slices = slices.into_iter().map(|at| &view.slices[at]);
            all.extend(slices.flat_map(|slice| slice.addresses()));
        } else {
            all.extend(view.external().iter().filter_map(|target| match target {
                ExternalTarget::Address(address) => Some(*address),
                ExternalTarget::Name(_) => None,
            }));
        }
        true
    }

    /// Writes the zone's NS record with the addresses of its target.
    pub(super) fn write_name_server(&self, asked: &Asked<'_>, reply: &mut ReplyWriter<'_>) {
        let origin = Owner::Name(asked.zone.origin.as_ref());
        let server = asked.zone.name_server.as_ref();
        reply.name_record(origin, RecordType::NS, self.ttl, server);
        reply.go_to(Section::Additional);
        for address in self.name_server_addresses(asked.cluster) {
            reply.address(Owner::Name(server), self.ttl, address);
        }
    }

    /// Writes the name server's addresses in one family.
    pub(super) fn write_name_server_addresses(
        &self,
        asked: &Asked<'_>,
        reply: &mut ReplyWriter<'_>,
    ) {
        let is_v4 = asked.qtype == RecordType::A;
        for address in self.name_server_addresses(asked.cluster) {
            if address.is_ipv4() == is_v4 {
                reply.address(Owner::Question, self.ttl, address);
            }
        }
    }
}
