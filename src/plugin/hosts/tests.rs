//! Rules of `hosts`, one test each.

use std::fs;
use std::sync::Arc;

use crate::plugin::hosts::SPEC;
use crate::plugin::testing::{Bed, Below, ask, config, faults};
use crate::telemetry::logging::captured;
use crate::wire::code::RecordType;
use crate::zone::Zones;

const BELOW: &str = "NOERROR: ";

/// A server with these lines in its file and these options, above a plugin that answers every A.
fn served(bed: &mut Bed, file: &str, rest: &str) -> Arc<Zones> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    fs::write(&path, file).unwrap();
    let text = format!("hosts {} {rest}", path.display());
    bed.chain(&SPEC, &text, Below::Address)
}

fn a(zones: &Arc<Zones>, qname: &str) -> String {
    ask(zones, qname, RecordType::A)
}

#[test]
fn an_address_is_answered_with_the_owner_in_lower_case() {
    let mut bed = Bed::new();
    let zones = served(&mut bed, "10.0.0.1 bar.org baz.org\n", "");
    assert_eq!(a(&zones, "BAR.org"), "NOERROR aa: bar.org. 3600 A 10.0.0.1");
    assert_eq!(a(&zones, "baz.org"), "NOERROR aa: baz.org. 3600 A 10.0.0.1");
}

#[test]
fn the_file_stands_before_the_lines_of_the_corefile_and_both_are_answered() {
    let mut bed = Bed::new();
    let zones = served(
        &mut bed,
        "10.0.0.1 a.org\n10.0.0.2 a.org\n",
        "{\n10.0.0.3 a.org\nttl 60\n}",
    );
    assert_eq!(
        a(&zones, "a.org"),
        "NOERROR aa: a.org. 60 A 10.0.0.1; a.org. 60 A 10.0.0.2; a.org. 60 A 10.0.0.3"
    );
}

#[test]
fn a_line_may_be_as_long_as_the_file() {
    let mut bed = Bed::new();
    let names: String = (0..10_000).map(|n| format!(" host{n}.org")).collect();
    assert!(names.len() > 64 << 10);
    let file = format!("10.0.0.1{names}\n10.0.0.2 last.org\n");
    let zones = served(&mut bed, &file, "");
    for (name, address) in [("host9999.org", "10.0.0.1"), ("last.org", "10.0.0.2")] {
        let expected = format!("NOERROR aa: {name}. 3600 A {address}");
        assert_eq!(a(&zones, name), expected);
    }
}

#[test]
fn another_family_or_type_of_a_known_name_is_nodata() {
    let mut bed = Bed::new();
    let zones = served(&mut bed, "::1 six.org\n::ffff:10.0.0.1 mapped.org\n", "");
    assert_eq!(a(&zones, "six.org"), "NOERROR aa");
    assert_eq!(ask(&zones, "six.org", RecordType::MX), "NOERROR aa");
    assert_eq!(ask(&zones, "six.org", RecordType::ANY), "NOERROR aa");
    assert_eq!(
        ask(&zones, "six.org", RecordType::AAAA),
        "NOERROR aa: six.org. 3600 AAAA ::1"
    );
    assert_eq!(
        a(&zones, "mapped.org"),
        "NOERROR aa: mapped.org. 3600 A 10.0.0.1"
    );
}

#[test]
fn an_unknown_name_is_servfail_unless_it_falls_through() {
    let mut bed = Bed::new();
    let zones = served(&mut bed, "10.0.0.1 a.org\n", "");
    assert_eq!(a(&zones, "b.org"), "SERVFAIL");
    let zones = served(&mut bed, "10.0.0.1 a.org\n", "{\nfallthrough b.org\n}");
    assert!(a(&zones, "x.b.org").starts_with(BELOW));
    assert_eq!(a(&zones, "c.org"), "SERVFAIL");
}

#[test]
fn a_name_outside_the_zones_is_for_the_next_plugin() {
    let mut bed = Bed::new();
    let zones = served(
        &mut bed,
        "10.0.0.1 a.org a.net\n10.0.0.2 b.net\n",
        "org example.net",
    );
    assert!(a(&zones, "a.org").starts_with("NOERROR aa"));
    assert!(a(&zones, "a.net").starts_with(BELOW));
    // And it is not read either, so the address has one name.
    assert_eq!(
        ask(&zones, "1.0.0.10.in-addr.arpa", RecordType::PTR),
        "NOERROR aa: 1.0.0.10.in-addr.arpa. 3600 PTR a.org."
    );
}

#[test]
fn a_pointer_miss_is_for_the_next_plugin_whatever_fallthrough_says() {
    let mut bed = Bed::new();
    let zones = served(&mut bed, "10.0.0.1 a.org b.org\n", "");
    assert_eq!(
        ask(&zones, "1.0.0.10.IN-ADDR.arpa", RecordType::PTR),
        "NOERROR aa: 1.0.0.10.in-addr.arpa. 3600 PTR a.org.; 1.0.0.10.in-addr.arpa. 3600 PTR b.org."
    );
    assert!(ask(&zones, "2.0.0.10.in-addr.arpa", RecordType::PTR).starts_with(BELOW));
    assert!(ask(&zones, "a.org", RecordType::PTR).starts_with(BELOW));
}

#[test]
fn no_reverse_answers_no_pointer() {
    let mut bed = Bed::new();
    let zones = served(&mut bed, "10.0.0.1 a.org\n", "{\nno_reverse\n}");
    assert!(ask(&zones, "1.0.0.10.in-addr.arpa", RecordType::PTR).starts_with(BELOW));
    assert!(a(&zones, "a.org").starts_with("NOERROR aa"));
}

#[test]
fn a_wildcard_stands_for_one_label_where_the_name_has_no_such_address() {
    let mut bed = Bed::new();
    let zones = served(
        &mut bed,
        "10.0.0.1 *.a.org\n::1 x.a.org\n10.0.0.2 y.a.org\n",
        "",
    );
    assert_eq!(a(&zones, "w.a.org"), "NOERROR aa: w.a.org. 3600 A 10.0.0.1");
    assert_eq!(a(&zones, "x.a.org"), "NOERROR aa: x.a.org. 3600 A 10.0.0.1");
    assert_eq!(a(&zones, "y.a.org"), "NOERROR aa: y.a.org. 3600 A 10.0.0.2");
    assert_eq!(a(&zones, "v.w.a.org"), "SERVFAIL");
    assert_eq!(a(&zones, "a.org"), "SERVFAIL");
    assert!(ask(&zones, "1.0.0.10.in-addr.arpa", RecordType::PTR).starts_with(BELOW));
}

#[test]
fn other_types_can_be_passed_on() {
    let mut bed = Bed::new();
    let options = "{\nfallthrough\nfallthrough_unsupported\n}";
    let zones = served(&mut bed, "10.0.0.1 a.org\n", options);
    assert!(ask(&zones, "a.org", RecordType::TXT).starts_with(BELOW));
    assert_eq!(ask(&zones, "a.org", RecordType::AAAA), "NOERROR aa");
}

#[test]
fn a_file_that_is_missing_is_a_warning() {
    let mut bed = Bed::new();
    let text = captured(|| {
        let zones = bed.chain(
            &SPEC,
            "hosts /nonexistent/hosts {\n10.0.0.1 a.org\n}",
            Below::Address,
        );
        assert!(a(&zones, "a.org").starts_with("NOERROR aa"));
    });
    assert!(
        text.starts_with("[WARNING] plugin/hosts: hosts file `/nonexistent/hosts` cannot be read:"),
        "{text}"
    );
}

#[test]
fn a_changed_file_is_read_again_and_a_deleted_one_stays_in_force() {
    let mut bed = Bed::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    fs::write(&path, "10.0.0.1 a.org\n").unwrap();
    let text = format!("hosts {} {{\nreload 1ms\n}}", path.display());
    let zones = bed.chain(&SPEC, &text, Below::Address);
    assert_eq!(a(&zones, "a.org"), "NOERROR aa: a.org. 3600 A 10.0.0.1");
    let new = "NOERROR aa: a.org. 3600 A 10.0.0.22";
    fs::write(&path, "10.0.0.22 a.org\n").unwrap();
    bed.runtime.block_on(async {
        while a(&zones, "a.org") != new {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        fs::remove_file(&path).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    });
    assert_eq!(a(&zones, "a.org"), new);
}

#[test]
fn metrics_count_entries_in_both_directions_and_tell_the_age_of_the_file() {
    let mut bed = Bed::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    fs::write(&path, "10.0.0.1 a.org b.org\n::1 *.c.org\n").unwrap();
    let text = format!("hosts {} {{\n10.0.0.2 d.org\n}}", path.display());
    bed.chain(&SPEC, &text, Below::Address);
    let metrics = bed.metrics();
    let entries = format!(
        "coredns_hosts_entries{{hostsfile=\"{}\"}} 7\n",
        path.display()
    );
    assert!(metrics.contains(&entries), "{metrics}");
    assert!(metrics.contains("# TYPE coredns_hosts_reload_timestamp_seconds gauge\n"));
    assert!(!metrics.contains("coredns_hosts_reload_timestamp_seconds 0\n"));
}

#[test]
fn a_mistyped_option_is_pointed_out() {
    assert_eq!(
        faults(&SPEC, "hosts {\n10.0.0.1 a.org\nfall_through\n}"),
        ["warning: `fall_through` is neither an option nor an address @ fall_through"]
    );
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (options, fault) in [
        (
            "ttl 99999999999",
            "error: `99999999999` is not a TTL in seconds, 1 to 65535 @ 99999999999",
        ),
        (
            "ttl 0",
            "error: `0` is not a TTL in seconds, 1 to 65535 @ 0",
        ),
        (
            "ttl",
            "error: `ttl` needs a TTL in seconds, 1 to 65535 @ ttl",
        ),
        ("reload -1s", "error: `-1s` is negative @ -1s"),
        (
            "reload",
            "error: `reload` needs a duration such as 5s, or 0 to read once @ reload",
        ),
        ("no_reverse x", "error: `no_reverse` takes no `x` @ x"),
        (
            "fallthrough\n1.2.3.4 a",
            "error: `1.2.3.4` stands after `fallthrough` @ 1.2.3.4",
        ),
        (
            "fallthrough_unsupported",
            "error: `fallthrough_unsupported` needs `fallthrough` @ fallthrough_unsupported",
        ),
    ] {
        let text = format!("hosts {{\n{options}\n}}");
        assert_eq!(faults(&SPEC, &text), [fault], "{options}");
    }
    assert_eq!(
        faults(&SPEC, "hosts /etc/hosts good.org b..ad"),
        ["warning: `b..ad` is not a zone @ b..ad"]
    );
    assert_eq!(
        faults(&SPEC, "hosts /etc/hosts b..ad"),
        ["error: `b..ad` is not a zone @ b..ad"]
    );
    assert_eq!(
        faults(&SPEC, "hosts\nhosts"),
        ["error: `hosts` stands twice in this server block @ hosts"]
    );
    config(&SPEC, "hosts {\nreload 0\nttl 65535\n}");
}
