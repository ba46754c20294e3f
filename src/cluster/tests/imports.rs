//! What other clusters export: ServiceImports and the slices behind them.

use super::*;
use crate::cluster::objects::{Import, ServiceImport};

const WANTED: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::ServiceImports,
];

fn with_imports() -> Cluster {
    let keep = Keep {
        imports: true,
        ..Keep::default()
    };
    Cluster::new(&WANTED, keep)
}

fn import(name: &str, version: &str, kind: ServiceKind) -> Object {
    Object::ServiceImport(ServiceImport {
        meta: meta(name, version),
        kind,
        ports: Vec::new(),
    })
}

fn set_ip(name: &str, version: &str, address: &str) -> Object {
    import(name, version, ServiceKind::ClusterIp(vec![ip(address)]))
}

/// A slice of the Service `own`, and of the import `web` from this cluster.
fn imported(
    name: &str,
    own: &str,
    cluster: Option<&str>,
    version: &str,
    addresses: &[&str],
) -> Object {
    let Object::EndpointSlice(mut slice) = slice(name, own, version, addresses) else {
        unreachable!("it is one");
    };
    slice.import = cluster.map(|cluster| Import {
        service: "web".into(),
        cluster: cluster.into(),
    });
    Object::EndpointSlice(slice)
}

/// Cluster and address of every endpoint of the import `web`.
fn endpoints(cluster: &Cluster) -> Vec<String> {
    let imports = cluster.table.imports().expect("imports are kept");
    let Some(view) = imports.service(b"\x03web\x04shop") else {
        return Vec::new();
    };
    let show = |backend: table::Backend<'_>| {
        let cluster = backend.slice.cluster().unwrap_or_default();
        format!("{} {}", String::from_utf8_lossy(cluster), backend.address)
    };
    view.backends().map(show).collect()
}

fn exists(cluster: &Cluster, labels: &[u8]) -> bool {
    let imports = cluster.table.imports().expect("imports are kept");
    let view = imports.service(labels);
    view.is_some_and(|view| view.kind != ViewKind::Absent)
}

#[test]
fn imports_stand_apart_from_services_of_the_same_name() {
    let cluster = with_imports();
    cluster.applied(cluster_ip("web", "1", "10.0.0.1"));
    cluster.applied(set_ip("web", "2", "10.97.0.1"));
    cluster.applied(imported("web-c1", "", Some("C1"), "3", &["10.30.0.1"]));
    assert_eq!(endpoints(&cluster), ["c1 10.30.0.1"]);
    assert!(addresses(&cluster, b"\x03web\x04shop").is_empty());
    // Their addresses lead to nothing.
    assert!(owners(&cluster, "10.97.0.1").is_empty() && owners(&cluster, "10.30.0.1").is_empty());
    cluster.deleted(Resource::Services, "shop", "web");
    assert!(exists(&cluster, b"\x03web\x04shop"));
    cluster.deleted(Resource::ServiceImports, "shop", "web");
    assert!(!exists(&cluster, b"\x03web\x04shop"));
    cluster.deleted(Resource::EndpointSlices, "shop", "web-c1");
    assert!(endpoints(&cluster).is_empty());
}

#[test]
fn a_slice_may_be_of_a_service_and_of_an_import_and_change_sides() {
    let cluster = with_imports();
    let sides = |cluster: &Cluster| {
        let own = cluster.table.service(b"\x03own\x04shop");
        (
            own.map_or(0, |view| view.backends().count()),
            endpoints(cluster).len(),
        )
    };
    for (own, from, version, expected) in [
        ("own", Some("c1"), "1", (1, 1)),
        ("", Some("c1"), "2", (0, 1)),
        ("own", None, "3", (1, 0)),
        ("", None, "4", (0, 0)),
        ("own", Some("c2"), "5", (1, 1)),
    ] {
        cluster.applied(imported("web-1", own, from, version, &["10.30.0.1"]));
        assert_eq!(sides(&cluster), expected, "{version}");
    }
    assert_eq!(endpoints(&cluster), ["c2 10.30.0.1"]);
    // On the side of the Service it comes from no cluster.
    let view = cluster.table.service(b"\x03own\x04shop").expect("a view");
    assert_eq!(view.slices[0].cluster(), None);
}

#[test]
fn a_list_takes_away_what_it_does_not_name() {
    let cluster = with_imports();
    let list = |objects: Vec<Object>, resource| {
        cluster.list_started(resource);
        objects
            .into_iter()
            .for_each(|object| cluster.listed(object));
        cluster.list_finished(resource);
    };
    let slice = |name: &str| imported(name, "", Some("c1"), name, &["10.30.0.1"]);
    list(vec![slice("a"), slice("b")], Resource::EndpointSlices);
    list(
        vec![set_ip("web", "1", "10.97.0.1")],
        Resource::ServiceImports,
    );
    assert_eq!(endpoints(&cluster).len(), 2);
    list(vec![slice("b")], Resource::EndpointSlices);
    assert_eq!(endpoints(&cluster).len(), 1);
    assert!(exists(&cluster, b"\x03web\x04shop"));
    list(Vec::new(), Resource::ServiceImports);
    assert!(!exists(&cluster, b"\x03web\x04shop"));
    assert_eq!(endpoints(&cluster).len(), 1);
}

#[test]
fn nothing_is_kept_of_imports_unless_they_are_asked_for() {
    let cluster = cluster();
    cluster.applied(set_ip("web", "1", "10.97.0.1"));
    cluster.applied(imported("web-c1", "", Some("c1"), "2", &["10.30.0.1"]));
    assert!(cluster.table.imports().is_none());
    assert_eq!((cluster.serial(), cluster.import_serial()), (0, 0));
    let only = Keep {
        imports: true,
        imported_slices_only: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&WANTED, only);
    cluster.applied(imported("web-c1", "own", Some("c1"), "2", &["10.30.0.1"]));
    assert_eq!(endpoints(&cluster).len(), 1);
    assert!(cluster.table.service(b"\x03own\x04shop").is_none());
}

/// Case 250 leaves it; a secondary would never learn of the new address then.
#[test]
fn the_serial_of_imports_moves_with_each_change() {
    let cluster = with_imports();
    let first = |resource, object: Option<Object>| {
        cluster.list_started(resource);
        object.into_iter().for_each(|object| cluster.listed(object));
        cluster.list_finished(resource);
    };
    first(Resource::Namespaces, None);
    first(Resource::Services, None);
    first(
        Resource::EndpointSlices,
        Some(imported("a", "", Some("c1"), "1", &["10.30.0.1"])),
    );
    assert!(cluster.names_servable(None) && !cluster.names_servable(Some(Part::Imports)));
    first(
        Resource::ServiceImports,
        Some(set_ip("web", "2", "10.97.0.1")),
    );
    assert!(cluster.names_servable(Some(Part::Imports)) && cluster.synced());
    // CoreDNS starts with 0 again each time, which to a secondary is older than what it has.
    assert_ne!(cluster.import_serial(), 0);
    let moved = |object: Object| {
        cluster.import_serial.reset();
        cluster.applied(object);
        cluster.import_serial() != 0
    };
    assert!(!moved(set_ip("web", "3", "10.97.0.1")));
    assert!(moved(set_ip("web", "4", "10.97.0.2")));
    assert!(moved(import("web", "5", ServiceKind::Headless)));
    assert!(moved(set_ip("new", "6", "10.97.0.3")));
    assert!(!moved(imported("a", "", Some("c1"), "7", &["10.30.0.1"])));
    assert!(moved(imported("a", "", Some("c2"), "8", &["10.30.0.1"])));
    assert!(moved(imported("a", "", Some("c2"), "9", &["10.30.0.2"])));
    assert!(!moved(cluster_ip("own", "10", "10.0.0.1")));
    assert!(!moved(slice("own-1", "own", "11", &["10.1.0.1"])));
    assert!(moved(Object::Namespace(meta("shop", "12"))));
    cluster.import_serial.reset();
    cluster.deleted(Resource::ServiceImports, "shop", "new");
    assert_ne!(cluster.import_serial(), 0);
}

#[test]
fn a_comparison_knows_imports_and_their_slices() {
    let cluster = with_imports();
    cluster.applied(set_ip("web", "1", "10.97.0.1"));
    cluster.applied(imported("a", "", Some("c1"), "2", &["10.30.0.1"]));
    cluster.applied(imported("b", "own", Some("c1"), "3", &["10.30.0.2"]));
    let version = |resource, name: &str| cluster.version_of(resource, "shop", name);
    assert_eq!(version(Resource::ServiceImports, "web"), Some("1".into()));
    assert_eq!(version(Resource::ServiceImports, "a"), None);
    assert_eq!(version(Resource::EndpointSlices, "a"), Some("2".into()));
    assert_eq!(version(Resource::EndpointSlices, "b"), Some("3".into()));
    for resource in [Resource::EndpointSlices, Resource::ServiceImports] {
        cluster.comparison_started(resource);
    }
    assert_eq!(
        cluster.unconfirmed(Resource::ServiceImports, 9),
        [meta("web", "1")]
    );
    assert_eq!(cluster.unconfirmed(Resource::EndpointSlices, 9).len(), 2);
    assert!(cluster.confirmed(Resource::ServiceImports, &meta("web", "1")));
    assert!(cluster.confirmed(Resource::EndpointSlices, &meta("a", "2")));
    assert!(!cluster.confirmed(Resource::EndpointSlices, &meta("b", "4")));
    assert!(cluster.unconfirmed(Resource::ServiceImports, 9).is_empty());
    assert!(cluster.unconfirmed(Resource::EndpointSlices, 9).is_empty());
}

#[test]
fn imports_of_a_snapshot_have_a_serial_though_the_lists_change_nothing() {
    let cluster = with_imports();
    let objects = [
        Object::Namespace(meta("shop", "1")),
        set_ip("web", "2", "10.0.0.1"),
    ];
    cluster.restore(objects.clone().into_iter(), SystemTime::now());
    for resource in WANTED {
        cluster.list_started(resource);
        let of_resource = objects
            .iter()
            .filter(|object| object.resource() == resource);
        of_resource.for_each(|object| cluster.listed(object.clone()));
        cluster.list_finished(resource);
    }
    assert_ne!(cluster.import_serial(), 0);
}
