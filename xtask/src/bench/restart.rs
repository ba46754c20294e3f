//! `bench restart`: from `kill -9` to the first right answer, with the API server there and without it.

use std::time::{Duration, Instant};

use crate::bench::args::Args;
use crate::bench::bed::Bed;
use crate::bench::dns::{A, Client, Right};
use crate::bench::objects::{self, Size};
use crate::bench::report::{Table, machine, quantiles};
use crate::bench::subject::{Server, Subject};

pub const HELP: &str = "\
usage: cargo xtask bench restart [FLAG VALUE]...

Starts etcd and kube-apiserver on loopback, fills them, and runs the release build beside them with kubeadm's Corefile, with
`snapshot` and without; then CoreDNS, if COREDNS_BIN names one. Each is killed with SIGKILL and started again on the same port
at once, while a client asks without a pause. FINGERPOST_BIN names another build than this checkout's.

  --services N,N…    sizes (1000,10000); every tenth Service is headless
  --endpoints N      of each Service (10)
  --rounds N         kills of each (7)

`first right` is the time from the signal to the right address of a Service that is there all the time. `denied` counts the
rounds in which the name was denied before: whoever asked then took it for gone. With the API server off only a snapshot can
be right, so the others are not asked.";

pub const FLAGS: &[&str] = &["--services", "--endpoints", "--rounds"];

const PATIENCE: Duration = Duration::from_secs(120);

/// The file is written slowly on purpose.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(240);
const SNAPSHOT: &str = "snapshot.bin";

const NXDOMAIN: u8 = 3;

pub fn run(args: &Args) -> Result<(), String> {
    let sizes = args.list("--services", &[1000, 10_000])?;
    let endpoints = args.get("--endpoints", 10)?;
    let rounds = args.get("--rounds", 7)?;
    let plain = Subject::fingerpost()?;
    let mut with_snapshot = plain.clone();
    with_snapshot.name += " snapshot";
    with_snapshot.options = format!("       snapshot {SNAPSHOT}\n");
    let others = [plain].into_iter().chain(Subject::coredns());
    let others: Vec<Subject> = others.collect();
    let mut table = Table::new(&[
        "server",
        "Services",
        "API server",
        "rounds",
        "first right ms",
        "p99",
        "max",
        "denied",
    ]);
    for services in sizes {
        let size = Size {
            services,
            endpoints,
            pods: 0,
        };
        let mut bed = Bed::start(size)?;
        for subject in &others {
            let mut server = start(subject, &bed)?;
            let row = kills(subject, &mut server, &bed, rounds)?;
            add(&mut table, subject, size, "up", row);
        }
        let mut server = start_with_snapshot(&with_snapshot, &bed)?;
        let row = kills(&with_snapshot, &mut server, &bed, rounds)?;
        add(&mut table, &with_snapshot, size, "up", row);
        bed.control_plane.kill_api_server();
        let row = kills(&with_snapshot, &mut server, &bed, rounds)?;
        add(&mut table, &with_snapshot, size, "off", row);
    }
    print!("\n{}\n{}", machine(), table.text());
    Ok(())
}

/// What came of all rounds.
struct Rounds {
    times: Vec<Duration>,
    denied: usize,
}

fn add(table: &mut Table, subject: &Subject, size: Size, api: &str, mut rounds: Rounds) {
    let count = rounds.times.len().to_string();
    let [median, p99, max] = quantiles(&mut rounds.times);
    table.row(vec![
        subject.name.clone(),
        size.services.to_string(),
        api.into(),
        count,
        median,
        p99,
        max,
        rounds.denied.to_string(),
    ]);
}

fn start(subject: &Subject, bed: &Bed) -> Result<Server, String> {
    println!("{}: start", subject.name);
    let mut server = subject.start(&bed.folder, bed.control_plane.kubeconfig(), bed.upstream)?;
    server.wait_ready(PATIENCE)?;
    Ok(server)
}

fn start_with_snapshot(subject: &Subject, bed: &Bed) -> Result<Server, String> {
    // One of an earlier run would be taken for this one's.
    let path = bed.folder.join(SNAPSHOT);
    let _ = std::fs::remove_file(&path);
    let server = start(subject, bed)?;
    let end = Instant::now() + SNAPSHOT_PATIENCE;
    while !path.exists() {
        if Instant::now() > end {
            return Err("there is no snapshot".into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(server)
}

fn kills(
    subject: &Subject,
    server: &mut Server,
    bed: &Bed,
    rounds: usize,
) -> Result<Rounds, String> {
    let mut all = Rounds {
        times: Vec::new(),
        denied: 0,
    };
    for round in 0..rounds {
        server.kill_and_start(subject, &bed.folder)?;
        let (took, was_denied) = first_right(server)
            .ok_or_else(|| format!("{}: no right answer in round {round}", subject.name))?;
        all.denied += usize::from(was_denied);
        all.times.push(took);
        // What a start leaves to do afterwards is not part of the next one.
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(all)
}

/// How long after the kill the answer was right, and whether the name was denied before.
fn first_right(server: &Server) -> Option<(Duration, bool)> {
    let (qname, right) = (
        "svc-1.ns-1.svc.cluster.local",
        Right::Address(objects::cluster_ip(1)),
    );
    let mut was_denied = false;
    while server.age() < PATIENCE {
        // While the port is closed, a question fails at once.
        let mut client = Client::new(server.port).ok()?;
        if let Some(reply) = client.ask(qname, A) {
            if right.is_in(reply) {
                return Some((server.age(), was_denied));
            }
            was_denied |= reply[3] & 15 == NXDOMAIN;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    None
}
