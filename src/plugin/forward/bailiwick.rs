//! Which records of a reply belong to it: what an upstream says about other names is nobody's answer.
//!
//! ANSWER holds the aliases that lead from QNAME to the final name, and what was asked of that one. AUTHORITY holds
//! what a denial or a referral needs, ADDITIONAL the addresses of hosts that the records before it name. The rest is
//! cut off, so that neither a client nor a cache can take it for something it has asked (MaginotDNS and its kin).
//!
//! Records that are not ours stand mostly behind those that are: then the message ends earlier. Only where one stands
//! in between, the message has to be written anew (`reply.rs`).

use crate::plugin::forward::request::Asked;
use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::name::{NameBuf, NameRef};
use crate::wire::record::{RecordRef, Records, Section};
use crate::wire::{HEADER_LEN, u16_at};

/// Aliases in a row. Nobody who means well has as many.
const ALIASES_MAX: usize = 16;

/// Hosts whose addresses may stand in ADDITIONAL.
const HOSTS_MAX: usize = 32;

/// What is to be done with a message whose records are whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// All records belong to it.
    Clean,
    /// Those up to here do, so many a section.
    Prefix { end: usize, counts: [u16; 3] },
    /// Some of those in between do not.
    Mixed,
}

/// What belongs to the reply to one question. Records have to be shown to it in their order.
pub(super) struct Bailiwick<'q> {
    qname: NameRef<'q>,
    qtype: RecordType,
    qclass: Class,
    dnssec_ok: bool,
    is_error: bool,
    /// The names after QNAME, each the target of the one before.
    aliases: Vec<NameBuf>,
    /// A record that was asked has been seen.
    answered: bool,
    /// Hosts that records name, and for those of name servers the zone that they have to be in.
    hosts: Vec<(NameBuf, Option<NameBuf>)>,
}

/// The aliases lead in a circle, or nowhere in so many steps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Circular;

impl<'q> Bailiwick<'q> {
    /// Follows the aliases of `message`, whose question and records were checked.
    pub(super) fn of(message: &[u8], asked: &'q Asked, rcode: Rcode) -> Result<Self, Circular> {
        let question = asked.question();
        let [type_high, type_low, class_high, class_low] = *asked.type_and_class();
        let mut this = Self {
            qname: NameRef::from_wire(question).expect("a question begins with a name"),
            qtype: RecordType(u16::from_be_bytes([type_high, type_low])),
            qclass: Class(u16::from_be_bytes([class_high, class_low])),
            dnssec_ok: asked.is_dnssec_ok(),
            is_error: rcode != Rcode::NOERROR,
            aliases: Vec::new(),
            answered: false,
            hosts: Vec::new(),
        };
        if !matches!(this.qtype, RecordType::CNAME | RecordType::ANY) {
            while let Some(target) = this.next_alias(message) {
                let is_known = this.names().any(|name| name == target.as_ref());
                if is_known || this.aliases.len() == ALIASES_MAX {
                    return Err(Circular);
                }
                this.aliases.push(target);
            }
        }
        Ok(this)
    }

    /// What is to be done with `message`.
    pub(super) fn find(&mut self, message: &[u8]) -> Finding {
        let mut counts = [0; 3];
        // Where the first foreign record starts.
        let mut end = None;
        for (section, record) in records(message) {
            if record.record_type == RecordType::OPT {
                continue;
            }
            match (self.has(section, &record), end) {
                (true, None) => counts[section as usize] += 1,
                (true, Some(_)) => return Finding::Mixed,
                (false, None) => end = Some(record.start),
                (false, Some(_)) => {}
            }
        }
        end.map_or(Finding::Clean, |end| Finding::Prefix { end, counts })
    }

    /// Forgets which records it was shown.
    pub(super) fn start_again(&mut self) {
        self.answered = false;
        self.hosts.clear();
    }

    /// Whether the next record belongs to the reply.
    pub(super) fn has(&mut self, section: Section, record: &RecordRef<'_>) -> bool {
        if record.class != self.qclass && self.qclass != Class::ANY {
            return false;
        }
        let owner = record.owner();
        match section {
            Section::Answer => self.has_answer(owner.as_ref(), record),
            Section::Authority => self.has_authority(owner.as_ref(), record),
            Section::Additional => self.has_additional(owner.as_ref(), record),
        }
    }

    fn has_answer(&mut self, owner: NameRef<'_>, record: &RecordRef<'_>) -> bool {
        let is_final = owner == self.final_name();
        let is_asked = |record_type| record_type == self.qtype || is_many(self.qtype);
        if is_final && is_asked(record.record_type) {
            self.answered = true;
            self.note_host(record);
            return true;
        }
        match record.record_type {
            RecordType::CNAME => record
                .rdata_name()
                .is_ok_and(|target| self.is_link(owner, target.as_ref())),
            RecordType::DNAME => self.is_above_some(owner),
            RecordType::RRSIG => match covered(record) {
                Some(RecordType::CNAME) if !is_final => self.names().any(|name| name == owner),
                Some(RecordType::DNAME) if self.is_above_some(owner) => true,
                Some(covered) => is_final && is_asked(covered),
                None => false,
            },
            _ => false,
        }
    }

    fn has_authority(&mut self, owner: NameRef<'_>, record: &RecordRef<'_>) -> bool {
        let is_above = self.final_name().is_at_or_below(owner);
        match record.record_type {
            // Nothing follows from these without their signatures, and who checks those asks for them.
            RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG => self.dnssec_ok,
            RecordType::DS => self.dnssec_ok && !self.answered && is_above,
            RecordType::SOA => !self.answered && is_above,
            RecordType::NS if !self.answered && !self.is_error && is_above => {
                self.note_name_server(owner, record);
                true
            }
            _ => false,
        }
    }

    fn has_additional(&self, owner: NameRef<'_>, record: &RecordRef<'_>) -> bool {
        let is_address = |record_type| matches!(record_type, RecordType::A | RecordType::AAAA);
        let is_wanted = match record.record_type {
            RecordType::RRSIG => self.dnssec_ok && covered(record).is_some_and(is_address),
            record_type => is_address(record_type),
        };
        let is_within = |zone: &NameBuf| owner.is_at_or_below(zone.as_ref());
        is_wanted
            && self
                .hosts
                .iter()
                .any(|(host, zone)| host.as_ref() == owner && zone.as_ref().is_none_or(is_within))
    }

    /// Remembers the host that an answer names (RFC 2782; RFC 1035, section 3.3.9; RFC 9460, section 4.1).
    fn note_host(&mut self, record: &RecordRef<'_>) {
        let offset = match record.record_type {
            RecordType::NS => 0,
            RecordType::MX | RecordType::SVCB | RecordType::HTTPS => 2,
            RecordType::SRV => 6,
            _ => return,
        };
        if let Ok((host, _)) = record.name_at(offset)
            && self.hosts.len() < HOSTS_MAX
        {
            // A service binding that names the root means its owner.
            let is_owner = host.as_ref().is_root();
            let host = if is_owner { record.owner() } else { host };
            self.hosts.push((host, None));
        }
    }

    /// Remembers the name server of a referral; only one within the zone needs glue.
    fn note_name_server(&mut self, zone: NameRef<'_>, record: &RecordRef<'_>) {
        if let Ok(host) = record.rdata_name()
            && self.hosts.len() < HOSTS_MAX
        {
            self.hosts.push((host, Some(NameBuf::copy_of(zone))));
        }
    }

    /// QNAME and the aliases.
    fn names(&self) -> impl Iterator<Item = NameRef<'_>> {
        std::iter::once(self.qname).chain(self.aliases.iter().map(NameBuf::as_ref))
    }

    fn final_name(&self) -> NameRef<'_> {
        self.aliases.last().map_or(self.qname, NameBuf::as_ref)
    }

    /// Whether the aliases lead from `owner` to `target` at once.
    fn is_link(&self, owner: NameRef<'_>, target: NameRef<'_>) -> bool {
        self.names()
            .zip(self.aliases.iter())
            .any(|(name, next)| name == owner && next.as_ref() == target)
    }

    fn is_above_some(&self, owner: NameRef<'_>) -> bool {
        self.names()
            .any(|name| name.is_at_or_below(owner) && name.len() != owner.len())
    }

    /// Where ANSWER says that the last name leads.
    fn next_alias(&self, message: &[u8]) -> Option<NameBuf> {
        let name = self.final_name();
        let mut redirect = None;
        for (section, record) in records(message) {
            if section != Section::Answer {
                break;
            }
            match record.record_type {
                RecordType::CNAME if record.owner().as_ref() == name => {
                    return record.rdata_name().ok();
                }
                RecordType::DNAME if redirect.is_none() => redirect = substitute(name, &record),
                _ => {}
            }
        }
        redirect
    }
}

/// The name that a DNAME makes of one below its owner (RFC 6672, section 2.2); none if there is none, or if it would be
/// too long.
fn substitute(name: NameRef<'_>, record: &RecordRef<'_>) -> Option<NameBuf> {
    let labels = name.prefix_len(record.owner().as_ref())?;
    let target = record.rdata_name().ok()?;
    if labels == 0 {
        return None;
    }
    let mut octets = name.as_wire()[..labels].to_vec();
    octets.extend_from_slice(target.as_ref().as_wire());
    let name = NameRef::from_wire(&octets).ok()?;
    Some(NameBuf::copy_of(name))
}

fn records(message: &[u8]) -> impl Iterator<Item = (Section, RecordRef<'_>)> {
    debug_assert!(message.len() > HEADER_LEN, "the message was checked");
    Records::of_message(message).into_iter().flatten().flatten()
}

/// Whether a question asks for more than one type (RFC 1035, section 3.2.3).
fn is_many(qtype: RecordType) -> bool {
    matches!(
        qtype,
        RecordType::ANY | RecordType::MAILA | RecordType::MAILB
    )
}

/// The type that a signature is for (RFC 4034, section 3.1.1).
fn covered(record: &RecordRef<'_>) -> Option<RecordType> {
    u16_at(record.rdata(), 0).map(RecordType)
}

#[cfg(test)]
mod tests;
