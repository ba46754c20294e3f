//! `bench fairness`: one client in a loop beside two hundred that ask now and then.
//!
//! ```text
//! core 0: the server    core 1: the generator
//!         saturation:    64 clients, as fast as they can; what the server answers in a second
//!         unloaded:      200 clients at 20/s
//!         flooded:       the same 200, and one client at N times the saturation
//!         blackholed:    the same 200, and unique names that an upstream never answers
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::args::Args;
use crate::bench::report::{Table, machine};
use crate::bench::subject::Subject;
use crate::load::{self, Outcome, Plan, Protocol, Questions, Stream, addresses};
use crate::paths;
use crate::server::{Running, answers, free_port};

pub const HELP: &str = "\
usage: cargo run --release -p xtask -- bench fairness [FLAG VALUE]...

  --seconds N      of each run (10)
  --times N,N      rates of the client in a loop, in parts of the saturation (2)
  --unique N       unique names a second under a dead upstream (50000)
  --clients N      those that ask now and then (200)
  --rate N         queries a second of each (20)";

pub const FLAGS: &[&str] = &["--seconds", "--times", "--unique", "--clients", "--rate"];

const CLUSTER: &str = "kubernetes.default.svc.cluster.local";

struct Bench {
    server: SocketAddr,
    duration: Duration,
    clients: u32,
    rate: f64,
}

pub fn run(args: &Args) -> Result<(), String> {
    let program = Subject::fingerpost()?.program;
    // Ours is the second core, the server's the first; what was started before keeps running where it was.
    pin(std::process::id(), 1)?;
    let folder = paths::target().join("bench-fairness");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    // It is bound and never read: queries to it are lost in silence.
    let silent = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let upstream = silent.local_addr().map_err(|error| error.to_string())?;
    let port = free_port()?;
    let mut server = start(&program, &folder, port, upstream)?;
    server.wait_until("answer", Duration::from_secs(30), || answers(port))?;
    let bench = Bench {
        server: SocketAddr::from(([127, 0, 0, 1], port)),
        duration: Duration::from_secs(args.get("--seconds", 10)?),
        clients: args.get("--clients", 200)?,
        rate: args.get("--rate", 20.0)?,
    };
    println!("{}", machine());
    let saturation = bench.saturation()?;
    // What still stands in the queue is none of the others' load.
    std::thread::sleep(Duration::from_secs(2));
    println!("saturation: {saturation:.0} answers a second");
    let mut table = Table::new(&[
        "load",
        "sent",
        "lost",
        "own drops",
        "skipped",
        "p50 ms",
        "p99 ms",
        "flood/s",
        "RSS MB",
    ]);
    let calm = bench.beside(None)?;
    table.row(row("unloaded", &calm, server.id()));
    for times in args.list("--times", &[2.0])? {
        let flood = bench.flood(saturation * times, CLUSTER)?;
        let name = format!("one client at {times} x saturation");
        table.row(row(&name, &bench.beside(Some(flood))?, server.id()));
    }
    let unique = bench.flood(args.get("--unique", 50_000.0)?, "u%.example.com")?;
    table.row(row(
        "dead upstream",
        &bench.beside(Some(unique))?,
        server.id(),
    ));
    print!("{}", table.text());
    Ok(())
}

impl Bench {
    /// Answers a second when more is asked than can be answered, by clients of which none is to blame.
    fn saturation(&self) -> Result<f64, String> {
        let plan = Plan {
            server: self.server,
            duration: Duration::from_secs(3),
            patience: Duration::from_millis(500),
            streams: vec![Stream {
                name: "saturation".into(),
                addresses: addresses(Ipv4Addr::new(127, 0, 3, 1), 64),
                rate: 1e6 / 64.0,
                questions: Questions::of_names(&[CLUSTER])?,
                protocol: Protocol::Udp,
                is_read: false,
            }],
        };
        let before = out_datagrams()?;
        let outcomes = load::run(&plan)?;
        print!("{}", outcomes[0]);
        let sent_by_us: u64 = outcomes.iter().map(|outcome| outcome.counts.sent).sum();
        let answered = out_datagrams()?.saturating_sub(before + sent_by_us);
        Ok(answered as f64 / plan.duration.as_secs_f64())
    }

    fn flood(&self, rate: f64, name: &str) -> Result<Stream, String> {
        Ok(Stream {
            name: "flood".into(),
            addresses: addresses(Ipv4Addr::new(127, 0, 2, 1), 1),
            rate,
            questions: Questions::of_names(&[name])?,
            protocol: Protocol::Udp,
            is_read: false,
        })
    }

    /// The clients that ask now and then, with or without company.
    fn beside(&self, flood: Option<Stream>) -> Result<Vec<Outcome>, String> {
        let mut streams = vec![Stream {
            name: "clients".into(),
            addresses: addresses(Ipv4Addr::new(127, 0, 1, 1), self.clients),
            rate: self.rate,
            questions: Questions::of_names(&[CLUSTER])?,
            protocol: Protocol::Udp,
            is_read: true,
        }];
        streams.extend(flood);
        let outcomes = load::run(&Plan {
            server: self.server,
            duration: self.duration,
            patience: Duration::from_secs(2),
            streams,
        })?;
        outcomes.iter().for_each(|outcome| print!("{outcome}"));
        Ok(outcomes)
    }
}

fn row(name: &str, outcomes: &[Outcome], server: u32) -> Vec<String> {
    let clients = &outcomes[0];
    let flood = outcomes.get(1).map_or(0.0, Outcome::rate);
    vec![
        name.into(),
        clients.counts.sent.to_string(),
        clients.lost_by_server().to_string(),
        clients.own_drops.to_string(),
        clients.counts.skipped.to_string(),
        format!("{:.3}", clients.milliseconds(0.5)),
        format!("{:.3}", clients.milliseconds(0.99)),
        format!("{flood:.0}"),
        resident(server).unwrap_or_default(),
    ]
}

fn resident(process: u32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.1}", kilobytes / 1024.0))
}

/// UDP datagrams that this network namespace has sent.
fn out_datagrams() -> Result<u64, String> {
    let table = std::fs::read_to_string("/proc/net/snmp").map_err(|error| error.to_string())?;
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (heads, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut both = heads.split(' ').zip(values.split(' '));
    let found = both.find(|(head, _)| *head == "OutDatagrams");
    found
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| "/proc/net/snmp has no OutDatagrams".into())
}

fn pin(process: u32, core: u32) -> Result<(), String> {
    let mut command = Command::new("taskset");
    command.args(["-acp", &core.to_string(), &process.to_string()]);
    let output = command
        .output()
        .map_err(|error| format!("taskset: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn start(
    program: &Path,
    folder: &Path,
    port: u16,
    upstream: SocketAddr,
) -> Result<Running, String> {
    let cluster = paths::root().join("deploy/example");
    let text = format!(
        ".:{port} {{\n bind 127.0.0.1\n errors\n kubernetes cluster.local {{\n  manifests {}\n }}\n cache 30\n \
         forward . {upstream}\n}}\n",
        cluster.display()
    );
    let corefile = folder.join("Corefile");
    std::fs::write(&corefile, text).map_err(|error| error.to_string())?;
    let mut command = Command::new("taskset");
    command
        .args(["-c", "0"])
        .arg(program)
        .arg("-conf")
        .arg(&corefile);
    Running::start(&mut command, &folder.join("server.log"))
}
