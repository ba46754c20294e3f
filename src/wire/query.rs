//! A checked view of one received query.
//!
//! Malformed queries end here, in one place: every later stage may rely on one question with an uncompressed name,
//! no answers, and at most one well-formed OPT. What each fault gets is fixed by `shared/hostile/expected.tsv`.

use crate::wire::code::{Class, Opcode, Rcode, RecordType};
use crate::wire::edns::{Edns, options_are_whole};
use crate::wire::name::NameRef;
use crate::wire::record::{RecordRef, skip_record};
use crate::wire::{HEADER_LEN, u16_at};

/// Bit masks of the third and fourth header octets.
pub mod flag {
    /// Third octet: this is a reply.
    pub const QR: u8 = 0x80;
    /// Third octet: authoritative.
    pub const AA: u8 = 0x04;
    /// Third octet: truncated.
    pub const TC: u8 = 0x02;
    /// Third octet: recursion desired.
    pub const RD: u8 = 0x01;
    /// Fourth octet: recursion available.
    pub const RA: u8 = 0x80;
    /// Fourth octet: authentic data (RFC 4035).
    pub const AD: u8 = 0x20;
    /// Fourth octet: checking disabled (RFC 4035).
    pub const CD: u8 = 0x10;
}

/// Why a message is not passed on, and what its sender gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Silence: no header, or itself a reply.
    Drop,
    /// A bare header with this rcode, ID, opcode and RD copied. No larger than any query, so nothing can be amplified.
    Reject(Rcode),
}

/// One received query, checked.
#[derive(Clone, Copy, Debug)]
pub struct Query<'m> {
    message: &'m [u8],
    qname: NameRef<'m>,
    question_end: usize,
    edns: Option<Edns<'m>>,
    signed: bool,
}

impl<'m> Query<'m> {
    /// Checks a message. Trailing octets behind the last record are ignored, as CoreDNS, NSD and Unbound do.
    pub fn parse(message: &'m [u8]) -> Result<Self, Malformed> {
        const FORMERR: Malformed = Malformed::Reject(Rcode::FORMERR);
        if message.len() < HEADER_LEN || message[2] & flag::QR != 0 {
            return Err(Malformed::Drop);
        }
        let opcode = Opcode(message[2] >> 3 & 0x0f);
        if opcode != Opcode::QUERY && opcode != Opcode::NOTIFY {
            return Err(Malformed::Reject(Rcode::NOTIMP));
        }
        let count = |at| u16_at(message, at).unwrap_or(0);
        let (questions, answers, authorities, additionals) =
            (count(4), count(6), count(8), count(10));
        // RFC 9619: exactly one question.
        if questions != 1 || additionals > 2 {
            return Err(FORMERR);
        }
        // A pointer cannot be right here: nothing but the header stands before the first name.
        let qname = NameRef::from_wire(&message[HEADER_LEN..]).map_err(|_| FORMERR)?;
        let question_end = HEADER_LEN + qname.len() + 4;
        if message.len() < question_end {
            return Err(FORMERR);
        }
        let mut query = Self {
            message,
            qname,
            question_end,
            edns: None,
            signed: false,
        };
        // RFC 1995, section 3: an IXFR query carries the client's SOA. RFC 1996: NOTIFY may carry the new one.
        let authorities_max = u16::from(query.qtype() == RecordType::IXFR);
        if opcode == Opcode::QUERY && (answers != 0 || authorities > authorities_max) {
            return Err(FORMERR);
        }
        let mut at = question_end;
        for _ in 0..u32::from(answers) + u32::from(authorities) {
            at = skip_record(message, at).map_err(|_| FORMERR)?.end;
        }
        for left in (0..additionals).rev() {
            let record = skip_record(message, at).map_err(|_| FORMERR)?;
            query
                .note_additional(&record, left == 0)
                .map_err(|()| FORMERR)?;
            at = record.end;
        }
        if opcode == Opcode::NOTIFY {
            // Nothing here is a secondary, so no zone's change can concern us (RFC 1996, section 3.11).
            return Err(Malformed::Reject(Rcode::NOTAUTH));
        }
        Ok(query)
    }

    fn note_additional(&mut self, record: &RecordRef<'m>, last: bool) -> Result<(), ()> {
        match record.record_type {
            RecordType::OPT => {
                // RFC 6891, sections 6.1.1 and 6.1.2: one OPT, owned by the root.
                if self.edns.is_some()
                    || self.message[record.start] != 0
                    || !options_are_whole(record.rdata())
                {
                    return Err(());
                }
                let [_, version, flags, _] = record.ttl.to_be_bytes();
                self.edns = Some(Edns {
                    payload_size: record.class.0,
                    version,
                    dnssec_ok: flags & 0x80 != 0,
                    options: record.rdata(),
                });
            }
            RecordType::TSIG => {
                // RFC 8945, section 5.1: the last record, and only one.
                if !last || !tsig_is_whole(record) {
                    return Err(());
                }
                self.signed = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The whole message as received, trailing octets included.
    pub fn message(&self) -> &'m [u8] {
        self.message
    }

    /// ID.
    pub fn id(&self) -> u16 {
        u16_at(self.message, 0).expect("a checked query has a header")
    }

    /// Recursion desired.
    pub fn recursion_desired(&self) -> bool {
        self.message[2] & flag::RD != 0
    }

    /// Checking disabled (RFC 4035, section 3.2.2).
    pub fn checking_disabled(&self) -> bool {
        self.message[3] & flag::CD != 0
    }

    /// AD in a query: the client understands AD in the reply (RFC 6840, section 5.7).
    pub fn authentic_data(&self) -> bool {
        self.message[3] & flag::AD != 0
    }

    /// The name that was asked, in its own spelling.
    pub fn qname(&self) -> NameRef<'m> {
        self.qname
    }

    /// QTYPE.
    pub fn qtype(&self) -> RecordType {
        RecordType(u16_at(self.message, self.question_end - 4).expect("checked by parse"))
    }

    /// QCLASS.
    pub fn qclass(&self) -> Class {
        Class(u16_at(self.message, self.question_end - 2).expect("checked by parse"))
    }

    /// The question section as received.
    pub fn question_octets(&self) -> &'m [u8] {
        &self.message[HEADER_LEN..self.question_end]
    }

    /// The OPT, if there is one.
    pub fn edns(&self) -> Option<&Edns<'m>> {
        self.edns.as_ref()
    }

    /// The client wants DNSSEC records.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Carries a TSIG; nothing has verified it.
    pub fn is_signed(&self) -> bool {
        self.signed
    }
}

/// Writes the bare header that answers a malformed message. `message` holds at least a header.
pub fn write_rejection(message: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&message[..2]);
    // Opcode and RD are copied, everything else is clear (RFC 8906, section 3.1.4).
    out.push(flag::QR | message[2] & 0x79);
    out.push(u8::try_from(rcode.0 & 0x0f).expect("four bits fit"));
    out.extend_from_slice(&[0; 8]);
}

/// TSIG RDATA: algorithm name, time (6), fudge (2), MAC size (2), MAC, ID (2), error (2), other length (2), other
/// (RFC 8945, section 4.2).
fn tsig_is_whole(record: &RecordRef<'_>) -> bool {
    let rdata = record.rdata();
    let Ok(algorithm) = NameRef::from_wire(rdata) else {
        return false;
    };
    let mac_size_at = algorithm.len() + 8;
    let Some(mac_size) = u16_at(rdata, mac_size_at) else {
        return false;
    };
    let other_size_at = mac_size_at + 2 + usize::from(mac_size) + 4;
    let Some(other_size) = u16_at(rdata, other_size_at) else {
        return false;
    };
    rdata.len() == other_size_at + 2 + usize::from(other_size)
}
