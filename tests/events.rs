//! Events at our own Pod, at a real API server: a reload that fails shows in `kubectl describe pod`, what repeats is counted
//! up, and each verb of the Role in `deploy/base` is needed for it.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/control_plane.rs"]
mod control_plane;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use control_plane::ControlPlane;
use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::events::{Events, OwnPod};
use fingerpost::cluster::source::ApiSource;
use fingerpost::server::assembly::Herald;
use fingerpost::server::process::Process;
use hickory_proto::rr::RecordType::A;
use http::Method;
use program::{Program, wait_until};
use serde_json::{Value, json};

static PLANE: LazyLock<Option<ControlPlane>> = LazyLock::new(|| ControlPlane::start(&[]));

const RBAC: &str = "rbac.authorization.k8s.io";

/// The rules on Events as they are shipped.
fn rules() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut roles = documents.into_iter().filter(|one| one["kind"] == "Role");
    let role = roles.next().expect("the file has a Role");
    assert_eq!(role["metadata"]["namespace"], "kube-system");
    role["rules"].clone()
}

/// A service account that may what these rules say, and the folder with its credentials.
fn account(plane: &ControlPlane, name: &str, rules: &Value) -> PathBuf {
    let in_namespace = json!({"namespace": "kube-system", "name": name});
    plane.load(&json!({"items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_namespace},
        {"apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": in_namespace, "rules": rules},
        {
            "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": in_namespace,
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": name}],
        },
    ]}));
    // The API server takes a moment to hear of its own roles.
    for verb in rules[0]["verbs"].as_array().into_iter().flatten() {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:kube-system:{name}"),
                "resourceAttributes": {
                    "namespace": "kube-system", "group": "events.k8s.io", "resource": "events", "verb": verb,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        wait_until("the grant", || {
            plane.request(Method::POST, path, Some(&review))["status"]["allowed"] == true
        });
    }
    let folder = plane.folder().join(name);
    plane.write_account(&folder, &plane.token("kube-system", name));
    folder
}

/// All that `kubectl describe pod` asks for: core Events, by the Pod's UID.
fn events_of(plane: &ControlPlane, pod: &str) -> Vec<Value> {
    let path = format!(
        "/api/v1/namespaces/kube-system/events?fieldSelector=involvedObject.uid%3Duid-of-{pod},involvedObject.name%3D{pod}"
    );
    let list = plane.request(Method::GET, &path, None);
    list["items"].as_array().unwrap().clone()
}

fn own_pod(name: &str) -> OwnPod {
    OwnPod {
        namespace: "kube-system".to_owned(),
        name: name.to_owned(),
        uid: Some(format!("uid-of-{name}")),
    }
}

/// Events of a Pod by an account, with no pause between them to speak of.
struct Writer {
    events: Arc<Events>,
    _runtime: tokio::runtime::Runtime,
}

impl Writer {
    fn new(plane: &ControlPlane, name: &str, rules: &Value) -> Self {
        let around = Surroundings {
            service_host: Some("127.0.0.1".into()),
            service_port: Some(plane.port().to_string()),
            account: account(plane, name, rules),
            ..Surroundings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let process = Process::new(runtime.handle().clone());
        let connection = Connection::of(&ApiSource::Default, &around).unwrap();
        let gap = Duration::from_millis(10);
        let events = Events::new(connection, own_pod(name), gap, &process).unwrap();
        Self {
            events: Arc::new(events),
            _runtime: runtime,
        }
    }

    fn warn(&self, note: &str) {
        Arc::clone(&self.events).warn("ReloadFailed", note);
    }
}

fn without(verb: &str) -> Value {
    let mut rules = rules();
    let verbs = rules[0]["verbs"].as_array_mut().unwrap();
    verbs.retain(|granted| granted != verb);
    rules
}

#[test]
fn what_repeats_is_counted_up_and_what_is_new_is_another_event() {
    let Some(plane) = &*PLANE else { return };
    let writer = Writer::new(plane, "whole", &rules());
    writer.warn("no `a`");
    wait_until("the Event", || events_of(plane, "whole").len() == 1);
    let event = events_of(plane, "whole").remove(0);
    for (field, value) in [
        ("type", "Warning"),
        ("reason", "ReloadFailed"),
        ("message", "no `a`"),
        ("reportingComponent", "fingerpost"),
        ("reportingInstance", "whole"),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    assert_eq!(event["series"], Value::Null);
    for times in 2..=3 {
        writer.warn("no `a`");
        wait_until("the series", || {
            events_of(plane, "whole")[0]["series"]["count"] == times
        });
    }
    writer.warn("no `b`");
    wait_until("the other Event", || events_of(plane, "whole").len() == 2);
    // Somebody deletes them: the trouble is told anew.
    let path = "/api/v1/namespaces/kube-system/events";
    for event in events_of(plane, "whole") {
        let name = event["metadata"]["name"].as_str().unwrap();
        plane.request(Method::DELETE, &format!("{path}/{name}"), None);
    }
    writer.warn("no `b`");
    wait_until("the Event again", || events_of(plane, "whole").len() == 1);
}

#[test]
fn a_long_note_is_cut_to_what_the_api_server_takes() {
    let Some(plane) = &*PLANE else { return };
    let writer = Writer::new(plane, "long", &rules());
    writer.warn(&"ñ".repeat(2000));
    wait_until("the Event", || events_of(plane, "long").len() == 1);
    let event = events_of(plane, "long").remove(0);
    assert_eq!(event["message"], "ñ".repeat(512));
}

#[test]
fn each_verb_of_the_role_is_needed() {
    let Some(plane) = &*PLANE else { return };
    assert_eq!(
        rules(),
        json!([{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}])
    );
    let writer = Writer::new(plane, "no-patch", &without("patch"));
    writer.warn("no `a`");
    wait_until("the Event", || events_of(plane, "no-patch").len() == 1);
    writer.warn("no `a`");
    // It is refused; the next is a new one.
    writer.warn("no `b`");
    wait_until("the other Event", || {
        events_of(plane, "no-patch").len() == 2
    });
    let all = events_of(plane, "no-patch");
    assert!(all.iter().all(|event| event["series"] == Value::Null));

    let writer = Writer::new(plane, "no-create", &without("create"));
    writer.warn("no `a`");
    let told = Writer::new(plane, "afterwards", &rules());
    told.warn("no `a`");
    wait_until("an Event by others", || {
        events_of(plane, "afterwards").len() == 1
    });
    assert!(events_of(plane, "no-create").is_empty());
}

/// The program with the credentials of an account, as a Pod of this name.
fn start(plane: &ControlPlane, name: &str, rules: &Value) -> Program {
    let folder = account(plane, name, rules);
    let token = std::fs::read_to_string(folder.join("token")).unwrap();
    let kubeconfig = folder.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "pod"}}],
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{}", plane.host()), "certificate-authority": plane.authority(),
        }}],
        "users": [{"name": "pod", "user": {"token": token}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let mut command = program::command();
    command
        .env("POD_NAMESPACE", "kube-system")
        .env("POD_NAME", name)
        .env("POD_UID", format!("uid-of-{name}"));
    let corefile = format!(
        ".:PORT {{
    bind 127.0.0.1
    hosts {{
        10.0.0.1 a.internal
    }}
    kubernetes cluster.local {{
        kubeconfig {}
        startup_timeout 0s
    }}
}}
",
        kubeconfig.display()
    );
    Program::start_by(command, tempfile::tempdir().unwrap(), &corefile, None)
}

#[test]
fn a_reload_that_fails_shows_at_the_pod() {
    let Some(plane) = &*PLANE else { return };
    let program = start(plane, "reloading", &rules());
    program.rewrite(".:PORT {\n    bind 127.0.0.1\n    whoamy\n}\n");
    program.signal("USR1");
    wait_until("the Event", || {
        assert!(
            !program.output().contains("no Event"),
            "{}",
            program.output()
        );
        events_of(plane, "reloading").len() == 1
    });
    let event = events_of(plane, "reloading").remove(0);
    let message = event["message"].as_str().unwrap();
    let end = "Corefile:3:5 - unknown plugin `whoamy`; the configuration from before serves on";
    assert!(message.ends_with(end), "{message}");
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
}

#[test]
fn without_the_right_there_is_a_log_line_and_nothing_else() {
    let Some(plane) = &*PLANE else { return };
    let program = start(plane, "powerless", &json!([]));
    for times in 1..=3 {
        program.rewrite(&format!(".:PORT {{\n    whoamy{times}\n}}\n"));
        program.signal("USR1");
        program.wait_for_output("Corefile changed but reload failed", times);
    }
    program.wait_for_output(
        "[WARNING] plugin/reload: no Event at Pod `kube-system/powerless`: API server `",
        1,
    );
    assert!(
        program
            .output()
            .contains("does not let us `create` `events`")
    );
    assert_eq!(program.output().matches("no Event at Pod").count(), 1);
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
}
