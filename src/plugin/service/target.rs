//! What the rest of the server says about the name that a Service leads to.

use crate::chain::plugin::{Answer, Failure, Verdict};
use crate::wire::MESSAGE_MAX;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::query::{Query, flag};
use crate::wire::record::{Records, Section};
use crate::wire::writer::{Owner, ReplyWriter};

/// Copies the answer section of a message into the current section, up to where it leads back to QNAME. Types whose
/// RDATA may hold compressed names and that answer no question for addresses are left out.
pub(in crate::plugin) fn copy_answer(message: &[u8], reply: &mut ReplyWriter<'_>) {
    reply.truncated |= message.get(2).is_some_and(|octet| octet & flag::TC != 0);
    let Ok(records) = Records::of_message(message) else {
        return;
    };
    for (section, record) in records.flatten() {
        if section != Section::Answer {
            return;
        }
        let owner = record.owner();
        if record.record_type == RecordType::CNAME && owner.as_ref() == reply.qname() {
            return;
        }
        let owner = Owner::Name(owner.as_ref());
        match record.record_type {
            RecordType::CNAME | RecordType::DNAME => {
                if let Ok(target) = record.rdata_name() {
                    reply.name_record(owner, record.record_type, record.ttl, target.as_ref());
                }
            }
            RecordType::A | RecordType::AAAA | RecordType::RRSIG => {
                reply.record(
                    owner,
                    record.record_type,
                    record.class,
                    record.ttl,
                    |rdata| rdata.octets(record.rdata()),
                );
            }
            _ => {}
        }
    }
}

/// A whole reply, written for a query that waited. The extended error is of what was known before.
pub(in crate::plugin) fn late_reply(
    query: &[u8],
    extended_error: Option<ExtendedError>,
    write: impl FnOnce(&mut ReplyWriter<'_>),
) -> Verdict {
    let Ok(query) = Query::parse(query) else {
        return Verdict::Fail(Failure {
            rcode: Rcode::SERVFAIL,
            error: "the query was changed while it waited".into(),
            extended_error: None,
        });
    };
    let mut message = Vec::with_capacity(512);
    let mut reply = ReplyWriter::new(&query, &mut message);
    write(&mut reply);
    reply.finish(&query, MESSAGE_MAX, None);
    Verdict::Reply(Answer {
        message,
        extended_error,
        ..Answer::default()
    })
}
