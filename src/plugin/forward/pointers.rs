//! Whether the compressed names of a reply are made of names.
//!
//! A pointer leads to a prior occurrence of a name (RFC 1035, section 4.1.4). One that leads into a TTL or an address
//! can be read too, but then the name changes as the cache counts the TTL down or `loadbalance` moves the address, and
//! a reply that was whole may break on its way to the client.

use std::ops::Range;

use crate::wire::code::RecordType;
use crate::wire::record::{Broken, RecordRef, name_offset, skip_parts};

/// Where no pointer may lead, of the records seen so far, in their order.
#[derive(Default)]
pub(super) struct Pointers {
    forbidden: Vec<Range<usize>>,
}

impl Pointers {
    /// Whether the names of the next record are made of names.
    pub(super) fn admit(&mut self, message: &[u8], record: &RecordRef<'_>) -> bool {
        let is_whole = self.check(message, record).is_ok();
        let is_address = matches!(record.record_type, RecordType::A | RecordType::AAAA);
        let end = match is_address {
            true => record.end,
            false => record.rdata_at,
        };
        // From TYPE, which stands before CLASS and TTL, to RDLENGTH.
        self.forbidden.push(record.ttl_at - 4..end);
        is_whole
    }

    fn check(&self, message: &[u8], record: &RecordRef<'_>) -> Result<(), Broken> {
        self.check_name(message, record.start)?;
        let Some(offset) = name_offset(record.record_type) else {
            return Ok(());
        };
        let end = self.check_name(message, record.rdata_at + offset)?;
        if record.record_type == RecordType::SOA {
            self.check_name(message, end)?;
        }
        Ok(())
    }

    fn check_name(&self, message: &[u8], at: usize) -> Result<usize, Broken> {
        let mut is_name = true;
        let end = skip_parts(message, at, |part| is_name &= !self.forbids(&part))?;
        if is_name { Ok(end) } else { Err(Broken) }
    }

    fn forbids(&self, part: &Range<usize>) -> bool {
        let behind = self
            .forbidden
            .partition_point(|range| range.end <= part.start);
        self.forbidden
            .get(behind)
            .is_some_and(|range| range.start < part.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::Records;

    /// Whether all is admitted of a reply to `a.` A, its records given as they stand.
    fn admits(records: &[&[u8]]) -> bool {
        let mut message = b"\0\0\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
        message[7] = records.len() as u8;
        message.extend(records.concat());
        let mut pointers = Pointers::default();
        Records::of_message(&message)
            .expect("a question")
            .all(|record| pointers.admit(&message, &record.expect("it can be read").1))
    }

    /// An A record of `a.` at 19: its TTL stands at 25 and its address at 31.
    const ADDRESS: &[u8] = b"\xc0\x0c\0\x01\0\x01\x01b\0\0\0\x04\x01c\0\x01";

    #[test]
    fn a_pointer_to_a_name_is_admitted() {
        let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x04\x01d\xc0\x0c";
        // At 47 stands the name that the alias leads to.
        let next = b"\xc0\x2f\0\x01\0\x01\0\0\0\x01\0\x04\x7f\0\0\x01";
        assert!(admits(&[ADDRESS, alias, next]));
    }

    #[test]
    fn a_name_made_of_a_ttl_is_not_admitted() {
        let owner = b"\xc0\x19\0\x01\0\x01\0\0\0\x01\0\x04\x7f\0\0\x01";
        assert!(!admits(&[ADDRESS, owner]));
        let target = b"\xc0\x0c\0\x0f\0\x01\0\0\0\x01\0\x04\0\x01\xc0\x19";
        assert!(!admits(&[ADDRESS, target]));
    }

    #[test]
    fn a_name_made_of_an_address_is_not_admitted() {
        let owner = b"\xc0\x1f\0\x01\0\x01\0\0\0\x01\0\x04\x7f\0\0\x01";
        assert!(!admits(&[ADDRESS, owner]));
        let target = b"\xc0\x0c\0\x06\0\x01\0\0\0\x01\0\x18\xc0\x0c\xc0\x1f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert!(!admits(&[ADDRESS, target]));
    }
}
