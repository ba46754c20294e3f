//! Tables of figures: for the terminal, and for Markdown.

use crate::bench::report::Table;
use crate::bench::speed::figure::Figure;

/// What a row says of a figure.
const HEADS: [&str; 13] = [
    "load, server",
    "CPU µs",
    "± %",
    "user",
    "kernel",
    "× echo",
    "answers/s",
    "busy %",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "RSS MB",
    "lost",
];

/// The figures of one path, each under its load.
pub fn of_path(figures: &[Figure]) -> Table {
    let mut table = Table::new(&HEADS);
    for figure in figures {
        table.row(row(figure, figures));
    }
    table
}

/// The same in Markdown.
pub fn markdown(figures: &[Figure]) -> String {
    let mut text = line(HEADS.map(str::to_owned).as_ref());
    text += &format!("|---|{}\n", "--:|".repeat(HEADS.len() - 1));
    for figure in figures {
        text += &line(&row(figure, figures));
    }
    text
}

/// One row of Markdown.
pub fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn row(figure: &Figure, all: &[Figure]) -> Vec<String> {
    let median = figure.median();
    let ratio = echo_of(figure, all).map(|echo| figure.ratio_to(echo));
    let lost: f64 = figure.rounds.iter().map(|one| one.lost).sum();
    let wrong: f64 = figure.rounds.iter().map(|one| one.wrong).sum();
    let wrong = match wrong as u64 {
        0 => String::new(),
        wrong => format!(", {wrong} wrong"),
    };
    vec![
        format!("{}, {}", figure.load, figure.server),
        format!("{:.2}", median.cpu()),
        format!("{:.0}", figure.spread() * 50.0),
        format!("{:.2}", median.user),
        format!("{:.2}", median.kernel),
        ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")),
        thousands(median.rate()),
        format!("{:.0}", median.busy() * 100.0),
        format!("{:.0}", median.p50),
        format!("{:.0}", median.p99),
        format!("{:.0}", median.p999),
        format!("{:.1}", median.resident),
        format!("{lost:.0}{wrong}"),
    ]
}

/// The bare socket on the same path under the same load.
pub fn echo_of<'f>(figure: &Figure, all: &'f [Figure]) -> Option<&'f Figure> {
    find(all, &figure.path, &figure.load, "echo")
}

pub fn find<'f>(all: &'f [Figure], path: &str, load: &str, server: &str) -> Option<&'f Figure> {
    all.iter()
        .find(|one| one.path == path && one.load == load && one.server == server)
}

/// With commas.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::speed::figure::Sample;

    #[test]
    fn a_row_has_the_ratio_to_the_echo_under_the_same_load() {
        let figure = |server: &str, load: &str, cpu| Figure {
            path: "cache".into(),
            load: load.into(),
            server: server.into(),
            rounds: vec![Sample {
                kernel: cpu,
                answered: 5000.0,
                seconds: 1.0,
                ..Sample::default()
            }],
        };
        let all = [
            figure("echo", "20000/s", 10.0),
            figure("echo", "saturation", 4.0),
            figure("knot", "saturation", 5.0),
            figure("knot", "once", 50.0),
        ];
        let cells = row(&all[2], &all);
        assert_eq!((cells[1].as_str(), cells[5].as_str()), ("5.00", "1.25"));
        assert_eq!(cells[6], "5,000");
        assert_eq!(row(&all[3], &all)[5], "-");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
