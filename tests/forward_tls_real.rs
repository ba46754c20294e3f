//! `forward` over TLS to servers that other people wrote.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod program;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use authority::Authority;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use program::{PATIENCE, Program, ask, free_port};

/// A server with the zone `test.` and a certificate for `dns.test`, stopped on drop.
struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    /// None where the program is not installed: `cargo xtask test` provides it.
    fn start(program: &str, authority: &Authority, conf: fn(&str, u16) -> String) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        authority.write(folder.path());
        let (_, key) = authority.sign(&["dns.test"]).write(folder.path());
        // Knot warns of a key that others may read.
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
        let port = free_port();
        let path = folder.path().display().to_string();
        fs::write(folder.path().join("conf"), conf(&path, port)).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(folder.path().join("conf"));
        if program == "unbound" {
            command.arg("-d");
        }
        let log = fs::File::create(folder.path().join("out")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let Ok(child) = command.stdin(Stdio::null()).spawn() else {
            eprintln!("skipped: no {program}");
            return None;
        };
        let mut this = Self {
            child,
            port,
            folder,
        };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = this.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{program} does not listen: {ended:?}\n{}",
                this.log()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(this)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// That it is asked, that a connection is kept, and that it is not asked under another name.
fn assert_asked(server: &Server) {
    let ca = server.path().join("ca.pem");
    let forward = |zone: &str, name: &str| {
        format!(
            "forward {zone} tls://127.0.0.1:{} {{\ntls {}\ntls_servername {name}\n}}\n",
            server.port,
            ca.display()
        )
    };
    let (right, wrong) = (
        forward("a.test", "dns.test"),
        forward("b.test", "other.test"),
    );
    let program = Program::start(&format!(
        ".:PORT {{\nbind 127.0.0.1\nerrors\nlog\n{right}{wrong}}}\n"
    ));
    for _ in 0..3 {
        assert_eq!(program.ask("www.a.test", RecordType::A), ["192.0.2.7"]);
    }
    // 40 records of 50 octets: over TLS nothing is truncated on the way to us.
    let texts = ask_over_tcp(program.port, "large.a.test");
    assert_eq!(texts, 40);
    let reply = ask(program.port, "www.b.test", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    program.wait_for_output("x509: certificate is valid for dns.test, not other.test", 1);
}

/// Records in the answer for TXT, over TCP.
fn ask_over_tcp(port: u16, name: &str) -> usize {
    use std::io::{Read, Write};
    let name = fingerpost::wire::name::Name::from_text(name).unwrap();
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(name.as_ref().as_wire());
    query.extend_from_slice(&[0, 16, 0, 1]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).unwrap();
    usize::from(u16::from_be_bytes([reply[6], reply[7]]))
}

/// The records of both servers: owner and the rest.
fn records() -> impl Iterator<Item = (&'static str, String)> {
    let text = |number: usize| format!("TXT \"{number:050}\"");
    let texts = (0..40).map(move |number| ("large.a.test.", text(number)));
    ["www.a.test.", "www.b.test."]
        .into_iter()
        .map(|owner| (owner, "A 192.0.2.7".to_owned()))
        .chain(texts)
}

#[test]
fn unbound_is_asked_over_tls() {
    let conf = |path: &str, port: u16| {
        let records: String = records()
            .map(|(owner, rest)| format!("  local-data: '{owner} 60 IN {rest}'\n"))
            .collect();
        format!(
            "server:\n  interface: 127.0.0.1@{port}\n  tls-port: {port}\n  tls-service-pem: {path}/cert.pem\n  \
             tls-service-key: {path}/key.pem\n  directory: {path}\n  chroot: ''\n  username: ''\n  pidfile: ''\n  \
             use-syslog: no\n  num-threads: 1\n  module-config: iterator\n  do-ip6: no\n  \
             local-zone: 'test.' static\n{records}remote-control:\n  control-enable: no\n"
        )
    };
    if let Some(server) = Server::start("unbound", &Authority::new(), conf) {
        assert_asked(&server);
    }
}

/// Whether this Knot answers over TLS: from 3.4 on.
fn knot_has_tls() -> bool {
    let Ok(output) = Command::new("knotd").arg("--version").output() else {
        eprintln!("skipped: no knotd");
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().rsplit(' ').next().unwrap_or_default();
    let mut parts = version
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let has_tls = (parts.next(), parts.next()) >= (Some(3), Some(4));
    if !has_tls {
        eprintln!("skipped: knotd {version} has no `listen-tls`");
    }
    has_tls
}

#[test]
fn knot_is_asked_over_tls() {
    if !knot_has_tls() {
        return;
    }
    let conf = |path: &str, port: u16| {
        let mut zone = String::from(
            "test. 60 SOA ns.test. hostmaster.test. 1 60 60 60 60\ntest. NS ns.test.\n",
        );
        for (owner, rest) in records() {
            zone += &format!("{owner} 60 IN {rest}\n");
        }
        fs::write(format!("{path}/test.zone"), zone).unwrap();
        format!(
            "server:\n  listen-tls: 127.0.0.1@{port}\n  cert-file: {path}/cert.pem\n  key-file: {path}/key.pem\n  \
             rundir: {path}\ndatabase:\n  storage: {path}\nlog:\n- target: stderr\n  any: info\n\
             zone:\n- domain: test.\n  file: {path}/test.zone\n"
        )
    };
    if let Some(server) = Server::start("knotd", &Authority::new(), conf) {
        assert_asked(&server);
    }
}
