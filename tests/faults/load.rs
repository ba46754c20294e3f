//! More than is usual: large lists and many changes, from a server that follows a script.

use std::time::Instant;

use serde_json::{Value, json};

use crate::bed::{Served, wait, while_asking};
use crate::fake_api::{Answer, Asked, FakeApi, Then};

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}

fn list_ends() -> String {
    let mark = json!({"k8s.io/initial-events-end": "true"});
    event(
        "BOOKMARK",
        &json!({"metadata": {"resourceVersion": "1000", "annotations": mark}}),
    )
}

fn namespace(name: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "1"}})
}

fn headless(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "load", "name": name, "resourceVersion": "2"},
        "spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 80}]},
    })
}

fn slice(
    service: &str,
    number: usize,
    version: usize,
    addresses: &[String],
    padding: usize,
) -> Value {
    let endpoint =
        |address: &String| json!({"addresses": [address], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
    json!({
        "metadata": {
            "namespace": "load", "name": format!("{service}-{number}"), "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": service},
            "managedFields": [{"fieldsV1": "x".repeat(padding)}],
        },
        "endpoints": endpoints, "ports": [{"name": "http", "port": 80}],
    })
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)
}

/// What stands before the bookmark that ends a list, and after it.
fn listed(mut objects: Vec<String>, more: Vec<String>) -> Answer {
    objects.push(list_ends());
    objects.extend(more);
    Answer::events(&objects, Then::Hold)
}

#[test]
#[cfg(target_os = "linux")]
fn a27_a_list_is_taken_in_as_it_comes_and_never_held_as_a_whole() {
    // 100,000 endpoints behind 100 Services, in 20 MiB; a whole such list in memory would show.
    const SLICES: usize = 100;
    let api = FakeApi::start(|asked: &Asked| {
        let mut objects = Vec::new();
        for number in 0..SLICES {
            let name = format!("service-{number}");
            if asked.uri.contains("/services?") {
                objects.push(event("ADDED", &headless(&name)));
            } else if asked.uri.contains("/endpointslices?") {
                let addresses: Vec<String> = (0..1000)
                    .map(|endpoint| address(number * 1000 + endpoint))
                    .collect();
                let slice = slice(&name, 1, 3, &addresses, 128 << 10);
                objects.push(event("ADDED", &slice));
            }
        }
        if asked.uri.contains("/namespaces?") {
            objects.push(event("ADDED", &namespace("load")));
        }
        listed(objects, Vec::new())
    });
    let served = Served::start(&format!("endpoint {}", api.url()));
    wait("to be ready", || served.http("/ready").0 == 200);
    let (steady, peak) = (
        served.program.kilobytes("VmRSS"),
        served.program.kilobytes("VmHWM"),
    );
    eprintln!("{steady} kB resident, {peak} kB at most");
    assert!(
        peak <= 2 * steady,
        "{peak} kB at most, {steady} kB after the list"
    );
}

#[test]
fn a28_thousands_of_changes_in_a_row_delay_no_answer_and_end_in_the_last_one() {
    const CHANGES: usize = 5000;
    let api = FakeApi::start(|asked: &Asked| {
        let mut objects = Vec::new();
        let mut changes = Vec::new();
        if asked.uri.contains("/namespaces?") {
            objects.push(event("ADDED", &namespace("load")));
        } else if asked.uri.contains("/services?") {
            objects.push(event("ADDED", &headless("moves")));
            objects.push(event("ADDED", &headless("stays")));
        } else if asked.uri.contains("/endpointslices?") {
            objects.push(event("ADDED", &slice("stays", 1, 4, &[address(7)], 0)));
            for change in 0..=CHANGES {
                let moves = slice("moves", 1, 2000 + change, &[address(1000 + change)], 0);
                changes.push(event("MODIFIED", &moves));
            }
        }
        listed(objects, changes)
    });
    let served = Served::start(&format!("endpoint {}", api.url()));
    let began = Instant::now();
    let last = vec![address(1000 + CHANGES).parse().unwrap()];
    wait("to be ready", || served.http("/ready").0 == 200);
    let stays = [address(7).parse().unwrap()];
    while_asking(&served, "stays.load.svc.cluster.local.", &stays, || {
        wait("the last change", || {
            served.addresses("moves.load.svc.cluster.local.").as_ref() == Some(&last)
        });
    });
    eprintln!(
        "{CHANGES} changes in {} ms at most",
        began.elapsed().as_millis()
    );
}
