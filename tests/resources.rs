//! What the host allows: as many workers as the CPU quota of our cgroup pays for, however deep it is nested and
//! whichever version the host has; receive queues as long as it lets us have them.
//!
//! The program sees a cgroup file system of the test's own, mounted over the real one in a mount namespace. It takes
//! root; without, the tests say so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::path::Path;
use std::process::{Command, Stdio};

use fingerpost::net::limit::UDP_QUEUE_OCTETS;
use program::Program;

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    whoami
}
";

/// Puts a tree and a membership in place of those of the process that it becomes.
const WITH_CGROUP: &str =
    "mount --bind \"$1\" /sys/fs/cgroup && mount --bind \"$2\" /proc/$$/cgroup || exit 3
shift 2
exec \"$@\"";

/// Whether we may mount at all.
fn may_mount() -> bool {
    Command::new("unshare")
        .args(["-m", "mount", "--bind", "/tmp", "/tmp"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Starts the program in this cgroup, whose tree has these files, and counts its workers.
fn workers(membership: &str, files: &[(&str, &str)]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let (tree, own) = (folder.path().join("tree"), folder.path().join("own"));
    std::fs::write(&own, membership).unwrap();
    for (path, content) in files {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", WITH_CGROUP, "sh"])
        .args([&tree, &own])
        .arg(env!("CARGO_BIN_EXE_fingerpost"))
        .stdin(Stdio::null());
    let program = Program::start_by(command, folder, COREFILE, None);
    let tasks = Path::new("/proc")
        .join(program.id().to_string())
        .join("task");
    let names = std::fs::read_dir(tasks)
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    names.filter(|name| name.starts_with("udp-")).count()
}

/// Cores that the affinity mask leaves us, whatever the quota of the cgroup that the test itself is in.
fn cores_of_affinity() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed:"));
    let digits = mask.unwrap().chars().filter_map(|digit| digit.to_digit(16));
    digits.map(|digit| digit.count_ones() as usize).sum()
}

#[test]
fn a_quota_decides_how_many_workers_there_are() {
    if !may_mount() {
        eprintln!("skipped: needs root");
        return;
    }
    let cores = cores_of_affinity();
    // The quota of a Pod, above a container without one; then the container's own, as it sees it.
    let nested = [
        ("kubepods/pod/app/cgroup.controllers", "cpu"),
        ("kubepods/pod/app/cpu.max", "max 100000\n"),
        ("kubepods/pod/cpu.max", "150000 100000\n"),
        ("kubepods/cpu.max", "max 100000\n"),
    ];
    assert_eq!(workers("0::/kubepods/pod/app\n", &nested), 1);
    let seen_from_within = [("cgroup.controllers", "cpu"), ("cpu.max", "20000 100000\n")];
    assert_eq!(workers("0::/\n", &seen_from_within), 1);
    let unlimited = [("cgroup.controllers", "cpu"), ("cpu.max", "max 100000\n")];
    assert_eq!(workers("0::/\n", &unlimited), cores);

    let first_version = [
        ("cpu/kubepods/pod/app/cpu.cfs_quota_us", "-1\n"),
        ("cpu/kubepods/pod/app/cpu.cfs_period_us", "100000\n"),
        ("cpu/kubepods/pod/cpu.cfs_quota_us", "100000\n"),
        ("cpu/kubepods/pod/cpu.cfs_period_us", "100000\n"),
        ("cpu/kubepods/cpu.cfs_quota_us", "-1\n"),
        ("cpu/kubepods/cpu.cfs_period_us", "100000\n"),
    ];
    let member = "3:cpu,cpuacct:/kubepods/pod/app\n";
    assert_eq!(workers(member, &first_version), 1);
}

#[test]
fn a_receive_queue_that_the_host_keeps_short_is_reported() {
    const REPORT: &str = "raise net.core.rmem_max";
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    let octets_max: usize = text.trim().parse().unwrap();
    // Even root's limit holds for whoever lacks the capability.
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-net_admin"])
        .arg(env!("CARGO_BIN_EXE_fingerpost"))
        .stdin(Stdio::null());
    if !may_mount() {
        eprintln!("skipped: needs root");
        return;
    }
    let program = Program::start_by(command, tempfile::tempdir().unwrap(), COREFILE, None);
    if octets_max < UDP_QUEUE_OCTETS {
        program.wait_for_output(REPORT, 1);
    } else {
        assert!(!program.output().contains(REPORT));
    }
}
