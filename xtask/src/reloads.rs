//! `soak reloads`: a thousand reloads, a tenth of them of broken Corefiles, under load and under probes.
//!
//! ```text
//! generator --rate--> server --cache misses--> echo        each reload: another Corefile, SIGUSR1, the log's word for it
//! prober  --/ready--> server                               each round:  lost, not ready, hit rate, memory, descriptors
//! ```
//!
//! One server block stays as it is: its cluster, cache and upstreams must be kept. The other is another one each time: new
//! upstreams, a cluster of its own, now and then a port more. What a generation leaves behind would show in the memory.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::args::Args;
use crate::bench::report::{Table, machine};
use crate::bench::subject::Subject;
use crate::load::{self, Outcome, Plan, Protocol, Questions, Stream, addresses};
use crate::paths;
use crate::server::{Running, answers, free_port};

pub const HELP: &str = "\
usage: cargo run --release -p xtask -- soak reloads [FLAG VALUE]...

  --reloads N      in all (1000)
  --rounds N       in so many rounds, a row of the table each (10)
  --period-ms N    from one reload to the next (150)
  --rate N         queries a second, of all clients (20000)
  --clients N      with an address and a port each (50)";

pub const FLAGS: &[&str] = &[
    "--reloads",
    "--rounds",
    "--period-ms",
    "--rate",
    "--clients",
];

/// One in so many is broken.
const BROKEN: usize = 10;

/// External names that are asked, over and over.
const CACHED: usize = 500;

/// Kilobytes that the last round may hold more than the first. What reloads leave behind grows with their number; what
/// the allocator keeps does not.
const GROWTH_MAX: u64 = 4 * 1024;

/// How long one reload may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs it; an error says what did not hold.
pub fn run(args: &Args) -> Result<(), String> {
    let reloads: usize = args.get("--reloads", 1000)?;
    let rounds = args.get("--rounds", 10)?.max(1);
    let period = Duration::from_millis(args.get("--period-ms", 150)?);
    let rate: f64 = args.get("--rate", 20_000.0)?;
    let clients: u32 = args.get("--clients", 50)?;
    let mut bed = Bed::start()?;
    println!("{}", machine());
    println!("{reloads} reloads, one every {period:?}, at {rate} queries a second");
    let of_round = reloads.div_ceil(rounds);
    // Every name is asked once at least, so that what is cached is cached.
    let twice = Duration::from_secs_f64(4.0 * CACHED as f64 / rate);
    bed.load(clients, rate, twice.max(Duration::from_secs(2)))?;
    let mut table = Table::new(&[
        "reloads",
        "broken",
        "sent",
        "lost",
        "own drops",
        "skipped",
        "probes",
        "not ready",
        "hit rate",
        "p99.9 ms",
        "max ms",
        "RSS kB",
        "files",
    ]);
    let mut rows = Vec::new();
    for round in 0..rounds {
        let row = bed.round(of_round, period, rate, clients)?;
        eprintln!("round {} of {rounds}: {}", round + 1, row.outcome);
        table.row(row.cells(&bed));
        rows.push(row);
    }
    print!("{}", table.text());
    verdict(&rows)
}

/// What did not hold, if anything.
fn verdict(rows: &[Row]) -> Result<(), String> {
    let (first, last) = (rows.first(), rows.last());
    let (Some(first), Some(last)) = (first, last) else {
        return Err("there were no rounds".into());
    };
    let lost: u64 = rows.iter().map(|row| row.outcome.lost_by_server()).sum();
    let not_ready: u64 = rows.iter().map(|row| row.not_ready).sum();
    let wrong: u64 = rows.iter().map(Row::wrong).sum();
    let worst_hits = rows.iter().map(|row| row.hit_rate).fold(1.0, f64::min);
    let mut faults = Vec::new();
    for (count, what) in [
        (lost, "queries lost"),
        (not_ready, "probes that found it not ready"),
        (wrong, "replies other than NOERROR"),
    ] {
        if count != 0 {
            faults.push(format!("{count} {what}"));
        }
    }
    if worst_hits < 0.99 {
        faults.push(format!("the cache's hit rate fell to {worst_hits:.4}"));
    }
    if last.resident > first.resident + GROWTH_MAX {
        let grown = last.resident - first.resident;
        faults.push(format!("memory grew by {grown} kB after the first round"));
    }
    // A round may end with a port more or without.
    let early = &rows[..rows.len().div_ceil(2)];
    let files = early.iter().map(|row| row.files).max().unwrap_or(0);
    if last.files > files {
        faults.push(format!("open files grew from {files} to {}", last.files));
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("; "))
    }
}

/// The server with what is around it.
struct Bed {
    running: Running,
    _echo: Running,
    folder: PathBuf,
    log: Log,
    port: u16,
    extra: u16,
    http: u16,
    upstream: u16,
    done: usize,
    broken: usize,
}

/// A round at its end.
struct Row {
    outcome: Outcome,
    probes: u64,
    not_ready: u64,
    hit_rate: f64,
    resident: u64,
    files: usize,
}

impl Row {
    fn wrong(&self) -> u64 {
        self.outcome.counts.rcodes[1..].iter().sum()
    }

    fn cells(&self, bed: &Bed) -> Vec<String> {
        let counts = &self.outcome.counts;
        vec![
            bed.done.to_string(),
            bed.broken.to_string(),
            counts.sent.to_string(),
            self.outcome.lost_by_server().to_string(),
            self.outcome.own_drops.to_string(),
            counts.skipped.to_string(),
            self.probes.to_string(),
            self.not_ready.to_string(),
            format!("{:.5}", self.hit_rate),
            format!("{:.2}", self.outcome.milliseconds(0.999)),
            format!("{:.2}", counts.times.max().as_secs_f64() * 1000.0),
            self.resident.to_string(),
            self.files.to_string(),
        ]
    }
}

impl Bed {
    fn start() -> Result<Self, String> {
        let program = Subject::fingerpost()?.program;
        let folder = paths::target().join("soak-reloads");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let ports = [free_port()?, free_port()?, free_port()?, free_port()?];
        let [port, extra, http, upstream] = ports;
        let me = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut echo = Command::new(me);
        echo.arg("echo").arg(upstream.to_string());
        let echo = Running::start(&mut echo, &folder.join("echo.log"))?;
        write(&folder, &corefile(ports, 0, false))?;
        let mut command = Command::new(program);
        command.arg("-conf").arg(folder.join("Corefile"));
        let log = folder.join("server.log");
        let mut running = Running::start(&mut command, &log)?;
        running.wait_until("answer", Duration::from_secs(30), || answers(port))?;
        Ok(Self {
            running,
            _echo: echo,
            log: Log::open(&log)?,
            folder,
            port,
            extra,
            http,
            upstream,
            done: 0,
            broken: 0,
        })
    }

    /// So many reloads, with queries and probes all the while.
    fn round(
        &mut self,
        reloads: usize,
        period: Duration,
        rate: f64,
        clients: u32,
    ) -> Result<Row, String> {
        let before = self.hits_and_misses()?;
        let duration = period * u32::try_from(reloads).map_err(|error| error.to_string())?;
        let plan = self.plan(clients, rate, duration + Duration::from_secs(1))?;
        let load = std::thread::spawn(move || load::run(&plan));
        let prober = Prober::start(self.http);
        let begun = Instant::now();
        for number in 1..=reloads {
            let due = begun + period * u32::try_from(number).unwrap_or(u32::MAX);
            self.reload()?;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let in_time = begun.elapsed() <= duration + Duration::from_secs(1);
        let (probes, not_ready) = prober.stop()?;
        let outcomes = load.join().map_err(|_| "the generator panicked")??;
        if !in_time {
            return Err("the reloads took longer than the load: raise `--period-ms`".into());
        }
        let after = self.hits_and_misses()?;
        let (hits, misses) = (after.0 - before.0, after.1 - before.1);
        let outcome = outcomes.into_iter().next().ok_or("there was no load")?;
        Ok(Row {
            outcome,
            probes,
            not_ready,
            hit_rate: hits / (hits + misses).max(1.0),
            resident: self.resident()?,
            files: self.files()?,
        })
    }

    /// The next Corefile, and the server's word that it is in force, or that it is not.
    fn reload(&mut self) -> Result<(), String> {
        self.done += 1;
        let is_broken = self.done.is_multiple_of(BROKEN);
        self.broken += usize::from(is_broken);
        let ports = [self.port, self.extra, self.http, self.upstream];
        write(&self.folder, &corefile(ports, self.done, is_broken))?;
        signal(self.running.id(), "USR1")?;
        let word = if is_broken {
            "Corefile changed but reload failed"
        } else {
            "Reloading complete"
        };
        self.log.wait_for(word)
    }

    fn load(&self, clients: u32, rate: f64, duration: Duration) -> Result<(), String> {
        load::run(&self.plan(clients, rate, duration)?).map(drop)
    }

    fn plan(&self, clients: u32, rate: f64, duration: Duration) -> Result<Plan, String> {
        let mut names: Vec<String> = (0..CACHED).map(|n| format!("n{n}.example.com A")).collect();
        // As many of the cluster's.
        let own = "kubernetes.default.svc.cluster.local A".to_owned();
        names.extend(std::iter::repeat_n(own, CACHED));
        Ok(Plan {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)),
            duration,
            is_over: None,
            patience: Duration::from_secs(5),
            streams: vec![Stream {
                server: None,
                name: "clients".into(),
                addresses: addresses(Ipv4Addr::new(127, 0, 1, 1), clients),
                rate: rate / f64::from(clients),
                questions: Questions::parse(&names.join("\n"))?,
                protocol: Protocol::Udp,
                is_read: true,
            }],
        })
    }

    /// Of all caches since the start.
    fn hits_and_misses(&self) -> Result<(f64, f64), String> {
        let text = get(self.http, "/metrics").map_err(|error| format!("metrics: {error}"))?;
        let sum = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        Ok((
            sum("coredns_cache_hits_total{"),
            sum("coredns_cache_misses_total{"),
        ))
    }

    /// Kilobytes.
    fn resident(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.running.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| format!("{path}: no VmRSS"))
    }

    fn files(&self) -> Result<usize, String> {
        let path = format!("/proc/{}/fd", self.running.id());
        let entries = std::fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(entries.count())
    }
}

/// A block that stays, and one that is another each time.
fn corefile([port, extra, http, upstream]: [u16; 4], version: usize, is_broken: bool) -> String {
    let manifests = paths::root().join("deploy/example");
    let manifests = manifests.display();
    let word = if is_broken { "whoamy" } else { "whoami" };
    // Every third listens on a port more.
    let more = match version % 3 {
        0 => format!(", more.test:{extra}"),
        _ => String::new(),
    };
    let ttl = version % 60 + 1;
    format!(
        ".:{port} {{
    bind 127.0.0.1
    errors
    health 127.0.0.1:{http} {{
        lameduck 5s
    }}
    ready 127.0.0.1:{http}
    prometheus 127.0.0.1:{http}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        manifests {manifests}
        fallthrough in-addr.arpa ip6.arpa
    }}
    cache
    forward . 127.0.0.1:{upstream}
    loadbalance
}}
version.test:{port}{more} {{
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:{http}
    cache {ttl}
    hosts {{
        10.0.{}.{} a.version.test
        fallthrough
    }}
    kubernetes other.test {{
        manifests {manifests}
        labels app!=v{version}
    }}
    forward . 127.0.0.1:{upstream} {{
        max_concurrent {}
    }}
    {word}
}}
",
        version / 250,
        version % 250,
        1000 + version
    )
}

/// In one step, as editors do it.
fn write(folder: &Path, text: &str) -> Result<(), String> {
    let next = folder.join("Corefile.next");
    std::fs::write(&next, text).map_err(|error| error.to_string())?;
    std::fs::rename(&next, folder.join("Corefile")).map_err(|error| error.to_string())
}

fn signal(process: u32, name: &str) -> Result<(), String> {
    crate::command::run(
        Command::new("kill")
            .arg(format!("-{name}"))
            .arg(process.to_string()),
    )
}

/// What the server has logged since we looked.
struct Log {
    file: File,
    unread: String,
}

impl Log {
    fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let unread = String::new();
        Ok(Self { file, unread })
    }

    /// Waits for a line with this text, and forgets it and all before.
    fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.file
                .read_to_string(&mut self.unread)
                .map_err(|error| format!("the log: {error}"))?;
            if let Some(at) = self.unread.find(text) {
                self.unread.drain(..at + text.len());
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("no `{text}` in the log, but:\n{}", self.unread));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Asks `/ready`, by turns on a connection that is kept open and on a new one.
struct Prober {
    end: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Prober {
    fn start(http: u16) -> Self {
        let (end, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, counter) = (Arc::clone(&end), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut not_ready = 0;
            while !ends.load(Ordering::Relaxed) {
                not_ready += u64::from(!probe_kept(http, &counter));
                not_ready += u64::from(
                    !get(http, "/ready").is_ok_and(|reply| reply.starts_with("HTTP/1.1 200")),
                );
                counter.fetch_add(1, Ordering::Relaxed);
            }
            not_ready
        });
        Self { end, asked, thread }
    }

    /// How many probes, and how many of them failed.
    fn stop(self) -> Result<(u64, u64), String> {
        self.end.store(true, Ordering::Relaxed);
        let not_ready = self.thread.join().map_err(|_| "the prober panicked")?;
        Ok((self.asked.load(Ordering::Relaxed), not_ready))
    }
}

/// Twenty probes on one connection; false if any failed.
fn probe_kept(http: u16, asked: &AtomicU64) -> bool {
    let probe = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, http))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        for _ in 0..20 {
            asked.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n")?;
            let mut reply = [0; 1024];
            let length = stream.read(&mut reply)?;
            if !reply[..length].starts_with(b"HTTP/1.1 200") {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    };
    probe().unwrap_or(false)
}

/// The whole reply.
fn get(http: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, http))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
