//! Options, and what the table of answers cannot say: names that have to be waited for, clusters that are not listed yet.

mod options;

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::chain::plugin::{Answer, Verdict};
use crate::cluster::objects::{self, Meta, Object, Port, Resource, Service, ServiceKind};
use crate::cluster::scope::Scope;
use crate::cluster::{Cluster, Feed, Keep, ObjectSink};
use crate::plugin::testing::bench::{Ask, Bench, Link, Upstream};
use crate::wire::MESSAGE_MAX;
use crate::wire::query::Query;
use crate::wire::writer::{Owner, ReplyWriter};

const WANTED: [Resource; 2] = [Resource::Namespaces, Resource::Services];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a name")
}

/// The Service `web` in `shop` with these external addresses and names.
fn web(external: &[&str]) -> Object {
    let external = external.iter().map(|text| match text.parse() {
        Ok(address) => objects::External::Address(address),
        Err(_) => objects::External::Hostname((*text).into()),
    });
    Object::Service(Service {
        meta: Meta {
            namespace: "shop".into(),
            name: "web".into(),
            ..Meta::default()
        },
        kind: ServiceKind::ClusterIp(vec![ip("10.0.0.1")]),
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: Some(80),
        }],
        external: external.collect(),
    })
}

fn cluster() -> Arc<Cluster> {
    let keep = Keep {
        external: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&WANTED, keep);
    cluster.applied(Object::Namespace(Meta {
        name: "shop".into(),
        ..Meta::default()
    }));
    Arc::new(cluster)
}

/// What was applied is all there is.
fn sync(cluster: &Cluster, objects: Vec<Object>) {
    for resource in WANTED {
        cluster.list_started(resource);
        if resource == Resource::Namespaces {
            cluster.listed(Object::Namespace(Meta {
                name: "shop".into(),
                ..Meta::default()
            }));
        } else {
            objects
                .iter()
                .for_each(|object| cluster.listed(object.clone()));
        }
        cluster.list_finished(resource);
    }
}

/// The plugin for `example.org`, on a cluster that some `kubernetes` lends.
fn plugin(cluster: &Arc<Cluster>) -> External {
    let slot = ClusterSlot::default();
    let feed = Arc::new(Feed {
        cluster: Arc::clone(cluster),
        source: Arc::new(()),
        line: Arc::default(),
    });
    slot.lend(LentCluster {
        scope: Arc::new(Scope::new(feed, None)),
        ttl: 5,
        local_addresses: Box::new([ip("192.0.2.53")]),
    });
    External {
        cluster: slot,
        zones: Box::new([Zone {
            origin: name("example.org"),
            name_server: name("ns1.dns.example.org"),
            mailbox: name("hostmaster.dns.example.org"),
        }]),
        pointer_zone: name("example.org"),
        apex: b"dns".as_slice().into(),
        ttl: 5,
        headless: false,
        fallthrough: None,
    }
}

fn bench(links: Vec<Arc<dyn Plugin>>) -> Bench {
    Bench::new(links.into_iter().map(Link::Made).collect())
}

/// The records of a reply, each as `section owner ttl type rdata`.
fn records(octets: &[u8]) -> Vec<String> {
    let reply = crate::plugin::testing::bench::Reply {
        octets: octets.to_vec(),
    };
    let records = reply.records();
    records
        .iter()
        .map(|text| text.replace(" IN ", " "))
        .collect()
}

/// Case 179, which CoreDNS denies.
#[test]
fn a_failure_before_the_first_lists_says_not_ready() {
    let cluster = cluster();
    let ask = || {
        let mut ask = Ask::new("web.shop.example.org", RecordType::A);
        ask.edns = Some((1232, false));
        bench(vec![Arc::new(plugin(&cluster))]).send(&ask)
    };
    // Code 14 with its text (RFC 8914, section 4.15).
    let not_ready = b"\x00\x0f\x00\x1f\x00\x0ethe cluster is not listed yet";
    let reply = ask();
    assert_eq!((reply.rcode(), reply.has_aa()), (Rcode::SERVFAIL, true));
    assert!(reply.octets.ends_with(not_ready));
    // What is there already is answered.
    cluster.applied(web(&["198.51.100.1"]));
    assert_eq!(ask().rcode(), Rcode::NOERROR);
    sync(&cluster, Vec::new());
    let reply = ask();
    assert_eq!(reply.rcode(), Rcode::NXDOMAIN);
    assert!(!reply.octets.ends_with(not_ready));
}

#[test]
fn what_a_snapshot_says_is_marked_as_stale_and_denied_for_a_short_time() {
    let cluster = cluster();
    let objects = [web(&["lb.example.net"])];
    cluster.restore(objects.into_iter(), std::time::SystemTime::now());
    let ask = |qname: &str, qtype| {
        let mut ask = Ask::new(qname, qtype);
        ask.edns = Some((1232, false));
        let plugin = External {
            ttl: 30,
            ..plugin(&cluster)
        };
        bench(vec![Arc::new(plugin), slow()]).send(&ask)
    };
    // RFC 8914, sections 4.4 and 4.20; also where the answer had to be waited for.
    let says = |octets: &[u8], code: u8| {
        let text = b"the API server does not answer; this is from a snapshot";
        octets.ends_with(&[&[0, code], text.as_slice()].concat())
    };
    for qtype in [RecordType::A, RecordType::MX] {
        let answer = ask("web.shop.example.org", qtype);
        assert_eq!(answer.rcode(), Rcode::NOERROR);
        assert!(says(&answer.octets, 3), "{answer:?}");
    }
    let denial = ask("nope.shop.example.org", RecordType::A);
    assert_eq!(denial.rcode(), Rcode::NXDOMAIN);
    assert!(says(&denial.octets, 19), "{denial:?}");
    assert!(records(&denial.octets)[0].contains(" 5 SOA "), "{denial:?}");
    sync(&cluster, Vec::new());
    let denial = ask("nope.shop.example.org", RecordType::A);
    assert!(
        records(&denial.octets)[0].contains(" 30 SOA "),
        "{denial:?}"
    );
}

#[test]
fn a_name_is_owned_if_the_cluster_answers_or_denies_it() {
    let cluster = cluster();
    sync(&cluster, vec![web(&["198.51.100.1"])]);
    let owned = |plugin: External, qname: &str, qtype| {
        let probe = Upstream::new(|exchange, _| {
            exchange.reply.rcode = if exchange.owned_below() {
                Rcode::YXDOMAIN
            } else {
                Rcode::NXRRSET
            };
            Step::Answered
        });
        let bench = bench(vec![probe, Arc::new(plugin)]);
        bench.ask(qname, qtype).rcode() == Rcode::YXDOMAIN
    };
    let reverse = |plugin: External| External {
        zones: Box::new([Zone {
            origin: name("in-addr.arpa"),
            name_server: name("ns1.dns.in-addr.arpa"),
            mailbox: name("hostmaster.dns.in-addr.arpa"),
        }]),
        ..plugin
    };
    for (qname, qtype, without, with_fallthrough) in [
        ("web.shop.example.org", RecordType::A, true, true),
        ("web.shop.example.org", RecordType::MX, true, true),
        ("shop.example.org", RecordType::A, true, true),
        ("example.org", RecordType::NS, true, true),
        ("ns2.dns.example.org", RecordType::A, true, true),
        ("nope.shop.example.org", RecordType::A, true, false),
        ("1.100.51.198.in-addr.arpa", RecordType::PTR, true, true),
        ("2.100.51.198.in-addr.arpa", RecordType::PTR, true, false),
        ("web.shop.example.net", RecordType::A, false, false),
    ] {
        let plugin = |fallthrough| External {
            fallthrough,
            ..if qtype == RecordType::PTR {
                reverse(plugin(&cluster))
            } else {
                plugin(&cluster)
            }
        };
        let all = Some(Fallthrough::everywhere());
        assert_eq!(owned(plugin(None), qname, qtype), without, "{qname}");
        assert_eq!(
            owned(plugin(all), qname, qtype),
            with_fallthrough,
            "{qname}"
        );
    }
}

/// Answers addresses at `lb.example.net` after a while, and drops everything else.
fn slow() -> Arc<Upstream> {
    Upstream::new(|exchange, _| {
        if exchange.qname() != name("lb.example.net").as_ref() {
            return Step::Drop;
        }
        let message = exchange.query.message().to_vec();
        Step::Defer(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let query = Query::parse(&message).expect("a query");
            let mut out = Vec::new();
            let mut reply = ReplyWriter::new(&query, &mut out);
            if query.qtype() == RecordType::A {
                reply.a(Owner::Question, 60, Ipv4Addr::new(192, 0, 2, 81));
            }
            reply.finish(&query, MESSAGE_MAX, None);
            Verdict::Reply(Answer {
                message: out,
                ..Answer::default()
            })
        }))
    })
}

#[test]
fn the_name_of_a_load_balancer_is_waited_for() {
    let cluster = cluster();
    sync(&cluster, vec![web(&["lb.example.net"])]);
    let bench = bench(vec![Arc::new(plugin(&cluster)), slow()]);
    let reply = bench.ask("Web.shop.example.org", RecordType::A);
    assert!(reply.has_aa());
    assert_eq!(
        records(&reply.octets),
        [
            "answer Web.shop.example.org. 5 CNAME lb.example.net.",
            "answer lb.example.net. 60 A 192.0.2.81"
        ]
    );
    let reply = bench.ask("web.shop.example.org", RecordType::SRV);
    assert_eq!(
        records(&reply.octets),
        [
            "answer web.shop.example.org. 5 SRV 0 100 80 lb.example.net.",
            "additional lb.example.net. 60 A 192.0.2.81"
        ]
    );
}

#[test]
fn an_alias_stands_even_if_nobody_says_where_it_leads() {
    let cluster = cluster();
    sync(
        &cluster,
        vec![web(&["dropped.example.net", "lb.example.net"])],
    );
    let bench = bench(vec![Arc::new(plugin(&cluster)), slow()]);
    let reply = bench.ask("web.shop.example.org", RecordType::AAAA);
    assert_eq!((reply.rcode(), reply.has_aa()), (Rcode::NOERROR, true));
    assert_eq!(
        records(&reply.octets),
        ["answer web.shop.example.org. 5 CNAME dropped.example.net."]
    );
    // One is dropped, the other waited for.
    let reply = bench.ask("web.shop.example.org", RecordType::SRV);
    assert_eq!(
        records(&reply.octets),
        [
            "answer web.shop.example.org. 5 SRV 0 50 80 dropped.example.net.",
            "answer web.shop.example.org. 5 SRV 0 50 80 lb.example.net.",
            "additional lb.example.net. 60 A 192.0.2.81"
        ]
    );
}

#[test]
fn an_answer_to_srv_asks_for_the_addresses_of_eight_names_at_most() {
    let cluster = cluster();
    let names: Vec<String> = (0..20).map(|n| format!("lb{n}.example.net")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sync(&cluster, vec![web(&names)]);
    let upstream = Upstream::answering(|exchange, _| exchange.reply.rcode = Rcode::NXDOMAIN);
    let bench = bench(vec![Arc::new(plugin(&cluster)), upstream.clone()]);
    let reply = bench.ask("web.shop.example.org", RecordType::SRV);
    assert!(reply.has_tc() || records(&reply.octets).len() == 20);
    assert_eq!(upstream.asked(), 16);
}

#[test]
fn blocks_that_share_a_cluster_keep_what_one_of_them_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.yaml");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {externalIPs: [198.51.100.1]}\n";
    std::fs::write(&path, service).expect("written");
    let kubernetes = format!(
        "kubernetes cluster.local {{\nmanifests {}\n}}",
        path.display()
    );
    let kept = |external: &str| {
        let text = format!("a.org {{\n{kubernetes}\n}}\nb.org {{\n{kubernetes}\n{external}\n}}\n");
        let (corefile, mut faults) = crate::corefile::parser::parse_text(&text);
        let blocks = crate::plugin::configure::configure(&corefile, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let process =
            crate::server::process::Process::new(crate::plugin::testing::bench::runtime());
        let defaults = crate::server::generation::ServeDefaults { port: 53 };
        let generation = crate::server::generation::Generation::build(&blocks, defaults, &process);
        let plan = generation.expect("it can be built").plan;
        // The slot of the last block; the cluster is that of the first too, which was built before it.
        let lent = plan.cluster.get().expect("there is a cluster");
        let view = lent.scope.table().service(b"\x03web\x04shop");
        view.expect("the file is read").external().len()
    };
    assert_eq!(kept(""), 0);
    assert_eq!(kept("k8s_external b.org"), 1);
}
