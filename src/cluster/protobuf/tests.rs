//! Messages built by hand.

use super::*;
use crate::cluster::objects::{External, Import, Meta, Pod, Port, Service, ServiceKind};

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&varint(field << 3 | 2), &varint(value.len() as u64), value].concat()
}

fn message(field: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    bytes(field, fields.concat())
}

fn entry(field: u64, key: &str, value: &str) -> Vec<u8> {
    message(field, &[bytes(1, key), bytes(2, value)])
}

fn wrapped(kind: &str, object: &[u8]) -> Vec<u8> {
    [
        MAGIC,
        &message(1, &[bytes(1, "v1"), bytes(2, kind)]),
        &bytes(2, object),
        &bytes(3, ""),
    ]
    .concat()
}

fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    [
        bytes(1, kind),
        message(2, &[bytes(1, wrapped("X", object))]),
    ]
    .concat()
}

fn meta(fields: &[Vec<u8>]) -> Vec<u8> {
    let identity = [bytes(1, "web"), bytes(3, "shop"), bytes(6, "41")].concat();
    bytes(1, [identity, fields.concat()].concat())
}

fn expected_meta() -> Meta {
    Meta {
        namespace: "shop".into(),
        name: "web".into(),
        resource_version: "41".into(),
    }
}

fn a_service() -> Vec<u8> {
    let managed = message(17, &[bytes(1, "kubectl"), bytes(7, "{\"f:spec\":{}}")]);
    [
        meta(&[entry(11, "app", "web"), managed]),
        message(
            2,
            &[
                message(
                    1,
                    &[
                        bytes(1, "http"),
                        bytes(2, "TCP"),
                        number(3, 80),
                        message(4, &[]),
                    ],
                ),
                message(1, &[number(3, 53), bytes(2, "UDP")]),
                entry(2, "app", "web"),
                bytes(3, "10.0.0.1"),
                bytes(4, "ClusterIP"),
                bytes(5, "198.51.100.1"),
                bytes(5, "no address"),
                number(13, 1),
                bytes(18, "10.0.0.1"),
                bytes(18, "fd00::1"),
            ],
        ),
        message(
            3,
            &[
                message(
                    1,
                    &[
                        message(1, &[bytes(1, "203.0.113.1"), bytes(3, "VIP")]),
                        message(
                            1,
                            &[bytes(2, "lb.example.com"), message(4, &[number(1, 80)])],
                        ),
                        message(1, &[]),
                    ],
                ),
                message(2, &[bytes(1, "Ready")]),
            ],
        ),
    ]
    .concat()
}

fn a_slice() -> Vec<u8> {
    let pod = |name: &str| message(4, &[bytes(1, "Pod"), bytes(2, "shop"), bytes(3, name)]);
    [
        meta(&[
            entry(11, "other", "label"),
            entry(11, "kubernetes.io/service-name", "web"),
            entry(
                12,
                "endpoints.kubernetes.io/last-change-trigger-time",
                "2024-01-02T03:04:05Z",
            ),
        ]),
        message(
            2,
            &[
                bytes(1, "10.1.0.1"),
                bytes(1, "host.example"),
                pod("web-0"),
                bytes(6, "node-1"),
                bytes(7, "Eu-West-1a"),
            ],
        ),
        message(
            2,
            &[
                bytes(1, "10.1.0.2"),
                message(2, &[number(1, 0)]),
                bytes(3, "web-1"),
            ],
        ),
        message(
            2,
            &[
                bytes(1, "10.1.0.3"),
                message(2, &[number(1, 1)]),
                pod(&"x".repeat(64)),
            ],
        ),
        message(3, &[bytes(1, "http"), bytes(2, "TCP"), number(3, 8080)]),
        message(3, &[]),
        bytes(4, "IPv4"),
    ]
    .concat()
}

fn a_pod() -> Vec<u8> {
    [
        meta(&[message(9, &[number(1, 1_700_000_000)])]),
        message(2, &[bytes(10, "node-1"), number(11, 1), number(12, 0)]),
        message(
            3,
            &[
                bytes(1, "Running"),
                bytes(5, "10.9.9.9"),
                bytes(6, "10.1.0.1"),
            ],
        ),
    ]
    .concat()
}

#[test]
fn a_service_keeps_addresses_and_ports() {
    let port = |name: &str, protocol: &str, number| Port {
        name: name.into(),
        protocol: protocol.into(),
        number: Some(number),
    };
    let service = Service {
        meta: expected_meta(),
        kind: ServiceKind::ClusterIp(
            ["10.0.0.1", "fd00::1"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
        ),
        ports: vec![port("http", "TCP", 80), port("", "UDP", 53)],
        external: vec![
            External::Address("198.51.100.1".parse().unwrap()),
            External::Address("203.0.113.1".parse().unwrap()),
            External::Hostname("lb.example.com".into()),
        ],
    };
    assert_eq!(
        event(Resource::Services, &frame("ADDED", &a_service())),
        Ok(Event::Set(Object::Service(service)))
    );
}

#[test]
fn a_slice_keeps_its_service_and_who_is_ready() {
    let Ok(Event::Set(Object::EndpointSlice(slice))) =
        event(Resource::EndpointSlices, &frame("MODIFIED", &a_slice()))
    else {
        panic!("a slice");
    };
    assert_eq!(slice.meta, expected_meta());
    assert_eq!(&*slice.service, "web");
    assert_eq!(slice.trigger_time.as_deref(), Some("2024-01-02T03:04:05Z"));
    let endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| {
            let address = endpoint
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>();
            let (host, pod) = (
                endpoint.hostname.as_deref(),
                endpoint.target_name.as_deref(),
            );
            (address.join(" "), endpoint.ready, host, pod)
        })
        .collect();
    assert_eq!(
        endpoints,
        [
            ("10.1.0.1".to_owned(), true, None, Some("web-0")),
            ("10.1.0.2".to_owned(), false, Some("web-1"), None),
            ("10.1.0.3".to_owned(), true, None, None),
        ]
    );
    assert_eq!(
        (slice.ports[0].number, slice.ports[1].number),
        (Some(8080), None)
    );
}

#[test]
fn a_slice_keeps_the_zones_of_its_endpoints_and_what_it_was_imported_for() {
    let imported = |labels: &[Vec<u8>]| {
        let object = [
            meta(labels),
            message(2, &[bytes(1, "10.1.0.1"), bytes(7, "Eu-West-1a")]),
            message(2, &[bytes(1, "10.1.0.2"), bytes(7, "")]),
        ];
        match event(Resource::EndpointSlices, &frame("ADDED", &object.concat())) {
            Ok(Event::Set(Object::EndpointSlice(slice))) => slice,
            other => panic!("{other:?}"),
        }
    };
    let service = entry(11, "multicluster.kubernetes.io/service-name", "web");
    let cluster = entry(11, "multicluster.kubernetes.io/source-cluster", "c1");
    let slice = imported(&[cluster.clone(), service.clone()]);
    let import = |service: &str, cluster: &str| Import {
        service: service.into(),
        cluster: cluster.into(),
    };
    assert_eq!(slice.import, Some(import("web", "c1")));
    assert_eq!(slice.endpoints[0].zone.as_deref(), Some("Eu-West-1a"));
    assert_eq!(slice.endpoints[1].zone, None);
    assert_eq!(imported(&[service]).import, Some(import("web", "")));
    assert_eq!(imported(&[cluster]).import, None);
}

#[test]
fn what_users_define_is_no_protobuf() {
    let event = event(Resource::ServiceImports, &frame("ADDED", &a_service()));
    assert!(matches!(event, Ok(Event::Garbled(_))), "{event:?}");
}

#[test]
fn a_pod_keeps_its_first_address() {
    let pod = Pod {
        meta: expected_meta(),
        ip: Some("10.1.0.1".parse().unwrap()),
        host_network: true,
        labels: Default::default(),
        terminating: true,
        finished: false,
    };
    assert_eq!(
        event(Resource::Pods, &frame("ADDED", &a_pod())),
        Ok(Event::Set(Object::Pod(pod)))
    );
}

#[test]
fn a_deleted_object_needs_its_name_only() {
    assert_eq!(
        event(Resource::Services, &frame("DELETED", &meta(&[]))),
        Ok(Event::Deleted(expected_meta()))
    );
}

#[test]
fn the_end_of_the_list_is_a_bookmark_with_an_annotation() {
    let bookmark = |annotations: &[Vec<u8>]| {
        let object = bytes(1, [bytes(6, "99"), annotations.concat()].concat());
        event(Resource::Pods, &frame("BOOKMARK", &object))
    };
    let expected = |list_ends| {
        Ok(Event::Bookmark {
            version: "99".into(),
            list_ends,
        })
    };
    assert_eq!(bookmark(&[]), expected(false));
    assert_eq!(bookmark(&[entry(12, LIST_ENDS, "true")]), expected(true));
    assert_eq!(bookmark(&[entry(11, LIST_ENDS, "true")]), expected(false));
}

fn a_status() -> Vec<u8> {
    [
        bytes(2, "Failure"),
        bytes(3, "Too large resource version"),
        bytes(4, "Timeout"),
        message(
            5,
            &[
                message(4, &[bytes(1, "ResourceVersionTooLarge")]),
                number(5, 1),
            ],
        ),
        number(6, 504),
    ]
    .concat()
}

#[test]
fn an_error_keeps_what_decides_over_the_next_try() {
    let expected = Status {
        code: 504,
        reason: "Timeout".into(),
        message: "Too large resource version".into(),
        causes: vec!["ResourceVersionTooLarge".into()],
        retry_after: Some(1),
    };
    assert!(expected.is_ahead());
    assert_eq!(
        status(&wrapped("Status", &a_status())),
        Ok(expected.clone())
    );
    assert_eq!(
        event(Resource::Pods, &frame("ERROR", &a_status())),
        Ok(Event::Error(expected))
    );
}

fn a_list() -> Vec<u8> {
    let list = message(1, &[bytes(2, "77"), bytes(3, "token")]);
    wrapped(
        "ServiceList",
        &[list, bytes(2, a_service()), bytes(2, a_service())].concat(),
    )
}

#[test]
fn a_page_hands_over_each_object() {
    let mut count = 0;
    let page = page(Resource::Services, &a_list(), |object| {
        assert_eq!(object.unwrap().meta(), &expected_meta());
        count += 1;
    });
    assert_eq!(
        page,
        Ok(Page {
            version: "77".into(),
            next: "token".into()
        })
    );
    assert_eq!(count, 2);
}

#[test]
fn whatever_is_cut_off_is_refused_or_passed_over_and_never_a_panic() {
    let frames = [
        (Resource::Services, frame("ADDED", &a_service())),
        (Resource::EndpointSlices, frame("ADDED", &a_slice())),
        (Resource::Pods, frame("ADDED", &a_pod())),
        (Resource::Pods, frame("ERROR", &a_status())),
    ];
    for (resource, whole) in &frames {
        assert!(event(*resource, whole).is_ok());
        for length in 0..whole.len() {
            assert!(
                event(*resource, &whole[..length]).is_err(),
                "{resource:?} {length}"
            );
        }
    }
    let list = a_list();
    for length in 0..list.len() {
        let _ = page(Resource::Services, &list[..length], drop);
    }
    // An object that is cut inside a whole frame hurts nobody else.
    let service = a_service();
    let cut = frame("ADDED", &service[..service.len() - 1]);
    assert!(matches!(
        event(Resource::Services, &cut),
        Ok(Event::Garbled(_))
    ));
}

#[test]
fn any_changed_byte_is_survived() {
    let whole = frame("ADDED", &a_slice());
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= change;
            let _ = event(Resource::EndpointSlices, &changed);
        }
    }
}

#[test]
fn fields_of_the_future_are_passed_over() {
    let mut service = a_service();
    service.extend([number(900, 7), bytes(901, "x")].concat());
    service.extend(
        [
            &varint(902 << 3 | 1)[..],
            &[0; 8],
            &varint(903 << 3 | 5),
            &[0; 4],
        ]
        .concat(),
    );
    let Ok(Event::Set(object)) = event(Resource::Services, &frame("ADDED", &service)) else {
        panic!("a service");
    };
    assert_eq!(object.meta(), &expected_meta());
}

#[test]
fn what_has_no_magic_or_endless_numbers_is_refused() {
    assert!(status(b"{\"kind\":\"Status\"}").is_err());
    assert!(Fields::of(&[0xff; 11]).next().unwrap().is_err());
    assert!(Fields::of(&[0x03]).next().unwrap().is_err());
    // A length near the end of the number range must not wrap round.
    assert!(
        Fields::of(&[
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
        ])
        .next()
        .unwrap()
        .is_err()
    );
}

#[test]
fn an_item_that_cannot_be_read_costs_no_other() {
    let bad = bytes(1, bytes(1, [0xff, 0xfe]));
    let list = message(1, &[bytes(2, "77")]);
    let items = [bytes(2, a_service()), bytes(2, &bad), bytes(2, a_service())];
    let list = wrapped("ServiceList", &[list, items.concat()].concat());
    let mut good = Vec::new();
    let page = page(Resource::Services, &list, |object| {
        good.push(object.is_ok())
    });
    assert_eq!(page.map(|page| page.version), Ok("77".into()));
    assert_eq!(good, [true, false, true]);
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let event = event(Resource::Services, &frame(kind, &bad));
        assert!(matches!(event, Ok(Event::Garbled(_))), "{event:?}");
    }
}
