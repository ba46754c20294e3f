//! Namespaces to run a test in, queries, an upstream, and what the program counts.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fingerpost::cluster::objects::Resource;
use serde_json::{Value, json};

use crate::model_api::{Model, Wire};
use crate::program::PATIENCE;

/// Says that we are within the namespaces already.
const WITHIN: &str = "FINGERPOST_TEST_WITHIN";

const PROGRAM: &str = env!("CARGO_BIN_EXE_fingerpost");

/// True if we are in namespaces of our own, of these kinds (flags of `unshare`). If not, runs the test there, and false
/// comes back. `probe` is a line for the shell that shows whether what the test needs can be done there.
pub(crate) fn within(test: &str, kinds: &[&str], probe: &str) -> bool {
    if std::env::var_os(WITHIN).is_some() {
        return true;
    }
    let unshare = |program: &std::ffi::OsStr| {
        let mut command = Command::new("unshare");
        command.args(kinds).arg(program);
        command
    };
    let can = unshare("sh".as_ref()).args(["-c", probe]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: `{probe}` does not go in namespaces {kinds:?}");
        return false;
    }
    let status = unshare(std::env::current_exe().unwrap().as_os_str())
        .args(["--exact", test, "--nocapture"])
        .env(WITHIN, "1")
        .status();
    assert!(status.unwrap().success(), "see above");
    false
}

/// Runs a command of words without spaces; it must succeed.
pub(crate) fn run(line: &str) {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let status = command.args(words).status();
    assert!(status.unwrap().success(), "{line}");
}

/// The program, started by the shell after a line that changes what it starts with.
pub(crate) fn after(line: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("{line} || exit 3\nexec \"$0\" \"$@\""),
            PROGRAM,
        ])
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent");
    command
}

/// A query for the address of a name.
pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// A socket of a client with this address, which only talks with the server.
pub(crate) fn client(from: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((from.into(), 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The RCODE of the reply to one query; none if nothing came for so long.
pub(crate) fn rcode(port: u16, name: &str, patience: Duration) -> Option<u8> {
    let socket = client(Ipv4Addr::LOCALHOST, port);
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(&query(7, name)).unwrap();
    let mut reply = [0; 512];
    socket.recv(&mut reply).ok().map(|_| reply[3] & 15)
}

/// The RCODE of the reply over a new TCP connection, if there is one.
pub(crate) fn rcode_over_tcp(port: u16, name: &str) -> Option<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let query = query(7, name);
    let length = u16::try_from(query.len()).unwrap();
    stream
        .write_all(&[&length.to_be_bytes(), &query[..]].concat())
        .ok()?;
    let mut reply = [0; 14];
    stream.read_exact(&mut reply).ok()?;
    Some(reply[5] & 15)
}

/// The reply of an HTTP listener; empty if there is none.
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut reply = Vec::new();
    if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_end(&mut reply);
    }
    String::from_utf8(reply).unwrap()
}

/// Whether `health` says that all is well.
pub(crate) fn is_well(port: u16) -> bool {
    get(port, "/health").starts_with("HTTP/1.1 200")
}

/// The sum of the samples of one name, of those that have this label if one is given.
pub(crate) fn count(port: u16, name: &str, label: &str) -> u64 {
    let text = get(port, "/metrics");
    assert!(!text.is_empty(), "no metrics");
    let is_wanted = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
    };
    let samples = text.lines().filter(is_wanted);
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// A cluster with one namespace, `shop`, and these Services.
pub(crate) fn shop(services: Vec<Value>) -> Model {
    let model = Model::default();
    let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    model.set(Resource::Namespaces, shop, Wire::Delivers);
    model.set_all(Resource::Services, services, Wire::Delivers);
    model
}

/// A server with one address for every name, unless it is told to be silent.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) is_silent: Arc<AtomicBool>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let is_silent = Arc::new(AtomicBool::new(false));
        let silent = Arc::clone(&is_silent);
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut message) {
                if silent.load(Ordering::Relaxed) || length < 17 {
                    continue;
                }
                let name = message[12..length].iter().position(|&octet| octet == 0);
                let end = 12 + name.unwrap_or(0) + 5;
                let mut reply = message[..end].to_vec();
                reply[2] |= 0x80;
                reply[3] = 0x80;
                reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
                reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01");
                let _ = socket.send_to(&reply, from);
            }
        });
        Self { address, is_silent }
    }

    pub(crate) fn fall_silent(&self, silent: bool) {
        self.is_silent.store(silent, Ordering::Relaxed);
    }
}

/// A moment without work.
#[expect(clippy::disallowed_methods, reason = "nobody else runs on this thread")]
pub(crate) fn rest() {
    std::thread::sleep(Duration::from_millis(20));
}
