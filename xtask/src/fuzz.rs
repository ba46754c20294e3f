//! Runs the fuzz targets: under libFuzzer where a nightly compiler is installed, else with the package's own mutator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::command::{cargo, run, succeeds};
use crate::paths;

/// The targets, in the order they run.
pub const TARGETS: &[&str] = &[
    "query", "name", "corefile", "snapshot", "message", "edns", "stream", "reply", "objects",
];

/// Targets that run at a time: each is one thread.
const AT_A_TIME: usize = 2;

/// The version that `cargo install` fetches.
const CARGO_FUZZ: &str = "0.13.2";

/// Runs every target for so many seconds.
pub fn run_all(seconds: u64) -> Result<(), String> {
    let fuzz = paths::root().join("fuzz");
    let built = paths::cargo_target().join("fuzz");
    match libfuzzer() {
        Some(program) => {
            run(&mut cargo_fuzz(&program, &fuzz, &built, "build"))?;
            side_by_side(|target| under_libfuzzer(&program, &fuzz, &built, target, seconds))
        }
        None => {
            println!("no nightly compiler with cargo-fuzz: the built-in mutator runs the targets");
            let mut build = cargo();
            build
                .current_dir(&fuzz)
                .args([
                    "build",
                    "--release",
                    "--no-default-features",
                    "--features",
                    "mutator",
                    "--bin",
                    "mutate",
                ])
                .env("CARGO_TARGET_DIR", &built);
            run(&mut build)?;
            let mutate = built.join("release/mutate");
            side_by_side(|target| run(Command::new(&mutate).args([target, &seconds.to_string()])))
        }
    }
}

/// Runs each target, some at a time, up to the first that fails.
fn side_by_side(body: impl Fn(&str) -> Result<(), String> + Sync) -> Result<(), String> {
    let left = Mutex::new(TARGETS.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(target) = next() {
            body(target)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// `cargo-fuzz`, if it and a nightly compiler can be had.
fn libfuzzer() -> Option<PathBuf> {
    if !succeeds(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        return None;
    }
    let tools = paths::target().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    if !program.is_file() {
        println!("installing cargo-fuzz {CARGO_FUZZ}");
        let mut install = cargo();
        install
            .args([
                "install",
                "--quiet",
                "--locked",
                "cargo-fuzz",
                "--version",
                CARGO_FUZZ,
                "--root",
            ])
            .arg(&tools)
            .env("CARGO_TARGET_DIR", tools.join("build"));
        if let Err(error) = run(&mut install) {
            println!("{error}");
            return None;
        }
    }
    Some(program)
}

fn under_libfuzzer(
    program: &Path,
    fuzz: &Path,
    built: &Path,
    target: &str,
    seconds: u64,
) -> Result<(), String> {
    // libFuzzer adds what it finds to the first folder: that is never the committed seeds.
    let corpus = built.join("corpus").join(target);
    std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    println!("--- {target}: {seconds} s under libFuzzer");
    let mut command = cargo_fuzz(program, fuzz, built, "run");
    command
        .arg(target)
        .arg(&corpus)
        .arg(fuzz.join("seeds").join(target))
        .args([
            "--",
            "-max_len=4096",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .arg(format!("-max_total_time={seconds}"));
    run(&mut command)
}

fn cargo_fuzz(program: &Path, fuzz: &Path, built: &Path, what: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(fuzz)
        // What they run holds no unsafe code, so a sanitizer would only cost time.
        .args(["fuzz", what, "--sanitizer", "none", "--target-dir"])
        .arg(built)
        // cargo-fuzz calls cargo again, and it must be the nightly one.
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("CARGO_TARGET_DIR");
    command
}
