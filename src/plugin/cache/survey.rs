//! What kind of reply this is: whether it is kept, as what, and for how long.
//!
//! | reply | kind | lives for |
//! |---|---|---|
//! | NOERROR with what was asked, or with nothing at all | answer | the lowest TTL of all its records, 5 s if it has none |
//! | NXDOMAIN or NODATA with SOA, also at the end of an alias chain | denial | the same, and no longer than SOA MINIMUM |
//! | referral | answer | 5 s |
//! | SERVFAIL, NOTIMP | failure | what `servfail` says |
//! | everything else: other rcodes, NXDOMAIN without SOA or with answers, aliases that lead nowhere | not kept | leaves with 5 s |

use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::name::NameRef;
use crate::wire::query::flag;
use crate::wire::record::{Section, expand_name, name_end};
use crate::wire::{HEADER_LEN, u16_at, u32_at};

/// TTL of replies whose records do not say, in seconds.
const TTL_DEFAULT: u32 = 5;

/// Aliases followed within one reply. A longer chain counts as one that leads nowhere, so that a reply full of aliases
/// costs no more than a few walks.
const CHAIN_LENGTH_MAX: usize = 16;

/// A pointer to the question's name.
const QNAME_POINTER: u16 = 0xc00c;

/// A reply as the cache looks at it.
#[derive(Clone, Copy)]
pub(in crate::plugin::cache) struct View<'m> {
    /// Header, question, records; no OPT. The header's content is not looked at.
    pub(in crate::plugin::cache) octets: &'m [u8],
    /// Where the records start.
    pub(in crate::plugin::cache) question_end: usize,
    /// Records per section.
    pub(in crate::plugin::cache) counts: [u16; 3],
    /// RCODE.
    pub(in crate::plugin::cache) rcode: Rcode,
    /// TC.
    pub(in crate::plugin::cache) truncated: bool,
}

/// One record, without a look at its RDATA.
#[derive(Clone, Copy)]
pub(in crate::plugin::cache) struct Place {
    section: Section,
    start: usize,
    /// Where its TTL stands.
    pub(in crate::plugin::cache) ttl_at: usize,
    end: usize,
    record_type: RecordType,
    class: Class,
}

impl<'m> View<'m> {
    /// Of a whole message, its OPT cut off; none if it is broken or its question is not this one.
    pub(in crate::plugin::cache) fn of_message(message: &'m [u8], question: &[u8]) -> Option<Self> {
        let question_end = HEADER_LEN + question.len();
        if !message
            .get(HEADER_LEN..question_end)?
            .eq_ignore_ascii_case(question)
        {
            return None;
        }
        let mut view = Self {
            octets: message,
            question_end,
            counts: [
                u16_at(message, 6)?,
                u16_at(message, 8)?,
                u16_at(message, 10)?,
            ],
            rcode: Rcode(u16::from(message[3] & 0x0f)),
            truncated: message[2] & flag::TC != 0,
        };
        let last = view.places().last();
        if let Some(opt) = last.filter(|place| place.record_type == RecordType::OPT) {
            view.rcode.0 |= u16::from(message[opt.ttl_at]) << 4;
            view.octets = &message[..opt.start];
            view.counts[2] = view.counts[2].checked_sub(1)?;
        }
        Some(view)
    }

    /// Its records; fewer than it says if it is broken, which no reply is that a plugin of ours wrote or let pass.
    pub(in crate::plugin::cache) fn places(self) -> impl Iterator<Item = Place> + 'm {
        let mut at = self.question_end;
        let mut left = self.counts;
        std::iter::from_fn(move || {
            let index = left.iter().position(|&left| left != 0)?;
            left[index] -= 1;
            let fixed = name_end(self.octets, at)?;
            let length = usize::from(u16_at(self.octets, fixed + 8)?);
            let place = Place {
                section: [Section::Answer, Section::Authority, Section::Additional][index],
                start: at,
                ttl_at: fixed + 4,
                end: fixed + 10 + length,
                record_type: RecordType(u16_at(self.octets, fixed)?),
                class: Class(u16_at(self.octets, fixed + 2)?),
            };
            if place.end > self.octets.len() {
                return None;
            }
            at = place.end;
            Some(place)
        })
    }

    fn ttl(self, place: Place) -> u32 {
        match u32_at(self.octets, place.ttl_at) {
            // RFC 2181, section 8: the top bit means zero.
            Some(ttl) if ttl <= 0x7fff_ffff => ttl,
            _ => 0,
        }
    }
}

/// Gives all records behind the question this TTL.
pub(in crate::plugin::cache) fn set_ttls(
    octets: &mut [u8],
    question_end: usize,
    counts: [u16; 3],
    ttl: u32,
) {
    let mut at = question_end;
    for _ in 0..counts.iter().map(|&count| u32::from(count)).sum() {
        let Some(fixed) = name_end(octets, at) else {
            return;
        };
        let Some(length) = u16_at(octets, fixed + 8) else {
            return;
        };
        octets[fixed + 4..fixed + 8].copy_from_slice(&ttl.to_be_bytes());
        at = fixed + 10 + usize::from(length);
    }
}

/// The question that a reply is to.
#[derive(Clone, Copy)]
pub(in crate::plugin::cache) struct Asked<'q> {
    /// In any letter case.
    pub(in crate::plugin::cache) qname: NameRef<'q>,
    /// QTYPE.
    pub(in crate::plugin::cache) qtype: RecordType,
    /// QCLASS.
    pub(in crate::plugin::cache) qclass: Class,
    /// The client wants DNSSEC records.
    pub(in crate::plugin::cache) dnssec_ok: bool,
}

/// What kind of reply it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) enum Kind {
    /// Holds what was asked.
    Answer,
    /// NOERROR and nothing in the answer section, no SOA either.
    Empty,
    /// Points to other servers.
    Referral,
    /// The name or the type does not exist, and an SOA says so.
    Denial,
    /// The server could not answer.
    Failure,
    /// NXDOMAIN without SOA: nothing says for how long.
    BareDenial,
    /// An alias that leads nowhere, without SOA.
    DeadAlias,
    /// A zone transfer: no business of a cache.
    Transfer,
    /// REFUSED, FORMERR and the like, expired signatures, contradictions.
    Other,
}

impl Kind {
    /// Whether it says that something does not exist, or that nobody knows.
    pub(in crate::plugin::cache) fn is_negative(self) -> bool {
        matches!(self, Self::Denial | Self::BareDenial | Self::Failure)
    }

    /// Whether it is kept at all.
    pub(in crate::plugin::cache) fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Answer | Self::Empty | Self::Referral | Self::Denial | Self::Failure
        )
    }
}

/// What a look at a reply found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::cache) struct Survey {
    /// What kind of reply it is.
    pub(in crate::plugin::cache) kind: Kind,
    /// The lowest TTL of its records where that counts, else 5; not clamped yet.
    pub(in crate::plugin::cache) ttl: u32,
    /// MINIMUM of its SOA.
    pub(in crate::plugin::cache) soa_minimum: Option<u32>,
}

/// Looks at a reply. `now` is seconds since 1970, and asked for only if there are signatures to check.
pub(in crate::plugin::cache) fn survey(
    view: View<'_>,
    asked: Asked<'_>,
    now: impl Fn() -> u32,
) -> Survey {
    let mut found = Found::default();
    for place in view.places() {
        found.note(view, place, asked, &now);
    }
    let kind = found.kind(view, asked);
    let ttl = match kind {
        Kind::Answer | Kind::Empty | Kind::Denial | Kind::BareDenial | Kind::DeadAlias => {
            found.ttl_min.unwrap_or(TTL_DEFAULT)
        }
        Kind::Referral | Kind::Failure | Kind::Transfer | Kind::Other => TTL_DEFAULT,
    };
    Survey {
        kind,
        ttl,
        soa_minimum: found.soa_minimum,
    }
}

#[derive(Default)]
struct Found {
    ttl_min: Option<u32>,
    soa_minimum: Option<u32>,
    has_ns: bool,
    has_alias: bool,
    has_expired: bool,
    /// A record of the type that was asked, where the name that was asked is spelled by pointer.
    answers_plainly: bool,
}

impl Found {
    fn note(&mut self, view: View<'_>, place: Place, asked: Asked<'_>, now: &impl Fn() -> u32) {
        let ttl = view.ttl(place);
        self.ttl_min = Some(self.ttl_min.map_or(ttl, |least| least.min(ttl)));
        match (place.section, place.record_type) {
            (Section::Authority, RecordType::SOA) => {
                self.soa_minimum = u32_at(view.octets, place.end.saturating_sub(4));
            }
            (Section::Authority, RecordType::NS) => self.has_ns = true,
            (Section::Answer, RecordType::CNAME) => self.has_alias = true,
            (Section::Answer, record_type) if record_type == asked.qtype => {
                self.answers_plainly |= u16_at(view.octets, place.start) == Some(QNAME_POINTER)
                    && class_matches(place.class, asked.qclass);
            }
            _ => {}
        }
        if asked.dnssec_ok && place.record_type == RecordType::RRSIG {
            self.has_expired |= is_outside_validity(view.octets, place, now());
        }
    }

    fn kind(&self, view: View<'_>, asked: Asked<'_>) -> Kind {
        let has_answers = view.counts[0] > 0;
        let has_soa = self.soa_minimum.is_some();
        if asked.qtype == RecordType::AXFR || asked.qtype == RecordType::IXFR {
            return Kind::Transfer;
        }
        if self.has_expired {
            return Kind::Other;
        }
        match view.rcode {
            Rcode::NOERROR if has_answers => {
                let answers =
                    (self.answers_plainly && !self.has_alias) || answers_question(view, asked);
                match (answers, has_soa) {
                    (true, _) => Kind::Answer,
                    // RFC 2308, section 2.2: an alias may stand in front of NODATA.
                    (false, true) => Kind::Denial,
                    (false, false) => Kind::DeadAlias,
                }
            }
            Rcode::NOERROR if has_soa => Kind::Denial,
            Rcode::NOERROR if self.has_ns => Kind::Referral,
            Rcode::NOERROR => Kind::Empty,
            Rcode::NXDOMAIN if has_answers => Kind::Other,
            Rcode::NXDOMAIN if has_soa => Kind::Denial,
            Rcode::NXDOMAIN => Kind::BareDenial,
            Rcode::SERVFAIL | Rcode::NOTIMP => Kind::Failure,
            _ => Kind::Other,
        }
    }
}

fn class_matches(class: Class, qclass: Class) -> bool {
    qclass == Class::ANY || class == qclass
}

/// Whether the answer section leads from QNAME to a record of QTYPE. An owner with two different targets
/// (RFC 2181, section 10.1) and a loop (RFC 1034, section 3.6.2) lead nowhere.
fn answers_question(view: View<'_>, asked: Asked<'_>) -> bool {
    let answers = || {
        view.places()
            .take_while(|place| place.section == Section::Answer)
            .filter(|place| class_matches(place.class, asked.qclass))
    };
    let owner_is = |place: &Place, name: NameRef<'_>| {
        expand_name(view.octets, place.start).is_ok_and(|(owner, _)| owner.as_ref() == name)
    };
    let mut name = crate::wire::name::NameBuf::copy_of(asked.qname);
    for _ in 0..CHAIN_LENGTH_MAX {
        let here = name.as_ref();
        let wanted = |place: &Place| {
            (asked.qtype == RecordType::ANY || place.record_type == asked.qtype)
                && owner_is(place, here)
        };
        if asked.qtype == RecordType::ANY {
            return answers().any(|place| wanted(&place));
        }
        let mut target = None;
        for place in answers()
            .filter(|place| place.record_type == RecordType::CNAME)
            .filter(|place| owner_is(place, here))
        {
            let Ok((next, _)) = expand_name(view.octets, place.ttl_at + 6) else {
                return false;
            };
            match &target {
                None => target = Some(next),
                Some(first) if first.as_ref() == next.as_ref() => {}
                Some(_) => return false,
            }
        }
        match target {
            Some(_) if asked.qtype == RecordType::CNAME => return true,
            Some(next) => name = next,
            None => return answers().any(|place| wanted(&place)),
        }
    }
    false
}

/// RFC 4034, section 3.1.5: times are compared as serial numbers.
fn is_outside_validity(octets: &[u8], place: Place, now: u32) -> bool {
    let rdata_at = place.ttl_at + 6;
    let (Some(expiration), Some(inception)) =
        (u32_at(octets, rdata_at + 8), u32_at(octets, rdata_at + 12))
    else {
        return true;
    };
    let is_after = |later: u32, earlier: u32| later.wrapping_sub(earlier) < 0x8000_0000;
    !(is_after(expiration, now) && is_after(now, inception))
}
