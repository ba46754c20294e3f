//! When a snapshot is written, when it is served, and what the lists make of it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;

use super::*;
use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Import, Meta, Object, Pod, Port, Resource, Service,
    ServiceImport, ServiceKind,
};
use crate::cluster::store::export::Contents;
use crate::cluster::succession::Part;
use crate::cluster::table::Named;
use crate::cluster::{Keep, ObjectSink};

const ALL: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
];

const KEEP: Keep = Keep {
    pod_names: false,
    external: true,
    external_endpoints: false,
    zones: true,
    imports: false,
    imported_slices_only: false,
    clients: false,
};

fn process() -> Arc<Process> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime"));
    Process::new(runtime.handle().clone())
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

fn namespace(name: &str) -> Object {
    Object::Namespace(Meta {
        namespace: Box::default(),
        ..meta(name, "1")
    })
}

fn service(name: &str, version: &str, address: &str) -> Object {
    Object::Service(Service {
        meta: meta(name, version),
        kind: ServiceKind::ClusterIp(vec![ip(address)]),
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: Some(80),
        }],
        external: vec![
            External::Address(ip("192.0.2.1")),
            External::Hostname("LB.example.org".into()),
        ],
    })
}

fn slice(name: &str, version: &str, addresses: &[&str]) -> Object {
    let endpoint = |(at, address): (usize, &&str)| Endpoint {
        addresses: vec![ip(address)],
        hostname: (at == 0).then(|| "First".into()),
        target_name: None,
        ready: true,
        zone: (at == 1).then(|| "Z.1".into()),
    };
    Object::EndpointSlice(EndpointSlice {
        meta: meta(&format!("{name}-abc"), version),
        service: name.into(),
        import: None,
        ports: Vec::new(),
        endpoints: addresses.iter().enumerate().map(endpoint).collect(),
        trigger_time: None,
    })
}

fn pod(name: &str, address: &str) -> Object {
    Object::Pod(Pod {
        meta: meta(name, "1"),
        ip: Some(ip(address)),
        terminating: false,
        finished: false,
        host_network: false,
        labels: Default::default(),
    })
}

/// Takes in a whole list.
fn list(cluster: &Cluster, resource: Resource, objects: &[Object]) {
    cluster.list_started(resource);
    let of_resource = objects
        .iter()
        .filter(|object| object.resource() == resource);
    of_resource.for_each(|object| cluster.listed(object.clone()));
    cluster.list_finished(resource);
}

fn synced(objects: &[Object]) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(&ALL, KEEP));
    ALL.iter()
        .for_each(|&resource| list(&cluster, resource, objects));
    cluster
}

fn shop() -> Vec<Object> {
    vec![
        namespace("shop"),
        service("web", "5", "10.0.0.1"),
        service("old", "6", "10.0.0.2"),
        slice("web", "7", &["10.1.0.1", "fd00::1", "10.1.0.2"]),
        pod("a", "10.1.0.1"),
        pod("b", "10.1.0.1"),
    ]
}

/// Everything that a table shows.
fn shown(cluster: &Cluster) -> Vec<String> {
    let table = &cluster.table;
    let services = table.services.pin();
    let mut shown: Vec<String> = services
        .iter()
        .map(|Named(slot)| {
            format!(
                "{:?} {:?}",
                slot.labels.escape_ascii().to_string(),
                slot.view()
            )
        })
        .collect();
    let namespaces = table.namespaces.pin();
    shown.extend(
        namespaces
            .keys()
            .map(|name| name.escape_ascii().to_string()),
    );
    for address in ["10.0.0.1", "10.0.0.2", "10.1.0.1", "10.1.0.2", "fd00::1"] {
        let owners = table.with_owners(ip(address), <[_]>::len);
        let pods = table.pods(ip(address), b"\x04shop");
        shown.push(format!("{address} {owners} {pods}"));
    }
    let owners = table.external.with(ip("192.0.2.1"), <[_]>::len);
    shown.push(format!("outside {owners}"));
    shown.sort();
    shown
}

fn plan(path: &Path) -> Plan {
    Plan {
        path: path.to_owned(),
        age_max: Duration::from_secs(3600),
        key: Key::of("test"),
        patience: Duration::from_secs(3600),
        host: "192.0.2.1:443".into(),
    }
}

/// As in production, without the waits.
fn pace() -> Pace {
    Pace {
        grace: Duration::from_millis(1),
        interval: Duration::from_millis(1),
        look: Duration::from_millis(1),
        ..Pace::default()
    }
}

/// The API server has not said a word.
fn away() -> Silence {
    Box::new(|| vec![None; 4])
}

fn heard(before: Duration) -> Silence {
    Box::new(move || vec![Some(Duration::ZERO), Some(before)])
}

struct Kept {
    cluster: Arc<Cluster>,
    process: Arc<Process>,
    keeper: Arc<Keeper>,
}

fn keep_in(
    process: &Arc<Process>,
    plan: Plan,
    pace: Pace,
    cluster: &Arc<Cluster>,
    silence: Silence,
) -> Kept {
    let keeper =
        Keeper::start(plan, pace, Arc::clone(cluster), silence, process).expect("a thread");
    Kept {
        cluster: Arc::clone(cluster),
        process: Arc::clone(process),
        keeper,
    }
}

fn keep(plan: Plan, cluster: &Arc<Cluster>, silence: Silence) -> Kept {
    keep_in(&process(), plan, pace(), cluster, silence)
}

impl Kept {
    fn flush(&self) {
        self.process.runtime.block_on(self.keeper.flush());
    }

    fn value(&self, name: &str) -> f64 {
        let families = self.process.metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families);
        let text = text.expect("metrics are text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    #[track_caller]
    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < end, "waited in vain for {what}");
            self.process
                .runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        }
    }

    fn wait_for_outcome(&self, outcome: &str) {
        let name = format!("fingerpost_kubernetes_snapshot_loads_total{{outcome=\"{outcome}\"}}");
        self.wait(&name, |kept| kept.value(&name) > 0.0);
    }
}

/// A file with these objects, and the folder that it is in.
fn saved(objects: &[Object]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    let kept = keep(plan(&path), &synced(objects), heard(Duration::ZERO));
    kept.flush();
    assert!(path.is_file());
    (folder, path)
}

fn unlisted() -> Arc<Cluster> {
    Arc::new(Cluster::new(&ALL, KEEP))
}

#[test]
fn what_was_saved_is_served_while_the_api_server_is_away() {
    let (_folder, path) = saved(&shop());
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    assert_eq!(shown(&kept.cluster), shown(&synced(&shop())));
    assert!(kept.cluster.is_restored() && !kept.cluster.synced());
    assert!(kept.cluster.serial() > 0);
    let saved_at = kept.cluster.restored_from().expect("a time");
    assert!(saved_at.elapsed().expect("the past") < Duration::from_secs(3600));
    kept.wait_for_outcome("loaded");
}

#[test]
fn the_first_lists_replace_it_as_a_difference() {
    let (_folder, path) = saved(&shop());
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    let slot = |labels: &[u8]| kept.cluster.table.service(labels);
    let before = slot(b"\x03web\x04shop").expect("a view");
    let now = [
        namespace("shop"),
        service("web", "5", "10.0.0.1"),
        service("new", "8", "10.0.0.9"),
        slice("web", "7", &["10.1.0.1", "fd00::1", "10.1.0.2"]),
        pod("a", "10.1.0.1"),
    ];
    list(&kept.cluster, Resource::Services, &now);
    assert!(
        slot(b"\x03old\x04shop").is_none(),
        "what the list does not name is gone"
    );
    assert!(slot(b"\x03new\x04shop").is_some());
    assert!(
        kept.cluster.is_restored(),
        "other resources are not listed yet"
    );
    list(&kept.cluster, Resource::Namespaces, &now);
    list(&kept.cluster, Resource::EndpointSlices, &now);
    let after = slot(b"\x03web\x04shop").expect("a view");
    assert!(
        Arc::ptr_eq(&before, &after),
        "the same version is not touched"
    );
    list(&kept.cluster, Resource::Pods, &now);
    assert!(kept.cluster.synced() && !kept.cluster.is_restored());
    assert_eq!(kept.cluster.restored_from(), None);
    assert_eq!(shown(&kept.cluster), shown(&synced(&now)));
}

#[test]
fn a_changed_object_replaces_its_copy() {
    let (_folder, path) = saved(&shop());
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    let now = [
        namespace("other"),
        service("web", "9", "10.0.0.7"),
        slice("web", "10", &["10.1.0.2"]),
    ];
    ALL.iter()
        .for_each(|&resource| list(&kept.cluster, resource, &now));
    assert_eq!(shown(&kept.cluster), shown(&synced(&now)));
}

#[test]
fn what_lists_have_told_already_counts_for_more() {
    let (_folder, path) = saved(&shop());
    let cluster = unlisted();
    // One resource is listed, another is being listed when the snapshot comes.
    list(&cluster, Resource::Pods, &[]);
    cluster.list_started(Resource::Services);
    cluster.listed(service("web", "9", "10.0.0.7"));
    let kept = keep(plan(&path), &cluster, away());
    kept.process.runtime.block_on(cluster.wait_servable());
    assert_eq!(cluster.table.pods(ip("10.1.0.1"), b"\x04shop"), 0);
    let view = cluster.table.service(b"\x03web\x04shop").expect("a view");
    assert!(view.has_cluster_ip(ip("10.0.0.7")));
    assert!(cluster.table.service(b"\x03old\x04shop").is_some());
    cluster.list_finished(Resource::Services);
    assert!(cluster.table.service(b"\x03old\x04shop").is_none());
}

#[test]
fn pods_come_back_with_all_that_decides_whose_an_address_is() {
    let with = |name: &str, address: &str, change: fn(&mut Pod)| {
        let Object::Pod(mut pod) = pod(name, address) else {
            panic!("it is a Pod");
        };
        change(&mut pod);
        Object::Pod(pod)
    };
    let cluster = synced(&[
        pod("a", "10.1.0.1"),
        pod("going", "10.1.0.2"),
        with("host", "10.1.0.3", |pod| pod.host_network = true),
        with("host-2", "10.1.0.3", |pod| pod.host_network = true),
    ]);
    cluster.applied(with("going", "10.1.0.2", |pod| pod.terminating = true));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    keep(plan(&path), &cluster, heard(Duration::ZERO)).flush();
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    let whose = |cluster: &Cluster| {
        ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"].map(|address| {
            let (address, shop) = (ip(address), b"\x04shop");
            let table = &cluster.table;
            (table.pods(address, shop), table.places.is_of(address, shop))
        })
    };
    assert_eq!(whose(&kept.cluster), whose(&cluster));
    assert_eq!(whose(&cluster).map(|(pods, _)| pods), [1, 1, 2, 0]);
    // One list names one of them; it is not taken for having named the others.
    list(&kept.cluster, Resource::Pods, &[pod("a", "10.1.0.1")]);
    assert_eq!(whose(&kept.cluster).map(|(pods, _)| pods), [1, 0, 0, 0]);
}

#[test]
fn many_pods_come_back_each_once() {
    let many: Vec<Object> = (0..2000u32)
        .map(|n| {
            let address = IpAddr::from((0x0a01_0000 + n).to_be_bytes());
            pod(&format!("web-{n}"), &address.to_string())
        })
        .collect();
    let (_folder, path) = saved(&many);
    let octets = std::fs::read(&path).expect("readable");
    let snapshot = Snapshot::open(&octets, Key::of("test")).expect("a snapshot");
    let mut names: Vec<_> = snapshot
        .objects()
        .map(|object| object.meta().name.clone())
        .collect();
    names.sort();
    let mut expected: Vec<Box<str>> = (0..2000).map(|n| format!("web-{n}").into()).collect();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn a_service_of_many_slices_is_given_out_in_pieces_and_comes_back_whole() {
    let mut objects = vec![namespace("shop"), service("web", "1", "10.0.0.1")];
    for number in 0..700u32 {
        let first = IpAddr::from((0x0a01_0000 + number * 32).to_be_bytes()).to_string();
        let Object::EndpointSlice(mut slice) = slice("web", "2", &[first.as_str(); 20]) else {
            panic!("it is a slice");
        };
        slice.meta.name = format!("web-{number}").into();
        objects.push(Object::EndpointSlice(slice));
    }
    let before = synced(&objects);
    let (mut contents, mut holds) = (Contents::of(&before.table), Vec::new());
    let mut more = true;
    while more {
        let mut taken = Vec::new();
        more = contents.take(&before.store(), &mut taken);
        holds.push(taken.len());
    }
    assert_eq!(holds.iter().sum::<usize>(), objects.len());
    // 4096 endpoints a hold and the rest of a slice; the Namespace and the Service have none.
    assert!(holds.iter().all(|&taken| taken <= 207), "{holds:?}");
    let (_folder, path) = saved(&objects);
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    let backends = |cluster: &Cluster| {
        let view = cluster.table.service(b"\x03web\x04shop").expect("a view");
        view.backends()
            .map(|backend| backend.address)
            .collect::<Vec<_>>()
    };
    assert_eq!(backends(&kept.cluster).len(), 700 * 20);
    assert_eq!(backends(&kept.cluster), backends(&before));
}

#[test]
fn what_other_clusters_export_comes_back_on_its_own_side() {
    let from = |object: Object, name: &str, own: &str, cluster: &str| {
        let Object::EndpointSlice(slice) = object else {
            panic!("it is a slice");
        };
        Object::EndpointSlice(EndpointSlice {
            meta: meta(name, "7"),
            service: own.into(),
            import: Some(Import {
                service: "far".into(),
                cluster: cluster.into(),
            }),
            ..slice
        })
    };
    let far = Object::ServiceImport(ServiceImport {
        meta: meta("far", "3"),
        kind: ServiceKind::Headless,
        ports: Vec::new(),
    });
    let both = slice("web", "7", &["10.1.0.1", "10.1.0.2"]);
    let objects = [
        namespace("shop"),
        service("web", "5", "10.0.0.1"),
        far,
        from(both.clone(), "both", "web", "east"),
        from(slice("web", "7", &["10.1.0.2"]), "only-far", "", ""),
        slice("web", "8", &["10.1.0.1"]),
    ];
    let resources = [
        Resource::Namespaces,
        Resource::Services,
        Resource::EndpointSlices,
        Resource::ServiceImports,
    ];
    let keep_imports = Keep {
        imports: true,
        ..KEEP
    };
    let make = || Arc::new(Cluster::new(&resources, keep_imports));
    let before = make();
    resources
        .iter()
        .for_each(|&resource| list(&before, resource, &objects));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    keep(plan(&path), &before, heard(Duration::ZERO)).flush();
    let cluster = make();
    // Lists that have begun must not take what comes from the file for what they have named.
    let begun = |resource: &Resource| cluster.list_started(*resource);
    resources.iter().for_each(begun);
    let kept = keep(plan(&path), &cluster, away());
    kept.process.runtime.block_on(cluster.wait_servable());
    let both_sides = |cluster: &Cluster| {
        let imports = cluster.table.imports().expect("they are kept");
        let slots = imports.services.pin();
        let views: Vec<String> = slots
            .iter()
            .map(|Named(slot)| format!("{:?} {:?}", slot.labels, slot.view()))
            .collect();
        (shown(cluster), views)
    };
    assert_eq!(both_sides(&cluster), both_sides(&before));
    assert_eq!(both_sides(&cluster).1.len(), 1);
    assert!(cluster.names_servable(Some(Part::Imports)));
    let end = |resource: &Resource| cluster.list_finished(*resource);
    resources.iter().for_each(end);
    assert_eq!(both_sides(&cluster), both_sides(&make()));
}

#[test]
fn a_pod_that_is_being_listed_while_the_snapshot_comes_is_not_lost() {
    let (_folder, path) = saved(&[pod("a", "10.1.0.1"), pod("b", "10.1.0.2")]);
    let cluster = unlisted();
    cluster.list_started(Resource::Pods);
    let kept = keep(plan(&path), &cluster, away());
    kept.process.runtime.block_on(cluster.wait_servable());
    cluster.listed(pod("a", "10.1.0.1"));
    cluster.list_finished(Resource::Pods);
    let count = |address| cluster.table.pods(ip(address), b"\x04shop");
    assert_eq!((count("10.1.0.1"), count("10.1.0.2")), (1, 0));
}

#[test]
fn a_server_that_answers_is_waited_for() {
    let (_folder, path) = saved(&shop());
    let cluster = unlisted();
    let kept = keep(plan(&path), &cluster, heard(Duration::ZERO));
    // The thread has begun to wait when it takes an order.
    kept.flush();
    assert!(!cluster.servable());
    ALL.iter()
        .for_each(|&resource| list(&cluster, resource, &[]));
    kept.wait("a file of the lists", |kept| {
        kept.value("fingerpost_kubernetes_snapshot_writes_total{outcome=\"written\"}") > 0.0
    });
    assert!(!cluster.is_restored());
    assert_eq!(shown(&cluster), shown(&synced(&[])));
}

#[test]
fn lists_that_do_not_end_are_given_up_when_the_time_for_the_start_is_over() {
    let (_folder, path) = saved(&shop());
    let patience = Plan {
        patience: Duration::from_millis(20),
        ..plan(&path)
    };
    let kept = keep(patience, &unlisted(), heard(Duration::ZERO));
    kept.wait_for_outcome("loaded");
}

#[track_caller]
fn assert_not_loaded(plan: Plan, outcome: &str) {
    let kept = keep(plan, &unlisted(), away());
    kept.wait_for_outcome(outcome);
    assert!(!kept.cluster.servable());
    assert_eq!(
        shown(&kept.cluster),
        shown(&unlisted()),
        "nothing of it is in the table"
    );
}

#[test]
fn a_file_that_is_too_old_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    // The age is that of the last octet of the API server, not that of the file.
    let kept = keep(
        plan(&path),
        &synced(&shop()),
        heard(Duration::from_secs(3601)),
    );
    kept.flush();
    drop(kept);
    assert_not_loaded(plan(&path), "too_old");
}

#[test]
fn the_file_of_another_cluster_is_not_served() {
    let (_folder, path) = saved(&shop());
    let other = Plan {
        key: Key::of("another"),
        ..plan(&path)
    };
    assert_not_loaded(other, "foreign");
}

#[test]
fn a_file_that_is_cut_off_or_changed_is_not_served() {
    let (_folder, path) = saved(&shop());
    let mut octets = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &octets[..octets.len() - 7]).expect("writable");
    assert_not_loaded(plan(&path), "corrupt");
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    std::fs::write(&path, &octets).expect("writable");
    assert_not_loaded(plan(&path), "corrupt");
}

#[test]
fn what_is_no_snapshot_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    assert_not_loaded(plan(&path), "missing");
    std::fs::write(&path, "apiVersion: v1\n").expect("writable");
    assert_not_loaded(plan(&path), "unknown");
    assert_not_loaded(plan(folder.path()), "unreadable");
}

#[test]
fn nothing_is_written_before_the_lists_are_in() {
    let (_folder, path) = saved(&shop());
    let before = std::fs::read(&path).expect("readable");
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    kept.flush();
    assert_eq!(
        std::fs::read(&path).expect("readable"),
        before,
        "its age must not be hidden"
    );
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.ino())
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    let slow = Pace {
        interval: Duration::from_secs(3600),
        ..pace()
    };
    let kept = keep_in(
        &process(),
        plan(&path),
        slow,
        &synced(&shop()),
        heard(Duration::ZERO),
    );
    kept.flush();
    let first = inode(&path);
    kept.cluster.applied(service("web", "99", "10.0.0.1"));
    kept.flush();
    assert_eq!(inode(&path), first);
    kept.cluster.applied(service("web", "100", "10.0.0.8"));
    kept.flush();
    assert_ne!(inode(&path), first);
}

#[test]
fn a_quiet_cluster_is_confirmed_from_time_to_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    let often = Pace {
        confirm: Duration::ZERO,
        ..pace()
    };
    let kept = keep_in(
        &process(),
        plan(&path),
        often,
        &synced(&shop()),
        heard(Duration::ZERO),
    );
    kept.wait("several files", |kept| {
        kept.value("fingerpost_kubernetes_snapshot_writes_total{outcome=\"written\"}") > 2.0
    });
}

#[test]
fn a_large_file_is_written_less_often() {
    let pace = Pace::default();
    assert_eq!(pace.interval_after(0), pace.interval);
    assert_eq!(pace.interval_after(1 << 20), pace.interval);
    assert_eq!(pace.interval_after(64 << 20), Duration::from_secs(1024));
}

#[test]
fn where_nothing_can_be_written_it_is_counted_and_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing");
    let kept = keep(
        plan(&missing.join("cluster")),
        &synced(&shop()),
        heard(Duration::ZERO),
    );
    let count = |kept: &Kept, outcome: &str| {
        kept.value(&format!(
            "fingerpost_kubernetes_snapshot_writes_total{{outcome=\"{outcome}\"}}"
        ))
    };
    kept.wait("failures", |kept| count(kept, "failed") > 2.0);
    assert_eq!(count(&kept, "written"), 0.0);
    std::fs::create_dir(&missing).expect("writable");
    kept.wait("a file", |kept| count(kept, "written") > 0.0);
}

#[test]
fn the_newer_of_two_configurations_has_the_file_and_the_older_gets_it_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    let process = process();
    let quiet = Pace {
        interval: Duration::from_secs(3600),
        ..pace()
    };
    let old = keep_in(
        &process,
        plan(&path),
        quiet,
        &synced(&shop()),
        heard(Duration::ZERO),
    );
    old.flush();
    let newer = Plan {
        key: Key::of("newer"),
        ..plan(&path)
    };
    let new = keep_in(&process, newer, quiet, &synced(&[]), heard(Duration::ZERO));
    new.flush();
    let is_of = |text: &str| {
        let octets = std::fs::read(&path).expect("readable");
        Snapshot::open(&octets, Key::of(text)).is_ok()
    };
    assert!(is_of("newer"));
    old.cluster.applied(service("web", "100", "10.0.0.8"));
    old.flush();
    assert!(is_of("newer"));
    let holders = |old: &Kept| {
        let claims = old
            .process
            .shared
            .get_or_try(&path.to_string_lossy(), || Err::<Arc<Claims>, _>(()));
        claims.map_or(0, |claims| lock(&claims.holders).len())
    };
    drop(new);
    old.wait("the end of the newer", |old| holders(old) == 1);
    old.flush();
    assert!(is_of("test"));
}

#[test]
fn the_age_of_what_is_served_is_shown_until_the_lists_are_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster");
    let kept = keep(
        plan(&path),
        &synced(&shop()),
        heard(Duration::from_secs(100)),
    );
    kept.flush();
    drop(kept);
    let kept = keep(plan(&path), &unlisted(), away());
    kept.process.runtime.block_on(kept.cluster.wait_servable());
    let age = || kept.value("fingerpost_kubernetes_snapshot_age_seconds");
    assert!((100.0..3600.0).contains(&age()), "{}", age());
    ALL.iter()
        .for_each(|&resource| list(&kept.cluster, resource, &[]));
    assert_eq!(age(), 0.0);
}
