//! Builds the program that goes into an image: linked statically, and the same wherever the checkout lies.

use std::path::PathBuf;
use std::process::Command;

use super::elf::Machine;
use crate::command::{cargo, find, output, run, succeeds};
use crate::paths;

/// Builds the release for this machine; returns the program.
pub fn program(machine: Machine, commit: Option<&str>) -> Result<PathBuf, String> {
    let target = machine.target();
    println!("building the release for {target}");
    let mut command = cargo();
    command
        .args(["build", "--release", "--locked", "--bin", "fingerpost"])
        .args(["--package", "fingerpost", "--target", target])
        // Takes the place of all other flags: what somebody has in the environment must not change the image.
        .env("CARGO_ENCODED_RUSTFLAGS", flags(machine)?.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env("FINGERPOST_COMMIT", commit.unwrap_or_default());
    if Machine::here()? != machine {
        foreign(machine, &mut command)?;
    }
    run(&mut command)?;
    Ok(paths::cargo_target()
        .join(target)
        .join("release/fingerpost"))
}

/// Static, with no path of this machine in panic messages.
fn flags(machine: Machine) -> Result<Vec<String>, String> {
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        // The system call itself. In a static program the crate does not find the C library's function by its name, and
        // would read /dev/urandom instead.
        "--cfg=getrandom_backend=\"linux_getrandom\"".to_owned(),
    ];
    if machine == Machine::Amd64 {
        // What rustc links with there, LLD, folds functions that came out the same, and packs relocations: 8 % of the file.
        flags.push("-Clink-arg=-Wl,--icf=all,-z,pack-relative-relocs".to_owned());
    }
    let remap = |from: &str, to: &str| format!("--remap-path-prefix={from}={to}");
    let shown = |path: PathBuf| path.display().to_string();
    flags.push(remap(&shown(paths::root().to_owned()), "fingerpost"));
    flags.push(remap(&shown(paths::cargo_target()), "target"));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .ok_or("neither CARGO_HOME nor a home folder is known")?;
    // Below it each registry has a folder, whose name says where the registry was fetched from.
    let registries = home.join("registry/src");
    flags.push(remap(&shown(registries.clone()), "registry"));
    let folders = std::fs::read_dir(&registries).into_iter().flatten();
    for folder in folders.flatten() {
        flags.push(remap(&shown(folder.path()), "registry"));
    }
    Ok(flags)
}

/// The version of glibc that a C compiler links, from the macros of its headers; none if it is another library.
pub fn c_library(machine: Machine) -> Option<String> {
    let here = Machine::here() == Ok(machine);
    let compiler = if here { "cc" } else { compiler(machine) };
    let arguments = [
        "-E",
        "-dM",
        "-include",
        "features.h",
        "-x",
        "c",
        "/dev/null",
    ];
    let macros = output(Command::new(compiler).args(arguments)).ok()?;
    let value = |name: &str| {
        macros
            .lines()
            .find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))
            .map(str::trim)
    };
    Some(format!(
        "{}.{}",
        value("__GLIBC__ ")?,
        value("__GLIBC_MINOR__ ")?
    ))
}

/// Debian's name of the C compiler for this machine, as seen from another.
fn compiler(machine: Machine) -> &'static str {
    match machine {
        Machine::Amd64 => "x86_64-linux-gnu-gcc",
        Machine::Arm64 => "aarch64-linux-gnu-gcc",
    }
}

/// The standard library, the linker and the C compiler of another machine.
fn foreign(machine: Machine, command: &mut Command) -> Result<(), String> {
    let target = machine.target();
    let compiler = compiler(machine);
    if find(compiler).is_none() {
        return Err(format!(
            "no `{compiler}`: install the compiler for {} first",
            machine.name()
        ));
    }
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = PathBuf::from(sysroot.trim())
        .join("lib/rustlib")
        .join(target);
    if !library.is_dir() && !succeeds(Command::new("rustup").args(["target", "add", target])) {
        return Err(format!(
            "the standard library for {target} is not installed, nor can rustup add it"
        ));
    }
    let name = target.replace('-', "_");
    let linker = format!("CARGO_TARGET_{}_LINKER", name.to_uppercase());
    command
        .env(linker, compiler)
        .env(format!("CC_{name}"), compiler);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Machine, c_library};

    #[test]
    fn the_c_library_is_the_one_that_the_system_names() {
        let system =
            crate::command::output(std::process::Command::new("getconf").arg("GNU_LIBC_VERSION"));
        let system = system
            .ok()
            .and_then(|text| Some(text.trim().strip_prefix("glibc ")?.to_owned()));
        let machine = Machine::here().expect("images are made for this machine");
        assert_eq!(c_library(machine), system);
    }
}
