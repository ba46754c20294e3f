//! What the watch lost is found and repaired, and nothing else is touched.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fake_api.rs"]
mod fake_api;
#[path = "support/model_api.rs"]
mod model_api;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake_api::FakeApi;
use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::objects::Resource::{
    self, EndpointSlices, Namespaces, Pods, ServiceImports, Services,
};
use fingerpost::cluster::objects::{Meta, Object};
use fingerpost::cluster::source::{ApiSource, Limits};
use fingerpost::cluster::watch::pace::Pace;
use fingerpost::cluster::watch::{WatchHandle, WatchPlan, start_on};
use fingerpost::cluster::{Cluster, Inventory, Keep, ObjectSink};
use fingerpost::server::process::Process;
use model_api::{Model, Wire};
use serde_json::{Value, json};

/// Far longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const ALL: [Resource; 4] = [Namespaces, Services, EndpointSlices, Pods];

/// A cluster whose writers are noted.
struct Observed {
    cluster: Cluster,
    writes: Mutex<Vec<String>>,
}

impl Observed {
    fn note(&self, what: impl Into<String>) {
        self.writes.lock().unwrap().push(what.into());
    }
}

impl ObjectSink for Observed {
    fn list_started(&self, resource: Resource) {
        self.note("list");
        self.cluster.list_started(resource);
    }

    fn listed(&self, object: Object) {
        self.cluster.listed(object);
    }

    fn list_finished(&self, resource: Resource) {
        self.cluster.list_finished(resource);
    }

    fn applied(&self, object: Object) {
        self.note(format!("apply {}", object.meta().name));
        self.cluster.applied(object);
    }

    fn deleted(&self, resource: Resource, namespace: &str, name: &str) {
        self.note(format!("delete {name}"));
        self.cluster.deleted(resource, namespace, name);
    }
}

impl Inventory for Observed {
    fn comparison_started(&self, resource: Resource) {
        self.cluster.comparison_started(resource);
    }

    fn confirmed(&self, resource: Resource, meta: &Meta) -> bool {
        self.cluster.confirmed(resource, meta)
    }

    fn received(&self, at: Option<Instant>) {
        self.cluster.received(at);
    }

    fn unconfirmed(&self, resource: Resource, max: usize) -> Vec<Meta> {
        self.cluster.unconfirmed(resource, max)
    }

    fn version_of(&self, resource: Resource, namespace: &str, name: &str) -> Option<Box<str>> {
        self.cluster.version_of(resource, namespace, name)
    }
}

/// A model that is watched and compared with all the time.
struct Bed {
    model: Model,
    sink: Arc<Observed>,
    process: Arc<Process>,
    _handle: Arc<WatchHandle>,
    _api: FakeApi,
    _runtime: tokio::runtime::Runtime,
}

impl Bed {
    /// With one object of each resource, listed.
    fn new(resources: &[Resource]) -> Self {
        let model = Model::default();
        let imports = resources.contains(&ServiceImports);
        for &resource in if imports { resources } else { &ALL } {
            model.set(
                resource,
                object(resource, "old", "10.0.0.1"),
                Wire::Delivers,
            );
        }
        let keep = Keep {
            imports,
            ..Keep::default()
        };
        let api = model.serve();
        let source = ApiSource::Endpoint {
            url: api.url(),
            tls: None,
        };
        let connection = Connection::of(&source, &Surroundings::default()).unwrap();
        let plan = WatchPlan {
            resources: resources.to_vec(),
            limits: Limits {
                interval: Some(Duration::ZERO),
                ..Limits::default()
            },
            reconcile: Some(Duration::from_millis(20)),
            ..WatchPlan::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let sink = Arc::new(Observed {
            cluster: Cluster::new(resources, keep),
            writes: Mutex::default(),
        });
        let handle = start_on(connection, plan, sink.clone(), &process, Pace::default()).unwrap();
        let bed = Self {
            model,
            sink,
            process,
            _handle: handle,
            _api: api,
            _runtime: runtime,
        };
        bed.wait("the lists", |bed| bed.sink.cluster.synced());
        bed
    }

    #[track_caller]
    fn wait(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn known(&self, resource: Resource, name: &str) -> Option<String> {
        let space = space(resource);
        let version = self.sink.version_of(resource, space, name);
        version.map(String::from)
    }

    fn count(&self, family: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.process.metrics.registry().gather();
        families
            .iter()
            .filter(|found| found.name() == family)
            .flat_map(|found| found.get_metric())
            .filter(|metric| {
                labels.iter().all(|wanted| {
                    let mut pairs = metric.get_label().iter();
                    pairs.any(|label| (label.name(), label.value()) == *wanted)
                })
            })
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }

    fn repaired(&self, resource: Resource) -> u64 {
        let label = [("resource", resource.name())];
        self.count("fingerpost_kubernetes_drift_repaired_total", &label)
    }

    fn ended(&self, result: &str) -> u64 {
        self.count(
            "fingerpost_kubernetes_reconciles_total",
            &[("result", result)],
        )
    }

    /// Waits until more comparisons, begun after this call, have ended in this way.
    #[track_caller]
    fn wait_for_end(&self, result: &str) {
        let before = self.ended(result);
        self.wait(result, |bed| bed.ended(result) > before + 2);
    }

    fn writes(&self) -> Vec<String> {
        self.sink.writes.lock().unwrap().clone()
    }
}

fn space(resource: Resource) -> &'static str {
    if resource == Namespaces { "" } else { "shop" }
}

fn object(resource: Resource, name: &str, address: &str) -> Value {
    let mut object = match resource {
        Namespaces => json!({}),
        Services => json!({"spec": {"clusterIP": address}}),
        EndpointSlices => json!({"endpoints": [{"addresses": [address]}]}),
        Pods => json!({"status": {"podIP": address, "phase": "Running"}}),
        ServiceImports => json!({"spec": {"type": "ClusterSetIP", "ips": [address], "ports": []}}),
    };
    object["metadata"] = json!({"name": name, "labels": {"kubernetes.io/service-name": "web"}});
    if resource != Namespaces {
        object["metadata"]["namespace"] = json!("shop");
    }
    object
}

#[test]
fn an_addition_that_was_lost_is_repaired_and_counted() {
    let bed = Bed::new(&ALL);
    for resource in ALL {
        let version = bed
            .model
            .set(resource, object(resource, "new", "10.0.0.2"), Wire::Loses);
        bed.wait("the repair", |bed| bed.repaired(resource) == 1);
        assert_eq!(bed.known(resource, "new"), Some(version.to_string()));
    }
    bed.wait_for_end("same");
    assert_eq!(ALL.map(|resource| bed.repaired(resource)), [1; 4]);
    assert_eq!(bed.model.lists(), 4);
}

#[test]
fn a_change_that_was_lost_is_repaired_and_counted() {
    let bed = Bed::new(&ALL);
    for resource in ALL {
        let version = bed
            .model
            .set(resource, object(resource, "old", "10.0.0.3"), Wire::Loses);
        bed.wait("the repair", |bed| bed.repaired(resource) == 1);
        assert_eq!(bed.known(resource, "old"), Some(version.to_string()));
    }
    let view = bed.sink.cluster.table.service(b"\x03old\x04shop").unwrap();
    assert!(view.has_cluster_ip("10.0.0.3".parse().unwrap()));
    bed.wait_for_end("same");
    assert_eq!(ALL.map(|resource| bed.repaired(resource)), [1; 4]);
}

#[test]
fn a_deletion_that_was_lost_is_repaired_and_counted() {
    let bed = Bed::new(&ALL);
    for resource in ALL {
        bed.model
            .delete(resource, space(resource), "old", Wire::Loses);
        bed.wait("the repair", |bed| bed.repaired(resource) == 1);
        assert_eq!(bed.known(resource, "old"), None);
    }
    bed.wait_for_end("same");
    assert_eq!(ALL.map(|resource| bed.repaired(resource)), [1; 4]);
}

#[test]
fn what_was_lost_of_other_clusters_is_repaired_and_counted() {
    let bed = Bed::new(&[EndpointSlices, ServiceImports]);
    for resource in [EndpointSlices, ServiceImports] {
        let set = |name: &str, address: &str| {
            let mut object = object(resource, name, address);
            // A slice of this cluster's own Service becomes one of an import.
            object["metadata"]["labels"] = json!({"multicluster.kubernetes.io/service-name": name});
            bed.model.set(resource, object, Wire::Loses)
        };
        let added = set("new", "10.0.0.2");
        bed.wait("the addition", |bed| bed.repaired(resource) == 1);
        assert_eq!(bed.known(resource, "new"), Some(added.to_string()));
        let changed = set("old", "10.0.0.3");
        bed.wait("the change", |bed| bed.repaired(resource) == 2);
        assert_eq!(bed.known(resource, "old"), Some(changed.to_string()));
        bed.model.delete(resource, "shop", "new", Wire::Loses);
        bed.wait("the deletion", |bed| bed.repaired(resource) == 3);
        assert_eq!(bed.known(resource, "new"), None);
    }
    let table = &bed.sink.cluster.table;
    let imports = table.imports().expect("they are kept");
    let old = imports.service(b"\x03old\x04shop").expect("it is there");
    let address = "10.0.0.3".parse().unwrap();
    assert!(old.has_cluster_ip(address) && old.backends_at(address).count() == 1);
    assert!(imports.service(b"\x03new\x04shop").is_none());
    bed.wait_for_end("same");
    let repaired = [EndpointSlices, ServiceImports].map(|resource| bed.repaired(resource));
    assert_eq!(repaired, [3; 2]);
}

#[test]
fn where_nothing_differs_nothing_is_written_or_counted() {
    let bed = Bed::new(&ALL);
    let (writes, serial) = (bed.writes(), bed.sink.cluster.serial());
    let view = |bed: &Bed| {
        let view = bed.sink.cluster.table.service(b"\x03old\x04shop").unwrap();
        Arc::as_ptr(&view)
    };
    let before = view(&bed);
    bed.wait_for_end("same");
    assert_eq!((bed.writes(), bed.sink.cluster.serial()), (writes, serial));
    assert_eq!(view(&bed), before);
    assert_eq!(ALL.map(|resource| bed.repaired(resource)), [0; 4]);
}

#[test]
fn changes_that_are_still_on_their_way_are_not_counted() {
    let bed = Bed::new(&[Services]);
    bed.model.hold();
    bed.model.set(
        Services,
        object(Services, "old", "10.0.0.3"),
        Wire::Delivers,
    );
    bed.model.set(
        Services,
        object(Services, "new", "10.0.0.4"),
        Wire::Delivers,
    );
    let compared = bed.model.compared();
    bed.wait("a comparison", |bed| bed.model.compared() > compared);
    // What comes between the list and the arrival of the events changes nothing either.
    bed.model.delete(Services, "shop", "old", Wire::Delivers);
    bed.model.release();
    bed.wait_for_end("same");
    assert_eq!(bed.known(Services, "old"), None);
    assert!(bed.known(Services, "new").is_some());
    assert_eq!(bed.repaired(Services), 0);
    assert_eq!(
        bed.writes(),
        ["list", "apply old", "apply new", "delete old"]
    );
}

#[test]
fn a_server_that_lags_undoes_nothing() {
    let bed = Bed::new(&[Services]);
    bed.model.freeze_lists();
    let changed = bed.model.set(
        Services,
        object(Services, "old", "10.0.0.3"),
        Wire::Delivers,
    );
    let added = bed.model.set(
        Services,
        object(Services, "new", "10.0.0.4"),
        Wire::Delivers,
    );
    bed.wait("the events", |bed| bed.known(Services, "new").is_some());
    bed.wait_for_end("behind");
    assert_eq!(bed.known(Services, "old"), Some(changed.to_string()));
    assert_eq!(bed.known(Services, "new"), Some(added.to_string()));
    assert_eq!(bed.repaired(Services), 0);
    assert!(!bed.writes().iter().any(|write| write.starts_with("delete")));
}

#[test]
fn a_history_that_was_exchanged_behind_our_back_is_taken_over() {
    let bed = Bed::new(&[Services]);
    let version = bed.model.set(
        Services,
        object(Services, "old", "10.0.0.3"),
        Wire::Delivers,
    );
    bed.wait("the event", |bed| {
        bed.known(Services, "old") == Some(version.to_string())
    });
    bed.model
        .restore(Services, object(Services, "old", "10.0.0.9"), version - 5);
    bed.wait("the repair", |bed| bed.repaired(Services) == 1);
    assert_eq!(bed.known(Services, "old"), Some((version - 5).to_string()));
}

#[test]
fn more_than_a_few_losses_are_one_list_and_counted_each() {
    let bed = Bed::new(&[Services]);
    let names = (0..100).map(|number| format!("new-{number}"));
    let objects = names.map(|name| object(Services, &name, "10.0.0.4"));
    bed.model.set_all(Services, objects.collect(), Wire::Loses);
    bed.wait("the repair", |bed| bed.known(Services, "new-99").is_some());
    bed.wait_for_end("same");
    assert!((0..100).all(|number| bed.known(Services, &format!("new-{number}")).is_some()));
    assert_eq!(bed.repaired(Services), 100);
    assert!(bed.model.lists() > 1);
}

#[test]
fn objects_that_dns_has_no_use_for_are_looked_at_once() {
    let bed = Bed::new(&[EndpointSlices]);
    // Of no Service.
    let mut stray = object(EndpointSlices, "stray", "10.0.0.5");
    stray["metadata"]["labels"] = json!({});
    bed.model.set(EndpointSlices, stray, Wire::Loses);
    bed.wait_for_end("same");
    bed.wait_for_end("same");
    let writes = bed.writes();
    let applied = writes.iter().filter(|write| *write == "apply stray");
    assert_eq!((applied.count(), bed.repaired(EndpointSlices)), (1, 0));
    // Until it changes.
    let changed = object(EndpointSlices, "stray", "10.0.0.5");
    bed.model.set(EndpointSlices, changed, Wire::Loses);
    bed.wait("the repair", |bed| bed.repaired(EndpointSlices) == 1);
}

#[test]
fn a_server_that_does_not_let_itself_be_compared_with_is_listed_again() {
    let bed = Bed::new(&[Services]);
    bed.model.refuse_lists(403);
    bed.model
        .set(Services, object(Services, "new", "10.0.0.4"), Wire::Loses);
    bed.wait("the list", |bed| bed.known(Services, "new").is_some());
    assert!(bed.ended("relisted") > 0);
}
