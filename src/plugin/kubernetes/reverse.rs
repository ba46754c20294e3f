//! PTR: the names of an address.

use std::net::IpAddr;

use crate::cluster::table::{Backend, Slot};
use crate::plugin::kubernetes::Kubernetes;
use crate::plugin::service::{self, dashed};
use crate::wire::code::RecordType;
use crate::wire::name::NameBuf;
use crate::wire::writer::{Owner, ReplyWriter};

impl Kubernetes {
    /// Whether an address has a name.
    pub(super) fn has_pointer(&self, address: IpAddr) -> bool {
        let mut any = false;
        self.for_pointers(address, |_, _| any = true);
        any
    }

    /// Writes a PTR record for each name of an address.
    pub(super) fn write_pointers(&self, address: IpAddr, reply: &mut ReplyWriter<'_>) {
        self.for_targets(address, |target| {
            reply.name_record(Owner::Question, RecordType::PTR, self.ttl, target.as_ref());
        });
    }

    /// Calls `each` for the target of each PTR record of an address.
    pub(super) fn for_targets(&self, address: IpAddr, mut each: impl FnMut(&NameBuf)) {
        self.for_pointers(address, |slot, backend| {
            // A name that would be too long is none.
            if let Some(target) = self.target(slot, backend) {
                each(&target);
            }
        });
    }

    /// Calls `each` for every name of an address: the Service whose own address it is and no other, else each
    /// endpoint that has it.
    fn for_pointers(&self, address: IpAddr, mut each: impl FnMut(&Slot, Option<&Backend<'_>>)) {
        self.table().with_owners(address, |slots| {
            // Mostly one; so few that looking twice is cheaper than remembering.
            let exposed =
                |slot: &&std::sync::Arc<Slot>| self.scope.exposes_pointers(slot.namespace());
            let own = slots
                .iter()
                .filter(exposed)
                .find(|slot| slot.view().has_cluster_ip(address));
            if let Some(slot) = own {
                return each(slot, None);
            }
            for slot in slots.iter().filter(exposed) {
                service::for_names(&slot.view(), address, |backend| each(slot, Some(backend)));
            }
        });
    }

    fn target(&self, slot: &Slot, backend: Option<&Backend<'_>>) -> Option<NameBuf> {
        let mut target = NameBuf::new();
        if let Some(backend) = backend {
            match backend.name {
                Some(name) => target.push_label(name),
                None => target.push_label(dashed::endpoint_label(backend.address).as_bytes()),
            }
            .ok()?;
        }
        let namespace = slot.namespace();
        let service = &slot.labels[..slot.labels.len() - namespace.len()];
        target.push_label(&service[1..]).ok()?;
        target.push_label(&namespace[1..]).ok()?;
        target.push_name(self.service_suffix.as_ref()).ok()?;
        Some(target)
    }
}
