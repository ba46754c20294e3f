//! A Service of ten thousand endpoints in a hundred slices.

use super::*;

/// Slices of a hundred endpoints, named `pod-0` and on, or not at all.
fn slices(named: bool) -> Vec<Object> {
    let endpoint = |n: u32| Endpoint {
        addresses: vec![address(n)],
        hostname: named.then(|| format!("pod-{n}").into()),
        target_name: None,
        zone: None,
        ready: true,
    };
    let of = |at: u32| {
        let mut object = slice("big", &[]);
        if let Object::EndpointSlice(slice) = &mut object {
            slice.meta.name = format!("big-{at}").into();
            slice.endpoints = (at * 100..(at + 1) * 100).map(endpoint).collect();
        }
        object
    };
    (0..100).map(of).collect()
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0af0_0000 + n).into()
}

fn large(named: bool) -> (Arc<Cluster>, Bench) {
    let mut objects = slices(named);
    objects.push(service("big", ServiceKind::Headless));
    let cluster = synced(objects);
    let bench = bench(vec![Arc::new(plugin(&cluster))]);
    (cluster, bench)
}

fn one(n: u32, label: &str) -> String {
    format!(
        "answer {label}.big.shop.svc.cluster.local. 5 A {}",
        address(n)
    )
}

fn reverse(n: u32) -> String {
    let IpAddr::V4(address) = address(n) else {
        unreachable!("it is IPv4")
    };
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

fn targets(reply: &Reply) -> Vec<String> {
    let target = |record: &String| record.rsplit(' ').next().map(str::to_owned);
    records(reply).iter().filter_map(target).collect()
}

#[test]
fn each_of_ten_thousand_host_names_has_its_own_address() {
    let (cluster, bench) = large(true);
    for n in [0, 99, 100, 5050, 9999] {
        let label = format!("pod-{n}");
        let qname = format!("Pod-{n}.big.shop.svc.cluster.local");
        let reply = bench.ask(&qname, RecordType::A);
        let [record] = &*records(&reply) else {
            panic!("{reply:?}")
        };
        assert!(record.eq_ignore_ascii_case(&one(n, &label)), "{record}");
        assert_eq!(bench.ask(&qname, RecordType::SRV).rcode(), Rcode::NOERROR);
        let pointer = bench.ask(&reverse(n), RecordType::PTR);
        assert_eq!(
            targets(&pointer),
            [format!("{label}.big.shop.svc.cluster.local.")]
        );
    }
    for label in ["pod-10000", "10-240-0-1"] {
        let qname = format!("{label}.big.shop.svc.cluster.local");
        let reply = bench.ask(&qname, RecordType::A);
        assert_eq!(reply.rcode(), Rcode::NXDOMAIN, "{qname}");
    }
    // One slice loses an endpoint: the others keep theirs.
    let Object::EndpointSlice(mut slice) = slices(true).swap_remove(50) else {
        unreachable!("slices makes slices")
    };
    slice.endpoints.remove(50);
    cluster.applied(Object::EndpointSlice(slice));
    for (n, rcode) in [
        (5049, Rcode::NOERROR),
        (5050, Rcode::NXDOMAIN),
        (5051, Rcode::NOERROR),
        (9999, Rcode::NOERROR),
    ] {
        let qname = format!("pod-{n}.big.shop.svc.cluster.local");
        assert_eq!(bench.ask(&qname, RecordType::A).rcode(), rcode, "{qname}");
        assert_eq!(bench.ask(&reverse(n), RecordType::PTR).rcode(), rcode);
    }
}

#[test]
fn endpoints_without_host_names_are_found_by_their_addresses() {
    let (_cluster, bench) = large(false);
    for n in [0, 99, 100, 5050, 9999] {
        let label = address(n).to_string().replace('.', "-");
        let reply = bench.ask(
            &format!("{label}.big.shop.svc.cluster.local"),
            RecordType::A,
        );
        assert_eq!(records(&reply), [one(n, &label)]);
        let pointer = bench.ask(&reverse(n), RecordType::PTR);
        assert_eq!(
            targets(&pointer),
            [format!("{label}.big.shop.svc.cluster.local.")]
        );
    }
}

#[test]
fn all_that_fits_goes_over_tcp_and_the_rest_is_told_by_tc() {
    let (_cluster, bench) = large(true);
    let mut ask = Ask::new("big.shop.svc.cluster.local", RecordType::A);
    let udp = bench.send(&ask);
    // Header and question take 44 octets, an A record 16 behind a pointer.
    assert!(udp.has_tc() && (512 - 16..=512).contains(&udp.octets.len()));
    ask.arrival.protocol = Protocol::Tcp;
    let tcp = bench.send(&ask);
    assert!(tcp.has_tc() && tcp.octets.len() > MESSAGE_MAX - 16);
    let mut all = targets(&tcp);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), records(&tcp).len(), "each address once");
}

#[test]
fn what_a_truncated_reply_shows_is_any_of_the_endpoints() {
    let (_cluster, bench) = large(true);
    for (qtype, wanted) in [(RecordType::A, 29), (RecordType::SRV, 7)] {
        let ask = Ask::new("big.shop.svc.cluster.local", qtype);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..400 {
            let reply = bench.send(&ask);
            assert!(reply.has_tc(), "{qtype:?}");
            let shown = targets(&reply);
            assert!(shown.len() >= wanted, "{} {qtype:?}", shown.len());
            seen.extend(shown);
        }
        // Of the same records every time, there would be 29 and 7.
        assert!(seen.len() > 1000, "{} {qtype:?}", seen.len());
    }
}

#[test]
fn a_round_from_any_endpoint_on_has_each_of_a_family_once() {
    let mut object = slice("big", &[]);
    if let Object::EndpointSlice(slice) = &mut object {
        let v6 = |n: u32| IpAddr::V6(std::net::Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)));
        let endpoint = |n: u32| Endpoint {
            // Every address twice.
            addresses: vec![if n.is_multiple_of(2) {
                address(n / 4)
            } else {
                v6(n / 4)
            }],
            hostname: None,
            target_name: None,
            zone: None,
            ready: true,
        };
        slice.endpoints = (0..4000).map(endpoint).collect();
    }
    let mut objects = slices(false);
    objects.truncate(3);
    objects.extend([service("big", ServiceKind::Headless), object]);
    let bench = bench(vec![Arc::new(plugin(&synced(objects)))]);
    for (qtype, count) in [(RecordType::A, 1000), (RecordType::AAAA, 1000)] {
        let mut ask = Ask::new("big.shop.svc.cluster.local", qtype);
        // 1300 and 1000 endpoints of this family, of 28 octets at most: all fit, each once.
        ask.arrival.protocol = Protocol::Tcp;
        let reply = bench.send(&ask);
        assert!(!reply.has_tc());
        let mut all = targets(&reply);
        assert_eq!(all.len(), count, "{qtype:?}");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "{qtype:?}");
        // And of those that a datagram has room for, none stands there twice.
        ask.arrival.protocol = Protocol::Udp;
        ask.edns = Some((4096, false));
        for _ in 0..50 {
            let reply = bench.send(&ask);
            assert!(reply.has_tc());
            let mut all = targets(&reply);
            let len = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), len, "{qtype:?}");
        }
    }
}

#[test]
fn what_fits_is_in_the_order_of_the_slices() {
    let mut objects = slices(true);
    objects.truncate(1);
    objects.push(service("big", ServiceKind::Headless));
    let bench = bench(vec![Arc::new(plugin(&synced(objects)))]);
    let mut ask = Ask::new("big.shop.svc.cluster.local", RecordType::A);
    ask.arrival.protocol = Protocol::Tcp;
    for _ in 0..5 {
        let expected: Vec<String> = (0..100).map(|n| address(n).to_string()).collect();
        assert_eq!(targets(&bench.send(&ask)), expected);
    }
}

#[test]
fn an_address_with_ten_thousand_names_has_each_of_them_once() {
    let mut object = slice("big", &[]);
    if let Object::EndpointSlice(slice) = &mut object {
        let endpoint = |n: u32| Endpoint {
            addresses: vec![address(0)],
            hostname: Some(format!("pod-{}", n % 1000).into()),
            target_name: None,
            zone: None,
            ready: true,
        };
        slice.endpoints = (0..10_000).map(endpoint).collect();
    }
    let cluster = synced(vec![service("big", ServiceKind::Headless), object]);
    let bench = bench(vec![Arc::new(plugin(&cluster))]);
    let mut ask = Ask::new(&reverse(0), RecordType::PTR);
    ask.arrival.protocol = Protocol::Tcp;
    let mut all = targets(&bench.send(&ask));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 1000);
}
