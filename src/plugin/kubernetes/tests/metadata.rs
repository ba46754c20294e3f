//! What `metadata` shows of a query: 260 to 263 of the list of rules.

use super::*;
use crate::chain::plugin::After;
use crate::cluster::objects::{Pod, PodLabels};

/// Labels that may be there.
const LABELS: [&str; 11] = [
    "client-namespace",
    "client-pod-name",
    "client-label/app",
    "parse-error",
    "port-name",
    "protocol",
    "endpoint",
    "service",
    "namespace",
    "kind",
    "zone",
];

/// Writes what is known into a TXT record.
struct MetadataProbe;

impl Plugin for MetadataProbe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.state.metadata = true;
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> After {
        let mut all = String::new();
        for label in LABELS {
            let mut value = String::new();
            if exchange.metadata(&format!("kubernetes/{label}"), &mut value) {
                all.push_str(&format!("{label}={value} "));
            }
        }
        assert!(!exchange.metadata("kubernetes/cluster", &mut String::new()));
        assert!(!exchange.metadata("kind", &mut String::new()));
        exchange.reply.reset();
        let text = all.trim_end().as_bytes();
        exchange
            .reply
            .txt(Owner::Question, crate::wire::code::Class::IN, 5, &[text]);
        After::Done
    }
}

fn known(plugin: Kubernetes, qname: &str) -> String {
    let reply = bench(vec![Arc::new(MetadataProbe), Arc::new(plugin)]).ask(qname, RecordType::A);
    let record = records(&reply).remove(0);
    let text = record.split_once("TXT").expect("a TXT record").1;
    text.trim().trim_matches('"').to_owned()
}

fn client(namespace: &str, address: &str) -> Pod {
    Pod {
        meta: meta(namespace, "ps"),
        ip: Some(ip(address)),
        host_network: false,
        labels: [("tier", "front"), ("app", "web"), ("empty", "")]
            .into_iter()
            .collect(),
        terminating: false,
        finished: false,
    }
}

/// A cluster that keeps who its clients are.
fn keeping(pods: Vec<Pod>) -> Arc<Cluster> {
    let keep = Keep {
        clients: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&WANTED, keep);
    for pod in pods {
        cluster.applied(Object::Pod(pod));
    }
    Arc::new(cluster)
}

#[test]
fn the_client_and_the_parts_of_the_name_are_known() {
    let cluster = keeping(vec![client("ns1", "192.0.2.7")]);
    let who = "client-namespace=ns1 client-pod-name=ps client-label/app=web";
    for (qname, expected) in [
        // Cases 260 to 263.
        (
            "EP1a.web.ns1.svc.cluster.local",
            " port-name= protocol= endpoint=ep1a service=web namespace=ns1 kind=svc",
        ),
        (
            "foo.bar.baz.cluster.local",
            " parse-error=invalid query name",
        ),
        (
            "pod-0.c1.mhl.ns1.svc.cluster.local",
            " port-name=pod-0 protocol=c1 endpoint= service=mhl namespace=ns1 kind=svc",
        ),
        ("www.example.org", ""),
        (
            "_http._tcp.web.ns1.svc.cluster.local",
            " port-name=http protocol=tcp endpoint= service=web namespace=ns1 kind=svc",
        ),
        (
            "10-1-0-4.ns1.pod.cluster.local",
            " port-name= protocol= endpoint= service=10-1-0-4 namespace=ns1 kind=pod",
        ),
        (
            "ns1.svc.cluster.local",
            " port-name= protocol= endpoint= service= namespace=ns1 kind=svc",
        ),
        (
            "cluster.local",
            " port-name= protocol= endpoint= service= namespace= kind=",
        ),
        (
            "a.b.c.d.e.f.svc.cluster.local",
            " parse-error=invalid query name",
        ),
        ("1.0.96.10.in-addr.arpa", " parse-error=invalid query name"),
    ] {
        assert_eq!(
            known(plugin(&cluster), qname),
            format!("{who}{expected}"),
            "{qname}"
        );
    }
    let zonal = Kubernetes {
        zonal: true,
        ..plugin(&cluster)
    };
    assert_eq!(
        known(zonal, "us.a.pin._zone.hlz.ns1.svc.cluster.local"),
        format!(
            "{who} port-name= protocol= endpoint= service=hlz namespace=ns1 kind=svc zone=us.a"
        )
    );
}

#[test]
fn a_client_is_known_only_where_it_is_certain_and_wanted() {
    let going = |pod: Pod| Pod {
        terminating: true,
        ..pod
    };
    let host = |pod: Pod| Pod {
        host_network: true,
        ..pod
    };
    let (one, other) = (client("ns1", "192.0.2.7"), client("ns2", "192.0.2.7"));
    for (pods, expected) in [
        (vec![], ""),
        (vec![host(one.clone())], ""),
        (vec![one.clone(), other.clone()], ""),
        (
            vec![one.clone(), going(one.clone()), other.clone()],
            "client-namespace=ns2 client-pod-name=ps client-label/app=web",
        ),
        (
            vec![one.clone(), going(one.clone())],
            "client-namespace=ns1 client-pod-name=ps client-label/app=web",
        ),
        (
            vec![
                one.clone(),
                Pod {
                    ip: Some(ip("192.0.2.8")),
                    ..one.clone()
                },
            ],
            "",
        ),
        (
            vec![
                one.clone(),
                Pod {
                    labels: PodLabels::default(),
                    ..one.clone()
                },
            ],
            "client-namespace=ns1 client-pod-name=ps",
        ),
    ] {
        let cluster = keeping(pods);
        assert_eq!(known(plugin(&cluster), "www.example.org"), expected);
        cluster.deleted(Resource::Pods, "ns1", "ps");
        cluster.deleted(Resource::Pods, "ns2", "ps");
        assert_eq!(known(plugin(&cluster), "www.example.org"), "");
    }
    let cluster = Cluster::new(&WANTED, Keep::default());
    cluster.applied(Object::Pod(one));
    assert_eq!(known(plugin(&Arc::new(cluster)), "www.example.org"), "");
}

#[test]
fn what_an_object_holds_cannot_forge_a_line() {
    let mut pod = client("ns1", "192.0.2.7");
    pod.labels = [("app", "a\n\"b")].into_iter().collect();
    let text = known(
        plugin(&keeping(vec![pod])),
        "\\010\\\".ns1.svc.cluster.local",
    );
    assert!(!text.contains('\n'), "{text}");
}
