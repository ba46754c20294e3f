//! The role in `deploy/base` is enough, and none of its verbs is too many: without any one of them something of the watch
//! is refused. With an API server that streams lists and with one that does not.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/control_plane.rs"]
mod control_plane;
#[path = "support/recorder.rs"]
mod recorder;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::objects::Resource::{self, EndpointSlices, Namespaces, Services};
use fingerpost::cluster::source::ApiSource;
use fingerpost::cluster::watch::pace::Pace;
use fingerpost::cluster::watch::{WatchHandle, WatchPlan, start_on};
use fingerpost::server::process::Process;
use http::Method;
use recorder::Recorder;
use serde_json::{Value, json};

/// Far longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

const RESOURCES: [(Resource, &str); 3] = [
    (Namespaces, "namespaces"),
    (Services, "services"),
    (EndpointSlices, "endpointslices"),
];

const FAILURES: &str = "fingerpost_kubernetes_watch_failures_total";
const COMPARISONS: &str = "fingerpost_kubernetes_reconciles_total";

#[test]
fn each_verb_of_the_role_is_needed_where_lists_are_streamed() {
    let Some(plane) = ControlPlane::start(&[]) else {
        return;
    };
    the_whole_role_is_enough(&plane);
    for (resource, name) in RESOURCES {
        let watched = without(&plane, name, "watch");
        watched.wait_for("a refused watch", FAILURES, name, ("reason", "forbidden"));
        assert_eq!(watched.lists_of(resource), 0);
        // A stream brings everything, so what is lost without `list` is the comparison of names and versions: all of
        // it is sent anew each time.
        let watched = without(&plane, name, "list");
        watched.wait_for(
            "a refused comparison",
            COMPARISONS,
            name,
            ("result", "relisted"),
        );
        assert_eq!(watched.count(COMPARISONS, name, ("result", "same")), 0);
    }
}

#[test]
fn each_verb_of_the_role_is_needed_where_lists_are_paged() {
    // The wrapper stands before etcd too, which knows no such flag.
    let paged = r#"case $1 in */kube-apiserver) set -- "$@" --feature-gates=WatchList=false;; esac; exec "$@""#;
    let Some(plane) = ControlPlane::start(&["sh", "-c", paged, "sh"]) else {
        return;
    };
    the_whole_role_is_enough(&plane);
    for (resource, name) in RESOURCES {
        for verb in ["list", "watch"] {
            let watched = without(&plane, name, verb);
            watched.wait_for("a refusal", FAILURES, name, ("reason", "forbidden"));
            let lists = watched.lists_of(resource);
            assert!(verb == "watch" || lists == 0, "{name}: {lists} lists");
        }
    }
}

/// Everything is listed, compared and followed, and nothing refused.
fn the_whole_role_is_enough(plane: &ControlPlane) {
    let role = role();
    let watched = with_rules(plane, "whole", &role["rules"]);
    for (resource, name) in RESOURCES {
        watched.wait("the list", || watched.lists_of(resource) > 0);
        watched.wait_for("a comparison", COMPARISONS, name, ("result", "same"));
        let refused = watched.count(FAILURES, name, ("reason", "forbidden"));
        assert_eq!(refused, 0, "{name}");
        assert_eq!(watched.count(COMPARISONS, name, ("result", "relisted")), 0);
    }
    plane.create(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "later"},
        "spec": {"clusterIP": "10.96.1.3", "ports": [{"port": 80}]},
    }));
    watched.wait("the new Service", || {
        let has = |heard: &recorder::Heard| heard.get(Services, "default", "later").is_some();
        watched.sink.look(has)
    });
}

/// The role as it is shipped.
fn role() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let role = documents
        .into_iter()
        .find(|document| document["kind"] == "ClusterRole");
    role.expect("the file has a ClusterRole")
}

/// A watch by an account that has the role but for one verb on one resource.
fn without(plane: &ControlPlane, resource: &str, verb: &str) -> Watched {
    let mut rules = Vec::new();
    let mut taken = 0;
    for rule in role()["rules"].as_array().unwrap() {
        for name in rule["resources"].as_array().unwrap() {
            let mut verbs = rule["verbs"].as_array().unwrap().clone();
            let before = verbs.len();
            verbs.retain(|granted| name != resource || granted != verb);
            taken += before - verbs.len();
            rules
                .push(json!({"apiGroups": rule["apiGroups"], "resources": [name], "verbs": verbs}));
        }
    }
    assert_eq!(taken, 1, "the role has `{verb}` on `{resource}` once");
    with_rules(plane, &format!("no-{verb}-{resource}"), &json!(rules))
}

/// A watch by an account with these rights.
fn with_rules(plane: &ControlPlane, name: &str, rules: &Value) -> Watched {
    let kind = "rbac.authorization.k8s.io";
    plane.load(&json!({"items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "kube-system", "name": name}},
        {"apiVersion": format!("{kind}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": format!("{kind}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": kind, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": name}],
        },
    ]}));
    wait_until_granted(plane, name, rules);
    let account = plane.folder().join(name);
    plane.write_account(&account, &plane.token("kube-system", name));
    Watched::by(&Surroundings {
        service_host: Some("127.0.0.1".into()),
        service_port: Some(plane.port().to_string()),
        account,
        ..Surroundings::default()
    })
}

/// The API server takes a moment to hear of its own roles; what is refused then says nothing.
fn wait_until_granted(plane: &ControlPlane, account: &str, rules: &Value) {
    let last = rules.as_array().unwrap().last().unwrap();
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:kube-system:{account}"),
            "resourceAttributes": {
                "group": last["apiGroups"][0], "resource": last["resources"][0], "verb": last["verbs"][0],
            },
        },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let deadline = Instant::now() + PATIENCE;
    while plane.request(Method::POST, path, Some(&review))["status"]["allowed"] != true {
        assert!(Instant::now() < deadline, "{account} is granted nothing");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

struct Watched {
    sink: Arc<Recorder>,
    process: Arc<Process>,
    _handle: Arc<WatchHandle>,
    _runtime: tokio::runtime::Runtime,
}

impl Watched {
    fn by(around: &Surroundings) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let sink = Recorder::new();
        let plan = WatchPlan {
            resources: RESOURCES.map(|(resource, _)| resource).to_vec(),
            reconcile: Some(Duration::from_millis(500)),
            ..WatchPlan::default()
        };
        // A machine that is busy with tests is not a server that hangs.
        let pace = Pace {
            reply: Duration::from_secs(60),
            list_idle: Duration::from_secs(60),
            ..Pace::default()
        };
        let connection = Connection::of(&ApiSource::Default, around).unwrap();
        let handle = start_on(connection, plan, sink.clone(), &process, pace).unwrap();
        Self {
            sink,
            process,
            _handle: handle,
            _runtime: runtime,
        }
    }

    fn lists_of(&self, resource: Resource) -> usize {
        self.sink.look(|heard| heard.lists_of(resource))
    }

    /// Waits until a counter of this resource has counted.
    #[track_caller]
    fn wait_for(&self, what: &str, family: &str, resource: &str, label: (&str, &str)) {
        self.wait(&format!("{what} of {resource}"), || {
            self.count(family, resource, label) > 0
        });
    }

    #[track_caller]
    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn count(&self, family: &str, resource: &str, label: (&str, &str)) -> u64 {
        let families = self.process.metrics.registry().gather();
        let metrics = families.iter().filter(|found| found.name() == family);
        let wanted = [("resource", resource), label];
        metrics
            .flat_map(|family| family.get_metric())
            .filter(|metric| {
                let has = |pair: &(&str, &str)| {
                    let labels = metric.get_label().iter();
                    labels
                        .map(|label| (label.name(), label.value()))
                        .any(|found| found == *pair)
                };
                wanted.iter().all(has)
            })
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }
}
