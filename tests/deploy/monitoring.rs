//! The ServiceMonitor and the dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Bed, chooses, deploy, in_cluster, said};

/// The Prometheus operator's definition, as far as we use it: what is not in it, strict validation refuses.
pub(crate) fn define(bed: &Bed<'_>) {
    let text = json!({"type": "string"});
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "required": ["endpoints", "selector"],
        "properties": {
            "jobLabel": text,
            "selector": {"type": "object", "properties": {"matchLabels": texts}},
            "namespaceSelector": {"type": "object", "properties": {
                "any": {"type": "boolean"}, "matchNames": {"type": "array", "items": text},
            }},
            "endpoints": {"type": "array", "items": {"type": "object", "properties": {
                "port": text, "path": text,
                "interval": {"type": "string", "pattern": "^(0|(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$"},
            }}},
        },
    }}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let file = bed.plane.folder().join("definition.json");
    fs::write(&file, definition.to_string()).unwrap();
    bed.apply("-f", &file, &[]);
    let waited = bed.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/servicemonitors.monitoring.coreos.com",
    ]);
    assert!(waited.status.success(), "{}", said(&waited));
}

#[test]
fn the_monitor_finds_the_metrics_of_the_base() {
    in_cluster(|bed| {
        define(bed);
        bed.apply("-k", &deploy("base"), &[]);
        bed.apply("-k", &deploy("monitoring"), &[]);
        let monitor = bed.get("servicemonitor", "fingerpost");
        let service = bed.get("service", "kube-dns");
        let wanted = &monitor["spec"]["selector"]["matchLabels"];
        assert!(chooses(wanted, &service["metadata"]["labels"]));
        let port = &monitor["spec"]["endpoints"][0]["port"];
        let mut ports = service["spec"]["ports"].as_array().unwrap().iter();
        let found = ports.find(|found| found["name"] == *port);
        assert_eq!(found.unwrap()["targetPort"], 9153);
        let map = bed.get("configmap", "fingerpost-dashboard");
        let text = map["data"]["dashboard.json"].as_str().unwrap();
        let dashboard: Value = serde_json::from_str(text).unwrap();
        assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    });
}

#[test]
fn every_metric_of_the_dashboard_is_one_of_ours() {
    let text = fs::read_to_string(deploy("monitoring/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    let mut sources = String::new();
    append(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut sources,
    );
    let mut names = BTreeSet::new();
    for query in &queries {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        names.extend(
            words.filter(|word| word.starts_with("coredns_") || word.starts_with("fingerpost_")),
        );
    }
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let ends = ["_bucket", "_sum", "_count"];
        let family = ends
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let known = [name, family]
            .iter()
            .any(|name| sources.contains(&format!("\"{name}\"")));
        assert!(known, "nothing exports `{name}`");
    }
}

/// All PromQL in it.
fn collect<'a>(value: &'a Value, queries: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => queries.push(text),
                    _ => collect(value, queries),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, queries)),
        _ => {}
    }
}

fn append(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append(&path, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
