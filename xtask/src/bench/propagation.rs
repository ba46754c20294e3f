//! `bench propagation`: from the return of a write at the API server to the first right answer.
//!
//! ```text
//! writer --write--> API server --watch--> server        t0: the write returned
//!    |                   '------watch--> our own watch  t1: the event came here
//!    '--ask, ask, ask ...---------------> server        t2: the answer is right
//! ```
//!
//! `t2 - t0` is what a client sees; `t1 - t0` what the API server takes of it. An event may come before the write
//! returns: that counts as 0.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::api::{Api, Connection};
use crate::bench::args::Args;
use crate::bench::bed::Bed;
use crate::bench::dns::{A, Client, PTR, Right, reverse};
use crate::bench::objects::{self, Size};
use crate::bench::report::{Table, machine, quantiles};
use crate::bench::subject::{Server, Subject};

pub const HELP: &str = "\
usage: cargo xtask bench propagation [FLAG VALUE]...

Starts etcd, kube-apiserver and the release build as `bench memory` does, and writes to the API server at a steady
rate: a Service is made (asked: its A), its EndpointSlice is changed (asked: A of a headless Service, then PTR of the new
address), the Service is deleted (asked: its A again). Then it asks for what does not change, first undisturbed, then
while a changed Corefile makes the server list the whole cluster anew.

  --services N     already there (10000)
  --rate N         writes a second (100)
  --seconds N      of writing (30)
  --probe N        questions a second while it is undisturbed, and while it lists (2000)

COREDNS_BIN names a CoreDNS to be measured after it. Takes about 2 minutes for each server.";

pub const FLAGS: &[&str] = &["--services", "--rate", "--seconds", "--probe"];

const NAMESPACE: &str = "propagation";
const PATIENCE: Duration = Duration::from_secs(60);

/// Writers side by side: a write takes the API server some milliseconds.
const WRITERS: usize = 4;

/// Writes of a cycle: a slice and its Service are made, the slice is changed twice, both are deleted.
const CYCLE: u32 = 6;

const KINDS: [&str; 4] = ["creation", "endpoint change", "PTR", "deletion"];

pub fn run(args: &Args) -> Result<(), String> {
    let size = Size {
        services: args.get("--services", 10_000)?,
        endpoints: 10,
        pods: 0,
    };
    let (rate, seconds) = (args.get("--rate", 100.0)?, args.get("--seconds", 30)?);
    let probe: u32 = args.get("--probe", 2000)?;
    let mut subjects = vec![Subject::fingerpost()?];
    subjects.extend(Subject::coredns());
    let bed = Bed::start(size)?;
    let namespace = [objects::namespace(NAMESPACE)];
    crate::bench::etcd::put_all(bed.control_plane.etcd_port(), namespace.into_iter())?;
    let mut table = Table::new(&[
        "server", "what", "count", "p50 ms", "p99 ms", "max ms", "late",
    ]);
    for (number, subject) in subjects.iter().enumerate() {
        println!("{}: start", subject.name);
        let mut server =
            subject.start(&bed.folder, bed.control_plane.kubeconfig(), bed.upstream)?;
        server.wait_ready(PATIENCE)?;
        let seen = Arc::new(Seen::default());
        let watches = seen.watch(&bed.api)?;
        println!("{}: {rate} writes a second for {seconds} s", subject.name);
        let run = Run {
            api: &bed.api,
            seen: &seen,
            port: server.port,
            rate,
            number,
        };
        let samples = run.write_for(Duration::from_secs(seconds))?;
        seen.stop.store(true, Ordering::Relaxed);
        rows(&mut table, &subject.name, samples);
        disturb(&mut table, &subject.name, &server, &bed.api, probe)?;
        drop(server);
        // The watches end with the next event at the latest; nobody waits for them.
        drop(watches);
    }
    print!(
        "\n{}, {} Services, {rate} writes a second\n{}",
        machine(),
        size.services,
        table.text()
    );
    Ok(())
}

/// What one write led to.
struct Sample {
    kind: usize,
    /// None if it did not become right.
    right: Option<Duration>,
    /// Whether we know which version to look for.
    versioned: bool,
    /// Until our own watch had that version.
    seen: Option<Duration>,
}

fn rows(table: &mut Table, server: &str, samples: Vec<Sample>) {
    let mut row = |what: String, mut times: Vec<Duration>, all: usize| {
        let [half, most, max] = quantiles(&mut times);
        let late = (all - times.len()).to_string();
        table.row(vec![
            server.into(),
            what,
            all.to_string(),
            half,
            most,
            max,
            late,
        ]);
    };
    for (kind, name) in KINDS.iter().enumerate() {
        let of_kind = || samples.iter().filter(|sample| sample.kind == kind);
        let right: Vec<_> = of_kind().filter_map(|sample| sample.right).collect();
        row((*name).into(), right, of_kind().count());
    }
    // A deletion is answered without the version that the event will have.
    let written = || samples.iter().filter(|sample| sample.versioned);
    let seen = written().filter_map(|sample| sample.seen).collect();
    row("(a watch of our own)".into(), seen, written().count());
}

/// When our own watches saw each version of an object.
#[derive(Default)]
struct Seen {
    versions: Mutex<HashMap<String, Instant>>,
    stop: AtomicBool,
}

impl Seen {
    fn watch(self: &Arc<Self>, api: &Api) -> Result<Vec<std::thread::JoinHandle<()>>, String> {
        let paths = [
            format!("/api/v1/namespaces/{NAMESPACE}/services"),
            format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"),
        ];
        let start = |path: String| -> Result<_, String> {
            let list = api.connect()?.demand("GET", &path, None)?;
            let version = list["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or("0")
                .to_owned();
            let (connection, this) = (api.connect()?, Arc::clone(self));
            let path = format!("{path}?watch=1&resourceVersion={version}");
            Ok(std::thread::spawn(move || {
                let ended = connection.watch(&path, |event| this.note(event));
                if let (Err(error), false) = (ended, this.stop.load(Ordering::Relaxed)) {
                    eprintln!("our own watch ended: {error}");
                }
            }))
        };
        paths.into_iter().map(start).collect()
    }

    fn note(&self, event: &Value) -> bool {
        let now = Instant::now();
        if let Some(version) = event["object"]["metadata"]["resourceVersion"].as_str() {
            let mut versions = self.versions.lock().expect("no thread panics with it");
            versions.insert(version.to_owned(), now);
        }
        !self.stop.load(Ordering::Relaxed)
    }

    /// How long after `since` this version was seen, which is waited for a little.
    fn after(&self, version: &str, since: Instant) -> Option<Duration> {
        for _ in 0..50 {
            let versions = self.versions.lock().expect("no thread panics with it");
            if let Some(seen) = versions.get(version) {
                return Some(seen.saturating_duration_since(since));
            }
            drop(versions);
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

struct Run<'r> {
    api: &'r Api,
    seen: &'r Seen,
    port: u16,
    rate: f64,
    /// Of the server, so that each has names of its own.
    number: usize,
}

impl Run<'_> {
    fn write_for(&self, time: Duration) -> Result<Vec<Sample>, String> {
        let writes = (self.rate * time.as_secs_f64()) as u32;
        let cycles = (writes / CYCLE).max(1);
        let pause = Duration::from_secs_f64(f64::from(CYCLE) / self.rate);
        let start = Instant::now();
        let (next, samples) = (Mutex::new(0..cycles), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let worker = || -> Result<(), String> {
                let mut client = Client::new(self.port)?;
                let mut api = self.api.connect()?;
                let take = || next.lock().expect("no thread panics with it").next();
                while let Some(at) = take() {
                    let due = start + pause * at;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let mine = self.cycle(at, &mut api, &mut client)?;
                    samples
                        .lock()
                        .expect("no thread panics with it")
                        .extend(mine);
                }
                Ok(())
            };
            let workers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("writing does not panic"))
        })?;
        let took = start.elapsed().as_secs_f64();
        println!(
            "{} writes in {took:.1} s: {:.0} a second",
            cycles * CYCLE,
            f64::from(cycles * CYCLE) / took
        );
        Ok(samples.into_inner().expect("no thread panicked with it"))
    }

    /// A Service from its creation to its deletion.
    fn cycle(
        &self,
        at: u32,
        api: &mut Connection,
        client: &mut Client,
    ) -> Result<Vec<Sample>, String> {
        let mut samples = Vec::new();
        let name = format!("p{}-{at}", self.number);
        let qname = format!("{name}.{NAMESPACE}.svc.cluster.local");
        let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        // A question before it exists: whoever keeps denials too long is found out.
        client.is_right(&qname, A, &Right::NameError);
        let (first, second) = (address(self.number, at, 0), address(self.number, at, 1));
        // The slice comes first, so that the name of the headless Service is complete when it is made.
        let slice = |address| clean(objects::slice(NAMESPACE, &name, &name, &[address]).1);
        api.demand("POST", &slices, Some(&slice(first)))?;
        let service = clean(objects::service(NAMESPACE, &name, "None").1);
        let written = api.demand("POST", &services, Some(&service))?;
        samples.push(self.sample(0, &written, client, &qname, A, &Right::Address(first)));
        let slice_path = format!("{slices}/{name}");
        let written = api.demand("PUT", &slice_path, Some(&slice(second)))?;
        samples.push(self.sample(1, &written, client, &qname, A, &Right::Address(second)));
        let written = api.demand("PUT", &slice_path, Some(&slice(first)))?;
        samples.push(self.sample(
            2,
            &written,
            client,
            &reverse(first),
            PTR,
            &Right::Label(name.clone()),
        ));
        let written = api.demand("DELETE", &format!("{services}/{name}"), None)?;
        samples.push(self.sample(3, &written, client, &qname, A, &Right::NameError));
        api.demand("DELETE", &slice_path, None)?;
        Ok(samples)
    }

    fn sample(
        &self,
        kind: usize,
        written: &Value,
        client: &mut Client,
        qname: &str,
        qtype: u16,
        right: &Right,
    ) -> Sample {
        let returned = Instant::now();
        let right = client.wait_for(qname, qtype, right, PATIENCE);
        let version = written["metadata"]["resourceVersion"].as_str();
        Sample {
            kind,
            right,
            versioned: version.is_some(),
            seen: version.and_then(|version| self.seen.after(version, returned)),
        }
    }
}

/// An address that nobody else has.
fn address(number: usize, at: u32, which: u32) -> Ipv4Addr {
    // There are few servers.
    Ipv4Addr::from_bits(
        u32::from_be_bytes([172, 16, 0, 0]) + ((number as u32) << 17) + at * 2 + which,
    )
}

/// What the API server fills in itself.
fn clean(mut object: Value) -> Value {
    if let Value::Object(metadata) = &mut object["metadata"] {
        for field in [
            "uid",
            "creationTimestamp",
            "managedFields",
            "generation",
            "ownerReferences",
        ] {
            metadata.remove(field);
        }
    }
    object
}

/// Questions about what does not change, while nothing happens and while the whole cluster is listed anew.
fn disturb(
    table: &mut Table,
    name: &str,
    server: &Server,
    api: &Api,
    rate: u32,
) -> Result<(), String> {
    let time = Duration::from_secs(5);
    let mut row = |what: &str, mut times: Vec<Duration>, all: usize| {
        let [half, most, max] = quantiles(&mut times);
        let late = (all - times.len()).to_string();
        table.row(vec![
            name.into(),
            what.into(),
            all.to_string(),
            half,
            most,
            max,
            late,
        ]);
    };
    let (times, all) = probe(server.port, rate, time)?;
    row("UDP, undisturbed", times, all);
    let (times, all) = while_repeating(|| list_all(api), || probe(server.port, rate, time))?;
    row("UDP, while another lists", times, all);
    let text = std::fs::read_to_string(&server.corefile).map_err(|error| error.to_string())?;
    let mut round = 0;
    let reload = || {
        // Another set of labels is another watch: nothing of the old one can be kept.
        round += 1;
        let other = format!("labels bench-round!={round}\n       ttl 30");
        let changed = text.replace("ttl 30", &other);
        std::fs::write(&server.corefile, changed).map_err(|error| error.to_string())?;
        crate::command::run(
            std::process::Command::new("kill").args(["-USR1", &server.id().to_string()]),
        )
    };
    let (times, all) = while_repeating(reload, || probe(server.port, rate, time))?;
    row("UDP, while it lists", times, all);
    Ok(())
}

/// What the API server's own work costs whoever shares the cores with it: all that a cluster DNS server lists.
fn list_all(api: &Api) -> Result<(), String> {
    for resource in [
        "/api/v1/services",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ] {
        api.connect()?
            .request("GET", &format!("{resource}?resourceVersion=0"), None)?;
    }
    Ok(())
}

/// Does `what` once a second for as long as `until` takes.
fn while_repeating<T>(
    mut what: impl FnMut() -> Result<(), String> + Send,
    until: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let repeating = scope.spawn(|| -> Result<(), String> {
            while !stop.load(Ordering::Relaxed) {
                what()?;
                std::thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        });
        let outcome = until();
        stop.store(true, Ordering::Relaxed);
        repeating.join().expect("it does not panic")?;
        outcome
    })
}

/// Asks at a steady rate; the times of all that were answered, and how many were asked.
fn probe(port: u16, rate: u32, time: Duration) -> Result<(Vec<Duration>, usize), String> {
    let mut client = Client::new(port)?;
    let (mut times, mut all) = (Vec::new(), 0);
    let (start, pause) = (Instant::now(), Duration::from_secs(1) / rate.max(1));
    let mut idle_since = start;
    while start.elapsed() < time {
        let due = start + pause * u32::try_from(all).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A question that had to wait for the answer before it waited too.
        let asked = if idle_since > due {
            due
        } else {
            Instant::now()
        };
        all += 1;
        if client.ask("svc-1.ns-1.svc.cluster.local", A).is_some() {
            times.push(asked.elapsed());
        }
        idle_since = Instant::now();
    }
    Ok((times, all))
}
