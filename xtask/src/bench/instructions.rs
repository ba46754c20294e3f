//! Instructions that the program executes for one answer, counted by callgrind and compared with what is committed.
//!
//! ```text
//! benches/answers, under valgrind --> one dump a case --> divided by its rounds --> benches/instructions.txt
//! ```
//!
//! Times need a quiet machine, instruction counts do not: they repeat to a fraction of a percent on any machine of the
//! same architecture with the same compiler. They say nothing about caches and the kernel; `cargo bench` does.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::args::Args;
use crate::bench::baseline::{Baseline, Count};
use crate::bench::report::Table;
use crate::command::{cargo, output};
use crate::{paths, provision};

pub const HELP: &str = "\
usage: cargo xtask bench instructions [--rounds N] [--write yes]

Counts the instructions of each case of `benches/answers` with callgrind, and compares them with those in
`benches/instructions.txt`. More than 5 % above is an error.

  --rounds N   rounds a case (1000)
  --write yes  make what was counted the new baseline: in a commit of its own, with the reason";

pub const FLAGS: &[&str] = &["--rounds", "--write"];

/// As many as average out what differs from name to name.
const ROUNDS: usize = 1000;

/// Whether the baseline says anything about this machine.
pub fn is_comparable() -> bool {
    std::env::consts::ARCH == "x86_64"
}

/// Counts, prints, and compares or writes.
pub fn run(args: &Args) -> Result<(), String> {
    let rounds = args.get("--rounds", ROUNDS)?;
    let write = args.get("--write", String::from("no"))? == "yes";
    if !is_comparable() {
        return Err("the baseline holds instructions of x86_64".into());
    }
    provision::valgrind()?;
    let counts = count(&program()?, rounds)?;
    let path = paths::root().join("benches/instructions.txt");
    if write {
        let baseline = Baseline {
            compiler: compiler()?,
            counts,
        };
        return std::fs::write(&path, baseline.text())
            .map_err(|error| format!("{}: {error}", path.display()));
    }
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
    compare(&Baseline::parse(&text)?, &counts)
}

fn compare(baseline: &Baseline, counts: &[Count]) -> Result<(), String> {
    let mut table = Table::new(&["case", "instructions", "baseline", "change"]);
    for Count { case, instructions } in counts {
        let before = baseline.of(case);
        let (before, change) = match before {
            Some(before) => (
                before.to_string(),
                format!("{:+.1} %", change(before, *instructions)),
            ),
            None => ("-".into(), "-".into()),
        };
        table.row(vec![case.clone(), instructions.to_string(), before, change]);
    }
    print!("{}", table.text());
    let compiler = compiler()?;
    if compiler != baseline.compiler {
        println!(
            "the baseline was counted with {}, this with {compiler}",
            baseline.compiler
        );
    }
    let faults = baseline.faults(counts);
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("{}; see `--help`", faults.join("; ")))
    }
}

/// By how many percent `now` is above `before`.
fn change(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

/// The bench, built as a release is, for any machine.
fn program() -> Result<PathBuf, String> {
    let text = output(
        cargo()
            .args(["bench", "--bench", "answers", "--no-run"])
            .args(["--quiet", "--message-format", "json"])
            // `target-cpu=native` would make counts of this machine alone.
            .env_remove("RUSTFLAGS"),
    )?;
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let is_bench = |message: &serde_json::Value| message["target"]["name"] == "answers";
    let mut programs = messages
        .filter(is_bench)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs
        .next()
        .ok_or_else(|| "cargo names no program for the bench".into())
}

fn count(program: &Path, rounds: usize) -> Result<Vec<Count>, String> {
    let folder = paths::target().join("instructions");
    let wrong = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        // Dumps of a run before would pass for those of this one.
        std::fs::remove_dir_all(&folder).map_err(wrong)?;
    }
    std::fs::create_dir_all(&folder).map_err(wrong)?;
    let dump = folder.join("dump");
    let text = output(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
            .args(["--toggle-collect=answers::counted"])
            .args(["--dump-after=answers::counted"])
            .arg(format!("--callgrind-out-file={}", dump.display()))
            .arg(program)
            .args(["", &rounds.to_string()]),
    )?;
    text.lines()
        .enumerate()
        .map(|(place, line)| {
            // Dumps are numbered in the order of the calls, which is that of the lines.
            let dump = folder.join(format!("dump.{}", place + 1));
            let executed = std::fs::read_to_string(&dump)
                .map_err(|error| format!("{}: {error}", dump.display()))?
                .lines()
                .find_map(|line| line.strip_prefix("totals: ")?.parse::<u64>().ok())
                .ok_or_else(|| format!("{}: no totals", dump.display()))?;
            let (case, rounds) =
                case_and_rounds(line).ok_or_else(|| format!("no line of the bench: `{line}`"))?;
            Ok(Count {
                case,
                instructions: executed / rounds,
            })
        })
        .collect()
}

/// Of `A of a ClusterIP        612 ns     1000 rounds`.
fn case_and_rounds(line: &str) -> Option<(String, u64)> {
    let (rest, rounds) = line.strip_suffix(" rounds")?.trim_end().rsplit_once(' ')?;
    let (case, _time) = rest.trim_end().strip_suffix(" ns")?.rsplit_once(' ')?;
    let rounds = rounds.parse().ok().filter(|&rounds| rounds != 0)?;
    Some((case.trim_end().to_owned(), rounds))
}

fn compiler() -> Result<String, String> {
    output(Command::new("rustc").arg("--version")).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::case_and_rounds;

    #[test]
    fn a_line_of_the_bench_names_its_case_and_its_rounds() {
        assert_eq!(
            case_and_rounds("A of all of 10,000, cut for UDP          612 ns       10 rounds"),
            Some(("A of all of 10,000, cut for UDP".into(), 10))
        );
        assert_eq!(case_and_rounds("parse a query  9 ns  0 rounds"), None);
        assert_eq!(case_and_rounds("parse a query"), None);
    }
}
