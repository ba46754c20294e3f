//! Names as a pod resolves them: glibc and `host` in a network namespace, with a pod's resolv.conf.
//!
//! ```text
//! namespace "pod"  10.231.77.2 ==veth== 10.231.77.1  namespace "dns": fingerpost, and Knot on loopback,
//! /etc/netns/…/resolv.conf                           which denies every name there is
//! ```
//!
//! Nothing listens, and nothing is sent, outside these two namespaces. It takes root; without, the test says so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use program::wait_until;

const COREFILE: &str = ".:53 {
    bind 10.231.77.1
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        manifests EXAMPLE
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    cache 30
    forward . 127.0.0.1:5353
    loadbalance
}
";

const RESOLV_CONF: &str = "nameserver 10.231.77.1
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
";

/// A root zone with nothing in it: its server denies everything.
const KNOT_CONF: &str = "server:
    listen: 127.0.0.1@5353
    rundir: .
database:
    storage: .
template:
  - id: default
    storage: .
    journal-content: none
    zonefile-sync: -1
    zonefile-load: whole
zone:
  - domain: .
    file: root.db
";

const ROOT_ZONE: &str = ". 60 SOA a.invalid. b.invalid. 1 3600 600 86400 60\n. 60 NS a.invalid.\n";

/// Two namespaces with a wire between them, and what runs in them. Taken down on drop.
struct Lab {
    dns: String,
    pod: String,
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn ip(arguments: &str) -> bool {
    succeeds(Command::new("ip").args(arguments.split(' ')))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

impl Lab {
    /// None where namespaces may not be made, or a program is missing.
    fn new() -> Result<Self, &'static str> {
        for program in ["ip", "host", "getent", "knotd"] {
            if find(program).is_none() {
                return Err("`ip`, `host`, `getent` or `knotd` is not installed");
            }
        }
        let id = std::process::id();
        let this = Self {
            dns: format!("fp-dns-{id}"),
            pod: format!("fp-pod-{id}"),
            folder: tempfile::tempdir().unwrap(),
            children: Vec::new(),
        };
        let (dns, pod) = (&this.dns, &this.pod);
        let wired = ip(&format!("netns add {dns}"))
            && ip(&format!("netns add {pod}"))
            && ip(&format!(
                "-n {dns} link add eth0 type veth peer name eth0 netns {pod}"
            ))
            && ip(&format!("-n {dns} address add 10.231.77.1/24 dev eth0"))
            && ip(&format!("-n {pod} address add 10.231.77.2/24 dev eth0"))
            && ip(&format!("-n {dns} link set lo up"))
            && ip(&format!("-n {dns} link set eth0 up"))
            && ip(&format!("-n {pod} link set lo up"))
            && ip(&format!("-n {pod} link set eth0 up"));
        if !wired || !succeeds(&mut this.within(&this.pod, Path::new("true"))) {
            return Err("network namespaces cannot be made here (it takes root)");
        }
        let etc = this.etc();
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("resolv.conf"), RESOLV_CONF).unwrap();
        Ok(this)
    }

    /// What `ip netns exec` lays over /etc.
    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.pod)
    }

    fn within(&self, namespace: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", namespace])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Starts a program in the namespace "dns". `ip netns exec` becomes it, so the child is the program itself.
    fn start(&mut self, program: &Path, arguments: &[&str]) {
        let log = std::fs::File::create(
            self.folder
                .path()
                .join(format!("log-{}", self.children.len())),
        )
        .unwrap();
        let child = self
            .within(&self.dns, program)
            .current_dir(self.folder.path())
            .args(arguments)
            .env_remove("KUBECONFIG")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn serve(&mut self) {
        let folder = self.folder.path().to_owned();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/example");
        std::fs::write(
            folder.join("Corefile"),
            COREFILE.replace("EXAMPLE", &example.to_string_lossy()),
        )
        .unwrap();
        std::fs::write(folder.join("knot.conf"), KNOT_CONF).unwrap();
        std::fs::write(folder.join("root.db"), ROOT_ZONE).unwrap();
        self.start(&find("knotd").unwrap(), &["-c", "knot.conf"]);
        self.start(
            Path::new(env!("CARGO_BIN_EXE_fingerpost")),
            &["-conf", "Corefile"],
        );
        wait_until("an answer from inside and one from the upstream", || {
            self.host("web-service.default.svc.cluster.local.")
                .is_some()
                && self
                    .run("host", &["nothing.example."])
                    .1
                    .contains("NXDOMAIN")
        });
    }

    /// Runs a program in the namespace "pod": whether it was content, and what it printed.
    fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = self
            .within(&self.pod, Path::new(program))
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// The address that glibc finds.
    fn getent(&self, name: &str) -> Option<String> {
        let (found, text) = self.run("getent", &["hosts", name]);
        found.then(|| {
            text.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        })
    }

    /// The address that `host` finds.
    fn host(&self, name: &str) -> Option<String> {
        let (found, text) = self.run("host", &["-W", "3", name]);
        let line = text.lines().find(|line| line.contains(" has address "))?;
        found.then(|| line.rsplit(' ').next().unwrap_or_default().to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(self.etc());
        ip(&format!("netns delete {}", self.pod));
        ip(&format!("netns delete {}", self.dns));
    }
}

#[test]
fn a_pod_resolves_short_and_long_names_with_glibc_and_with_host() {
    let mut lab = match Lab::new() {
        Ok(lab) => lab,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    lab.serve();
    for (name, address) in [
        ("web-service", "10.96.10.1"),
        ("web-service.default", "10.96.10.1"),
        ("web-service.default.svc", "10.96.10.1"),
        ("web-service.payroll", "10.96.20.1"),
        ("web-service.payroll.svc.cluster.local", "10.96.20.1"),
        ("10-244-2-5.apps.pod.cluster.local", "10.244.2.5"),
    ] {
        assert_eq!(
            lab.getent(name).as_deref(),
            Some(address),
            "getent hosts {name}"
        );
        assert_eq!(lab.host(name).as_deref(), Some(address), "host {name}");
    }
    for name in [
        "web-service.default.pod",
        "web-service.payroll.svc.cluster",
        "nothing",
    ] {
        assert_eq!(lab.getent(name), None, "getent hosts {name}");
        assert_eq!(lab.host(name), None, "host {name}");
    }
}
