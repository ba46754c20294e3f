//! Whether octets from an upstream answer the question that was asked, and what of them is passed on.
//!
//! A reply that fails here is as if it had never come: the wait goes on, so whoever forges one gains nothing by being
//! first (the TuDoor family of attacks). Records are walked, not decoded; a clean reply is copied once and stays as
//! it is, only that its OPT, which was meant for us, is taken off. Records that do not belong to it go as well
//! (`bailiwick.rs`).

use crate::plugin::forward::bailiwick::{Bailiwick, Finding};
use crate::plugin::forward::pointers::Pointers;
use crate::plugin::forward::private;
use crate::plugin::forward::request::Asked;
use crate::wire::code::{Opcode, Rcode, RecordType};
use crate::wire::edns::{Edns, ExtendedError, option_code, options_are_whole};
use crate::wire::query::{Query, flag};
use crate::wire::record::{RecordRef, Records, Section, name_offset};
use crate::wire::writer::ReplyWriter;
use crate::wire::{HEADER_LEN, MESSAGE_MAX, u16_at};

/// A reply that was checked.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Header, question and records, no OPT.
    pub(super) message: Vec<u8>,
    /// With the upper bits of the OPT.
    pub(super) rcode: Rcode,
    /// TC.
    pub(super) truncated: bool,
    /// What the upstream said about a failure.
    pub(super) extended_error: Option<ExtendedError>,
    /// Records that did not belong to it were taken out, or all of them because they lead nowhere.
    pub(super) stripped: bool,
}

/// Text of an extended error that is passed on, in octets.
const ERROR_TEXT_MAX: usize = 128;

impl Reply {
    /// Takes over a reply whose ID has been checked; none if it is not one to this question.
    pub(super) fn accept(message: &[u8], asked: &Asked) -> Option<Self> {
        let question = asked.question();
        let question_end = HEADER_LEN + question.len();
        let opcode = Opcode(message.get(2)? >> 3 & 0x0f);
        if message[2] & flag::QR == 0
            || opcode != Opcode::QUERY
            || u16_at(message, 4) != Some(1)
            || !message
                .get(HEADER_LEN..question_end)?
                .eq_ignore_ascii_case(question)
        {
            return None;
        }
        let mut reply = Self {
            message: Vec::new(),
            rcode: Rcode(u16::from(message[3] & 0x0f)),
            truncated: message[2] & flag::TC != 0,
            extended_error: None,
            stripped: false,
        };
        if reply.copy_records(message, asked).is_none() {
            // A truncated reply may end anywhere; that it is truncated is all it says.
            if !reply.truncated {
                return None;
            }
            reply.message.clear();
            reply.message.extend_from_slice(&message[..question_end]);
            reply.message[6..HEADER_LEN].fill(0);
        }
        Some(reply)
    }

    /// Whether no record answers the question.
    pub(super) fn is_without_answer(&self) -> bool {
        u16_at(&self.message, 6) == Some(0)
    }

    /// Walks all records and copies the message; none if a record is broken.
    fn copy_records(&mut self, message: &[u8], asked: &Asked) -> Option<()> {
        let mut records = Records::of_message(message).ok()?;
        let mut counts = [0; 3];
        // Where the OPT stands, and how many records stand before it.
        let mut opt: Option<(usize, [u16; 3])> = None;
        let (mut wild_ttls, mut plain) = (false, true);
        for record in records.by_ref() {
            let (section, record) = record.ok()?;
            if record.record_type == RecordType::OPT {
                if section != Section::Additional || opt.is_some() {
                    return None;
                }
                self.read_opt(message, &record)?;
                opt = Some((record.start, counts));
                continue;
            }
            counts[section as usize] += 1;
            wild_ttls |= record.ttl >> 31 != 0;
            plain &= section == Section::Answer && is_plain_answer(message, &record, asked);
        }
        // Records behind the OPT may point past it, so they go with it: a TSIG, which was for us too, or glue.
        let (end, counts) = opt.unwrap_or((records.position(), counts));
        self.copy(&message[..end], counts);
        if !plain {
            self.check_pointers()?;
            self.strip(asked)?;
        }
        if wild_ttls {
            self.clear_wild_ttls();
        }
        Some(())
    }

    fn copy(&mut self, message: &[u8], counts: [u16; 3]) {
        self.message.extend_from_slice(message);
        self.set_counts(counts);
    }

    fn set_counts(&mut self, counts: [u16; 3]) {
        for (place, count) in self.message[6..HEADER_LEN].chunks_exact_mut(2).zip(counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }

    /// None if a name is made of something else than names.
    fn check_pointers(&self) -> Option<()> {
        let mut pointers = Pointers::default();
        Records::of_message(&self.message)
            .ok()?
            .flatten()
            .all(|(_, record)| pointers.admit(&self.message, &record))
            .then_some(())
    }

    /// Takes out the records that do not belong to the reply; none if that cannot be done.
    fn strip(&mut self, asked: &Asked) -> Option<()> {
        let Ok(mut bailiwick) = Bailiwick::of(&self.message, asked, self.rcode) else {
            self.stripped = true;
            self.refuse(asked);
            return Some(());
        };
        match bailiwick.find(&self.message) {
            Finding::Clean => return Some(()),
            Finding::Prefix { end, counts } => {
                self.message.truncate(end);
                self.set_counts(counts);
            }
            Finding::Mixed => {
                bailiwick.start_again();
                let is_kept = |section, record: &RecordRef<'_>| bailiwick.has(section, record);
                self.message = rewritten(&self.message, asked, is_kept)?;
            }
        }
        self.stripped = true;
        Some(())
    }

    /// Takes out the records that lead to private addresses; false if there are none.
    pub(super) fn deny_private(&mut self, asked: &Asked) -> bool {
        let records = Records::of_message(&self.message);
        let mut records = records.into_iter().flatten().flatten();
        if !records.any(|(_, record)| private::is_private(&record)) {
            return false;
        }
        let is_kept = |_, record: &RecordRef<'_>| {
            !private::is_private(record) && !private::signs_addresses(record)
        };
        match rewritten(&self.message, asked, is_kept) {
            Some(message) => self.message = message,
            // What cannot be taken apart goes as a whole.
            None => self.empty(asked),
        }
        // What is left is not what the upstream has checked.
        self.message[3] &= !flag::AD;
        let text = "a private address was taken out (`deny_private`)";
        self.extended_error = Some(ExtendedError::new(ExtendedError::BLOCKED, text));
        true
    }

    /// Takes out all records.
    fn empty(&mut self, asked: &Asked) {
        self.message.truncate(HEADER_LEN + asked.question().len());
        self.set_counts([0; 3]);
    }

    /// Makes it a failure: whoever follows its aliases never arrives.
    fn refuse(&mut self, asked: &Asked) {
        self.empty(asked);
        self.rcode = Rcode::SERVFAIL;
        self.message[3] = self.message[3] & 0xf0 | 2;
        let text = "the aliases of the upstream's reply lead nowhere";
        self.extended_error = Some(ExtendedError::new(ExtendedError::OTHER, text));
    }

    fn read_opt(&mut self, message: &[u8], record: &RecordRef<'_>) -> Option<()> {
        if message[record.start] != 0 || !options_are_whole(record.rdata()) {
            return None;
        }
        let [high, version, _, _] = record.ttl.to_be_bytes();
        self.rcode.0 |= u16::from(high) << 4;
        let edns = Edns {
            payload_size: record.class.0,
            version,
            dnssec_ok: false,
            options: record.rdata(),
        };
        let (_, data) = edns
            .options()
            .find(|&(code, data)| code == option_code::EXTENDED_ERROR && data.len() >= 2)
            .unzip();
        self.extended_error = data.map(|data| {
            let text = &data[2..data.len().min(2 + ERROR_TEXT_MAX)];
            ExtendedError::new(
                u16::from_be_bytes([data[0], data[1]]),
                String::from_utf8_lossy(text).into_owned(),
            )
        });
        Some(())
    }

    /// A TTL with its top bit set means 0 (RFC 2181, section 8).
    fn clear_wild_ttls(&mut self) {
        let places: Vec<usize> = Records::of_message(&self.message)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|(_, record)| record.ttl >> 31 != 0)
            .map(|(_, record)| record.ttl_at)
            .collect();
        for place in places {
            self.message[place..place + 4].fill(0);
        }
    }
}

/// Whether a record is what was asked of QNAME itself: most are, and then nothing else needs a look.
fn is_plain_answer(message: &[u8], record: &RecordRef<'_>, asked: &Asked) -> bool {
    /// A pointer to QNAME.
    const QNAME: [u8; 2] = [0xc0, 0x0c];
    let [type_high, type_low, class_high, class_low] = *asked.type_and_class();
    message[record.start..].starts_with(&QNAME)
        && record.record_type.0.to_be_bytes() == [type_high, type_low]
        && record.class.0.to_be_bytes() == [class_high, class_low]
        && name_offset(record.record_type).is_none()
}

/// The message with only those records that are kept; none if one of them is of a type that may hold compressed
/// names and that the writer does not take apart (RFC 3597, section 4).
fn rewritten(
    message: &[u8],
    asked: &Asked,
    mut is_kept: impl FnMut(Section, &RecordRef<'_>) -> bool,
) -> Option<Vec<u8>> {
    let mut query = message[..HEADER_LEN + asked.question().len()].to_vec();
    query[2] &= !(flag::QR | flag::AA | flag::TC);
    query[3] &= !(flag::RA | 0x0f);
    query[6..HEADER_LEN].fill(0);
    let query = Query::parse(&query).ok()?;
    let mut octets = Vec::with_capacity(message.len());
    let mut writer = ReplyWriter::new(&query, &mut octets);
    writer.rcode = Rcode(u16::from(message[3] & 0x0f));
    writer.authoritative = message[2] & flag::AA != 0;
    writer.truncated = message[2] & flag::TC != 0;
    writer.recursion_available = message[3] & flag::RA != 0;
    writer.authentic_data = message[3] & flag::AD != 0;
    for (section, record) in Records::of_message(message).ok()?.flatten() {
        if !is_kept(section, &record) {
            continue;
        }
        writer.go_to(section);
        if may_hold_pointers(record.record_type) || !writer.copy(&record) {
            return None;
        }
    }
    writer.finish(&query, MESSAGE_MAX, None);
    Some(octets)
}

/// MD, MF, MB, MG, MR, MINFO, RP, AFSDB, RT, SIG, PX, NXT and NAPTR. Hardly anyone compresses them today.
fn may_hold_pointers(record_type: RecordType) -> bool {
    matches!(
        record_type.0,
        3 | 4 | 7..=9 | 14 | 17 | 18 | 21 | 24 | 26 | 30 | 35
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::forward::request::Request;
    use crate::wire::name::Name;

    const A: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\x02\x01";
    const OPT: &[u8] = b"\0\0\x29\x04\xd0\x01\0\0\0\0\x08\0\x0f\0\x04\0\x16no";

    fn asked() -> Asked {
        let qname = Name::from_text("web.a").unwrap();
        Request::own(qname.as_ref(), RecordType::A, true).asked()
    }

    fn message(flags: [u8; 2], counts: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let [questions, answers, authorities, additionals] = counts;
        let mut message = vec![1, 2, flags[0], flags[1]];
        for count in [questions, answers, authorities, additionals] {
            message.extend_from_slice(&[0, count]);
        }
        message.extend_from_slice(b"\x03wEb\x01a\0\0\x01\0\x01");
        message.extend_from_slice(rest);
        message
    }

    #[test]
    fn a_clean_reply_is_passed_on_untouched() {
        let octets = message([0x81, 0x80], [1, 1, 0, 0], A);
        let reply = Reply::accept(&octets, &asked()).unwrap();
        assert_eq!(reply.message, octets);
        assert_eq!((reply.rcode, reply.truncated), (Rcode::NOERROR, false));
    }

    #[test]
    fn the_opt_is_taken_off_and_what_it_says_is_kept() {
        let octets = message([0x81, 0x82], [1, 1, 0, 1], &[A, OPT, b"junk"].concat());
        let reply = Reply::accept(&octets, &asked()).unwrap();
        assert_eq!(reply.message, message([0x81, 0x82], [1, 1, 0, 0], A));
        assert_eq!(reply.rcode, Rcode(0x12));
        assert_eq!(reply.extended_error, Some(ExtendedError::new(22, "no")));
    }

    #[test]
    fn records_behind_the_opt_go_with_it() {
        let octets = message([0x81, 0x80], [1, 2, 0, 2], &[A, A, OPT, A].concat());
        let reply = Reply::accept(&octets, &asked()).unwrap();
        assert_eq!(
            reply.message,
            message([0x81, 0x80], [1, 2, 0, 0], &[A, A].concat())
        );
    }

    #[test]
    fn what_does_not_answer_the_question_is_no_reply() {
        let good = message([0x81, 0x80], [1, 1, 0, 0], A);
        let mut other_name = good.clone();
        other_name[13] = b'x';
        let mut other_type = good.clone();
        other_type[20] = 28;
        let mut other_class = good.clone();
        other_class[22] = 3;
        let mut query = good.clone();
        query[2] &= 0x7f;
        let mut update = good.clone();
        update[2] |= 5 << 3;
        let no_question = message([0x81, 0x80], [0, 1, 0, 0], A);
        let cut = good[..good.len() - 1].to_vec();
        let short = good[..15].to_vec();
        let lying = message([0x81, 0x80], [1, 255, 255, 255], b"");
        let two_opts = message([0x81, 0x80], [1, 0, 0, 2], &[OPT, OPT].concat());
        let looping = message(
            [0x81, 0x80],
            [1, 1, 0, 0],
            b"\xc0\x17\0\x01\0\x01\0\0\0\x1e\0\x04aaaa",
        );
        for (fault, octets) in [
            ("name", other_name),
            ("type", other_type),
            ("class", other_class),
            ("QR", query),
            ("opcode", update),
            ("QDCOUNT", no_question),
            ("cut", cut),
            ("short", short),
            ("counts", lying),
            ("two OPTs", two_opts),
            ("pointer loop", looping),
        ] {
            assert!(Reply::accept(&octets, &asked()).is_none(), "{fault}");
        }
    }

    #[test]
    fn a_truncated_reply_that_ends_within_a_record_is_an_empty_one() {
        let octets = message([0x83, 0x80], [1, 2, 0, 0], &[A, &A[..9]].concat());
        let reply = Reply::accept(&octets, &asked()).unwrap();
        assert!(reply.truncated && reply.is_without_answer());
        assert_eq!(reply.message, message([0x83, 0x80], [1, 0, 0, 0], b""));
    }

    #[test]
    fn a_ttl_with_its_top_bit_set_becomes_zero() {
        let mut wild = A.to_vec();
        wild[6..10].fill(0xff);
        let octets = message([0x81, 0x80], [1, 2, 0, 0], &[&wild, A].concat());
        let reply = Reply::accept(&octets, &asked()).unwrap();
        let ttls: Vec<_> = Records::of_message(&reply.message)
            .unwrap()
            .map(|record| record.unwrap().1.ttl)
            .collect();
        assert_eq!(ttls, [0, 30]);
    }
}
