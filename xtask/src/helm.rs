//! helm, for the tests of the chart: built from its Go module, once.

use std::path::Path;
use std::process::Command;

use crate::command::run;
use crate::{paths, provision};

/// The release that is built.
const HELM: &str = "4.3.1";

/// `target/helm/bin/helm` is there, where `tests/deploy` looks for it.
pub fn program() -> Result<(), String> {
    let home = paths::target().join("helm");
    let stamp = home.join("stamp");
    let fresh = std::fs::read_to_string(&stamp).is_ok_and(|text| text == HELM);
    if fresh && home.join("bin/helm").is_file() {
        return Ok(());
    }
    println!("building helm {HELM} from its Go module: 2 to 4 minutes, once");
    let go = provision::go()?;
    let said = |path: &Path, error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&home).map_err(|error| said(&home, error))?;
    run(Command::new(go)
        .args(["install", "-trimpath", "-ldflags", "-s -w"])
        .arg(format!("helm.sh/helm/v4/cmd/helm@v{HELM}"))
        // Away from our checkout, which is no Go module.
        .current_dir(&home)
        .env("GOBIN", home.join("bin"))
        .env("GOFLAGS", "-mod=mod")
        .env("CGO_ENABLED", "0")
        .env_remove("GOWORK"))?;
    std::fs::write(&stamp, HELM).map_err(|error| said(&stamp, error))
}
