//! A server that is measured: Fingerpost, and CoreDNS where there is one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::{cargo, run};
use crate::paths;
use crate::server::{Running, free_port};

/// Which program, and what its `kubernetes` is told beside kubeadm's options.
#[derive(Clone, Debug)]
pub struct Subject {
    pub name: String,
    pub program: PathBuf,
    pub pods: &'static str,
    /// Further lines of `kubernetes`.
    pub options: String,
}

impl Subject {
    /// The release build; `FINGERPOST_BIN` names another one.
    pub fn fingerpost() -> Result<Self, String> {
        let program = match std::env::var_os("FINGERPOST_BIN").filter(|value| !value.is_empty()) {
            Some(program) => program.into(),
            None => {
                println!("building the release");
                run(cargo().args(["build", "--release", "--quiet", "--bin", "fingerpost"]))?;
                paths::cargo_target().join("release/fingerpost")
            }
        };
        Ok(Self::new("fingerpost", program))
    }

    /// What `COREDNS_BIN` names.
    pub fn coredns() -> Option<Self> {
        let program = std::env::var_os("COREDNS_BIN").filter(|value| !value.is_empty())?;
        Some(Self::new("coredns", program.into()))
    }

    fn new(name: &str, program: PathBuf) -> Self {
        Self {
            name: name.into(),
            program,
            pods: "insecure",
            options: String::new(),
        }
    }

    /// Whether its `kubernetes` knows a line.
    pub fn knows(&self, line: &str) -> bool {
        let corefile = paths::target().join("bench-probe.Corefile");
        let text = format!(". {{\n kubernetes cluster.local {{\n {line}\n }}\n}}\n");
        let check = || {
            Command::new(&self.program)
                .arg("check")
                .arg(&corefile)
                .output()
        };
        std::fs::write(&corefile, text).is_ok()
            && check().is_ok_and(|output| {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                output.status.success() && !said.contains("not built")
            })
    }

    /// Starts it with kubeadm's Corefile; returns at once.
    pub fn start(&self, folder: &Path, kubeconfig: &Path, upstream: u16) -> Result<Server, String> {
        let (port, ready, health, metrics) =
            (free_port()?, free_port()?, free_port()?, free_port()?);
        let corefile = folder.join("Corefile");
        let text = self.corefile(kubeconfig, [port, ready, health, metrics, upstream]);
        std::fs::write(&corefile, &text)
            .map_err(|error| format!("{}: {error}", corefile.display()))?;
        let started = Instant::now();
        Ok(Server {
            running: self.spawn(folder, &corefile)?,
            port,
            ready,
            started,
            corefile,
        })
    }

    fn spawn(&self, folder: &Path, corefile: &Path) -> Result<Running, String> {
        let mut command = Command::new(&self.program);
        command
            .current_dir(folder)
            .arg("-conf")
            .arg(corefile)
            .process_group(0);
        Running::start(&mut command, &folder.join(format!("{}.log", self.name)))
    }

    fn corefile(
        &self,
        kubeconfig: &Path,
        [port, ready, health, metrics, upstream]: [u16; 5],
    ) -> String {
        let (pods, options) = (self.pods, &self.options);
        let kubeconfig = kubeconfig.display();
        format!(
            ".:{port} {{
    bind 127.0.0.1
    errors
    health 127.0.0.1:{health} {{
       lameduck 5s
    }}
    ready 127.0.0.1:{ready}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       kubeconfig {kubeconfig}
       pods {pods}
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
{options}    }}
    prometheus 127.0.0.1:{metrics}
    forward . 127.0.0.1:{upstream} {{
       max_concurrent 1000
    }}
    cache 30
    loop
    reload
    loadbalance
}}
"
        )
    }
}

/// It, while it runs.
pub struct Server {
    running: Running,
    pub port: u16,
    ready: u16,
    started: Instant,
    pub corefile: PathBuf,
}

impl Server {
    /// Waits until it says that it is ready; the time since it was started.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Duration, String> {
        let port = self.ready;
        let mut took = None;
        let end = Instant::now() + patience;
        while took.is_none() {
            if get_ready(port).is_some() {
                took = Some(self.started.elapsed());
            } else if Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // An end of the program is told with its reason.
        self.running
            .wait_until("`ready`", Duration::ZERO, || took.is_some())?;
        took.ok_or_else(|| "it is not ready".into())
    }

    /// Kills it without warning and starts it again where it was, with the Corefile that it has.
    pub fn kill_and_start(&mut self, subject: &Subject, folder: &Path) -> Result<(), String> {
        self.started = Instant::now();
        self.running.kill();
        self.running = subject.spawn(folder, &self.corefile)?;
        Ok(())
    }

    /// Since it was started, or was killed to be started again.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether it says now that it is ready.
    pub fn is_ready(&self) -> bool {
        get_ready(self.ready).is_some()
    }

    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// User and system time since its start, in seconds.
    pub fn cpu(&self) -> Result<f64, String> {
        let stat = self.read("stat")?;
        // Fields 14 and 15, counted behind the name, which may have spaces. In hundredths on every Linux.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<f64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .flat_map(str::parse)
            .collect();
        Ok(fields.iter().sum::<f64>() / 100.0)
    }

    /// Megabytes that it holds now.
    pub fn resident(&self) -> Result<f64, String> {
        self.status("VmRSS:")
    }

    /// Megabytes that it held at most since its start, or since [`Self::forget_peak`].
    pub fn peak(&self) -> Result<f64, String> {
        self.status("VmHWM:")
    }

    /// Lets the peak start from what it holds now.
    pub fn forget_peak(&self) -> Result<(), String> {
        let path = format!("/proc/{}/clear_refs", self.id());
        std::fs::write(&path, "5").map_err(|error| format!("{path}: {error}"))
    }

    fn status(&self, field: &str) -> Result<f64, String> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes: Option<f64> =
            line.and_then(|text| text.split_whitespace().next()?.parse().ok());
        kilobytes
            .map(|kilobytes| kilobytes / 1024.0)
            .ok_or_else(|| format!("the program has no {field}"))
    }

    fn read(&self, file: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{file}", self.id());
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }
}

fn get_ready(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).ok()?;
    (&status[9..] == b"200").then_some(())
}
