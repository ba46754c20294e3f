use std::fs;
use std::sync::Arc;

use crate::chain::exchange::Protocol;
use crate::chain::plugin::Plugin;
use crate::plugin::cookie::SPEC;
use crate::plugin::testing::bench::{Ask, Bench, Link, Upstream, fault, runtime};
use crate::plugin::testing::{Bed, config, parse, send};
use crate::server::process::Process;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::writer::Owner;

const SECRET: &str = "cookie {\n secret e5e973e5a6b2a43f48e7dc849e37bfcf\n}";
const REQUIRED: &str = "cookie {\n secret e5e973e5a6b2a43f48e7dc849e37bfcf\n require\n}";
const CLIENT: [u8; 8] = [0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57];

fn links(text: &'static str) -> Vec<Link> {
    let upstream = Upstream::answering(|exchange, _| {
        exchange.reply.a(Owner::Question, 30, [192, 0, 2, 1].into());
    });
    vec![Link::Corefile(&SPEC, text), Link::Made(upstream)]
}

/// A query with these COOKIE options.
fn query(cookies: &[&[u8]]) -> Vec<u8> {
    let mut ask = Ask::new("web.example.org", RecordType::A);
    ask.edns = Some((1232, false));
    let mut message = ask.octets();
    let rdlength = message.len() - 2;
    for cookie in cookies {
        message.extend_from_slice(&[0, 10, 0, u8::try_from(cookie.len()).unwrap()]);
        message.extend_from_slice(cookie);
    }
    let length = u16::try_from(message.len() - rdlength - 2).unwrap();
    message[rdlength..rdlength + 2].copy_from_slice(&length.to_be_bytes());
    message
}

fn ask(bench: &Bench, message: &[u8], protocol: Protocol) -> (Rcode, Option<Vec<u8>>) {
    let mut arrival = Ask::new("x", RecordType::A).arrival;
    arrival.protocol = protocol;
    let reply = send(&bench.zones, message, arrival).expect("a reply");
    let read = hickory_proto::op::Message::from_vec(&reply).expect("a message");
    let edns = read.edns.expect("the query has one");
    let code = hickory_proto::rr::rdata::opt::EdnsCode::Cookie;
    let cookie = edns.option(code).map(|option| match option {
        hickory_proto::rr::rdata::opt::EdnsOption::Unknown(10, octets) => octets.clone(),
        other => panic!("{other:?}"),
    });
    let rcode = u16::from(edns.rcode_high()) << 4 | u16::from(reply[3] & 15);
    (Rcode(rcode), cookie)
}

#[test]
fn a_client_s_cookie_comes_back_with_ours_which_is_then_known() {
    for text in [SECRET, "cookie"] {
        let bench = Bench::new(links(text));
        let (rcode, cookie) = ask(&bench, &query(&[&CLIENT]), Protocol::Udp);
        let cookie = cookie.expect("a cookie");
        assert_eq!((rcode, cookie.len()), (Rcode::NOERROR, 24));
        assert_eq!(cookie[..8], CLIENT);
        assert_eq!(cookie[8..12], [1, 0, 0, 0]);
        let (_, again) = ask(&bench, &query(&[&cookie]), Protocol::Udp);
        assert_eq!(again, Some(cookie));
        let counted = bench.metrics("fingerpost_cookie_queries_total");
        for expected in [
            r#"fingerpost_cookie_queries_total{cookie="new"} 1"#,
            r#"fingerpost_cookie_queries_total{cookie="valid"} 1"#,
        ] {
            assert!(counted.iter().any(|line| line == expected), "{counted:?}");
        }
    }
}

#[test]
fn clients_without_cookies_see_no_difference() {
    for text in [SECRET, REQUIRED] {
        let bench = Bench::new(links(text));
        assert_eq!(
            ask(&bench, &query(&[]), Protocol::Udp),
            (Rcode::NOERROR, None)
        );
        let plain = bench.ask("web.example.org", RecordType::A);
        assert_eq!(
            (plain.rcode(), plain.payload_size()),
            (Rcode::NOERROR, None)
        );
    }
}

#[test]
fn of_two_cookies_the_first_counts_and_a_malformed_one_is_an_error() {
    let bench = Bench::new(links(SECRET));
    let (rcode, cookie) = ask(&bench, &query(&[&CLIENT, &[9; 8]]), Protocol::Udp);
    assert_eq!(rcode, Rcode::NOERROR);
    assert_eq!(cookie.expect("a cookie")[..8], CLIENT);
    for length in [0, 7, 9, 41] {
        let (rcode, cookie) = ask(&bench, &query(&[&vec![1; length]]), Protocol::Udp);
        assert_eq!((rcode, cookie), (Rcode::FORMERR, None), "{length}");
    }
}

#[test]
fn require_sends_those_away_over_udp_who_use_cookies_without_ours() {
    let bench = Bench::new(links(REQUIRED));
    let forged: Vec<u8> = CLIENT.iter().copied().chain([7; 16]).collect();
    for sent in [&CLIENT[..], &forged] {
        let (rcode, cookie) = ask(&bench, &query(&[sent]), Protocol::Udp);
        let cookie = cookie.expect("a cookie to come back with");
        assert_eq!(rcode, Rcode::BADCOOKIE);
        let (rcode, _) = ask(&bench, &query(&[&cookie]), Protocol::Udp);
        assert_eq!(rcode, Rcode::NOERROR);
        let (rcode, cookie) = ask(&bench, &query(&[sent]), Protocol::Tcp);
        assert_eq!((rcode, cookie.map(|c| c.len())), (Rcode::NOERROR, Some(24)));
    }
}

#[test]
fn replicas_with_one_secret_accept_each_other_s_cookies_also_while_it_changes() {
    let old = "e5e973e5a6b2a43f48e7dc849e37bfcf";
    let new = "445536bcd2513298075a5d379663c962";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secrets");
    fs::write(&file, format!("# first makes\n{new}\n\n{old}\n")).expect("written");
    let changed = format!("cookie {{\n secret {}\n require\n}}", file.display());
    let before = Bench::new(links(REQUIRED));
    let after = Bench::new(links(changed.leak()));
    let (_, cookie) = ask(&before, &query(&[&CLIENT]), Protocol::Udp);
    let (rcode, renewed) = ask(&after, &query(&[&cookie.expect("one")]), Protocol::Udp);
    let renewed = renewed.expect("one made with the new secret");
    assert_eq!(rcode, Rcode::NOERROR);
    assert_eq!(
        ask(&after, &query(&[&renewed]), Protocol::Udp).1,
        Some(renewed.clone())
    );
    // Who does not have the new secret yet must be given it before anyone makes cookies with it.
    assert_eq!(
        ask(&before, &query(&[&renewed]), Protocol::Udp).0,
        Rcode::BADCOOKIE
    );
}

#[test]
fn a_secret_that_was_drawn_outlives_a_reload() {
    let process = Process::new(runtime());
    let before = Bench::within(&process, 1, links("cookie {\n require\n}"));
    let (_, cookie) = ask(&before, &query(&[&CLIENT]), Protocol::Udp);
    let cookie = cookie.expect("one");
    let after = Bench::within(&process, 2, links("cookie {\n require\n}"));
    drop(before);
    assert_eq!(
        ask(&after, &query(&[&cookie]), Protocol::Udp).0,
        Rcode::NOERROR
    );
    let elsewhere = Bench::new(links("cookie {\n require\n}"));
    assert_eq!(
        ask(&elsewhere, &query(&[&cookie]), Protocol::Udp).0,
        Rcode::BADCOOKIE
    );
}

#[test]
fn room_for_the_cookie_is_made_before_the_reply_is_cut() {
    let upstream = Upstream::answering(|exchange, _| {
        for last in 0..200 {
            exchange
                .reply
                .a(Owner::Question, 30, [192, 0, 2, last].into());
        }
    });
    let bench = Bench::new(vec![Link::Corefile(&SPEC, SECRET), Link::Made(upstream)]);
    let arrival = Ask::new("x", RecordType::A).arrival;
    let reply = send(&bench.zones, &query(&[&CLIENT]), arrival).expect("a reply");
    assert!(reply.len() <= 1232 && reply.len() > 1232 - 16);
    assert_eq!(
        ask(&bench, &query(&[&CLIENT]), Protocol::Udp)
            .1
            .map(|c| c.len()),
        Some(24)
    );
}

#[test]
fn faults_name_no_secret() {
    for (text, expected) in [
        ("cookie x", "`cookie` takes no `x` @ x"),
        (
            "cookie {\n secret\n}",
            "`secret` needs 32 hexadecimal digits, or a file @ secret",
        ),
        (
            "cookie {\n requires\n}",
            "`cookie` has no option `requires` @ requires",
        ),
        (
            "cookie {\n secret a\n secret a\n secret a\n secret a\n secret a\n}",
            "more than 4 secrets @ a",
        ),
    ] {
        assert_eq!(fault(&SPEC, text), expected);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secrets");
    for (content, expected) in [
        (Some("not a secret"), "needs lines of 32 hexadecimal digits"),
        (Some(""), "needs lines of 32 hexadecimal digits"),
        (Some(&*"0".repeat(5000)), "is too large"),
        (
            None,
            "cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        let _ = fs::remove_file(&file);
        if let Some(content) = content {
            fs::write(&file, content).expect("written");
        }
        let text = format!("cookie {{\n secret {}\n}}", file.display());
        let built = Bed::new().build(&*config(&SPEC, &text));
        let error = built
            .map(|links: Vec<Arc<dyn Plugin>>| links.len())
            .expect_err("a fault");
        assert_eq!(
            error.0,
            format!("file of secrets `{}` {expected}", file.display())
        );
    }
    let (config, _) = parse(&SPEC, SECRET);
    assert!(!format!("{config:?}").contains("e5e9"));
}
