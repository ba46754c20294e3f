//! The cluster that is asked about, and the Corefile that serves it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// How many Services there are, one of 10,000 endpoints not counted. Not quite a power of two: a hash table that is
/// nearly full costs a different number of steps with every seed.
pub(crate) const SERVICES: usize = 700;

/// Of each Service's endpoints.
pub(crate) const ENDPOINTS: usize = 10;

/// Of the Service `big`, whose endpoints have host names; 100 stand in one slice.
pub(crate) const BIG: usize = 10_000;

/// kubeadm's, with objects from a file.
pub(crate) fn corefile(folder: &Path, upstream: SocketAddr) -> String {
    format!(
        ".:1053 {{
    errors
    health :0 {{
       lameduck 5s
    }}
    ready :0
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       manifests {folder}
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :0
    forward . {upstream} {{
       max_concurrent 1000
    }}
    cache 30
    reload
    loadbalance
}}
",
        folder = folder.display()
    )
}

/// Every tenth Service is headless, with endpoints that have host names.
pub(crate) fn objects() -> String {
    let mut items = Vec::new();
    for at in 0..SERVICES {
        let namespace = at % 20;
        let ip = if at % 10 == 9 {
            "None".to_owned()
        } else {
            format!("10.97.{}.{}", at / 250, at % 250)
        };
        items.push(format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{at}","namespace":"ns-{namespace}"}},"spec":{{"clusterIP":"{ip}","clusterIPs":["{ip}"],"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}}}"#
        ));
        let mut endpoints = String::new();
        for endpoint in 0..ENDPOINTS {
            let comma = if endpoint == 0 { "" } else { "," };
            let number = at * ENDPOINTS + endpoint;
            // As of a StatefulSet.
            let hostname = match at % 10 {
                9 => format!(r#","hostname":"pod-{endpoint}""#),
                _ => String::new(),
            };
            write!(
                endpoints,
                r#"{comma}{{"addresses":["172.24.{}.{}"]{hostname}}}"#,
                number / 250,
                number % 250
            )
            .unwrap();
        }
        items.push(format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{at}-x","namespace":"ns-{namespace}","labels":{{"kubernetes.io/service-name":"svc-{at}"}}}},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}]}}"#
        ));
    }
    items.extend(big());
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
        items.join(",")
    )
}

/// A headless Service of many endpoints with host names.
fn big() -> Vec<String> {
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"big","namespace":"ns-0"},"spec":{"clusterIP":"None","ports":[{"name":"http","port":80,"protocol":"TCP"}]}}"#;
    let slice = |at: usize| {
        let endpoint = |number: usize| {
            format!(
                r#"{{"addresses":["172.25.{}.{}"],"hostname":"pod-{number}"}}"#,
                number / 250,
                number % 250
            )
        };
        let endpoints: Vec<_> = (at * 100..(at + 1) * 100).map(endpoint).collect();
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"big-{at}","namespace":"ns-0","labels":{{"kubernetes.io/service-name":"big"}}}},"addressType":"IPv4","endpoints":[{}],"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}]}}"#,
            endpoints.join(",")
        )
    };
    std::iter::once(service.to_owned())
        .chain((0..BIG / 100).map(slice))
        .collect()
}
