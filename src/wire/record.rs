//! Walking the records of a message, and checking them on the way.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::wire::code::{Class, RecordType};
use crate::wire::name::NameBuf;
use crate::wire::{HEADER_LEN, u16_at, u32_at};

/// The octets at this place are not what the format asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The three sections that hold records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority.
    Authority,
    /// Additional.
    Additional,
}

/// One record within a message.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'m> {
    message: &'m [u8],
    /// Where its owner name starts.
    pub start: usize,
    /// Where its TTL stands.
    pub ttl_at: usize,
    /// Where its RDATA starts.
    pub rdata_at: usize,
    /// One past its RDATA.
    pub end: usize,
    /// TYPE.
    pub record_type: RecordType,
    /// CLASS.
    pub class: Class,
    /// TTL in seconds as it stands; values with the top bit set mean 0 (RFC 2181, section 8).
    pub ttl: u32,
}

impl<'m> RecordRef<'m> {
    /// RDATA as it stands; names in it may be compressed.
    pub fn rdata(&self) -> &'m [u8] {
        &self.message[self.rdata_at..self.end]
    }

    /// The owner name, expanded.
    pub fn owner(&self) -> NameBuf {
        expand_name(self.message, self.start)
            .expect("checked by skip_record")
            .0
    }

    /// The name that is all of the RDATA (CNAME, NS, PTR, DNAME), expanded.
    pub fn rdata_name(&self) -> Result<NameBuf, Broken> {
        expand_name(self.message, self.rdata_at).map(|(name, _)| name)
    }

    /// The name that starts so many octets into the RDATA, expanded, and where in the RDATA it ends.
    pub fn name_at(&self, offset: usize) -> Result<(NameBuf, usize), Broken> {
        let (name, end) = expand_name(self.message, self.rdata_at + offset)?;
        Ok((name, end.checked_sub(self.rdata_at).ok_or(Broken)?))
    }

    /// The address of an A record.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        if self.record_type != RecordType::A {
            return None;
        }
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(self.rdata()).ok()?))
    }

    /// The address of an AAAA record.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        if self.record_type != RecordType::AAAA {
            return None;
        }
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(self.rdata()).ok()?))
    }
}

/// Where a possibly compressed name ends in place. Pointers must go strictly backwards, to no earlier than the end
/// of the header, and what they lead to must end before the place that they come from: so no chain of them can loop
/// (RFC 1035, section 4.1.4: a *prior* occurrence).
pub fn skip_name(message: &[u8], at: usize) -> Result<usize, Broken> {
    skip_parts(message, at, |_| ())
}

/// The same, showing the octets that each pointer leads to.
pub fn skip_parts(
    message: &[u8],
    at: usize,
    part: impl FnMut(Range<usize>),
) -> Result<usize, Broken> {
    let mut end = None;
    walk_name(message, at, |_| (), part, &mut end)?;
    end.ok_or(Broken)
}

/// The same in a message whose names are checked already: pointers are not followed.
pub fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Expands a possibly compressed name; returns it with the place after it.
pub fn expand_name(message: &[u8], at: usize) -> Result<(NameBuf, usize), Broken> {
    let mut name = NameBuf::new();
    let mut end = None;
    walk_name(
        message,
        at,
        |label| {
            name.push_label(label)
                .expect("the walk keeps names within 255 octets")
        },
        |_| (),
        &mut end,
    )?;
    Ok((name, end.ok_or(Broken)?))
}

fn walk_name(
    message: &[u8],
    mut at: usize,
    mut label: impl FnMut(&[u8]),
    mut part: impl FnMut(Range<usize>),
    end: &mut Option<usize>,
) -> Result<(), Broken> {
    let mut octets = 1;
    // Each part of the name ends before the one that points to it begins, so none can loop; a name with more jumps
    // than it can have labels was made to cost us time.
    let mut start = at;
    let mut limit = message.len();
    let mut jumps_left = 127u8;
    loop {
        let length = usize::from(*message.get(at).ok_or(Broken)?);
        let next = match length {
            0 => at + 1,
            1..=63 => at + 1 + length,
            0xc0.. => at + 2,
            _ => return Err(Broken),
        };
        if next > limit {
            return Err(Broken);
        }
        if let 1..=63 = length {
            octets += 1 + length;
            if octets > crate::wire::name::NAME_MAX {
                return Err(Broken);
            }
            label(&message[at + 1..next]);
            at = next;
            continue;
        }
        match end {
            None => *end = Some(next),
            Some(_) => part(start..next),
        }
        if length == 0 {
            return Ok(());
        }
        let target = usize::from(u16_at(message, at).ok_or(Broken)? & 0x3fff);
        if target >= start || target < HEADER_LEN {
            return Err(Broken);
        }
        jumps_left = jumps_left.checked_sub(1).ok_or(Broken)?;
        (limit, start, at) = (start, target, target);
    }
}

/// Reads one record and checks that its RDATA has the shape of its type.
pub fn skip_record(message: &[u8], start: usize) -> Result<RecordRef<'_>, Broken> {
    let fixed = skip_name(message, start)?;
    let record_type = RecordType(u16_at(message, fixed).ok_or(Broken)?);
    let class = Class(u16_at(message, fixed + 2).ok_or(Broken)?);
    let ttl = u32_at(message, fixed + 4).ok_or(Broken)?;
    let length = usize::from(u16_at(message, fixed + 8).ok_or(Broken)?);
    let rdata_at = fixed + 10;
    let end = rdata_at + length;
    if end > message.len() {
        return Err(Broken);
    }
    check_rdata(message, record_type, rdata_at, end)?;
    Ok(RecordRef {
        message,
        start,
        ttl_at: fixed + 4,
        rdata_at,
        end,
        record_type,
        class,
        ttl,
    })
}

/// The shape of RDATA for the types whose names may be compressed or whose length is fixed.
/// The rest is opaque (RFC 3597, section 3).
fn check_rdata(
    message: &[u8],
    record_type: RecordType,
    at: usize,
    end: usize,
) -> Result<(), Broken> {
    let ends_at = |place: usize| if place == end { Ok(()) } else { Err(Broken) };
    match record_type {
        RecordType::A => ends_at(at + 4),
        RecordType::AAAA => ends_at(at + 16),
        RecordType::SOA => ends_at(skip_name(message, skip_name(message, at)?)? + 20),
        _ => match name_offset(record_type) {
            Some(offset) => ends_at(skip_name(message, at + offset)?),
            None => Ok(()),
        },
    }
}

/// Where in the RDATA the first name stands, for the types whose names may be compressed (RFC 3597, section 4; SRV and
/// DNAME may not be, but some servers do it). SOA has a second one behind it.
pub fn name_offset(record_type: RecordType) -> Option<usize> {
    match record_type {
        RecordType::NS
        | RecordType::CNAME
        | RecordType::PTR
        | RecordType::DNAME
        | RecordType::SOA => Some(0),
        RecordType::MX => Some(2),
        RecordType::SRV => Some(6),
        _ => None,
    }
}

/// The records of a message from a place on, each with its section; stops at the first broken one.
#[derive(Clone)]
pub struct Records<'m> {
    message: &'m [u8],
    at: usize,
    left: [u16; 3],
}

impl<'m> Records<'m> {
    /// Walks from `at`, with so many records in answer, authority and additional.
    pub fn new(message: &'m [u8], at: usize, counts: [u16; 3]) -> Self {
        Self {
            message,
            at,
            left: counts,
        }
    }

    /// Walks a whole message with exactly one question.
    pub fn of_message(message: &'m [u8]) -> Result<Self, Broken> {
        let count = |at| u16_at(message, at).ok_or(Broken);
        if count(4)? != 1 {
            return Err(Broken);
        }
        let at = skip_name(message, HEADER_LEN)? + 4;
        if at > message.len() {
            return Err(Broken);
        }
        Ok(Self::new(message, at, [count(6)?, count(8)?, count(10)?]))
    }

    /// Where the next record starts; after the last one, where the message ends.
    pub fn position(&self) -> usize {
        self.at
    }
}

impl<'m> Iterator for Records<'m> {
    type Item = Result<(Section, RecordRef<'m>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.left.iter().position(|&left| left != 0)?;
        let section = [Section::Answer, Section::Authority, Section::Additional][index];
        match skip_record(self.message, self.at) {
            Ok(record) => {
                self.left[index] -= 1;
                self.at = record.end;
                Some(Ok((section, record)))
            }
            Err(broken) => {
                self.left = [0; 3];
                Some(Err(broken))
            }
        }
    }
}
