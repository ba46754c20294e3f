//! A log that nobody takes, and a disk that is full or may not be written.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use fingerpost::cluster::objects::Resource;
use hickory_proto::rr::RecordType::A;
use serde_json::json;
use tempfile::TempDir;

use crate::lab::{after, client, count, is_well, query, rcode, run, shop, within};
use crate::model_api::{Model, Wire};
use crate::program::{Program, free_port, wait_until};

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    log
    errors
    health 127.0.0.1:HEALTH
    prometheus 127.0.0.1:METRICS
    whoami
}
";

const DROPPED: &str = "fingerpost_log_dropped_total";

/// The program that logs each query to `out`, which is a word for the shell.
fn logging_to(out: &str, folder: TempDir) -> (Program, u16, u16) {
    let (health, metrics) = (free_port(), free_port());
    let corefile = COREFILE
        .replace("HEALTH", &health.to_string())
        .replace("METRICS", &metrics.to_string());
    let program = Program::start_by(after(&format!("exec >{out}")), folder, &corefile, None);
    (program, health, metrics)
}

/// Queries, each answered, so that each has a line.
fn ask(port: u16, queries: u16) {
    let client = client(Ipv4Addr::LOCALHOST, port);
    let mut reply = [0; 512];
    for id in 0..queries {
        client
            .send(&query(id, "a-name-that-fills-a-log.example"))
            .unwrap();
        client.recv(&mut reply).unwrap();
    }
}

/// A pipe with a name, held open by the test: a writer finds it full one day, never without a reader.
fn pipe(path: &Path) -> File {
    run(&format!("mkfifo {}", path.display()));
    let mut both_ends = OpenOptions::new();
    both_ends.read(true).write(true);
    both_ends.custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// Octets that are in it now.
fn take(mut pipe: &File) -> usize {
    let mut octets = vec![0; 1 << 16];
    std::iter::from_fn(|| pipe.read(&mut octets).ok()).sum()
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_nothing_else_and_goes_on_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = pipe(&folder.path().join("log"));
    let (mut program, health, metrics) = logging_to("log", folder);
    let lost = || count(metrics, DROPPED, "");
    for _ in 0..20 {
        ask(program.port, 2000);
        if lost() > 0 {
            break;
        }
    }
    let before = lost();
    assert!(before > 0, "all of it found room");
    assert!(is_well(health));
    // Somebody reads: what waited comes out, and new lines are not lost.
    let read = std::cell::Cell::new(0);
    wait_until("what waited", || {
        read.set(read.get() + take(&pipe));
        read.get() > 1 << 20
    });
    ask(program.port, 10);
    assert_eq!(lost(), before);
    // And a stop does not wait for a reader.
    for _ in 0..10 {
        ask(program.port, 2000);
    }
    program.signal("TERM");
    assert!(program.wait().success());
    assert!(take(&pipe) > 0);
}

#[test]
fn a_reader_of_the_log_that_has_gone_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = pipe(&folder.path().join("log"));
    let (mut program, health, metrics) = logging_to("log", folder);
    drop(pipe);
    ask(program.port, 100);
    wait_until("lines lost", || count(metrics, DROPPED, "") > 0);
    assert!(is_well(health));
    program.signal("TERM");
    assert!(program.wait().success());
}

#[test]
fn a_start_with_its_log_on_a_full_disk_serves() {
    let (program, health, metrics) = logging_to("/dev/full", tempfile::tempdir().unwrap());
    ask(program.port, 100);
    wait_until("lines lost", || count(metrics, DROPPED, "") >= 100);
    assert!(is_well(health));
    assert_eq!(rcode(program.port, "a", Duration::from_secs(9)), Some(0));
}

const WITH_SNAPSHOT: &str = ".:PORT {
    bind 127.0.0.1
    log
    errors
    reload 2s
    health 127.0.0.1:HEALTH
    prometheus 127.0.0.1:METRICS
    kubernetes cluster.local {
        endpoint API
        snapshot DISK/snapshot 1h
    }
}
";

const WRITES: &str = "fingerpost_kubernetes_snapshot_writes_total";

/// A file system of so few octets that neither the log nor a snapshot fits, in a mount namespace of our own.
struct Disk {
    program: Program,
    health: u16,
    metrics: u16,
    model: Model,
    _api: crate::fake_api::FakeApi,
}

fn service(number: usize) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": format!("a-service-of-the-shop-{number}")},
        "spec": {"clusterIP": Ipv4Addr::from_bits(0x0a60_0001 + number as u32).to_string(),
            "ports": [{"name": "http", "port": 80}]},
    })
}

impl Disk {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        run(&format!(
            "mount -t tmpfs -o {options} none {}",
            disk.display()
        ));
        let model = shop((0..2000).map(service).collect());
        let api = model.serve();
        let (health, metrics) = (free_port(), free_port());
        let corefile = WITH_SNAPSHOT
            .replace("HEALTH", &health.to_string())
            .replace("METRICS", &metrics.to_string())
            .replace("API", &api.url())
            .replace("DISK", &disk.to_string_lossy());
        let line = match options.contains("ro") {
            true => "true",
            false => "exec >disk/log",
        };
        let program = Program::start_by(after(line), folder, &corefile, None);
        Self {
            program,
            health,
            metrics,
            model,
            _api: api,
        }
    }

    /// With the disk as it is, all but what is written goes on.
    fn assert_serves(&self, number: usize) {
        self.model
            .set(Resource::Services, service(number), Wire::Delivers);
        let name = format!("a-service-of-the-shop-{number}.shop.svc.cluster.local.");
        let address = Ipv4Addr::from_bits(0x0a60_0001 + number as u32).to_string();
        self.program.wait_for_answer(&name, A, &[&address]);
        assert!(is_well(self.health));
    }

    fn writes(&self, outcome: &str) -> u64 {
        count(self.metrics, WRITES, &format!("outcome=\"{outcome}\""))
    }

    /// The disk gets room: the stop writes what could not be written, and a start without the API server has it.
    fn mend_and_stop(mut self, options: &str) {
        let disk = self.program.folder.path().join("disk");
        run(&format!("mount -o remount,{options} {}", disk.display()));
        self.program.signal("TERM");
        assert!(self.program.wait().success());
        assert!(std::fs::metadata(disk.join("snapshot")).unwrap().len() > 16 << 10);
    }
}

#[test]
fn a_full_disk_costs_the_snapshot_and_the_log_until_it_has_room() {
    if !within(
        "output::a_full_disk_costs_the_snapshot_and_the_log_until_it_has_room",
        &["--map-root-user", "--mount"],
        "mount -t tmpfs -o size=16k none /mnt && mount -o remount,size=4m /mnt",
    ) {
        return;
    }
    let disk = Disk::new("size=16k");
    wait_until("a snapshot that failed", || disk.writes("failed") > 0);
    disk.assert_serves(2000);
    for _ in 0..5 {
        ask(disk.program.port, 100);
    }
    wait_until("lines lost", || count(disk.metrics, DROPPED, "") > 0);
    disk.assert_serves(2001);
    assert_eq!(disk.writes("written"), 0);
    disk.mend_and_stop("size=4m");
}

#[test]
fn a_disk_that_may_not_be_written_costs_the_snapshot_until_it_may() {
    if !within(
        "output::a_disk_that_may_not_be_written_costs_the_snapshot_until_it_may",
        &["--map-root-user", "--mount"],
        "mount -t tmpfs -o ro none /mnt && mount -o remount,rw /mnt",
    ) {
        return;
    }
    let disk = Disk::new("ro");
    wait_until("a snapshot that failed", || disk.writes("failed") > 0);
    disk.assert_serves(2000);
    assert_eq!(disk.writes("written"), 0);
    disk.mend_and_stop("rw");
}
