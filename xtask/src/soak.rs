//! What takes too long for every change.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::bench::args::Args;
use crate::command::{cargo, run as command};
use crate::steps::{Done, Steps};
use crate::vectors::HostileSetUp;
use crate::{control_plane, fuzz, image, paths, provision, reloads};

/// Growth that a run may show, in kilobytes: caches fill, leaks go on.
const GROWTH_MAX: u64 = 64 * 1024;

/// Fuzzes each target, then sends the hostile inputs over and over, for so many minutes each; then the tests that are
/// left out for their length. Or only the steps with this word in their names.
pub fn run(minutes: u64, only: Option<&str>) -> ExitCode {
    let mut steps = only.map_or_else(Steps::default, Steps::only);
    steps.step("fuzz", || {
        fuzz::run_all(minutes * 60).map(|()| Done::Passed)
    });
    steps.step("hostile inputs, over and over", || match paths::shared() {
        None => Ok(Done::Skipped(
            "no folder `shared` beside the checkout".into(),
        )),
        Some(shared) => {
            provision::programs()?;
            hostile_for(
                &HostileSetUp::start(&shared)?,
                Duration::from_secs(minutes * 60),
            )
        }
    });
    steps.step("a thousand reloads under load", || {
        reloads::run(&Args::default()).map(|()| Done::Passed)
    });
    steps.step("faults of the control plane that take long", || {
        let assets = control_plane::programs()?;
        command(
            cargo()
                .args(["test", "--test", "faults", "--", "--ignored"])
                .env("KUBEBUILDER_ASSETS", assets),
        )
        .map(|()| Done::Passed)
    });
    steps.step(
        "image, from a clone at another path",
        image::check::is_the_same_from_a_clone,
    );
    steps.close()
}

fn hostile_for(set_up: &HostileSetUp, time: Duration) -> Result<Done, String> {
    let end = Instant::now() + time;
    // The first round fills what is filled once.
    set_up.check()?;
    let before = set_up.resident()?;
    let mut rounds = 1;
    while Instant::now() < end {
        set_up.check()?;
        rounds += 1;
    }
    let after = set_up.resident()?;
    println!("{rounds} rounds; resident {before} kB after the first, {after} kB after the last");
    if after > before + GROWTH_MAX {
        return Err(format!("it grew by {} kB", after - before));
    }
    Ok(Done::Passed)
}
