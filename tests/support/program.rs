//! The real program on a free port of loopback, and a client for it.

#[allow(clippy::duplicate_mod, reason = "a test may have both of its users")]
#[path = "free_port.rs"]
mod port;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tempfile::TempDir;

/// How long anything may take that is not wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program, stopped on drop.
pub(crate) struct Program {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
}

impl Program {
    /// Starts it in a folder of its own with this Corefile, in which `PORT` stands for a free port, and waits until it
    /// answers.
    pub(crate) fn start(corefile: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, corefile, None)
    }

    /// The same in a folder that holds files already, or with another working directory.
    pub(crate) fn start_in(folder: TempDir, corefile: &str, working: Option<&Path>) -> Self {
        Self::start_by(command(), folder, corefile, working)
    }

    /// The same by a command of one's own.
    pub(crate) fn start_by(
        mut command: Command,
        folder: TempDir,
        corefile: &str,
        working: Option<&Path>,
    ) -> Self {
        let port = free_port();
        write_corefile(folder.path(), corefile, port);
        command
            .current_dir(working.unwrap_or(folder.path()))
            .arg("-conf")
            .arg(folder.path().join("Corefile"))
            .stdout(File::create(folder.path().join("out")).expect("the folder can be written"))
            .stderr(File::create(folder.path().join("err")).expect("the folder can be written"));
        let child = command.spawn().expect("the program is built");
        let mut this = Self {
            child,
            port,
            folder,
        };
        let end = Instant::now() + PATIENCE;
        while try_ask(port, ".", RecordType::SOA).is_none() {
            let ended = this.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && Instant::now() < end,
                "it does not answer: {ended:?}\n{}",
                this.output()
            );
        }
        this
    }

    /// A figure of `/proc/PID/status`, in kilobytes.
    #[cfg(target_os = "linux")]
    #[allow(dead_code, reason = "some tests weigh it")]
    pub(crate) fn kilobytes(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(field));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        number.expect("the kernel knows the figure")
    }

    /// Writes another Corefile in place of the one that it was started with.
    pub(crate) fn rewrite(&self, corefile: &str) {
        write_corefile(self.folder.path(), corefile, self.port);
    }

    /// What it printed so far.
    pub(crate) fn output(&self) -> String {
        let read =
            |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// Waits until it has printed `text` for the `times`th time.
    pub(crate) fn wait_for_output(&self, text: &str, times: usize) {
        wait_until(&format!("`{text}` in the log"), || {
            self.output().matches(text).count() >= times
        });
    }

    /// Its process.
    #[allow(dead_code, reason = "each test uses its part of the support")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(status.expect("`kill` is there").success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// The data of the answers, in the order they came.
    pub(crate) fn ask(&self, name: &str, record_type: RecordType) -> Vec<String> {
        answers(&ask(self.port, name, record_type))
    }

    /// Asks until the answer is this.
    pub(crate) fn wait_for_answer(&self, name: &str, record_type: RecordType, expected: &[&str]) {
        wait_until(&format!("{name} {record_type} {expected:?}"), || {
            self.ask(name, record_type) == expected
        });
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, not started yet.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fingerpost"));
    // A developer's cluster is nothing that a test may find.
    command
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// Runs the program to its end; what it printed on stdout and stderr, and its exit code.
pub(crate) fn run(working: &Path, args: &[&str]) -> (String, String, Option<i32>) {
    let mut child = command()
        .current_dir(working)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    let status = wait(&mut child);
    let mut out = String::new();
    let mut err = String::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut out)
        .expect("it prints text");
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut err)
        .expect("it prints text");
    (out, err, status.code())
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("it does not end");
        }
        pause();
    }
}

/// Waits until `holds`; panics after a long while.
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody else runs on this thread")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A port that is free for UDP and TCP now.
pub(crate) fn free_port() -> u16 {
    port::find().expect("loopback has ports")
}

fn write_corefile(folder: &Path, text: &str, port: u16) -> PathBuf {
    let path = folder.join("Corefile");
    let text = text.replace("PORT", &port.to_string());
    // In one step, as editors do it: a half-written file is another test's business.
    let next = folder.join("Corefile.next");
    std::fs::write(&next, text).expect("the folder can be written");
    std::fs::rename(&next, &path).expect("the folder can be written");
    path
}

/// The reply to one question over UDP; asks again if it gets lost.
pub(crate) fn ask(port: u16, name: &str, record_type: RecordType) -> Message {
    for _ in 0..5 {
        if let Some(reply) = try_ask(port, name, record_type) {
            return reply;
        }
    }
    panic!("no reply to {name} {record_type}");
}

/// The same once; none if nothing came back.
pub(crate) fn try_ask(port: u16, name: &str, record_type: RecordType) -> Option<Message> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    socket.connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    let mut query = Message::new(4711, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(
        Name::from_ascii(name).expect("tests ask names"),
        record_type,
    ));
    socket
        .send(&query.to_vec().expect("a query can be written"))
        .ok()?;
    let mut reply = [0; 4096];
    let Ok(length) = socket.recv(&mut reply) else {
        // Refused at once while nobody listens.
        pause();
        return None;
    };
    Some(Message::from_vec(&reply[..length]).expect("a reply can be read"))
}

/// The whole answer to one HTTP request.
#[allow(dead_code, reason = "each test uses its part of the support")]
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("somebody listens");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream
        .write_all(head.as_bytes())
        .expect("the server reads it");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("it answers in text");
    answer
}

/// The data of a reply's answers as text.
pub(crate) fn answers(reply: &Message) -> Vec<String> {
    reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}
