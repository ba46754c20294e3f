//! Tests of what belongs to a reply and what does not.

use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::{Asked, Request};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::Name;
use crate::wire::query::Query;
use crate::wire::record::{Records, Section};

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

fn wire(name: &str) -> Vec<u8> {
    Name::from_text(name).unwrap().as_ref().as_wire().to_vec()
}

/// `OWNER TYPE DATA`: an address, a name, or for other types octets as they are.
fn record(line: &str) -> Vec<u8> {
    let [owner, kind, data] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("three words: {line}");
    };
    let kind = RecordType::from_mnemonic(kind).unwrap();
    let rdata = match kind {
        RecordType::A => data
            .parse::<std::net::Ipv4Addr>()
            .unwrap()
            .octets()
            .to_vec(),
        RecordType::CNAME | RecordType::DNAME | RecordType::NS => wire(data),
        RecordType::SOA => [wire("ns."), wire("admin."), vec![0; 20]].concat(),
        RecordType::SRV => [vec![0; 6], wire(data)].concat(),
        RecordType::MX | RecordType::HTTPS => [vec![0; 2], wire(data)].concat(),
        RecordType::RRSIG => {
            let covered = RecordType::from_mnemonic(data).unwrap();
            [
                covered.0.to_be_bytes().to_vec(),
                vec![0; 16],
                wire("."),
                vec![7; 8],
            ]
            .concat()
        }
        _ => data.into(),
    };
    let mut octets = wire(owner);
    octets.extend_from_slice(&kind.0.to_be_bytes());
    octets.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    octets.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
    octets.extend_from_slice(&rdata);
    octets
}

fn asked(qname: &str, qtype: &str, dnssec_ok: bool) -> Asked {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(&wire(qname));
    message.extend_from_slice(&RecordType::from_mnemonic(qtype).unwrap().0.to_be_bytes());
    message.extend_from_slice(&[
        0,
        1,
        0,
        0,
        41,
        4,
        208,
        0,
        0,
        u8::from(dnssec_ok) << 7,
        0,
        0,
        0,
    ]);
    let query = Query::parse(&message).unwrap();
    Request::forwarded(&query, false, false).asked()
}

/// What is left of a reply: a line a record, as `section owner type`.
fn left(asked: &Asked, rcode: u8, sections: [&[&str]; 3]) -> (Reply, Vec<String>) {
    let mut message = vec![0, 1, 0x81, 0x80 | rcode, 0, 1];
    for lines in sections {
        message.extend_from_slice(&u16::try_from(lines.len()).unwrap().to_be_bytes());
    }
    message.extend_from_slice(asked.question());
    for line in sections.concat() {
        message.extend_from_slice(&record(line));
    }
    let reply = Reply::accept(&message, asked).unwrap();
    let left = Records::of_message(&reply.message)
        .unwrap()
        .map(Result::unwrap)
        .map(|(section, record)| {
            let section = match section {
                Section::Answer => "an",
                Section::Authority => "ns",
                Section::Additional => "ar",
            };
            format!(
                "{section} {} {}",
                record.owner().as_ref(),
                record.record_type
            )
        })
        .collect();
    assert_eq!(reply.stripped, reply.message != message);
    (reply, left)
}

#[test]
fn what_is_said_of_another_name_goes_wherever_it_stands() {
    let asked = asked("web.a", "A", false);
    let ours = "web.a A 192.0.2.1";
    let foreign = "victim.a A 6.6.6.6";
    for answer in [&[ours, foreign], &[foreign, ours]] {
        let (reply, left) = left(&asked, NOERROR, [answer, &[], &[]]);
        assert_eq!(left, ["an web.a. A"]);
        assert!(!reply.message.windows(4).any(|octets| octets == [6; 4]));
    }
}

#[test]
fn the_aliases_from_qname_stay_with_what_they_lead_to() {
    let asked = asked("web.a", "A", false);
    let chain = [
        "web.a CNAME WEB.cdn",
        "web.cdn CNAME x.cdn",
        "x.CDN A 192.0.2.1",
    ];
    let kept = ["an web.a. CNAME", "an web.cdn. CNAME", "an x.CDN. A"];
    assert_eq!(left(&asked, NOERROR, [&chain, &[], &[]]).1, kept);
    // In any order; the side branch goes.
    let mixed = [chain[2], "web.cdn CNAME y.cdn", "y.cdn A 6.6.6.6"];
    let mixed = [&[chain[0], chain[1]], &mixed[..]].concat();
    assert_eq!(left(&asked, NOERROR, [&mixed, &[], &[]]).1, kept);
    let turned = [chain[2], chain[1], chain[0]];
    assert_eq!(left(&asked, NOERROR, [&turned, &[], &[]]).1.len(), 3);
}

#[test]
fn a_redirection_of_the_tree_above_stays() {
    let asked = asked("web.old.a", "A", false);
    let answer = [
        "old.a DNAME new.b",
        "web.old.a CNAME web.new.b",
        "web.new.b A 192.0.2.1",
    ];
    assert_eq!(left(&asked, NOERROR, [&answer, &[], &[]]).1.len(), 3);
    let without_alias = [answer[0], answer[2], "web.old.b A 6.6.6.6"];
    let kept = ["an old.a. DNAME", "an web.new.b. A"];
    assert_eq!(left(&asked, NOERROR, [&without_alias, &[], &[]]).1, kept);
    let elsewhere = ["other.a DNAME new.b"];
    assert!(left(&asked, NOERROR, [&elsewhere, &[], &[]]).1.is_empty());
}

#[test]
fn another_type_of_the_same_name_was_not_asked() {
    let answer = ["web.a A 192.0.2.1", "web.a TXT x"];
    let (_, kept) = left(&asked("web.a", "A", false), NOERROR, [&answer, &[], &[]]);
    assert_eq!(kept, ["an web.a. A"]);
    let (_, kept) = left(&asked("web.a", "ANY", false), NOERROR, [&answer, &[], &[]]);
    assert_eq!(kept.len(), 2);
}

#[test]
fn an_alias_that_is_asked_for_is_not_followed() {
    let answer = ["web.a CNAME web.a"];
    let (_, kept) = left(
        &asked("web.a", "CNAME", false),
        NOERROR,
        [&answer, &[], &[]],
    );
    assert_eq!(kept, ["an web.a. CNAME"]);
}

#[test]
fn aliases_in_a_circle_are_a_failure() {
    let asked = asked("web.a", "A", false);
    let long: Vec<String> = (0..20)
        .map(|at| format!("n{at} CNAME n{}", at + 1))
        .collect();
    let mut long: Vec<&str> = long.iter().map(String::as_str).collect();
    long.insert(0, "web.a CNAME n0");
    for answer in [
        &["web.a CNAME web.a"][..],
        &["web.a CNAME b", "b CNAME c", "c CNAME b"],
        &["web.a CNAME B", "b CNAME WEB.a"],
        &["a DNAME a.a"],
        &long,
    ] {
        let (reply, left) = left(&asked, NOERROR, [answer, &[], &[]]);
        assert_eq!(
            (reply.rcode, reply.message[3] & 15),
            (Rcode::SERVFAIL, 2),
            "{answer:?}"
        );
        assert!(left.is_empty() && reply.extended_error.is_some());
    }
}

#[test]
fn beside_an_answer_there_is_no_authority_and_no_glue() {
    let sections: [&[&str]; 3] = [
        &["web.a A 192.0.2.1"],
        &["a NS ns.evil", "a SOA x"],
        &["ns.evil A 6.6.6.6"],
    ];
    let (_, kept) = left(&asked("web.a", "A", false), NOERROR, sections);
    assert_eq!(kept, ["an web.a. A"]);
}

#[test]
fn a_denial_keeps_the_soa_of_a_zone_above_the_final_name() {
    let asked = asked("web.a", "A", false);
    let authority = ["a SOA x", "b SOA x", "a NS ns.a", "a TXT x"];
    let (_, kept) = left(&asked, NXDOMAIN, [&[], &authority, &["ns.a A 6.6.6.6"]]);
    assert_eq!(kept, ["ns a. SOA"]);
    let (_, kept) = left(&asked, NXDOMAIN, [&["web.a CNAME web.b"], &authority, &[]]);
    assert_eq!(kept, ["an web.a. CNAME", "ns b. SOA"]);
}

#[test]
fn a_referral_keeps_its_name_servers_and_the_glue_within_the_zone() {
    let authority = ["a NS ns.a", "a NS ns.evil", "b NS ns.b"];
    let additional = ["ns.a A 192.0.2.1", "ns.evil A 6.6.6.6", "web.a A 6.6.6.6"];
    let (_, kept) = left(
        &asked("web.a", "A", false),
        NOERROR,
        [&[], &authority, &additional],
    );
    assert_eq!(kept, ["ns a. NS", "ns a. NS", "ar ns.a. A"]);
}

#[test]
fn addresses_of_hosts_that_the_answer_names_stay() {
    for (qtype, answer) in [
        ("SRV", "web.a SRV host.b"),
        ("MX", "web.a MX host.b"),
        ("NS", "web.a NS host.b"),
        ("HTTPS", "web.a HTTPS host.b"),
    ] {
        let additional = ["host.b A 192.0.2.1", "victim.b A 6.6.6.6", "host.b TXT x"];
        let sections: [&[&str]; 3] = [&[answer], &[], &additional];
        let (_, kept) = left(&asked("web.a", qtype, false), NOERROR, sections);
        assert_eq!(kept[1..], ["ar host.b. A"], "{qtype}");
    }
    let sections: [&[&str]; 3] = [&["web.a HTTPS ."], &[], &["web.a A 192.0.2.1"]];
    let (_, kept) = left(&asked("web.a", "HTTPS", false), NOERROR, sections);
    assert_eq!(kept.len(), 2);
}

#[test]
fn proofs_and_signatures_stay_for_those_who_ask_for_them() {
    let sections: [&[&str]; 3] = [
        &[
            "web.a CNAME x.a",
            "web.a RRSIG CNAME",
            "x.a A 192.0.2.1",
            "x.a RRSIG A",
            "x.a RRSIG TXT",
        ],
        &["b.a NSEC x", "b.a RRSIG NSEC", "a NS ns.evil"],
        &[],
    ];
    let (_, kept) = left(&asked("web.a", "A", true), NOERROR, sections);
    let answer = [
        "an web.a. CNAME",
        "an web.a. RRSIG",
        "an x.a. A",
        "an x.a. RRSIG",
    ];
    assert_eq!(kept[..4], answer);
    assert_eq!(kept[4..], ["ns b.a. NSEC", "ns b.a. RRSIG"]);
    let (_, kept) = left(&asked("web.a", "A", false), NOERROR, sections);
    assert_eq!(kept, answer);
}

#[test]
fn records_of_another_class_answer_nothing() {
    let asked = asked("web.a", "A", false);
    let mut chaos = record("web.a A 6.6.6.6");
    let class_at = wire("web.a").len() + 3;
    chaos[class_at] = 3;
    let mut message = vec![0, 1, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    message.extend_from_slice(asked.question());
    message.extend_from_slice(&record("web.a A 192.0.2.1"));
    message.extend_from_slice(&chaos);
    let reply = Reply::accept(&message, &asked).unwrap();
    assert_eq!(reply.message[6..8], [0, 1]);
    assert!(!reply.message.windows(4).any(|octets| octets == [6; 4]));
}
