//! `test`: everything that guards a change.

use std::path::Path;
use std::process::ExitCode;

use crate::bench::args::Args;
use crate::bench::instructions;
use crate::command::{cargo, run as command};
use crate::steps::{Done, Steps};
use crate::{control_plane, e2e, fuzz, helm, image, paths, provision, vectors};

/// Seconds that each fuzz target runs.
const FUZZ_SECONDS: u64 = 60;

fn all(steps: &mut Steps) {
    steps.step("format", || {
        passed(command(cargo().args(["fmt", "--all", "--check"])))
    });
    steps.step("lints", || {
        passed(command(cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])))
    });
    steps.step("unit tests", || {
        command(cargo().args(["test", "--workspace", "--lib", "--bins"]))?;
        passed(command(cargo().args(["test", "--doc"])))
    });
    steps.step("tools", || passed(provision::programs()));
    steps.step("control plane", || {
        passed(control_plane::programs().map(drop))
    });
    steps.step("helm", || passed(helm::program()));
    steps.step("integration tests", || {
        // Tests that need a control plane find it there.
        let assets = control_plane::programs()?;
        passed(command(
            cargo()
                .args(["test", "--test", "*"])
                .env("KUBEBUILDER_ASSETS", assets),
        ))
    });
    steps.step("image", image::check::is_small_and_the_same_twice);
    steps.step("image, in a container", image::check::serves_in_a_container);
    steps.step("end to end, from pods", e2e::step);
    steps.step("instructions", || {
        if !instructions::is_comparable() {
            return Ok(Done::Skipped(
                "the baseline is of another architecture".into(),
            ));
        }
        passed(instructions::run(&Args::default()))
    });
    steps.step("fuzz", || passed(fuzz::run_all(FUZZ_SECONDS)));
    steps.step("hostile inputs", || with_vectors(vectors::hostile));
    steps.step("conformance, cluster from object files", || {
        with_vectors(vectors::conformance_from_files)
    });
    steps.step("conformance, cluster from a real API server", || {
        with_vectors(vectors::conformance_from_api)
    });
}

/// Runs all steps, or those with this text in their names, and says how it went.
pub fn run(only: Option<&str>) -> ExitCode {
    let mut steps = only.map_or_else(Steps::default, Steps::only);
    all(&mut steps);
    steps.close()
}

fn passed(result: Result<(), String>) -> Result<Done, String> {
    result.map(|()| Done::Passed)
}

fn with_vectors(step: impl FnOnce(&Path) -> Result<(), String>) -> Result<Done, String> {
    match paths::shared() {
        Some(shared) => passed(step(&shared)),
        None => Ok(Done::Skipped(
            "no folder `shared` beside the checkout".into(),
        )),
    }
}
