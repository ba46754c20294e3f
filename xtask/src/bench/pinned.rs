//! The release build on the first core, and we on the second; its upstream never replies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::subject::Subject;
use crate::paths;
use crate::server::{Running, answers, free_port};

/// A name that it answers from memory.
pub const CLUSTER: &str = "kubernetes.default.svc.cluster.local";

/// The server, while it runs.
pub struct Pinned {
    running: Running,
    pub address: SocketAddr,
    metrics: u16,
    /// It is bound and never read: queries to it are lost in silence.
    _upstream: UdpSocket,
}

impl Pinned {
    /// Builds and starts it in a folder of this name, and waits until it answers.
    pub fn start(name: &str) -> Result<Self, String> {
        let program = Subject::fingerpost()?.program;
        // What was started before keeps running where it was.
        pin(std::process::id(), 1)?;
        let folder = paths::target().join(name);
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let silent = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let upstream = silent.local_addr().map_err(|error| error.to_string())?;
        let (port, metrics) = (free_port()?, free_port()?);
        let cluster = paths::root().join("deploy/example");
        let text = format!(
            ".:{port} {{\n bind 127.0.0.1\n errors\n prometheus 127.0.0.1:{metrics}\n kubernetes cluster.local {{\n  \
             manifests {}\n }}\n cache 30\n forward . {upstream}\n}}\n",
            cluster.display()
        );
        let mut running = run(&program, &folder, &text)?;
        running.wait_until("answer", Duration::from_secs(30), || answers(port))?;
        Ok(Self {
            running,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            metrics,
            _upstream: silent,
        })
    }

    /// Megabytes that it holds now.
    pub fn resident(&self) -> Result<f64, String> {
        self.megabytes("VmRSS:")
    }

    /// Megabytes that it held at most since its start, or since [`Self::forget_peak`].
    pub fn peak(&self) -> Result<f64, String> {
        self.megabytes("VmHWM:")
    }

    /// Lets the peak start from what it holds now.
    pub fn forget_peak(&self) -> Result<(), String> {
        let path = format!("/proc/{}/clear_refs", self.running.id());
        std::fs::write(&path, "5").map_err(|error| format!("{path}: {error}"))
    }

    fn megabytes(&self, field: &str) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.running.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes: Option<f64> =
            line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let kilobytes = kilobytes.ok_or_else(|| format!("{path}: no {field}"))?;
        Ok(kilobytes / 1024.0)
    }

    /// What it has counted, each sample by its name and labels.
    pub fn samples(&self) -> Result<Vec<(String, f64)>, String> {
        let read = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.metrics))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error: std::io::Error| format!("metrics: {error}"))?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Ok(samples
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect())
    }
}

/// Binds a process and all its threads to a core.
pub fn pin(process: u32, core: u32) -> Result<(), String> {
    let mut command = Command::new("taskset");
    command.args(["-acp", &core.to_string(), &process.to_string()]);
    let output = command
        .output()
        .map_err(|error| format!("taskset: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn run(program: &Path, folder: &Path, corefile: &str) -> Result<Running, String> {
    let path = folder.join("Corefile");
    std::fs::write(&path, corefile).map_err(|error| error.to_string())?;
    let mut command = Command::new("taskset");
    command
        .args(["-c", "0"])
        .arg(program)
        .arg("-conf")
        .arg(&path);
    Running::start(&mut command, &folder.join("server.log"))
}
