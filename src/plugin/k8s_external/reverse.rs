//! PTR: the Services that have an external address.

use std::net::IpAddr;

use crate::cluster::scope::Scope;
use crate::cluster::table::Slot;
use crate::plugin::k8s_external::External;
use crate::plugin::service::Targets;
use crate::wire::code::RecordType;
use crate::wire::name::NameRef;
use crate::wire::writer::{Owner, ReplyWriter};

impl External {
    /// Whether an address has a name.
    pub(super) fn has_pointer(&self, scope: &Scope, address: IpAddr) -> bool {
        let mut any = false;
        for_owners(scope, address, |_| any = true);
        any
    }

    /// Writes a PTR record for each Service with this address.
    pub(super) fn write_pointers(
        &self,
        scope: &Scope,
        address: IpAddr,
        reply: &mut ReplyWriter<'_>,
    ) {
        self.for_targets(scope, address, |target| {
            reply.name_record(Owner::Question, RecordType::PTR, self.ttl, target);
        });
    }

    /// Calls `each` for the target of each PTR record of an address.
    pub(super) fn for_targets(
        &self,
        scope: &Scope,
        address: IpAddr,
        mut each: impl FnMut(NameRef<'_>),
    ) {
        for_owners(scope, address, |slot| {
            // A name that would be too long is none.
            if let Some(target) = Targets::new(&slot.labels, None, self.pointer_zone.as_ref()) {
                each(target.service());
            }
        });
    }
}

fn for_owners(scope: &Scope, address: IpAddr, mut each: impl FnMut(&Slot)) {
    scope.table().with_external_owners(address, |slots| {
        let exposed = |slot: &&std::sync::Arc<Slot>| scope.exposes_pointers(slot.namespace());
        slots.iter().filter(exposed).for_each(|slot| each(slot));
    });
}
