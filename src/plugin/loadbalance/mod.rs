//! `loadbalance`: gives every client another order of addresses.

mod config;
mod shuffle;
mod weights;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ipnet::IpNet;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::loadbalance::shuffle::{Run, Runs};
use crate::plugin::loadbalance::weights::Weights;
use crate::plugin::random::random_below;
use crate::wire::HEADER_LEN;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::NameBuf;
use crate::wire::record::expand_name;

/// What is known about `loadbalance`.
pub static SPEC: Spec = Spec {
    name: "loadbalance",
    summary: "gives every client another order of addresses",
    options: config::OPTIONS,
    parse: config::parse,
};

pub(in crate::plugin::loadbalance) struct LoadBalance {
    policy: Policy,
}

pub(in crate::plugin::loadbalance) enum Policy {
    /// Any order, but addresses in these networks first.
    Shuffle(Box<[IpNet]>),
    /// One address to the front, by weight.
    Weighted(Arc<Weights>),
}

impl Plugin for LoadBalance {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        // What is put first may be any of the records, so none may be left out before.
        exchange.state.all_records |= match &self.policy {
            Policy::Shuffle(networks) => !networks.is_empty(),
            Policy::Weighted(_) => true,
        };
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        let counts = exchange.reply.counts();
        let qtype = exchange.qtype();
        if exchange.reply.rcode != Rcode::NOERROR
            || counts.iter().all(|&count| count < 2)
            || qtype == RecordType::AXFR
            || qtype == RecordType::IXFR
        {
            return After::Done;
        }
        let mut at = HEADER_LEN + exchange.query.question_octets().len();
        let octets = exchange.reply.octets_mut();
        for count in counts {
            let mut runs = Runs::new(at, count);
            while let Some(run) = runs.next(octets) {
                self.policy.apply(run, octets, qtype);
            }
            at = runs.position();
        }
        After::Done
    }
}

impl Policy {
    fn apply(&self, run: Run, octets: &mut [u8], qtype: RecordType) {
        match self {
            Self::Shuffle(networks) => {
                run.shuffle(octets);
                let mut from = 0;
                for network in networks {
                    from = run.prefer(octets, from, |address| network.contains(&address));
                }
            }
            Self::Weighted(weights) => {
                let is_weighed =
                    matches!(qtype, RecordType::A | RecordType::AAAA | RecordType::SRV);
                if let (true, Ok((owner, _))) = (is_weighed, expand_name(octets, run.start)) {
                    let owner = NameBuf::lower_of(owner.as_ref());
                    let front = weights.with(owner.as_ref(), |known| {
                        let weight = |index| {
                            let address = run.address(octets, index);
                            let known = known.iter().find(|&&(known, _)| Some(known) == address);
                            known.map_or(1, |&(_, weight)| usize::from(weight))
                        };
                        pick(run.count, weight)
                    });
                    run.swap(octets, 0, front);
                }
            }
        }
    }
}

/// One of `count`, each as likely as its weight says.
fn pick(count: usize, weight: impl Fn(usize) -> usize) -> usize {
    let sum: usize = (0..count).map(&weight).sum();
    let mut left = random_below(sum.max(1));
    (0..count)
        .find(|&index| {
            let weight = weight(index);
            let is_here = left < weight;
            left = left.saturating_sub(weight);
            is_here
        })
        .unwrap_or(0)
}
