//! The base and its overlays.

use std::fs;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};

use super::{chooses, deploy, in_cluster, is_confined, may_write_events, said};

fn kubeadm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/kubeadm.yaml")
}

#[test]
fn the_base_is_a_whole_dns_and_applying_it_again_changes_nothing() {
    in_cluster(|bed| {
        bed.apply("-k", &deploy("base"), &[]);
        let deployment = bed.get("deployment", "fingerpost");
        is_confined(&deployment);
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let service = bed.get("service", "kube-dns");
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.10");
        assert!(chooses(&service["spec"]["selector"], labels));
        let budget = bed.get("poddisruptionbudget", "fingerpost");
        assert!(chooses(&budget["spec"]["selector"]["matchLabels"], labels));
        let policy = bed.get("networkpolicy", "fingerpost");
        assert!(chooses(
            &policy["spec"]["podSelector"]["matchLabels"],
            labels
        ));
        let ports: Vec<_> = policy["spec"]["ingress"][0]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap()))
            .collect();
        assert_eq!(ports, ["53/UDP", "53/TCP", "9153/TCP"]);
        let scaler = bed.get("horizontalpodautoscaler", "fingerpost");
        assert_eq!(scaler["spec"]["minReplicas"], 2);
        assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "fingerpost");
        let account = bed.get("serviceaccount", "fingerpost");
        let name = &deployment["spec"]["template"]["spec"]["serviceAccountName"];
        assert_eq!(account["metadata"]["name"], *name);
        let map = bed.get("configmap", "coredns");
        assert!(map["data"]["Corefile"].is_string());
        may_write_events(bed, &deployment, "fingerpost-events");

        let before = bed.get("deployment", "fingerpost");
        bed.apply("-k", &deploy("base"), &[]);
        let after = bed.get("deployment", "fingerpost");
        assert_eq!(
            before["metadata"]["resourceVersion"],
            after["metadata"]["resourceVersion"]
        );
    });
}

#[test]
fn its_pods_pass_the_strictest_pod_security() {
    in_cluster(|bed| {
        bed.apply("-k", &deploy("base"), &[]);
        let spec = bed.get("deployment", "fingerpost")["spec"]["template"]["spec"].clone();
        let enforce = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        bed.plane.load(&json!({"items": [{
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": enforce},
        }]}));
        let create = |spec: &Value| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "dns"}, "spec": spec});
            let path = "/api/v1/namespaces/strict/pods?dryRun=All";
            bed.plane.try_request(&Method::POST, path, Some(&pod))
        };
        create(&spec).expect("it asks for nothing that is not allowed");
        let mut lax = spec;
        lax["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
        let refused = create(&lax)
            .expect_err("the namespace is strict")
            .to_string();
        assert!(refused.contains("NET_ADMIN"), "{refused}");
    });
}

#[test]
fn what_an_autoscaler_decided_survives_another_apply() {
    in_cluster(|bed| {
        bed.apply("-k", &deploy("base"), &[]);
        let scaled = bed.kubectl(&[
            "-n",
            "kube-system",
            "scale",
            "deployment/fingerpost",
            "--replicas=7",
        ]);
        assert!(scaled.status.success(), "{}", said(&scaled));
        bed.apply("-k", &deploy("base"), &[]);
        let deployment = bed.get("deployment", "fingerpost");
        assert_eq!(deployment["spec"]["replicas"], 7);
    });
}

#[test]
fn an_overlay_chooses_address_image_and_pull_secret() {
    in_cluster(|bed| {
        let folder = tempfile::tempdir().unwrap();
        // kustomize takes relative folders only.
        let up = "../".repeat(folder.path().canonicalize().unwrap().components().count());
        let theirs = |path: &str| json!(format!("{up}{}", deploy(path).display()));
        let overlay = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [theirs("base")],
            "components": [theirs("components/pull-secret")],
            "images": [{"name": "fingerpost", "newName": "registry.example/dns/fingerpost", "newTag": "1"}],
            "patches": [{
                "target": {"kind": "Service", "name": "kube-dns"},
                "patch": "[{\"op\": \"replace\", \"path\": \"/spec/clusterIP\", \"value\": \"10.96.0.53\"}]",
            }],
        });
        fs::write(
            folder.path().join("kustomization.yaml"),
            overlay.to_string(),
        )
        .unwrap();
        bed.apply("-k", folder.path(), &[]);
        let service = bed.get("service", "kube-dns");
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.53");
        let pod = bed.get("deployment", "fingerpost")["spec"]["template"]["spec"].clone();
        assert_eq!(
            pod["imagePullSecrets"],
            json!([{"name": "fingerpost-registry"}])
        );
        assert_eq!(
            pod["containers"][0]["image"],
            "registry.example/dns/fingerpost:1"
        );
    });
}

#[test]
fn kind_gets_two_replicas_of_the_loaded_image_in_place_of_its_coredns() {
    in_cluster(|bed| {
        bed.apply("-f", &kubeadm(), &["--field-manager=kubeadm"]);
        let theirs = bed.get("deployment", "coredns");
        bed.apply("-k", &deploy("overlays/kind"), &["--force-conflicts"]);
        let off = bed.get("deployment", "coredns");
        assert_eq!(off["spec"]["replicas"], 0);
        assert_eq!(off["spec"]["template"], theirs["spec"]["template"]);
        let ours = bed.get("deployment", "fingerpost");
        is_confined(&ours);
        assert_eq!(ours["spec"]["replicas"], 2);
        let container = &ours["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Never");
        assert_eq!(
            container["image"],
            format!("fingerpost:{}", env!("CARGO_PKG_VERSION"))
        );
        let scalers = bed.kubectl(&[
            "-n",
            "kube-system",
            "get",
            "horizontalpodautoscaler",
            "-o",
            "name",
        ]);
        assert!(
            scalers.status.success() && scalers.stdout.is_empty(),
            "{}",
            said(&scalers)
        );
    });
}

#[test]
fn kubeadms_coredns_is_replaced_by_image_and_args_alone() {
    in_cluster(|bed| {
        bed.apply("-f", &kubeadm(), &["--field-manager=kubeadm"]);
        let before = bed.get("deployment", "coredns");
        bed.apply(
            "-k",
            &deploy("overlays/replace-coredns"),
            &["--force-conflicts"],
        );
        let after = bed.get("deployment", "coredns");
        let container = &after["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(
            container["image"],
            format!("fingerpost:{}", env!("CARGO_PKG_VERSION"))
        );
        let mut expected = before["spec"].clone();
        expected["template"]["spec"]["containers"][0]["image"] = container["image"].clone();
        assert_eq!(after["spec"], expected);
        assert_eq!(ours(&after), ["f:args", "f:image", "f:name"]);
    });
}

/// The fields of the container that kubectl has taken as its own.
fn ours(deployment: &Value) -> Vec<String> {
    let managers = deployment["metadata"]["managedFields"].as_array();
    let mut managers = managers.expect("they were asked for").iter();
    let entry = managers
        .find(|entry| entry["manager"] == "kubectl")
        .expect("kubectl has applied it");
    let container = &entry["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"];
    let fields = container.as_object().unwrap().values().next().unwrap();
    let mut names: Vec<String> = fields.as_object().unwrap().keys().cloned().collect();
    names.retain(|name| name != ".");
    names
}

#[test]
fn without_a_coredns_there_is_nothing_to_replace() {
    in_cluster(|bed| {
        let refused = bed.try_apply("-k", &deploy("overlays/replace-coredns"), &[]);
        assert!(!refused.status.success());
        assert!(
            said(&refused).contains("spec.selector"),
            "{}",
            said(&refused)
        );
    });
}
