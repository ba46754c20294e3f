//! `bench speed`: CPU for each answered query, throughput on one core, latency and memory, beside the bare socket and
//! beside other servers that have the same names.
//!
//! ```text
//! core 0: one server at work, the others idle     core 1: generator, upstream, control plane
//!
//! round 1: echo, fingerpost, coredns, knot ...    each loaded in turn, each load of the path
//! round 2: echo, fingerpost, coredns, knot ...    so what the machine does meanwhile falls on all alike
//! ```
//!
//! A figure is the round in the middle. Nothing is asked twice: what is lost is counted by its ID, and CPU is divided by
//! answers, not by queries. Files: `path.rs` says who does what, `peer.rs` and `config.rs` start them, `names.rs` has
//! the names, `measure.rs` a sample, `figure.rs` the results, `report.rs` tables and plots made of them.

mod config;
mod figure;
mod goal;
mod measure;
mod names;
mod path;
mod peer;
mod plot;
mod report;
mod table;
mod usage;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::bench::args::Args;
use crate::bench::objects::Size;
use crate::bench::report::machine;
use crate::bench::speed::figure::Figure;
use crate::bench::speed::path::Path;
use crate::bench::speed::peer::Program;
use crate::command::{cargo, run as run_command};
use crate::paths;

pub const HELP: &str = "\
usage: cargo xtask bench speed [--quick] [FLAG VALUE]...

Measures the release build beside the bare socket (`xtask echo`) and the servers that it finds: COREDNS_BIN, KNOTD_BIN,
NSD_BIN, UNBOUND_BIN, DNSDIST_BIN, or the search path. FINGERPOST_BIN names another build than this checkout's.

  --paths P,P…       of kubernetes nxdomain ptr srv headless cache forward tcp tcp-once log workers services blocks (all)
  --peers S,S…       of echo fingerpost coredns knot nsd unbound dnsdist (all that are there)
  --rates N,N…       queries a second over UDP beside saturation; all on the first path, the last on others (20000,60000)
  --rounds N         the figure is the median (5)
  --queries N        of a figure, in all rounds; a quarter of them with a connection each (1000000)
  --services N       of the cluster; every tenth is headless (10000)
  --cores A,B        the server's and the generator's (0,1)
  --out FILE         results (benches/results/speed.json if all is measured in full, else target/bench-speed/speed.json)
  --quick            three rounds and 150,000 queries a figure: ratios, roughly

All of it takes about 20 minutes of a quiet machine, `--quick` about 7. `bench report [FILE]` makes the tables of
README.md and docs/performance.md and the plots of docs/plots from results.";

const FLAGS: &[&str] = &[
    "--paths",
    "--peers",
    "--rates",
    "--rounds",
    "--queries",
    "--services",
    "--cores",
    "--out",
];

/// What was asked for.
struct Plan {
    paths: Vec<Path>,
    programs: Vec<(Program, PathBuf)>,
    rounds: u64,
    /// Of a figure.
    queries: u64,
    size: Size,
    cores: [u32; 2],
    out: PathBuf,
}

/// The command.
pub fn run(words: &[&str]) -> Result<(), String> {
    let is_quick = words.contains(&"--quick");
    let rest: Vec<&str> = words
        .iter()
        .copied()
        .filter(|word| *word != "--quick")
        .collect();
    let args = Args::parse(&rest, FLAGS)?;
    if cfg!(debug_assertions) {
        return again_optimized(words);
    }
    let plan = Plan::new(&args, is_quick)?;
    let start = Instant::now();
    let figures = measure::all(&plan)?;
    println!("measured in {:.0} s", start.elapsed().as_secs_f64());
    let folder = plan.out.parent().unwrap_or(&plan.out);
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let text = format!("{}\n", lines(&plan.results(&figures)));
    std::fs::write(&plan.out, text).map_err(|error| format!("{}: {error}", plan.out.display()))?;
    println!("results: {}", plan.out.display());
    if plan.out == committed() {
        report::run(&plan.out)?;
    }
    Ok(())
}

/// `bench report`.
pub fn report(words: &[&str]) -> Result<(), String> {
    match words {
        [] => report::run(&committed()),
        [file] => report::run(file.as_ref()),
        _ => Err("`bench report` takes a file of results, or nothing".into()),
    }
}

fn committed() -> PathBuf {
    paths::root().join("benches/results/speed.json")
}

/// A generator that is not optimized is slower than what it measures.
fn again_optimized(words: &[&str]) -> Result<(), String> {
    println!("building the generator");
    run_command(cargo().args(["build", "--release", "--quiet", "--package", "xtask"]))?;
    let program = paths::cargo_target().join("release/xtask");
    run_command(Command::new(program).args(["bench", "speed"]).args(words))
}

impl Plan {
    fn new(args: &Args, is_quick: bool) -> Result<Self, String> {
        let none: &[String] = &[];
        let wanted = args.list("--peers", none)?;
        let mut programs = Vec::new();
        for program in Program::ALL {
            if !wanted.is_empty() && !wanted.iter().any(|name| name == program.name()) {
                continue;
            }
            match program.locate() {
                Ok(file) => programs.push((program, file)),
                Err(error) if program == Program::Fingerpost => return Err(error),
                Err(error) => println!("{} is left out: {error}", program.name()),
            }
        }
        let keys = args.list("--paths", none)?;
        let mut paths = path::all(&args.list("--rates", &[20_000, 60_000])?);
        if let Some(key) = keys
            .iter()
            .find(|key| paths.iter().all(|path| path.key != **key))
        {
            return Err(format!("there is no path `{key}`"));
        }
        paths.retain(|path| keys.is_empty() || keys.iter().any(|key| key == path.key));
        let is_whole = keys.is_empty() && wanted.is_empty() && !is_quick;
        let out = match args.get("--out", String::new())? {
            file if !file.is_empty() => file.into(),
            _ if is_whole => committed(),
            _ => paths::target().join("bench-speed/speed.json"),
        };
        let cores = args.list("--cores", &[0, 1])?;
        let [server, generator] = cores[..] else {
            return Err("`--cores` takes two".into());
        };
        Ok(Self {
            paths,
            programs,
            rounds: args.get("--rounds", if is_quick { 3 } else { 5 })?.max(1),
            queries: args.get("--queries", if is_quick { 150_000 } else { 1_000_000 })?,
            size: Size {
                services: args.get("--services", 10_000)?,
                endpoints: 10,
                pods: 0,
            },
            cores: [server, generator],
            out,
        })
    }

    fn results(&self, figures: &[Figure]) -> Value {
        let versions = self.programs.iter().map(|(program, file)| {
            let version = program.version(file);
            (program.name().to_owned(), Value::from(version))
        });
        json!({
            "machine": machine(),
            "versions": Value::Object(versions.collect()),
            "settings": {
                "rounds": self.rounds, "queries": self.queries, "services": self.size.services,
                "endpoints": self.size.endpoints, "window": measure::WINDOW,
                "pipelined": measure::PIPELINED, "once": measure::ONCE,
            },
            "figures": figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
        })
    }
}

/// JSON with a line for each sample, so that a difference can be read.
fn lines(results: &Value) -> String {
    let text = results.to_string();
    text.replace("{\"answered\"", "\n  {\"answered\"")
        .replace("{\"load\"", "\n {\"load\"")
}
