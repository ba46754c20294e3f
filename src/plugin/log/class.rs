//! Classes of replies: success, denial, error.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::chain::exchange::Exchange;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::record::Section;
use crate::wire::u32_at;

/// One class, as a bit of [`Classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin::log) enum Class {
    /// Data, a referral, or an empty reply that denies nothing.
    Success = 1,
    /// No such name, or no such type.
    Denial = 2,
    /// Everything else, silence included.
    Error = 4,
}

/// Some classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin::log) struct Classes(u8);

impl Classes {
    /// Every reply.
    pub(in crate::plugin::log) const ALL: Self = Self(7);

    pub(in crate::plugin::log) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Reads one word of the option; false if it is no class.
    pub(in crate::plugin::log) fn add(&mut self, word: &str) -> bool {
        self.0 |= match word {
            "all" => Self::ALL.0,
            "success" => Class::Success as u8,
            "denial" => Class::Denial as u8,
            "error" => Class::Error as u8,
            _ => return false,
        };
        true
    }

    /// Whether the reply is of one of these classes.
    pub(in crate::plugin::log) fn hold(self, exchange: &Exchange<'_>) -> bool {
        self == Self::ALL || self.0 & class_of(exchange) as u8 != 0
    }
}

/// The class of the reply so far.
pub(in crate::plugin::log) fn class_of(exchange: &Exchange<'_>) -> Class {
    let (qtype, reply) = (exchange.qtype(), &exchange.reply);
    let is_transfer = matches!(qtype, RecordType::AXFR | RecordType::IXFR);
    if exchange.state.dropped || is_transfer || has_stale_signature(exchange) {
        return Class::Error;
    }
    let has_answer = reply.count(Section::Answer) > 0;
    match reply.rcode {
        Rcode::NOERROR if has_answer => Class::Success,
        Rcode::NOERROR if has_soa(exchange) => Class::Denial,
        Rcode::NOERROR => Class::Success,
        Rcode::NXDOMAIN if !has_answer => Class::Denial,
        _ => Class::Error,
    }
}

impl Class {
    /// As the option spells it.
    pub(in crate::plugin::log) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denial => "denial",
            Self::Error => "error",
        }
    }
}

/// CoreDNS' word for the kind of the reply so far, finer than its class.
pub(in crate::plugin::log) fn type_of(exchange: &Exchange<'_>) -> &'static str {
    let (class, reply) = (class_of(exchange), &exchange.reply);
    let is_referral = || {
        reply.records().flatten().any(|(section, record)| {
            section == Section::Authority && record.record_type == RecordType::NS
        })
    };
    match (class, reply.rcode) {
        (Class::Success, _) if reply.count(Section::Answer) == 0 && is_referral() => "DELEGATION",
        (Class::Success, _) => "NOERROR",
        (Class::Denial, Rcode::NXDOMAIN) => "NXDOMAIN",
        (Class::Denial, _) => "NODATA",
        _ if matches!(exchange.qtype(), RecordType::AXFR | RecordType::IXFR) => "META",
        (_, Rcode::SERVFAIL | Rcode::NOTIMP) if !exchange.state.dropped => "SERVERERROR",
        _ => "OTHERERROR",
    }
}

fn has_soa(exchange: &Exchange<'_>) -> bool {
    exchange.reply.records().flatten().any(|(section, record)| {
        section == Section::Authority && record.record_type == RecordType::SOA
    })
}

/// Whether a client that asked for DNSSEC gets a signature that is not valid now (RFC 4034, section 3.1.5).
fn has_stale_signature(exchange: &Exchange<'_>) -> bool {
    if !exchange.query.dnssec_ok() {
        return false;
    }
    let mut now = None;
    exchange.reply.records().flatten().any(|(_, record)| {
        if record.record_type != RecordType::RRSIG {
            return false;
        }
        let rdata = record.rdata();
        let (Some(expiration), Some(inception)) = (u32_at(rdata, 8), u32_at(rdata, 12)) else {
            return true;
        };
        let now = *now.get_or_insert_with(seconds_now);
        // Serial number arithmetic (RFC 1982).
        let is_before = |a: u32, b: u32| b.wrapping_sub(a) as i32 > 0;
        is_before(now, inception) || is_before(expiration, now)
    })
}

/// Seconds since 1970, cut to 32 bits as signatures write them.
fn seconds_now() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs() as u32
}
