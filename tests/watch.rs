//! The watch against an API server that misbehaves on purpose.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fake_api.rs"]
mod fake_api;
#[path = "support/recorder.rs"]
mod recorder;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_api::{Answer, Asked, FakeApi, Then};
use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::objects::Resource::{
    self, EndpointSlices, Namespaces, Pods, ServiceImports, Services,
};
use fingerpost::cluster::source::{ApiSource, Limits};
use fingerpost::cluster::watch::pace::Pace;
use fingerpost::cluster::watch::{WatchHandle, WatchPlan, start_on};
use fingerpost::server::process::Process;
use recorder::Recorder;

/// A watch of a fake API server.
struct Watched {
    api: FakeApi,
    sink: Arc<Recorder>,
    handle: Arc<WatchHandle>,
    process: Arc<Process>,
    _runtime: tokio::runtime::Runtime,
}

/// As in production, with delays that a test can wait for.
fn pace() -> Pace {
    Pace {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(20),
        connect_delay_max: Duration::from_millis(20),
        refused_delay_max: Duration::from_millis(20),
        ..Pace::default()
    }
}

fn watch_at(
    pace: Pace,
    resources: &[Resource],
    script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> Watched {
    let api = FakeApi::start(script);
    let source = ApiSource::Endpoint {
        url: api.url(),
        tls: None,
    };
    let connection = Connection::of(&source, &Surroundings::default()).unwrap();
    watch_over(connection, pace, resources, api)
}

/// Within limits, at the usual pace.
fn watch_within(
    limits: Limits,
    resources: &[Resource],
    script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> Watched {
    let api = FakeApi::start(script);
    let source = ApiSource::Endpoint {
        url: api.url(),
        tls: None,
    };
    let connection = Connection::of(&source, &Surroundings::default()).unwrap();
    let plan = WatchPlan {
        resources: resources.to_vec(),
        limits,
        ..WatchPlan::default()
    };
    watch_plan(connection, pace(), plan, api)
}

fn watch_over(connection: Connection, pace: Pace, resources: &[Resource], api: FakeApi) -> Watched {
    // As fast as the script goes: what the limits do has tests of its own.
    let plan = WatchPlan {
        resources: resources.to_vec(),
        limits: Limits {
            interval: Some(Duration::ZERO),
            ..Limits::default()
        },
        ..WatchPlan::default()
    };
    watch_plan(connection, pace, plan, api)
}

fn watch_plan(connection: Connection, pace: Pace, plan: WatchPlan, api: FakeApi) -> Watched {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let process = Process::new(runtime.handle().clone());
    let sink = Recorder::new();
    let handle = start_on(connection, plan, sink.clone(), &process, pace).unwrap();
    Watched {
        api,
        sink,
        handle,
        process,
        _runtime: runtime,
    }
}

fn watch(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Watched {
    watch_at(pace(), &[Namespaces], script)
}

impl Watched {
    #[track_caller]
    fn wait_for_names(&self, names: &[&str]) {
        self.sink.wait(&format!("{names:?}"), |heard| {
            heard.lists_of(Namespaces) > 0 && heard.names(Namespaces) == names
        });
    }

    /// How often the watch of a resource failed for a reason.
    fn failures(&self, resource: &str, reason: &str) -> u64 {
        let families = self.process.metrics.registry().gather();
        let wanted = [("reason", reason), ("resource", resource)];
        families
            .iter()
            .filter(|family| family.name() == "fingerpost_kubernetes_watch_failures_total")
            .flat_map(|family| family.get_metric())
            .filter(|metric| {
                let labels = metric
                    .get_label()
                    .iter()
                    .map(|label| (label.name(), label.value()));
                labels.eq(wanted)
            })
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }
}

fn namespace(kind: &str, name: &str, version: u32) -> String {
    format!(
        r#"{{"type":"{kind}","object":{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}}}"#
    )
}

fn list_ends(version: u32) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{version}",
        "annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    )
    .replace('\n', "")
}

/// A list of the named, then whatever.
fn list(names: &[&str], version: u32, more: &[String], then: Then) -> Answer {
    let mut events: Vec<_> = names
        .iter()
        .map(|name| namespace("ADDED", name, version))
        .collect();
    events.push(list_ends(version));
    events.extend_from_slice(more);
    Answer::events(&events, then)
}

fn expired() -> String {
    r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#.into()
}

#[test]
fn a_streamed_list_is_followed_by_changes() {
    let changes = [
        namespace("ADDED", "c", 11),
        namespace("DELETED", "a", 12),
        r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"13"}}}"#.to_owned(),
    ];
    let watched = watch(move |_| list(&["a", "b"], 10, &changes, Then::Hold));
    watched.wait_for_names(&["/b", "/c"]);
    let asked = watched.api.next();
    assert!(asked.uri.starts_with(
        "/api/v1/namespaces?watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
         &resourceVersionMatch=NotOlderThan&timeoutSeconds="
    ));
    assert_eq!(
        asked.header("accept"),
        Some("application/vnd.kubernetes.protobuf;stream=watch,application/json")
    );
    let agent = asked.header("user-agent").unwrap();
    assert!(
        agent.starts_with(concat!("Fingerpost/", env!("CARGO_PKG_VERSION"))),
        "{agent}"
    );
    while watched.handle.status()[0].resource_version.as_deref() != Some("13") {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let status = &watched.handle.status()[0];
    assert!(status.synced && status.connected && status.silent_for.is_some());
}

#[test]
fn an_expired_version_is_listed_again_and_what_it_does_not_name_is_gone() {
    let watched = watch(|asked| match asked.nth {
        0 => list(&["a", "b"], 10, &[expired()], Then::Hold),
        _ => list(&["b", "c"], 20, &[], Then::Hold),
    });
    watched.wait_for_names(&["/b", "/c"]);
    assert!(watched.api.next().is_streamed_list());
    assert!(watched.api.next().is_streamed_list());
}

#[test]
fn an_expired_version_in_the_head_of_a_reply_is_listed_again_too() {
    let pace = Pace {
        early_end: Duration::ZERO,
        ..pace()
    };
    let watched = watch_at(pace, &[Namespaces], |asked| match asked.nth {
        0 => list(&["a"], 10, &[], Then::End),
        1 => Answer::refusal(410, "gone"),
        _ => list(&["b"], 20, &[], Then::Hold),
    });
    watched.wait_for_names(&["/b"]);
    assert!(watched.api.next().is_streamed_list());
    assert!(watched.api.next().uri.contains("resourceVersion=10&"));
    assert!(watched.api.next().is_streamed_list());
}

#[test]
fn endless_expiry_is_slowed_down() {
    let pace = Pace {
        delay_min: Duration::from_secs(3600),
        delay_max: Duration::from_secs(3600),
        ..Pace::default()
    };
    let watched = watch_at(pace, &[Namespaces], |_| {
        list(&["a"], 10, &[expired()], Then::Hold)
    });
    while watched.failures("namespaces", "expired") < 2 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    // The first was followed up at once; the second waits for its hour.
    watched.api.next();
    watched.api.next();
    assert_eq!(watched.api.rest().len(), 0);
}

#[test]
fn a_watch_that_ends_at_once_counts_as_a_failure() {
    let pace = Pace {
        delay_min: Duration::from_secs(3600),
        delay_max: Duration::from_secs(3600),
        early_end: Duration::from_secs(3600),
        ..Pace::default()
    };
    let watched = watch_at(pace, &[Namespaces], |_| list(&["a"], 10, &[], Then::End));
    while watched.failures("namespaces", "ended_early") == 0 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    watched.api.next();
    assert_eq!(watched.api.rest().len(), 0);
}

#[test]
fn a_list_that_ends_in_the_middle_takes_nothing_away() {
    let watched = watch(|asked| match asked.nth {
        0 => list(&["a", "b"], 10, &[expired()], Then::Hold),
        1 => Answer::events(&[namespace("ADDED", "a", 10)], Then::End),
        _ => Answer::Silence,
    });
    for _ in 0..3 {
        watched.api.next();
    }
    watched.wait_for_names(&["/a", "/b"]);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let pace = Pace {
        reply: Duration::from_millis(50),
        ..pace()
    };
    let watched = watch_at(pace, &[Namespaces], |asked| match asked.nth {
        0 => Answer::Silence,
        _ => list(&["a"], 10, &[], Then::Hold),
    });
    watched.wait_for_names(&["/a"]);
    assert_eq!(watched.failures("namespaces", "silent"), 1);
}

#[test]
fn a_watch_without_bookmarks_is_given_up_and_listed_again() {
    let pace = Pace {
        idle: Duration::from_millis(50),
        ..pace()
    };
    let watched = watch_at(pace, &[Namespaces], |asked| match asked.nth {
        0 => list(&["a"], 10, &[], Then::Hold),
        _ => list(&["b"], 20, &[], Then::Hold),
    });
    watched.wait_for_names(&["/b"]);
    watched.api.next();
    assert!(watched.api.next().is_streamed_list());
}

fn page(names: &[&str], version: u32, next: &str) -> Answer {
    let items: Vec<_> = names
        .iter()
        .map(|name| format!(r#"{{"metadata":{{"name":"{name}"}}}}"#))
        .collect();
    Answer::json(
        200,
        &format!(
            r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{}]}}"#,
            items.join(",")
        ),
    )
}

#[test]
fn a_server_without_streamed_lists_is_listed_in_pages() {
    let watched = watch(|asked| match asked.nth {
        0 => Answer::refusal(422, "sendInitialEvents is forbidden for watch"),
        1 => page(&["a"], 30, "to/ken="),
        2 => page(&["b"], 30, ""),
        _ => Answer::events(&[namespace("ADDED", "c", 31)], Then::Hold),
    });
    watched.wait_for_names(&["/a", "/b", "/c"]);
    let uris: Vec<_> = (0..4).map(|_| watched.api.next().uri).collect();
    assert_eq!(uris[1], "/api/v1/namespaces?limit=500");
    assert_eq!(uris[2], "/api/v1/namespaces?limit=500&continue=to%2Fken%3D");
    assert!(uris[3].contains("watch=true&allowWatchBookmarks=true&resourceVersion=30&"));
}

#[test]
fn a_server_that_does_not_know_streamed_lists_and_says_nothing_is_listed_in_pages() {
    let pace = Pace {
        list_idle: Duration::from_millis(50),
        ..pace()
    };
    let watched = watch_at(pace, &[Namespaces], |asked| match asked.nth {
        // The parameters are unknown to it: it sends what there is and goes on to watch.
        0 => Answer::events(&[namespace("ADDED", "a", 10)], Then::Hold),
        1 => page(&["a", "b"], 30, ""),
        _ => Answer::events(&[], Then::Hold),
    });
    watched.wait_for_names(&["/a", "/b"]);
}

#[test]
fn a_page_token_that_expires_leads_to_one_large_page() {
    let watched = watch(|asked| match asked.nth {
        0 => Answer::refusal(400, "no"),
        1 => page(&["a"], 30, "token"),
        2 => Answer::refusal(410, "the token has expired"),
        3 => page(&["b", "c"], 40, ""),
        _ => Answer::events(&[], Then::Hold),
    });
    watched.wait_for_names(&["/b", "/c"]);
    let uris: Vec<_> = (0..4).map(|_| watched.api.next().uri).collect();
    assert_eq!(uris[3], "/api/v1/namespaces?limit=0");
}

#[test]
fn a_missing_right_stops_one_resource_until_it_is_granted() {
    let granted = Arc::new(AtomicBool::new(false));
    let role = granted.clone();
    let watched = watch_at(pace(), &[Namespaces, Services], move |asked| {
        if asked.uri.contains("/namespaces?") && !role.load(Ordering::SeqCst) {
            return Answer::refusal(403, "namespaces is forbidden");
        }
        let kind = if asked.uri.contains("/services?") {
            "service"
        } else {
            "namespace"
        };
        list(&[kind], 10, &[], Then::Hold)
    });
    watched
        .sink
        .wait("services", |heard| heard.lists_of(Services) == 1);
    while watched.failures("namespaces", "forbidden") < 3 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(watched.sink.look(|heard| heard.lists_of(Namespaces)), 0);
    let trouble = watched.handle.status()[0].trouble.clone();
    let expected = "namespaces is forbidden (403)".to_owned();
    assert_eq!(trouble, Some(("forbidden", expected)));
    granted.store(true, Ordering::SeqCst);
    watched.wait_for_names(&["/namespace"]);
}

#[test]
fn that_a_resource_is_not_defined_counts_as_heard() {
    let quick = Pace {
        absent_delay: Duration::from_millis(5),
        ..pace()
    };
    let watched = watch_at(quick, &[ServiceImports], |_| {
        Answer::refusal(404, "no such resource")
    });
    watched.sink.wait("a list of nothing", |heard| {
        heard.lists_of(ServiceImports) > 1
    });
    assert!(watched.handle.status()[0].silent_for.is_some());
}

#[test]
fn a_server_without_protobuf_is_asked_for_json() {
    let watched = watch(|asked| match asked.header("accept") {
        Some("application/json") => list(&["a"], 10, &[], Then::Hold),
        _ => Answer::refusal(406, "only application/json"),
    });
    watched.wait_for_names(&["/a"]);
}

#[test]
fn protobuf_that_cannot_be_read_leads_to_json() {
    let watched = watch(|asked| match asked.header("accept") {
        Some("application/json") => list(&["a"], 10, &[], Then::Hold),
        _ => Answer::Reply(
            200,
            "application/vnd.kubernetes.protobuf;stream=watch",
            "",
            vec![b"\xff\xff\xff\xffnot a frame".to_vec()],
            Then::Hold,
        ),
    });
    watched.wait_for_names(&["/a"]);
    assert_eq!(watched.failures("namespaces", "garbled"), 1);
}

/// Asks for lists, each of which expires at once, until there were as many as `expected` has letters: `p` where protobuf
/// may be sent, `j` where not. The first `garbled` of the former cannot be read.
#[track_caller]
fn assert_encodings(garbled: usize, expected: &str) {
    let asked_for_protobuf = AtomicUsize::new(0);
    let watched = watch(move |asked| {
        let is_garbled = asked.header("accept") != Some("application/json")
            && asked_for_protobuf.fetch_add(1, Ordering::SeqCst) < garbled;
        if is_garbled {
            let octets = b"\xff\xff\xff\xffnot a frame".to_vec();
            let kind = "application/vnd.kubernetes.protobuf;stream=watch";
            return Answer::Reply(200, kind, "", vec![octets], Then::Hold);
        }
        list(&["a"], 10, &[expired()], Then::Hold)
    });
    let encodings: String = (0..expected.len())
        .map(|_| watched.api.next())
        .inspect(|asked| assert!(asked.is_streamed_list(), "{}", asked.uri))
        .map(|asked| match asked.header("accept") {
            Some("application/json") => 'j',
            _ => 'p',
        })
        .collect();
    assert_eq!(encodings, expected);
}

#[test]
fn protobuf_is_tried_again_after_some_lists_and_then_less_and_less() {
    assert_encodings(usize::MAX, "pjpjjpjjjjp");
    assert_encodings(1, "pjppp");
}

#[test]
fn an_object_that_cannot_be_read_hurts_no_other() {
    let bad = r#"{"type":"ADDED","object":{"metadata":{"name":7}}}"#.to_owned();
    let more = [bad, namespace("ADDED", "b", 11)];
    let watched = watch(move |_| list(&["a"], 10, &more, Then::Hold));
    watched.wait_for_names(&["/a", "/b"]);
}

#[test]
fn a_reply_of_some_proxy_is_a_failure_and_no_list() {
    let watched = watch(|asked| match asked.nth {
        0 => Answer::Reply(200, "text/html", "", vec![b"<html>\n".to_vec()], Then::End),
        1 => Answer::Reply(
            302,
            "text/html",
            "Location: /elsewhere\r\n",
            vec![],
            Then::End,
        ),
        _ => list(&["a"], 10, &[], Then::Hold),
    });
    watched.wait_for_names(&["/a"]);
    assert_eq!(watched.sink.look(|heard| heard.lists_of(Namespaces)), 1);
}

#[test]
fn after_a_cut_the_watch_goes_on_where_it_was() {
    let watched = watch(|asked| match asked.nth {
        0 => list(&["a"], 10, &[namespace("ADDED", "b", 11)], Then::Cut),
        1 => Answer::json(200, r#"{"items":[]}"#),
        _ => Answer::events(&[namespace("ADDED", "c", 12)], Then::Hold),
    });
    watched.wait_for_names(&["/a", "/b", "/c"]);
    watched.api.next();
    assert_eq!(
        watched.api.next().uri,
        "/api/v1/namespaces?limit=1&resourceVersionMatch=NotOlderThan&resourceVersion=11"
    );
    assert!(watched.api.next().uri.contains("&resourceVersion=11&"));
}

#[test]
fn a_server_whose_data_went_back_in_time_is_listed_again() {
    let watched = watch(|asked| match asked.nth {
        0 => list(&["a", "new"], 900, &[], Then::Cut),
        1 => Answer::json(
            504,
            r#"{"kind":"Status","code":504,"reason":"Timeout","message":"Too large resource version: 900, current: 500",
            "details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#,
        ),
        _ => list(&["a", "old"], 500, &[], Then::Hold),
    });
    watched.wait_for_names(&["/a", "/old"]);
}

#[test]
fn a_renewed_token_is_used_for_the_next_request_and_a_missing_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let file = token.clone();
    let api = FakeApi::start(move |asked| {
        match asked.nth {
            0 => std::fs::write(&file, "second").unwrap(),
            1 => std::fs::remove_file(&file).unwrap(),
            _ => {}
        }
        Answer::refusal(401, "Unauthorized")
    });
    let kubeconfig = folder.path().join("config");
    let text = format!(
        "current-context: here\ncontexts: [{{name: here, context: {{cluster: here, user: me}}}}]\n\
         clusters: [{{name: here, cluster: {{server: \"{}\"}}}}]\n\
         users: [{{name: me, user: {{tokenFile: token}}}}]\n",
        api.url()
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let source = ApiSource::Kubeconfig {
        path: kubeconfig,
        context: None,
    };
    let connection = Connection::of(&source, &Surroundings::default()).unwrap();
    let watched = watch_over(connection, pace(), &[Namespaces], api);
    let sent: Vec<_> = (0..3)
        .map(|_| {
            watched
                .api
                .next()
                .header("authorization")
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert_eq!(sent, ["Bearer first", "Bearer second", "Bearer second"]);
}

#[test]
fn a_bookmark_of_the_past_does_not_take_us_back() {
    let bookmark = |version: u32| {
        format!(
            r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{version}"}}}}}}"#
        )
    };
    let more = [
        bookmark(30),
        bookmark(20),
        namespace("ADDED", "b", 31),
        bookmark(25),
    ];
    let watched = watch(move |asked| match asked.nth {
        0 => list(&["a"], 10, &more, Then::Cut),
        1 => Answer::json(200, r#"{"items":[]}"#),
        _ => Answer::events(&[], Then::Hold),
    });
    watched.wait_for_names(&["/a", "/b"]);
    watched.api.next();
    assert!(watched.api.next().uri.ends_with("&resourceVersion=31"));
    assert!(watched.api.next().uri.contains("&resourceVersion=31&"));
}

#[test]
fn a_server_that_asks_for_time_gets_it_up_to_a_bound() {
    let pace = Pace {
        retry_after_max: Duration::from_millis(300),
        ..pace()
    };
    let began = Instant::now();
    let watched = watch_at(pace, &[Namespaces], |asked| match asked.nth {
        0 => Answer::Reply(
            429,
            "text/plain",
            "Retry-After: 3600\r\n",
            vec![],
            Then::End,
        ),
        1 => Answer::Reply(
            503,
            "text/plain",
            "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n",
            vec![],
            Then::End,
        ),
        _ => list(&["a"], 10, &[], Then::Hold),
    });
    watched.wait_for_names(&["/a"]);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(watched.failures("namespaces", "refused"), 2);
}

/// A kubeconfig with one user.
fn kubeconfig(folder: &std::path::Path, url: &str, user: &str) -> ApiSource {
    let path = folder.join("config");
    let text = format!(
        "current-context: here\ncontexts: [{{name: here, context: {{cluster: here, user: me}}}}]\n\
         clusters: [{{name: here, cluster: {{server: \"{url}\"}}}}]\n\
         users: [{{name: me, user: {user}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    ApiSource::Kubeconfig {
        path,
        context: None,
    }
}

#[test]
fn a_kubeconfig_that_was_renewed_is_read_again_when_the_server_refuses_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::start(|asked| match asked.header("authorization") {
        Some("Bearer second") => list(&["a"], 10, &[], Then::Hold),
        _ => Answer::refusal(401, "Unauthorized"),
    });
    let url = api.url();
    let source = kubeconfig(folder.path(), &url, "{token: first}");
    let connection = Connection::of(&source, &Surroundings::default()).unwrap();
    let pace = Pace {
        renew_min: Duration::ZERO,
        ..pace()
    };
    let watched = watch_over(connection, pace, &[Namespaces], api);
    while watched.failures("namespaces", "unauthorized") == 0 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    kubeconfig(folder.path(), &url, "{token: second}");
    watched.wait_for_names(&["/a"]);
    assert_eq!(watched.handle.status()[0].trouble, None);
}

#[test]
fn a_credential_program_that_hangs_holds_up_no_other_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let program = format!(
        "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, interactiveMode: Never, \
         args: [-c, \"echo >> {0}; while test -e {0}; do sleep 0.01; done; exit 1\"]}}}}",
        calls.display()
    );
    let hung = FakeApi::start(|_| Answer::Silence);
    let source = kubeconfig(folder.path(), &hung.url(), &program);
    let stuck = Connection::of(&source, &Surroundings::default()).unwrap();
    let pace = Pace {
        reply: Duration::from_millis(50),
        ..pace()
    };
    let first = watch_over(stuck, pace, &[Namespaces], hung);
    while first.failures("namespaces", "credentials") < 3 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    // One program, however often it was waited for.
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "\n");
    // Another cluster of the same process, on the same thread.
    let api = FakeApi::start(|_| list(&["a"], 10, &[], Then::Hold));
    let source = ApiSource::Endpoint {
        url: api.url(),
        tls: None,
    };
    let connection = Connection::of(&source, &Surroundings::default()).unwrap();
    let plan = WatchPlan {
        resources: vec![Namespaces],
        ..WatchPlan::default()
    };
    let sink = Recorder::new();
    let second = start_on(connection, plan, sink.clone(), &first.process, pace).unwrap();
    sink.wait("the list", |heard| heard.lists_of(Namespaces) == 1);
    drop(second);
    std::fs::remove_file(&calls).unwrap();
}

#[test]
fn dropping_the_handle_ends_the_watch() {
    let Watched {
        api,
        sink,
        handle,
        process,
        _runtime,
    } = watch(|_| list(&["a"], 10, &[], Then::Hold));
    sink.wait("the list", |heard| heard.lists_of(Namespaces) == 1);
    api.next();
    drop(handle);
    // The task holds the sink; nobody else does after this.
    let held = Arc::downgrade(&sink);
    drop(sink);
    while held.strong_count() > 0 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    drop(process);
}

const ALL: [Resource; 4] = [Namespaces, Services, EndpointSlices, Pods];

#[test]
fn limits_hold_requests_back() {
    let interval = Duration::from_millis(300);
    let limits = Limits {
        interval: Some(interval),
        burst: Some(3),
        in_flight_max: None,
    };
    let began = Instant::now();
    let watched = watch_within(limits, &ALL, |_| list(&[], 10, &[], Then::Hold));
    for _ in ALL {
        watched.api.next();
    }
    // Three at once, and the fourth in its turn.
    assert!(began.elapsed() >= interval);
    let families = watched.process.metrics.registry().gather();
    let waits = families
        .iter()
        .find(|family| {
            family.name() == "coredns_kubernetes_rest_client_rate_limiter_duration_seconds"
        })
        .unwrap()
        .get_metric()[0]
        .get_histogram();
    assert_eq!(waits.get_sample_count(), 4);
    assert!(waits.get_sample_sum() > 0.0);
}

#[test]
fn lists_take_turns_and_open_watches_do_not_count() {
    let limits = Limits {
        interval: Some(Duration::ZERO),
        burst: None,
        in_flight_max: Some(1),
    };
    let (listing, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let watched = watch_within(limits, &ALL, move |_| {
        let now = listing.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(now, Ordering::SeqCst);
        // Long enough for the others to come, if they may.
        std::thread::park_timeout(Duration::from_millis(50));
        listing.fetch_sub(1, Ordering::SeqCst);
        list(&[], 10, &[], Then::Hold)
    });
    watched.sink.wait("all lists", |heard| {
        ALL.iter().all(|&resource| heard.lists_of(resource) > 0)
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failed_list_gives_its_place_to_the_next() {
    let limits = Limits {
        interval: Some(Duration::ZERO),
        burst: None,
        in_flight_max: Some(1),
    };
    // One list breaks off, one is refused, then all go well.
    let watched = watch_within(limits, &ALL, |asked| match asked.nth {
        0 => Answer::events(&[namespace("ADDED", "a", 1)], Then::Cut),
        1 => Answer::refusal(500, "not yet"),
        _ => list(&[], 10, &[], Then::Hold),
    });
    watched.sink.wait("all lists", |heard| {
        ALL.iter().all(|&resource| heard.lists_of(resource) > 0)
    });
}
