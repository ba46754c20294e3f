//! The servers that are measured: where they are, and how each is started for what it has to do.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::objects::Size;
use crate::bench::speed::names::Ask;
use crate::bench::speed::{config, usage};
use crate::bench::subject::Subject;
use crate::command::find;
use crate::load::Questions;
use crate::server::{Running, free_port};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The bare socket.
    Echo,
    Fingerpost,
    Coredns,
    Knot,
    Nsd,
    Unbound,
    Dnsdist,
}

/// What it is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The cluster of an API server with kubeadm's Corefile, or the same names as zones; all else from the upstream,
    /// through a cache.
    Cluster,
    /// The same with `log`, written to a file.
    Log,
    /// The same on both cores.
    TwoWorkers,
    /// Everything from the upstream, with no cache.
    Forward,
    /// A cluster of so many Services, read from a file.
    Services(u32),
    /// The cluster in one of so many server blocks.
    Blocks(u32),
}

impl Program {
    pub const ALL: [Self; 7] = [
        Self::Echo,
        Self::Fingerpost,
        Self::Coredns,
        Self::Knot,
        Self::Nsd,
        Self::Unbound,
        Self::Dnsdist,
    ];

    /// As it is called in flags, tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Fingerpost => "fingerpost",
            Self::Coredns => "coredns",
            Self::Knot => "knot",
            Self::Nsd => "nsd",
            Self::Unbound => "unbound",
            Self::Dnsdist => "dnsdist",
        }
    }

    /// Its file: what a variable of the environment names, else what lies on the search path.
    pub fn locate(self) -> Result<PathBuf, String> {
        let (variable, file) = match self {
            Self::Echo => return std::env::current_exe().map_err(|error| error.to_string()),
            Self::Fingerpost => return Ok(Subject::fingerpost()?.program),
            Self::Coredns => ("COREDNS_BIN", "coredns"),
            Self::Knot => ("KNOTD_BIN", "knotd"),
            Self::Nsd => ("NSD_BIN", "nsd"),
            Self::Unbound => ("UNBOUND_BIN", "unbound"),
            Self::Dnsdist => ("DNSDIST_BIN", "dnsdist"),
        };
        let named = std::env::var_os(variable).filter(|value| !value.is_empty());
        named
            .map(PathBuf::from)
            .or_else(|| find(file))
            .ok_or_else(|| format!("there is no `{file}`, and {variable} names none"))
    }

    /// What it says of its version, in a line.
    pub fn version(self, program: &Path) -> String {
        let flag = match self {
            Self::Echo => return "this checkout".into(),
            Self::Coredns => "-version",
            Self::Nsd => "-v",
            Self::Unbound => "-V",
            Self::Fingerpost | Self::Knot | Self::Dnsdist => "--version",
        };
        let Ok(output) = Command::new(program).arg(flag).output() else {
            return "unknown".into();
        };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines().next().unwrap_or("unknown").trim().to_owned()
    }
}

/// What servers are given.
pub struct World {
    pub folder: PathBuf,
    pub kubeconfig: PathBuf,
    /// Port of the upstream on loopback.
    pub upstream: u16,
    pub size: Size,
    pub server_core: u32,
    pub generator_core: u32,
}

/// A server, while it runs.
pub struct Peer {
    running: Running,
    pub address: SocketAddrV4,
}

impl Peer {
    /// Starts it and waits until it answers.
    pub fn start(
        program: Program,
        file: &Path,
        setup: Setup,
        world: &World,
    ) -> Result<Self, String> {
        let port = free_port()?;
        let folder = world.folder.join(format!("{}-{setup}", program.name()));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
        }
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let cores = match setup {
            Setup::TwoWorkers => format!("{},{}", world.server_core, world.generator_core),
            _ => world.server_core.to_string(),
        };
        let mut command = Command::new("taskset");
        command.args(["-c", &cores]).arg(file).current_dir(&folder);
        command.args(config::write(program, setup, port, &folder, world)?);
        let running = Running::start(&mut command, &folder.join("output.log"))?;
        let mut peer = Self {
            running,
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        };
        let size = setup.size(world);
        let first = match setup {
            Setup::Forward => Ask::Fresh,
            _ if program == Program::Dnsdist => Ask::Cached,
            _ => Ask::ClusterIp,
        };
        let address = peer.address;
        peer.running
            .wait_until("right answer", Duration::from_secs(180), || {
                is_right(address, first, size)
            })
            .map_err(|error| {
                format!(
                    "{} ({setup}): {error}; see {}",
                    program.name(),
                    folder.display()
                )
            })?;
        Ok(peer)
    }

    /// Its process, of which all others of it are children.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    pub fn memory(&self) -> [f64; 2] {
        usage::memory(self.id())
    }
}

impl Setup {
    /// Of the cluster that a server has in it.
    pub fn size(self, world: &World) -> Size {
        match self {
            Self::Services(services) => Size {
                services,
                ..world.size
            },
            _ => world.size,
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Log => f.write_str("log"),
            Self::TwoWorkers => f.write_str("two-workers"),
            Self::Forward => f.write_str("forward"),
            Self::Services(count) => write!(f, "services-{count}"),
            Self::Blocks(count) => write!(f, "blocks-{count}"),
        }
    }
}

/// Whether the first question of its kind gets the right kind of reply.
pub fn is_right(server: SocketAddrV4, ask: Ask, size: Size) -> bool {
    let (rcode, answers) = ask.right();
    let probe = || {
        let mut message = Vec::new();
        Questions::parse(&ask.lines(size))
            .ok()?
            .write(0, 0x5150, &mut message);
        let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .ok()?;
        socket.connect(server).ok()?;
        socket.send(&message).ok()?;
        let mut reply = [0; 4096];
        let length = socket.recv(&mut reply).ok()?;
        let has = u16::from_be_bytes([reply[6], reply[7]]);
        Some(length >= 12 && reply[3] & 15 == rcode && has >= answers)
    };
    probe() == Some(true)
}
