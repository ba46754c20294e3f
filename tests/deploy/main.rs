//! Everything under `deploy/`, applied server-side to a real API server with strict validation: a field that it does not
//! know is a fault. kubectl builds the kustomizations, helm the chart. Skipped where the programs are missing.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chart;
#[path = "../support/control_plane.rs"]
mod control_plane;
mod kustomize;
mod monitoring;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex, PoisonError};

use control_plane::ControlPlane;
use serde_json::Value;

/// One control plane, and one test at a time: they all write the same few objects.
static PLANE: LazyLock<Option<Mutex<ControlPlane>>> =
    LazyLock::new(|| ControlPlane::start(&[]).map(Mutex::new));

/// What the tests leave behind in `kube-system`.
const KINDS: &str = "deployment,service,configmap,poddisruptionbudget,horizontalpodautoscaler,networkpolicy,serviceaccount,role,rolebinding";

/// A cluster without a DNS.
struct Bed<'a> {
    plane: &'a ControlPlane,
    kubeconfig: PathBuf,
}

/// Runs a test in a cluster without a DNS.
fn in_cluster(test: impl FnOnce(&Bed<'_>)) {
    let Some(plane) = &*PLANE else {
        return;
    };
    let plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
    let bed = Bed {
        plane: &plane,
        kubeconfig: plane.kubeconfig(),
    };
    let removed = bed.kubectl(&["-n", "kube-system", "delete", KINDS, "--all", "--wait"]);
    assert!(removed.status.success(), "{}", said(&removed));
    test(&bed);
}

impl Bed<'_> {
    fn kubectl(&self, words: &[&str]) -> Output {
        let programs = control_plane::programs().expect("the control plane runs");
        Command::new(programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(words)
            .env_remove("KUBECONFIG")
            // Discovery is kept in files; no other cluster's shall be believed.
            .env("KUBECACHEDIR", self.plane.folder().join("kubectl"))
            .output()
            .expect("kubectl comes with the control plane")
    }

    /// Applies a kustomization (`-k`) or a file (`-f`) server-side.
    fn try_apply(&self, flag: &str, path: &Path, more: &[&str]) -> Output {
        let path = path.display().to_string();
        let words = ["apply", "--server-side", "--validate=strict", flag, &path];
        self.kubectl(&[&words[..], more].concat())
    }

    #[track_caller]
    fn apply(&self, flag: &str, path: &Path, more: &[&str]) {
        let output = self.try_apply(flag, path, more);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// An object of `kube-system`, or of no namespace.
    #[track_caller]
    fn get(&self, kind: &str, name: &str) -> Value {
        let form = ["-o", "json", "--show-managed-fields"];
        let words = [&["-n", "kube-system", "get", kind, name], &form[..]].concat();
        let output = self.kubectl(&words);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

/// What every Deployment of ours demands of the kubelet.
#[track_caller]
fn is_confined(deployment: &Value) {
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    let rights = serde_json::json!({"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]});
    assert_eq!(container["capabilities"], rights);
    // The node's resolv.conf, not the cluster's, which names this very server.
    assert_eq!(pod["dnsPolicy"], "Default");
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
}

/// A Deployment's Pods know which they are, and its account may write Events at them.
#[track_caller]
fn may_write_events(bed: &Bed<'_>, deployment: &Value, role: &str) {
    let pod = &deployment["spec"]["template"]["spec"];
    let env = pod["containers"][0]["env"].as_array().unwrap();
    for (name, path) in [
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_NAME", "metadata.name"),
        ("POD_UID", "metadata.uid"),
    ] {
        let variable = env.iter().find(|variable| variable["name"] == name);
        let field = &variable.unwrap()["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(*field, path, "{name}");
    }
    let rules = &bed.get("role", role)["rules"];
    let least = serde_json::json!([
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]);
    assert_eq!(*rules, least);
    let binding = bed.get("rolebinding", role);
    assert_eq!(binding["roleRef"]["name"], role);
    assert_eq!(binding["subjects"][0]["name"], pod["serviceAccountName"]);
    assert_eq!(binding["subjects"][0]["namespace"], "kube-system");
}

/// Whether an object with these labels is chosen by a selector.
fn chooses(selector: &Value, labels: &Value) -> bool {
    let pairs = selector.as_object().expect("a selector has labels");
    !pairs.is_empty() && pairs.iter().all(|(name, value)| labels[name] == *value)
}
