//! What a cluster takes over from the one before, and what the lists make of it.

use super::*;
use crate::cluster::succession::{Line, Part};

const PARTS: [Part; 4] = [Part::Pods, Part::Endpoints, Part::External, Part::Imports];

const WITHOUT_PODS: &[Resource] = ALL.split_at(3).0;

/// One that has listed these objects.
fn listed(wanted: &[Resource], keep: Keep, objects: &[Object]) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(wanted, keep));
    list(&cluster, objects);
    cluster
}

fn list(cluster: &Cluster, objects: &[Object]) {
    for &resource in cluster.wanted() {
        cluster.list_started(resource);
        let of_resource = |object: &&Object| object.resource() == resource;
        for object in objects.iter().filter(of_resource) {
            cluster.listed(object.clone());
        }
        cluster.list_finished(resource);
    }
}

/// The next one after these.
fn next(before: &[&Arc<Cluster>], wanted: &[Resource], keep: Keep) -> Arc<Cluster> {
    let line = Line::default();
    for cluster in before {
        line.add(cluster);
        // It has its own already.
        cluster.take_over();
    }
    let cluster = Arc::new(Cluster::new(wanted, keep));
    line.add(&cluster);
    cluster
}

fn web() -> [Object; 3] {
    [
        Object::Namespace(Meta {
            namespace: "".into(),
            ..meta("shop", "1")
        }),
        cluster_ip("web", "2", "10.0.0.1"),
        slice("web-1", "web", "3", &["10.1.0.1"]),
    ]
}

/// Parts of which nothing can be denied.
fn lacking(cluster: &Cluster) -> Vec<Part> {
    let lacks = |part: &Part| !cluster.names_servable(Some(*part));
    PARTS.into_iter().filter(lacks).collect()
}

#[test]
fn what_the_one_before_has_known_is_served_until_the_lists_are_in() {
    let old = listed(&ALL, Keep::default(), &web());
    old.applied(Object::Pod(pod("a", "4", "10.1.0.9")));
    let new = next(&[&old], &ALL, Keep::default());
    assert!(new.has_predecessor() && !new.usable());
    // What a list has told already stays.
    new.list_started(Resource::Services);
    new.listed(cluster_ip("web", "5", "10.0.0.5"));
    assert!(new.take_over());
    assert!(new.servable() && new.usable() && !new.synced() && !new.is_restored());
    assert_eq!(lacking(&new), []);
    assert_eq!(owners(&new, "10.0.0.5"), ["web.shop"]);
    assert_eq!(addresses(&new, b"\x03web\x04shop"), ["10.1.0.1"]);
    assert_eq!(new.table.pods(ip("10.1.0.9"), b"\x04shop"), 1);
    assert_ne!(new.serial(), 0);
    // What the lists do not name is gone.
    list(&new, &web()[..1]);
    assert!(new.synced() && new.table.service(b"\x03web\x04shop").is_none());
    assert_eq!(new.table.pods(ip("10.1.0.9"), b"\x04shop"), 0);
}

#[test]
fn nothing_is_taken_over_once_the_lists_are_in_and_nothing_twice() {
    let old = listed(&ALL, Keep::default(), &web());
    let new = next(&[&old], &ALL, Keep::default());
    list(&new, &[]);
    assert!(!new.take_over() && !new.has_taken_over(None));
    assert!(new.table.service(b"\x03web\x04shop").is_none());
    let other = next(&[&old], &ALL, Keep::default());
    assert!(other.take_over() && !other.take_over());
}

#[test]
fn a_list_brings_what_was_not_kept_of_an_object_of_the_same_version() {
    let [shop, _, slice] = web();
    let external = Object::Service(Service {
        meta: meta("web", "2"),
        kind: ServiceKind::ClusterIp(vec![ip("10.0.0.1")]),
        ports: Vec::new(),
        external: vec![External::Address(ip("192.0.2.1"))],
    });
    let objects = [shop, external, slice];
    let old = listed(&ALL, Keep::default(), &objects);
    let keep = Keep {
        external: true,
        ..Keep::default()
    };
    let new = next(&[&old], &ALL, keep);
    new.take_over();
    assert_eq!(lacking(&new), [Part::External]);
    let count = || {
        let view = new.table.service(b"\x03web\x04shop").expect("a view");
        view.external().len()
    };
    assert_eq!(count(), 0);
    list(&new, &objects);
    assert_eq!((count(), lacking(&new)), (1, vec![]));
}

#[test]
fn what_the_one_before_did_not_keep_is_lacking_also_to_those_after_it() {
    let old = listed(WITHOUT_PODS, Keep::default(), &web());
    let new = next(&[&old], &ALL, Keep::default());
    new.take_over();
    assert_eq!(lacking(&new), [Part::Pods]);
    assert!(!new.servable() && new.usable() && new.names_servable(None));
    let third = next(&[&new], &ALL, Keep::default());
    third.take_over();
    assert_eq!(lacking(&third), [Part::Pods]);
    let back = next(&[&third], WITHOUT_PODS, Keep::default());
    back.take_over();
    assert!(back.servable(), "it lacks what nobody wants any more");
    // Who does not want them lacks nothing, and takes no object that no list would take away.
    let pods = listed(&ALL, Keep::default(), &web());
    pods.applied(Object::Pod(pod("a", "4", "10.1.0.9")));
    let without = next(&[&pods], WITHOUT_PODS, Keep::default());
    without.take_over();
    assert!(without.servable());
    assert_eq!(without.sizes().pods, 0);
}

#[test]
fn other_names_and_zones_of_endpoints_are_lacking() {
    let with = |pod_names, zones, imports, imported_slices_only| Keep {
        pod_names,
        zones,
        imports,
        imported_slices_only,
        ..Keep::default()
    };
    let none = with(false, false, false, false);
    for (old, new, expected) in [
        (none, with(true, false, false, false), Some(Part::Endpoints)),
        (with(true, false, false, false), none, Some(Part::Endpoints)),
        (none, with(false, true, false, false), Some(Part::Endpoints)),
        (with(false, true, false, false), none, None),
        (with(false, false, false, true), none, Some(Part::Endpoints)),
        (none, with(false, false, true, false), Some(Part::Imports)),
        (with(false, false, true, false), none, None),
    ] {
        let old = listed(WITHOUT_PODS, old, &web());
        let new = next(&[&old], WITHOUT_PODS, new);
        new.take_over();
        assert_eq!(lacking(&new), Vec::from_iter(expected));
    }
}

#[test]
fn of_several_the_one_that_lacks_least_is_asked_and_none_that_knows_nothing() {
    let with_pods = listed(&ALL, Keep::default(), &web());
    let without = listed(WITHOUT_PODS, Keep::default(), &[]);
    let empty = Arc::new(Cluster::new(&ALL, Keep::default()));
    let new = next(&[&empty, &with_pods, &without], &ALL, Keep::default());
    assert!(new.take_over());
    assert_eq!(lacking(&new), []);
    assert_eq!(owners(&new, "10.0.0.1"), ["web.shop"]);
    assert!(!next(&[&empty], &ALL, Keep::default()).has_predecessor());
    // What is gone is no help.
    let line = Line::default();
    line.add(&listed(&ALL, Keep::default(), &web()));
    let alone = Arc::new(Cluster::new(&ALL, Keep::default()));
    line.add(&alone);
    assert!(!alone.has_predecessor());
}

#[test]
fn what_comes_from_a_snapshot_is_marked_as_that_also_in_the_next() {
    let old = Arc::new(Cluster::new(&ALL, Keep::default()));
    old.restore(web().into_iter(), UNIX_EPOCH + Duration::from_secs(7));
    let new = next(&[&old], &ALL, Keep::default());
    assert!(new.take_over());
    assert_eq!(new.restored_from(), old.restored_from());
    list(&new, &web());
    assert!(!new.is_restored());
}
