//! Options: what is read, what is wrong; and what is shared by equal ones.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::source::Limits;
use crate::plugin::kubernetes::{SPEC, config};
use crate::plugin::testing::bench::{fault, runtime};
use crate::plugin::testing::{faults, parse};
use crate::server::lent::Demands;

fn config_faults(body: &str) -> Vec<String> {
    faults(&SPEC, &format!("kubernetes cluster.local {{\n{body}\n}}\n"))
}

/// Case 251.
#[test]
fn a_wrong_number_of_arguments_is_a_fault() {
    for option in [
        "pods",
        "pods insecure verified",
        "namespaces",
        "endpoint",
        "labels",
        "namespace_labels",
        "tls a b",
        "tls a b c d",
        "ttl",
        "kubeconfig",
        "kubeconfig a b c",
        "noendpoints x",
        "zonal x",
        "endpoint_pod_names x",
        "startup_timeout",
        "apiserver_qps",
        "apiserver_burst",
        "apiserver_max_inflight 1 2",
        "manifests",
        "snapshot",
        "snapshot a 1h b",
    ] {
        let faults = config_faults(option);
        assert!(
            faults.iter().any(|fault| fault.starts_with("error: ")),
            "{option}: {faults:?}"
        );
    }
}

/// Cases 252, 254, 255 and 256; a `startup_timeout` of 0 does not wait, where CoreDNS panics.
#[test]
fn a_wrong_value_is_a_fault_that_points_at_it() {
    for (body, expected) in [
        ("pods foo", "error: `foo` is not a mode of `pods` @ foo"),
        (
            "ignore foo",
            "error: `foo` is nothing that can be ignored @ foo",
        ),
        (
            "labels a in (b",
            "error: `a in (b` is not a label selector: expected `)` @ labels a in (b",
        ),
        (
            "startup_timeout 5",
            "error: `5` is not a duration such as 5s, or 0 not to wait @ 5",
        ),
        ("startup_timeout -1s", "error: `-1s` is negative @ -1s"),
        (
            "ttl 3601",
            "error: `3601` is not a TTL in seconds, 0 to 3600 @ 3601",
        ),
        (
            "ttl -1",
            "error: `-1` is not a TTL in seconds, 0 to 3600 @ -1",
        ),
        ("ttl x", "error: `x` is not a TTL in seconds, 0 to 3600 @ x"),
        (
            "apiserver_qps -1",
            "error: `apiserver_qps` must be 0 or more @ -1",
        ),
        (
            "apiserver_qps NaN",
            "error: `NaN` is not a number of 0 or more, such as 50 @ NaN",
        ),
        (
            "apiserver_max_inflight -5",
            "error: `apiserver_max_inflight` must be 0 or more @ -5",
        ),
        (
            "apiserver_burst 1.5",
            "error: `1.5` is not a whole number of 0 or more, such as 100 @ 1.5",
        ),
        (
            "multicluster foo.local",
            "error: `kubernetes` is not authoritative for the multicluster zone `foo.local.` @ multicluster foo.local",
        ),
        (
            "namespaces a\nnamespace_labels b=c",
            "error: `namespaces` and `namespace_labels` exclude each other @ namespace_labels",
        ),
        (
            "manifests a\nkubeconfig b",
            "error: `manifests` and an API server exclude each other @ manifests",
        ),
        (
            "manifests a\nsnapshot b",
            "error: `manifests` and `snapshot` exclude each other @ snapshot",
        ),
        (
            "snapshot a\nsnapshot b",
            "error: `snapshot` stands here for the second time @ snapshot",
        ),
        ("snapshot a 1", "error: `1` is not an age such as 24h @ 1"),
        (
            "snapshot a 0s",
            "error: `0s` is not an age such as 24h @ 0s",
        ),
        (
            "snapshot a -1h",
            "error: `-1h0m0s` is not an age such as 24h @ -1h",
        ),
        (
            "upstream",
            "error: `kubernetes` has no option `upstream` @ upstream",
        ),
        (
            "resyncperiod 5m",
            "error: `kubernetes` has no option `resyncperiod` @ resyncperiod",
        ),
    ] {
        assert_eq!(config_faults(body), [expected], "{body}");
    }
    for both in ["zonal\nnoendpoints", "noendpoints\nzonal"] {
        assert_eq!(
            config_faults(both),
            ["error: `zonal` and `noendpoints` exclude each other @ zonal"]
        );
    }
    assert_eq!(
        fault(&SPEC, "kubernetes 10.in-addr.arpa\n"),
        "`kubernetes` has reverse zones only @ kubernetes 10.in-addr.arpa"
    );
}

/// Case 253: what CoreDNS lets pass.
#[test]
fn what_means_nothing_is_a_warning() {
    for body in [
        "ttl 5 6",
        "ignore",
        "ignore empty_service x",
        "multicluster",
        "startup_timeout 1s 2s",
        "endpoint https://a https://b",
        "tls a b c",
        "manifests a\napiserver_qps 5",
    ] {
        let faults = config_faults(body);
        let all_warnings = faults.iter().all(|fault| fault.starts_with("warning: "));
        assert!(faults.len() == 1 && all_warnings, "{body}: {faults:?}");
    }
    for body in [
        "namespaces NS1",
        "startup_timeout 0",
        "labels a",
        "manifests a\nlabels b\nnamespace_labels c",
        "endpoint https://a\ntls a b c",
        "zonal",
        "multicluster cluster.local",
        "multicluster cluster.local\nnoendpoints",
    ] {
        assert_eq!(config_faults(body), Vec::<String>::new(), "{body}");
    }
}

fn configured(body: &str) -> Box<config::KubernetesConfig> {
    let text = format!("kubernetes cluster.local {{\n{body}\n}}\n");
    let (config, faults) = parse(&SPEC, &text);
    assert_eq!(faults.error_count(), 0, "{body}");
    let config = config.expect("no fault") as Box<dyn std::any::Any>;
    let config = config.downcast::<config::KubernetesConfig>();
    config.expect("our own")
}

fn limits(body: &str) -> Limits {
    configured(body).limits
}

#[test]
fn the_cluster_is_compared_every_ten_minutes_unless_told_otherwise() {
    let reconcile = |body: &str| configured(body).reconcile;
    assert_eq!(reconcile(""), Some(Duration::from_secs(600)));
    assert_eq!(reconcile("reconcile 90s"), Some(Duration::from_secs(90)));
    assert_eq!(reconcile("reconcile off"), None);
    for (body, fault) in [
        (
            "reconcile 0",
            "error: `0s` is too short for `reconcile` @ 0",
        ),
        (
            "reconcile -5m",
            "error: `-5m0s` is too short for `reconcile` @ -5m",
        ),
        (
            "reconcile",
            "error: `reconcile` needs a duration of at least 1s, such as 10m, or `off` @ reconcile",
        ),
        (
            "reconcile never",
            "error: `never` is not a duration of at least 1s, such as 10m, or `off` @ never",
        ),
        ("reconcile off 5m", "error: `reconcile` takes no `5m` @ 5m"),
    ] {
        assert_eq!(config_faults(body), [fault], "{body}");
    }
}

#[test]
fn limits_of_0_are_the_defaults() {
    let all = "apiserver_qps 0\napiserver_burst 0\napiserver_max_inflight 0";
    assert_eq!(limits(all), Limits::default());
    assert_eq!(
        limits("apiserver_qps 0.5\napiserver_burst 7\napiserver_max_inflight 5000000000"),
        Limits {
            interval: Some(Duration::from_secs(2)),
            burst: Some(7),
            in_flight_max: Some(u32::MAX),
        }
    );
}

#[test]
fn blocks_and_reloads_with_the_same_cluster_share_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.yaml");
    std::fs::write(
        &path,
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
    )
    .expect("written");
    let process = crate::server::process::Process::new(runtime());
    let build_for = |external: bool, options: &str| {
        let text = format!(
            "kubernetes cluster.local {{\nmanifests {}\n{options}\n}}\n",
            path.display()
        );
        let (config, _) = parse(&SPEC, &text);
        let config = config.expect("no fault") as Box<dyn std::any::Any>;
        let config = config
            .downcast::<config::KubernetesConfig>()
            .expect("our own");
        let keep = config.keep(Demands {
            external,
            ..Demands::default()
        });
        let key = config.feed_key(std::path::Path::new(""), keep);
        let root = std::path::Path::new("");
        process
            .shared
            .get_or_try(&key, || config.feed(root, keep, &process))
            .expect("good files")
    };
    let build = |options: &str| build_for(false, options);
    let first = build("");
    assert!(first.cluster.synced());
    assert!(Arc::ptr_eq(&first, &build("ttl 30")));
    for other in ["pods verified", "zonal", "multicluster cluster.local"] {
        assert!(!Arc::ptr_eq(&first, &build(other)), "{other}");
    }
    // A reload that brings `k8s_external` needs what the running cluster has not kept.
    assert!(!Arc::ptr_eq(&first, &build_for(true, "")));
}

#[test]
fn a_word_that_is_no_zone_is_left_out_unless_it_is_the_only_one() {
    assert_eq!(
        faults(&SPEC, "kubernetes .Domain cluster.local\n"),
        ["warning: `.Domain` is not a zone @ .Domain"]
    );
    assert_eq!(
        fault(&SPEC, "kubernetes .Domain\n"),
        "`.Domain` is not a zone @ .Domain"
    );
}
