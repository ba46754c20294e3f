//! `bench report`: what the documentation shows, made of a file of results.
//!
//! Tables stand between `<!-- bench: NAME -->` and `<!-- end -->`, plots in `docs/plots`. Nothing of it is written by
//! hand, so it cannot say more than was measured.

use std::fs;
use std::path::Path as FilePath;

use serde_json::Value;

use crate::bench::speed::figure::Figure;
use crate::bench::speed::goal;
use crate::bench::speed::path::{self, Path};
use crate::bench::speed::plot::{Bar, Group, Plot};
use crate::bench::speed::table::{echo_of, line, markdown};
use crate::paths;

/// Columns of the overview.
const SERVERS: [&str; 7] = [
    "echo",
    "fingerpost",
    "knot",
    "nsd",
    "unbound",
    "dnsdist",
    "coredns",
];

/// Makes all of it.
pub fn run(file: &FilePath) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let results: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let figures = results["figures"].as_array().into_iter().flatten();
    let figures: Option<Vec<Figure>> = figures.map(Figure::from_json).collect();
    let figures = figures.ok_or_else(|| format!("{} has other fields", file.display()))?;
    let parts = [
        ("machine", machine(&results)),
        ("overview", overview(&figures)),
        ("goals", goal::table(&figures)),
        ("details", details(&figures)),
    ];
    for document in ["README.md", "docs/performance.md"] {
        let path = paths::root().join(document);
        let mut text = fs::read_to_string(&path).map_err(|error| format!("{document}: {error}"))?;
        for (name, part) in &parts {
            text = replace(&text, name, part);
        }
        fs::write(&path, text).map_err(|error| format!("{document}: {error}"))?;
    }
    let folder = paths::root().join("docs/plots");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    for (name, plot) in plots(&figures) {
        fs::write(folder.join(name), plot.svg()).map_err(|error| format!("{name}: {error}"))?;
    }
    println!(
        "README.md, docs/performance.md and docs/plots show {}",
        file.display()
    );
    Ok(())
}

/// The text with this part between its marks; unchanged if there are none.
fn replace(text: &str, name: &str, part: &str) -> String {
    let mark = format!("<!-- bench: {name} -->\n");
    let Some((before, rest)) = text.split_once(&mark) else {
        return text.to_owned();
    };
    let Some((_, after)) = rest.split_once("<!-- end -->") else {
        return text.to_owned();
    };
    format!("{before}{mark}{part}<!-- end -->{after}")
}

fn machine(results: &Value) -> String {
    let settings = &results["settings"];
    let versions = results["versions"].as_object().into_iter().flatten();
    let versions = versions
        .filter(|(name, _)| *name != "echo" && *name != "fingerpost")
        .map(|(name, version)| format!("{name} ({})", version.as_str().unwrap_or_default()));
    format!(
        "{}. Median of {} rounds, {} queries a figure, {} Services, a tenth of them headless with {} endpoints. {}.\n",
        results["machine"].as_str().unwrap_or_default(),
        settings["rounds"],
        settings["queries"],
        settings["services"],
        settings["endpoints"],
        versions.collect::<Vec<_>>().join(", "),
    )
}

/// Paths down, servers across: CPU for each answered query, and its ratio to the echo.
fn overview(figures: &[Figure]) -> String {
    let mut heads = vec!["CPU µs a query (× echo)".to_owned()];
    heads.extend(SERVERS.map(str::to_owned));
    let mut text = line(&heads) + &format!("|---|{}\n", "--:|".repeat(SERVERS.len()));
    for (path, load) in rows(figures) {
        let cell = |server: &&str| {
            let mut variants = figures.iter().filter(|one| {
                (one.path.as_str(), one.load.as_str()) == (path.key, load)
                    && one.server.split(", ").next() == Some(*server)
            });
            variants.next().map_or("".into(), |one| shown(one, figures))
        };
        let mut cells = vec![format!("{}, {load}", path.title)];
        cells.extend(SERVERS.iter().map(cell));
        text += &line(&cells);
    }
    text
}

fn shown(figure: &Figure, all: &[Figure]) -> String {
    let cpu = figure.median().cpu();
    match echo_of(figure, all) {
        Some(echo) if figure.server != "echo" => {
            format!("{cpu:.1} ({:.2})", figure.ratio_to(echo))
        }
        _ => format!("{cpu:.1}"),
    }
}

/// Paths on which servers are compared, with each of their loads, as far as they were measured.
fn rows(figures: &[Figure]) -> Vec<(Path, &str)> {
    let mut rows: Vec<(Path, &str)> = Vec::new();
    for figure in figures {
        let is_there =
            |(path, load): &(Path, &str)| path.key == figure.path && *load == figure.load;
        let paths = path::all(&[]).into_iter();
        let compared = paths.filter(|path| path.key == figure.path && !path.has_variants());
        if let Some(path) = { compared }.next()
            && !rows.iter().any(is_there)
        {
            rows.push((path, &figure.load));
        }
    }
    rows
}

fn details(figures: &[Figure]) -> String {
    let mut text = String::new();
    for path in path::all(&[]) {
        let of_path: Vec<Figure> = figures
            .iter()
            .filter(|one| one.path == path.key)
            .cloned()
            .collect();
        if !of_path.is_empty() {
            text += &format!("### {}\n\n{}\n", path.title, markdown(&of_path));
        }
    }
    text
}

fn plots(figures: &[Figure]) -> [(&'static str, Plot); 3] {
    let cpu = |one: &Figure| {
        let median = one.median();
        Bar {
            name: one.server.clone(),
            parts: [median.kernel, median.user],
            note: shown(one, figures),
        }
    };
    let latency = |one: &Figure| {
        let median = one.median();
        Bar {
            name: one.server.clone(),
            parts: [median.p50, median.p99 - median.p50],
            note: format!(
                "{:.0} / {:.0} at {:.0}/s",
                median.p50,
                median.p99,
                median.rate()
            ),
        }
    };
    let group = |path: &Path, load: &str, bar: &dyn Fn(&Figure) -> Bar| {
        let of_path = figures
            .iter()
            .filter(|one| one.path == path.key && one.load == load);
        Group {
            title: format!("{}, {load}", path.title),
            bars: of_path.map(bar).collect(),
        }
    };
    let groups = |is_wanted: &dyn Fn(&Path, &str) -> bool, bar: &dyn Fn(&Figure) -> Bar| {
        let mut groups = Vec::new();
        for path in path::all(&[20_000, 60_000]) {
            for load in path.loads.iter().map(ToString::to_string) {
                let is_measured = figures
                    .iter()
                    .any(|one| one.path == path.key && one.load == load);
                if is_measured && is_wanted(&path, &load) {
                    groups.push(group(&path, &load, bar));
                }
            }
        }
        groups
    };
    let compared = |path: &Path, load: &str| !path.has_variants() && load != "half";
    let varied = |path: &Path, _: &str| path.has_variants();
    let half = |_: &Path, load: &str| load == "half";
    let legend = ["kernel", "user space"];
    [
        (
            "speed-cpu.svg",
            Plot {
                title: "CPU for each answered query, µs (× echo); shorter is better".into(),
                legend,
                groups: groups(&compared, &cpu),
            },
        ),
        (
            "speed-variants.svg",
            Plot {
                title: "CPU for each answered query, µs (× echo), as one thing changes".into(),
                legend,
                groups: groups(&varied, &cpu),
            },
        ),
        (
            "speed-latency.svg",
            Plot {
                title: "Latency at half of the saturation load, µs".into(),
                legend: ["median", "from there to the 99th percentile"],
                groups: groups(&half, &latency),
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_between_its_marks_only() {
        let text = "a\n<!-- bench: goals -->\nold\n<!-- end -->\nb <!-- end -->";
        let new = replace(text, "goals", "new\n");
        assert_eq!(
            new,
            "a\n<!-- bench: goals -->\nnew\n<!-- end -->\nb <!-- end -->"
        );
        assert_eq!(replace(&new, "goals", "new\n"), new);
        assert_eq!(replace(text, "details", "new\n"), text);
    }

    #[test]
    fn the_overview_compares_servers_and_leaves_variants_to_the_details() {
        let figure = |path: &str, server: &str, cpu| Figure {
            path: path.into(),
            load: "saturation".into(),
            server: server.into(),
            rounds: vec![crate::bench::speed::figure::Sample {
                user: cpu,
                ..Default::default()
            }],
        };
        let figures = [
            figure("cache", "echo", 4.0),
            figure("cache", "coredns", 16.0),
            figure("log", "fingerpost", 5.0),
            figure("log", "fingerpost, log", 9.0),
        ];
        let text = overview(&figures);
        assert!(
            text.ends_with("cached, saturation | 4.0 |  |  |  |  |  | 16.0 (4.00) |\n"),
            "{text}"
        );
        assert!(details(&figures).contains("fingerpost, log | 9.00"));
    }
}
