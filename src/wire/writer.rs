//! Writes a reply: sections in order, names compressed, cut to the client's limit at the very end.
//!
//! The buffer belongs to the worker and is reused, so a reply from memory allocates nothing. Records may grow to the
//! 64 KiB that TCP carries; [`ReplyWriter::finish`] cuts to what this client takes and sets TC, so whoever looks at the
//! reply on its way up (the cache, say) always sees all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::edns::{ExtendedError, option_code};
use crate::wire::name::NameRef;
use crate::wire::query::{Query, flag};
use crate::wire::record::{Broken, RecordRef, Records, Section};
use crate::wire::{HEADER_LEN, MESSAGE_MAX, u16_at};

/// Names that later names are compared with. Past it names stand in full: cost stays bounded on replies with
/// thousands of distinct names.
const CANDIDATES_MAX: usize = 64;

/// The highest place that a compression pointer can name (RFC 1035, section 4.1.4).
const POINTER_MAX: usize = 0x3fff;

/// Who owns a record.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'n> {
    /// The QNAME, by pointer.
    Question,
    /// The part of the QNAME that starts so many octets in, by pointer; must be between two labels.
    QuestionSuffix(usize),
    /// The name that stands at this place of the message, by pointer.
    At(u16),
    /// Some other name.
    Name(NameRef<'n>),
}

impl<'n> Owner<'n> {
    /// A name that stands at this place of the message already. Where no pointer can name the place, it is written anew.
    pub fn standing_at(place: usize, name: NameRef<'n>) -> Self {
        match u16::try_from(place) {
            Ok(at) if place <= POINTER_MAX => Self::At(at),
            _ => Self::Name(name),
        }
    }
}

/// The OPT of a reply.
#[derive(Clone, Copy, Debug)]
pub struct ReplyOpt<'o> {
    /// UDP payload that we can take.
    pub payload_size: u16,
    /// DO, copied from the query (RFC 3225, section 3).
    pub dnssec_ok: bool,
    /// Why it went wrong.
    pub extended_error: Option<&'o ExtendedError>,
    /// Further options in wire form.
    pub options: &'o [u8],
}

/// A reply in progress.
#[derive(Debug)]
pub struct ReplyWriter<'b> {
    out: &'b mut Vec<u8>,
    question_end: usize,
    section: Section,
    counts: [u16; 3],
    /// RCODE with EDNS' upper bits; starts as NOERROR.
    pub rcode: Rcode,
    /// AA.
    pub authoritative: bool,
    /// RA.
    pub recursion_available: bool,
    /// AD.
    pub authentic_data: bool,
    /// TC: something is missing already, before the client's limit is applied.
    pub truncated: bool,
    /// Place and length of each; alike in size, so that clearing them is a few wide stores.
    candidates: [(u16, u16); CANDIDATES_MAX],
    candidate_count: u8,
}

/// A reply that waits, apart from its buffer.
#[derive(Debug)]
pub struct PartialReply {
    records: Vec<u8>,
    section: Section,
    counts: [u16; 3],
    rcode: Rcode,
    flags: [bool; 4],
}

/// Fixed fields of an SOA record, in seconds (RFC 1035, section 3.3.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoaTimes {
    /// SERIAL.
    pub serial: u32,
    /// REFRESH.
    pub refresh: u32,
    /// RETRY.
    pub retry: u32,
    /// EXPIRE.
    pub expire: u32,
    /// MINIMUM.
    pub minimum: u32,
}

impl<'b> ReplyWriter<'b> {
    /// Starts an empty reply to `query` in `out`, whose content is dropped.
    pub fn new(query: &Query<'_>, out: &'b mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER_LEN]);
        out.extend_from_slice(query.question_octets());
        let question_end = out.len();
        Self {
            out,
            question_end,
            section: Section::Answer,
            counts: [0; 3],
            rcode: Rcode::NOERROR,
            authoritative: false,
            recursion_available: false,
            authentic_data: false,
            truncated: false,
            candidates: [(0, 0); CANDIDATES_MAX],
            candidate_count: 0,
        }
    }

    /// Drops all records and sets every flag back.
    pub fn reset(&mut self) {
        self.out.truncate(self.question_end);
        self.section = Section::Answer;
        self.counts = [0; 3];
        self.rcode = Rcode::NOERROR;
        self.authoritative = false;
        self.recursion_available = false;
        self.authentic_data = false;
        self.truncated = false;
        self.candidate_count = 0;
    }

    /// Goes on to a later section. Sections stand in order, so there is no way back.
    pub fn go_to(&mut self, section: Section) {
        debug_assert!(section >= self.section, "sections are written in order");
        self.section = section;
    }

    /// The QNAME as the client spelled it.
    pub fn qname(&self) -> NameRef<'_> {
        NameRef::from_wire(&self.out[HEADER_LEN..self.question_end])
            .expect("the question was checked before it was copied")
    }

    /// Records per section so far.
    pub fn counts(&self) -> [u16; 3] {
        self.counts
    }

    /// Records in a section so far.
    pub fn count(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// The records written so far.
    pub fn records(&self) -> Records<'_> {
        Records::new(self.out, self.question_end, self.counts)
    }

    /// Header, question and records so far. The header is filled in by `finish` only.
    pub fn octets(&self) -> &[u8] {
        self.out
    }

    /// For changing RDATA or TTLs in place. Lengths and names must stay as they are.
    pub fn octets_mut(&mut self) -> &mut [u8] {
        self.out
    }

    /// Octets so far, OPT not counted.
    #[expect(clippy::len_without_is_empty, reason = "a reply always has its header")]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Takes over a whole reply: rcode, AA, TC, RA, AD and all records. Its question must be ours in any letter case,
    /// uncompressed, and it must hold no OPT.
    pub fn adopt(&mut self, message: &[u8]) -> Result<(), Broken> {
        self.reset();
        let question = message.get(HEADER_LEN..self.question_end).ok_or(Broken)?;
        if !question.eq_ignore_ascii_case(&self.out[HEADER_LEN..self.question_end])
            || u16_at(message, 4) != Some(1)
        {
            return Err(Broken);
        }
        for (index, count) in self.counts.iter_mut().enumerate() {
            *count = u16_at(message, 6 + 2 * index).ok_or(Broken)?;
        }
        self.out.extend_from_slice(&message[self.question_end..]);
        self.section = Section::Additional;
        self.rcode = Rcode(u16::from(message[3] & 0x0f));
        self.authoritative = message[2] & flag::AA != 0;
        self.truncated = message[2] & flag::TC != 0;
        self.recursion_available = message[3] & flag::RA != 0;
        self.authentic_data = message[3] & flag::AD != 0;
        Ok(())
    }

    /// A copy of the reply so far, to be kept while its query waits on the way up.
    pub fn to_partial(&self) -> PartialReply {
        PartialReply {
            records: self.out[self.question_end..].to_vec(),
            section: self.section,
            counts: self.counts,
            rcode: self.rcode,
            flags: [
                self.authoritative,
                self.recursion_available,
                self.authentic_data,
                self.truncated,
            ],
        }
    }

    /// Goes on from such a copy. The reply must be to the same question.
    pub fn restore(&mut self, partial: PartialReply) {
        self.reset();
        self.out.extend_from_slice(&partial.records);
        self.section = partial.section;
        self.counts = partial.counts;
        self.rcode = partial.rcode;
        [
            self.authoritative,
            self.recursion_available,
            self.authentic_data,
            self.truncated,
        ] = partial.flags;
    }

    /// Appends a record whose RDATA `write` produces. If the message would pass 64 KiB, the record is left out,
    /// TC is set and false comes back.
    pub fn record(
        &mut self,
        owner: Owner<'_>,
        record_type: RecordType,
        class: Class,
        ttl: u32,
        write: impl FnOnce(&mut Rdata<'_, 'b>),
    ) -> bool {
        let start = self.out.len();
        let candidate_count = self.candidate_count;
        self.owner(owner);
        // One append instead of four: each one checks for room. RDLENGTH follows once it is known.
        let mut fixed = [0; 10];
        fixed[..2].copy_from_slice(&record_type.0.to_be_bytes());
        fixed[2..4].copy_from_slice(&class.0.to_be_bytes());
        fixed[4..8].copy_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&fixed);
        let rdata_at = self.out.len();
        write(&mut Rdata { writer: self });
        let Ok(length) = u16::try_from(self.out.len() - rdata_at) else {
            return self.undo(start, candidate_count);
        };
        self.out[rdata_at - 2..rdata_at].copy_from_slice(&length.to_be_bytes());
        let count = &mut self.counts[self.section as usize];
        if self.out.len() > MESSAGE_MAX || *count == u16::MAX {
            return self.undo(start, candidate_count);
        }
        *count += 1;
        true
    }

    fn undo(&mut self, start: usize, candidate_count: u8) -> bool {
        self.out.truncate(start);
        self.candidate_count = candidate_count;
        self.truncated = true;
        false
    }

    /// Appends an A or AAAA record.
    pub fn address(&mut self, owner: Owner<'_>, ttl: u32, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.a(owner, ttl, address),
            IpAddr::V6(address) => self.aaaa(owner, ttl, address),
        }
    }

    /// Appends an A record.
    pub fn a(&mut self, owner: Owner<'_>, ttl: u32, address: Ipv4Addr) -> bool {
        self.record(owner, RecordType::A, Class::IN, ttl, |rdata| {
            rdata.octets(&address.octets())
        })
    }

    /// Appends an AAAA record.
    pub fn aaaa(&mut self, owner: Owner<'_>, ttl: u32, address: Ipv6Addr) -> bool {
        self.record(owner, RecordType::AAAA, Class::IN, ttl, |rdata| {
            rdata.octets(&address.octets())
        })
    }

    /// Appends a record whose RDATA is one name that may be compressed: CNAME, NS, PTR.
    pub fn name_record(
        &mut self,
        owner: Owner<'_>,
        record_type: RecordType,
        ttl: u32,
        target: NameRef<'_>,
    ) -> bool {
        self.record(owner, record_type, Class::IN, ttl, |rdata| {
            rdata.compressed_name(target)
        })
    }

    /// Appends an SRV record; its target is not compressed (RFC 2782).
    pub fn srv(
        &mut self,
        owner: Owner<'_>,
        ttl: u32,
        priority: u16,
        weight: u16,
        port: u16,
        target: NameRef<'_>,
    ) -> bool {
        self.record(owner, RecordType::SRV, Class::IN, ttl, |rdata| {
            rdata.octets(&priority.to_be_bytes());
            rdata.octets(&weight.to_be_bytes());
            rdata.octets(&port.to_be_bytes());
            rdata.name(target);
        })
    }

    /// Appends an SOA record.
    pub fn soa(
        &mut self,
        owner: Owner<'_>,
        ttl: u32,
        mname: NameRef<'_>,
        rname: NameRef<'_>,
        times: SoaTimes,
    ) -> bool {
        self.record(owner, RecordType::SOA, Class::IN, ttl, |rdata| {
            rdata.compressed_name(mname);
            rdata.compressed_name(rname);
            rdata.soa_times(times);
        })
    }

    /// Appends a TXT record of one or more strings of at most 255 octets; what is longer is cut.
    pub fn txt(&mut self, owner: Owner<'_>, class: Class, ttl: u32, strings: &[&[u8]]) -> bool {
        self.record(owner, RecordType::TXT, class, ttl, |rdata| {
            for string in strings {
                let string = &string[..string.len().min(255)];
                rdata.octets(&[u8::try_from(string.len()).expect("cut to 255")]);
                rdata.octets(string);
            }
        })
    }

    /// Appends a record of another message. Its names are written anew: pointers mean another thing here. One whose
    /// RDATA is not what its type asks for is left out.
    pub fn copy(&mut self, record: &RecordRef<'_>) -> bool {
        let (before, names) = match record.record_type {
            RecordType::NS | RecordType::CNAME | RecordType::PTR | RecordType::DNAME => (0, 1),
            RecordType::MX => (2, 1),
            RecordType::SRV => (6, 1),
            RecordType::SOA => (0, 2),
            _ => (0, 0),
        };
        // RFC 2782 and RFC 6672, section 2.5.
        let plain = matches!(record.record_type, RecordType::SRV | RecordType::DNAME);
        let mut names_left = [const { None }; 2];
        let mut at = before;
        for name in names_left.iter_mut().take(names) {
            let Ok((expanded, end)) = record.name_at(at) else {
                return false;
            };
            (*name, at) = (Some(expanded), end);
        }
        let (Some(head), Some(tail)) = (record.rdata().get(..before), record.rdata().get(at..))
        else {
            return false;
        };
        let owner = record.owner();
        let owner = Owner::Name(owner.as_ref());
        self.record(
            owner,
            record.record_type,
            record.class,
            record.ttl,
            |rdata| {
                rdata.octets(head);
                for name in names_left.iter().flatten() {
                    if plain {
                        rdata.name(name.as_ref());
                    } else {
                        rdata.compressed_name(name.as_ref());
                    }
                }
                rdata.octets(tail);
            },
        )
    }

    fn owner(&mut self, owner: Owner<'_>) {
        match owner {
            Owner::Question => self.pointer(HEADER_LEN),
            Owner::QuestionSuffix(offset) => self.question_suffix(offset),
            Owner::At(place) => self.pointer(usize::from(place)),
            Owner::Name(name) => self.compressed_name(name),
        }
    }

    fn question_suffix(&mut self, offset: usize) {
        // The root takes one octet, a pointer to it two.
        if self.out[HEADER_LEN + offset] == 0 {
            self.out.push(0);
        } else {
            self.pointer(HEADER_LEN + offset);
        }
    }

    fn pointer(&mut self, at: usize) {
        let at = u16::try_from(at)
            .ok()
            .filter(|&at| usize::from(at) <= POINTER_MAX)
            .expect("only places a pointer can name are remembered");
        self.out.extend_from_slice(&(0xc000 | at).to_be_bytes());
    }

    /// Writes a name, pointing at the longest suffix that stands in the message already, in the same spelling.
    fn compressed_name(&mut self, name: NameRef<'_>) {
        if self.candidate_count == 0 {
            self.remember(HEADER_LEN, usize::from(self.question_name_len()));
        }
        let wire = name.as_wire();
        let start = self.out.len();
        let mut at = 0;
        while wire[at] != 0 {
            if let Some(place) = self.find(&wire[at..]) {
                self.out.extend_from_slice(&wire[..at]);
                self.pointer(usize::from(place));
                self.remember_labels(start, wire, at);
                return;
            }
            at += 1 + usize::from(wire[at]);
        }
        self.out.extend_from_slice(wire);
        self.remember_labels(start, wire, at);
    }

    fn question_name_len(&self) -> u8 {
        u8::try_from(self.question_end - HEADER_LEN - 4).expect("a name has at most 255 octets")
    }

    /// Remembers a name that stands in full at `place`, and each of its suffixes.
    fn remember(&mut self, place: usize, length: usize) {
        let mut at = place;
        while self.out[at] != 0 {
            self.push_candidate(at, place + length - at);
            at += 1 + usize::from(self.out[at]);
        }
    }

    /// Remembers the first labels of `wire`, up to `end`, now standing at `start`.
    fn remember_labels(&mut self, start: usize, wire: &[u8], end: usize) {
        let mut at = 0;
        while at < end {
            self.push_candidate(start + at, wire.len() - at);
            at += 1 + usize::from(wire[at]);
        }
    }

    fn push_candidate(&mut self, place: usize, length: usize) {
        if place > POINTER_MAX {
            return;
        }
        if let Some(candidate) = self.candidates.get_mut(usize::from(self.candidate_count)) {
            let place = u16::try_from(place).expect("bounded by POINTER_MAX");
            *candidate = (
                place,
                u16::try_from(length).expect("a name has at most 255 octets"),
            );
            self.candidate_count += 1;
        }
    }

    fn find(&self, suffix: &[u8]) -> Option<u16> {
        self.candidates[..usize::from(self.candidate_count)]
            .iter()
            .find(|&&(place, length)| {
                usize::from(length) == suffix.len() && self.stands_at(usize::from(place), suffix)
            })
            .map(|&(place, _)| place)
    }

    fn stands_at(&self, mut place: usize, mut suffix: &[u8]) -> bool {
        loop {
            let length = self.out[place];
            if length >= 0xc0 {
                place = usize::from(
                    u16_at(self.out, place).expect("our own pointers are whole") & 0x3fff,
                );
                continue;
            }
            let size = 1 + usize::from(length);
            if self.out[place..place + size] != suffix[..size] {
                return false;
            }
            if length == 0 {
                return true;
            }
            place += size;
            suffix = &suffix[size..];
        }
    }

    /// Fills in the header, cuts to `limit` octets and appends OPT. Records are kept in order while they fit;
    /// from the first that does not, the rest is left out and TC set.
    pub fn finish(&mut self, query: &Query<'_>, limit: usize, opt: Option<&ReplyOpt<'_>>) {
        let mut opt = opt.copied();
        let bare_error;
        // RFC 8914, section 3: an extended error goes before any record does. Its text may go in silence.
        if let Some(opt) = &mut opt
            && let Some(error) = opt.extended_error
            && self.out.len() + opt.len() > limit
        {
            bare_error = ExtendedError::new(error.code, "");
            opt.extended_error = Some(&bare_error);
            if self.out.len() + opt.len() > limit {
                opt.extended_error = None;
                self.truncated = true;
            }
        }
        let opt_len = opt.as_ref().map_or(0, ReplyOpt::len);
        if self.out.len() + opt_len > limit {
            self.cut(limit.saturating_sub(opt_len));
        }
        if self.rcode.0 > 0x0f && opt.is_none() {
            // The upper bits have no place without OPT (RFC 6891, section 6.1.3).
            self.rcode = Rcode::SERVFAIL;
        }
        let additional = self.counts[2] + u16::from(opt.is_some());
        if let Some(opt) = opt {
            opt.write(self.rcode, self.out);
        }
        let header = &mut self.out[..HEADER_LEN];
        header[..2].copy_from_slice(&query.id().to_be_bytes());
        let when = |set: bool, bit: u8| if set { bit } else { 0 };
        header[2] = flag::QR
            | when(self.authoritative, flag::AA)
            | when(self.truncated, flag::TC)
            | when(query.recursion_desired(), flag::RD);
        header[3] = when(self.recursion_available, flag::RA)
            | when(self.authentic_data, flag::AD)
            | when(query.checking_disabled(), flag::CD);
        header[3] |= u8::try_from(self.rcode.0 & 0x0f).expect("four bits fit");
        header[4..6].copy_from_slice(&1u16.to_be_bytes());
        header[6..8].copy_from_slice(&self.counts[0].to_be_bytes());
        header[8..10].copy_from_slice(&self.counts[1].to_be_bytes());
        header[10..12].copy_from_slice(&additional.to_be_bytes());
    }

    fn cut(&mut self, limit: usize) {
        let mut kept = [0; 3];
        let mut end = self.question_end;
        for (section, record) in self.records().flatten() {
            if record.end > limit {
                break;
            }
            end = record.end;
            kept[section as usize] += 1;
        }
        self.out.truncate(end);
        self.truncated |= kept != self.counts;
        self.counts = kept;
    }
}

impl ReplyOpt<'_> {
    /// Octets of the record.
    fn len(&self) -> usize {
        Self::len_with(self.options.len(), self.extended_error)
    }

    /// Octets that such a record has with so many octets of further options.
    pub fn len_with(options: usize, extended_error: Option<&ExtendedError>) -> usize {
        11 + options + extended_error.map_or(0, |error| 6 + error.text.len())
    }

    fn write(&self, rcode: Rcode, out: &mut Vec<u8>) {
        let mut fixed = [0; 11];
        fixed[1..3].copy_from_slice(&RecordType::OPT.0.to_be_bytes());
        fixed[3..5].copy_from_slice(&self.payload_size.to_be_bytes());
        fixed[5] = u8::try_from(rcode.0 >> 4 & 0xff).expect("eight bits fit");
        fixed[7] = u8::from(self.dnssec_ok) << 7;
        let length = u16::try_from(self.len() - 11).expect("our options are short");
        fixed[9..].copy_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(self.options);
        if let Some(error) = self.extended_error {
            out.extend_from_slice(&option_code::EXTENDED_ERROR.to_be_bytes());
            out.extend_from_slice(
                &u16::try_from(2 + error.text.len())
                    .expect("our texts are short")
                    .to_be_bytes(),
            );
            out.extend_from_slice(&error.code.to_be_bytes());
            out.extend_from_slice(error.text.as_bytes());
        }
    }
}

/// The RDATA of the record being written.
#[derive(Debug)]
pub struct Rdata<'w, 'b> {
    writer: &'w mut ReplyWriter<'b>,
}

impl Rdata<'_, '_> {
    /// Appends octets.
    pub fn octets(&mut self, octets: &[u8]) {
        self.writer.out.extend_from_slice(octets);
    }

    /// Appends a name in full.
    pub fn name(&mut self, name: NameRef<'_>) {
        let start = self.writer.out.len();
        self.writer.out.extend_from_slice(name.as_wire());
        // Later names may point here all the same.
        self.writer
            .remember_labels(start, name.as_wire(), name.len() - 1);
    }

    /// Appends a name, compressed where it can be. Only for types that RFC 3597, section 4, allows.
    pub fn compressed_name(&mut self, name: NameRef<'_>) {
        self.writer.compressed_name(name);
    }

    /// Appends labels in wire form (no root), then points at the part of the QNAME that starts `suffix` octets in.
    pub fn name_below_question(&mut self, labels: &[u8], suffix: usize) {
        self.writer.out.extend_from_slice(labels);
        self.writer.question_suffix(suffix);
    }

    /// Appends the five numbers that end an SOA's RDATA.
    pub fn soa_times(&mut self, times: SoaTimes) {
        for value in [
            times.serial,
            times.refresh,
            times.retry,
            times.expire,
            times.minimum,
        ] {
            self.octets(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    fn query_octets(name: &str) -> Vec<u8> {
        let mut octets = vec![0x12, 0x34, flag::RD, flag::CD, 0, 1, 0, 0, 0, 0, 0, 0];
        octets.extend_from_slice(Name::from_text(name).expect("a name").as_ref().as_wire());
        octets.extend_from_slice(&[0, 1, 0, 1]);
        octets
    }

    fn name(text: &str) -> Name {
        Name::from_text(text).expect("a name")
    }

    #[test]
    fn names_point_at_what_stands_already_in_the_same_spelling() {
        let octets = query_octets("web.Example.org");
        let query = Query::parse(&octets).expect("a query");
        let mut out = Vec::new();
        let mut reply = ReplyWriter::new(&query, &mut out);
        reply.name_record(
            Owner::Question,
            RecordType::CNAME,
            5,
            name("www.Example.org").as_ref(),
        );
        reply.name_record(
            Owner::Name(name("www.Example.org").as_ref()),
            RecordType::CNAME,
            5,
            name("www.example.org").as_ref(),
        );
        let owner_and_target: Vec<_> = reply
            .records()
            .map(|record| record.expect("whole").1)
            .map(|record| (record.owner(), record.rdata_name().expect("a name")))
            .collect();
        assert_eq!(
            format!("{owner_and_target:?}"),
            "[(web.Example.org., www.Example.org.), (www.Example.org., www.example.org.)]"
        );
        // Question, then a pointer each way, then `www.example` in full with a pointer to `org`.
        assert_eq!(reply.len(), octets.len() + 12 + 6 + 12 + 4 + 8 + 2);
    }

    #[test]
    fn an_owner_that_stands_already_is_a_pointer_where_one_can_name_its_place() {
        let octets = query_octets("web.example.org");
        let query = Query::parse(&octets).expect("a query");
        let mut out = Vec::new();
        let mut reply = ReplyWriter::new(&query, &mut out);
        let target = name("a.example.org");
        let at = reply.len() + 18;
        reply.srv(Owner::Question, 5, 0, 100, 80, target.as_ref());
        for place in [at, POINTER_MAX + 1, usize::MAX] {
            let owner = Owner::standing_at(place, target.as_ref());
            assert_eq!(matches!(owner, Owner::At(_)), place == at);
            reply.a(owner, 5, Ipv4Addr::LOCALHOST);
        }
        let owners: Vec<_> = reply
            .records()
            .skip(1)
            .map(|record| record.expect("whole").1.owner().as_ref().to_name())
            .collect();
        assert_eq!(owners, [target.clone(), target.clone(), target]);
    }

    #[test]
    fn a_reply_is_cut_to_the_limit_record_by_record_and_says_so() {
        let octets = query_octets("a.org");
        let query = Query::parse(&octets).expect("a query");
        let mut out = Vec::new();
        let mut reply = ReplyWriter::new(&query, &mut out);
        for last in 0..100 {
            reply.a(Owner::Question, 5, Ipv4Addr::new(10, 0, 0, last));
        }
        let opt = ReplyOpt {
            payload_size: 1232,
            dnssec_ok: true,
            extended_error: None,
            options: &[],
        };
        reply.finish(&query, 512, Some(&opt));
        assert_eq!(out.len(), 23 + 29 * 16 + 11);
        assert_eq!(out[2], flag::QR | flag::TC | flag::RD);
        assert_eq!(u16_at(&out, 6), Some(29));
        assert_eq!(u16_at(&out, 10), Some(1));
        assert!(
            Records::of_message(&out)
                .expect("a message")
                .all(|record| record.is_ok())
        );
    }

    #[test]
    fn an_extended_error_goes_before_any_record_does() {
        let error = ExtendedError::new(ExtendedError::OTHER, "a text of some length");
        let octets = query_octets("a.org");
        let query = Query::parse(&octets).expect("a query");
        let opt = ReplyOpt {
            payload_size: 1232,
            dnssec_ok: false,
            extended_error: Some(&error),
            options: &[],
        };
        // Room for two records and OPT; then for the error's code as well, and for its text.
        let base = 23 + 2 * 16 + 11;
        for (limit, expected_len, truncated) in [
            (base, base, true),
            (base + 6, base + 6, false),
            (base + 26, base + 6, false),
            (base + 27, base + 27, false),
        ] {
            let mut out = Vec::new();
            let mut reply = ReplyWriter::new(&query, &mut out);
            for last in 0..2 {
                reply.a(Owner::Question, 5, Ipv4Addr::new(10, 0, 0, last));
            }
            reply.finish(&query, limit, Some(&opt));
            assert_eq!(out.len(), expected_len, "limit {limit}");
            assert_eq!(out[2] & flag::TC != 0, truncated, "limit {limit}");
            assert_eq!(u16_at(&out, 6), Some(2));
        }
    }

    #[test]
    fn records_of_another_message_keep_their_names() {
        let octets = query_octets("a.example.org");
        let query = Query::parse(&octets).expect("a query");
        let mut out = Vec::new();
        let mut from = ReplyWriter::new(&query, &mut out);
        let (target, times) = (
            name("b.example.org"),
            SoaTimes {
                serial: 1,
                refresh: 2,
                retry: 3,
                expire: 4,
                minimum: 5,
            },
        );
        let target = target.as_ref();
        from.name_record(Owner::Question, RecordType::CNAME, 5, target);
        from.srv(Owner::Name(target), 5, 1, 2, 3, target);
        from.record(Owner::Question, RecordType::MX, Class::IN, 5, |rdata| {
            rdata.octets(&[0, 10]);
            rdata.compressed_name(target);
        });
        from.txt(Owner::Question, Class::IN, 5, &[b"\xc0\x0c"]);
        from.go_to(Section::Authority);
        from.soa(Owner::QuestionSuffix(2), 5, target, target, times);
        from.finish(&query, MESSAGE_MAX, None);

        let other = query_octets("quite.another.name.com");
        let other = Query::parse(&other).expect("a query");
        let mut copied = Vec::new();
        let mut reply = ReplyWriter::new(&other, &mut copied);
        for (section, record) in Records::of_message(&out).expect("a message").flatten() {
            reply.go_to(section);
            assert!(reply.copy(&record));
        }
        reply.finish(&other, MESSAGE_MAX, None);
        let shown = |message: &[u8]| {
            let message = hickory_proto::op::Message::from_vec(message).expect("a message");
            format!("{:?} {:?}", message.answers, message.authorities)
        };
        assert_eq!(shown(&copied), shown(&out));
    }

    #[test]
    fn nothing_grows_past_what_tcp_carries() {
        let octets = query_octets("a.org");
        let query = Query::parse(&octets).expect("a query");
        let mut out = Vec::new();
        let mut reply = ReplyWriter::new(&query, &mut out);
        while reply.a(Owner::Question, 5, Ipv4Addr::LOCALHOST) {}
        assert!(reply.truncated);
        reply.finish(&query, MESSAGE_MAX, None);
        assert!(out.len() <= MESSAGE_MAX && out.len() > MESSAGE_MAX - 16);
    }
}
