//! What a source does, and what readers see of it.

mod imports;
mod origin;
mod succession;

use std::net::IpAddr;
use std::sync::Mutex as StdMutex;

use super::*;
use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Meta, Pod, Port, Service, ServiceKind,
};
use crate::cluster::table::{Alias, ExternalTarget, ViewKind};

const ALL: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
];

fn cluster() -> Cluster {
    Cluster::new(&ALL, Keep::default())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn meta(name: &str, version: &str) -> Meta {
    Meta {
        namespace: "shop".into(),
        name: name.into(),
        resource_version: version.into(),
    }
}

fn service(name: &str, version: &str, kind: ServiceKind) -> Object {
    let ports = vec![Port {
        name: "http".into(),
        protocol: "TCP".into(),
        number: Some(80),
    }];
    Object::Service(Service {
        meta: meta(name, version),
        kind,
        ports,
        external: Vec::new(),
    })
}

fn cluster_ip(name: &str, version: &str, address: &str) -> Object {
    service(name, version, ServiceKind::ClusterIp(vec![ip(address)]))
}

fn slice(name: &str, service: &str, version: &str, addresses: &[&str]) -> Object {
    let endpoints = addresses.iter().map(|address| Endpoint {
        addresses: vec![ip(address)],
        hostname: None,
        target_name: Some(format!("pod-{address}").replace('.', "-").into()),
        ready: true,
        zone: None,
    });
    Object::EndpointSlice(EndpointSlice {
        meta: meta(name, version),
        service: service.into(),
        import: None,
        ports: Vec::new(),
        endpoints: endpoints.collect(),
        trigger_time: Some("2024-01-02T03:04:05Z".into()),
    })
}

fn pod(name: &str, version: &str, address: &str) -> Pod {
    Pod {
        meta: meta(name, version),
        ip: Some(ip(address)),
        host_network: false,
        labels: Default::default(),
        terminating: false,
        finished: false,
    }
}

fn owners(cluster: &Cluster, address: &str) -> Vec<String> {
    cluster.table.with_owners(ip(address), |slots| {
        let labels = |labels: &[u8]| String::from_utf8_lossy(&labels[1..]).replace('\u{4}', ".");
        slots.iter().map(|slot| labels(&slot.labels)).collect()
    })
}

fn addresses(cluster: &Cluster, labels: &[u8]) -> Vec<String> {
    let view = cluster.table.service(labels).expect("a view");
    view.backends()
        .map(|backend| backend.address.to_string())
        .collect()
}

#[test]
fn a_service_is_found_by_name_and_address_until_it_is_deleted() {
    let cluster = cluster();
    cluster.applied(cluster_ip("Web", "1", "10.0.0.1"));
    let view = cluster.table.service(b"\x03web\x04shop").expect("a view");
    assert_eq!(view.kind, ViewKind::ClusterIp([ip("10.0.0.1")].into()));
    assert_eq!(owners(&cluster, "10.0.0.1"), ["web.shop"]);
    cluster.deleted(Resource::Services, "shop", "Web");
    assert!(cluster.table.service(b"\x03web\x04shop").is_none());
    assert!(owners(&cluster, "10.0.0.1").is_empty());
}

#[test]
fn a_change_of_address_moves_the_reverse_entry() {
    let cluster = cluster();
    cluster.applied(cluster_ip("web", "1", "10.0.0.1"));
    cluster.applied(cluster_ip("web", "2", "10.0.0.2"));
    assert!(owners(&cluster, "10.0.0.1").is_empty());
    assert_eq!(owners(&cluster, "10.0.0.2"), ["web.shop"]);
}

#[test]
fn an_event_of_the_past_is_passed_over_and_a_list_of_the_past_is_not() {
    let cluster = cluster();
    cluster.applied(cluster_ip("web", "12", "10.0.0.2"));
    cluster.applied(cluster_ip("web", "9", "10.0.0.1"));
    assert_eq!(owners(&cluster, "10.0.0.2"), ["web.shop"]);
    assert!(owners(&cluster, "10.0.0.1").is_empty());
    // Data restored from a backup come with a list.
    cluster.list_started(Resource::Services);
    cluster.listed(cluster_ip("web", "9", "10.0.0.1"));
    cluster.list_finished(Resource::Services);
    assert_eq!(owners(&cluster, "10.0.0.1"), ["web.shop"]);
}

#[test]
fn sizes_are_those_of_what_is_there() {
    let cluster = cluster();
    assert_eq!(cluster.sizes(), Sizes::default());
    cluster.applied(Object::Namespace(meta("shop", "1")));
    for version in ["1", "2", "3"] {
        cluster.applied(cluster_ip("web", version, "10.0.0.1"));
        let addresses = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
        let count = version.parse().expect("a number");
        cluster.applied(slice("web-1", "web", version, &addresses[..count]));
        cluster.applied(Object::Pod(pod("web-0", version, "10.1.0.1")));
    }
    // Of no Service that is known, with an address of the first.
    cluster.applied(slice("db-1", "db", "1", &["10.1.0.1"]));
    let full = Sizes {
        namespaces: 1,
        services: 1,
        endpoint_slices: 2,
        endpoints: 4,
        pods: 1,
        addresses: 4,
    };
    assert_eq!(cluster.sizes(), full);
    cluster.applied(slice("web-1", "db", "4", &["10.1.0.9"]));
    assert_eq!(
        cluster.sizes(),
        Sizes {
            endpoints: 2,
            addresses: 3,
            ..full
        }
    );
    cluster.deleted(Resource::Services, "shop", "web");
    for name in ["web-1", "db-1", "db-1"] {
        cluster.deleted(Resource::EndpointSlices, "shop", name);
    }
    cluster.list_started(Resource::Pods);
    cluster.list_finished(Resource::Pods);
    cluster.deleted(Resource::Namespaces, "", "shop");
    assert_eq!(cluster.sizes(), Sizes::default());
}

#[test]
fn each_kind_of_service_is_timed_from_reception_and_lists_and_repairs_are_not() {
    let cluster = cluster();
    let noticed: Arc<StdMutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&noticed);
    cluster.observe(Box::new(move |observation| {
        let note = match observation {
            Observation::Servable { kind, .. } => kind.to_owned(),
            Observation::Unusable { resource, reason } => format!("{} {reason}", resource.name()),
        };
        notes.lock().expect("nobody panics").push(note);
    }));
    let take = || std::mem::take(&mut *noticed.lock().expect("nobody panics"));
    cluster.received(Some(Instant::now()));
    cluster.list_started(Resource::Services);
    cluster.listed(cluster_ip("listed", "1", "10.0.0.7"));
    cluster.list_finished(Resource::Services);
    assert!(take().is_empty());
    cluster.applied(cluster_ip("web", "1", "10.0.0.1"));
    cluster.applied(service("db", "1", ServiceKind::Headless));
    cluster.applied(service(
        "out",
        "1",
        ServiceKind::ExternalName("a.example".into()),
    ));
    cluster.applied(slice("db-1", "db", "1", &["10.1.0.1"]));
    cluster.deleted(Resource::EndpointSlices, "shop", "db-1");
    cluster.deleted(Resource::Services, "shop", "web");
    // Nothing of these is answered differently.
    cluster.applied(service("db", "2", ServiceKind::Headless));
    cluster.applied(slice("stray-1", "stray", "1", &["10.1.0.2"]));
    assert_eq!(
        take(),
        [
            "cluster_ip",
            "headless",
            "external_name",
            "headless",
            "headless",
            "cluster_ip"
        ]
    );
    cluster.received(None);
    cluster.applied(cluster_ip("web", "3", "10.0.0.1"));
    assert!(take().is_empty());
    cluster.applied(cluster_ip("no.label", "1", "10.0.0.2"));
    cluster.applied(slice("lost-1", "", "1", &["10.1.0.3"]));
    assert_eq!(take(), ["services name", "endpointslices no_service"]);
}

#[test]
fn a_relist_without_a_change_touches_nothing() {
    let cluster = cluster();
    let feed = |version: &str| {
        cluster.list_started(Resource::Services);
        cluster.listed(cluster_ip("web", version, "10.0.0.1"));
        cluster.list_finished(Resource::Services);
    };
    feed("1");
    let before = Arc::as_ptr(&cluster.table.service(b"\x03web\x04shop").expect("a view"));
    feed("1");
    feed("2");
    let after = Arc::as_ptr(&cluster.table.service(b"\x03web\x04shop").expect("a view"));
    assert_eq!(before, after);
}

#[test]
fn what_a_list_does_not_name_is_gone_when_it_ends_and_not_before() {
    let cluster = cluster();
    cluster.applied(cluster_ip("web", "1", "10.0.0.1"));
    cluster.applied(cluster_ip("db", "2", "10.0.0.2"));
    cluster.applied(slice("web-1", "web", "3", &["10.1.0.1"]));
    cluster.list_started(Resource::Services);
    cluster.listed(cluster_ip("web", "1", "10.0.0.1"));
    assert!(cluster.table.service(b"\x02db\x04shop").is_some());
    // The list starts over.
    cluster.list_started(Resource::Services);
    cluster.listed(cluster_ip("web", "1", "10.0.0.1"));
    cluster.list_finished(Resource::Services);
    assert!(cluster.table.service(b"\x02db\x04shop").is_none());
    assert_eq!(addresses(&cluster, b"\x03web\x04shop"), ["10.1.0.1"]);
}

#[test]
fn a_file_without_versions_is_compared_by_content() {
    let cluster = cluster();
    cluster.applied(cluster_ip("web", "", "10.0.0.1"));
    cluster.applied(cluster_ip("web", "", "10.0.0.2"));
    assert_eq!(owners(&cluster, "10.0.0.2"), ["web.shop"]);
}

#[test]
fn an_address_in_two_slices_stays_until_both_let_go() {
    let cluster = cluster();
    cluster.applied(service("web", "1", ServiceKind::Headless));
    cluster.applied(slice("web-1", "web", "2", &["10.1.0.1", "10.1.0.2"]));
    cluster.applied(slice("web-2", "web", "3", &["10.1.0.1"]));
    assert!(
        !cluster
            .table
            .service(b"\x03web\x04shop")
            .expect("a view")
            .addresses_distinct
    );
    cluster.applied(slice("web-1", "web", "4", &["10.1.0.2"]));
    assert_eq!(owners(&cluster, "10.1.0.1"), ["web.shop"]);
    assert!(
        cluster
            .table
            .service(b"\x03web\x04shop")
            .expect("a view")
            .addresses_distinct
    );
    cluster.deleted(Resource::EndpointSlices, "shop", "web-2");
    assert!(owners(&cluster, "10.1.0.1").is_empty());
    assert_eq!(addresses(&cluster, b"\x03web\x04shop"), ["10.1.0.2"]);
}

#[test]
fn an_address_may_belong_to_several_services() {
    let cluster = cluster();
    for (name, version) in [("a", "1"), ("b", "2"), ("c", "3")] {
        cluster.applied(slice(&format!("{name}-1"), name, version, &["10.1.0.1"]));
    }
    assert_eq!(owners(&cluster, "10.1.0.1"), ["a.shop", "b.shop", "c.shop"]);
    cluster.deleted(Resource::EndpointSlices, "shop", "b-1");
    assert_eq!(owners(&cluster, "10.1.0.1"), ["a.shop", "c.shop"]);
    cluster.deleted(Resource::EndpointSlices, "shop", "a-1");
    assert_eq!(owners(&cluster, "10.1.0.1"), ["c.shop"]);
}

#[test]
fn slices_wait_for_their_service_and_outlive_it() {
    let cluster = cluster();
    cluster.applied(slice("web-1", "web", "1", &["10.1.0.1"]));
    let kind_is_absent = || {
        cluster
            .table
            .service(b"\x03web\x04shop")
            .expect("a view")
            .kind
            == ViewKind::Absent
    };
    assert!(kind_is_absent());
    cluster.applied(service("web", "2", ServiceKind::Headless));
    assert_eq!(addresses(&cluster, b"\x03web\x04shop"), ["10.1.0.1"]);
    cluster.deleted(Resource::Services, "shop", "web");
    assert!(kind_is_absent());
    assert_eq!(owners(&cluster, "10.1.0.1"), ["web.shop"]);
}

#[test]
fn a_slice_may_move_to_another_service() {
    let cluster = cluster();
    cluster.applied(slice("s", "a", "1", &["10.1.0.1"]));
    cluster.applied(slice("s", "b", "2", &["10.1.0.1"]));
    assert_eq!(owners(&cluster, "10.1.0.1"), ["b.shop"]);
    assert!(cluster.table.service(b"\x01a\x04shop").is_none());
    cluster.applied(slice("s", "", "3", &["10.1.0.1"]));
    assert!(owners(&cluster, "10.1.0.1").is_empty());
}

#[test]
fn the_name_of_a_pod_is_a_host_name_on_demand_only() {
    for (pod_names, expected) in [(false, None), (true, Some(b"pod-10-1-0-1".as_slice()))] {
        let cluster = Cluster::new(
            &ALL,
            Keep {
                pod_names,
                ..Keep::default()
            },
        );
        cluster.applied(slice("web-1", "web", "1", &["10.1.0.1"]));
        let view = cluster.table.service(b"\x03web\x04shop").expect("a view");
        assert_eq!(view.backends().next().expect("a backend").name, expected);
    }
}

#[test]
fn an_external_name_is_a_name_an_address_or_nothing_of_use() {
    let cluster = cluster();
    let kind = |target: &str, version: &str| {
        cluster.applied(service(
            "ext",
            version,
            ServiceKind::ExternalName(target.into()),
        ));
        match &cluster
            .table
            .service(b"\x03ext\x04shop")
            .expect("a view")
            .kind
        {
            ViewKind::ExternalName(Alias::Name(name)) => name.to_string(),
            ViewKind::ExternalName(Alias::Address(_)) => "address".to_owned(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(kind("Target.Example", "1"), "Target.Example.");
    assert_eq!(kind("192.0.2.7", "2"), "address");
    assert_eq!(kind("", "3"), "ExternalName(Broken(\"\"))");
    assert_eq!(kind("a..b", "4"), "ExternalName(Broken(\"a..b\"))");
}

/// Case 135.
#[test]
fn a_pod_keeps_its_address_while_it_goes() {
    let cluster = cluster();
    let count = |address: &str| cluster.table.pods(ip(address), b"\x04shop");
    cluster.applied(Object::Pod(pod("p", "1", "10.1.0.1")));
    cluster.applied(Object::Pod(pod("q", "2", "10.1.0.1")));
    assert_eq!(count("10.1.0.1"), 2);
    let going = Pod {
        terminating: true,
        ..pod("p", "3", "10.1.0.9")
    };
    cluster.applied(Object::Pod(going.clone()));
    // Its address is another's by now.
    assert_eq!((count("10.1.0.1"), count("10.1.0.9")), (1, 0));
    cluster.deleted(Resource::Pods, "shop", "p");
    assert_eq!(count("10.1.0.1"), 1);
    cluster.applied(Object::Pod(going));
    assert_eq!(count("10.1.0.9"), 0);
    cluster.applied(Object::Pod(pod("q", "4", "10.1.0.5")));
    assert_eq!((count("10.1.0.1"), count("10.1.0.5")), (0, 1));
    cluster.applied(Object::Pod(Pod {
        finished: true,
        ..pod("q", "5", "10.1.0.5")
    }));
    assert_eq!(count("10.1.0.5"), 0);
}

/// Pods by address as `autopath` and the names of Pods see them (O11).
#[test]
fn an_address_that_is_used_again_is_the_running_pods() {
    let cluster = cluster();
    let other = |pod: Pod| Pod {
        meta: Meta {
            namespace: "web".into(),
            ..pod.meta
        },
        ..pod
    };
    let address = ip("10.1.0.1");
    let is_of =
        || [&b"\x04shop"[..], b"\x03web"].map(|label| cluster.table.is_pod_of(address, label));
    let counts = || [&b"\x04shop"[..], b"\x03web"].map(|label| cluster.table.pods(address, label));
    cluster.applied(Object::Pod(pod("old", "1", "10.1.0.1")));
    assert_eq!((is_of(), counts()), ([true, false], [1, 0]));
    // Two that run: either name is true, but who sends from there is not known.
    cluster.applied(Object::Pod(other(pod("new", "2", "10.1.0.1"))));
    assert_eq!((is_of(), counts()), ([false, false], [1, 1]));
    let going = Pod {
        terminating: true,
        ..pod("old", "3", "10.1.0.1")
    };
    cluster.applied(Object::Pod(going));
    assert_eq!((is_of(), counts()), ([false, true], [0, 1]));
    for pod in [
        Pod {
            ip: None,
            ..pod("none", "4", "10.1.0.1")
        },
        Pod {
            finished: true,
            ..pod("done", "5", "10.1.0.1")
        },
        Pod {
            terminating: true,
            ..pod("gone", "6", "10.1.0.1")
        },
    ] {
        cluster.applied(Object::Pod(pod));
        assert_eq!((is_of(), counts()), ([false, true], [0, 1]));
    }
    cluster.applied(Object::Pod(Pod {
        host_network: true,
        labels: Default::default(),
        ..pod("node", "7", "10.1.0.1")
    }));
    assert_eq!((is_of(), counts()), ([false, false], [1, 1]));
    cluster.list_started(Resource::Pods);
    cluster.listed(Object::Pod(other(pod("new", "2", "10.1.0.1"))));
    cluster.list_finished(Resource::Pods);
    assert_eq!((is_of(), counts()), ([false, true], [0, 1]));
}

#[test]
fn the_cluster_is_synced_when_every_resource_was_listed_once() {
    let cluster = cluster();
    for resource in ALL {
        assert!(!cluster.synced());
        cluster.list_started(resource);
        cluster.list_finished(resource);
    }
    assert!(cluster.synced());
    cluster.list_started(Resource::Pods);
    assert!(cluster.synced());
}

#[test]
fn a_namespace_is_there_from_its_first_to_its_last_event() {
    let cluster = cluster();
    cluster.list_started(Resource::Namespaces);
    cluster.listed(Object::Namespace(Meta {
        name: "shop".into(),
        ..Meta::default()
    }));
    cluster.list_finished(Resource::Namespaces);
    assert!(cluster.table.has_namespace(b"\x04shop"));
    cluster.deleted(Resource::Namespaces, "", "shop");
    assert!(!cluster.table.has_namespace(b"\x04shop"));
}

#[test]
fn the_serial_moves_with_what_zone_transfers_would_show() {
    let cluster = cluster();
    let moved = |object: Object| {
        cluster.serial.reset();
        cluster.applied(object);
        cluster.serial() != 0
    };
    assert!(moved(cluster_ip("web", "1", "10.0.0.1")));
    assert!(!moved(cluster_ip("web", "2", "10.0.0.1")));
    assert!(moved(cluster_ip("web", "3", "10.0.0.2")));
    assert!(moved(slice("web-1", "web", "4", &["10.1.0.1"])));
    assert!(!moved(slice("web-1", "web", "5", &["10.1.0.1"])));
    // A namespace that appears may show Services that were known before it.
    assert!(moved(Object::Namespace(meta("shop", "6"))));
    assert!(!moved(Object::Namespace(meta("shop", "7"))));
    assert!(moved(Object::Pod(pod("p", "7", "10.1.0.1"))));
    assert!(!moved(Object::Pod(pod("p", "8", "10.1.0.1"))));
    assert!(moved(Object::Pod(pod("p", "9", "10.1.0.2"))));
}

/// Cases 246 and 247. That a new ClusterIP or type moves it too is ours.
#[test]
fn cases_246_and_247_the_serial_moves_with_every_change_of_the_zone_and_no_other() {
    let cluster = cluster();
    cluster.applied(cluster_ip("web", "1", "10.0.0.1"));
    let moved = |change: &dyn Fn()| {
        cluster.serial.reset();
        change();
        cluster.serial() != 0
    };
    let applied = |object: &Object| moved(&|| cluster.applied(object.clone()));
    let external = |target: &str| service("ext", target, ServiceKind::ExternalName(target.into()));
    assert!(applied(&external("a.example.org")));
    assert!(applied(&external("b.example.org")));
    assert!(!applied(&external("b.example.org")));
    let Object::Service(mut ports) = cluster_ip("web", "2", "10.0.0.1") else {
        unreachable!("it is a Service");
    };
    ports.ports[0].number = Some(81);
    assert!(applied(&Object::Service(ports)));
    let endpoints = |version: &str, change: &dyn Fn(&mut Endpoint)| {
        let Object::EndpointSlice(mut one) = slice("web-1", "web", version, &["10.1.0.1"]) else {
            unreachable!("it is a slice");
        };
        one.endpoints.iter_mut().for_each(change);
        Object::EndpointSlice(one)
    };
    assert!(applied(&endpoints("3", &|_| {})));
    let target = |endpoint: &mut Endpoint| endpoint.target_name = Some("other".into());
    assert!(!applied(&endpoints("4", &target)));
    assert!(applied(&endpoints("5", &|endpoint| endpoint.ready = false)));
    assert!(applied(&endpoints("6", &|endpoint| {
        endpoint.hostname = Some("a".into());
    })));
    assert!(applied(&Object::Pod(pod("p", "1", "10.1.0.1"))));
    assert!(!applied(&Object::Pod(pod("p", "2", "10.1.0.1"))));
    let deleted = |resource, name| moved(&|| cluster.deleted(resource, "shop", name));
    assert!(deleted(Resource::Pods, "p"));
    assert!(deleted(Resource::EndpointSlices, "web-1"));
    assert!(deleted(Resource::Services, "web"));
    assert!(!deleted(Resource::Services, "web"));
}

#[test]
fn a_stamped_slice_is_reported_where_its_service_is_known_and_no_list_runs() {
    let cluster = cluster();
    let seen = Arc::new(StdMutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    cluster.observe_triggers(Box::new(move |headless, time| {
        sink.lock()
            .expect("nobody panics")
            .push((headless, time.map_err(str::to_owned)));
    }));
    cluster.applied(slice("web-1", "web", "1", &["10.1.0.1"]));
    cluster.applied(service("web", "2", ServiceKind::Headless));
    cluster.list_started(Resource::EndpointSlices);
    cluster.listed(slice("web-1", "web", "3", &["10.1.0.2"]));
    cluster.list_finished(Resource::EndpointSlices);
    assert!(seen.lock().expect("nobody panics").is_empty());
    cluster.applied(slice("web-1", "web", "4", &["10.1.0.3"]));
    let Object::EndpointSlice(mut odd) = slice("web-1", "web", "5", &["10.1.0.4"]) else {
        unreachable!("it is a slice");
    };
    odd.trigger_time = Some("yesterday".into());
    cluster.applied(Object::EndpointSlice(odd));
    cluster.applied(slice("web-1", "web", "6", &["10.1.0.3"]));
    cluster.deleted(Resource::EndpointSlices, "shop", "web-1");
    let time = Ok(UNIX_EPOCH + Duration::from_secs(1_704_164_645));
    let odd = Err("yesterday".to_owned());
    assert_eq!(
        *seen.lock().expect("nobody panics"),
        [
            (true, time.clone()),
            (true, odd),
            (true, time.clone()),
            (true, time)
        ]
    );
}

fn balanced(version: &str, port: u16, external: &[&str]) -> Object {
    let external = external.iter().map(|text| match text.parse() {
        Ok(address) => External::Address(address),
        Err(_) => External::Hostname((*text).into()),
    });
    Object::Service(Service {
        meta: meta("web", version),
        kind: ServiceKind::ClusterIp(vec![ip("10.0.0.1")]),
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: Some(port),
        }],
        external: external.collect(),
    })
}

fn with_external() -> Cluster {
    let keep = Keep {
        external: true,
        ..Keep::default()
    };
    Cluster::new(&ALL, keep)
}

fn external_owners(cluster: &Cluster, address: &str) -> usize {
    cluster.table.with_external_owners(ip(address), <[_]>::len)
}

#[test]
fn external_addresses_are_kept_only_where_they_are_asked_for() {
    let without = cluster();
    without.applied(balanced("1", 80, &["192.0.2.1", "lb.example.com"]));
    let view = without.table.service(b"\x03web\x04shop").expect("a view");
    assert!(view.external.is_none());
    assert_eq!(external_owners(&without, "192.0.2.1"), 0);
    assert_eq!(without.external_serial(), 0);

    let cluster = with_external();
    cluster.applied(balanced(
        "1",
        80,
        &[
            "192.0.2.1",
            "LB.example.com",
            "192.0.2.1",
            "",
            "lb.EXAMPLE.com",
            "a..b",
        ],
    ));
    let view = cluster.table.service(b"\x03web\x04shop").expect("a view");
    let name = crate::wire::name::Name::from_text("LB.example.com").expect("a name");
    assert_eq!(
        view.external(),
        [
            ExternalTarget::Address(ip("192.0.2.1")),
            ExternalTarget::Name(name),
        ]
    );
}

#[test]
fn an_external_address_leads_to_its_services_until_they_lose_it() {
    let cluster = with_external();
    let owners = |address| external_owners(&cluster, address);
    // Twice in one Service is once.
    cluster.applied(balanced(
        "1",
        80,
        &["192.0.2.1", "192.0.2.1", "2001:db8::1"],
    ));
    assert_eq!((owners("192.0.2.1"), owners("2001:db8::1")), (1, 1));
    // Those within the cluster are not among them, nor the other way round.
    assert_eq!(
        (owners("10.0.0.1"), inner_owners(&cluster, "192.0.2.1")),
        (0, 0)
    );
    cluster.applied(balanced("2", 80, &["192.0.2.2", "2001:db8::1"]));
    assert_eq!(
        ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(owners),
        [0, 1, 1]
    );
    cluster.deleted(Resource::Services, "shop", "web");
    assert_eq!(["192.0.2.2", "2001:db8::1"].map(owners), [0, 0]);
}

fn inner_owners(cluster: &Cluster, address: &str) -> usize {
    cluster.table.with_owners(ip(address), <[_]>::len)
}

#[test]
fn cases_248_and_249_the_external_serial_moves_with_what_is_seen_from_outside() {
    let cluster = with_external();
    // Whether the serial of the cluster's zone moves, and that of what is outside.
    let moves = |what: &dyn Fn()| {
        cluster.serial.reset();
        cluster.external_serial.reset();
        what();
        (cluster.serial() != 0, cluster.external_serial() != 0)
    };
    let apply = |version: &str, port, external: &[&str]| {
        moves(&|| cluster.applied(balanced(version, port, external)))
    };
    assert_eq!(apply("1", 80, &[]), (true, false));
    assert_eq!(apply("2", 81, &[]), (true, false));
    assert_eq!(apply("3", 81, &["192.0.2.1"]), (false, true));
    assert_eq!(
        apply("4", 81, &["192.0.2.1", "lb.example.com"]),
        (false, true)
    );
    assert_eq!(
        apply("5", 81, &["192.0.2.1", "lb.example.com"]),
        (false, false)
    );
    assert_eq!(apply("6", 82, &["192.0.2.1"]), (true, true));
    assert_eq!(
        moves(&|| cluster.applied(cluster_ip("other", "7", "10.0.0.2"))),
        (true, false)
    );
    assert_eq!(
        moves(&|| cluster.deleted(Resource::Services, "shop", "other")),
        (true, false)
    );
    assert_eq!(
        moves(&|| cluster.deleted(Resource::Services, "shop", "web")),
        (true, true)
    );
    assert_eq!(apply("8", 82, &["192.0.2.1"]), (true, true));
    let slice_changes = || cluster.applied(slice("web-1", "web", "9", &["10.1.0.1"]));
    assert_eq!(moves(&slice_changes), (true, false));
    let namespace = || cluster.applied(Object::Namespace(meta("shop", "10")));
    assert_eq!(moves(&namespace), (true, true));
    assert_eq!(moves(&namespace), (false, false));
    // A list that no longer names it takes it away.
    let relist = || {
        cluster.list_started(Resource::Services);
        cluster.list_finished(Resource::Services);
    };
    assert_eq!(moves(&relist), (true, true));
    assert_eq!(external_owners(&cluster, "192.0.2.1"), 0);
}

#[test]
fn after_a_restore_an_equal_version_may_be_another_object() {
    let cluster = cluster();
    let list = |objects: [Object; 3]| {
        let resources = [Resource::Services, Resource::EndpointSlices, Resource::Pods];
        for (resource, object) in resources.into_iter().zip(objects) {
            cluster.list_started(resource);
            cluster.listed(object);
            cluster.list_finished(resource);
        }
    };
    let objects = |last: &str| {
        let pod = pod("web-0", "7", &format!("10.2.0.{last}"));
        [
            cluster_ip("web", "7", &format!("10.0.0.{last}")),
            slice("web-1", "web", "7", &[&format!("10.1.0.{last}")]),
            Object::Pod(pod),
        ]
    };
    list(objects("1"));
    // Without a word, equal versions are equal objects: nothing is looked at.
    list(objects("2"));
    assert_eq!(addresses(&cluster, b"\x03web\x04shop"), ["10.1.0.1"]);
    for resource in [Resource::Services, Resource::EndpointSlices, Resource::Pods] {
        cluster.history_changed(resource);
    }
    list(objects("3"));
    assert_eq!(addresses(&cluster, b"\x03web\x04shop"), ["10.1.0.3"]);
    assert_eq!(owners(&cluster, "10.0.0.3"), ["web.shop"]);
    assert!(owners(&cluster, "10.0.0.1").is_empty());
    assert_eq!(cluster.table.pods(ip("10.2.0.3"), b"\x04shop"), 1);
    list(objects("4"));
    assert_eq!(addresses(&cluster, b"\x03web\x04shop"), ["10.1.0.3"]);
}

#[test]
fn where_endpoints_are_seen_from_outside_they_move_the_external_serial() {
    let keep = Keep {
        external: true,
        external_endpoints: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&ALL, keep);
    cluster.applied(slice("web-1", "web", "1", &["10.1.0.1"]));
    assert_ne!(cluster.external_serial(), 0);
    cluster.external_serial.reset();
    cluster.applied(slice("web-1", "web", "2", &["10.1.0.1"]));
    assert_eq!(cluster.external_serial(), 0);
}
