//! Objects with odd values hurt nobody but themselves: `reliability-security.md`, section 3.2, O1 to O15. A real API
//! server would not let most of them in, so a scripted one hands them out, as streamed JSON.

use std::net::IpAddr;

use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::RecordType;
use fingerpost::wire::name::Name;
use serde_json::{Value, json};

use crate::bed::{Fed, Served, World, wait, with_plane};
use crate::fake_api::{Answer, Asked, FakeApi, Then};
use crate::in_process::{Server, shown};

const PATHS: [(&str, &str); 4] = [
    ("Namespace", "/namespaces?"),
    ("Service", "/services?"),
    ("EndpointSlice", "/endpointslices?"),
    ("Pod", "/pods?"),
];

/// An API server with these objects and the namespace `ns`.
fn api(objects: Vec<Value>) -> FakeApi {
    let line = |object: &Value| {
        (
            object["kind"].clone(),
            json!({"type": "ADDED", "object": object}).to_string(),
        )
    };
    let mut lines: Vec<(Value, Vec<u8>)> = objects
        .iter()
        .map(line)
        .map(|(kind, text)| (kind, text.into_bytes()))
        .collect();
    let namespace =
        br#"{"type":"ADDED","object":{"metadata":{"name":"ns","resourceVersion":"1"}}}"#;
    lines.push((json!("Namespace"), namespace.to_vec()));
    raw_api(lines)
}

/// The same of lines, each with the kind of its object.
fn raw_api(lines: Vec<(Value, Vec<u8>)>) -> FakeApi {
    FakeApi::start(move |asked: &Asked| {
        let of = |(kind, _): &&(Value, Vec<u8>)| {
            PATHS
                .iter()
                .any(|(name, path)| kind == name && asked.uri.contains(path))
        };
        let mut pieces: Vec<Vec<u8>> = lines
            .iter()
            .filter(of)
            .map(|(_, line)| [line, &b"\n"[..]].concat())
            .collect();
        let ends = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        pieces.push(format!("{ends}\n").into_bytes());
        Answer::Reply(200, "application/json", "", pieces, Then::Hold)
    })
}

/// A server that has listed them.
fn server(objects: Vec<Value>) -> (Server, FakeApi) {
    over(api(objects))
}

fn over(api: FakeApi) -> (Server, FakeApi) {
    let server = Server::new(&format!(
        ". {{\nkubernetes cluster.local a.cluster.local in-addr.arpa ip6.arpa {{\nendpoint {}\npods verified\n\
         startup_timeout 1m\n}}\n}}\n",
        api.url()
    ));
    (server, api)
}

/// RCODE, and the data of the answers.
fn ask(server: &Server, qname: &str, qtype: RecordType) -> (String, Vec<String>) {
    let shown = shown(&server.ask(qname, qtype));
    let data = |record: &String| record.splitn(4, ' ').nth(3).unwrap().to_owned();
    (shown.rcode, shown.sections[0].iter().map(data).collect())
}

/// The addresses of a name of the zone.
fn addresses(server: &Server, name: &str) -> Vec<String> {
    ask(
        server,
        &format!("{name}.ns.svc.cluster.local."),
        RecordType::A,
    )
    .1
}

fn rcode(server: &Server, qname: &str) -> String {
    ask(server, qname, RecordType::A).0
}

fn service(name: &str, spec: Value) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "ns", "name": name, "resourceVersion": "2"}, "spec": spec})
}

fn headless(name: &str) -> Value {
    service(
        name,
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 80}]}),
    )
}

fn slice(service: &str, name: &str, rest: Value) -> Value {
    let mut slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        "metadata": {
            "namespace": "ns", "name": name, "resourceVersion": "3",
            "labels": {"kubernetes.io/service-name": service},
        },
    });
    let fields = slice.as_object_mut().unwrap();
    fields.extend(rest.as_object().unwrap().clone());
    slice
}

fn web() -> Value {
    service("web", json!({"clusterIP": "10.96.0.1"}))
}

#[test]
fn o01_a_hundred_full_slices_of_one_service_are_one_answer_that_says_it_is_cut() {
    let mut objects = vec![headless("huge"), web()];
    for number in 0..100 {
        let endpoint = |last: u32| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + number * 1000 + last);
            json!({"addresses": [address.to_string()]})
        };
        let endpoints: Vec<Value> = (0..1000).map(endpoint).collect();
        objects.push(slice(
            "huge",
            &format!("huge-{number}"),
            json!({"endpoints": endpoints}),
        ));
    }
    let (server, _api) = server(objects);
    let name = "huge.ns.svc.cluster.local.";
    for qtype in [RecordType::A, RecordType::SRV] {
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(Name::from_text(name).unwrap().as_ref().as_wire());
        query.extend_from_slice(&[0, u8::try_from(qtype.0).unwrap(), 0, 1]);
        for (protocol, max) in [(Protocol::Udp, 512), (Protocol::Tcp, 65535)] {
            let reply = server.send(&query, protocol);
            assert!(
                reply.len() <= max && reply.len() > max / 2,
                "{qtype} {}",
                reply.len()
            );
            assert!(reply[2] & 0x02 != 0, "{qtype}: TC");
            // Whatever is in it can be read.
            shown(&reply);
        }
    }
    // The last of them: 99,999.
    assert_eq!(addresses(&server, "10-1-134-159.huge"), ["10.1.134.159"]);
    let (_, pointers) = ask(&server, "159.134.1.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointers, ["10-1-134-159.huge.ns.svc.cluster.local."]);
}

#[test]
fn o02_an_address_in_two_slices_is_one_and_goes_with_the_last() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "o02");
        let fed = Fed::through(proxy);
        fed.wait_synced();
        let of = |name: &str| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [],
                "metadata": {"namespace": "o02", "name": name, "labels": {"kubernetes.io/service-name": "moves"}},
                "endpoints": [{"addresses": ["10.99.0.1"]}],
            })
        };
        plane.load(&json!({"items": [of("one"), of("two")]}));
        fed.wait_for_oracle(plane, &world);
        let address: IpAddr = "10.99.0.1".parse().unwrap();
        let has = || fed.addresses("o02", "moves").unwrap().contains(&address);
        assert!(has());
        for (gone, still) in [("one", true), ("two", false)] {
            plane.delete(&of(gone));
            // What comes after the deletion tells that it was heard of.
            world.set_endpoints(plane, "moves", 1);
            fed.wait_for_oracle(plane, &world);
            assert_eq!(has(), still);
            let owners = fed
                .cluster
                .table
                .with_owners(address, |owners| owners.len());
            assert_eq!(owners, usize::from(still));
        }
    });
}

#[test]
fn o03_a_host_name_that_is_none_gives_way_to_the_address() {
    let long = "x".repeat(64);
    let names = [
        "a_b", "-x", "x-", &long, "a.b", "ü", "", "*", " ", "a b", "\0",
    ];
    let mut endpoints: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(last, name)| json!({"addresses": [format!("10.1.0.{last}")], "hostname": name}))
        .collect();
    endpoints.push(json!({"addresses": ["10.1.0.200"], "hostname": "Foo"}));
    let (server, _api) = server(vec![
        headless("hl"),
        slice("hl", "hl-1", json!({"endpoints": endpoints})),
    ]);
    let (_, targets) = ask(&server, "hl.ns.svc.cluster.local.", RecordType::SRV);
    let mut expected: Vec<String> = (0..names.len())
        .map(|last| format!("0 8 80 10-1-0-{last}.hl.ns.svc.cluster.local."))
        .collect();
    expected.push("0 8 80 foo.hl.ns.svc.cluster.local.".to_owned());
    expected.sort();
    let mut targets = targets;
    targets.sort();
    assert_eq!(targets, expected);
    for last in 0..names.len() {
        assert_eq!(
            addresses(&server, &format!("10-1-0-{last}.hl")),
            [format!("10.1.0.{last}")]
        );
    }
    assert_eq!(addresses(&server, "FOO.hl"), ["10.1.0.200"]);
}

#[test]
fn o04_what_is_no_address_is_left_out_and_the_others_stay() {
    let odd = [
        "fe80::1%eth0",
        "1.2.3",
        "01.2.3.4",
        "1.2.3.4.5",
        "",
        "host.example",
        "10.2.0.1",
    ];
    let endpoints: Vec<Value> = odd
        .iter()
        .map(|text| json!({"addresses": [text]}))
        .collect();
    let (server, _api) = server(vec![
        headless("hl"),
        slice("hl", "hl-1", json!({"endpoints": endpoints})),
        headless("mapped"),
        slice(
            "mapped",
            "mapped-1",
            json!({
                "addressType": "IPv6", "endpoints": [{"addresses": ["::ffff:10.2.0.2", "fd00::1"]}],
            }),
        ),
        headless("named"),
        slice(
            "named",
            "named-1",
            json!({
                "addressType": "FQDN", "endpoints": [{"addresses": ["host.example"]}],
            }),
        ),
    ]);
    assert_eq!(addresses(&server, "hl"), ["10.2.0.1"]);
    assert_eq!(addresses(&server, "mapped"), ["10.2.0.2"]);
    let (_, v6) = ask(&server, "mapped.ns.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(v6, ["fd00::1"]);
    assert_eq!(rcode(&server, "named.ns.svc.cluster.local."), "NXDOMAIN");
}

#[test]
fn o05_every_spelling_of_cluster_addresses_has_its_meaning() {
    let of = |name: &str, ip: Value, ips: Value| {
        service(name, json!({"clusterIP": ip, "clusterIPs": ips}))
    };
    let (v4, v6) = ("10.96.0.9", "fd00::9");
    let (server, _api) = server(vec![
        of("none", json!("None"), json!(null)),
        of("lower", json!("none"), json!(null)),
        of("empty", json!(""), json!([])),
        service("absent", json!({})),
        service("null", json!({"clusterIP": null, "clusterIPs": null})),
        of("v4-first", json!(v4), json!([v4, v6])),
        of("v6-first", json!(v6), json!([v6, v4])),
        // The list is the newer field, and decides.
        of("mismatch", json!("10.96.0.8"), json!([v4])),
    ]);
    let both = |name: &str| {
        let name = format!("{name}.ns.svc.cluster.local.");
        let (rcode, v4) = ask(&server, &name, RecordType::A);
        (
            rcode,
            [v4, ask(&server, &name, RecordType::AAAA).1]
                .concat()
                .join(" "),
        )
    };
    for (name, rcode, expected) in [
        ("none", "NXDOMAIN", ""),
        ("lower", "NOERROR", ""),
        ("empty", "NOERROR", ""),
        ("absent", "NOERROR", ""),
        ("null", "NOERROR", ""),
        ("v4-first", "NOERROR", "10.96.0.9 fd00::9"),
        ("v6-first", "NOERROR", "10.96.0.9 fd00::9"),
        ("mismatch", "NOERROR", "10.96.0.9"),
    ] {
        assert_eq!(
            both(name),
            (rcode.to_owned(), expected.to_owned()),
            "{name}"
        );
    }
}

#[test]
fn o06_ready_decides_and_nothing_else() {
    let conditions = [
        (json!({"ready": true, "terminating": true}), true),
        (json!({"ready": false, "serving": true}), false),
        (json!({"ready": null}), true),
        (json!({}), true),
        (json!(null), true),
    ];
    let endpoint = |(last, (conditions, _)): (usize, &(Value, bool))| json!({"addresses": [format!("10.3.0.{last}")], "conditions": conditions});
    let endpoints: Vec<Value> = conditions.iter().enumerate().map(endpoint).collect();
    let (server, _api) = server(vec![
        headless("hl"),
        slice("hl", "hl-1", json!({"endpoints": endpoints})),
    ]);
    let ready = (0..conditions.len()).filter(|&last| conditions[last].1);
    let ready: Vec<String> = ready.map(|last| format!("10.3.0.{last}")).collect();
    assert_eq!(addresses(&server, "hl"), ready);
}

#[test]
fn o07_a_broken_alias_breaks_itself_alone() {
    let label = "x".repeat(63);
    let of = |name: &str, target: &str| {
        service(
            name,
            json!({"type": "ExternalName", "externalName": target}),
        )
    };
    let long = [label.as_str(); 4].join(".");
    let (server, _api) = server(vec![
        web(),
        of("empty", ""),
        of("address", "192.0.2.1"),
        of("dotted", "web.ns.svc.cluster.local."),
        of("plain", "web.ns.svc.cluster.local"),
        of("long", &long),
        of("longest", &long[..253]),
        of("wide", &"x".repeat(64)),
        of("self", "self.ns.svc.cluster.local"),
        of("unicode", "ü.example"),
        of("spaced", "a b"),
    ]);
    let cname = |name: &str| {
        ask(
            &server,
            &format!("{name}.ns.svc.cluster.local."),
            RecordType::CNAME,
        )
    };
    for name in ["dotted", "plain"] {
        assert_eq!(cname(name).1, ["web.ns.svc.cluster.local."], "{name}");
        assert!(
            addresses(&server, name).contains(&"10.96.0.1".to_owned()),
            "{name}"
        );
    }
    assert_eq!(cname("longest").1.len(), 1);
    for name in ["empty", "long", "wide"] {
        assert_eq!(cname(name), ("NOERROR".to_owned(), vec![]), "{name}");
    }
    assert_eq!(cname("address").0, "NXDOMAIN");
    for name in ["self", "unicode", "spaced"] {
        // Whatever it is, it can be read, and the server goes on.
        cname(name);
        addresses(&server, name);
    }
    assert_eq!(addresses(&server, "web"), ["10.96.0.1"]);
}

#[test]
fn o08_odd_ports_make_no_srv_and_cost_no_address() {
    let wide = "p".repeat(64);
    let ports = json!([
        {"name": "sctp", "protocol": "SCTP", "port": 1}, {"name": "lower", "protocol": "tcp", "port": 2},
        {"name": "bare", "protocol": "", "port": 3}, {"name": wide, "port": 4}, {"name": "UPPER", "port": 5},
        {"name": "zero", "port": 0}, {"name": "null", "port": null}, {"port": 7}, {"name": "twice", "port": 8},
        {"name": "twice", "port": 9},
    ]);
    let with = |name: &str, ports: Value| {
        let endpoints = json!([{"addresses": ["10.4.0.1"]}]);
        vec![
            headless(name),
            slice(
                name,
                &format!("{name}-1"),
                json!({"ports": ports, "endpoints": endpoints}),
            ),
        ]
    };
    let mut objects = with("odd", ports);
    objects.extend(with("none", json!(null)));
    objects.extend(with("beyond", json!([{"name": "x", "port": 65536}])));
    objects.push(web());
    let (server, _api) = server(objects);
    for name in ["odd", "none"] {
        assert_eq!(addresses(&server, name), ["10.4.0.1"], "{name}");
    }
    // An object that says what cannot be is passed over, and no other.
    assert_eq!(rcode(&server, "beyond.ns.svc.cluster.local."), "NXDOMAIN");
    assert_eq!(addresses(&server, "web"), ["10.96.0.1"]);
    let (rcode, targets) = ask(&server, "odd.ns.svc.cluster.local.", RecordType::SRV);
    assert_eq!(rcode, "NOERROR");
    assert!(
        targets
            .iter()
            .all(|target| target.ends_with(" 10-4-0-1.odd.ns.svc.cluster.local."))
    );
    for (name, number) in [("_sctp._sctp", 1), ("_lower._tcp", 2)] {
        let (_, found) = ask(
            &server,
            &format!("{name}.odd.ns.svc.cluster.local."),
            RecordType::SRV,
        );
        let expected = format!("0 100 {number} 10-4-0-1.odd.ns.svc.cluster.local.");
        assert_eq!(found, [expected], "{name}");
    }
}

#[test]
fn o09_a_service_made_anew_or_without_its_namespace_is_never_answered_as_it_was() {
    with_plane(|plane, proxy| {
        let mut world = World::new(plane, "o09");
        let fed = Fed::through(proxy);
        fed.wait_synced();
        let before = fed.addresses("o09", "stays").unwrap();
        world.delete(plane, "stays");
        // Takes the old address, maybe.
        world.create(plane, "between");
        world.create(plane, "stays");
        fed.wait_for_oracle(plane, &world);
        if fed.addresses("o09", "stays").unwrap() != before {
            let owners = |slots: &[_]| slots.len();
            let held = fed.addresses("o09", "between").unwrap() == before;
            assert_eq!(
                fed.cluster.table.with_owners(before[0], owners),
                usize::from(held)
            );
        }
    });
    let mut lost = web();
    lost["metadata"]["namespace"] = json!("gone");
    let (server, _api) = server(vec![lost, web()]);
    assert_eq!(rcode(&server, "web.gone.svc.cluster.local."), "NXDOMAIN");
    assert_eq!(addresses(&server, "web"), ["10.96.0.1"]);
}

#[test]
fn o10_a_name_too_long_for_the_zone_is_nobodys_and_breaks_no_reply() {
    let label = |octet: char| octet.to_string().repeat(63);
    let zone = format!("{}.{}.local", label('y'), label('z'));
    let mut long = service(
        &label('s'),
        json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}),
    );
    long["metadata"]["namespace"] = json!(label('n'));
    let namespace =
        json!({"kind": "Namespace", "metadata": {"name": label('n'), "resourceVersion": "1"}});
    let too_long = service(&"s".repeat(64), json!({"clusterIP": "10.96.0.8"}));
    let api = api(vec![long, namespace, too_long, web()]);
    let server = Server::new(&format!(
        ". {{\nkubernetes {zone} in-addr.arpa {{\nendpoint {}\nstartup_timeout 1m\n}}\n}}\n",
        api.url()
    ));
    assert_eq!(
        ask(&server, &format!("web.ns.svc.{zone}."), RecordType::A).1,
        ["10.96.0.1"]
    );
    for last in [7, 8] {
        let (_, pointers) = ask(
            &server,
            &format!("{last}.0.96.10.in-addr.arpa."),
            RecordType::PTR,
        );
        assert_eq!(pointers, Vec::<String>::new());
    }
}

#[test]
fn o11_a_pod_without_an_address_or_at_its_end_has_no_name() {
    let pod = |name: &str, status: Value| json!({"kind": "Pod", "metadata": {"namespace": "ns", "name": name, "resourceVersion": "4"}, "status": status});
    let (server, _api) = server(vec![
        pod("empty", json!({"podIP": ""})),
        pod("absent", json!({})),
        pod("null", json!(null)),
        pod("odd", json!({"podIP": "10.5.0"})),
        pod("failed", json!({"podIP": "10.5.0.1", "phase": "Failed"})),
        pod("done", json!({"podIP": "10.5.0.2", "phase": "Succeeded"})),
        pod("was", json!({"podIP": "10.5.0.3", "phase": "Failed"})),
        pod("is", json!({"podIP": "10.5.0.3", "phase": "Running"})),
        pod(
            "host",
            json!({"podIP": "10.5.0.4", "hostIP": "10.5.0.4", "phase": "Running"}),
        ),
    ]);
    for (last, expected) in [
        (1, "NXDOMAIN"),
        (2, "NXDOMAIN"),
        (3, "NOERROR"),
        (4, "NOERROR"),
    ] {
        assert_eq!(
            rcode(&server, &format!("10-5-0-{last}.ns.pod.cluster.local.")),
            expected,
            "{last}"
        );
    }
}

#[test]
fn o12_what_dns_does_not_read_may_be_large_deep_and_null() {
    let mut large = web();
    large["metadata"]["annotations"] = json!({"x": "y".repeat(256 << 10)});
    large["metadata"]["labels"] = json!({"x": "y".repeat(256 << 10)});
    large["metadata"]["managedFields"] = json!([{"a": {"b": [1, 2, 3]}}]);
    let deep = |name: &str, at: &str| {
        let nest = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let mut text =
            json!({"type": "ADDED", "object": service(name, json!({"clusterIP": "10.96.0.3"}))})
                .to_string();
        let place = text.find(at).unwrap() + at.len();
        text.insert_str(place, &format!("\"deep\":{nest},"));
        (json!("Service"), text.into_bytes())
    };
    let line = |object: Value| {
        let kind = object["kind"].clone();
        (
            kind,
            json!({"type": "ADDED", "object": object})
                .to_string()
                .into_bytes(),
        )
    };
    let nulls = json!({
        "kind": "Service", "apiVersion": null, "status": null, "future": {"x": null},
        "metadata": {
            "namespace": "ns", "name": "nulls", "resourceVersion": null, "labels": null, "annotations": null,
            "deletionTimestamp": null, "ownerReferences": null,
        },
        "spec": {"clusterIP": "10.96.0.4", "ports": null, "selector": null, "type": null, "externalName": null},
    });
    let api = raw_api(vec![
        line(json!({"kind": "Namespace", "metadata": {"name": "ns", "resourceVersion": "1"}})),
        line(large),
        deep("in-spec", "\"spec\":{"),
        deep("in-meta", "\"metadata\":{"),
        line(nulls),
    ]);
    let (server, _api) = over(api);
    for (name, address) in [
        ("web", "10.96.0.1"),
        ("in-spec", "10.96.0.3"),
        ("in-meta", "10.96.0.3"),
        ("nulls", "10.96.0.4"),
    ] {
        assert_eq!(addresses(&server, name), [address], "{name}");
    }
}

#[test]
fn o13_text_that_is_none_costs_its_own_object_alone() {
    let line = |text: &[u8]| (json!("Service"), text.to_vec());
    let good = |name: &str| {
        let object = service(name, json!({"clusterIP": "10.96.0.1"}));
        line(
            json!({"type": "ADDED", "object": object})
                .to_string()
                .as_bytes(),
        )
    };
    let namespace = br#"{"type":"ADDED","object":{"metadata":{"name":"ns"}}}"#;
    let api = raw_api(vec![
        (json!("Namespace"), namespace.to_vec()),
        good("before"),
        line(br#"{"type":"ADDED","object":{"metadata":{"namespace":"ns","name":"lone\ud800"},"spec":{}}}"#),
        line(b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"namespace\":\"ns\",\"name\":\"bad\xff\xfe\"},\"spec\":{}}}"),
        line(br#"{"type":"DELETED","object":{"metadata":{"namespace":"ns","name":"before\udc00"}}}"#),
        line(br#"{"type":"ADDED","object":{"metadata":{"namespace":"ns","name":7}}}"#),
        line(br#"{"type":"ADDED","object":{"metadata":{"namespace":"ns"}}}"#),
        good("after"),
    ]);
    let (server, api) = over(api);
    assert_eq!(addresses(&server, "before"), ["10.96.0.1"]);
    assert_eq!(addresses(&server, "after"), ["10.96.0.1"]);
    let services = api
        .rest()
        .into_iter()
        .filter(|asked| asked.uri.contains("/services?"));
    assert_eq!(services.count(), 1, "and nothing is asked for again");
}

/// Kilobytes of a program that knows so many Services.
#[cfg(target_os = "linux")]
fn kilobytes(services: usize) -> u64 {
    let objects = (0..services).map(|number| {
        let address = std::net::Ipv4Addr::from(0x0a60_0000 + u32::try_from(number).unwrap());
        service(
            &format!("service-{number}"),
            json!({"clusterIP": address.to_string(), "ports": [{"port": 80}]}),
        )
    });
    let api = api(objects.collect());
    let served = Served::start(&format!("endpoint {}", api.url()));
    wait("to be ready", || served.http("/ready").0 == 200);
    served.program.kilobytes("VmRSS")
}

/// A million would take 18 times as much as here; the share of the allocator is counted too.
#[test]
#[cfg(target_os = "linux")]
fn o14_a_service_takes_less_than_400_octets() {
    let (few, many) = (1000, 57_000);
    let took = (kilobytes(many) - kilobytes(few)) * 1024 / (many - few) as u64;
    eprintln!("{took} octets a Service");
    assert!(took <= 400, "{took} octets a Service");
}

#[test]
fn o15_of_two_zones_the_longer_one_counts() {
    let (server, _api) = server(vec![web()]);
    assert_eq!(addresses(&server, "web"), ["10.96.0.1"]);
    let inner = ask(&server, "web.ns.svc.a.cluster.local.", RecordType::A);
    assert_eq!(inner.1, ["10.96.0.1"]);
    let reply = shown(&server.ask("nothing.ns.svc.a.cluster.local.", RecordType::A));
    assert_eq!(reply.rcode, "NXDOMAIN");
    assert!(
        reply.sections[1][0].starts_with("a.cluster.local. "),
        "{reply:?}"
    );
}
