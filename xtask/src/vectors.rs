//! The conformance and hostile vectors, asked of the real program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::load_into;
use crate::command::{cargo, find, run};
use crate::control_plane::ControlPlane;
use crate::server::{Running, answers, free_port};
use crate::{paths, provision};

/// The configurations of the conformance vectors that must not differ.
const CONFORMING: &[&str] = &[
    "default",
    "bare",
    "noendpoints",
    "verified",
    "namespaces",
    "ignore-empty",
    "labels",
    "namespace-labels",
];

/// Builds the program as the tests use it.
pub fn program() -> Result<PathBuf, String> {
    run(cargo().args(["build", "--quiet"]))?;
    Ok(paths::cargo_target().join("debug/fingerpost"))
}

/// The questions of the conformance vectors, with the cluster read from object files.
pub fn conformance_from_files(shared: &Path) -> Result<(), String> {
    let objects = shared.join("conformance/kubernetes/cluster.json");
    conformance(shared, "files", &format!("manifests {}", objects.display()))
}

/// The same with the cluster watched at a real API server.
pub fn conformance_from_api(shared: &Path) -> Result<(), String> {
    let control_plane = ControlPlane::start(&paths::target().join("vectors/control-plane"))?;
    let objects = shared.join("conformance/kubernetes/cluster.json");
    let count = load_into(
        control_plane.programs(),
        control_plane.kubeconfig(),
        &objects,
    )?;
    println!("loaded {count} objects");
    conformance(
        shared,
        "api",
        &format!("kubeconfig {}", control_plane.kubeconfig().display()),
    )
}

fn conformance(shared: &Path, source: &str, directive: &str) -> Result<(), String> {
    let python = provision::python("dnspython", "dns.message")?;
    let program = program()?;
    for name in CONFORMING {
        let vectors = shared.join("conformance/kubernetes").join(name);
        let corefile =
            read(&vectors.join("Corefile"))?.replace("kubeconfig {$KUBECONFIG}", directive);
        let folder = folder(&format!("vectors/{source}/{name}"))?;
        let (port, _server) = serve(&program, &folder, &corefile)?;
        println!("--- {name}, cluster from {source}");
        let mut compare = Command::new(&python);
        compare
            .arg(shared.join("conformance/compare.py"))
            .arg(vectors.join("expected.jsonl"))
            .args(["127.0.0.1", &port.to_string()]);
        run(&mut compare)?;
    }
    Ok(())
}

/// The hostile messages, with Knot as the upstream.
pub fn hostile(shared: &Path) -> Result<(), String> {
    let set_up = HostileSetUp::start(shared)?;
    set_up.check()
}

/// The set-up of `hostile/README.md`, on ports that are free.
pub struct HostileSetUp {
    port: u16,
    server: Running,
    _knot: Running,
    checker: PathBuf,
}

impl HostileSetUp {
    /// Starts Knot and the program.
    pub fn start(shared: &Path) -> Result<Self, String> {
        let program = program()?;
        let folder = folder("vectors/hostile")?;
        let source = shared.join("hostile");
        for file in ["zone.db", "ext.db", "hostile-cluster.yaml"] {
            std::fs::write(folder.join(file), read(&source.join(file))?)
                .map_err(|error| format!("{file}: {error}"))?;
        }
        let upstream = free_port()?;
        let knot_conf = read(&source.join("knot.conf"))?
            .replace("127.0.0.1@5302", &format!("127.0.0.1@{upstream}"));
        std::fs::write(folder.join("knot.conf"), knot_conf)
            .map_err(|error| format!("knot.conf: {error}"))?;
        let mut command = Command::new(find("knotd").ok_or("no knotd")?);
        command.current_dir(&folder).args(["-c", "knot.conf"]);
        let mut knot = Running::start(&mut command, &folder.join("knot.log"))?;
        knot.wait_until("answer", Duration::from_secs(20), || answers(upstream))?;
        let corefile = read(&source.join("Corefile.hostile"))?
            .replace("127.0.0.1:5302", &format!("127.0.0.1:{upstream}"));
        let (port, server) = serve(&program, &folder, &corefile)?;
        Ok(Self {
            port,
            server,
            _knot: knot,
            checker: source.join("check.py"),
        })
    }

    /// Asks all of them once.
    pub fn check(&self) -> Result<(), String> {
        run(Command::new("python3")
            .arg(&self.checker)
            .args(["127.0.0.1", &self.port.to_string()]))
    }

    /// Kilobytes that the program holds.
    pub fn resident(&self) -> Result<u64, String> {
        let status = read(Path::new(&format!("/proc/{}/status", self.server.id())))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line
            .and_then(|text| text.split_whitespace().next())
            .and_then(|text| text.parse().ok());
        number.ok_or_else(|| "the program has no VmRSS".into())
    }
}

/// Starts the program on loopback with this Corefile; waits until it answers.
fn serve(program: &Path, folder: &Path, corefile: &str) -> Result<(u16, Running), String> {
    let port = free_port()?;
    // The vectors' Corefiles listen everywhere; a test listens on loopback.
    let corefile = corefile.replacen(
        "{$DNS_PORT} {\n",
        &format!("{port} {{\n    bind 127.0.0.1\n"),
        1,
    );
    if !corefile.contains("bind 127.0.0.1") {
        return Err("the Corefile does not start with `.:{$DNS_PORT} {`".into());
    }
    let path = folder.join("Corefile");
    std::fs::write(&path, corefile).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = Command::new(program);
    command.current_dir(folder).arg("-conf").arg("Corefile");
    let log = folder.join("fingerpost.log");
    let mut server = Running::start(&mut command, &log)?;
    server
        .wait_until("answer", Duration::from_secs(30), || answers(port))
        .map_err(|error| format!("{error}\n{}", read(&log).unwrap_or_default()))?;
    Ok((port, server))
}

fn folder(name: &str) -> Result<PathBuf, String> {
    let folder = paths::target().join(name);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
