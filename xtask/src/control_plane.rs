//! A real control plane: its programs from `KUBEBUILDER_ASSETS` or built from Go modules, and running on loopback.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{output, run, succeeds};
use crate::paths;
use crate::provision;
use crate::server::{Running, free_port};

/// The Kubernetes release that is built.
const KUBERNETES: &str = "1.36.3";

/// The etcd release that is built; Debian's is too old for it.
const ETCD: &str = "3.6.8";

/// The programs of a control plane; `setup-envtest` fetches the same three.
const PROGRAMS: &[&str] = &["etcd", "kube-apiserver", "kubectl"];

/// The folder that holds the programs. Builds them if nobody has.
pub fn programs() -> Result<PathBuf, String> {
    if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        let folder = PathBuf::from(assets);
        return match PROGRAMS
            .iter()
            .find(|program| !folder.join(program).is_file())
        {
            None => Ok(folder),
            Some(missing) => Err(format!(
                "KUBEBUILDER_ASSETS names `{}`, which has no `{missing}`",
                folder.display()
            )),
        };
    }
    let home = paths::target().join("control-plane");
    let stamp = home.join("stamp");
    let version = format!("kubernetes {KUBERNETES} etcd {ETCD}\n");
    let folder = home.join("bin");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == version) {
        return Ok(folder);
    }
    println!(
        "building kube-apiserver, kubectl {KUBERNETES} and etcd {ETCD} from their Go modules: 6 to 12 minutes, once"
    );
    let go = provision::go()?;
    build_etcd(&go, &home)?;
    build_kubernetes(&go, &home)?;
    write(&stamp, &version)?;
    Ok(folder)
}

fn build_etcd(go: &Path, home: &Path) -> Result<(), String> {
    let module = home.join("etcd");
    write(
        &module.join("go.mod"),
        "module control-plane/etcd\n\ngo 1.26\n",
    )?;
    let package = "go.etcd.io/etcd/server/v3";
    run(in_module(go, &module).args(["get", &format!("{package}@v{ETCD}")]))?;
    run(in_module(go, &module)
        .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(home.join("bin/etcd"))
        .arg(package))
}

fn build_kubernetes(go: &Path, home: &Path) -> Result<(), String> {
    let module = home.join("kubernetes");
    std::fs::create_dir_all(&module).map_err(|error| format!("{}: {error}", module.display()))?;
    let downloaded = output(in_module(go, &module).args([
        "mod",
        "download",
        "-json",
        &format!("k8s.io/kubernetes@v{KUBERNETES}"),
    ]))?;
    let said: serde_json::Value =
        serde_json::from_str(&downloaded).map_err(|error| format!("go mod download: {error}"))?;
    let path = said["GoMod"]
        .as_str()
        .ok_or("go mod download names no go.mod")?;
    let theirs = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    write(&module.join("go.mod"), &module_file(&theirs))?;
    let packages =
        ["kube-apiserver", "kubectl"].map(|program| format!("k8s.io/kubernetes/cmd/{program}"));
    let imports: String = packages
        .iter()
        .map(|package| format!("import _ \"{package}\"\n"))
        .collect();
    write(
        &module.join("programs.go"),
        &format!("//go:build programs\n\npackage programs\n\n{imports}"),
    )?;
    run(in_module(go, &module).args(["mod", "tidy"]))?;
    let (major, rest) = KUBERNETES.split_once('.').expect("a version has dots");
    let minor = rest.split('.').next().expect("split yields at least one");
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    );
    let into = home.join("bin/");
    run(in_module(go, &module)
        .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(into)
        .args(&packages))
}

/// Kubernetes' own go.mod replaces its staging modules by folders, which is why `go install` refuses it. Ours replaces
/// each by the release that was published of it.
fn module_file(theirs: &str) -> String {
    let staging = format!(
        "v0.{}",
        KUBERNETES.split_once('.').expect("a version has dots").1
    );
    let mut ours = format!(
        "module control-plane/kubernetes\n\ngo 1.26\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n"
    );
    for line in theirs.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some("v0.0.0")) = (words.next(), words.next()) {
            ours.push_str(&format!("replace {name} => {name} {staging}\n"));
        }
    }
    ours
}

fn in_module(go: &Path, module: &Path) -> Command {
    let mut command = Command::new(go);
    // -buildvcs: the module lies inside our own checkout.
    command
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env_remove("GOWORK");
    command
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().ok_or("no folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::File::create(path)?.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// etcd and kube-apiserver on loopback.
pub struct ControlPlane {
    // Dropped in this order: the API server goes before its store.
    api_server: Running,
    etcd: Running,
    programs: PathBuf,
    folder: PathBuf,
    kubeconfig: PathBuf,
    client: u16,
    secure: u16,
}

/// What a client of its API server says to have all rights.
pub const TOKEN: &str = "xtask-admin";

impl ControlPlane {
    /// Starts them with their files in `folder`, which is emptied first, and waits until they are ready.
    pub fn start(folder: &Path) -> Result<Self, String> {
        let programs = programs()?;
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
        let mut command = api_server_command(&programs, folder, client, secure);
        let mut api_server = Running::start(&mut command, &folder.join("kube-apiserver.log"))?;
        let kubeconfig = folder.join("kubeconfig");
        write(&kubeconfig, &kubeconfig_text(folder, secure))?;
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
        })
    }

    /// Kills the API server as a machine that fails does.
    pub fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again, on the same port; does not wait until it is ready.
    pub fn start_api_server(&mut self) -> Result<(), String> {
        let mut command =
            api_server_command(&self.programs, &self.folder, self.client, self.secure);
        let log = self.folder.join("kube-apiserver-again.log");
        self.api_server = Running::start(&mut command, &log)?;
        Ok(())
    }

    /// The port of etcd on loopback.
    pub fn etcd_port(&self) -> u16 {
        self.client
    }

    /// The port of the API server on loopback.
    pub fn secure_port(&self) -> u16 {
        self.secure
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

fn api_server_command(programs: &Path, folder: &Path, etcd: u16, secure: u16) -> Command {
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
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/108",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            // Nothing makes service accounts here, and pods shall be accepted without.
            "--disable-admission-plugins=ServiceAccount",
            // The EndpointSlice of Service `kubernetes` comes from whoever loads objects.
            "--endpoint-reconciler-type=none",
        ]);
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

fn kubeconfig_text(folder: &Path, port: u16) -> String {
    let authority = folder.join("certificates/apiserver.crt");
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: xtask
  cluster:
    server: https://127.0.0.1:{port}
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

#[cfg(test)]
mod tests {
    use super::module_file;

    #[test]
    fn staging_modules_become_their_releases_and_others_stay() {
        let theirs = "require (\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-20260101000000-abc\n\tk8s.io/kubectl v0.0.0 // indirect\n)\n";
        let ours = module_file(theirs);
        assert!(ours.contains("replace k8s.io/api => k8s.io/api v0.36.3\n"));
        assert!(ours.contains("replace k8s.io/kubectl => k8s.io/kubectl v0.36.3\n"));
        assert!(!ours.contains("k8s.io/utils"));
    }
}
