//! `e2e`: a small cluster on this machine, with everything that stands between a pod and the server in a real one.
//!
//! ```text
//! client in a pod: glibc, musl, Go, nslookup; the kubelet's resolv.conf
//!    |  10.96.0.10
//! its node: kube-proxy's nftables rules, conntrack
//!    |  10.244.x.y
//! replica: the image's files, run by runc, from the Deployment of deploy/base
//!    |  10.96.0.1, through kube-proxy again
//! kube-apiserver, etcd, kube-controller-manager
//! ```
//!
//! Real are all programs named here, the image and the objects of `deploy/base`. The kubelets and the scheduler are
//! played (`kubelet.rs`). It takes root; all of it lives in namespaces of its own (network, mounts, processes), which
//! end with the run, and it reaches nothing outside them.

mod bed;
mod client;
mod container;
mod faults;
mod kubelet;
mod network;
mod questions;
mod report;
mod restart;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::args::Args;
use crate::command::succeeds;
use crate::e2e::bed::Bed;
use crate::e2e::report::Report;
use crate::image;
use crate::steps::Done;
use crate::{control_plane, paths, provision};

pub const HELP: &str = "\
usage: cargo xtask e2e [FLAG VALUE]...

A cluster in network namespaces: the real control plane, kube-proxy on two nodes, two replicas of the image, clients in
pods. Asks what Kubernetes' conformance tests ask, with faults, and restarts the replicas under load. It takes root.

  --rounds N        rolling restarts of both replicas (2)
  --rate N          queries a second meanwhile (10000)
  --only PART       questions, tcp, api, kill or restarts
  --program FILE    this static program in place of a build of ours; it may be CoreDNS, for comparison
  --keep yes        waits at the end, until Ctrl-C, and says how to look around";

const FLAGS: &[&str] = &["--rounds", "--rate", "--only", "--program", "--keep"];

/// Set in the process that runs within the namespaces.
const WITHIN: &str = "FINGERPOST_E2E_WITHIN";

/// Prepares the namespaces, and stands over the command: when it goes, everything does.
const PREPARE: &str = r#"
    mount -t tmpfs none /run
    test -e /etc/resolv.conf || { f=$(readlink -m /etc/resolv.conf); mkdir -p "${f%/*}"; : >"$f"; }
    trap 'exit 130' INT TERM
    "$@" &
    wait $!"#;

fn folder() -> PathBuf {
    paths::target().join("e2e")
}

/// The command.
pub fn run(words: &[&str]) -> Result<(), String> {
    if let ["--help" | "-h"] = words {
        println!("{HELP}");
        return Ok(());
    }
    let args = Args::parse(words, FLAGS)?;
    if std::env::var_os(WITHIN).is_some() {
        return within(&args);
    }
    if !is_allowed() {
        return Err("this takes root, and namespaces of its own".into());
    }
    let program: String = args.get("--program", String::new())?;
    prepare((!program.is_empty()).then(|| PathBuf::from(program)))?;
    enter(words)
}

/// A short run, as `cargo xtask test` has it.
pub fn step() -> Result<Done, String> {
    if !is_allowed() {
        return Ok(Done::Skipped("namespaces need root here".into()));
    }
    prepare(None)?;
    enter(&["--rounds", "2"])?;
    Ok(Done::Passed)
}

fn is_allowed() -> bool {
    succeeds(Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]))
}

/// What needs the world outside: programs, the image, the clients.
fn prepare(program: Option<PathBuf>) -> Result<(), String> {
    provision::programs()?;
    provision::container_tools()?;
    provision::cluster_tools()?;
    control_plane::cluster_programs()?;
    let (folder, clients) = (folder(), folder().join("clients"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::create_dir_all(&clients).map_err(|error| format!("{}: {error}", clients.display()))?;
    client::build(&clients)?;
    let archive = image::archive_of_this_machine(program, &folder)?;
    image::check::unpack(&archive, &folder).map(drop)
}

/// Runs the rest in namespaces of its own.
fn enter(words: &[&str]) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut within = Command::new("unshare");
    within
        .args(["--net", "--mount", "--pid", "--fork"])
        .args(["--mount-proc", "--kill-child"])
        .args(["sh", "-c", PREPARE, "sh"])
        .arg(program)
        .arg("e2e")
        .args(words)
        .env(WITHIN, "yes")
        .env_remove("KUBECONFIG");
    if succeeds_aloud(&mut within)? {
        Ok(())
    } else {
        Err("e2e failed".into())
    }
}

/// Whether it is content, with what it prints shown.
fn succeeds_aloud(command: &mut Command) -> Result<bool, String> {
    let status = command.stdin(std::process::Stdio::null()).status();
    status
        .map(|status| status.success())
        .map_err(|error| format!("unshare: {error}"))
}

fn within(args: &Args) -> Result<(), String> {
    let only = args.get("--only", String::new())?;
    let plan = restart::Plan {
        rounds: args.get("--rounds", 2)?,
        rate: args.get("--rate", 10_000)?,
    };
    let mut report = Report::new();
    let mut bed = Bed::start(&folder(), folder().join("bundle"))?;
    let is_wanted = |part: &str| only.is_empty() || only == part;
    if is_wanted("questions") {
        report.begin("questions");
        questions::ask_all(&bed, &mut report, "");
        questions::ask_long(&bed, &mut report);
        questions::ask_after_changes(&bed, &mut report);
    }
    if is_wanted("tcp") {
        report.begin("53/TCP is denied");
        faults::without_tcp(&bed, &mut report);
    }
    if is_wanted("api") {
        report.begin("the API server is away");
        faults::without_api_server(&mut bed, &mut report);
    }
    if is_wanted("kill") {
        report.begin("a replica is killed");
        faults::kill_one(&bed, &mut report);
    }
    if is_wanted("restarts") {
        report.begin("rolling restarts");
        restart::run(&bed, &mut report, plan);
    }
    let troubles = bed.kubelet.troubles();
    report.check(
        "the kubelets had no trouble",
        questions::said(troubles.is_empty(), || troubles.join("; ")),
    );
    let result = report.close();
    if args.get("--keep", "no".to_owned())? == "yes" {
        keep(&bed, &folder());
    }
    // Nothing is stopped in order: it all ends with the namespaces.
    std::process::exit(match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    })
}

fn keep(bed: &Bed, folder: &Path) -> ! {
    println!("\nlogs and files: {}", folder.display());
    println!(
        "a shell in it, as root: nsenter --all --target PID, with the PID of a program of it, say kube-proxy's"
    );
    println!(
        "then: {} --kubeconfig {} get pods -A",
        bed.control_plane.programs().join("kubectl").display(),
        bed.control_plane.kubeconfig().display()
    );
    for (name, view) in bed.kubelet.pods() {
        println!(
            "{name} {}: nsenter --net=/run/netns/{}",
            view.address, view.network
        );
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
