//! Which clients have a search path, and which one.

use super::*;
use crate::cluster::objects::Pod;

/// Answers with the names of the path as the targets of NS records.
struct PathProbe;

impl Plugin for PathProbe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let names: Vec<NameBuf> = match exchange.search_path_below("kubernetes") {
            None => Vec::new(),
            Some(path) => path
                .further(exchange.query.qname(), exchange.qname())
                .collect(),
        };
        for name in names {
            let target = name.as_ref();
            exchange
                .reply
                .name_record(Owner::Question, RecordType::NS, 5, target);
        }
        Step::Answered
    }
}

const CLIENT: &str = "192.0.2.7";

fn pod(namespace: &str, name: &str, address: &str) -> Pod {
    Pod {
        meta: meta(namespace, name),
        ip: Some(ip(address)),
        host_network: false,
        labels: Default::default(),
        terminating: false,
        finished: false,
    }
}

/// The names that are looked for after QNAME.
fn path(plugin: Kubernetes, qname: &str) -> String {
    let reply = bench(vec![Arc::new(PathProbe), Arc::new(plugin)]).ask(qname, RecordType::A);
    let names: Vec<String> = records(&reply)
        .iter()
        .filter_map(|record| Some(record.rsplit_once("NS ")?.1.to_owned()))
        .collect();
    names.join(" ")
}

fn verified(cluster: &Arc<Cluster>) -> Kubernetes {
    Kubernetes {
        pods: PodMode::Verified,
        search: [name("corp.example")].into(),
        ..plugin(cluster)
    }
}

#[test]
fn a_pod_has_the_path_of_its_namespace() {
    let cluster = cluster(vec![Object::Pod(pod("shop", "client", CLIENT))]);
    for (qname, expected) in [
        (
            "A.b.Shop.svc.cluster.local",
            "A.b.svc.cluster.local. A.b.cluster.local. A.b.corp.example. A.b.",
        ),
        // The element itself, another namespace's, no element of anybody's.
        ("shop.svc.cluster.local", ""),
        ("a.web.svc.cluster.local", ""),
        ("a.shop.pod.cluster.local", ""),
        ("a.shop.cluster.local", ""),
        ("svc.cluster.local", ""),
        ("cluster.local", ""),
        ("a.shop.svc.example", ""),
    ] {
        assert_eq!(path(verified(&cluster), qname), expected, "{qname}");
    }
    let root = Kubernetes {
        zones: Origin::all([Name::root()], None),
        ..verified(&cluster)
    };
    assert_eq!(path(root, "a.shop.svc"), "a.svc. a. a.corp.example. a.");
}

#[test]
fn without_pods_that_are_verified_nobody_has_a_path() {
    let cluster = cluster(vec![Object::Pod(pod("shop", "client", CLIENT))]);
    for pods in [PodMode::Disabled, PodMode::Insecure] {
        let plugin = Kubernetes {
            pods,
            ..verified(&cluster)
        };
        assert_eq!(path(plugin, "a.shop.svc.cluster.local"), "");
    }
}

#[test]
fn an_address_that_may_be_anothers_has_no_path() {
    let qname = "a.shop.svc.cluster.local";
    for pods in [
        // Nobody's, a node's, two namespaces'.
        vec![],
        vec![Pod {
            host_network: true,
            labels: Default::default(),
            ..pod("shop", "client", CLIENT)
        }],
        vec![pod("shop", "client", CLIENT), pod("web", "other", CLIENT)],
        vec![pod("shop", "client", "192.0.2.8")],
    ] {
        let cluster = cluster(pods.into_iter().map(Object::Pod).collect());
        assert_eq!(path(verified(&cluster), qname), "");
    }
    // Two Pods of one namespace, and one that has ended.
    let cluster = cluster(
        [
            pod("shop", "client", CLIENT),
            pod("shop", "other", CLIENT),
            Pod {
                finished: true,
                ..pod("web", "done", CLIENT)
            },
        ]
        .map(Object::Pod)
        .into(),
    );
    assert!(path(verified(&cluster), qname).starts_with("a.svc.cluster.local."));
}
