//! Rules of `prometheus`, one test each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::sync::Arc;

use http::{Method, StatusCode, Uri};

use crate::chain::exchange::{Arrival, Protocol};
use crate::plugin::PLUGINS;
use crate::plugin::prometheus::{SPEC, show_enabled};
use crate::plugin::testing::{
    Bed, Below, arrival, ask, config, faults, query, send, shown, with_edns,
};
use crate::server::assembly::OnBindFailure;
use crate::wire::code::{Rcode, RecordType};

/// The lines of a family, without the labels that are always the same.
fn lines(bed: &Bed, start: &str) -> Vec<String> {
    let always = [
        "server=\"dns://:53\",",
        ",view=\"\",zone=\".\"",
        "view=\"\",zone=\".\"",
    ];
    bed.metrics()
        .lines()
        .filter(|line| line.starts_with(start))
        .map(|line| {
            let line = line.to_owned();
            always
                .iter()
                .fold(line, |line, labels| line.replace(labels, ""))
        })
        .collect()
}

#[test]
fn a_query_counts_by_protocol_family_and_type() {
    let mut bed = Bed::new();
    let zones = bed.chain(&SPEC, "prometheus", Below::Address);
    ask(&zones, "a.org", RecordType::A);
    ask(&zones, "a.org", RecordType::A);
    ask(&zones, "a.org", RecordType::CAA);
    let over_tcp_and_ipv6 = Arrival {
        client: (Ipv6Addr::LOCALHOST, 4).into(),
        protocol: Protocol::Tcp,
        ..arrival()
    };
    let message = with_edns(query("a.org", RecordType::AAAA), 1232, true);
    send(&zones, &message, over_tcp_and_ipv6);
    assert_eq!(
        lines(&bed, "coredns_dns_requests_total"),
        [
            "coredns_dns_requests_total{family=\"1\",proto=\"udp\",type=\"A\"} 2",
            "coredns_dns_requests_total{family=\"1\",proto=\"udp\",type=\"other\"} 1",
            "coredns_dns_requests_total{family=\"2\",proto=\"tcp\",type=\"AAAA\"} 1",
        ]
    );
    assert_eq!(
        lines(&bed, "coredns_dns_do_requests_total"),
        ["coredns_dns_do_requests_total{} 1"]
    );
}

#[test]
fn a_reply_counts_by_rcode_and_the_plugin_that_answered() {
    for (below, line) in [
        (Below::Address, "{plugin=\"below\",rcode=\"NOERROR\"} 1"),
        (
            Below::Rcode(Rcode::NXDOMAIN),
            "{plugin=\"below\",rcode=\"NXDOMAIN\"} 1",
        ),
        (
            Below::Rcode(Rcode(11)),
            "{plugin=\"below\",rcode=\"RCODE11\"} 1",
        ),
        (
            Below::Error("broken"),
            "{plugin=\"below\",rcode=\"SERVFAIL\"} 1",
        ),
        (Below::Drop, "{plugin=\"\",rcode=\"NOERROR\"} 1"),
    ] {
        let mut bed = Bed::new();
        let zones = bed.chain(&SPEC, "prometheus", below);
        ask(&zones, "a.org", RecordType::A);
        let expected = format!("coredns_dns_responses_total{line}");
        assert_eq!(lines(&bed, "coredns_dns_responses_total"), [expected]);
    }
}

#[test]
fn sizes_are_those_on_the_wire() {
    let mut bed = Bed::new();
    let zones = bed.chain(&SPEC, "prometheus", Below::Addresses(100));
    let plain = query("a.org", RecordType::A);
    let reply = send(&zones, &plain, arrival()).unwrap();
    assert!(shown(&reply).starts_with("NOERROR tc"), "it was cut");
    let over_tcp = Arrival {
        protocol: Protocol::Tcp,
        ..arrival()
    };
    let with_opt = with_edns(plain.clone(), 1232, false);
    let whole = send(&zones, &with_opt, over_tcp).unwrap();
    let sums: Vec<String> = ["request", "response"]
        .iter()
        .flat_map(|name| lines(&bed, &format!("coredns_dns_{name}_size_bytes_sum")))
        .collect();
    let (asked, asked_tcp) = (plain.len(), with_opt.len());
    assert_eq!(
        sums,
        [
            format!("coredns_dns_request_size_bytes_sum{{proto=\"tcp\"}} {asked_tcp}"),
            format!("coredns_dns_request_size_bytes_sum{{proto=\"udp\"}} {asked}"),
            format!(
                "coredns_dns_response_size_bytes_sum{{proto=\"tcp\"}} {}",
                whole.len()
            ),
            // The limit stands for a reply that is cut to it.
            "coredns_dns_response_size_bytes_sum{proto=\"udp\"} 512".to_owned(),
        ]
    );
}

#[test]
fn what_the_server_refuses_counts_in_zone_dropped() {
    use crate::telemetry::metrics::{Metrics, ServerMetrics};
    use crate::wire::query::Query;
    let metrics = Metrics::new();
    let server = ServerMetrics::new(&metrics, "dns://:53");
    let message = query("a.org", RecordType::A);
    server.count_unserved(&Query::parse(&message).unwrap(), &arrival(), Rcode::REFUSED);
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&metrics.registry().gather())
        .unwrap();
    for line in [
        "coredns_dns_requests_total{family=\"1\",proto=\"udp\",server=\"dns://:53\",type=\"A\",view=\"\",zone=\"dropped\"} 1",
        "coredns_dns_responses_total{plugin=\"\",rcode=\"REFUSED\",server=\"dns://:53\",view=\"\",zone=\"dropped\"} 1",
        "coredns_dns_response_size_bytes_sum{proto=\"udp\",server=\"dns://:53\",view=\"\",zone=\"dropped\"} 23",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn the_zone_is_that_of_the_server_block() {
    let mut bed = Bed::new();
    let mut links = bed.build(&*config(&SPEC, "prometheus")).unwrap();
    links.push(Arc::new(Below::Address));
    let zones = crate::plugin::testing::zones("example.org.", links);
    ask(&zones, "www.Example.org", RecordType::A);
    let metrics = bed.metrics();
    let line = "coredns_dns_requests_total{family=\"1\",proto=\"udp\",server=\"dns://:53\",type=\"A\",view=\"\",zone=\"example.org.\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn plugins_in_use_are_shown_for_blocks_that_count() {
    let mut bed = Bed::new();
    let counted = bed.chain(&SPEC, "prometheus", Below::Address);
    let silent = crate::plugin::testing::zones("a.org.", vec![Arc::new(Below::Address)]);
    let metrics = &bed.process.metrics;
    show_enabled(metrics, silent.blocks().map(|block| &**block));
    assert_eq!(lines(&bed, "coredns_plugin_enabled"), [""; 0]);
    let blocks = counted.blocks().chain(silent.blocks());
    show_enabled(metrics, blocks.map(|block| &**block));
    let enabled = lines(&bed, "coredns_plugin_enabled");
    assert_eq!(
        enabled,
        [
            "coredns_plugin_enabled{name=\"below\"} 1",
            "coredns_plugin_enabled{name=\"prometheus\"} 1",
        ]
    );
}

/// Specification 6, cut to this plugin: labels in alphabetical order, then the bounds of the buckets.
#[test]
fn families_have_the_names_labels_and_buckets_of_coredns() {
    const TIME: &str = "0.00025 0.0005 0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 +Inf";
    const SIZE: &str = "0 100 200 300 400 511 1023 2047 4095 8291 16000 32000 48000 64000 +Inf";
    const SLIM: &str = "0.00025 0.0025 0.025 0.25 2.5 +Inf";
    let mut bed = Bed::new();
    let mut links = bed.build(&*config(&SPEC, "prometheus")).unwrap();
    for (name, text) in [
        ("health", "health"),
        ("reload", "reload"),
        ("hosts", "hosts /nonexistent"),
    ] {
        let spec = PLUGINS.iter().find(|spec| spec.name == name).unwrap();
        bed.build(&*config(spec, text)).unwrap();
    }
    links.push(Arc::new(Below::Address));
    let zones = crate::plugin::testing::zones(".", links);
    let message = with_edns(query("a.org", RecordType::A), 1232, true);
    send(&zones, &message, arrival());
    show_enabled(&bed.process.metrics, zones.blocks().map(|block| &**block));
    let found = families(&bed.metrics());
    for (name, kind, labels, buckets) in [
        (
            "coredns_build_info",
            "gauge",
            "goversion revision version",
            "",
        ),
        (
            "coredns_plugin_enabled",
            "gauge",
            "name server view zone",
            "",
        ),
        (
            "coredns_dns_requests_total",
            "counter",
            "family proto server type view zone",
            "",
        ),
        (
            "coredns_dns_request_duration_seconds",
            "histogram",
            "server view zone",
            TIME,
        ),
        (
            "coredns_dns_request_size_bytes",
            "histogram",
            "proto server view zone",
            SIZE,
        ),
        (
            "coredns_dns_do_requests_total",
            "counter",
            "server view zone",
            "",
        ),
        (
            "coredns_dns_response_size_bytes",
            "histogram",
            "proto server view zone",
            SIZE,
        ),
        (
            "coredns_dns_responses_total",
            "counter",
            "plugin rcode server view zone",
            "",
        ),
        (
            "coredns_health_request_duration_seconds",
            "histogram",
            "",
            SLIM,
        ),
        ("coredns_health_request_failures_total", "counter", "", ""),
        ("coredns_hosts_entries", "gauge", "hostsfile", ""),
        ("coredns_hosts_reload_timestamp_seconds", "gauge", "", ""),
        ("coredns_reload_failed_total", "counter", "", ""),
    ] {
        let expected = format!("{kind} [{labels}] {buckets}");
        assert_eq!(found.get(name), Some(&expected), "{name}");
    }
    assert!(found.contains_key("process_resident_memory_bytes"));
    assert!(found.contains_key("fingerpost_log_dropped_total"));
}

/// Kind, labels and bounds of each family of an exposition.
fn families(text: &str) -> BTreeMap<String, String> {
    let mut kinds = BTreeMap::new();
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut bounds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            kinds.insert(name.to_owned(), kind.to_owned());
        }
        if line.starts_with('#') {
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| line[..end].strip_suffix(suffix))
            .find(|name| kinds.contains_key(*name))
            .unwrap_or(&line[..end]);
        let pairs = line[end..]
            .split(['{', ',', '}'])
            .filter_map(|pair| pair.split_once('='));
        for (label, value) in pairs {
            if label == "le" {
                let bound = value.trim_matches('"').to_owned();
                bounds.entry(name.to_owned()).or_default().push(bound);
            } else {
                labels
                    .entry(name.to_owned())
                    .or_default()
                    .insert(label.to_owned());
            }
        }
    }
    let join = |labels: &BTreeSet<String>| labels.iter().cloned().collect::<Vec<_>>().join(" ");
    kinds
        .into_iter()
        .map(|(name, kind)| {
            let labels = labels.get(&name).map(join).unwrap_or_default();
            let bounds = bounds
                .get(&name)
                .map(|bounds| bounds.join(" "))
                .unwrap_or_default();
            (name, format!("{kind} [{labels}] {bounds}"))
        })
        .collect()
}

#[test]
fn metrics_are_served_as_text_on_localhost_9153() {
    let mut bed = Bed::new();
    bed.build(&*config(&SPEC, "prometheus")).unwrap();
    let endpoint = &bed.plan.http[0];
    assert_eq!(endpoint.address.to_string(), "127.0.0.1:9153");
    assert_eq!(endpoint.on_bind_failure, OnBindFailure::Log);
    let reply = (endpoint.handler)(&Method::GET, &Uri::from_static("/metrics"));
    assert_eq!(reply.status(), StatusCode::OK);
    assert_eq!(
        reply.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
    );
    assert!(reply.body().starts_with(b"# HELP "));
    let reply = (endpoint.handler)(&Method::GET, &Uri::from_static("/"));
    assert_eq!(reply.status(), StatusCode::NOT_FOUND);
}

#[test]
fn the_runtime_is_shown_where_asked_for() {
    let mut bed = Bed::new();
    bed.build(&*config(&SPEC, "prometheus")).unwrap();
    assert!(!bed.metrics().contains("fingerpost_runtime_"));
    let text = "prometheus :9253 {\nruntime_metrics\n}";
    bed.build(&*config(&SPEC, text)).unwrap();
    assert!(bed.metrics().contains("fingerpost_runtime_workers 1\n"));
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    for (text, fault) in [
        ("prometheus 9153", "error: `9153` has no port @ 9153"),
        ("prometheus :1 :2", "error: `prometheus` takes no `:2` @ :2"),
        (
            "prometheus\nprometheus",
            "error: `prometheus` stands twice in this server block @ prometheus",
        ),
        (
            "prometheus {\nruntime_metrics on\n}",
            "error: `runtime_metrics` takes no `on` @ on",
        ),
        (
            "prometheus {\ntls\n}",
            "error: `tls` needs a web configuration file @ tls",
        ),
        (
            "prometheus {\ntls web.yml\n}",
            "not built: `prometheus` option `tls` is not built yet @ tls web.yml",
        ),
        (
            "prometheus {\npath /m\n}",
            "error: `prometheus` has no option `path` @ path",
        ),
    ] {
        assert_eq!(faults(&SPEC, text), [fault], "{text}");
    }
    assert_eq!(
        faults(&SPEC, "prometheus {\ntls a\ntls b\n}")
            .last()
            .map(String::as_str),
        Some("error: `tls` stands twice in this `prometheus` @ tls")
    );
}
