//! The Helm chart, rendered by the real helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Bed, chooses, deploy, in_cluster, is_confined, may_write_events, monitoring, said};

/// Where `cargo xtask test` puts it, else wherever it is.
fn helm() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/helm/bin/helm");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = [built]
        .into_iter()
        .chain(std::env::split_paths(&path).map(|folder| folder.join("helm")))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no helm; run `cargo xtask test`, which builds it");
    }
    found
}

/// Renders the chart as release `dns` of `kube-system`.
fn template(helm: &Path, folder: &TempDir, values: &Value) -> Output {
    let file = folder.path().join("values.json");
    fs::write(&file, values.to_string()).unwrap();
    Command::new(helm)
        .args(["template", "dns"])
        .arg(deploy("chart"))
        .args(["--namespace", "kube-system", "--values"])
        .arg(file)
        .env("HELM_CACHE_HOME", folder.path())
        .env("HELM_CONFIG_HOME", folder.path())
        .env("HELM_DATA_HOME", folder.path())
        .output()
        .unwrap()
}

/// Renders and applies it; returns what was rendered.
#[track_caller]
fn install(bed: &Bed<'_>, helm: &Path, values: &Value) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let rendered = template(helm, &folder, values);
    assert!(rendered.status.success(), "{}", said(&rendered));
    let file = folder.path().join("rendered.yaml");
    fs::write(&file, &rendered.stdout).unwrap();
    bed.apply("-f", &file, &[]);
    serde_saphyr::from_multiple(&String::from_utf8(rendered.stdout).unwrap()).unwrap()
}

/// The Corefile in a rendered chart, as `fingerpost check` sees it.
#[track_caller]
fn corefile(objects: &[Value]) -> String {
    let map = objects.iter().find(|object| object["kind"] == "ConfigMap");
    let text = map.unwrap()["data"]["Corefile"]
        .as_str()
        .unwrap()
        .to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Corefile");
    fs::write(&file, &text).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_fingerpost"))
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{text}\n{}", said(&checked));
    text
}

#[test]
fn the_chart_as_it_is_runs_beside_the_dns_of_the_cluster() {
    let Some(helm) = helm() else { return };
    in_cluster(|bed| {
        bed.apply("-k", &deploy("base"), &[]);
        let objects = install(bed, &helm, &json!({}));
        let deployment = bed.get("deployment", "dns-fingerpost");
        is_confined(&deployment);
        may_write_events(bed, &deployment, "dns-fingerpost-events");
        assert_eq!(deployment["spec"]["replicas"], 2);
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let service = bed.get("service", "dns-fingerpost");
        assert!(chooses(&service["spec"]["selector"], labels));
        // Nobody's queries come here before somebody says so.
        let clusters_own = bed.get("service", "kube-dns");
        assert!(!chooses(&clusters_own["spec"]["selector"], labels));
        let expected = "\
.:53 {
    errors
    health {
        lameduck 10s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 0.0.0.0:9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
";
        assert_eq!(corefile(&objects), expected);
    });
}

#[test]
fn values_of_the_coredns_chart_do_what_they_do_there() {
    let Some(helm) = helm() else { return };
    in_cluster(|bed| {
        monitoring::define(bed);
        let objects = install(bed, &helm, &values());
        let deployment = bed.get("deployment", "cluster-dns");
        // The autoscaler's number is not fought over.
        let rendered = objects.iter().find(|object| object["kind"] == "Deployment");
        assert!(rendered.unwrap()["spec"]["replicas"].is_null());
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "registry.example/fingerpost:2");
        assert_eq!(container["livenessProbe"]["httpGet"]["port"], 8090);
        assert_eq!(container["livenessProbe"]["periodSeconds"], 7);
        let service = bed.get("service", "kube-dns");
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.10");
        let ports = service["spec"]["ports"].as_array().unwrap();
        assert_eq!(ports.len(), 4, "two servers, over UDP and TCP: {ports:?}");
        assert_eq!(
            bed.get("horizontalpodautoscaler", "dns-fingerpost")["spec"]["maxReplicas"],
            5
        );
        assert_eq!(
            bed.get("poddisruptionbudget", "dns-fingerpost")["spec"]["minAvailable"],
            1
        );
        bed.get("serviceaccount", "resolver");
        let monitor = bed.get("servicemonitor", "dns-fingerpost");
        let metrics = bed.get("service", "dns-fingerpost-metrics");
        let wanted = &monitor["spec"]["selector"]["matchLabels"];
        assert!(chooses(wanted, &metrics["metadata"]["labels"]));
        assert!(
            !chooses(wanted, &service["metadata"]["labels"]),
            "counted twice"
        );
        // `pods verified` reads Pods.
        let role = bed.get("clusterrole", "dns-fingerpost");
        let rules = role["rules"].as_array().unwrap();
        assert!(
            rules
                .iter()
                .any(|rule| rule["resources"] == json!(["pods"]))
        );
        let text = corefile(&objects);
        assert!(
            text.contains("cluster.local:53 dns://internal:53 {\n"),
            "{text}"
        );
        assert!(text.contains(".:1053 {\n    whoami\n}\n"), "{text}");
    });
}

/// As somebody may have them for CoreDNS.
fn values() -> Value {
    json!({
        "image": {"repository": "registry.example/fingerpost", "tag": "2", "pullSecrets": ["registry"]},
        "deployment": {"name": "cluster-dns"},
        "service": {"name": "kube-dns", "clusterIP": "10.96.0.10"},
        "k8sAppLabelOverride": "kube-dns",
        "serviceAccount": {"create": true, "name": "resolver"},
        "prometheus": {"service": {"enabled": true}, "monitor": {"enabled": true, "interval": "30s"}},
        "hpa": {"enabled": true, "maxReplicas": 5},
        "podDisruptionBudget": {"maxUnavailable": null, "minAvailable": 1},
        "livenessProbe": {"periodSeconds": 7},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
        }],
        "extraVolumes": [{"name": "state", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "state", "mountPath": "/var/lib/fingerpost"}],
        "extraSecrets": [{"name": "certificates", "mountPath": "/etc/certificates"}],
        "extraConfig": {"more.conf": "# nothing\n"},
        "env": [{"name": "LEVEL", "value": "info"}],
        "customLabels": {"team": "dns"},
        "servers": [
            {
                "zones": [{"zone": "cluster.local"}, {"zone": "internal", "scheme": "dns://"}],
                "port": 53,
                "plugins": [
                    {"name": "errors"},
                    {"name": "health", "parameters": ":8090"},
                    {"name": "prometheus", "parameters": ":9153"},
                    {"name": "kubernetes", "parameters": "cluster.local", "configBlock": "pods verified"},
                ],
            },
            {"zones": [{"zone": ".", "use_tcp": true}], "port": 1053, "plugins": [{"name": "whoami"}]},
        ],
    })
}

#[test]
fn a_value_that_the_chart_does_not_have_is_refused_by_name() {
    let Some(helm) = helm() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (values, name) in [
        (json!({"autoscaler": {"enabled": true}}), "autoscaler"),
        (json!({"service": {"clusterIp": "10.96.0.10"}}), "clusterIp"),
        (
            json!({"servers": [{"zones": [{"zone": "."}], "port": 53, "plugins": [{"nane": "errors"}]}]}),
            "nane",
        ),
    ] {
        let refused = template(&helm, &folder, &values);
        assert!(!refused.status.success(), "{values}");
        assert!(said(&refused).contains(name), "{}", said(&refused));
    }
}
