//! Where a Pod's resolver looks for names, for `autopath @kubernetes`.
//!
//! A resolver in a Pod of the namespace `shop` tries `shop.svc.ZONE`, `svc.ZONE`, `ZONE`, and what its node's
//! resolv.conf names. Which namespace the client is in follows from its address. Where that is not certain (a node's
//! address, or one that Pods of two namespaces have) there is no path: an answer from another namespace's would be
//! believed.

use crate::chain::exchange::Exchange;
use crate::chain::search::SearchPath;
use crate::plugin::kubernetes::{Kubernetes, PodMode};

impl Kubernetes {
    /// The path of the Pod that asks, if QNAME lies below its first element.
    pub(super) fn path_of_client(&self, exchange: &Exchange<'_>) -> Option<SearchPath<'_>> {
        if self.pods != PodMode::Verified {
            return None;
        }
        let qname = exchange.qname();
        let asked = self.asked(qname, exchange.qtype())?;
        let left = &qname.as_wire()[..asked.split];
        // The last two labels left of the zone, `NAMESPACE.svc`, and something before them.
        let (mut base, mut svc, mut at) = (0, 0, 0);
        while at < left.len() {
            (base, svc) = (svc, at);
            at += 1 + usize::from(left[at]);
        }
        if base == 0 || left[svc..] != *b"\x03svc" {
            return None;
        }
        let client = exchange.arrival().client.ip();
        self.scope
            .table()
            .is_pod_of(client, &left[base..svc])
            .then_some(SearchPath {
                base,
                within: Some([svc, asked.split]),
                others: &self.search,
            })
    }
}
