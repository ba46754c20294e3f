//! `image`: the container image, without a container engine.
//!
//! ```text
//! cargo build --release, static --program--.
//! webpki-root-certs             --PEM------+--> layer.tar.gz --.
//! cargo tree, cargo metadata    --SBOM beside it               +--> blobs, manifests, index --> fingerpost.tar
//!                                          configuration.json -'
//! ```
//!
//! The same sources, lock file and compiler give the same octets, wherever the checkout lies: what is in the image has
//! neither the time of the build nor a path, and paths in panic messages are cut (`build.rs`).
//!
//! The program is linked statically with glibc, not musl. It is then the program that all tests and figures are about:
//! the same allocator ([decision 5](../../docs/decisions/0005-allocator.md)) and the same resolver for upstreams given
//! by name; `docs/decisions/0013-static-glibc.md` has the figures.

mod archive;
mod authorities;
mod build;
pub mod check;
mod elf;
mod layer;
mod sbom;

use std::path::{Path, PathBuf};

use crate::command::output;
use crate::paths;

pub const HELP: &str = "\
usage: cargo xtask image [FLAG VALUE]...

Writes target/image/fingerpost.tar, an OCI image archive that `ctr image import`, `kind load image-archive`,
`podman load` and `skopeo copy oci-archive:…` take, and the SBOM of each program (CycloneDX) beside it.

  --arch ARCH       amd64 or arm64 (this machine's); twice for an image of both
  --program FILE    this static program in place of a build; its ELF header says for which machine. May be repeated
  --name NAME:TAG   the image's name (fingerpost:VERSION)

Another architecture than this machine's needs its C compiler, as Debian packages it (gcc-aarch64-linux-gnu), and
rustup for the standard library. SOURCE_DATE_EPOCH is the date written in the image; without it, the last commit's.";

/// The version of everything here.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program and what it runs on.
pub struct Program {
    pub path: PathBuf,
    pub machine: elf::Machine,
    /// The glibc in it, if it was built here.
    pub c_library: Option<String>,
}

/// What the flags say.
#[derive(Default)]
struct Flags {
    machines: Vec<elf::Machine>,
    programs: Vec<PathBuf>,
    name: Option<String>,
}

/// The command.
pub fn command(words: &[&str]) -> Result<(), String> {
    if matches!(words, ["--help" | "-h"]) {
        println!("{HELP}");
        return Ok(());
    }
    let flags = parse(words)?;
    let folder = paths::target().join("image");
    make(&flags, &folder).map(drop)
}

/// The archive for this machine, with this static program in it, or with ours, built if its sources are newer.
pub fn archive_of_this_machine(program: Option<PathBuf>, folder: &Path) -> Result<PathBuf, String> {
    let flags = Flags {
        programs: program.into_iter().collect(),
        ..Flags::default()
    };
    make(&flags, folder)
}

fn parse(words: &[&str]) -> Result<Flags, String> {
    let mut flags = Flags::default();
    let mut rest = words.iter();
    while let Some(&flag) = rest.next() {
        let mut value = || {
            rest.next()
                .ok_or_else(|| format!("`{flag}` needs a value\n{HELP}"))
        };
        match flag {
            "--arch" => flags.machines.push(elf::Machine::from_name(value()?)?),
            "--program" => flags.programs.push(PathBuf::from(value()?)),
            "--name" => flags.name = Some((*value()?).to_owned()),
            _ => return Err(format!("unknown flag `{flag}`\n{HELP}")),
        }
    }
    if !flags.machines.is_empty() && !flags.programs.is_empty() {
        return Err("`--arch` builds and `--program` takes what is built: one of them".into());
    }
    Ok(flags)
}

/// Builds what is to be built and writes everything into `folder`; returns the archive.
fn make(flags: &Flags, folder: &Path) -> Result<PathBuf, String> {
    let source = Source::of_checkout();
    let programs = programs(flags, &source)?;
    let default = format!("fingerpost:{VERSION}");
    let name = flags.name.as_deref().unwrap_or(&default);
    write_all(&programs, name, &source, folder)
}

fn programs(flags: &Flags, source: &Source) -> Result<Vec<Program>, String> {
    if !flags.programs.is_empty() {
        return flags.programs.iter().map(|path| given(path)).collect();
    }
    let mut machines = flags.machines.clone();
    if machines.is_empty() {
        machines.push(elf::Machine::here()?);
    }
    let build = |&machine| {
        let path = build::program(machine, source.commit.as_deref())?;
        let c_library = build::c_library(machine);
        given(&path).map(|program| Program {
            c_library,
            ..program
        })
    };
    machines.iter().map(build).collect()
}

/// A program that is there, if it can run in an image that holds nothing else.
fn given(path: &Path) -> Result<Program, String> {
    let said = |error: String| format!("{}: {error}", path.display());
    let octets = std::fs::read(path).map_err(|error| said(error.to_string()))?;
    let machine = elf::machine_of_static(&octets).map_err(said)?;
    Ok(Program {
        path: path.to_owned(),
        machine,
        c_library: None,
    })
}

fn write_all(
    programs: &[Program],
    name: &str,
    source: &Source,
    folder: &Path,
) -> Result<PathBuf, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut image = archive::Archive::new(name, source);
    for program in programs {
        let octets = std::fs::read(&program.path)
            .map_err(|error| format!("{}: {error}", program.path.display()))?;
        image.add(program.machine, &layer::uncompressed(&octets)?)?;
        let bill = folder.join(format!("fingerpost-{}.cdx.json", program.machine.name()));
        write(&bill, &sbom::of(program, &octets)?)?;
        println!("{}", bill.display());
    }
    let path = folder.join("fingerpost.tar");
    let (octets, digest) = image.finish()?;
    write(&path, &octets)?;
    println!("{}: {name}, {} octets", path.display(), octets.len());
    println!("{digest}");
    Ok(path)
}

fn write(path: &Path, octets: &[u8]) -> Result<(), String> {
    std::fs::write(path, octets).map_err(|error| format!("{}: {error}", path.display()))
}

/// Where the sources stand. Without a commit, as in a tarball, the image says nothing about it.
#[derive(Clone, Default)]
pub struct Source {
    pub commit: Option<String>,
    /// Seconds since 1970.
    pub date: Option<u64>,
}

impl Source {
    fn of_checkout() -> Self {
        let git = |arguments: &[&str]| {
            let mut command = std::process::Command::new("git");
            command.current_dir(paths::root()).args(arguments);
            output(&mut command).ok().map(|text| text.trim().to_owned())
        };
        let named = std::env::var("SOURCE_DATE_EPOCH").ok();
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
        let mark = if changed.is_some_and(|text| !text.is_empty()) {
            "-dirty"
        } else {
            ""
        };
        Self {
            commit: git(&["rev-parse", "HEAD"]).map(|commit| commit + mark),
            date: named
                .or_else(|| git(&["log", "-1", "--format=%ct"]))
                .and_then(|text| text.parse().ok()),
        }
    }
}
