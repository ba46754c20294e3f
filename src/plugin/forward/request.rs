//! The query that goes out: the client's question and flags in a message of our own.
//!
//! Only what is listed here leaves. Octets behind the last record stay behind, and so do the options of the client's
//! OPT: EDNS is spoken hop by hop (RFC 6891, section 6.1.1), so a cookie, a keepalive or padding meant for us is
//! nothing to the upstream, and a client subnet that we did not check is not ours to pass on (RFC 7871, section 7.1.2).

use std::sync::Arc;

use crate::wire::code::{Class, RecordType};
use crate::wire::name::NameRef;
use crate::wire::query::{Query, flag};
use crate::wire::{HEADER_LEN, UDP_PAYLOAD_DEFAULT};

/// One question to an upstream.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The message; its ID is filled in for each attempt.
    octets: Box<[u8]>,
    /// The same with QNAME in lower case, and how it is to be sent where the ID would be. Two requests with equal
    /// keys want the same reply.
    key: Arc<[u8]>,
    question_end: usize,
    /// The client asked over TCP.
    pub(super) over_tcp: bool,
    /// A truncated reply is of no use to whoever asks.
    pub(super) whole: bool,
}

impl Request {
    /// What a client asked. RD, CD and AD are its own; an OPT goes out if it sent one, with DO as it was.
    pub(super) fn forwarded(query: &Query<'_>, over_tcp: bool, whole: bool) -> Self {
        let flags = query.message()[3] & flag::AD;
        Self::with_flags(query, flags, over_tcp, whole)
    }

    /// The same with AD set: the reply is kept for clients who ask for it (RFC 6840, section 5.7).
    pub(super) fn forwarded_with_ad(query: &Query<'_>, over_tcp: bool, whole: bool) -> Self {
        Self::with_flags(query, flag::AD, over_tcp, whole)
    }

    fn with_flags(query: &Query<'_>, authentic_data: u8, over_tcp: bool, whole: bool) -> Self {
        let flags = [
            query.message()[2] & flag::RD,
            query.message()[3] & flag::CD | authentic_data,
        ];
        let edns = query.edns().map(|edns| edns.dnssec_ok);
        Self::new(flags, query.question_octets(), edns, over_tcp, whole)
    }

    /// A question of our own, without EDNS.
    pub(super) fn own(qname: NameRef<'_>, qtype: RecordType, recursion_desired: bool) -> Self {
        let mut question = Vec::with_capacity(qname.len() + 4);
        question.extend_from_slice(qname.as_wire());
        question.extend_from_slice(&qtype.0.to_be_bytes());
        question.extend_from_slice(&Class::IN.0.to_be_bytes());
        let flags = [if recursion_desired { flag::RD } else { 0 }, 0];
        Self::new(flags, &question, None, false, false)
    }

    fn new(
        flags: [u8; 2],
        question: &[u8],
        dnssec_ok: Option<bool>,
        over_tcp: bool,
        whole: bool,
    ) -> Self {
        let mut octets = Vec::with_capacity(HEADER_LEN + question.len() + 11);
        octets.extend_from_slice(&[u8::from(over_tcp), u8::from(whole)]);
        octets.extend_from_slice(&flags);
        let additional = u8::from(dnssec_ok.is_some());
        octets.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, additional]);
        octets.extend_from_slice(question);
        let question_end = octets.len();
        if let Some(dnssec_ok) = dnssec_ok {
            octets.push(0);
            octets.extend_from_slice(&RecordType::OPT.0.to_be_bytes());
            octets.extend_from_slice(&UDP_PAYLOAD_DEFAULT.to_be_bytes());
            octets.extend_from_slice(&[0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
        }
        let mut key: Arc<[u8]> = octets.as_slice().into();
        let qname = HEADER_LEN..question_end - 4;
        Arc::make_mut(&mut key)[qname].make_ascii_lowercase();
        Self {
            octets: octets.into(),
            key,
            question_end,
            over_tcp,
            whole,
        }
    }

    /// The message with this ID.
    pub(super) fn message(&self, id: u16) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.octets.len());
        self.write(id, &mut message);
        message
    }

    /// Appends it.
    pub(super) fn write(&self, id: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&self.octets[2..]);
    }

    /// What tells it from other requests.
    pub(super) fn key(&self) -> &Arc<[u8]> {
        &self.key
    }

    /// What a reply must repeat.
    pub(super) fn asked(&self) -> Asked {
        Asked {
            key: Arc::clone(&self.key),
            end: self.question_end,
        }
    }
}

/// The question that a reply must repeat, QNAME in lower case.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    key: Arc<[u8]>,
    end: usize,
}

impl Asked {
    /// Name, type and class in wire form.
    pub(super) fn question(&self) -> &[u8] {
        &self.key[HEADER_LEN..self.end]
    }

    /// Type and class.
    pub(super) fn type_and_class(&self) -> &[u8; 4] {
        self.question()
            .last_chunk()
            .expect("a question ends in four octets")
    }

    /// Whether our OPT says that DNSSEC records are wanted (RFC 3225).
    pub(super) fn is_dnssec_ok(&self) -> bool {
        // Root, type, payload size, RCODE and version stand before the flags.
        self.key
            .get(self.end + 7)
            .is_some_and(|flags| flags & 0x80 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(text: &[u8], additionals: u8, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0x70, 0, 1, 0, 0, 0, 0, 0, additionals];
        message.extend_from_slice(text);
        message.extend_from_slice(&[0, 1, 0, 1]);
        message.extend_from_slice(rest);
        message
    }

    #[test]
    fn only_question_flags_and_our_own_opt_leave() {
        // A subnet that says 33 bits of IPv4, a cookie, and seven octets behind the last record.
        let opt = b"\0\0\x29\x10\0\0\0\x80\0\0\x14\0\x08\0\x08\0\x01\x21\0\x0a\0\0\0\0\x0a\0\x04abcdTRAILER";
        let message = octets(b"\x03Web\x01a\0", 1, opt);
        let query = Query::parse(&message).unwrap();
        let request = Request::forwarded(&query, false, false);
        let expected = b"\xab\xcd\x01\x30\0\x01\0\0\0\0\0\x01\x03Web\x01a\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        assert_eq!(request.message(0xabcd), expected);
    }

    #[test]
    fn ad_is_set_for_whoever_is_asked_later() {
        let mut message = octets(b"\x01a\0", 0, b"");
        message[3] &= !flag::AD;
        let query = Query::parse(&message).unwrap();
        let plain = Request::forwarded(&query, false, false).message(1);
        let with_ad = Request::forwarded_with_ad(&query, false, false).message(1);
        assert_eq!(plain[3] | flag::AD, with_ad[3]);
        assert_eq!(plain[3] & flag::AD, 0);
    }

    #[test]
    fn a_client_without_edns_is_forwarded_without() {
        let message = octets(b"\x01a\0", 0, b"");
        let query = Query::parse(&message).unwrap();
        let sent = Request::forwarded(&query, false, false).message(1);
        assert_eq!(sent.len(), message.len());
        assert_eq!(sent[10..12], [0, 0]);
    }

    #[test]
    fn letter_case_alone_makes_no_other_request() {
        let key = |message: &[u8], over_tcp| {
            let query = Query::parse(message).unwrap();
            Request::forwarded(&query, over_tcp, false).key().to_vec()
        };
        let plain = key(&octets(b"\x03web\x01a\0", 0, b""), false);
        assert_eq!(plain, key(&octets(b"\x03WeB\x01A\0", 0, b""), false));
        assert_ne!(plain, key(&octets(b"\x03wex\x01a\0", 0, b""), false));
        assert_ne!(plain, key(&octets(b"\x03web\x01a\0", 0, b""), true));
        let with_opt = octets(b"\x03web\x01a\0", 1, b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        assert_ne!(plain, key(&with_opt, false));
    }
}
