//! ExternalName: an alias chain, within the zone from the table, out of it by asking the whole server.
//!
//! A chain that ends in nothing is not shown: the name has no data. One that leads out of the zone is shown even where
//! the other side denies its target, since its owner exists.

use crate::chain::exchange::{Exchange, Resolution};
use crate::chain::plugin::{Step, Verdict};
use crate::cluster::table::{Alias, ViewKind};
use crate::plugin::kubernetes::answer::Soa;
use crate::plugin::kubernetes::{Asked, Finding, Kubernetes};
use crate::plugin::service::{self, target};
use crate::wire::code::RecordType;
use crate::wire::edns::ExtendedError;
use crate::wire::name::{Name, NameBuf, NameRef};
use crate::wire::record::Section;
use crate::wire::writer::{Owner, ReplyWriter};

/// CNAME records that one chain may have.
const CHAIN_MAX: usize = 11;

impl Kubernetes {
    /// Follows an alias from QNAME.
    pub(super) fn follow(
        &self,
        exchange: &mut Exchange<'_>,
        asked: &Asked<'_>,
        zone: NameRef<'_>,
        first: Name,
    ) -> Step {
        let mut chain = Chain {
            targets: Vec::new(),
            ttl: self.ttl,
            extended_error: exchange.state.extended_error.clone(),
        };
        let mut target = first;
        loop {
            if !chain.may_add(exchange.query.qname(), &target) {
                return self.dead_end(exchange, asked);
            }
            chain.targets.push(target);
            let target_name = chain.targets.last().expect("one was added").as_ref();
            let Some(split) = target_name.prefix_len(zone) else {
                return self.ask(exchange, asked, chain);
            };
            let lower = NameBuf::lower_of(target_name);
            let next = Asked {
                name: lower.as_ref(),
                split,
                ..*asked
            };
            match self.find(&next) {
                Finding::Service(_, view) if matches!(view.kind, ViewKind::ExternalName(_)) => {
                    let ViewKind::ExternalName(Alias::Name(further)) = &view.kind else {
                        return self.dead_end(exchange, asked);
                    };
                    target = further.clone();
                }
                found => {
                    chain.write(&mut exchange.reply);
                    let aliases = exchange.reply.count(Section::Answer);
                    self.write_target(&next, found, target_name, zone, exchange);
                    if exchange.reply.count(Section::Answer) == aliases {
                        return self.dead_end(exchange, asked);
                    }
                    return Step::Answered;
                }
            }
        }
    }

    /// Writes the addresses at the end of a chain within the zone.
    fn write_target(
        &self,
        asked: &Asked<'_>,
        found: Finding<'_>,
        owner: NameRef<'_>,
        zone: NameRef<'_>,
        exchange: &mut Exchange<'_>,
    ) {
        let room = exchange.room();
        let reply = &mut exchange.reply;
        let owner = Owner::Name(owner);
        match found {
            Finding::Service(place, view) => {
                let (part, qtype) = (place.part, asked.qtype);
                service::write_addresses(&view, part, qtype, owner, self.ttl, room, reply);
            }
            Finding::Pod { address, .. } if address.is_ipv4() == (asked.qtype == RecordType::A) => {
                reply.address(owner, self.ttl, address);
            }
            Finding::NameServerAddresses => {
                self.write_name_server_addresses(asked, owner, zone, reply)
            }
            _ => {}
        }
    }

    fn dead_end(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>) -> Step {
        exchange.reply.reset();
        exchange.reply.authoritative = true;
        // The Service that the chain leads to may not be listed yet.
        self.no_records(exchange, asked)
    }

    /// Asks the whole server for the end of the chain.
    fn ask(&self, exchange: &mut Exchange<'_>, asked: &Asked<'_>, chain: Chain) -> Step {
        let target = chain
            .targets
            .last()
            .expect("a chain has at least one target")
            .as_ref();
        let resolution = exchange.resolve(target, asked.qtype);
        let soa = self.soa(asked);
        match resolution {
            Resolution::Ready(reply) => {
                chain.finish(reply.as_deref(), soa, &mut exchange.reply);
                Step::Answered
            }
            Resolution::Waiting(reply) => {
                let message: Box<[u8]> = exchange.query.message().into();
                Step::Defer(Box::pin(async move {
                    chain.verdict(&message, reply.await.as_deref(), soa)
                }))
            }
        }
    }
}

/// The targets of the aliases so far; the first one's owner is QNAME, each other's the target before it.
struct Chain {
    targets: Vec<Name>,
    ttl: u32,
    /// What there is to tell about the chain, whatever is told about its end.
    extended_error: Option<ExtendedError>,
}

impl Chain {
    /// Whether an alias to `target` leads on: the chain is not too long, and nothing comes back to where it was.
    fn may_add(&self, qname: NameRef<'_>, target: &Name) -> bool {
        let owner = self.targets.last().map_or(qname, Name::as_ref);
        let target = target.as_ref();
        self.targets.len() < CHAIN_MAX
            && !target.is_at_or_below(owner)
            && !self.targets.iter().any(|before| before.as_ref() == target)
    }

    fn write(&self, reply: &mut ReplyWriter<'_>) {
        let mut owner = Owner::Question;
        for target in &self.targets {
            reply.name_record(owner, RecordType::CNAME, self.ttl, target.as_ref());
            owner = Owner::Name(target.as_ref());
        }
    }

    /// Writes the chain and what the server said about its end; without any reply, the name has no data.
    fn finish(&self, said: Option<&[u8]>, soa: Soa, reply: &mut ReplyWriter<'_>) {
        reply.authoritative = true;
        let Some(message) = said else {
            reply.go_to(Section::Authority);
            return soa.write(reply);
        };
        self.write(reply);
        target::copy_answer(message, reply);
    }

    /// The same as a whole message, for a query that waited.
    fn verdict(&self, query: &[u8], said: Option<&[u8]>, soa: Soa) -> Verdict {
        target::late_reply(query, self.extended_error.clone(), |reply| {
            self.finish(said, soa, reply)
        })
    }
}
