use std::net::{Ipv4Addr, Ipv6Addr};

use fingerpost::wire::code::{Class, Rcode, RecordType};
use fingerpost::wire::edns::ExtendedError;
use fingerpost::wire::name::NameRef;
use fingerpost::wire::query::{Malformed, Query, write_rejection};
use fingerpost::wire::record::{Records, Section};
use fingerpost::wire::writer::{Owner, ReplyOpt, ReplyWriter, SoaTimes};
use fingerpost::wire::{HEADER_LEN, MESSAGE_MAX};
use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::serialize::binary::BinEncodable;

use crate::fingerprint;

/// Any datagram.
pub fn run(data: &[u8]) -> u64 {
    let theirs = Message::from_vec(data).ok();
    match Query::parse(data) {
        Ok(query) => {
            if let Some(theirs) = &theirs {
                agree(&query, theirs);
            }
            let reply = answer(&query);
            fingerprint((
                "query",
                query.qname().label_count(),
                query.edns().is_some(),
                theirs.is_some(),
                reply,
            ))
        }
        Err(Malformed::Reject(rcode)) => {
            assert!(
                !theirs.as_ref().is_some_and(is_plain),
                "a plain query is refused"
            );
            let mut out = Vec::new();
            write_rejection(data, rcode, &mut out);
            assert_eq!(out.len(), HEADER_LEN);
            assert_eq!(out[..2], data[..2]);
            fingerprint(("rejected", rcode.0, theirs.is_some()))
        }
        Err(Malformed::Drop) => {
            assert!(data.len() < HEADER_LEN || data[2] & 0x80 != 0);
            fingerprint(("dropped", data.len() < HEADER_LEN))
        }
    }
}

/// Nothing but a question and perhaps an OPT: nobody may refuse this. (No pointer can stand in its QNAME: hickory
/// follows one into the header.)
fn is_plain(message: &Message) -> bool {
    message.metadata.message_type == MessageType::Query
        && message.metadata.op_code == OpCode::Query
        && message.queries.len() == 1
        && message.answers.is_empty()
        && message.authorities.is_empty()
        && message.additionals.is_empty()
        && message.signature.is_none()
        && message.edns.is_none()
        && !message.queries[0]
            .name()
            .iter()
            .any(|label| label.len() > 63)
        && message
            .to_vec()
            .is_ok_and(|octets| Query::parse(&octets).is_err())
}

fn agree(query: &Query<'_>, theirs: &Message) {
    assert_eq!(theirs.metadata.id, query.id());
    assert_eq!(theirs.metadata.message_type, MessageType::Query);
    assert_eq!(theirs.metadata.recursion_desired, query.recursion_desired());
    assert_eq!(theirs.metadata.checking_disabled, query.checking_disabled());
    assert_eq!(theirs.queries.len(), 1);
    let question = &theirs.queries[0];
    assert_eq!(
        question.name().to_bytes().expect("it was read"),
        query.qname().as_wire()
    );
    assert_eq!(u16::from(question.query_type()), query.qtype().0);
    assert_eq!(u16::from(question.query_class()), query.qclass().0);
    assert_eq!(theirs.edns.is_some(), query.edns().is_some());
    if let (Some(theirs), Some(ours)) = (&theirs.edns, query.edns()) {
        assert_eq!(theirs.version(), ours.version);
        assert_eq!(theirs.flags().dnssec_ok, ours.dnssec_ok);
        assert_eq!(theirs.max_payload().max(512), ours.payload_size.max(512));
        assert!(ours.options().count() <= ours.options.len() / 4);
    }
}

/// Writes a reply whose records are chosen by the query's own octets, and reads it back with both codecs.
fn answer(query: &Query<'_>) -> u64 {
    let mut out = Vec::new();
    let mut reply = ReplyWriter::new(query, &mut out);
    let choices = query.message();
    let mut section = Section::Answer;
    for (at, &choice) in choices.iter().enumerate().skip(HEADER_LEN).take(200) {
        let names: Vec<NameRef<'_>> =
            std::iter::successors(Some(query.qname()), |name| name.parent()).collect();
        let name = names[at % names.len()];
        let owner = match choice % 3 {
            0 => Owner::Question,
            1 => Owner::QuestionSuffix(query.qname().len() - name.len()),
            _ => Owner::Name(name),
        };
        if choice % 61 == 60 && section < Section::Additional {
            section = if section == Section::Answer {
                Section::Authority
            } else {
                Section::Additional
            };
            reply.go_to(section);
        }
        write_record(&mut reply, owner, choice, name);
    }
    reply.rcode = Rcode(u16::from(choices[3] & 0x0f));
    reply.authoritative = choices[0] & 1 != 0;
    let why = ExtendedError::new(ExtendedError::OTHER, "fuzzed");
    let opt = query.edns().map(|edns| ReplyOpt {
        payload_size: 1232,
        dnssec_ok: edns.dnssec_ok,
        extended_error: (choices[1] & 1 != 0).then_some(&why),
        options: &[],
    });
    let limit = [512, 1232, 4096, MESSAGE_MAX][usize::from(choices[0] & 3)];
    reply.finish(query, limit, opt.as_ref());
    read_back(query, &out, limit)
}

fn write_record(reply: &mut ReplyWriter<'_>, owner: Owner<'_>, choice: u8, name: NameRef<'_>) {
    let ttl = u32::from(choice);
    match choice % 7 {
        0 => reply.a(owner, ttl, Ipv4Addr::from([choice; 4])),
        1 => reply.aaaa(owner, ttl, Ipv6Addr::from([choice; 16])),
        2 => reply.name_record(owner, RecordType::CNAME, ttl, name),
        3 => reply.srv(owner, ttl, 0, 100, 53, name),
        4 => reply.txt(owner, Class::IN, ttl, &[&[choice; 300], b"x"]),
        5 => reply.name_record(owner, RecordType::PTR, ttl, name),
        _ => reply.soa(
            owner,
            ttl,
            name,
            name,
            SoaTimes {
                serial: 1,
                refresh: 2,
                retry: 3,
                expire: 4,
                minimum: 5,
            },
        ),
    };
}

fn read_back(query: &Query<'_>, reply: &[u8], limit: usize) -> u64 {
    assert!(reply.len() <= limit);
    assert_eq!(reply[..2], query.message()[..2]);
    let question = query.question_octets();
    assert_eq!(&reply[HEADER_LEN..HEADER_LEN + question.len()], question);
    let mut records = Records::of_message(reply).expect("we read what we write");
    let ours: Vec<Vec<u8>> = records
        .by_ref()
        .map(|record| {
            record
                .expect("we read what we write")
                .1
                .owner()
                .as_ref()
                .as_wire()
                .to_vec()
        })
        .collect();
    assert_eq!(
        records.position(),
        reply.len(),
        "no octets behind the last record"
    );
    let theirs = Message::from_vec(reply).expect("hickory reads what we write");
    let others = theirs
        .answers
        .iter()
        .chain(&theirs.authorities)
        .chain(&theirs.additionals);
    let owners: Vec<Vec<u8>> = others
        .map(|record| record.name.to_bytes().expect("it was read"))
        .collect();
    assert_eq!(ours[..owners.len()], owners[..]);
    assert_eq!(
        ours.len(),
        owners.len() + usize::from(theirs.edns.is_some())
    );
    fingerprint((
        owners.len() / 4,
        theirs.metadata.truncation,
        theirs.edns.is_some(),
    ))
}
