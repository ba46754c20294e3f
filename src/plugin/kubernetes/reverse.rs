//! PTR: the names of an address.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::table::{Backend, Slot};
use crate::plugin::kubernetes::{Finding, Kubernetes};
use crate::plugin::service::{self, dashed};
use crate::wire::code::RecordType;
use crate::wire::name::NameBuf;
use crate::wire::writer::{Owner, ReplyWriter};

impl Kubernetes {
    /// Whether an address has a name, and the Service whose own address it is.
    pub(super) fn find_pointer(&self, address: IpAddr) -> Finding<'static> {
        self.table().with_owners(address, |slots| {
            if let Some(slot) = self.own(slots, address) {
                return Finding::Pointer(address, Some(Arc::clone(slot)));
            }
            let mut any = false;
            self.for_endpoints(slots, address, |_, _| any = true);
            if any {
                Finding::Pointer(address, None)
            } else {
                Finding::NameError
            }
        })
    }

    /// Writes a PTR record for each name of an address.
    pub(super) fn write_pointers(
        &self,
        address: IpAddr,
        own: Option<&Slot>,
        reply: &mut ReplyWriter<'_>,
    ) {
        let mut write = |target: &NameBuf| {
            reply.name_record(Owner::Question, RecordType::PTR, self.ttl, target.as_ref());
        };
        match own {
            Some(slot) => {
                if let Some(target) = self.target(slot, None) {
                    write(&target);
                }
            }
            None => self.for_targets(address, write),
        }
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
            if let Some(slot) = self.own(slots, address) {
                return each(slot, None);
            }
            self.for_endpoints(slots, address, |slot, backend| each(slot, Some(backend)));
        });
    }

    fn exposed<'s>(&self, slots: &'s [Arc<Slot>]) -> impl Iterator<Item = &'s Arc<Slot>> {
        slots
            .iter()
            .filter(|slot| self.scope.exposes_pointers(slot.namespace()))
    }

    /// The Service whose own address it is.
    fn own<'s>(&self, slots: &'s [Arc<Slot>], address: IpAddr) -> Option<&'s Arc<Slot>> {
        // Mostly one; so few that looking twice is cheaper than remembering.
        self.exposed(slots)
            .find(|slot| slot.view().has_cluster_ip(address))
    }

    fn for_endpoints(
        &self,
        slots: &[Arc<Slot>],
        address: IpAddr,
        mut each: impl FnMut(&Slot, &Backend<'_>),
    ) {
        for slot in self.exposed(slots) {
            service::for_names(&slot.view(), address, |backend| each(slot, backend));
        }
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
