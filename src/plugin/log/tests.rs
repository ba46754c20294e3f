//! Rules of `log`, one test each.

use std::any::Any;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::exchange::{Arrival, Exchange, Protocol};
use crate::chain::plugin::{Plugin, Step};
use crate::plugin::log::config::LogConfig;
use crate::plugin::log::{Log, SPEC};
use crate::plugin::testing::{
    Bed, Below, arrival, ask, config, faults, parse, query, send, with_edns, zones,
};
use crate::telemetry::logging::TestLog;
use crate::wire::code::{Class, Rcode, RecordType};
use crate::wire::name::Name;
use crate::wire::record::Section;
use crate::wire::writer::{Owner, SoaTimes};
use crate::zone::Zones;

/// A server that logs as `text` says, and its log.
fn logged(text: &str, below: impl Plugin) -> (Arc<Zones>, TestLog) {
    let (config, _) = parse(&SPEC, text);
    let config = config.unwrap();
    let config = (&*config as &dyn Any).downcast_ref::<LogConfig>().unwrap();
    let log = TestLog::new();
    let link = Log::new(config.rules.clone(), Arc::clone(&log.lines));
    (zones(".", vec![Arc::new(link), Arc::new(below)]), log)
}

/// The line of one A question for a.org with this format.
fn line(format: &str, below: impl Plugin) -> String {
    let (zones, log) = logged(&format!("log . \"{format}\""), below);
    ask(&zones, "a.org", RecordType::A);
    log.text()
}

/// A line whose last word is a duration, without it.
fn without_duration(text: &str) -> &str {
    let (line, duration) = text.trim_end().rsplit_once(' ').unwrap();
    let seconds: f64 = duration.strip_suffix('s').unwrap().parse().unwrap();
    assert!((0.0..60.0).contains(&seconds), "{duration}");
    line
}

#[test]
fn the_default_line_is_that_of_coredns() {
    let (zones, log) = logged("log", Below::Address);
    ask(&zones, "A.org", RecordType::A);
    // 23 octets of query, then a.org. (7), the fixed fields (10) and an address (4).
    assert_eq!(
        without_duration(&log.text()),
        "[INFO] 10.240.0.1:40212 - 1 \"A IN a.org. udp 23 false 512\" NOERROR qr,rd 44"
    );
}

#[test]
fn bufsize_is_the_limit_that_holds_and_duration_begins_with_the_reception() {
    let (zones, log) = logged("log . \"{>bufsize} {duration}\"", Below::Address);
    let received = arrival().received;
    let early = received.checked_sub(Duration::from_secs(5)).unwrap();
    let arrival = Arrival {
        received: early,
        ..arrival()
    };
    let query = with_edns(query("a.org", RecordType::A), 4096, false);
    send(&zones, &query, arrival);
    let text = log.text();
    let duration = text.trim_end().strip_prefix("[INFO] 1232 ").unwrap();
    let seconds: f64 = duration.strip_suffix('s').unwrap().parse().unwrap();
    assert!(seconds >= 5.0, "{duration}");
}

#[test]
fn the_combined_format_adds_the_opcode() {
    let (zones, log) = logged("log . {combined}", Below::Address);
    let tcp_and_ipv6 = Arrival {
        client: (Ipv6Addr::LOCALHOST, 53000).into(),
        protocol: Protocol::Tcp,
        ..arrival()
    };
    send(
        &zones,
        &with_edns(query("a.org", RecordType(1234)), 4096, true),
        tcp_and_ipv6,
    );
    let text = log.text();
    let line = text.trim_end().strip_suffix(" \"0\"").unwrap();
    assert_eq!(
        without_duration(line),
        "[INFO] [::1]:53000 - 1 \"TYPE1234 IN a.org. tcp 34 true 65535\" NOERROR qr,rd 44"
    );
}

#[test]
fn a_failure_is_logged_as_the_reply_that_is_sent_and_silence_as_dashes() {
    let format = "{rcode} {>rflags} {rsize}";
    assert_eq!(
        line(format, Below::Error("broken")),
        "[INFO] SERVFAIL qr,rd 23\n"
    );
    assert_eq!(
        line(format, Below::Rcode(Rcode(11))),
        "[INFO] 11 qr,rd 23\n"
    );
    assert_eq!(line(format, Below::Drop), "[INFO] - - 0\n");
}

#[test]
fn a_reply_that_will_be_cut_shows_its_whole_size_and_tc() {
    assert_eq!(
        line("{>rflags} {rsize}", Below::Addresses(100)),
        "[INFO] qr,tc,rd 2123\n"
    );
}

#[test]
fn placeholders_are_known_by_their_exact_names_and_the_rest_stands_for_itself() {
    assert_eq!(
        line(
            "a} {nope} {Type} {{name}} {/log/class} {local} {",
            Below::Address
        ),
        "[INFO] a} {nope} {Type} {a.org.} - 127.0.0.1 {\n"
    );
}

#[test]
fn common_is_a_macro() {
    let text = line("<{common}>", Below::Address);
    assert!(
        text.starts_with("[INFO] <10.240.0.1:40212 - 1 \"A IN a.org. udp"),
        "{text}"
    );
    assert!(text.ends_with("s>\n"), "{text}");
}

/// Answers with one record of each kind that holds compressed names.
struct Names;

impl Plugin for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let target = Name::from_text("b.a.org").unwrap();
        let target = target.as_ref();
        let times = SoaTimes {
            serial: 1,
            refresh: 2,
            retry: 3,
            expire: 4,
            minimum: 5,
        };
        let reply = &mut exchange.reply;
        reply.name_record(Owner::Question, RecordType::CNAME, 5, target);
        reply.srv(Owner::Question, 5, 0, 0, 53, target);
        reply.record(Owner::Question, RecordType::MX, Class::IN, 5, |rdata| {
            rdata.octets(&[0, 10]);
            rdata.compressed_name(target);
        });
        reply.go_to(Section::Authority);
        reply.soa(Owner::Question, 5, target, target, times);
        Step::Answered
    }
}

#[test]
fn the_size_of_a_reply_counts_every_name_in_full() {
    let fixed = 4 * (7 + 10);
    let rdata = 9 + (6 + 9) + (2 + 9) + (9 + 9 + 20);
    let size = 23 + fixed + rdata;
    assert_eq!(line("{rsize}", Names), format!("[INFO] {size}\n"));
}

#[test]
fn a_name_cannot_forge_a_line() {
    let (zones, log) = logged("log . {name}", Below::Address);
    ask(&zones, "a\\010\\\"b.org", RecordType::A);
    assert_eq!(log.text(), "[INFO] a\\010\\\"b.org.\n");
}

#[test]
fn the_first_rule_whose_name_holds_the_question_decides() {
    let text = "log example.org {\nclass error\n}\nlog org net \"{name}\"";
    let (zones, log) = logged(text, Below::Address);
    ask(&zones, "www.EXAMPLE.org", RecordType::A);
    ask(&zones, "a.com", RecordType::A);
    assert_eq!(log.text(), "");
    ask(&zones, "org", RecordType::A);
    ask(&zones, "b.net", RecordType::A);
    assert_eq!(log.text(), "[INFO] org.\n[INFO] b.net.\n");
}

/// Answers as the first label says.
struct ByName;

impl Plugin for ByName {
    fn name(&self) -> &'static str {
        "by_name"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let label = exchange.qname().labels().next().unwrap().to_vec();
        let name = Name::from_text("ns.org").unwrap();
        let times = SoaTimes {
            serial: 1,
            refresh: 1,
            retry: 1,
            expire: 1,
            minimum: 1,
        };
        let reply = &mut exchange.reply;
        match label.as_slice() {
            b"data" => drop(reply.a(Owner::Question, 5, [1, 1, 1, 1].into())),
            b"nodata" => {
                reply.go_to(Section::Authority);
                reply.soa(Owner::Question, 5, name.as_ref(), name.as_ref(), times);
            }
            b"referral" => {
                reply.go_to(Section::Authority);
                reply.name_record(Owner::Question, RecordType::NS, 5, name.as_ref());
            }
            b"nxdomain" => reply.rcode = Rcode::NXDOMAIN,
            b"half" => {
                reply.a(Owner::Question, 5, [1, 1, 1, 1].into());
                reply.rcode = Rcode::NXDOMAIN;
            }
            b"refused" => reply.rcode = Rcode::REFUSED,
            b"stale" => {
                // Expired in 1970, two seconds after it began.
                reply.record(Owner::Question, RecordType::RRSIG, Class::IN, 5, |rdata| {
                    rdata.octets(&[0, 1, 8, 1, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
                });
            }
            b"empty" => {}
            _ => return Step::Drop,
        }
        Step::Answered
    }
}

#[test]
fn a_reply_is_success_denial_or_error() {
    for (class, expected) in [
        ("success", "data referral stale empty"),
        ("denial", "nodata nxdomain"),
        ("error", "half refused drop"),
        ("denial error", "nodata nxdomain half refused drop"),
    ] {
        let text = format!("log . \"{{name}}\" {{\nclass {class}\n}}");
        let (zones, log) = logged(&text, ByName);
        for label in [
            "data", "nodata", "referral", "nxdomain", "half", "refused", "stale", "empty", "drop",
        ] {
            ask(&zones, label, RecordType::A);
        }
        let found = log.text().replace("[INFO] ", "").replace(".\n", " ");
        assert_eq!(found.trim_end(), expected, "{class}");
    }
}

#[test]
fn a_transfer_and_a_stale_signature_for_who_asked_for_it_are_errors() {
    let (zones, log) = logged("log . \"{name}\" {\nclass error\n}", ByName);
    send(
        &zones,
        &with_edns(query("stale", RecordType::A), 1232, true),
        arrival(),
    );
    ask(&zones, "data", RecordType::AXFR);
    assert_eq!(log.text(), "[INFO] stale.\n[INFO] data.\n");
}

#[test]
fn lines_that_are_lost_are_a_metric() {
    let mut bed = Bed::new();
    bed.build(&*config(&SPEC, "log")).unwrap();
    let metrics = bed.metrics();
    assert!(metrics.contains("# TYPE fingerpost_log_dropped_total counter\n"));
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (text, fault) in [
        (
            "log {combined}",
            "warning: `{combined}` is read as a name, not as a format @ {combined}",
        ),
        ("log a..b", "error: `a..b` is not a name @ a..b"),
        (
            "log {\nclass\n}",
            "error: `class` needs `all`, `denial`, `error` or `success` @ class",
        ),
        (
            "log {\nclass good\n}",
            "error: `good` is not a class @ good",
        ),
        (
            "log {\nclasses all\n}",
            "error: `log` has no option `classes` @ classes",
        ),
    ] {
        assert_eq!(faults(&SPEC, text), [fault], "{text}");
    }
}

/// Marks its queries, and knows an empty label.
struct Known;

impl Plugin for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.state.metadata = true;
        ByName.query(exchange)
    }

    fn metadata(&self, label: &str, _: &Exchange<'_>, _: &mut dyn std::fmt::Write) -> bool {
        label == "known/empty"
    }
}

#[test]
fn metadata_is_shown_where_there_is_any() {
    let text = "log . \"{name} <{/known/empty}> {/known/nothing} {/log/class} {/log/type}\"";
    let (zones, log) = logged(text, Known);
    for (label, expected) in [
        ("data", "success NOERROR"),
        ("empty", "success NOERROR"),
        ("nodata", "denial NODATA"),
        ("nxdomain", "denial NXDOMAIN"),
        ("referral", "success DELEGATION"),
        ("half", "error OTHERERROR"),
        ("refused", "error OTHERERROR"),
        ("drop", "error OTHERERROR"),
    ] {
        ask(&zones, label, RecordType::A);
        let line = format!("[INFO] {label}. <> - {expected}\n");
        assert!(log.text().ends_with(&line), "{}", log.text());
    }
    ask(&zones, "data", RecordType::AXFR);
    assert!(log.text().ends_with("error META\n"));
}
