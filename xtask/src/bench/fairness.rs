//! `bench fairness`: one client in a loop beside two hundred that ask now and then.
//!
//! ```text
//! core 0: the server    core 1: the generator
//!         saturation:    64 clients, as fast as they can; what the server answers in a second
//!         unloaded:      200 clients at 20/s
//!         elsewhere:     the same 200, and the flood of the next run at a socket that nobody reads: what of the
//!                        others' time is the generator's own
//!         flooded:       the same 200, and one client at N times the saturation
//!         blackholed:    the same 200, and unique names that an upstream never answers
//!         forged:        the same 200, and N times the saturation from ten thousand addresses
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::bench::args::Args;
use crate::bench::pinned::{CLUSTER, Pinned};
use crate::bench::report::{Table, machine};
use crate::load::{self, Outcome, Plan, Protocol, Questions, Stream, addresses};

pub const HELP: &str = "\
usage: cargo run --release -p xtask -- bench fairness [FLAG VALUE]...

  --seconds N      of each run (10)
  --times N,N      rates of the client in a loop, in parts of the saturation (2)
  --unique N       unique names a second under a dead upstream (50000)
  --forged N       addresses of a flood that is nobody's in particular, 0 for none (10000)
  --clients N      those that ask now and then (200)
  --rate N         queries a second of each (20)";

pub const FLAGS: &[&str] = &[
    "--seconds",
    "--times",
    "--unique",
    "--forged",
    "--clients",
    "--rate",
];

struct Bench {
    server: Pinned,
    duration: Duration,
    clients: u32,
    rate: f64,
}

pub fn run(args: &Args) -> Result<(), String> {
    let bench = Bench {
        server: Pinned::start("bench-fairness")?,
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
    table.row(bench.row("unloaded", &calm));
    let unread = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let nobody = unread.local_addr().map_err(|error| error.to_string())?;
    for times in args.list("--times", &[2.0])? {
        let flood = Stream {
            server: Some(nobody),
            ..bench.flood(1, saturation * times, CLUSTER)?
        };
        let outcomes = bench.beside(Some(flood))?;
        table.row(bench.row(&format!("{times} x saturation, elsewhere"), &outcomes));
        let flood = bench.flood(1, saturation * times, CLUSTER)?;
        let outcomes = bench.beside(Some(flood))?;
        table.row(bench.row(&format!("one client at {times} x saturation"), &outcomes));
    }
    let unique = bench.flood(1, args.get("--unique", 50_000.0)?, "u%.example.com")?;
    let outcomes = bench.beside(Some(unique))?;
    table.row(bench.row("dead upstream", &outcomes));
    let forged: u32 = args.get("--forged", 10_000)?;
    if forged > 0 {
        for times in args.list("--times", &[2.0])? {
            let flood = bench.flood(forged, saturation * times, CLUSTER)?;
            let outcomes = bench.beside(Some(flood))?;
            let name = format!("{forged} addresses at {times} x saturation");
            table.row(bench.row(&name, &outcomes));
        }
    }
    print!("{}", table.text());
    Ok(())
}

impl Bench {
    /// Answers a second when more is asked than can be answered, by clients of which none is to blame.
    fn saturation(&self) -> Result<f64, String> {
        let plan = Plan {
            is_over: None,
            server: self.server.address,
            duration: Duration::from_secs(3),
            patience: Duration::from_millis(500),
            streams: vec![Stream {
                server: None,
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

    /// From so many addresses, all together at this rate.
    fn flood(&self, clients: u32, rate: f64, name: &str) -> Result<Stream, String> {
        Ok(Stream {
            server: None,
            name: "flood".into(),
            addresses: addresses(Ipv4Addr::new(127, 1, 0, 1), clients),
            rate: rate / f64::from(clients),
            questions: Questions::of_names(&[name])?,
            protocol: Protocol::Udp,
            is_read: false,
        })
    }

    /// The clients that ask now and then, with or without company.
    fn beside(&self, flood: Option<Stream>) -> Result<Vec<Outcome>, String> {
        let mut streams = vec![Stream {
            server: None,
            name: "clients".into(),
            addresses: addresses(Ipv4Addr::new(127, 0, 1, 1), self.clients),
            rate: self.rate,
            questions: Questions::of_names(&[CLUSTER])?,
            protocol: Protocol::Udp,
            is_read: true,
        }];
        streams.extend(flood);
        let outcomes = load::run(&Plan {
            is_over: None,
            server: self.server.address,
            duration: self.duration,
            patience: Duration::from_secs(2),
            streams,
        })?;
        outcomes.iter().for_each(|outcome| print!("{outcome}"));
        Ok(outcomes)
    }

    fn row(&self, name: &str, outcomes: &[Outcome]) -> Vec<String> {
        let clients = &outcomes[0];
        let flood = outcomes.get(1).map_or(0.0, Outcome::rate);
        let resident = self.server.peak();
        vec![
            name.into(),
            clients.counts.sent.to_string(),
            clients.lost_by_server().to_string(),
            clients.own_drops.to_string(),
            clients.counts.skipped.to_string(),
            format!("{:.3}", clients.milliseconds(0.5)),
            format!("{:.3}", clients.milliseconds(0.99)),
            format!("{flood:.0}"),
            resident.map_or_else(|_| "-".into(), |megabytes| format!("{megabytes:.1}")),
        ]
    }
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
