//! Rules of `errors`, one test each.

use crate::plugin::errors::SPEC;
use crate::plugin::testing::{Bed, Below, ask, config, faults, zones};
use crate::telemetry::logging::captured;
use crate::wire::code::{Rcode, RecordType};

const TIMEOUT: &str = "read udp 10.0.0.1:4->10.0.0.2:53: i/o timeout";

#[test]
fn an_error_is_one_line_with_rcode_name_and_type() {
    let mut bed = Bed::new();
    let zones = bed.chain(&SPEC, "errors", Below::Error(TIMEOUT));
    let text = captured(|| {
        assert_eq!(ask(&zones, "Drop.TEST", RecordType::A), "SERVFAIL");
    });
    let line = format!("[ERROR] plugin/errors: 2 drop.test. A: {TIMEOUT}\n");
    assert_eq!(text, line);
}

#[test]
fn the_end_of_a_chain_names_the_plugin_that_passed_last() {
    let mut bed = Bed::new();
    let zones = zones(".", bed.build(&*config(&SPEC, "errors")).unwrap());
    let text = captured(|| {
        assert_eq!(ask(&zones, "a.org", RecordType::A), "SERVFAIL");
    });
    let line = "[ERROR] plugin/errors: 2 a.org. A: plugin/errors: no next plugin found\n";
    assert_eq!(text, line);
}

#[test]
fn a_failure_without_an_error_is_not_logged() {
    let mut bed = Bed::new();
    let zones = bed.chain(&SPEC, "errors", Below::Rcode(Rcode::SERVFAIL));
    let text = captured(|| {
        ask(&zones, "a.org", RecordType::A);
    });
    assert_eq!(text, "");
}

#[test]
fn a_name_cannot_forge_a_line() {
    let mut bed = Bed::new();
    let zones = bed.chain(&SPEC, "errors", Below::Error("x"));
    let text = captured(|| {
        ask(&zones, "a\\010b.org", RecordType::A);
    });
    assert_eq!(text, "[ERROR] plugin/errors: 2 a\\010b.org. A: x\n");
}

#[test]
fn every_error_of_a_storm_is_logged_or_counted() {
    let mut bed = Bed::new();
    let zones = bed.chain(&SPEC, "errors", Below::Error(TIMEOUT));
    let text = captured(|| {
        for _ in 0..3000 {
            ask(&zones, "a.org", RecordType::A);
        }
    });
    let logged = text.matches(TIMEOUT).count();
    let metrics = bed.metrics();
    let counted = metrics
        .lines()
        .find_map(|line| line.strip_prefix("fingerpost_errors_not_logged_total "));
    assert!(logged >= 1000);
    assert_eq!(counted, Some(&*(3000 - logged).to_string()));
}

/// What is logged for `errors` errors, then at the end of the period (virtual time), then after the stop.
fn consolidated(option: &str, errors: usize) -> [String; 3] {
    let mut bed = Bed::new();
    bed.runtime.block_on(async { tokio::time::pause() });
    let text = format!("errors {{\n{option}\n}}");
    let zones = bed.chain(&SPEC, &text, Below::Error(TIMEOUT));
    let burst = || {
        for _ in 0..errors {
            ask(&zones, "a.org", RecordType::A);
        }
    };
    let at_once = captured(burst);
    let period = std::time::Duration::from_secs(301);
    let later = captured(|| {
        bed.runtime
            .block_on(async { tokio::time::sleep(period).await })
    });
    let at_stop = captured(|| {
        burst();
        bed.plan.stop.cancel();
        bed.plan.tasks.close();
        bed.runtime.block_on(bed.plan.tasks.wait());
    });
    [at_once, later, at_stop]
}

#[test]
fn matching_errors_are_counted_and_summed_up_when_the_time_is_over() {
    let [at_once, later, at_stop] = consolidated("consolidate 5m \".* i/o timeout$\"", 3);
    let line = "[ERROR] plugin/errors: 3 errors like '.* i/o timeout$' occurred in last 5m0s\n";
    assert_eq!(at_once, "");
    assert_eq!(later, line);
    assert_eq!(at_stop, line, "a running period is summed up at the stop");
}

#[test]
fn an_error_that_matches_no_pattern_is_logged() {
    let [at_once, later, _] = consolidated("consolidate 5m refused$", 1);
    assert_eq!(
        at_once,
        format!("[ERROR] plugin/errors: 2 a.org. A: {TIMEOUT}\n")
    );
    assert_eq!(later, "");
}

#[test]
fn the_first_pattern_that_matches_takes_the_error() {
    let both = "consolidate 5m timeout warning\nconsolidate 5m i/o info";
    let [_, later, _] = consolidated(both, 1);
    assert_eq!(
        later,
        "[WARNING] plugin/errors: 1 errors like 'timeout' occurred in last 5m0s\n"
    );
}

#[test]
fn show_first_logs_the_first_error_and_sums_up_only_if_more_came() {
    let option = "consolidate 5m timeout info show_first";
    let first = format!("[INFO] plugin/errors: 2 a.org. A: {TIMEOUT}\n");
    let [at_once, later, _] = consolidated(option, 1);
    assert_eq!((at_once.as_str(), later.as_str()), (first.as_str(), ""));
    let [at_once, later, _] = consolidated(option, 2);
    assert_eq!(at_once, first);
    assert_eq!(
        later,
        "[INFO] plugin/errors: 2 errors like 'timeout' occurred in last 5m0s\n"
    );
}

#[test]
fn stdout_may_be_named() {
    config(&SPEC, "errors stdout");
    assert_eq!(
        faults(&SPEC, "errors /var/log/dns"),
        ["error: `/var/log/dns` is not where errors can go @ /var/log/dns"]
    );
    assert_eq!(
        faults(&SPEC, "errors stdout stdout"),
        ["error: `errors` takes no `stdout` @ stdout"]
    );
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (option, fault) in [
        (
            "consolidate",
            "error: `consolidate` needs a duration such as 5m @ consolidate",
        ),
        (
            "consolidate soon x",
            "error: `soon` is not a duration such as 5m @ soon",
        ),
        ("consolidate -5m x", "error: `-5m` is negative @ -5m"),
        (
            "consolidate 5m",
            "error: `consolidate` needs a regular expression such as \".* i/o timeout$\" @ consolidate 5m",
        ),
        (
            "consolidate 5m \"([\"",
            "error: `([` is not a regular expression @ \"([\"",
        ),
        (
            "consolidate 5m x info error",
            "error: `consolidate` takes one level @ error",
        ),
        (
            "consolidate 5m x show_first info",
            "error: the level of `consolidate` stands after `show_first` @ info",
        ),
        (
            "consolidate 5m x loud",
            "error: `consolidate` takes no `loud` @ loud",
        ),
        (
            "consolidate 5m x info show_first y",
            "error: `consolidate` takes no `y` @ y",
        ),
        (
            "consolidated 5m x",
            "error: `errors` has no option `consolidated` @ consolidated",
        ),
        (
            "stacktrace",
            "not built: `errors` option `stacktrace` is not built yet @ stacktrace",
        ),
    ] {
        let text = format!("errors {{\n{option}\n}}");
        assert_eq!(faults(&SPEC, &text), [fault], "{option}");
    }
    assert_eq!(
        faults(&SPEC, "errors\nerrors"),
        ["error: `errors` stands twice in this server block @ errors"]
    );
    let long = format!("errors {{\nconsolidate 5m {}\n}}", "x".repeat(10_001));
    assert!(faults(&SPEC, &long)[0].starts_with("error: a pattern of 10001 octets is too long"));
}
