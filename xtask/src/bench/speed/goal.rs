//! What was aimed at, and whether a file of results reaches it.

use crate::bench::speed::figure::Figure;
use crate::bench::speed::table::{find, line};

/// One of them.
struct Check {
    what: String,
    is_limit_upper: bool,
    limit: f64,
    measured: f64,
}

/// CPU to the bare socket's at most, and CoreDNS' to ours at least, on each path.
const RATIOS: [(&str, f64, f64); 7] = [
    ("kubernetes", 1.15, 6.0),
    ("nxdomain", 1.25, 4.0),
    ("ptr", 1.25, 4.0),
    ("srv", 1.25, 6.0),
    ("headless", 1.35, 9.0),
    ("cache", 1.2, 3.0),
    ("forward", 2.3, 3.0),
];

/// CoreDNS' CPU to ours at least; ours to the best of [`TCP_BEST`] at most 1.
const TCP: [(&str, &str, f64); 2] = [("tcp", "pipelined", 2.0), ("tcp-once", "once", 2.0)];
const TCP_BEST: [&str; 2] = ["knot", "dnsdist, cache"];

const USER_MAX: f64 = 0.6;
const LOG_MAX: f64 = 2.0;
const WORKERS_MAX: f64 = 1.1;
const GROWTH_MAX: f64 = 1.1;

/// Microseconds that our 99th percentile may lie above the bare socket's.
const LATENCY_MAX: f64 = 100.0;

/// All goals that the figures say something about, as Markdown.
pub fn table(figures: &[Figure]) -> String {
    let mut text = line(&["goal", "limit", "measured", ""].map(str::to_owned));
    text += "|---|--:|--:|---|\n";
    for check in checks(figures) {
        let is_met = if check.is_limit_upper {
            check.measured <= check.limit
        } else {
            check.measured >= check.limit
        };
        let sign = if check.is_limit_upper { "≤" } else { "≥" };
        text += &line(&[
            check.what,
            format!("{sign} {}", check.limit),
            format!("{:.2}", check.measured),
            if is_met { "met" } else { "**missed**" }.to_owned(),
        ]);
    }
    text
}

fn checks(all: &[Figure]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |what: String, is_limit_upper, limit, measured: Option<f64>| {
        checks.extend(measured.map(|measured| Check {
            what,
            is_limit_upper,
            limit,
            measured,
        }));
    };
    for (path, echo_max, coredns_min) in RATIOS {
        for load in loads(all, path) {
            let to = |other| ratio(all, path, &load, ["fingerpost", other]);
            let of = format!("{path}, {load}: CPU,");
            add(
                format!("{of} ours to the echo's"),
                true,
                echo_max,
                to("echo"),
            );
            let factor = to("coredns").map(|part| 1.0 / part);
            add(format!("{of} CoreDNS' to ours"), false, coredns_min, factor);
        }
    }
    for load in loads(all, "kubernetes") {
        let ours = find(all, "kubernetes", &load, "fingerpost");
        let user = ours.map(|one| one.median().user);
        let what = format!("kubernetes, {load}: µs in user space");
        add(what, true, USER_MAX, user);
    }
    for (path, load, coredns_min) in TCP {
        let to = |other| ratio(all, path, load, ["fingerpost", other]);
        let others = TCP_BEST.iter().filter_map(|other| to(other));
        add(
            format!("{path}: CPU, ours to the best of Knot and dnsdist"),
            true,
            1.0,
            others.reduce(f64::max),
        );
        let factor = to("coredns").map(|part| 1.0 / part);
        add(
            format!("{path}: CPU, CoreDNS' to ours"),
            false,
            coredns_min,
            factor,
        );
    }
    let to_plain = |path: &str, load: &str, variant: &str| {
        ratio(
            all,
            path,
            load,
            [&format!("fingerpost, {variant}"), "fingerpost"],
        )
    };
    let log = to_plain("log", "saturation", "log");
    add("log: CPU, with to without".into(), true, LOG_MAX, log);
    let p99 = |server| Some(find(all, "kubernetes", "half", server)?.median().p99);
    let beyond = || Some(p99("fingerpost")? - p99("echo")?);
    let what = "kubernetes, half: µs of the 99th percentile above the echo's";
    add(what.into(), true, LATENCY_MAX, beyond());
    for load in loads(all, "workers") {
        let ratio = to_plain("workers", &load, "two workers");
        let what = format!("workers, {load}: CPU, of two to one");
        add(what, true, WORKERS_MAX, ratio);
    }
    for path in ["services", "blocks"] {
        let what = format!("{path}: CPU, highest to lowest");
        add(what, true, GROWTH_MAX, growth(all, path));
    }
    checks
}

/// What the path was measured under, half of the saturation aside: it is another one for each server.
fn loads(all: &[Figure], path: &str) -> Vec<String> {
    let of_ours = all
        .iter()
        .filter(|one| one.path == path && one.server == "fingerpost");
    of_ours
        .map(|one| one.load.clone())
        .filter(|load| load != "half")
        .collect()
}

/// CPU of one server to that of another.
fn ratio(all: &[Figure], path: &str, load: &str, [one, other]: [&str; 2]) -> Option<f64> {
    let other = find(all, path, load, other)?;
    Some(find(all, path, load, one)?.ratio_to(other))
}

fn growth(all: &[Figure], path: &str) -> Option<f64> {
    let ours = || {
        all.iter()
            .filter(|one| one.path == path && one.server.starts_with("fingerpost"))
    };
    let cpu = |one: &&Figure| one.median().cpu();
    let lowest = ours().min_by(|one, other| cpu(one).total_cmp(&cpu(other)))?;
    ours().map(|one| one.ratio_to(lowest)).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::speed::figure::Sample;

    #[test]
    fn goals_are_met_or_missed_by_what_was_measured_and_silent_about_the_rest() {
        let figure = |path: &str, server: &str, cpu| Figure {
            path: path.into(),
            load: "saturation".into(),
            server: server.into(),
            rounds: vec![Sample {
                kernel: cpu,
                ..Sample::default()
            }],
        };
        let text = table(&[
            figure("cache", "echo", 4.0),
            figure("cache", "fingerpost", 5.0),
            figure("cache", "coredns", 16.0),
            figure("services", "fingerpost, 100 Services", 5.0),
            figure("services", "fingerpost, 1,000 Services", 5.25),
        ]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| cache, saturation: CPU, ours to the echo's | ≤ 1.2 | 1.25 | **missed** |",
                "| cache, saturation: CPU, CoreDNS' to ours | ≥ 3 | 3.20 | met |",
                "| services: CPU, highest to lowest | ≤ 1.1 | 1.05 | met |",
            ]
        );
    }
}
