//! `kubernetes { snapshot }`: starts without the API server, by the real program.
#![cfg(all(feature = "kubernetes", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/control_plane.rs"]
mod control_plane;
#[path = "support/fake_api.rs"]
mod fake_api;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fake_api::{Answer, Asked, FakeApi, Then};
use fingerpost::cluster::objects::{Meta, Object, Service, ServiceKind};
use fingerpost::cluster::snapshot::file;
use fingerpost::cluster::snapshot::format::{Encoder, Key, Snapshot};
use fingerpost::wire::code::RecordType as Type;
use fingerpost::wire::name::Name;
use fingerpost::wire::record::Records;
use hickory_proto::rr::RecordType;
use program::{Program, free_port, wait_until};
use serde_json::{Value, json};

const STALE_ANSWER: u16 = 3;
const STALE_NXDOMAIN_ANSWER: u16 = 19;

/// RCODE, and the code of the extended error if there is one.
fn ask_edns(port: u16, qname: &str) -> (u8, Option<u16>) {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.extend_from_slice(Name::from_text(qname).unwrap().as_ref().as_wire());
    query.extend_from_slice(&[0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket.send(&query).unwrap();
    let mut reply = [0; 1232];
    let length = socket.recv(&mut reply).unwrap();
    let reply = &reply[..length];
    let opt = Records::of_message(reply)
        .unwrap()
        .map(|record| record.unwrap().1)
        .find(|record| record.record_type == Type::OPT)
        .unwrap();
    let code = match opt.rdata() {
        [0, 15, _, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    };
    (reply[3] & 15, code)
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn metric(http: u16, name: &str) -> f64 {
    let text = get(http, "/metrics");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

const WRITTEN: &str = "fingerpost_kubernetes_snapshot_writes_total{outcome=\"written\"}";
const FAILED: &str = "fingerpost_kubernetes_snapshot_writes_total{outcome=\"failed\"}";
const AGE: &str = "fingerpost_kubernetes_snapshot_age_seconds";

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]},
    })
}

fn slice(service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": "shop", "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "endpoints": [{"addresses": [address], "hostname": "first"}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn event(kind: &str, object: &Value, version: usize) -> String {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    json!({"type": kind, "object": object}).to_string()
}

/// An API server that has these objects, or is silent while there are none.
fn api_with(objects: Arc<Mutex<Option<Vec<Value>>>>) -> FakeApi {
    let version = AtomicUsize::new(100);
    FakeApi::start(move |asked: &Asked| {
        let Some(objects) = &*objects.lock().unwrap() else {
            return Answer::Silence;
        };
        let path = asked.uri.split('?').next().unwrap();
        let plural = path.rsplit('/').next().unwrap();
        let of_resource = objects.iter().filter(|object| {
            format!("{}s", object["kind"].as_str().unwrap().to_lowercase()) == plural
        });
        let next = || version.fetch_add(1, Ordering::Relaxed);
        let mut events: Vec<String> = of_resource
            .map(|object| event("ADDED", object, next()))
            .collect();
        let end = json!({"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}});
        events.push(event("BOOKMARK", &end, next()));
        Answer::events(&events, Then::Hold)
    })
}

fn corefile(source: &str, path: &Path, http: u16) -> String {
    format!(
        "cluster.local:PORT {{
            bind 127.0.0.1
            errors
            ready 127.0.0.1:{http}
            prometheus 127.0.0.1:{http}
            kubernetes {{
                {source}
                pods verified
                snapshot {} 1h
            }}
        }}\n",
        path.display()
    )
}

fn stop(mut program: Program) {
    program.signal("TERM");
    assert!(program.wait().success());
}

/// What is asked of both API servers, the scripted one and the real one.
#[track_caller]
fn assert_served_from_the_snapshot(program: &Program, http: u16) {
    assert!(get(http, "/ready").starts_with("HTTP/1.1 200"));
    assert_eq!(
        program.ask("web.shop.svc.cluster.local", RecordType::A),
        ["10.96.7.1"]
    );
    assert_eq!(
        program.ask("first.web.shop.svc.cluster.local", RecordType::A),
        ["10.1.0.1"]
    );
    assert_eq!(
        program.ask("old.shop.svc.cluster.local", RecordType::A),
        ["10.96.7.2"]
    );
    assert_eq!(
        program.ask("10-1-0-9.shop.pod.cluster.local", RecordType::A),
        ["10.1.0.9"]
    );
    for (qname, expected) in [
        ("web.shop.svc.cluster.local", (0, Some(STALE_ANSWER))),
        // No data: the Namespace exists.
        ("shop.svc.cluster.local", (0, Some(STALE_ANSWER))),
        (
            "nope.shop.svc.cluster.local",
            (3, Some(STALE_NXDOMAIN_ANSWER)),
        ),
        (
            "web.nope.svc.cluster.local",
            (3, Some(STALE_NXDOMAIN_ANSWER)),
        ),
        (
            "10-1-0-8.shop.pod.cluster.local",
            (3, Some(STALE_NXDOMAIN_ANSWER)),
        ),
    ] {
        assert_eq!(ask_edns(program.port, qname), expected, "{qname}");
    }
    let age = metric(http, AGE);
    assert!(age > 0.0 && age < 3600.0, "{age}");
    // The older it is the worse: it is not made to look younger.
    assert_eq!(metric(http, WRITTEN), 0.0);
}

#[track_caller]
fn assert_replaced(program: &Program, http: u16) {
    program.wait_for_answer("web.shop.svc.cluster.local", RecordType::A, &["10.96.7.3"]);
    program.wait_for_answer("old.shop.svc.cluster.local", RecordType::A, &[]);
    wait_until("every first list", || metric(http, AGE) == 0.0);
    assert_eq!(
        ask_edns(program.port, "old.shop.svc.cluster.local"),
        (3, None)
    );
    assert_eq!(
        ask_edns(program.port, "web.shop.svc.cluster.local"),
        (0, None)
    );
}

#[test]
fn a_start_without_the_api_server_answers_from_the_snapshot_until_the_first_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let objects = Arc::new(Mutex::new(Some(vec![
        namespace("shop"),
        service("web", "10.96.7.1"),
        service("old", "10.96.7.2"),
        slice("web", "10.1.0.1"),
        pod("a", "10.1.0.9"),
    ])));
    let api = api_with(Arc::clone(&objects));
    let http = free_port();
    let corefile = corefile(&format!("endpoint {}", api.url()), &path, http);

    let program = Program::start(&corefile);
    wait_until("the file", || path.is_file());
    assert_eq!(
        ask_edns(program.port, "web.shop.svc.cluster.local"),
        (0, None)
    );
    stop(program);

    *objects.lock().unwrap() = None;
    let program = Program::start(&corefile);
    assert_served_from_the_snapshot(&program, http);
    assert!(
        program
            .output()
            .contains("does not answer: serving 5 objects of the snapshot")
    );
    let before = std::fs::read(&path).unwrap();
    stop(program);
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "a stop does not renew it either"
    );

    let program = Program::start(&corefile);
    assert_served_from_the_snapshot(&program, http);
    *objects.lock().unwrap() = Some(vec![namespace("shop"), service("web", "10.96.7.3")]);
    assert_replaced(&program, http);
}

#[test]
fn a_real_api_server_that_is_away_and_comes_back() {
    let Some(plane) = control_plane::ControlPlane::start(&[]) else {
        return;
    };
    let (old, web) = (service("old", "10.96.7.2"), service("web", "10.96.7.1"));
    plane.load(&json!({"items": [
        namespace("shop"), web, slice("web", "10.1.0.1"), pod("a", "10.1.0.9"),
    ]}));
    let path = plane.folder().join("cluster.snapshot");
    let http = free_port();
    let kubeconfig = plane.kubeconfig();
    let corefile = corefile(&format!("kubeconfig {}", kubeconfig.display()), &path, http);

    let program = Program::start(&corefile);
    wait_until("the file", || path.is_file());
    // The next file is due in half a minute: the stop saves this one.
    plane.create(&old);
    program.wait_for_answer("old.shop.svc.cluster.local", RecordType::A, &["10.96.7.2"]);
    stop(program);
    plane.delete(&old);
    plane.delete(&web);
    plane.create(&service("web", "10.96.7.3"));
    plane.kill_api_server();

    let program = Program::start(&corefile);
    assert_served_from_the_snapshot(&program, http);
    plane.start_api_server();
    assert_replaced(&program, http);
    assert_eq!(
        program.ask("first.web.shop.svc.cluster.local", RecordType::A),
        ["10.1.0.1"],
        "what has not changed is still there"
    );

    // An outage while running: nothing is marked, nothing ends.
    plane.kill_api_server();
    program.wait_for_output("no connection to API server", 1);
    assert_eq!(
        ask_edns(program.port, "web.shop.svc.cluster.local"),
        (0, None)
    );
}

#[test]
fn a_file_of_other_options_is_overwritten_and_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let objects = Arc::new(Mutex::new(Some(vec![
        namespace("shop"),
        service("web", "10.96.7.1"),
    ])));
    let api = api_with(Arc::clone(&objects));
    let http = free_port();
    let corefile = corefile(&format!("endpoint {}", api.url()), &path, http);
    let program = Program::start(&corefile);
    wait_until("the file", || path.is_file());
    let first = std::fs::metadata(&path).unwrap().ino();
    program.rewrite(&corefile.replace("pods verified", "pods insecure"));
    program.signal("HUP");
    wait_until("a file of other options", || {
        std::fs::metadata(&path).is_ok_and(|found| found.ino() != first)
    });
    stop(program);
    *objects.lock().unwrap() = None;
    let program = Program::start(&corefile);
    program.wait_for_output("it is of another API server, or of other options", 1);
    assert_eq!(
        ask_edns(program.port, "web.shop.svc.cluster.local"),
        (2, Some(14))
    );
    assert!(get(http, "/ready").starts_with("HTTP/1.1 503"));
}

/// A program in a mount namespace of its own, stopped on drop.
struct Apart(Child);

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_full_disk_costs_one_log_line_and_a_counter() {
    let may = Command::new("unshare").args(["--mount", "true"]).output();
    if !may.is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: a mount namespace takes root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let objects = vec![namespace("shop"), service("web", "10.96.7.1")];
    let api = api_with(Arc::new(Mutex::new(Some(objects))));
    let (port, http) = (free_port(), free_port());
    let source = format!("endpoint {}", api.url());
    let text = corefile(&source, &disk.join("cluster"), http).replace("PORT", &port.to_string());
    std::fs::write(folder.path().join("Corefile"), text).unwrap();
    let log = folder.path().join("log");
    let output = std::fs::File::create(&log).unwrap();
    let script = r#"mount -t tmpfs -o size=16k none "$1/disk" && head -c 16384 /dev/zero >"$1/disk/full"
        exec "$2" -conf "$1/Corefile""#;
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(env!("CARGO_BIN_EXE_fingerpost"))
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let mut apart = Apart(child);
    let said = || std::fs::read_to_string(&log).unwrap();
    wait_until("the failure", || said().contains("cannot be written"));
    assert!(metric(http, FAILED) >= 1.0);
    assert_eq!(ask_edns(port, "web.shop.svc.cluster.local"), (0, None));
    assert_eq!(said().matches("cannot be written").count(), 1);
    // Room again: the stop is the next occasion.
    let inside = format!("/proc/{}/root{}", apart.0.id(), disk.display());
    std::fs::remove_file(format!("{inside}/full")).unwrap();
    let killed = Command::new("kill").arg(apart.0.id().to_string()).status();
    assert!(killed.unwrap().success());
    assert!(apart.0.wait().unwrap().success());
    assert!(said().contains("is written again"), "{}", said());
}

const KEY: &str = "killed";

/// The body of the process that the next test kills.
#[test]
#[ignore = "never ends"]
fn writes_until_killed() {
    let path = std::env::var_os("SNAPSHOT_PATH").unwrap();
    let path = Path::new(&path);
    for count in (1..).step_by(997) {
        let object = |number: usize| {
            Object::Service(Service {
                meta: Meta {
                    namespace: "shop".into(),
                    name: format!("web-{number}").into(),
                    resource_version: Box::default(),
                },
                kind: ServiceKind::Headless,
                ports: Vec::new(),
                external: Vec::new(),
            })
        };
        file::replace(path, |file| {
            let mut encoder = Encoder::new(file, Key::of(KEY), SystemTime::now());
            (0..count % 20_000).try_for_each(|number| encoder.object(&object(number)))?;
            encoder.finish().map(drop)
        })
        .unwrap();
    }
}

#[test]
fn whenever_a_process_is_killed_a_whole_file_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let whole = || {
        let octets = file::read(&path).unwrap().unwrap();
        Snapshot::open(&octets, Key::of(KEY)).map(|snapshot| snapshot.objects().count())
    };
    for _ in 0..8 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writes_until_killed"])
            .env("SNAPSHOT_PATH", &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let child = Apart(child);
        let inode = || {
            std::fs::metadata(&path)
                .map(|found| found.ino())
                .unwrap_or(0)
        };
        let first = inode();
        wait_until("another file", || inode() != first);
        assert!(whole().is_ok(), "while it writes");
        drop(child);
        assert!(whole().is_ok(), "after it was killed");
    }
}
