//! `bench outage`: the API server is away for long, and every answer is looked at.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bench::args::Args;
use crate::bench::bed::Bed;
use crate::bench::dns::{A, Client, PTR, Right, reverse};
use crate::bench::etcd;
use crate::bench::objects::{self, Size};
use crate::bench::report::{Table, machine, quantiles};
use crate::bench::subject::{Server, Subject};

pub const HELP: &str = "\
usage: cargo xtask bench outage [FLAG VALUE]...

Starts etcd and kube-apiserver on loopback, fills them, and runs the release build beside them with kubeadm's Corefile; and
CoreDNS at the same time, if COREDNS_BIN names one. Then the API server is killed. Each server is asked in turn for the
addresses of all Services, for names that there are not, for addresses of endpoints and for their names. At the end the API
server comes back, with a Service more than it had.

  --services N   (1000); every tenth is headless, and has 10 endpoints
  --minutes N    without the API server (10)
  --rate N       questions a second to each server (1000)

`failures` are replies that did not come or were not right. `not ready` counts the looks at `/ready`, two a second, that
found it not ready. `new right` is the time from `/readyz` of the new API server to the right answer for the new Service. It is
an error if Fingerpost fails once.";

pub const FLAGS: &[&str] = &["--services", "--minutes", "--rate"];

const PATIENCE: Duration = Duration::from_secs(120);

/// Asked on after the API server has come back.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// Failures that are named.
const NAMED_MAX: u64 = 10;

pub fn run(args: &Args) -> Result<(), String> {
    let size = Size {
        services: args.get("--services", 1000)?,
        endpoints: 10,
        pods: 0,
    };
    let away = Duration::from_secs_f64(args.get("--minutes", 10.0)? * 60.0);
    let rate = args.get("--rate", 1000)?;
    let mut subjects = vec![Subject::fingerpost()?];
    subjects.extend(Subject::coredns());
    let mut bed = Bed::start(size)?;
    let start = |subject: &Subject| -> Result<Server, String> {
        // Each has a Corefile of its own: `reload` would find the other's.
        let folder = bed.folder.join(&subject.name);
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut server = subject.start(&folder, bed.control_plane.kubeconfig(), bed.upstream)?;
        server.wait_ready(PATIENCE)?;
        Ok(server)
    };
    let servers: Vec<Server> = subjects.iter().map(start).collect::<Result<_, _>>()?;
    // What a start leaves to do afterwards is no part of this.
    std::thread::sleep(Duration::from_secs(2));
    println!("killing the API server for {} s", away.as_secs());
    bed.control_plane.kill_api_server();
    let is_over = &AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let ask = |server| scope.spawn(move || ask_all(server, size, rate, is_over));
        let asking: Vec<_> = servers.iter().map(ask).collect();
        std::thread::sleep(away);
        let learned = come_back(&mut bed, &servers);
        std::thread::sleep(AFTERWARDS);
        is_over.store(true, Ordering::Relaxed);
        let asked = asking.into_iter();
        let asked = asked.map(|one| one.join().expect("asking does not panic"));
        learned.and_then(|learned| Ok((asked.collect::<Result<Vec<_>, String>>()?, learned)))
    });
    let (asked, learned) = asked?;
    report(&subjects, asked, learned)
}

fn report(
    subjects: &[Subject],
    mut asked: Vec<Asked>,
    learned: Vec<Option<Duration>>,
) -> Result<(), String> {
    let mut table = Table::new(&[
        "server",
        "asked",
        "failures",
        "p50 ms",
        "p99 ms",
        "max ms",
        "not ready",
        "new right s",
    ]);
    for ((subject, asked), learned) in subjects.iter().zip(&mut asked).zip(learned) {
        let [median, p99, max] = quantiles(&mut asked.times);
        table.row(vec![
            subject.name.clone(),
            asked.count.to_string(),
            asked.failures.to_string(),
            median,
            p99,
            max,
            asked.not_ready.to_string(),
            learned.map_or("-".into(), |time| format!("{:.2}", time.as_secs_f64())),
        ]);
    }
    print!("\n{}\n{}", machine(), table.text());
    match &asked[0] {
        Asked {
            failures: 0,
            not_ready: 0,
            ..
        } => Ok(()),
        _ => Err("an outage was noticed".into()),
    }
}

/// Starts the API server with one Service more; how long after its readiness each server knows that one.
fn come_back(bed: &mut Bed, servers: &[Server]) -> Result<Vec<Option<Duration>>, String> {
    let address = Ipv4Addr::new(10, 96, 250, 7);
    let late = [objects::service("ns-0", "late", &address.to_string())];
    etcd::put_all(bed.control_plane.etcd_port(), late.into_iter())?;
    println!("starting the API server");
    std::thread::scope(|scope| {
        let wait = |port| {
            let mut client = Client::new(port)?;
            let right = Right::Address(address);
            let took = client.wait_for("late.ns-0.svc.cluster.local", A, &right, PATIENCE);
            Ok::<_, String>(took.map(|_| Instant::now()))
        };
        let waiting: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(move || wait(server.port)))
            .collect();
        let ready = bed.restart_api_server()?;
        let learned = waiting.into_iter().map(|one| {
            let at = one.join().expect("asking does not panic")?;
            Ok(at.map(|at| at.saturating_duration_since(ready)))
        });
        learned.collect()
    })
}

/// What one server replied.
#[derive(Default)]
struct Asked {
    count: u64,
    failures: u64,
    not_ready: u64,
    times: Vec<Duration>,
}

/// Asks at a steady rate until it is over, and looks at each reply.
fn ask_all(server: &Server, size: Size, rate: u32, is_over: &AtomicBool) -> Result<Asked, String> {
    let (mut client, mut asked) = (Client::new(server.port)?, Asked::default());
    let (start, pause) = (Instant::now(), Duration::from_secs(1) / rate.max(1));
    let mut next_look = start;
    while !is_over.load(Ordering::Relaxed) {
        let due = start + pause.mul_f64(asked.count as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (qname, qtype, right) = question(size, asked.count as u32);
        let sent = Instant::now();
        let is_right = client.is_right(&qname, qtype, &right);
        asked.times.push(sent.elapsed());
        asked.count += 1;
        if !is_right {
            asked.failures += 1;
            if asked.failures <= NAMED_MAX {
                println!("port {}: {qname} is not {right:?}", server.port);
            }
        }
        if Instant::now() >= next_look {
            next_look += Duration::from_millis(500);
            asked.not_ready += u64::from(!server.is_ready());
        }
    }
    Ok(asked)
}

/// Of every kind in turn, about every Service in turn.
fn question(size: Size, number: u32) -> (String, u16, Right) {
    let at = number / 4 % size.services;
    let name = format!("svc-{at}.{}.svc.cluster.local", size.namespace_of(at));
    let endpoint = objects::endpoint_address(size, at, number % size.endpoints);
    let address = match objects::is_headless(at) {
        true => endpoint,
        false => objects::cluster_ip(at),
    };
    match number % 4 {
        0 | 1 => (name, A, Right::Address(address)),
        2 => (format!("no-{name}"), A, Right::NameError),
        // Of addresses, only a headless Service gives away those of its endpoints; of names, every one does.
        _ => (reverse(endpoint), PTR, Right::Label(format!("svc-{at}"))),
    }
}
