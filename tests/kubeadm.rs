//! The real program with kubeadm's Corefile, unmodified, as a pod would run it: credentials of a service account, RBAC
//! on, the role from `deploy/`, port 53 and the fixed ports of the probes. All of it lives in namespaces of its own
//! (network and mounts), so nothing else on the machine is touched.
#![cfg(all(feature = "kubernetes", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/control_plane.rs"]
mod control_plane;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// Set in the process that runs within the namespaces.
const WITHIN: &str = "FINGERPOST_TEST_WITHIN";

/// Where Kubernetes puts the credentials of a pod.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Far longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Shorter than the Corefile's `cache 30` keeps an answer.
const UNCACHED: Duration = Duration::from_secs(20);

/// kubeadm's Corefile, for where the collection of Corefiles is not at hand.
const COREFILE: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

/// Prepares the namespaces, then becomes the command: a loopback, an empty `/run` for the credentials, and a
/// resolv.conf that names the upstream.
const PREPARE: &str = "
    set -e
    mount --make-rprivate /
    ip link set lo up
    mount -t tmpfs none /run
    mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
    test -e /etc/resolv.conf || { f=$(readlink -m /etc/resolv.conf); mkdir -p ${f%/*}; : >$f; }
    echo 'nameserver 127.0.0.2' >/run/resolv.conf.test
    mount --bind /run/resolv.conf.test /etc/resolv.conf
    exec \"$@\"
";

/// As in a pod of namespace `default`.
const POD_RESOLV_CONF: &str = "\
nameserver 127.0.0.1
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
";

#[test]
fn the_corefile_of_kubeadm_serves_a_cluster_as_it_is() {
    if std::env::var_os(WITHIN).is_some() {
        return within();
    }
    if control_plane::programs().is_none() {
        return;
    }
    let unshare = |command: &[&str]| {
        let mut unshared = Command::new("unshare");
        unshared
            .args(["--map-root-user", "--net", "--mount"])
            .args(command);
        unshared
    };
    match unshare(&["true"]).output() {
        Ok(output) if output.status.success() => {}
        outcome => {
            eprintln!(
                "skipped: `unshare --map-root-user --net --mount` does not work here: {outcome:?}"
            );
            return;
        }
    }
    let status = unshare(&["sh", "-c", PREPARE, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_corefile_of_kubeadm_serves_a_cluster_as_it_is",
            "--nocapture",
        ])
        .env(WITHIN, "1")
        .status();
    assert!(status.unwrap().success());
}

/// Ends with us. What it logged is shown when a test fails.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn within() {
    let plane = ControlPlane::start(&[]).expect("there are programs");
    let items: Vec<Value> = [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "kube-system", "name": "fingerpost"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "payroll"}}),
        service("default", "web-service", "10.96.1.1"),
        service("payroll", "web-service", "10.96.1.2"),
    ]
    .into();
    plane.load(&json!({ "items": items }));
    plane.write_account(
        Path::new(ACCOUNT),
        &plane.token("kube-system", "fingerpost"),
    );
    serve_name_errors();
    let program = start(&plane);

    // Nobody gave us the role yet: what we do not know is SERVFAIL, the rest works.
    wait("the port to open", || {
        ask("kubernetes.default.svc.cluster.local.", RecordType::A).is_some()
    });
    assert_eq!(
        rcode("web-service.default.svc.cluster.local."),
        Some(ResponseCode::ServFail)
    );
    assert_eq!(rcode("example.com."), Some(ResponseCode::NXDomain));
    assert_eq!(status_of(8181, "/ready"), 503);
    assert_eq!(status_of(8080, "/health"), 200);
    let refused = program.log().matches("does not let us watch").count();
    assert_eq!(
        refused, 3,
        "each resource is named once, however often we try"
    );

    plane.apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/rbac.yaml"));
    wait("to be ready", || status_of(8181, "/ready") == 200);
    the_cluster_is_answered();
    a_name_asked_before_it_exists_is_found_at_once(&plane);
    names_resolve_as_in_a_pod(plane.folder());
    let metrics = get(9153, "/metrics");
    for name in [
        "coredns_dns_requests_total",
        "coredns_kubernetes_rest_client_requests_total",
        "coredns_forward_",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
}

/// Starts the program as the pod of `deploy/` does.
fn start(plane: &ControlPlane) -> Program {
    let public = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/corefiles/001-kubeadm-default.Corefile");
    let corefile = if public.is_file() {
        public
    } else {
        let path = plane.folder().join("Corefile");
        std::fs::write(&path, COREFILE).unwrap();
        path
    };
    let log = plane.folder().join("fingerpost.log");
    let file = std::fs::File::create(&log).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_fingerpost"))
        .arg("-conf")
        .arg(corefile)
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", plane.port().to_string())
        .env_remove(WITHIN)
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    Program { child, log }
}

fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]},
    })
}

fn the_cluster_is_answered() {
    let expected = |name: &str, address: [u8; 4]| {
        assert_eq!(addresses(name), [Ipv4Addr::from(address)], "{name}");
    };
    expected("kubernetes.default.svc.cluster.local.", [10, 96, 0, 1]);
    expected("web-service.payroll.svc.cluster.local.", [10, 96, 1, 2]);
    expected("10-244-2-5.payroll.pod.cluster.local.", [10, 244, 2, 5]);
    assert_eq!(
        rcode("nothing.default.svc.cluster.local."),
        Some(ResponseCode::NXDomain)
    );
    let pointer = ask("2.1.96.10.in-addr.arpa.", RecordType::PTR).unwrap();
    let targets: Vec<_> = pointer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(targets, ["web-service.payroll.svc.cluster.local."]);
}

/// The negative answer is not kept by `cache 30`, since the table owns the name.
fn a_name_asked_before_it_exists_is_found_at_once(plane: &ControlPlane) {
    let name = "later.payroll.svc.cluster.local.";
    assert_eq!(rcode(name), Some(ResponseCode::NXDomain));
    plane.create(&service("payroll", "later", "10.96.1.3"));
    wait_at_most(UNCACHED, "the new name", || {
        addresses(name) == [Ipv4Addr::new(10, 96, 1, 3)]
    });
    plane.delete(&service("payroll", "later", "10.96.1.3"));
    wait_at_most(UNCACHED, "the name to be gone", || {
        rcode(name) == Some(ResponseCode::NXDomain)
    });
}

/// glibc, with the search list of a pod.
fn names_resolve_as_in_a_pod(folder: &Path) {
    let resolv_conf = folder.join("pod-resolv.conf");
    std::fs::write(&resolv_conf, POD_RESOLV_CONF).unwrap();
    for (name, address) in [
        ("web-service", Some("10.96.1.1")),
        ("web-service.default", Some("10.96.1.1")),
        ("web-service.default.svc", Some("10.96.1.1")),
        ("web-service.payroll", Some("10.96.1.2")),
        ("web-service.payroll.svc.cluster.local", Some("10.96.1.2")),
        ("10-244-2-5.payroll.pod.cluster.local", Some("10.244.2.5")),
        ("web-service.default.pod", None),
        ("web-service.payroll.svc.cluster", None),
    ] {
        let output = getent(&resolv_conf, name);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split_whitespace().next(), address, "{name}");
    }
}

fn getent(resolv_conf: &PathBuf, name: &str) -> Output {
    Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$1\" /etc/resolv.conf && getent hosts \"$2\"",
            "sh",
        ])
        .arg(resolv_conf)
        .arg(name)
        .output()
        .unwrap()
}

/// An upstream that knows no name at all.
fn serve_name_errors() {
    // The program takes port 53 on every address; this one is more exact and wins.
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 2], 53));
    socket.bind(&address.into()).unwrap();
    let socket = UdpSocket::from(socket);
    std::thread::spawn(move || {
        let mut buffer = [0; 1232];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                return;
            };
            let Ok(query) = Message::from_vec(&buffer[..length]) else {
                continue;
            };
            let mut reply = Message::response(query.metadata.id, OpCode::Query);
            reply.metadata.recursion_desired = true;
            reply.metadata.recursion_available = true;
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.add_queries(query.queries.iter().cloned());
            let _ = socket.send_to(&reply.to_vec().unwrap(), client);
        }
    });
}

/// Asks the program; none if it does not answer.
fn ask(name: &str, kind: RecordType) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.connect("127.0.0.1:53").unwrap();
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    socket.send(&query.to_vec().unwrap()).ok()?;
    let mut buffer = [0; 1232];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

fn rcode(name: &str) -> Option<ResponseCode> {
    Some(ask(name, RecordType::A)?.metadata.response_code)
}

fn addresses(name: &str) -> Vec<Ipv4Addr> {
    let reply = ask(name, RecordType::A);
    let answers = reply.iter().flat_map(|reply| &reply.answers);
    answers
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect()
}

/// An HTTP reply as it came, empty if none did.
fn get(port: u16, path: &str) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
        let _ = write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.read_to_string(&mut text);
    }
    text
}

fn status_of(port: u16, path: &str) -> u16 {
    get(port, path)
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

#[track_caller]
fn wait(what: &str, done: impl FnMut() -> bool) {
    wait_at_most(PATIENCE, what, done);
}

#[track_caller]
fn wait_at_most(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
