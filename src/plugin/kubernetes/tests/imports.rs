//! Zones of `multicluster`, before and after their first list.

use super::*;
use crate::cluster::Keep;
use crate::cluster::objects::ServiceImport;

const ALL: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::ServiceImports,
];

fn imports(cluster: &Arc<Cluster>) -> Kubernetes {
    Kubernetes {
        zones: Origin::all(["clusterset.local", "cluster.local"].map(name), None),
        multicluster: [name("clusterset.local")].into(),
        ..plugin(cluster)
    }
}

/// A cluster that keeps imports, with the first lists of these resources.
fn listed(resources: &[Resource]) -> Arc<Cluster> {
    let keep = Keep {
        imports: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&ALL, keep);
    for &resource in resources {
        cluster.list_started(resource);
        if resource == Resource::Namespaces {
            cluster.listed(Object::Namespace(meta("", "shop")));
        }
        cluster.list_finished(resource);
    }
    Arc::new(cluster)
}

#[test]
fn names_of_the_cluster_do_not_wait_for_imports() {
    let cluster = listed(&ALL[..3]);
    let rcode = |qname: &str| ask(imports(&cluster), qname, RecordType::A).rcode();
    assert_eq!(rcode("nope.shop.svc.cluster.local"), Rcode::NXDOMAIN);
    assert_eq!(rcode("nope.shop.svc.clusterset.local"), Rcode::SERVFAIL);
    assert!(!cluster.synced());
    // There are none: that is a list too.
    cluster.list_started(Resource::ServiceImports);
    cluster.list_finished(Resource::ServiceImports);
    assert_eq!(rcode("nope.shop.svc.clusterset.local"), Rcode::NXDOMAIN);
    assert!(cluster.synced());
}

#[test]
fn imports_wait_for_the_endpoints_behind_them() {
    let cluster = listed(&[Resource::Namespaces, Resource::ServiceImports]);
    let reply = ask(
        imports(&cluster),
        "nope.shop.svc.clusterset.local",
        RecordType::A,
    );
    assert_eq!(reply.rcode(), Rcode::SERVFAIL);
}

/// 191 of the list of rules, and what follows it.
#[test]
fn the_serial_of_a_multicluster_zone_moves_with_imports_only() {
    let cluster = listed(&ALL);
    let serial = |zone: &str| {
        let soa = records(&ask(imports(&cluster), zone, RecordType::SOA)).remove(0);
        let serial = soa.split(' ').nth_back(4).expect("an SOA has five numbers");
        serial.parse::<u32>().expect("a number")
    };
    // A serial that was taken differs from the next one even within the same second.
    let before = cluster.take_import_serial();
    cluster.applied(service("web", ServiceKind::Headless));
    assert_eq!(serial("clusterset.local"), before);
    assert_ne!(serial("cluster.local"), 0);
    cluster.applied(Object::ServiceImport(ServiceImport {
        meta: meta("shop", "web"),
        kind: ServiceKind::Headless,
        ports: Vec::new(),
    }));
    assert_ne!(serial("clusterset.local"), before);
}

#[test]
fn a_snapshot_speaks_for_other_clusters_too() {
    let cluster = listed(&[]);
    let objects = vec![
        Object::Namespace(meta("", "shop")),
        service("web", ServiceKind::ClusterIp(vec![ip("10.0.0.1")])),
    ];
    cluster.restore(objects.into_iter(), std::time::SystemTime::now());
    let rcode = |qname: &str| ask(imports(&cluster), qname, RecordType::A).rcode();
    assert_eq!(rcode("web.shop.svc.cluster.local"), Rcode::NOERROR);
    assert_eq!(rcode("nope.shop.svc.cluster.local"), Rcode::NXDOMAIN);
    assert_eq!(rcode("web.shop.svc.clusterset.local"), Rcode::NXDOMAIN);
}
