//! The programs of a cluster: from `KUBEBUILDER_ASSETS`, or built from their Go modules.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::write;
use crate::command::{output, run};
use crate::{paths, provision};

/// The Kubernetes release that is built.
const KUBERNETES: &str = "1.36.3";

/// The etcd release that is built; Debian's is too old for it.
const ETCD: &str = "3.6.8";

/// The programs of a control plane; `setup-envtest` fetches the same three.
const PROGRAMS: &[&str] = &["etcd", "kube-apiserver", "kubectl"];

/// What makes it a cluster: EndpointSlices out of Services and Pods, and the way from a Service's address to a Pod's.
const OTHERS: &[&str] = &["kube-controller-manager", "kube-proxy"];

/// The folder that holds the programs of a control plane. Builds them if nobody has.
pub fn programs() -> Result<PathBuf, String> {
    match assets() {
        None => built(),
        Some(folder) => match missing(&folder, PROGRAMS) {
            None => Ok(folder),
            Some(program) => Err(format!(
                "KUBEBUILDER_ASSETS names `{}`, which has no `{program}`",
                folder.display()
            )),
        },
    }
}

/// The same for a cluster. What `setup-envtest` fetches is not enough for one; then they are built.
pub fn cluster_programs() -> Result<PathBuf, String> {
    match assets() {
        Some(folder)
            if missing(&folder, PROGRAMS)
                .or(missing(&folder, OTHERS))
                .is_none() =>
        {
            Ok(folder)
        }
        _ => built(),
    }
}

fn assets() -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty());
    assets.map(PathBuf::from)
}

fn missing(folder: &Path, programs: &[&'static str]) -> Option<&'static str> {
    let mut programs = programs.iter().copied();
    programs.find(|program| !folder.join(program).is_file())
}

fn built() -> Result<PathBuf, String> {
    let home = paths::target().join("control-plane");
    let stamp = home.join("stamp");
    let others = OTHERS.join(" ");
    let version = format!("kubernetes {KUBERNETES} etcd {ETCD} {others}\n");
    let folder = home.join("bin");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == version) {
        return Ok(folder);
    }
    println!(
        "building Kubernetes {KUBERNETES} (kube-apiserver, kubectl, kube-controller-manager, kube-proxy) and etcd {ETCD} \
         from their Go modules: 8 to 15 minutes, once"
    );
    let go = provision::go()?;
    let start = Instant::now();
    build_etcd(&go, &home)?;
    build_kubernetes(&go, &home)?;
    println!("built in {:.0} s", start.elapsed().as_secs_f64());
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
    // All in one build: they share most packages.
    let packages = ["kube-apiserver", "kubectl", OTHERS[0], OTHERS[1]]
        .map(|program| format!("k8s.io/kubernetes/cmd/{program}"));
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
