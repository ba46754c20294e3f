use std::fmt::Write;

use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::record::{Records, Section};
use hickory_proto::op::Message;

use crate::fingerprint;
use crate::server::{Server, ask, query};

const COOKIE: u16 = 10;
const EXTENDED_ERROR: u16 = 15;

/// Octets of the answer without limit: all of them are too many for any datagram that we send.
const ADDRESSES: usize = 100;

thread_local! {
    static SERVER: Server = Server::new(&corefile());
}

fn corefile() -> String {
    let mut text = ". {\n cookie\n hosts {\n".to_owned();
    for last in 0..ADDRESSES {
        writeln!(text, "10.0.0.{last} web.example.org").expect("text");
    }
    text + "}\n}\n"
}

/// Payload size (2 octets), version, flags (2), and any octets as the options of a query's OPT.
pub fn run(data: &[u8]) -> u64 {
    let Some((fixed, options)) = data.split_at_checked(5) else {
        return 0;
    };
    let options = &options[..options.len().min(4000)];
    let message = message(fixed, options);
    let reply = SERVER.with(|server| {
        let reply = ask(&server.zones, &message, Protocol::Udp);
        server.runtime.block_on(reply)
    });
    let reply = reply.expect("every query of ours is answered");
    let Some(options) = whole(options) else {
        assert_eq!(reply.len(), 12);
        assert_eq!(u16::from(reply[3] & 15), Rcode::FORMERR.0);
        return fingerprint("broken options");
    };
    let (rcode, sent) = opt_of(&reply);
    let sent = sent.expect("an OPT is answered with an OPT");
    let size = u16::from_be_bytes([fixed[0], fixed[1]]);
    assert!(reply.len() <= usize::from(size.clamp(512, 1232)));
    let cookie = options.iter().find(|(code, _)| *code == COOKIE);
    let is_cookie = |length: usize| length == 8 || (16..=40).contains(&length);
    let expected = match cookie {
        _ if fixed[2] != 0 => Rcode::BADVERS,
        Some((_, data)) if !is_cookie(data.len()) => Rcode::FORMERR,
        _ => Rcode::NOERROR,
    };
    assert_eq!(rcode, expected);
    let truncated = reply[2] & 2 != 0;
    assert_eq!(
        truncated,
        expected == Rcode::NOERROR,
        "{ADDRESSES} do not fit"
    );
    for (code, data) in &sent {
        match *code {
            COOKIE => {
                let (_, asked) = cookie.expect("none comes unasked");
                assert_eq!((data.len(), &data[..8]), (24, &asked[..8]));
            }
            EXTENDED_ERROR => assert!(data.len() >= 2),
            code => panic!("option {code} comes back"),
        }
    }
    let is_answered = sent.iter().any(|(code, _)| *code == COOKIE);
    assert_eq!(is_answered, expected == Rcode::NOERROR && cookie.is_some());
    Message::from_vec(&reply).expect("hickory reads what we write");
    let lengths: Vec<_> = options
        .iter()
        .map(|(code, data)| (code.min(&20), data.len().min(42)))
        .collect();
    fingerprint((expected.0, lengths, fixed[3] & 0x80))
}

fn message(fixed: &[u8], options: &[u8]) -> Vec<u8> {
    let mut message = query("web.example.org");
    message[11] = 1;
    message.extend_from_slice(&[
        0, 0, 41, fixed[0], fixed[1], 0, fixed[2], fixed[3], fixed[4],
    ]);
    let length = u16::try_from(options.len()).expect("cut to 4000");
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(options);
    message
}

/// Code and data of each option; none if the row of them is broken. Not by the code under test.
fn whole(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let code = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        options.push((code, rest.get(4..4 + length)?));
        rest = &rest[4 + length..];
    }
    Some(options)
}

type Options<'m> = Option<Vec<(u16, &'m [u8])>>;

/// The whole RCODE of a reply, and the options of its only OPT.
fn opt_of(reply: &[u8]) -> (Rcode, Options<'_>) {
    let mut rcode = Rcode(u16::from(reply[3] & 15));
    let mut found = None;
    for record in Records::of_message(reply).expect("we read what we write") {
        let (section, record) = record.expect("we read what we write");
        if record.record_type == RecordType::OPT {
            assert!(section == Section::Additional && found.is_none());
            let [high, version, _, _] = record.ttl.to_be_bytes();
            assert_eq!((version, record.class.0), (0, 1232));
            rcode.0 |= u16::from(high) << 4;
            found = Some(whole(record.rdata()).expect("whole options"));
        }
    }
    (rcode, found)
}
