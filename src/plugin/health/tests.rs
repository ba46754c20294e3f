//! Rules of `health`, one test each.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Uri};

use crate::plugin::health::SPEC;
use crate::plugin::health::probe::{HealthMetrics, Probe};
use crate::plugin::testing::{Bed, config, faults};
use crate::server::assembly::OnBindFailure;
use crate::server::http::HttpServers;
use crate::telemetry::logging::TestLog;

fn built(text: &str) -> Bed {
    let mut bed = Bed::new();
    let (config, _) = crate::plugin::testing::parse(&SPEC, text);
    let links = bed.build(&*config.unwrap()).unwrap();
    assert!(links.is_empty());
    bed
}

#[test]
fn health_is_ok_on_port_8080_of_every_address_whatever_the_method() {
    let bed = built("health");
    let endpoint = &bed.plan.http[0];
    assert_eq!(endpoint.address.to_string(), "[::]:8080");
    assert_eq!(endpoint.on_bind_failure, OnBindFailure::Fatal);
    for method in [Method::GET, Method::POST] {
        let reply = (endpoint.handler)(&method, &Uri::from_static("/health?x"));
        assert_eq!(
            (reply.status(), reply.body().as_ref()),
            (StatusCode::OK, &b"OK"[..])
        );
    }
    let reply = (endpoint.handler)(&Method::GET, &Uri::from_static("/healthz"));
    assert_eq!(reply.status(), StatusCode::NOT_FOUND);
}

#[test]
fn the_longest_lame_duck_counts() {
    let mut bed = built("health {\nlameduck 5s\n}");
    let shorter = config(&SPEC, "health localhost:8081 {\nlameduck 100ms\n}");
    bed.build(&*shorter).unwrap();
    assert_eq!(bed.plan.lameduck, Duration::from_secs(5));
}

#[test]
fn who_has_a_lame_duck_time_is_also_waited_for_until_it_is_quiet() {
    let quiet = |text| {
        let quiet = built(text).plan.quiet;
        (quiet.time.as_secs(), quiet.patience.as_secs())
    };
    assert_eq!(quiet("health"), (0, 0));
    assert_eq!(quiet("health {\nlameduck 5s\n}"), (3, 20));
    assert_eq!(quiet("health {\nlameduck 5s\nquiet 0\n}").0, 0);
    assert_eq!(quiet("health {\nquiet 10s\n}"), (10, 20));
    assert_eq!(quiet("health {\nquiet 10s 50s\n}"), (10, 50));
}

#[test]
fn the_last_of_two_directives_counts_with_a_warning() {
    let text = "health :1 {\nlameduck 1s\n}\nhealth :2";
    let bed = built(text);
    assert_eq!(bed.plan.http.len(), 1);
    assert_eq!(bed.plan.http[0].address.port(), 2);
    assert_eq!(bed.plan.lameduck, Duration::from_secs(1));
    assert_eq!(
        faults(&SPEC, text),
        ["warning: `health` stands twice in this server block @ health"]
    );
}

#[test]
fn the_process_asks_itself_and_counts() {
    let mut bed = built("health 127.0.0.1:0");
    let log = TestLog::new();
    let subscriber = crate::telemetry::logging::LineSubscriber::new(Arc::clone(&log.lines));
    let _logging = tracing::subscriber::set_default(subscriber);
    let metrics = bed.process.metrics.families::<HealthMetrics>();
    let endpoints = std::mem::take(&mut bed.plan.http);
    bed.runtime.block_on(async {
        let mut servers = HttpServers::new(&bed.process);
        servers.apply(endpoints).await.unwrap();
        let (_, local) = servers.local_addresses().next().unwrap();
        let probe = Probe::new(local, Arc::clone(&metrics));
        probe.ask_once().await;
        assert_eq!(metrics.duration.get_sample_count(), 1);
        assert_eq!(metrics.failures.get(), 0);
        servers.stop().await;
        probe.ask_once().await;
        assert_eq!(metrics.duration.get_sample_count(), 2);
        assert_eq!(metrics.failures.get(), 1);
        let line = format!(
            "[WARNING] plugin/health: Local health request to \"http://{local}/health\" failed: "
        );
        assert!(log.text().starts_with(&line), "{}", log.text());
    });
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (text, fault) in [
        (
            "health :8080 :8081",
            "error: `health` takes no `:8081` @ :8081",
        ),
        ("health 8080", "error: `8080` has no port @ 8080"),
        (
            "health {\nlameduck\n}",
            "error: `lameduck` needs a duration such as 5s @ lameduck",
        ),
        (
            "health {\nlameduck 5\n}",
            "error: `5` is not a duration such as 5s @ 5",
        ),
        (
            "health {\nlameduck -5s\n}",
            "error: `-5s` is negative @ -5s",
        ),
        (
            "health {\nlameducks 5s\n}",
            "error: `health` has no option `lameducks` @ lameducks",
        ),
        (
            "health {\nquiet\n}",
            "error: `quiet` needs a duration such as 5s @ quiet",
        ),
        (
            "health {\nquiet 1s soon\n}",
            "error: `soon` is not a duration such as 5s @ soon",
        ),
        (
            "health {\nquiet 1s 2s 3s\n}",
            "error: `quiet` takes no `3s` @ 3s",
        ),
    ] {
        assert_eq!(faults(&SPEC, text), [fault], "{text}");
    }
}
