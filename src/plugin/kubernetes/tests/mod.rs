//! What the cases of `tests/kubernetes` cannot show: what is owned, the time before the first lists, aliases
//! that have to wait, name servers, sizes.

mod imports;
mod large;
mod metadata;
mod options;
mod search;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::chain::exchange::Protocol;
use crate::chain::plugin::{Answer, Verdict};
use crate::cluster::objects::{
    Endpoint, EndpointSlice, Meta, Object, Port, Resource, Service, ServiceKind,
};
use crate::cluster::{Cluster, Feed, Keep, ObjectSink};
use crate::plugin::testing::bench::{Ask, Bench, Link, Reply};
use crate::wire::MESSAGE_MAX;
use crate::wire::name::NameBuf;
use crate::wire::query::Query;
use crate::wire::writer::{Owner, ReplyWriter};

fn meta(namespace: &str, name: &str) -> Meta {
    Meta {
        namespace: namespace.into(),
        name: name.into(),
        resource_version: Box::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(name: &str, kind: ServiceKind) -> Object {
    let ports = vec![Port {
        name: "http".into(),
        protocol: "TCP".into(),
        number: Some(80),
    }];
    Object::Service(Service {
        meta: meta("shop", name),
        kind,
        ports,
        external: Vec::new(),
    })
}

fn slice(service: &str, addresses: &[IpAddr]) -> Object {
    let endpoint = |&address: &IpAddr| Endpoint {
        addresses: vec![address],
        hostname: None,
        target_name: None,
        ready: true,
        zone: None,
    };
    Object::EndpointSlice(EndpointSlice {
        meta: meta("shop", service),
        service: service.into(),
        import: None,
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: Some(80),
        }],
        endpoints: addresses.iter().map(endpoint).collect(),
        trigger_time: None,
    })
}

const WANTED: [Resource; 3] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
];

/// A cluster with the namespace `shop` and these objects, not yet synced.
fn cluster(objects: Vec<Object>) -> Arc<Cluster> {
    let cluster = Cluster::new(&WANTED, Keep::default());
    cluster.applied(Object::Namespace(meta("", "shop")));
    objects
        .into_iter()
        .for_each(|object| cluster.applied(object));
    Arc::new(cluster)
}

/// All that is there is all there is.
fn sync(cluster: &Cluster, objects: Vec<Object>) {
    for resource in WANTED {
        cluster.list_started(resource);
        if resource == Resource::Namespaces {
            cluster.listed(Object::Namespace(meta("", "shop")));
        }
        let of_resource = objects
            .iter()
            .filter(|object| object.resource() == resource);
        of_resource.for_each(|object| cluster.listed(object.clone()));
        cluster.list_finished(resource);
    }
}

fn synced(objects: Vec<Object>) -> Arc<Cluster> {
    let cluster = cluster(Vec::new());
    sync(&cluster, objects);
    cluster
}

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a name")
}

fn plugin(cluster: &Arc<Cluster>) -> Kubernetes {
    Kubernetes {
        scope: Arc::new(Scope::new(
            Arc::new(Feed {
                cluster: Arc::clone(cluster),
                source: Arc::new(()),
                line: Arc::default(),
            }),
            None,
        )),
        zones: Origin::all(["in-addr.arpa", "cluster.local"].map(name), None),
        service_suffix: name("svc.cluster.local"),
        ttl: 5,
        pods: PodMode::Disabled,
        search: Box::default(),
        ignore_empty_service: false,
        zonal: false,
        multicluster: Box::default(),
        fallthrough: None,
        local_addresses: Box::new([ip("10.1.0.53"), ip("fd00::53")]),
    }
}

/// Fills in what `fallthrough` would say.
fn falling_through(cluster: &Arc<Cluster>) -> Kubernetes {
    let everywhere = Fallthrough::everywhere();
    Kubernetes {
        zones: Origin::all(
            ["in-addr.arpa", "cluster.local"].map(name),
            Some(&everywhere),
        ),
        fallthrough: Some(everywhere),
        ..plugin(cluster)
    }
}

fn bench(links: Vec<Arc<dyn Plugin>>) -> Bench {
    Bench::new(links.into_iter().map(Link::Made).collect())
}

fn ask(plugin: Kubernetes, qname: &str, qtype: RecordType) -> Reply {
    bench(vec![Arc::new(plugin)]).ask(qname, qtype)
}

/// The records of a reply, its SOA's serial replaced.
fn records(reply: &Reply) -> Vec<String> {
    let clean = |record: String| record.replace(" IN ", " ");
    reply.records().into_iter().map(clean).collect()
}

#[test]
fn until_the_first_lists_are_in_what_is_not_there_is_servfail() {
    let cluster = cluster(vec![service(
        "web",
        ServiceKind::ClusterIp(vec![ip("10.0.0.1")]),
    )]);
    let ask = |qname: &str, qtype| ask(plugin(&cluster), qname, qtype);
    let reply = ask("nope.shop.svc.cluster.local", RecordType::A);
    assert_eq!((reply.rcode(), reply.has_aa()), (Rcode::SERVFAIL, true));
    assert!(
        records(&reply)[0].starts_with("authority cluster.local. 5 SOA ns.dns.cluster.local."),
        "{reply:?}"
    );
    for (qname, qtype) in [
        ("shop2.svc.cluster.local", RecordType::A),
        ("web.shop.svc.cluster.local", RecordType::A),
        ("cluster.local", RecordType::A),
        ("cluster.local", RecordType::SOA),
        ("svc.cluster.local", RecordType::A),
        ("dns-version.cluster.local", RecordType::TXT),
        ("nope.shop.svc.cluster.local", RecordType::SOA),
    ] {
        let expected = if qname.starts_with("shop2") {
            Rcode::SERVFAIL
        } else {
            Rcode::NOERROR
        };
        assert_eq!(ask(qname, qtype).rcode(), expected, "{qname} {qtype}");
    }
    sync(&cluster, Vec::new());
    assert_eq!(
        ask("nope.shop.svc.cluster.local", RecordType::A).rcode(),
        Rcode::NXDOMAIN
    );
}

#[test]
fn a_failure_before_the_first_lists_says_not_ready() {
    let cluster = cluster(Vec::new());
    let ask = || {
        let mut ask = Ask::new("nope.shop.svc.cluster.local", RecordType::A);
        ask.edns = Some((1232, false));
        bench(vec![Arc::new(plugin(&cluster))]).send(&ask).octets
    };
    // Code 14 with its text (RFC 8914, section 4.15).
    let not_ready = b"\x00\x0f\x00\x1f\x00\x0ethe cluster is not listed yet";
    assert!(ask().ends_with(not_ready));
    sync(&cluster, Vec::new());
    assert!(!ask().ends_with(not_ready));
}

/// The cluster as a snapshot has it, while the API server is away.
fn restored(objects: Vec<Object>) -> Arc<Cluster> {
    let cluster = Cluster::new(&WANTED, Keep::default());
    let namespace = Object::Namespace(meta("", "shop"));
    let objects = std::iter::once(namespace).chain(objects);
    cluster.restore(objects, std::time::SystemTime::now());
    Arc::new(cluster)
}

#[test]
fn what_a_snapshot_says_is_marked_as_stale_and_denied_for_a_short_time() {
    let web = service("web", ServiceKind::ClusterIp(vec![ip("10.0.0.1")]));
    let cluster = restored(vec![web.clone()]);
    let ask = |qname: &str, qtype| {
        let mut ask = Ask::new(qname, qtype);
        ask.edns = Some((1232, false));
        let slow = Kubernetes {
            ttl: 30,
            ..plugin(&cluster)
        };
        bench(vec![Arc::new(slow)]).send(&ask)
    };
    let text = "the API server does not answer; this is from a snapshot";
    // RFC 8914, sections 4.4 and 4.20.
    let says = |reply: &Reply, code: u8| {
        let tail = [&[0, code], text.as_bytes()].concat();
        reply.octets.ends_with(&tail)
    };
    let answer = ask("web.shop.svc.cluster.local", RecordType::A);
    assert!(says(&answer, 3), "{answer:?}");
    assert!(
        records(&answer)[0].ends_with(" 30 A 10.0.0.1"),
        "{answer:?}"
    );
    let no_data = ask("web.shop.svc.cluster.local", RecordType::MX);
    assert!(
        says(&no_data, 3) && records(&no_data)[0].contains(" 5 SOA "),
        "{no_data:?}"
    );
    let denial = ask("nope.shop.svc.cluster.local", RecordType::A);
    assert_eq!(denial.rcode(), Rcode::NXDOMAIN);
    assert!(
        says(&denial, 19) && records(&denial)[0].ends_with(" 5"),
        "{denial:?}"
    );
    sync(&cluster, vec![web]);
    let answer = ask("web.shop.svc.cluster.local", RecordType::A);
    assert!(!says(&answer, 3), "{answer:?}");
    let denial = ask("nope.shop.svc.cluster.local", RecordType::A);
    assert!(records(&denial)[0].contains(" 30 SOA "), "{denial:?}");
}

#[test]
fn an_alias_of_a_snapshot_is_marked_as_stale_though_its_target_is_not() {
    let alias = service("ext", ServiceKind::ExternalName("www.example.org".into()));
    let cluster = restored(vec![alias]);
    let bench = bench(vec![
        Arc::new(plugin(&cluster)),
        Arc::new(Slow { truncated: false }),
    ]);
    let mut ask = Ask::new("ext.shop.svc.cluster.local", RecordType::A);
    ask.edns = Some((1232, false));
    let reply = bench.send(&ask);
    assert_eq!(records(&reply).len(), 2, "{reply:?}");
    assert!(
        reply.octets.ends_with(b"this is from a snapshot"),
        "{reply:?}"
    );
}

#[test]
fn what_is_not_listed_yet_falls_through_all_the_same() {
    let reply = ask(
        falling_through(&cluster(Vec::new())),
        "nope.shop.svc.cluster.local",
        RecordType::A,
    );
    assert_eq!((reply.rcode(), reply.has_aa()), (Rcode::SERVFAIL, false));
}

/// Says whether anything below it owns the question.
struct OwnerProbe;

impl Plugin for OwnerProbe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.reply.rcode = if exchange.owned_below() {
            Rcode::YXDOMAIN
        } else {
            Rcode::NXRRSET
        };
        Step::Answered
    }
}

#[test]
fn a_name_is_owned_if_the_table_answers_or_denies_it() {
    let cluster = synced(vec![
        service("web", ServiceKind::ClusterIp(vec![ip("10.0.0.1")])),
        service("ext", ServiceKind::ExternalName("www.example.org".into())),
    ]);
    let owned = |plugin: Kubernetes, qname: &str, qtype| {
        bench(vec![Arc::new(OwnerProbe), Arc::new(plugin)])
            .ask(qname, qtype)
            .rcode()
            == Rcode::YXDOMAIN
    };
    for (qname, qtype, without, with_fallthrough) in [
        ("web.shop.svc.cluster.local", RecordType::A, true, true),
        ("web.shop.svc.cluster.local", RecordType::MX, true, true),
        ("ext.shop.svc.cluster.local", RecordType::A, true, true),
        ("1.0.0.10.in-addr.arpa", RecordType::PTR, true, true),
        ("shop.svc.cluster.local", RecordType::A, true, true),
        ("nope.shop.svc.cluster.local", RecordType::A, true, false),
        ("2.0.0.10.in-addr.arpa", RecordType::PTR, true, false),
        ("www.example.org", RecordType::A, false, false),
    ] {
        assert_eq!(
            owned(plugin(&cluster), qname, qtype),
            without,
            "{qname} {qtype}"
        );
        assert_eq!(
            owned(falling_through(&cluster), qname, qtype),
            with_fallthrough,
            "{qname} {qtype}"
        );
    }
}

#[test]
fn a_new_service_is_owned_and_answered_at_once() {
    let cluster = synced(Vec::new());
    let bench = bench(vec![Arc::new(falling_through(&cluster))]);
    assert!(!bench.ask("1.0.0.10.in-addr.arpa", RecordType::PTR).has_aa());
    cluster.applied(service("web", ServiceKind::ClusterIp(vec![ip("10.0.0.1")])));
    let reply = bench.ask("1.0.0.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(
        records(&reply),
        ["answer 1.0.0.10.in-addr.arpa. 5 PTR web.shop.svc.cluster.local."]
    );
}

/// Answers `www.example.org` after a while, truncated if so told; drops everything else.
struct Slow {
    truncated: bool,
}

impl Plugin for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.qname() != name("www.example.org").as_ref() {
            return Step::Drop;
        }
        let (message, truncated) = (exchange.query.message().to_vec(), self.truncated);
        Step::Defer(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let query = Query::parse(&message).expect("a query");
            let mut out = Vec::new();
            let mut reply = ReplyWriter::new(&query, &mut out);
            reply.a(Owner::Question, 60, Ipv4Addr::new(192, 0, 2, 1));
            reply.truncated = truncated;
            reply.finish(&query, MESSAGE_MAX, None);
            Verdict::Reply(Answer {
                message: out,
                ..Answer::default()
            })
        }))
    }
}

fn alias_to(target: &str) -> Arc<Cluster> {
    synced(vec![service(
        "ext",
        ServiceKind::ExternalName(target.into()),
    )])
}

#[test]
fn an_alias_out_of_the_zone_waits_for_its_target() {
    for truncated in [false, true] {
        let cluster = alias_to("www.Example.org");
        let bench = bench(vec![
            Arc::new(plugin(&cluster)),
            Arc::new(Slow { truncated }),
        ]);
        let reply = bench.ask("Ext.shop.svc.cluster.local", RecordType::A);
        assert_eq!((reply.has_aa(), reply.has_tc()), (true, truncated));
        assert_eq!(
            records(&reply),
            [
                "answer Ext.shop.svc.cluster.local. 5 CNAME www.Example.org.",
                "answer www.Example.org. 60 A 192.0.2.1"
            ]
        );
    }
}

#[test]
fn an_alias_whose_target_gets_no_reply_at_all_has_no_data() {
    let cluster = alias_to("dropped.example.org");
    let bench = bench(vec![
        Arc::new(plugin(&cluster)),
        Arc::new(Slow { truncated: false }),
    ]);
    let reply = bench.ask("ext.shop.svc.cluster.local", RecordType::A);
    assert_eq!((reply.rcode(), reply.has_aa()), (Rcode::NOERROR, true));
    assert!(
        records(&reply)[0].starts_with("authority cluster.local. 5 SOA"),
        "{reply:?}"
    );
}

/// Case 89, at which CoreDNS dies.
#[test]
fn aliases_of_two_zones_that_lead_to_each_other_end() {
    let alias = |name: &str, target: &str| service(name, ServiceKind::ExternalName(target.into()));
    let cluster = synced(vec![
        alias("a", "b.shop.svc.second.local"),
        alias("b", "a.shop.svc.cluster.local"),
    ]);
    let both = Kubernetes {
        zones: Origin::all(["cluster.local", "second.local"].map(name), None),
        ..plugin(&cluster)
    };
    let reply = ask(both, "a.shop.svc.cluster.local", RecordType::A);
    assert_eq!(reply.rcode(), Rcode::NOERROR);
    assert!(records(&reply).len() <= 24, "{:?}", records(&reply));
}

/// Cases 94 to 97; the zone is found in any letter case.
#[test]
fn a_name_server_is_known_by_the_services_that_lead_to_it() {
    let dns = |kind| {
        vec![
            service("dns", kind),
            slice("dns", &[ip("10.1.0.53"), ip("10.1.0.54")]),
        ]
    };
    let cluster_ips = ServiceKind::ClusterIp(vec![ip("10.0.0.10"), ip("fd00::10")]);
    let expected: [&[&str]; 3] = [
        &[
            "answer Cluster.Local. 5 NS ns.dns.Cluster.Local.",
            "additional ns.dns.Cluster.Local. 5 A 10.1.0.53",
            "additional ns.dns.Cluster.Local. 5 AAAA fd00::53",
        ],
        &[
            "answer Cluster.Local. 5 NS dns.shop.svc.Cluster.Local.",
            "additional dns.shop.svc.Cluster.Local. 5 A 10.0.0.10",
            "additional dns.shop.svc.Cluster.Local. 5 AAAA fd00::10",
        ],
        &[
            "answer Cluster.Local. 5 NS 10-1-0-53.dns.shop.svc.Cluster.Local.",
            "answer Cluster.Local. 5 NS 10-1-0-54.dns.shop.svc.Cluster.Local.",
            "additional 10-1-0-53.dns.shop.svc.Cluster.Local. 5 A 10.1.0.53",
            "additional 10-1-0-54.dns.shop.svc.Cluster.Local. 5 A 10.1.0.54",
        ],
    ];
    let objects = [Vec::new(), dns(cluster_ips), dns(ServiceKind::Headless)];
    for (objects, expected) in objects.into_iter().zip(expected) {
        let reply = ask(plugin(&synced(objects)), "Cluster.Local", RecordType::NS);
        assert_eq!(records(&reply), expected);
    }
}

/// Cases 105 and 107.
#[test]
fn ns_dns_has_the_addresses_of_the_name_servers_in_any_letter_case() {
    let cluster = synced(Vec::new());
    let reply = ask(plugin(&cluster), "NS.dns.Cluster.local", RecordType::A);
    assert_eq!(
        records(&reply),
        ["answer NS.dns.Cluster.local. 5 A 10.1.0.53"]
    );
    let reply = ask(plugin(&cluster), "ns.dns.cluster.local", RecordType::AAAA);
    assert_eq!(
        records(&reply),
        ["answer ns.dns.cluster.local. 5 AAAA fd00::53"]
    );
}

/// Case 108, which CoreDNS answers.
#[test]
fn ns_dns_stands_directly_below_the_zone_only() {
    let cluster = synced(Vec::new());
    for qname in [
        "ns.dns.cluster.local.cluster.local",
        "x.ns.dns.cluster.local",
    ] {
        let reply = ask(plugin(&cluster), qname, RecordType::A);
        assert_eq!(reply.rcode(), Rcode::NXDOMAIN, "{qname}");
    }
}

/// Cases 64 to 67.
#[test]
fn a_large_service_is_cut_for_udp_and_whole_for_tcp() {
    let addresses: Vec<IpAddr> = (1..=150)
        .map(|last| IpAddr::from([10, 245, 0, last]))
        .collect();
    let cluster = synced(vec![
        service("big", ServiceKind::Headless),
        slice("big", &addresses),
    ]);
    let bench = bench(vec![Arc::new(plugin(&cluster))]);
    let counted = |qtype, edns, protocol| {
        let mut ask = Ask::new("big.shop.svc.cluster.local", qtype);
        ask.edns = edns;
        ask.arrival.protocol = protocol;
        let reply = bench.send(&ask);
        let of_section = |name: &str| {
            records(&reply)
                .iter()
                .filter(|record| record.starts_with(name))
                .count()
        };
        (
            reply.has_tc(),
            of_section("answer"),
            of_section("additional"),
        )
    };
    assert_eq!(counted(RecordType::A, None, Protocol::Udp), (true, 29, 0));
    assert_eq!(
        counted(RecordType::A, Some((1232, false)), Protocol::Udp),
        (true, 73, 0)
    );
    assert_eq!(counted(RecordType::A, None, Protocol::Tcp), (false, 150, 0));
    let (truncated, _, additional) = counted(RecordType::SRV, None, Protocol::Udp);
    assert_eq!((truncated, additional), (true, 0));
    assert_eq!(
        counted(RecordType::SRV, None, Protocol::Tcp),
        (false, 150, 150)
    );
}

#[test]
fn a_service_too_large_for_any_message_ends_at_64_kib() {
    let addresses: Vec<IpAddr> = (0..8000u32)
        .map(|n| IpAddr::V4(Ipv4Addr::from(0x0af0_0000 + n)))
        .collect();
    let cluster = synced(vec![
        service("big", ServiceKind::Headless),
        slice("big", &addresses),
    ]);
    let bench = bench(vec![Arc::new(plugin(&cluster))]);
    for qtype in [RecordType::A, RecordType::SRV] {
        let mut ask = Ask::new("big.shop.svc.cluster.local", qtype);
        ask.arrival.protocol = Protocol::Tcp;
        let reply = bench.send(&ask);
        assert!(
            reply.has_tc() && reply.octets.len() <= MESSAGE_MAX,
            "{qtype}"
        );
    }
}

#[test]
fn a_target_too_long_for_a_name_is_left_out() {
    // QNAME has 250 octets, so the label of an endpoint does not fit in front of it.
    let zone = [60, 60, 53].map(|length| "z".repeat(length)).join(".");
    let label = "s".repeat(63);
    let cluster = synced(vec![
        service(&label, ServiceKind::Headless),
        slice(&label, &[ip("10.1.0.1")]),
    ]);
    let long = Kubernetes {
        zones: Origin::all([name(&zone)], None),
        ..plugin(&cluster)
    };
    let reply = ask(long, &format!("{label}.shop.svc.{zone}"), RecordType::SRV);
    assert_eq!(reply.rcode(), Rcode::NOERROR);
    assert!(records(&reply)[0].starts_with("authority "), "{reply:?}");
}

#[test]
fn a_query_for_nothing_of_ours_goes_on() {
    let reply = ask(
        plugin(&synced(Vec::new())),
        "www.example.org",
        RecordType::A,
    );
    assert_eq!((reply.rcode(), reply.has_aa()), (Rcode::SERVFAIL, false));
}

/// A change is seen whole: the two families of one version never mix with those of another.
#[test]
fn a_reply_shows_one_version_of_a_service() {
    let version = |last: u8| {
        let addresses = vec![IpAddr::from([10, 0, 0, last]), ip(&format!("fd00::{last}"))];
        service("web", ServiceKind::ClusterIp(addresses))
    };
    let cluster = synced(vec![version(1)]);
    let bench = bench(vec![Arc::new(plugin(&cluster))]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2000u32 {
                cluster.applied(version(if round % 2 == 0 { 2 } else { 1 }));
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let records = records(&bench.ask("web.shop.svc.cluster.local", RecordType::SRV));
            let last = |record: &String| record.chars().last();
            assert_eq!(records.len(), 3, "{records:?}");
            assert_eq!(last(&records[1]), last(&records[2]), "{records:?}");
        }
    });
}

/// Answers after the first lists have come in between the look-up and the reply.
struct Overtaken(Kubernetes, Arc<Cluster>);

impl Plugin for Overtaken {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let name = NameBuf::copy_of(exchange.qname());
        let asked = self.0.asked(name.as_ref(), exchange.qtype());
        let asked = asked.expect("a name of the zone");
        let found = self.0.find(&asked);
        let web = service("web", ServiceKind::ClusterIp(vec![ip("10.0.0.1")]));
        sync(&self.1, vec![web]);
        self.0.answer(exchange, &asked, found)
    }
}

#[test]
fn a_name_that_was_looked_up_before_the_lists_were_in_is_not_denied_after_them() {
    for (qname, rcode) in [
        ("web.shop.svc.cluster.local", Rcode::SERVFAIL),
        ("nope.shop.svc.cluster.local", Rcode::NXDOMAIN),
    ] {
        let cluster = cluster(Vec::new());
        let overtaken = Overtaken(plugin(&cluster), cluster);
        let reply = bench(vec![Arc::new(overtaken)]).ask(qname, RecordType::A);
        assert_eq!(reply.rcode(), rcode, "{qname}");
    }
}

#[test]
fn until_the_first_lists_are_in_what_a_service_has_no_records_of_is_servfail() {
    let cluster = cluster(vec![
        service(
            "alias",
            ServiceKind::ExternalName("web.shop.svc.cluster.local".into()),
        ),
        service("peers", ServiceKind::Headless),
        slice("peers", &[ip("10.1.0.1")]),
    ]);
    let rcode = |qname: &str, qtype| ask(plugin(&cluster), qname, qtype).rcode();
    // The Service `web`, and a slice with IPv6 addresses, may be on their way.
    let unknown = [
        ("alias.shop.svc.cluster.local", RecordType::A),
        ("peers.shop.svc.cluster.local", RecordType::AAAA),
    ];
    for (qname, qtype) in unknown {
        assert_eq!(rcode(qname, qtype), Rcode::SERVFAIL, "{qname}");
    }
    assert_eq!(
        rcode("peers.shop.svc.cluster.local", RecordType::A),
        Rcode::NOERROR
    );
    for resource in WANTED {
        cluster.list_finished(resource);
    }
    for (qname, qtype) in unknown {
        assert_eq!(rcode(qname, qtype), Rcode::NOERROR, "{qname}");
    }
}

/// What `fallthrough` covers is worked out for each zone at load, and for each name only where it differs within one.
#[test]
fn names_of_a_zone_fall_through_where_fallthrough_covers_them() {
    let cluster = synced(Vec::new());
    for (zone, covered, falls) in [
        ("cluster.local", "cluster.local", true),
        ("cluster.local", "local", true),
        ("cluster.local", "svc.cluster.local", true),
        ("cluster.local", "pod.cluster.local", false),
        ("cluster.local", "in-addr.arpa", false),
    ] {
        let fallthrough = Fallthrough::of(vec![name(covered)]);
        let kubernetes = Kubernetes {
            zones: Origin::all([name(zone)], Some(&fallthrough)),
            fallthrough: Some(fallthrough),
            ..plugin(&cluster)
        };
        let asked = name("none.shop.svc.cluster.local");
        let asked = kubernetes.asked(asked.as_ref(), RecordType::A);
        let asked = asked.expect("it is in the zone");
        assert_eq!(kubernetes.falls_through(&asked), falls, "{zone} {covered}");
    }
}
