//! A real control plane: its programs from `KUBEBUILDER_ASSETS` or built from Go modules, and running on loopback.

mod build;

pub use build::{cluster_programs, programs};

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{output, succeeds};
use crate::server::{Running, free_port};

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().ok_or("no folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::File::create(path)?.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Who reaches the API server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This machine alone, on loopback; whoever loads objects says what stands behind Service `kubernetes`.
    Loopback,
    /// The nodes and pods of a cluster, at this address. Only for a network namespace of our own: it listens everywhere.
    Cluster(Ipv4Addr),
}

impl Reach {
    /// Where its certificate holds.
    fn address(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Cluster(address) => address,
        }
    }
}

/// etcd and kube-apiserver.
pub struct ControlPlane {
    // Dropped in this order: the API server goes before its store.
    api_server: Running,
    etcd: Running,
    programs: PathBuf,
    folder: PathBuf,
    kubeconfig: PathBuf,
    client: u16,
    secure: u16,
    reach: Reach,
}

/// What a client of its API server says to have all rights.
pub const TOKEN: &str = "xtask-admin";

impl ControlPlane {
    /// Starts them on loopback with their files in `folder`, which is emptied first, and waits until they are ready.
    pub fn start(folder: &Path) -> Result<Self, String> {
        Self::start_for(Reach::Loopback, folder)
    }

    /// The same, for those who shall reach it.
    pub fn start_for(reach: Reach, folder: &Path) -> Result<Self, String> {
        let programs = match reach {
            Reach::Loopback => programs()?,
            Reach::Cluster(_) => cluster_programs()?,
        };
        if folder.exists() {
            std::fs::remove_dir_all(folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let (client, peer, secure) = (free_port()?, free_port()?, free_port()?);
        let mut etcd = Running::start(
            &mut etcd_command(&programs, folder, client, peer),
            &folder.join("etcd.log"),
        )?;
        etcd.wait_until("open port", Duration::from_secs(30), || listens(client))?;
        write(
            &folder.join("tokens.csv"),
            &format!("{TOKEN},admin,admin,\"system:masters\"\n"),
        )?;
        let key = folder.join("service-account.key");
        output(
            Command::new("openssl")
                .args(["genrsa", "-out"])
                .arg(&key)
                .arg("2048"),
        )?;
        let mut command = api_server_command(&programs, folder, client, secure, reach);
        let mut api_server = Running::start(&mut command, &folder.join("kube-apiserver.log"))?;
        let kubeconfig = folder.join("kubeconfig");
        write(
            &kubeconfig,
            &kubeconfig_text(folder, reach.address(), secure),
        )?;
        let ready = || {
            succeeds(kubectl(&programs, &kubeconfig).args(["get", "--raw", "/readyz"]))
                && succeeds(kubectl(&programs, &kubeconfig).args(["get", "namespace", "default"]))
        };
        api_server.wait_until("`/readyz`", Duration::from_secs(120), ready)?;
        Ok(Self {
            api_server,
            etcd,
            programs,
            folder: folder.to_owned(),
            kubeconfig,
            client,
            secure,
            reach,
        })
    }

    /// Kills the API server as a machine that fails does.
    pub fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again, on the same port; does not wait until it is ready.
    pub fn start_api_server(&mut self) -> Result<(), String> {
        let (programs, folder) = (&self.programs, &self.folder);
        let mut command =
            api_server_command(programs, folder, self.client, self.secure, self.reach);
        let log = self.folder.join("kube-apiserver-again.log");
        self.api_server = Running::start(&mut command, &log)?;
        Ok(())
    }

    /// The port of etcd on loopback.
    pub fn etcd_port(&self) -> u16 {
        self.client
    }

    /// Where the API server is.
    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.reach.address(), self.secure)
    }

    /// The certificates that its API server proves itself by.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    /// The file that leads a client to it, with all rights.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where its programs lie.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Leaves both running; returns their process IDs.
    pub fn leave(self) -> [u32; 2] {
        let ids = [self.api_server.id(), self.etcd.id()];
        self.api_server.leave();
        self.etcd.leave();
        ids
    }
}

/// kubectl against this server and no other.
pub fn kubectl(programs: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(programs.join("kubectl"));
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--request-timeout=5s")
        .env_remove("KUBECONFIG");
    command
}

fn etcd_command(programs: &Path, folder: &Path, client: u16, peer: u16) -> Command {
    let mut command = Command::new(programs.join("etcd"));
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        // What it holds may be lost with the machine.
        .args(["--unsafe-no-fsync", "--log-level=warn"]);
    detached(command)
}

fn api_server_command(
    programs: &Path,
    folder: &Path,
    etcd: u16,
    secure: u16,
    reach: Reach,
) -> Command {
    let key = folder.join("service-account.key");
    let key = key.display();
    let mut command = Command::new(programs.join("kube-apiserver"));
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .arg(format!("--secure-port={secure}"))
        .arg(format!(
            "--cert-dir={}",
            folder.join("certificates").display()
        ))
        .arg(format!(
            "--token-auth-file={}",
            folder.join("tokens.csv").display()
        ))
        .arg(format!("--service-account-key-file={key}"))
        .arg(format!("--service-account-signing-key-file={key}"))
        .args([
            "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/108",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            // Nothing makes service accounts here, and pods shall be accepted without.
            "--disable-admission-plugins=ServiceAccount",
        ]);
    match reach {
        Reach::Loopback => command.args([
            "--bind-address=127.0.0.1",
            // The EndpointSlice of Service `kubernetes` comes from whoever loads objects.
            "--endpoint-reconciler-type=none",
        ]),
        Reach::Cluster(address) => command.arg(format!("--advertise-address={address}")),
    };
    detached(command)
}

/// In a process group of its own, so that a Ctrl-C at the terminal leaves it to us.
fn detached(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    command
}

fn listens(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

fn kubeconfig_text(folder: &Path, host: Ipv4Addr, port: u16) -> String {
    let authority = folder.join("certificates/apiserver.crt");
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: xtask
  cluster:
    server: https://{host}:{port}
    certificate-authority: {}
users:
- name: admin
  user:
    token: {TOKEN}
contexts:
- name: xtask
  context:
    cluster: xtask
    user: admin
current-context: xtask
",
        authority.display()
    )
}
