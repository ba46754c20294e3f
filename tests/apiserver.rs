//! The watch against a real etcd and kube-apiserver. Skipped where they are missing.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/control_plane.rs"]
mod control_plane;
#[path = "support/in_process.rs"]
#[allow(dead_code, reason = "one test uses a part of the kit")]
mod in_process;
#[path = "support/recorder.rs"]
mod recorder;

use std::path::Path;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use control_plane::{ControlPlane, free_port};
use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::objects::{EndpointSlice, Object, Resource, Service, ServiceKind};
use fingerpost::cluster::source::ApiSource;
use fingerpost::cluster::watch::pace::Pace;
use fingerpost::cluster::watch::{WatchHandle, WatchPlan, start_on};
use fingerpost::cluster::{Cluster, Keep};
use fingerpost::server::process::Process;
use fingerpost::wire::code::RecordType;
use recorder::Recorder;
use serde_json::{Value, json};

const ALL: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
];

/// One control plane for all tests. Who stops the API server takes it alone.
static PLANE: LazyLock<Option<RwLock<ControlPlane>>> =
    LazyLock::new(|| ControlPlane::start(&[]).map(RwLock::new));

/// Runs a test beside others.
fn with_plane(test: impl FnOnce(&ControlPlane)) {
    if let Some(plane) = &*PLANE {
        test(&plane.read().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Runs a test that stops the API server.
fn with_plane_alone(test: impl FnOnce(&ControlPlane)) {
    if let Some(plane) = &*PLANE {
        test(&plane.write().unwrap_or_else(PoisonError::into_inner));
    }
}

struct Watched {
    sink: Arc<Recorder>,
    handle: Arc<WatchHandle>,
    process: Arc<Process>,
    _runtime: tokio::runtime::Runtime,
}

fn watch(source: &ApiSource, around: &Surroundings, resources: &[Resource]) -> Watched {
    watch_labeled(source, around, resources, None)
}

fn watch_labeled(
    source: &ApiSource,
    around: &Surroundings,
    resources: &[Resource],
    labels: Option<&str>,
) -> Watched {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let process = Process::new(runtime.handle().clone());
    let sink = Recorder::new();
    let plan = WatchPlan {
        resources: resources.to_vec(),
        label_selector: labels.map(str::to_owned),
        namespace_label_selector: None,
        reconcile: Some(Duration::from_millis(500)),
        ..WatchPlan::default()
    };
    let connection = Connection::of(source, around).unwrap();
    let handle = start_on(connection, plan, sink.clone(), &process, pace()).unwrap();
    Watched {
        sink,
        handle,
        process,
        _runtime: runtime,
    }
}

/// As in production, except that a machine which is busy with tests is not taken for a server that hangs.
fn pace() -> Pace {
    Pace {
        reply: Duration::from_secs(60),
        list_idle: Duration::from_secs(60),
        // A minute is too long for a test.
        absent_delay: Duration::from_millis(200),
        ..Pace::default()
    }
}

fn kubeconfig(plane: &ControlPlane) -> ApiSource {
    ApiSource::Kubeconfig {
        path: plane.kubeconfig(),
        context: Some("test".into()),
    }
}

impl Watched {
    fn of(plane: &ControlPlane) -> Self {
        watch(&kubeconfig(plane), &Surroundings::default(), &ALL)
    }

    fn wait_until_synced(&self, resources: &[Resource]) {
        self.sink.wait("the lists", |heard| {
            resources
                .iter()
                .all(|resource| heard.lists_of(*resource) > 0)
        });
    }

    /// A value of a counter, summed over the labels that are not named.
    fn count(&self, family: &str, wanted: &[(&str, &str)]) -> u64 {
        let families = self.process.metrics.registry().gather();
        let metrics = families.iter().filter(|found| found.name() == family);
        metrics
            .flat_map(|family| family.get_metric())
            .filter(|metric| {
                wanted.iter().all(|(name, value)| {
                    metric
                        .get_label()
                        .iter()
                        .any(|label| (label.name(), label.value()) == (*name, *value))
                })
            })
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]},
    })
}

fn slice(namespace: &str, name: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2024-01-02T03:04:05Z"},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{
            "addresses": ["10.1.0.1"], "conditions": {"ready": ready}, "hostname": "web-0",
            "targetRef": {"kind": "Pod", "name": "web-0-pod"},
        }],
    })
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]},
    })
}

fn found_service(object: Option<&Object>) -> Option<&Service> {
    match object {
        Some(Object::Service(service)) => Some(service),
        _ => None,
    }
}

fn found_slice(object: Option<&Object>) -> Option<&EndpointSlice> {
    match object {
        Some(Object::EndpointSlice(slice)) => Some(slice),
        _ => None,
    }
}

#[test]
fn all_resources_are_listed_and_their_changes_seen() {
    with_plane(|plane| {
        let space = "seen";
        plane.load(&json!({"items": [
            namespace(space), service(space, "web", "10.96.7.1"), slice(space, "web-1", true), pod(space, "web-0")
        ]}));
        let watched = Watched::of(plane);
        watched.wait_until_synced(&ALL);
        watched.sink.look(|heard| {
            let web = found_service(heard.get(Resource::Services, space, "web")).unwrap();
            assert_eq!(
                web.kind,
                ServiceKind::ClusterIp(vec!["10.96.7.1".parse().unwrap()])
            );
            let port = &web.ports[0];
            assert_eq!(
                (&*port.name, &*port.protocol, port.number),
                ("http", "TCP", Some(80))
            );
            let slice = found_slice(heard.get(Resource::EndpointSlices, space, "web-1")).unwrap();
            assert_eq!(
                (&*slice.service, slice.ports[0].number),
                ("web", Some(8080))
            );
            assert_eq!(slice.trigger_time.as_deref(), Some("2024-01-02T03:04:05Z"));
            let endpoint = &slice.endpoints[0];
            assert!(endpoint.ready);
            assert_eq!(endpoint.hostname.as_deref(), Some("web-0"));
            assert_eq!(endpoint.target_name.as_deref(), Some("web-0-pod"));
            let Some(Object::Pod(pod)) = heard.get(Resource::Pods, space, "web-0") else {
                panic!("a pod");
            };
            assert_eq!(pod.ip, Some("10.1.0.1".parse().unwrap()));
            assert!(
                heard
                    .names(Resource::Namespaces)
                    .contains(&format!("/{space}"))
            );
        });
        plane.load(&json!({"items": [slice(space, "web-1", false)]}));
        watched.sink.wait("the endpoint to be unready", |heard| {
            let slice = found_slice(heard.get(Resource::EndpointSlices, space, "web-1"));
            slice.is_some_and(|slice| !slice.endpoints[0].ready)
        });
        plane.delete(&service(space, "web", "10.96.7.1"));
        watched.sink.wait("the Service to be gone", |heard| {
            heard.get(Resource::Services, space, "web").is_none()
        });
        // Streamed, in protobuf, and without a failure.
        assert_eq!(
            watched.count("fingerpost_kubernetes_watch_failures_total", &[]),
            0
        );
        let requests = "coredns_kubernetes_rest_client_requests_total";
        let host = plane.host();
        let wanted = [("code", "200"), ("method", "GET"), ("host", host.as_str())];
        assert!(watched.count(requests, &wanted) >= 4);
        assert_eq!(watched.count("fingerpost_kubernetes_lists_total", &[]), 4);
        for status in watched.handle.status() {
            assert!(status.synced && status.connected, "{status:?}");
        }
    });
}

#[test]
fn what_json_and_protobuf_say_is_the_same() {
    with_plane(|plane| {
        let space = "encodings";
        let headless = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": space, "name": "headless"},
            "spec": {"clusterIP": "None", "ports": [{"port": 65535, "protocol": "UDP"}]},
        });
        let alias = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": space, "name": "alias"},
            "spec": {"type": "ExternalName", "externalName": "elsewhere.example"},
        });
        plane.load(&json!({"items": [
            namespace(space), headless, alias, service(space, "web", "10.96.7.2"),
            slice(space, "web-1", false), pod(space, "web-0"),
        ]}));
        let watched = Watched::of(plane);
        watched.wait_until_synced(&ALL);
        for (path, resource, names) in [
            (
                "/api/v1/namespaces/encodings/services",
                Resource::Services,
                3,
            ),
            (
                "/apis/discovery.k8s.io/v1/namespaces/encodings/endpointslices",
                Resource::EndpointSlices,
                1,
            ),
            ("/api/v1/namespaces/encodings/pods", Resource::Pods, 1),
        ] {
            let list = plane.request(http::Method::GET, path, None).to_string();
            let mut count = 0;
            let compare = &mut |object: Result<Object, _>| {
                let object = object.unwrap();
                let meta = object.meta().clone();
                watched.sink.look(|heard| {
                    assert_eq!(
                        heard.get(resource, &meta.namespace, &meta.name),
                        Some(&object)
                    );
                });
                count += 1;
            };
            fingerpost::cluster::decode::list_from_json(resource, list.as_bytes(), compare)
                .unwrap();
            assert_eq!(count, names, "{path}");
        }
    });
}

#[test]
fn what_was_lost_is_found_by_comparing_with_the_server() {
    with_plane(|plane| {
        let space = "lost";
        plane.load(&json!({"items": [
            namespace(space), service(space, "kept", "10.96.7.11"), service(space, "missing", "10.96.7.12"),
            service(space, "old", "10.96.7.13"), slice(space, "web-1", true), pod(space, "web-0"),
        ]}));
        let watched = Watched::of(plane);
        watched.wait_until_synced(&ALL);
        // As if three events had been lost: an addition, a change and a deletion.
        let key = |name: &str| (Resource::Services, space.to_owned(), name.to_owned());
        let truth = watched.sink.look(|heard| heard.objects.clone());
        watched.sink.meddle(|heard| {
            heard.objects.remove(&key("missing"));
            let old = heard.objects.get_mut(&key("old")).unwrap();
            old.meta_mut().resource_version = "1".into();
            let mut ghost = truth[&key("kept")].clone();
            ghost.meta_mut().name = "ghost".into();
            heard.objects.insert(key("ghost"), ghost);
        });
        let repaired = || {
            let services = [("resource", "services")];
            watched.count("fingerpost_kubernetes_drift_repaired_total", &services)
        };
        // Changes carry the watch past the version of the comparison; else the bookmark of the next minute does.
        let mut turn = 0;
        while repaired() < 3 {
            turn += 1;
            let name = format!("turn-{turn}");
            plane.create(&service(
                space,
                &name,
                &format!("10.96.{}.{}", 100 + turn / 200, turn % 200),
            ));
            std::thread::park_timeout(Duration::from_millis(100));
        }
        watched.sink.look(|heard| {
            for name in ["missing", "old", "kept"] {
                assert_eq!(
                    heard.objects.get(&key(name)),
                    truth.get(&key(name)),
                    "{name}"
                );
            }
            assert!(!heard.objects.contains_key(&key("ghost")));
        });
        assert_eq!(
            watched.count("fingerpost_kubernetes_drift_repaired_total", &[]),
            3
        );
        assert_eq!(watched.count("fingerpost_kubernetes_lists_total", &[]), 4);
    });
}

/// The definition of ServiceImports, cut down to what is read of them.
fn definition() -> Value {
    let text = json!({"type": "string"});
    let port = json!({"type": "object", "properties": {
        "name": text, "protocol": text, "port": {"type": "integer", "format": "int32"},
    }});
    let spec = json!({"type": "object", "properties": {
        "type": text, "ips": {"type": "array", "items": text}, "ports": {"type": "array", "items": port},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "serviceimports.multicluster.x-k8s.io"},
        "spec": {
            "group": "multicluster.x-k8s.io", "scope": "Namespaced",
            "names": {
                "kind": "ServiceImport", "listKind": "ServiceImportList", "plural": "serviceimports",
                "singular": "serviceimport",
            },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
            }],
        },
    })
}

fn import(namespace: &str, kind: &str, ips: &Value) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
        "metadata": {"namespace": namespace, "name": "web"},
        "spec": {"type": kind, "ips": ips, "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
    })
}

/// A cluster that answers for imports, watching them and what they need.
fn imports_of(plane: &ControlPlane) -> (Arc<Cluster>, Watched) {
    let resources = [
        Resource::Namespaces,
        Resource::Services,
        Resource::EndpointSlices,
        Resource::ServiceImports,
    ];
    let keep = Keep {
        imports: true,
        ..Keep::default()
    };
    let cluster = Arc::new(Cluster::new(&resources, keep));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let process = Process::new(runtime.handle().clone());
    let plan = WatchPlan {
        resources: resources.to_vec(),
        ..WatchPlan::default()
    };
    let connection = Connection::of(&kubeconfig(plane), &Surroundings::default()).unwrap();
    let handle = start_on(connection, plan, cluster.clone(), &process, pace()).unwrap();
    let watched = Watched {
        sink: Recorder::new(),
        handle,
        process,
        _runtime: runtime,
    };
    (cluster, watched)
}

/// Waits for the endpoints of the import `web`, each `CLUSTER ADDRESS`, and for its own addresses.
fn wait_for_import(cluster: &Cluster, namespace: &str, wanted: &str) {
    let key = [
        &[3],
        &b"web"[..],
        &[namespace.len() as u8],
        namespace.as_bytes(),
    ]
    .concat();
    let shown = || {
        let Some(view) = cluster.table.imports().unwrap().service(&key) else {
            return String::new();
        };
        let backends = view.backends().map(|backend| {
            let cluster = backend.slice.cluster().unwrap_or_default();
            format!("{} {}", String::from_utf8_lossy(cluster), backend.address)
        });
        format!(
            "{:?} {}",
            view.kind,
            backends.collect::<Vec<_>>().join(", ")
        )
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while shown() != wanted {
        assert!(std::time::Instant::now() < deadline, "{}", shown());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Fault A24: a cluster that does not define ServiceImports, and later does.
#[test]
fn imports_are_watched_once_they_are_defined() {
    with_plane(|plane| {
        let space = "imports";
        let (cluster, watched) = imports_of(plane);
        // All is known: there are none.
        while !cluster.synced() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let failures = |labels: &[(&str, &str)]| {
            watched.count("fingerpost_kubernetes_watch_failures_total", labels)
        };
        let absent = [("resource", "serviceimports"), ("reason", "absent")];
        let before = failures(&absent);
        assert!(before > 0);
        while failures(&absent) < before + 2 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(
            failures(&absent),
            failures(&[("resource", "serviceimports")])
        );
        let mut exported = slice(space, "web-c1", true);
        exported["metadata"]["labels"] = json!({
            "multicluster.kubernetes.io/service-name": "web",
            "multicluster.kubernetes.io/source-cluster": "c1",
        });
        plane.load(&json!({"items": [namespace(space), exported]}));
        wait_for_import(&cluster, space, "Absent c1 10.1.0.1");

        plane.create(&definition());
        let path = "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports";
        while plane.try_request(&http::Method::GET, path, None).is_err() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        plane.create(&import(space, "ClusterSetIP", &json!(["10.97.0.1"])));
        wait_for_import(&cluster, space, "ClusterIp([10.97.0.1]) c1 10.1.0.1");
        plane.load(&json!({"items": [import(space, "Headless", &json!([]))]}));
        wait_for_import(&cluster, space, "Headless c1 10.1.0.1");
        plane.delete(&import(space, "Headless", &json!([])));
        wait_for_import(&cluster, space, "Absent c1 10.1.0.1");
        // Objects that go with their definition go here too.
        plane.create(&import(space, "Headless", &json!([])));
        wait_for_import(&cluster, space, "Headless c1 10.1.0.1");
        plane.delete(&definition());
        wait_for_import(&cluster, space, "Absent c1 10.1.0.1");
        // Slices are still watched as before.
        plane.delete(&exported);
        wait_for_import(&cluster, space, "");
    });
}

#[test]
fn selectors_are_those_of_the_plan() {
    with_plane(|plane| {
        let space = "selected";
        let mut blue = service(space, "blue", "10.96.7.3");
        blue["metadata"]["labels"] = json!({"color": "blue"});
        plane.load(
            &json!({"items": [namespace(space), blue, service(space, "plain", "10.96.7.4")]}),
        );
        let watched = watch_labeled(
            &kubeconfig(plane),
            &Surroundings::default(),
            &[Resource::Services, Resource::Namespaces],
            Some("color in (blue, green)"),
        );
        watched.wait_until_synced(&[Resource::Services, Resource::Namespaces]);
        watched.sink.look(|heard| {
            assert_eq!(heard.names(Resource::Services), ["selected/blue"]);
            // Namespaces have a selector of their own.
            assert!(
                heard
                    .names(Resource::Namespaces)
                    .contains(&"/selected".to_owned())
            );
        });
    });
}

#[test]
fn a_service_account_with_the_role_of_deploy_may_watch_all_but_pods() {
    with_plane(|plane| {
        plane.apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/rbac.yaml"));
        let account = plane.folder().join("account");
        plane.write_account(&account, &plane.token("kube-system", "fingerpost"));
        let around = Surroundings {
            service_host: Some("127.0.0.1".into()),
            service_port: Some(plane.port().to_string()),
            account,
            ..Surroundings::default()
        };
        let all = [&ALL[..], &[Resource::ServiceImports]].concat();
        let watched = watch(&ApiSource::Default, &around, &all);
        watched.wait_until_synced(&ALL[..3]);
        // Both need an option, and with it a right of its own. Nobody learns without one whether imports are defined.
        for resource in ["pods", "serviceimports"] {
            let refused = [("resource", resource), ("reason", "forbidden")];
            while watched.count("fingerpost_kubernetes_watch_failures_total", &refused) == 0 {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        assert_eq!(watched.sink.look(|heard| heard.lists_of(Resource::Pods)), 0);
        let statuses = watched.handle.status();
        assert!(!statuses[3].synced && !statuses[4].synced);
    });
}

#[test]
fn an_unknown_token_is_refused_and_nothing_counts_as_synced() {
    with_plane(|plane| {
        let account = plane.folder().join("stranger");
        plane.write_account(&account, "not-a-token");
        let around = Surroundings {
            service_host: Some("127.0.0.1".into()),
            service_port: Some(plane.port().to_string()),
            account: account.clone(),
            ..Surroundings::default()
        };
        let watched = watch(&ApiSource::Default, &around, &[Resource::Namespaces]);
        let refused = [("resource", "namespaces"), ("reason", "unauthorized")];
        while watched.count("fingerpost_kubernetes_watch_failures_total", &refused) == 0 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert!(!watched.handle.status()[0].synced);
        // The token is renewed: the next try reads it.
        plane.write_account(&account, "test-admin");
        watched.wait_until_synced(&[Resource::Namespaces]);
    });
}

#[test]
fn a_server_of_another_authority_is_not_trusted() {
    with_plane(|plane| {
        let account = plane.folder().join("deceived");
        plane.write_account(&account, "test-admin");
        let other = account.join("ca.crt");
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args([
                "-days",
                "1",
                "-subj",
                "/CN=other",
                "-keyout",
                "/dev/null",
                "-out",
            ])
            .arg(&other)
            .output();
        assert!(made.unwrap().status.success());
        let around = Surroundings {
            service_host: Some("127.0.0.1".into()),
            service_port: Some(plane.port().to_string()),
            account,
            ..Surroundings::default()
        };
        let watched = watch(&ApiSource::Default, &around, &[Resource::Namespaces]);
        let unreachable = [("reason", "unreachable")];
        while watched.count("fingerpost_kubernetes_watch_failures_total", &unreachable) < 2 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(
            watched
                .sink
                .look(|heard| heard.lists_of(Resource::Namespaces)),
            0
        );
    });
}

#[test]
fn after_a_restart_of_the_api_server_all_is_right_again() {
    with_plane_alone(|plane| {
        let space = "restart";
        plane.load(&json!({"items": [namespace(space), service(space, "stays", "10.96.8.1"), service(space, "goes", "10.96.8.2")]}));
        let watched = Watched::of(plane);
        watched.wait_until_synced(&ALL);
        plane.kill_api_server();
        let failures = || watched.count("fingerpost_kubernetes_watch_failures_total", &[]);
        while failures() < 8 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        // What was known is known still.
        watched.sink.look(|heard| {
            assert!(heard.get(Resource::Services, space, "stays").is_some());
        });
        assert!(
            watched
                .handle
                .status()
                .iter()
                .all(|status| status.synced && !status.connected)
        );
        plane.start_api_server();
        plane.delete(&service(space, "goes", "10.96.8.2"));
        plane.create(&service(space, "comes", "10.96.8.3"));
        watched.sink.wait("what changed", |heard| {
            heard.get(Resource::Services, space, "comes").is_some()
                && heard.get(Resource::Services, space, "goes").is_none()
        });
        watched.sink.look(|heard| {
            assert!(heard.get(Resource::Services, space, "stays").is_some());
        });
    });
}

#[test]
fn an_api_server_that_is_away_at_the_start_is_found_when_it_comes() {
    with_plane_alone(|plane| {
        plane.kill_api_server();
        let watched = Watched::of(plane);
        let failures = || watched.count("fingerpost_kubernetes_watch_failures_total", &[]);
        while failures() < 4 {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert!(watched.handle.status().iter().all(|status| !status.synced));
        plane.start_api_server();
        watched.wait_until_synced(&ALL);
    });
}

#[test]
fn nobody_listening_is_a_failure_and_no_crash() {
    let source = ApiSource::Endpoint {
        url: format!("http://127.0.0.1:{}", free_port()),
        tls: None,
    };
    let watched = watch(&source, &Surroundings::default(), &ALL);
    while watched.count(
        "coredns_kubernetes_rest_client_requests_total",
        &[("code", "<error>")],
    ) < 8
    {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(watched.handle.status().iter().all(|status| !status.synced));
}

/// The load balancer of `web` in `outside` has these addresses and names.
fn balanced(ingress: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "outside", "name": "web"},
        "spec": {"type": "LoadBalancer", "externalIPs": ["198.51.100.1"], "ports": [{"name": "http", "port": 80}]},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

#[test]
fn the_status_of_a_load_balancer_is_answered_as_soon_as_the_watch_tells() {
    with_plane(|plane| {
        plane.load(&json!({"items": [namespace("outside"), balanced(&json!([]))]}));
        let kubeconfig = plane.kubeconfig();
        let server = in_process::Server::new(&format!(
            ". {{\ncache\nkubernetes cluster.local {{\nkubeconfig {} test\nstartup_timeout 60s\n}}\nk8s_external ext.test\n}}\n",
            kubeconfig.display()
        ));
        let addresses = |qtype| {
            let shown = in_process::shown(&server.ask("web.outside.ext.test.", qtype));
            let [answer, ..] = shown.sections;
            let last = |record: String| record.rsplit(' ').next().unwrap().to_owned();
            answer.into_iter().map(last).collect::<Vec<_>>()
        };
        assert_eq!(addresses(RecordType::A), ["198.51.100.1"]);
        for (ingress, qtype, expected) in [
            (
                json!([{"ip": "203.0.113.1"}]),
                RecordType::A,
                ["198.51.100.1", "203.0.113.1"],
            ),
            (
                json!([{"ip": "203.0.113.2"}]),
                RecordType::A,
                ["198.51.100.1", "203.0.113.2"],
            ),
        ] {
            plane.load(&json!({"items": [balanced(&ingress)]}));
            let until = std::time::Instant::now() + Duration::from_secs(60);
            while addresses(qtype) != expected {
                assert!(std::time::Instant::now() < until, "{:?}", addresses(qtype));
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    });
}

/// A Pod at the address that the next test hands round. It stays until it is let go.
fn tenant(space: &str, name: &str) -> Value {
    let mut pod = pod(space, name);
    pod["metadata"]["finalizers"] = json!(["example.test/stays"]);
    pod["status"]["podIP"] = json!("10.200.0.7");
    pod["status"]["podIPs"] = json!([{"ip": "10.200.0.7"}]);
    pod
}

/// Which of the two namespaces the client at that address is taken to be in, and so is answered for the search path of.
fn searched(server: &in_process::Server) -> Vec<&'static str> {
    let mut spaces = vec!["tenant-a", "tenant-b"];
    spaces.retain(|space| {
        let name = format!("www.example.test.{space}.svc.cluster.local.");
        let reply = server.ask_from([10, 200, 0, 7], &name, RecordType::A);
        let shown = in_process::shown(&reply);
        assert_eq!(
            shown.rcode == "NOERROR",
            shown.sections[0].len() == 2,
            "{shown:?}"
        );
        shown.rcode == "NOERROR"
    });
    spaces
}

#[test]
fn autopath_follows_an_address_from_one_namespace_to_the_next() {
    with_plane(|plane| {
        let (a, b) = ("tenant-a", "tenant-b");
        plane.load(&json!({"items": [namespace(a), namespace(b), tenant(a, "first")]}));
        let kubeconfig = plane.kubeconfig();
        let server = in_process::Server::new(&format!(
            ". {{
                autopath @kubernetes
                cache
                hosts /dev/null {{
                    192.0.2.80 www.example.test
                    fallthrough cluster.local
                }}
                kubernetes cluster.local {{
                    kubeconfig {} test
                    pods verified
                    startup_timeout 60s
                }}
            }}\n",
            kubeconfig.display()
        ));
        let turns_to = |before: &[&str], after: &[&str]| {
            let until = std::time::Instant::now() + Duration::from_secs(60);
            loop {
                let mut now = searched(&server);
                if now != before && now != after {
                    // It changed between the two questions.
                    now = searched(&server);
                }
                if now == after {
                    return;
                }
                assert!(
                    now == before && std::time::Instant::now() < until,
                    "{now:?}"
                );
                std::thread::park_timeout(Duration::from_millis(2));
            }
        };
        let lets_go = |space: &str, name: &str| {
            let path = format!("/api/v1/namespaces/{space}/pods/{name}");
            let free = json!({"metadata": {"finalizers": null}});
            plane.request(http::Method::PATCH, &path, Some(&free));
        };
        turns_to(&[a], &[a]);
        // On its way out it has the address until another Pod runs there.
        plane.delete(&tenant(a, "first"));
        turns_to(&[a], &[a]);
        plane.load(&json!({"items": [tenant(b, "second")]}));
        turns_to(&[a], &[b]);
        lets_go(a, "first");
        turns_to(&[b], &[b]);
        // Of two that run nobody can tell who asks.
        plane.load(&json!({"items": [tenant(a, "third")]}));
        turns_to(&[b], &[]);
        plane.delete(&tenant(b, "second"));
        turns_to(&[], &[a]);
        lets_go(b, "second");
        turns_to(&[a], &[a]);
        plane.delete(&tenant(a, "third"));
        lets_go(a, "third");
        turns_to(&[a], &[]);
    });
}
