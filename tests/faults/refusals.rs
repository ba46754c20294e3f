//! The API server is there and says no: gone, too many, forbidden, not found, elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::objects::Resource;
use fingerpost::cluster::source::ApiSource;
use fingerpost::cluster::watch::WatchPlan;
use fingerpost::cluster::watch::pace::Pace;
use hickory_proto::op::ResponseCode;
use http::Method;
use serde_json::{Value, json};

use crate::bed::{
    ALL, Fed, Served, World, endpoint, kubeconfig_with_token_file, pace, pause, wait, with_plane,
};
use crate::control_plane::ControlPlane;
use crate::fault_proxy::{FaultProxy, Treatment};

#[test]
fn a05_a_gone_watch_is_listed_again_and_old_data_stay() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a05");
        let gone = Arc::new(AtomicBool::new(false));
        let (say, silent) = (Arc::clone(&gone), Arc::clone(&gone));
        proxy.plan(move |asked| {
            if asked.is_list() && silent.load(Ordering::SeqCst) {
                return Treatment::Silence;
            }
            let say = Arc::clone(&say);
            Treatment::through(|through| {
                through.json = true;
                through.edit = Some(Box::new(move |event| {
                    let mut events = vec![event.to_vec()];
                    if say.load(Ordering::SeqCst) {
                        events = vec![
                            br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#.to_vec(),
                        ];
                    }
                    events
                }));
            })
        });
        let fed = Fed::through(proxy);
        fed.wait_synced();
        let stays = fed.addresses(&world.namespace, "stays");
        gone.store(true, Ordering::SeqCst);
        world.churn(plane, 0);
        wait("a watch of Services that is gone", || {
            fed.failures("expired") > 0 && !fed.handle.status()[1].connected
        });
        // The list hangs; what was known is known.
        pause(50);
        assert!(stays.is_some());
        assert_eq!(fed.addresses(&world.namespace, "stays"), stays);
        assert!(fed.cluster.synced());
        gone.store(false, Ordering::SeqCst);
        proxy.cut();
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a06_page_tokens_that_are_all_gone_end_in_one_large_page() {
    with_plane(|plane, proxy| {
        let world = World::new(plane, "a06");
        proxy.plan(|asked| {
            if asked.is_streamed_list() {
                // A server from before streamed lists.
                return Treatment::refusal(400, "sendInitialEvents is forbidden for watch");
            }
            if asked.uri.contains("continue=") {
                return Treatment::refusal(410, "the provided continue parameter is too old");
            }
            // So that there is a second page.
            Treatment::through(|through| through.rewrite = Some(("limit=500", "limit=1")))
        });
        let fed = Fed::through(proxy);
        fed.wait_synced();
        fed.wait_for_oracle(plane, &world);
        let whole = proxy.asked(|asked| asked.uri.contains("limit=0") && asked.is_of("services"));
        assert_eq!(whole.len(), 1);
        let vain = proxy.asked(|asked| asked.uri.contains("continue=") && asked.is_of("services"));
        assert_eq!(vain.len(), 1);
    });
}

/// Times between requests for Services of which the first `refusals` are refused with these header lines.
fn waits_after_429(
    plane: &ControlPlane,
    pace: Pace,
    headers: &'static str,
    refusals: usize,
) -> Vec<Duration> {
    let proxy = FaultProxy::start(plane);
    let count = AtomicUsize::new(0);
    proxy.plan(move |asked| {
        if asked.is_of("services") && count.fetch_add(1, Ordering::SeqCst) < refusals {
            return Treatment::json(429, headers, r#"{"kind":"Status","code":429}"#);
        }
        Treatment::pass()
    });
    let fed = Fed::at(pace, &proxy);
    fed.wait_synced();
    let asked = proxy.asked(|asked| asked.is_of("services"));
    let pairs = asked.windows(2).take(refusals);
    pairs.map(|two| two[1].at - two[0].at).collect()
}

#[test]
fn a07_too_many_requests_are_followed_by_the_wait_asked_for_within_its_bound() {
    with_plane(|plane, _| {
        let second = waits_after_429(plane, pace(), "Retry-After: 1\r\n", 1);
        assert!(second[0] >= Duration::from_secs(1), "{second:?}");
        // 30 s in production.
        let bounded = Pace {
            retry_after_max: Duration::from_millis(200),
            ..pace()
        };
        let hour = waits_after_429(plane, bounded, "Retry-After: 3600\r\n", 1);
        assert!(hour[0] >= bounded.retry_after_max, "{hour:?}");
        // Without a number of seconds (an API server sends no dates) our own growing delays hold.
        let date = "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT\r\n";
        for headers in ["", date, "Retry-After: -1\r\n"] {
            let waits = waits_after_429(plane, pace(), headers, 3);
            let least = pace().delay_min / 2;
            assert!(waits[0] >= least && waits[2] >= 4 * least, "{waits:?}");
        }
    });
}

#[test]
fn a08_a_resource_that_fails_delays_no_other() {
    with_plane(|plane, proxy| {
        let world = World::new(plane, "a08");
        let round = AtomicUsize::new(0);
        let well = Arc::new(AtomicBool::new(false));
        let mended = Arc::clone(&well);
        proxy.plan(move |asked| {
            if !asked.is_of("pods") || mended.load(Ordering::SeqCst) {
                return Treatment::pass();
            }
            let codes = [500, 503, 504, 404];
            let code = codes[round.fetch_add(1, Ordering::SeqCst) % codes.len()];
            Treatment::refusal(code, "not now")
        });
        let fed = Fed::through(proxy);
        wait("the others", || {
            ["namespaces", "services", "endpointslices"]
                .iter()
                .all(|resource| fed.lists(resource) == 1)
        });
        wait("every code", || fed.failures("refused") >= 4);
        fed.wait_for_oracle(plane, &world);
        assert!(!fed.cluster.synced());
        for resource in ["namespaces", "services", "endpointslices"] {
            assert_eq!(
                proxy.asked(|asked| asked.is_of(resource)).len(),
                1,
                "{resource}"
            );
        }
        well.store(true, Ordering::SeqCst);
        fed.wait_synced();
    });
}

/// A service account with a token, and what its role lets it watch.
struct Account<'p> {
    plane: &'p ControlPlane,
    name: String,
    token: String,
}

impl<'p> Account<'p> {
    fn new(plane: &'p ControlPlane, name: &str, core: &[&str], discovery: &[&str]) -> Self {
        let role = |resources: &[&str], group: &str| -> Value {
            json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]})
        };
        plane.load(&json!({"items": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "default", "name": name}},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
                "rules": [role(core, ""), role(discovery, "discovery.k8s.io")],
            },
        ]}));
        let this = Self {
            plane,
            name: name.to_owned(),
            token: plane.token("default", name),
        };
        this.bind();
        this
    }

    fn binding(&self) -> Value {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self.name},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": self.name}],
        })
    }

    fn bind(&self) {
        self.plane.create(&self.binding());
    }

    fn unbind(&self) {
        self.plane.delete(&self.binding());
    }

    fn grant(&self, core: &[&str], discovery: &[&str]) {
        let patch = json!({"rules": [
            {"apiGroups": [""], "resources": core, "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": discovery, "verbs": ["list", "watch"]},
        ]});
        let path = format!(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/{}",
            self.name
        );
        self.plane.request(Method::PATCH, &path, Some(&patch));
    }
}

#[test]
fn a22_a_missing_right_makes_servfail_of_what_needs_it_and_of_nothing_else() {
    with_plane(|plane, proxy| {
        let world = World::new(plane, "a22");
        let account = Account::new(plane, "a22", &["namespaces", "services"], &["none"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), &account.token).unwrap();
        kubeconfig_with_token_file(folder.path(), &proxy.url());
        let served = Served::start_in(folder, "kubeconfig kubeconfig");
        served
            .program
            .wait_for_output("`list` and `watch` on `endpointslices`", 1);
        wait("the Services", || {
            served.rcode(&world.qname("stays")) == ResponseCode::NoError
        });
        assert_eq!(served.rcode(&world.qname("moves")), ResponseCode::ServFail);
        assert_eq!(
            served.rcode(&world.qname("nothing")),
            ResponseCode::ServFail
        );
        assert_eq!(served.http("/ready").0, 503);
        account.grant(&["namespaces", "services"], &["endpointslices"]);
        wait("to be ready", || served.http("/ready").0 == 200);
        served.wait_for_oracle(plane, &world);
        let told = served
            .program
            .output()
            .matches("does not let us watch")
            .count();
        assert_eq!(told, 1, "however often it was refused");
    });
}

#[test]
fn a23_a_right_that_is_taken_away_leaves_what_is_known_until_it_is_given_back() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a23");
        let core = ["namespaces", "services", "pods"];
        let account = Account::new(plane, "a23", &core, &["endpointslices"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), &account.token).unwrap();
        let source = ApiSource::Kubeconfig {
            path: kubeconfig_with_token_file(folder.path(), &proxy.url()),
            context: None,
        };
        let connection = Connection::of(&source, &Surroundings::default()).unwrap();
        let fed = Fed::on(connection, pace());
        fed.wait_synced();
        fed.wait_for_oracle(plane, &world);
        let before = fed.state(&world.namespace, &world.names);
        account.unbind();
        // An open watch goes on; the next one is refused, once the API server has seen the change itself.
        wait("a refusal", || {
            proxy.cut();
            pause(500);
            fed.failures("forbidden") >= 4
        });
        world.churn(plane, 0);
        assert_eq!(fed.state(&world.namespace, &world.names), before);
        assert!(fed.cluster.synced());
        account.bind();
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a24_a_resource_that_the_server_does_not_know_keeps_no_other_waiting() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "a24");
        // No CustomResourceDefinition makes ServiceImports known here.
        let plan = WatchPlan {
            resources: [&ALL[..], &[Resource::ServiceImports]].concat(),
            ..WatchPlan::default()
        };
        let connection = Connection::of(&endpoint(proxy.url()), &Surroundings::default()).unwrap();
        // A minute or so in production.
        let pace = Pace {
            absent_delay: Duration::from_millis(50),
            ..pace()
        };
        let fed = Fed::planned(connection, plan, pace);
        let others = ["namespaces", "services", "endpointslices", "pods"];
        wait("the others", || {
            others.iter().all(|one| fed.lists(one) == 1)
        });
        fed.wait_for_oracle(plane, &world);
        wait("to be told that there are none", || {
            fed.failures("absent") >= 2
        });
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
    });
}

#[test]
fn a30_a_redirect_is_refused_and_no_token_leaks() {
    with_plane(|plane, proxy| {
        let world = World::new(plane, "a30");
        let elsewhere = FaultProxy::start(plane);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "test-admin").unwrap();
        let source = ApiSource::Kubeconfig {
            path: kubeconfig_with_token_file(folder.path(), &proxy.url()),
            context: None,
        };
        let fed = Fed::over(&source, pace());
        fed.wait_synced();
        let before = fed.state(&world.namespace, &world.names);
        let (url, count) = (elsewhere.url(), AtomicUsize::new(0));
        proxy.plan(move |asked| {
            let code = [301, 302, 307, 308][count.fetch_add(1, Ordering::SeqCst) % 4];
            let headers = format!("Location: {url}{}\r\n", asked.uri);
            Treatment::json(code, &headers, "")
        });
        proxy.cut();
        wait("redirects", || fed.failures("refused") >= 8);
        assert_eq!(elsewhere.asked(|_| true).len(), 0);
        assert_eq!(fed.state(&world.namespace, &world.names), before);
        proxy.pass();
        let mut world = world;
        world.churn(plane, 0);
        fed.wait_for_oracle(plane, &world);
    });
}
