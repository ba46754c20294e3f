//! `bench blackhole`: names that are never asked twice, an upstream that never replies, and the cluster beside it.
//!
//! ```text
//! core 0: the server --every name that is not the cluster's--> an upstream that reads nothing
//! core 1: the generator:  unique names from many clients, and names of the cluster from one more
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::bench::args::Args;
use crate::bench::pinned::{CLUSTER, Pinned};
use crate::bench::report::{Table, machine};
use crate::load::{self, Plan, Protocol, Questions, Stream, addresses};

pub const HELP: &str = "\
usage: cargo run --release -p xtask -- bench blackhole [FLAG VALUE]...

  --seconds N      how long (60)
  --unique N       unique names a second (50000)
  --clients N      addresses that ask for them (64)
  --cluster N      names of the cluster a second, from one address more (1000)";

pub const FLAGS: &[&str] = &["--seconds", "--unique", "--clients", "--cluster"];

/// Time for what waits to be given up, from the last query on: 5 s, and some.
const AFTER: Duration = Duration::from_secs(8);

/// Counters and gauges that say what became of queries.
const SHOWN: &[&str] = &[
    "fingerpost_queries_",
    "fingerpost_udp_",
    "coredns_panics_total",
];

pub fn run(args: &Args) -> Result<(), String> {
    let duration = Duration::from_secs(args.get("--seconds", 60)?);
    let (unique, clients) = (
        args.get("--unique", 50_000.0)?,
        args.get("--clients", 64_u32)?,
    );
    let server = Pinned::start("bench-blackhole")?;
    println!("{}", machine());
    let stream = |name: &str, first, count: u32, rate: f64, asked: &str, is_read| {
        Ok::<_, String>(Stream {
            server: None,
            name: name.into(),
            addresses: addresses(first, count),
            rate: rate / f64::from(count),
            questions: Questions::of_names(&[asked])?,
            protocol: Protocol::Udp,
            is_read,
        })
    };
    let plan = Plan {
        is_over: None,
        server: server.address,
        duration,
        patience: Duration::from_secs(2),
        streams: vec![
            stream(
                "cluster names",
                Ipv4Addr::new(127, 0, 1, 1),
                1,
                args.get("--cluster", 1000.0)?,
                CLUSTER,
                true,
            )?,
            stream(
                "unique names",
                Ipv4Addr::new(127, 0, 2, 1),
                clients,
                unique,
                "u%.example.com",
                false,
            )?,
        ],
    };
    let (before, was) = (server.resident()?, server.samples()?);
    server.forget_peak()?;
    let outcomes = load::run(&plan)?;
    let (during, peak) = (server.samples()?, server.peak()?);
    std::thread::sleep(AFTER);
    let (after, is) = (server.resident()?, server.samples()?);
    outcomes.iter().for_each(|outcome| print!("{outcome}"));
    let mut table = Table::new(&["RSS MB before", "peak", "after"]);
    table.row(
        [before, peak, after]
            .map(|megabytes| format!("{megabytes:.1}"))
            .into(),
    );
    print!("{}", table.text());
    let mut table = Table::new(&["counted", "at the end", "8 s later"]);
    let of = |samples: &[(String, f64)], name: &str| {
        let found = samples.iter().find(|(known, _)| known == name);
        found.map_or(0.0, |(_, value)| *value)
    };
    for (name, value) in &is {
        if SHOWN.iter().any(|start| name.starts_with(start)) {
            let before = of(&was, name);
            let cells = [of(&during, name) - before, value - before];
            let cells = cells.map(|count| format!("{count:.0}"));
            table.row([name.clone()].into_iter().chain(cells).collect());
        }
    }
    print!("{}", table.text());
    Ok(())
}
