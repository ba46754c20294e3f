//! `bench memory`: what a server holds, how soon it is ready, and how it gets over an API server that is killed.

use std::time::{Duration, Instant};

use crate::bench::args::Args;
use crate::bench::bed::Bed;
use crate::bench::dns::{A, Client, Right};
use crate::bench::etcd;
use crate::bench::objects::{self, Size};
use crate::bench::report::{Table, machine};
use crate::bench::subject::{Server, Subject};

pub const HELP: &str = "\
usage: cargo xtask bench memory [FLAG VALUE]...

Starts etcd and kube-apiserver on loopback, fills them, and runs the release build beside them with kubeadm's Corefile,
one worker a core; then CoreDNS, if COREDNS_BIN names one. FINGERPOST_BIN names another build than this checkout's.

  --services N,N…    sizes (1000,10000,100000); every tenth Service is headless
  --endpoints N      of each Service (10)
  --pods N           Pods for two further runs at the first size, with `pods verified` and without (0: none;
                     the goal is stated for 150000)
  --settle SECONDS   from the last change to the steady figure (60)

A size takes 1 to 3 minutes and twice `--settle`, once for each server. `start peak` is VmHWM when it has settled;
`again peak` the same after an API server that was killed came back with other data, which makes every resource be
listed anew; `right` the time from `/readyz` of the new API server to the right answer about what changed meanwhile;
`offline` the time from start to ready with a snapshot and no API server.";

pub const FLAGS: &[&str] = &["--services", "--endpoints", "--pods", "--settle"];

/// Long enough for any list on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// It is written slowly on purpose: some 64 KiB a second.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(240);
const SNAPSHOT: &str = "snapshot.bin";

/// What one server did at one size.
struct Row {
    name: String,
    size: Size,
    ready: Duration,
    cpu_ready: f64,
    steady: f64,
    start_peak: f64,
    again_peak: f64,
    right: Duration,
    cpu_again: f64,
    after: f64,
    /// To readiness from the snapshot, with the API server off.
    offline: Option<Duration>,
}

pub fn run(args: &Args) -> Result<(), String> {
    let sizes = args.list("--services", &[1000, 10_000, 100_000])?;
    let endpoints = args.get("--endpoints", 10)?;
    let pods = args.get("--pods", 0)?;
    let settle = Duration::from_secs(args.get("--settle", 60)?);
    let mut subjects = vec![Subject::fingerpost()?];
    let snapshot = format!("snapshot {SNAPSHOT}");
    if subjects[0].knows(&snapshot) {
        let mut with = subjects[0].clone();
        with.name += " snapshot";
        with.options = format!("       {snapshot}\n");
        subjects.push(with);
    }
    subjects.extend(Subject::coredns());
    let mut rows = Vec::new();
    for &services in &sizes {
        let size = Size {
            services,
            endpoints,
            pods: 0,
        };
        measure_all(size, &subjects, settle, &mut rows)?;
    }
    if pods > 0 {
        let services = sizes.first().copied().unwrap_or(1000);
        let mut verified = subjects[0].clone();
        verified.name += " verified";
        verified.pods = "verified";
        let size = Size {
            services,
            endpoints,
            pods,
        };
        measure_all(size, &[subjects[0].clone(), verified], settle, &mut rows)?;
    }
    print!("\n{}\n{}", machine(), table(&rows).text());
    print!("{}", growth(&rows));
    Ok(())
}

fn measure_all(
    size: Size,
    subjects: &[Subject],
    settle: Duration,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    println!(
        "{} Services, {} endpoints each, {} Pods",
        size.services, size.endpoints, size.pods
    );
    let mut bed = Bed::start(size)?;
    for subject in subjects {
        let row = measure(subject, size, &mut bed, settle).map_err(|error| {
            let log = bed.folder.join(format!("{}.log", subject.name));
            format!("{}: {error} (log: {})", subject.name, log.display())
        })?;
        print!("{}", table(std::slice::from_ref(&row)).text());
        rows.push(row);
    }
    Ok(())
}

fn measure(subject: &Subject, size: Size, bed: &mut Bed, settle: Duration) -> Result<Row, String> {
    println!("{}: start", subject.name);
    // One of an earlier run would be taken for this one's.
    let _ = std::fs::remove_file(bed.folder.join(SNAPSHOT));
    let mut server = subject.start(&bed.folder, bed.control_plane.kubeconfig(), bed.upstream)?;
    let ready = server.wait_ready(PATIENCE)?;
    let cpu_ready = server.cpu()?;
    let mut client = Client::new(server.port)?;
    let known = "svc-1.ns-1.svc.cluster.local";
    let right = Right::Address(objects::cluster_ip(1));
    client
        .wait_for(known, A, &right, PATIENCE)
        .ok_or("no right answer")?;
    std::thread::sleep(settle);
    let (steady, start_peak) = (server.resident()?, server.peak()?);
    println!("{}: {steady:.1} MB; killing the API server", subject.name);
    server.forget_peak()?;
    let cpu_before = server.cpu()?;
    let right = outage(subject, bed, &server)?;
    std::thread::sleep(settle.min(Duration::from_secs(10)));
    let (again_peak, after) = (server.peak()?, server.resident()?);
    let cpu_again = server.cpu()? - cpu_before;
    let offline = match subject.options.is_empty() {
        true => None,
        false => offline(subject, bed, server)?,
    };
    Ok(Row {
        name: subject.name.clone(),
        size,
        ready,
        cpu_ready,
        steady,
        start_peak,
        again_peak,
        right,
        cpu_again,
        after,
        offline,
    })
}

/// Starts it anew while there is no API server: the time until it is ready from its snapshot.
fn offline(subject: &Subject, bed: &mut Bed, before: Server) -> Result<Option<Duration>, String> {
    println!("{}: waiting for its first snapshot", subject.name);
    let end = Instant::now() + SNAPSHOT_PATIENCE;
    while !bed.folder.join(SNAPSHOT).exists() {
        if Instant::now() > end {
            println!("{}: there is none; `offline` is left out", subject.name);
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(before);
    println!("{}: start without the API server", subject.name);
    bed.control_plane.kill_api_server();
    let kubeconfig = bed.control_plane.kubeconfig();
    let mut server = subject.start(&bed.folder, kubeconfig, bed.upstream)?;
    let ready = server.wait_ready(PATIENCE);
    let right = Right::Address(objects::cluster_ip(1));
    let is_right = Client::new(server.port)?.is_right("svc-1.ns-1.svc.cluster.local", A, &right);
    bed.restart_api_server()?;
    match ready {
        Ok(ready) if is_right => Ok(Some(ready)),
        Ok(_) => Err("the snapshot gives no right answer".into()),
        Err(error) => Err(error),
    }
}

/// Kills the API server, changes the cluster, and starts it again. The time from its readiness to the right answer.
fn outage(subject: &Subject, bed: &mut Bed, server: &Server) -> Result<Duration, String> {
    bed.control_plane.kill_api_server();
    std::thread::sleep(Duration::from_secs(1));
    // Names of its own, so that the next server finds something new too.
    let name = format!("late-{}", server.id());
    let address = std::net::Ipv4Addr::from_bits(0x0a60_fa00 + server.id() % 200);
    let late = [objects::service("ns-0", &name, &address.to_string())];
    etcd::put_all(bed.control_plane.etcd_port(), late.into_iter())?;
    let qname = format!("{name}.ns-0.svc.cluster.local");
    let port = server.port;
    let learned = std::thread::spawn(move || -> Result<Instant, String> {
        let mut client = Client::new(port)?;
        let took = client.wait_for(&qname, A, &Right::Address(address), PATIENCE);
        took.map(|_| Instant::now())
            .ok_or_else(|| format!("{qname} is not learned"))
    });
    let ready = bed.restart_api_server()?;
    let learned = learned.join().expect("asking does not panic")?;
    println!("{}: right again", subject.name);
    Ok(learned.saturating_duration_since(ready))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "Services",
        "endpoints",
        "Pods",
        "ready s",
        "CPU s",
        "RSS MB",
        "start peak",
        "ratio",
        "again peak",
        "ratio",
        "right s",
        "CPU s",
        "RSS after",
        "offline s",
    ]);
    for row in rows {
        let (megabytes, seconds) = (
            |value: f64| format!("{value:.1}"),
            |value: f64| format!("{value:.2}"),
        );
        table.row(vec![
            row.name.clone(),
            row.size.services.to_string(),
            (row.size.services * row.size.endpoints).to_string(),
            row.size.pods.to_string(),
            seconds(row.ready.as_secs_f64()),
            seconds(row.cpu_ready),
            megabytes(row.steady),
            megabytes(row.start_peak),
            seconds(row.start_peak / row.steady),
            megabytes(row.again_peak),
            seconds(row.again_peak / row.steady),
            seconds(row.right.as_secs_f64()),
            seconds(row.cpu_again),
            megabytes(row.after),
            row.offline
                .map_or("-".into(), |time| seconds(time.as_secs_f64())),
        ]);
    }
    table
}

/// From one size to the next, of each server; and from no Pods to many.
fn growth(rows: &[Row]) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let earlier = rows[..at].iter().rev();
        let octets = |other: &Row| (row.steady - other.steady) * 1024.0 * 1024.0;
        let same = |other: &&Row| other.name == row.name && other.size.pods == row.size.pods;
        if let Some(other) = earlier.clone().find(same)
            && row.size.services > other.size.services
        {
            text += &format!(
                "{}, {} to {} Services: {:.0} octets a Service with its {} endpoints\n",
                row.name,
                other.size.services,
                row.size.services,
                octets(other) / f64::from(row.size.services - other.size.services),
                row.size.endpoints,
            );
        }
        let verified = |other: &&Row| {
            row.name == format!("{} verified", other.name) && other.size.pods == row.size.pods
        };
        if let Some(other) = earlier.clone().find(verified) {
            text += &format!(
                "{}: {:.1} octets a Pod, its address included\n",
                row.name,
                octets(other) / f64::from(row.size.pods)
            );
        }
    }
    text
}
