//! A reload that changes what is kept of a cluster, while the API server is away.
#![cfg(all(feature = "kubernetes", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fake_api.rs"]
mod fake_api;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fake_api::{Answer, FakeApi, Then};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use program::{Program, ask};
use serde_json::{Value, json};

fn objects(plural: &str) -> Vec<Value> {
    let meta = |name: &str| json!({"namespace": "shop", "name": name, "resourceVersion": "7"});
    match plural {
        "namespaces" => vec![json!({"metadata": {"name": "shop", "resourceVersion": "7"}})],
        "services" => vec![json!({
            "metadata": meta("web"),
            "spec": {"clusterIP": "10.96.7.1", "externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]},
        })],
        "pods" => vec![json!({
            "metadata": meta("a"), "spec": {},
            "status": {"phase": "Running", "podIP": "10.1.0.9"},
        })],
        _ => Vec::new(),
    }
}

/// An API server that refuses all that it is asked while it is away. Watches that are open stay so, silent.
fn api(away: &Arc<AtomicBool>) -> FakeApi {
    let away = Arc::clone(away);
    FakeApi::start(move |asked| {
        if away.load(Ordering::SeqCst) {
            return Answer::refusal(503, "away");
        }
        let plural = asked.uri.split('?').next().unwrap().rsplit('/').next();
        let added = objects(plural.unwrap()).into_iter();
        let mut events: Vec<String> = added
            .map(|object| json!({"type": "ADDED", "object": object}).to_string())
            .collect();
        let end = json!({"type": "BOOKMARK", "object": {"metadata": {
            "resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"},
        }}});
        events.push(end.to_string());
        Answer::events(&events, Then::Hold)
    })
}

fn corefile(api: &FakeApi, option: &str, external: &str) -> String {
    format!(
        "cluster.local:PORT example.org:PORT {{
            bind 127.0.0.1
            {external}
            kubernetes cluster.local {{
                endpoint {}
                startup_timeout 300ms
                {option}
            }}
        }}\n",
        api.url()
    )
}

const WEB: &str = "web.shop.svc.cluster.local";
const NO_NAME: &str = "nope.shop.svc.cluster.local";
const POD: &str = "10-1-0-9.shop.pod.cluster.local";
const NO_POD: &str = "10-1-0-8.shop.pod.cluster.local";
const EXTERNAL: &str = "web.shop.example.org";

impl Program {
    #[track_caller]
    fn assert_rcodes(&self, expected: &[(&str, ResponseCode)]) {
        for &(qname, rcode) in expected {
            let reply = ask(self.port, qname, RecordType::A);
            assert_eq!(reply.metadata.response_code, rcode, "{qname}");
        }
    }
}

#[test]
fn a_reload_with_other_options_while_the_api_server_is_away_goes_on_with_what_was_known() {
    use ResponseCode::{NXDomain, NoError, ServFail};
    let away = Arc::new(AtomicBool::new(false));
    let api = api(&away);
    let program = Program::start(&corefile(&api, "", ""));
    program.wait_for_answer(WEB, RecordType::A, &["10.96.7.1"]);
    away.store(true, Ordering::SeqCst);
    program.rewrite(&corefile(&api, "pods verified", "k8s_external example.org"));
    program.signal("USR1");
    program.wait_for_output("Reloading complete", 1);
    program.wait_for_output("going on with what the configuration before has known", 1);
    program.assert_rcodes(&[
        (WEB, NoError),
        (NO_NAME, NXDomain),
        ("www.example.com.shop.svc.cluster.local", NXDomain),
        // Nothing is known of these yet, so nothing is denied.
        (POD, ServFail),
        (NO_POD, ServFail),
        (EXTERNAL, ServFail),
    ]);
    away.store(false, Ordering::SeqCst);
    program.wait_for_answer(POD, RecordType::A, &["10.1.0.9"]);
    program.wait_for_answer(EXTERNAL, RecordType::A, &["192.0.2.1"]);
    program::wait_until("every list", || {
        ask(program.port, NO_POD, RecordType::A)
            .metadata
            .response_code
            == NXDomain
    });
    program.assert_rcodes(&[(WEB, NoError), (NO_NAME, NXDomain)]);
}

#[test]
fn another_api_server_takes_nothing_over() {
    let away = Arc::new(AtomicBool::new(false));
    let first = api(&away);
    let program = Program::start(&corefile(&first, "", ""));
    program.wait_for_answer(WEB, RecordType::A, &["10.96.7.1"]);
    let second = FakeApi::start(|_| Answer::refusal(503, "away"));
    program.rewrite(&corefile(&second, "", ""));
    program.signal("USR1");
    program.wait_for_output("Reloading complete", 1);
    program.assert_rcodes(&[(WEB, ResponseCode::ServFail)]);
}
