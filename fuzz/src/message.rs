use fingerpost::wire::code::RecordType;
use fingerpost::wire::record::{Records, Section};
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use hickory_proto::serialize::binary::BinEncodable;

use crate::fingerprint;

/// A record without its RDATA: section, owner, type, class, TTL.
type Outline = (u8, Vec<u8>, u16, u16, u32);

/// Any octets as a message: where both codecs read it, they read the same records.
///
/// Known differences, where one codec reads what the other refuses:
///
/// | message | here | hickory |
/// |---|---|---|
/// | not one question | refused | read |
/// | a pointer into the header or into its own name, or a name of more than 255 octets behind pointers | refused | some are read |
/// | a broken name in the RDATA of DNAME, which hickory has no type for | refused | read |
/// | RDATA of no octets where the type asks for some (hickory takes it for one of an update) | refused | read |
/// | RDATA that its type does not allow | not looked at | refused |
/// | OPT or a signature twice, or outside of the additional section, or not the last | not looked at | refused |
/// | octets behind the last record | not looked at | not looked at |
pub fn run(data: &[u8]) -> u64 {
    let ours = ours(data);
    let theirs = Message::from_vec(data).ok();
    if let (Some(ours), Some(theirs)) = (&ours, &theirs) {
        // Each codec has another place for those that are about the message.
        let is_special = |(section, _, record_type, ..): &Outline| {
            const SPECIAL: [RecordType; 3] = [RecordType::OPT, RecordType::TSIG, RecordType::SIG];
            *section == Section::Additional as u8 && SPECIAL.contains(&RecordType(*record_type))
        };
        let (special, plain): (Vec<Outline>, Vec<Outline>) =
            ours.iter().cloned().partition(is_special);
        let mut read = outlines(theirs);
        read.retain(|outline| !is_special(outline));
        assert_eq!(plain, read);
        let has_opt = special.iter().any(|outline| outline.2 == RecordType::OPT.0);
        assert_eq!(has_opt, theirs.edns.is_some());
    }
    if let (None, Some(theirs)) = (&ours, &theirs) {
        assert!(is_known(data, theirs), "we refuse what hickory reads");
    }
    let kinds = ours.as_ref().map(|all| {
        all.iter()
            .map(|one| (one.0, one.2.min(300)))
            .collect::<Vec<_>>()
    });
    fingerprint((kinds, theirs.is_some()))
}

fn ours(data: &[u8]) -> Option<Vec<Outline>> {
    let records = Records::of_message(data).ok()?;
    records
        .map(|record| {
            let (section, record) = record.ok()?;
            let owner = record.owner().as_ref().as_wire().to_vec();
            let (record_type, class) = (record.record_type.0, record.class.0);
            Some((section as u8, owner, record_type, class, record.ttl))
        })
        .collect()
}

fn outlines(message: &Message) -> Vec<Outline> {
    let section = |section: Section, records: &[Record]| {
        records
            .iter()
            .map(|record| {
                let owner = record.name.to_bytes().expect("it was read");
                let record_type = u16::from(record.record_type());
                (
                    section as u8,
                    owner,
                    record_type,
                    u16::from(record.dns_class),
                    record.ttl,
                )
            })
            .collect::<Vec<_>>()
    };
    [
        section(Section::Answer, &message.answers),
        section(Section::Authority, &message.authorities),
        section(Section::Additional, &message.additionals),
    ]
    .concat()
}

/// Whether the message is one of those in the table that only hickory reads.
fn is_known(data: &[u8], message: &Message) -> bool {
    // Written anew it has no odd pointers, so whatever we refuse then is something else.
    let again = message.to_vec();
    let is_lax = |record: &Record| {
        u16::from(record.record_type()) == RecordType::DNAME.0
            || matches!(record.data, RData::Update0(_))
    };
    let sections = [&message.answers, &message.authorities, &message.additionals];
    message.queries.len() != 1
        || sections.into_iter().flatten().any(is_lax)
        || again.is_ok_and(|octets| octets != data && ours(&octets).is_some())
}
