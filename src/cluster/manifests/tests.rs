//! Files in, objects out; and what happens when they change.

use std::sync::Mutex;
use std::time::Instant;

use super::*;

/// The objects of a text as `kind namespace/name`, and its faults.
fn read_text(text: &str, is_json: bool) -> (Vec<String>, Vec<String>) {
    let (mut objects, mut faults) = (Vec::new(), Vec::new());
    document::read(
        text,
        is_json,
        &Filter::default(),
        &mut |event| match event {
            document::Event::Object { object, .. } => {
                let object = placed(object);
                let (meta, resource) = (object.meta(), object.resource());
                objects.push(format!("{resource:?} {}/{}", meta.namespace, meta.name));
            }
            document::Event::Ignored { api_version, kind } => {
                objects.push(format!("ignored {api_version} {kind}"))
            }
            document::Event::Fault(error) => faults.push(error.to_string()),
        },
    );
    (objects, faults)
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  \
                       clusterIP: 10.0.0.1\n  ports:\n  - port: 80\n";

#[test]
fn a_file_may_hold_several_documents() {
    let text = format!(
        "# a comment\n---\n{SERVICE}---\n---\nkind: Namespace\napiVersion: v1\nmetadata: {{name: a}}\n...\n"
    );
    let (objects, faults) = read_text(&text, false);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(objects, ["Services shop/web", "Namespaces /a"]);
}

#[test]
fn a_list_is_read_item_by_item_wherever_its_kind_stands() {
    let text = "apiVersion: v1\nitems:\n- addressType: IPv4\n  apiVersion: discovery.k8s.io/v1\n  endpoints:\n  \
                - addresses: [10.1.0.1]\n  kind: EndpointSlice\n  metadata:\n    name: web-1\n    namespace: shop\n\
                - apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n- apiVersion: apps/v1\n  kind: Deployment\n  \
                spec: {items: 7}\nkind: List\nmetadata: {}\n";
    let (objects, faults) = read_text(text, false);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        objects,
        [
            "EndpointSlices shop/web-1",
            "Pods default/p",
            "ignored apps/v1 Deployment"
        ]
    );
    let text = r#"{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}]}"#;
    assert_eq!(read_text(text, true).0, ["Services default/a"]);
    let (objects, faults) = read_text(r#"{"kind":"List","apiVersion":"v1","items":null}"#, true);
    assert!(objects.is_empty() && faults.is_empty(), "{faults:?}");
}

#[test]
fn an_import_is_an_object_in_its_one_version() {
    let text = |version: &str| {
        format!(
            "apiVersion: multicluster.x-k8s.io/{version}\nkind: ServiceImport\nmetadata: {{name: web, namespace: shop}}\n\
             spec:\n  type: ClusterSetIP\n  ips: [10.97.0.1]\n  ports:\n  - {{name: http, port: 80}}\n"
        )
    };
    let (objects, faults) = read_text(&text("v1alpha1"), false);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(objects, ["ServiceImports shop/web"]);
    assert_eq!(
        read_text(&text("v1"), false).0,
        ["ignored multicluster.x-k8s.io/v1 ServiceImport"]
    );
}

#[test]
fn what_is_not_of_dns_is_ignored_whatever_its_shape() {
    let text = "apiVersion: example.org/v1\nkind: Service\nspec: {ports: nonsense, clusterIPs: 7}\nitems: [1, [2]]\n";
    assert_eq!(read_text(text, false).0, ["ignored example.org/v1 Service"]);
}

#[test]
fn a_fault_names_its_line_and_leaves_the_other_documents_alone() {
    let text = format!(
        "{SERVICE}---\napiVersion: v1\nkind: Service\nmetadata:\n  name: b\nspec:\n  ports:\n  - port: high\n---\n{SERVICE}"
    );
    let (objects, faults) = read_text(&text, false);
    assert_eq!(objects.len(), 2);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("17:"), "{faults:?}");
}

#[test]
fn a_half_written_document_is_a_fault() {
    for text in [
        "apiVersion: v1\nkind: Serv",
        "apiVersion: v1\nmetadata: {name: a",
        "metadata: {name: a}",
        "just text",
    ] {
        let (objects, faults) = read_text(text, false);
        let ignored = objects == ["ignored v1 Serv"];
        assert!(
            ignored || objects.is_empty() && faults.len() == 1,
            "{text}: {objects:?} {faults:?}"
        );
    }
    let (_, faults) = read_text("{\"apiVersion\":\"v1\",\n\"kind\":\"Service\",", true);
    assert!(faults[0].starts_with("2:"), "{faults:?}");
}

#[test]
fn a_fault_speaks_to_who_wrote_the_file_only() {
    let (_, faults) = read_text("apiVersion: v1\nkind: Pod\nkind: Service\n", false);
    assert_eq!(faults, ["3:1: duplicate mapping key: kind"]);
}

/// Keeps what it is told.
#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
}

impl Heard {
    fn say(&self, line: String) {
        self.lines.lock().expect("nobody panics").push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().expect("nobody panics"))
    }
}

impl ObjectSink for Heard {
    fn list_started(&self, resource: Resource) {
        self.say(format!("start {resource:?}"));
    }

    fn listed(&self, object: Object) {
        self.say(object.meta().name.to_string());
    }

    fn list_finished(&self, resource: Resource) {
        self.say(format!("end {resource:?}"));
    }

    fn applied(&self, _: Object) {}

    fn deleted(&self, _: Resource, _: &str, _: &str) {}
}

/// The Namespaces and Services of a folder.
fn lists(folder: &Path, filter: &Filter) -> Vec<String> {
    let heard = Heard::default();
    let contents = load(&[folder.to_owned()], filter).expect("good files");
    let wanted = [Resource::Namespaces, Resource::Services];
    feed(contents, filter, &wanted, &heard);
    heard.take()
}

#[test]
fn namespaces_are_implied_by_their_objects() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), SERVICE).expect("written");
    std::fs::write(folder.path().join(".hidden.yaml"), "nonsense").expect("written");
    std::fs::write(folder.path().join("notes.txt"), "nonsense").expect("written");
    assert_eq!(
        lists(folder.path(), &Filter::default()),
        [
            "start Namespaces",
            "shop",
            "end Namespaces",
            "start Services",
            "web",
            "end Services"
        ]
    );
}

fn filter(labels: &str, namespace_labels: &str) -> Filter {
    let selector = |text| Selector::parse(text).expect("a selector");
    Filter {
        labels: selector(labels),
        namespace_labels: selector(namespace_labels),
    }
}

/// A list of the one resource's names, out of all that was heard.
fn listed(heard: &[String], resource: &str) -> Vec<String> {
    let after = heard
        .iter()
        .skip_while(|line| **line != format!("start {resource}"));
    let names = after.skip(1).take_while(|line| !line.starts_with("end "));
    names.cloned().collect()
}

#[test]
fn labels_choose_objects_and_leave_their_namespaces_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "apiVersion: v1\nkind: List\nitems:\n\
                - {apiVersion: v1, kind: Service, metadata: {name: blue, namespace: a, labels: {color: blue}}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: none, namespace: b, labels: null}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: flag, namespace: c, labels: {color: null}}}\n";
    std::fs::write(folder.path().join("a.yaml"), text).expect("written");
    for (labels, services) in [
        ("color=blue", vec!["blue"]),
        ("color!=blue", vec!["none", "flag"]),
        ("color", vec!["blue", "flag"]),
        ("!color", vec!["none"]),
        ("color=", vec!["flag"]),
        ("", vec!["blue", "none", "flag"]),
    ] {
        let heard = lists(folder.path(), &filter(labels, ""));
        assert_eq!(listed(&heard, "Services"), services, "{labels}");
        assert_eq!(listed(&heard, "Namespaces"), ["a", "b", "c"], "{labels}");
    }
}

#[test]
fn a_slice_keeps_its_service_where_labels_are_looked_at() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, \
                labels: {color: blue, kubernetes.io/service-name: web}}\nendpoints: []\n";
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), text).expect("written");
    let contents = load(&[folder.path().to_owned()], &filter("color in (blue)", ""));
    let contents = contents.expect("a good file");
    let services: Vec<&str> = contents
        .objects
        .iter()
        .map(|object| match object {
            Object::EndpointSlice(slice) => &*slice.service,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(services, ["web"]);
}

/// A Namespace that no file lists has no labels, so what asks for one hides it.
#[test]
fn namespace_labels_choose_namespaces_whether_listed_or_implied() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "{SERVICE}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: gold, labels: {{tier: gold}}}}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {{name: lead, labels: {{tier: lead}}}}\n---\n{}",
        SERVICE.replace("namespace: shop", "namespace: lead")
    );
    std::fs::write(folder.path().join("a.yaml"), text).expect("written");
    for (labels, namespaces) in [
        ("tier=gold", vec!["gold"]),
        ("tier!=gold", vec!["lead", "shop"]),
        ("!tier", vec!["shop"]),
        ("tier", vec!["gold", "lead"]),
        ("", vec!["gold", "lead", "shop"]),
    ] {
        let heard = lists(folder.path(), &filter("", labels));
        assert_eq!(listed(&heard, "Namespaces"), namespaces, "{labels}");
        // What lies in a hidden namespace is read all the same, as from an API server.
        assert_eq!(listed(&heard, "Services"), ["web", "web"], "{labels}");
    }
}

#[test]
fn what_cannot_be_read_is_said_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing.yaml");
    let faults =
        load(std::slice::from_ref(&missing), &Filter::default()).expect_err("it is missing");
    assert!(
        faults[0]
            .to_string()
            .starts_with(&format!("{}: ", missing.display()))
    );
    let binary = folder.path().join("b.yaml");
    std::fs::write(&binary, [0xff, 0xfe, 0xff]).expect("written");
    let faults =
        load(std::slice::from_ref(&binary), &Filter::default()).expect_err("it is no text");
    assert_eq!(
        faults[0].to_string(),
        format!("{}: not UTF-8", binary.display())
    );
    std::fs::write(&binary, "kind: [").expect("written");
    let fault = load(std::slice::from_ref(&binary), &Filter::default()).expect_err("it is no YAML")
        [0]
    .to_string();
    assert!(
        fault.starts_with(&format!("{}:1:", binary.display())),
        "{fault}"
    );
}

/// Waits for a state, at most as long as a loaded machine may take.
async fn until(reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_change_is_served_and_a_bad_file_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.yaml");
    std::fs::write(&path, SERVICE).expect("written");
    let cluster = Arc::new(crate::cluster::Cluster::new(
        &[Resource::Namespaces, Resource::Services],
        crate::cluster::Keep::default(),
    ));
    let sink: Arc<dyn ObjectSink> = cluster.clone();
    let runtime = tokio::runtime::Handle::current();
    let manifests = start(
        vec![path.clone()],
        Filter::default(),
        cluster.wanted(),
        sink,
        &runtime,
    )
    .map_err(|faults| faults[0].to_string());
    let _manifests = manifests.expect("a good file");
    assert!(cluster.synced());
    let has = |labels: &[u8]| cluster.table.service(labels).is_some();
    assert!(has(b"\x03web\x04shop"));
    // As editors do: written beside, then renamed over.
    let beside = folder.path().join("new");
    std::fs::write(&beside, SERVICE.replace("name: web", "name: api")).expect("written");
    std::fs::rename(&beside, &path).expect("renamed");
    // What a list does not name goes when it ends.
    until(|| has(b"\x03api\x04shop") && !has(b"\x03web\x04shop")).await;
    // A half-written file, then the whole: had the first been taken for an empty cluster, `api` would have gone.
    std::fs::write(&path, "kind: [").expect("written");
    tokio::time::sleep(QUIET * 4).await;
    assert!(has(b"\x03api\x04shop"));
    std::fs::write(&path, SERVICE.replace("name: web", "name: db")).expect("written");
    until(|| has(b"\x02db\x04shop")).await;
}

#[tokio::test]
async fn a_bad_file_at_start_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.yaml");
    std::fs::write(&path, "kind: [").expect("written");
    let runtime = tokio::runtime::Handle::current();
    let started = start(
        vec![path],
        Filter::default(),
        &[Resource::Services],
        Arc::new(Heard::default()),
        &runtime,
    );
    assert_eq!(started.map(drop).expect_err("a fault").len(), 1);
}

#[tokio::test]
async fn a_folder_that_was_deleted_and_made_anew_is_watched_again() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("objects");
    let path = folder.join("cluster.yaml");
    let named = |name: &str| SERVICE.replace("name: web", &format!("name: {name}"));
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(&path, named("web")).expect("written");
    let cluster = Arc::new(crate::cluster::Cluster::new(
        &[Resource::Namespaces, Resource::Services],
        crate::cluster::Keep::default(),
    ));
    let sink: Arc<dyn ObjectSink> = cluster.clone();
    let runtime = tokio::runtime::Handle::current();
    let manifests = start(
        vec![folder.clone()],
        Filter::default(),
        cluster.wanted(),
        sink,
        &runtime,
    )
    .map_err(|faults| faults[0].to_string());
    let _manifests = manifests.expect("a good folder");
    let has = |labels: &[u8]| cluster.table.service(labels).is_some();
    std::fs::remove_dir_all(&folder).expect("removed");
    tokio::time::sleep(QUIET * 4).await;
    assert!(has(b"\x03web\x04shop"), "the last good state stays");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(&path, named("api")).expect("written");
    until(|| has(b"\x03api\x04shop")).await;
    // The event that tells of the new folder is used up: this one must come from the folder itself.
    tokio::time::sleep(QUIET * 4).await;
    std::fs::write(&path, named("db")).expect("written");
    until(|| has(b"\x02db\x04shop")).await;
}

#[test]
fn what_is_written_to_a_log_beside_the_files_has_them_read_no_more() {
    use notify::event::{CreateKind, DataChange, RemoveKind, RenameMode};
    let names = BTreeSet::from(["objects".into()]);
    let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    for (kind, path, concerns) in [
        (written, "/etc/dns/output.log", false),
        (written, "/etc/dns/.cluster.yaml.swp", false),
        (written, "/etc/dns/objects", true),
        (written, "/etc/dns/cluster.yaml", true),
        // How kubelet changes what a ConfigMap holds.
        (renamed, "/etc/dns/..data", true),
        (EventKind::Create(CreateKind::File), "/etc/dns/a", true),
        (EventKind::Remove(RemoveKind::Folder), "/etc/dns", true),
        (
            EventKind::Access(notify::event::AccessKind::Any),
            "/etc/dns/objects",
            false,
        ),
        // Events were lost.
        (EventKind::Other, "/etc/dns", true),
    ] {
        let event = notify::Event::new(kind).add_path(path.into());
        assert_eq!(!is_of_no_concern(&event, &names), concerns, "{event:?}");
    }
}
