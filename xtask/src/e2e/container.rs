//! The server's container: the image's files and what the kubelet adds to them, run by runc in the pod's network.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::command::succeeds;
use crate::e2e::network;
use crate::image::check::pod_like;
use crate::server::Running;

/// Where a pod's credentials lie.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the kubelet learned about the pod.
pub struct Pod<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    /// Of its network namespace.
    pub network: &'a str,
    pub corefile: &'a str,
    pub token: &'a str,
    pub authority: &'a Path,
    pub hosts: &'a Path,
    pub resolv_conf: &'a Path,
    pub environment: &'a [String],
}

/// A container that runs, or has ended.
pub struct Container {
    running: Running,
    pid_file: PathBuf,
}

impl Container {
    /// Starts it from the unpacked image, with its own files in `folder`; `start` counts its starts.
    pub fn start(image: &Path, pod: &Pod<'_>, folder: &Path, start: u32) -> Result<Self, String> {
        let bundle = folder.join(format!("bundle-{start}"));
        let account = write_account(pod, folder)?;
        let volume = write_volume(pod.corefile, folder)?;
        let mounts = [
            (volume.as_path(), "/etc/coredns"),
            (pod.hosts, "/etc/hosts"),
            (pod.resolv_conf, "/etc/resolv.conf"),
            (account.as_path(), ACCOUNT),
        ];
        let config = image.join("config.json");
        let text = std::fs::read_to_string(&config).map_err(shown(&config))?;
        let mut config: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        pod_like(&mut config, &mounts)?;
        of_this_pod(&mut config, image, pod)?;
        write(&bundle.join("config.json"), &config.to_string())?;
        let pid_file = folder.join("pid");
        let mut command = Command::new("runc");
        command
            .arg("--root")
            .arg(folder.join("runc"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(format!("{}-{start}", pod.network));
        let running = Running::start(&mut command, &folder.join(format!("log-{start}")))?;
        Ok(Self { running, pid_file })
    }

    /// The server's process, as seen from here.
    pub fn pid(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.pid_file).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: &str) {
        if let Some(pid) = self.pid() {
            succeeds(Command::new("kill").arg(format!("-{signal}")).arg(pid));
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }
}

fn of_this_pod(config: &mut Value, image: &Path, pod: &Pod<'_>) -> Result<(), String> {
    config["root"]["path"] = json!(image.join("rootfs"));
    let namespaces = config["linux"]["namespaces"]
        .as_array_mut()
        .ok_or("the bundle has no namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({"type": "network", "path": network::path(pod.network)}));
    let mut environment = vec![
        format!("HOSTNAME={}", pod.name),
        "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
        "KUBERNETES_SERVICE_PORT=443".to_owned(),
    ];
    environment.extend_from_slice(pod.environment);
    config["process"]["env"] = json!(environment);
    // Ours, which are more than the 1,024 files of umoci's login.
    config["process"]["rlimits"] = json!([]);
    config["hostname"] = json!(pod.name);
    Ok(())
}

fn write_account(pod: &Pod<'_>, folder: &Path) -> Result<PathBuf, String> {
    let account = folder.join("account");
    write(&account.join("token"), pod.token)?;
    write(&account.join("namespace"), pod.namespace)?;
    let authority = std::fs::read_to_string(pod.authority).map_err(shown(pod.authority))?;
    write(&account.join("ca.crt"), &authority)?;
    Ok(account)
}

/// A ConfigMap as the kubelet lays it down: a folder with a version in its name, and links that lead to it.
fn write_volume(corefile: &str, folder: &Path) -> Result<PathBuf, String> {
    use std::os::unix::fs::symlink;
    let volume = folder.join("config");
    if volume.exists() {
        return Ok(volume);
    }
    write(&volume.join("..2026_01_01/Corefile"), corefile)?;
    let linked = symlink("..2026_01_01", volume.join("..data"))
        .and_then(|()| symlink("..data/Corefile", volume.join("Corefile")));
    linked.map_err(shown(&volume))?;
    Ok(volume)
}

/// Writes a file that everybody may read, and the folders that lead to it.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(shown(folder))?;
    }
    std::fs::write(path, text).map_err(shown(path))
}

fn shown(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}
