//! `bench failover`: what clients notice of upstreams that are silent or fail.
//!
//! ```text
//! clients --> the server --> three upstreams of this program, each with the same latency
//!             healthy:    all answer
//!             failing:    one is silent from the start, one says SERVFAIL to a tenth
//!             all down:   none answers; who is probed how often?
//!             stale:      none answers, and `cache` has expired answers
//! ```
//!
//! No client asks twice, so an answer that is missing here would be missing there.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bench::args::Args;
use crate::bench::dns::{A, Client};
use crate::bench::failing::{Mood, Upstream};
use crate::bench::report::{Table, machine, quantiles};
use crate::bench::subject::Subject;
use crate::load::{self, Outcome, Plan, Protocol, Questions, Stream, addresses};
use crate::paths;
use crate::server::{Running, answers, free_port};

pub const HELP: &str = "\
usage: cargo run --release -p xtask -- bench failover [FLAG VALUE]...

  --seconds N      of each run (20)
  --clients N      clients (100)
  --rate N         queries a second of each, each for a name of its own (20)
  --latency-ms N   of each upstream (5)
  --stale N        names that are asked when they have expired (30)";

pub const FLAGS: &[&str] = &[
    "--seconds",
    "--clients",
    "--rate",
    "--latency-ms",
    "--stale",
];

/// Options of `forward` beside `failover SERVFAIL`, each with a row of its own.
const VARIANTS: [&str; 3] = ["", "hedge", "policy lowest_latency"];

/// The TTL of all answers, in seconds.
const TTL: u32 = 1;

struct Bench {
    program: PathBuf,
    folder: PathBuf,
    upstreams: [Upstream; 3],
    duration: Duration,
    clients: u32,
    rate: f64,
}

struct Server {
    port: u16,
    _running: Running,
}

pub fn run(args: &Args) -> Result<(), String> {
    let program = Subject::fingerpost()?.program;
    let folder = paths::target().join("bench-failover");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let latency = Duration::from_millis(args.get("--latency-ms", 5)?);
    let upstream = || Upstream::start(latency, TTL);
    let bench = Bench {
        program,
        folder,
        upstreams: [upstream()?, upstream()?, upstream()?],
        duration: Duration::from_secs(args.get("--seconds", 20)?),
        clients: args.get("--clients", 100)?,
        rate: args.get("--rate", 20.0)?,
    };
    println!("{}", machine());
    bench.failing()?;
    bench.all_down()?;
    bench.stale(args.get("--stale", 30)?)
}

impl Bench {
    /// One silent, one that fails now and then.
    fn failing(&self) -> Result<(), String> {
        let mut table = Table::new(&[
            "upstreams",
            "sent",
            "answered",
            "success %",
            "p50 ms",
            "p99 ms",
            "max ms",
            "skipped",
        ]);
        let mut verdicts = Vec::new();
        for options in VARIANTS {
            self.set([Mood::Well; 3]);
            // A server of its own for each, so that none knows what another has learned.
            let server = self.start("healthy", "", options)?;
            let healthy = self.load(&server)?;
            drop(server);
            self.set([Mood::Silent, Mood::Failing, Mood::Well]);
            let server = self.start("failing", "", options)?;
            let failing = self.load(&server)?;
            let name = |text: &str| format!("{text}; failover SERVFAIL {options}");
            table.row(row(&name("healthy"), &healthy));
            table.row(row(&name("1 silent, 1 failing"), &failing));
            let times = failing.milliseconds(0.99) / healthy.milliseconds(0.99);
            verdicts.push(format!("{times:.2}"));
        }
        print!("{}", table.text());
        println!("p99 against healthy: {} times", verdicts.join(", "));
        Ok(())
    }

    /// Who is probed how often while nobody answers.
    fn all_down(&self) -> Result<(), String> {
        self.set([Mood::Well; 3]);
        let server = self.start("down", "", "")?;
        self.set([Mood::Silent; 3]);
        let before = self.upstreams.each_ref().map(Upstream::queries);
        let start = Instant::now();
        let outcome = self.load(&server)?;
        let end = start.elapsed().as_secs_f64();
        let heads = [
            "all silent",
            "1st s",
            "2nd s",
            "3rd s",
            "4th to 10th",
            "later",
            "queries/s",
        ];
        let mut table = Table::new(&heads);
        for (number, upstream) in self.upstreams.iter().enumerate() {
            let probes = upstream.probes_since(start);
            // From the first one on: before that nobody knew.
            let first = probes.first().copied().unwrap_or(0.0);
            let rate = |from: f64, to: f64| {
                let within = probes
                    .iter()
                    .filter(|&&at| (from..to).contains(&(at - first)));
                format!("{:.2}", within.count() as f64 / (to - from))
            };
            let queries = upstream.queries() - before[number];
            table.row(vec![
                format!("probes/s of upstream {}", number + 1),
                rate(0.0, 1.0),
                rate(1.0, 2.0),
                rate(2.0, 3.0),
                rate(3.0, 10.0),
                rate(10.0, (end - first).max(11.0)),
                format!("{:.0}", queries as f64 / end),
            ]);
        }
        print!("{}", table.text());
        println!("{outcome}");
        Ok(())
    }

    /// How long an expired answer takes while nobody answers.
    fn stale(&self, names: u32) -> Result<(), String> {
        self.set([Mood::Well; 3]);
        let cache =
            format!("cache {{\n  success 20000 {TTL} {TTL}\n  serve_stale 24h verify 300ms\n }}\n");
        let server = self.start("stale", &cache, "")?;
        let mut client = Client::new(server.port)?;
        let names: Vec<String> = (0..names).map(|name| format!("s{name}.example")).collect();
        for name in &names {
            client.ask(name, A).ok_or("no answer to be kept")?;
        }
        std::thread::sleep(Duration::from_secs(u64::from(TTL) + 2));
        self.set([Mood::Silent; 3]);
        let (mut first, mut next) = (Vec::new(), Vec::new());
        for name in &names {
            first.push(ask(&mut client, name)?);
            for _ in 0..10 {
                next.push(ask(&mut client, name)?);
            }
        }
        let mut table = Table::new(&["stale answers", "p50 ms", "p99 ms", "max ms"]);
        for (name, times) in [("first of a name", &mut first), ("next ones", &mut next)] {
            let mut row = vec![name.to_owned()];
            row.extend(quantiles(times));
            table.row(row);
        }
        print!("{}", table.text());
        Ok(())
    }

    fn set(&self, moods: [Mood; 3]) {
        for (upstream, mood) in self.upstreams.iter().zip(moods) {
            upstream.set(mood);
        }
    }

    fn load(&self, server: &Server) -> Result<Outcome, String> {
        let plan = Plan {
            is_over: None,
            server: SocketAddr::from(([127, 0, 0, 1], server.port)),
            duration: self.duration,
            patience: Duration::from_secs(6),
            streams: vec![Stream {
                server: None,
                name: "clients".into(),
                addresses: addresses(Ipv4Addr::new(127, 0, 1, 1), self.clients),
                rate: self.rate,
                questions: Questions::of_names(&["u%.example.com"])?,
                protocol: Protocol::Udp,
                is_read: true,
            }],
        };
        let mut outcomes = load::run(&plan)?;
        outcomes.pop().ok_or_else(|| "there is one stream".into())
    }

    /// A server that answers.
    fn start(&self, name: &str, cache: &str, options: &str) -> Result<Server, String> {
        let port = free_port()?;
        let [a, b, c] = self.upstreams.each_ref().map(|upstream| upstream.address);
        let text = format!(
            ".:{port} {{\n bind 127.0.0.1\n {cache} forward . {a} {b} {c} {{\n  \
             failover SERVFAIL\n  {options}\n }}\n}}\n"
        );
        let corefile = self.folder.join(format!("{name}.Corefile"));
        std::fs::write(&corefile, text).map_err(|error| error.to_string())?;
        let mut running = start(&self.program, &corefile, &self.folder)?;
        running.wait_until("answer", Duration::from_secs(30), || answers(port))?;
        Ok(Server {
            port,
            _running: running,
        })
    }
}

fn start(program: &Path, corefile: &Path, folder: &Path) -> Result<Running, String> {
    let mut command = Command::new(program);
    command.arg("-conf").arg(corefile);
    Running::start(&mut command, &folder.join("server.log"))
}

/// How long an answer takes that must come.
fn ask(client: &mut Client, name: &str) -> Result<Duration, String> {
    let start = Instant::now();
    let reply = client.ask(name, A).ok_or("no answer")?;
    if reply[3] & 15 != 0 {
        return Err(format!("RCODE {} for {name}", reply[3] & 15));
    }
    Ok(start.elapsed())
}

fn row(name: &str, outcome: &Outcome) -> Vec<String> {
    let counts = &outcome.counts;
    // What the kernel dropped in front of the clients had been answered.
    let sent = counts.sent - outcome.own_drops.min(counts.sent);
    let success = counts.rcodes[0] as f64 * 100.0 / sent.max(1) as f64;
    vec![
        name.trim_end().into(),
        counts.sent.to_string(),
        counts.rcodes[0].to_string(),
        format!("{success:.4}"),
        format!("{:.2}", outcome.milliseconds(0.5)),
        format!("{:.2}", outcome.milliseconds(0.99)),
        format!("{:.0}", outcome.milliseconds(1.0)),
        counts.skipped.to_string(),
    ]
}
