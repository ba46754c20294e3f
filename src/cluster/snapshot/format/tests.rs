//! What is written is read again, and nothing else is.

use super::*;
use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Import, Meta, Pod, Port, Service, ServiceImport, ServiceKind,
};

const KEY: Key = Key([7; KEY_LEN]);

fn saved_at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn meta(name: &str) -> Meta {
    Meta {
        namespace: "shop".into(),
        name: name.into(),
        resource_version: "12".into(),
    }
}

fn port(number: Option<u16>) -> Port {
    Port {
        name: "http".into(),
        protocol: "TCP".into(),
        number,
    }
}

fn service(name: &str, kind: ServiceKind) -> Object {
    Object::Service(Service {
        meta: meta(name),
        kind,
        ports: vec![port(Some(80)), port(None)],
        external: vec![
            External::Hostname("lb.example.org".into()),
            External::Address([192, 0, 2, 1].into()),
        ],
    })
}

/// One object of each kind, every field in use.
fn objects() -> Vec<Object> {
    let ips = ["10.0.0.1", "fd00::1"].map(|text| text.parse().expect("an address"));
    let endpoint = |hostname: Option<&str>| Endpoint {
        addresses: ips.to_vec(),
        hostname: hostname.map(Into::into),
        target_name: None,
        ready: true,
        zone: hostname.map(|_| "z-1".into()),
    };
    vec![
        Object::Namespace(Meta {
            namespace: Box::default(),
            ..meta("shop")
        }),
        service("web", ServiceKind::ClusterIp(ips.to_vec())),
        service("new", ServiceKind::ClusterIp(Vec::new())),
        service("db", ServiceKind::Headless),
        service("ext", ServiceKind::ExternalName("www.Example.org".into())),
        service("void", ServiceKind::ExternalName(Box::default())),
        Object::EndpointSlice(EndpointSlice {
            meta: meta("db-1.x"),
            service: "db".into(),
            import: Some(Import {
                service: "db".into(),
                cluster: "east".into(),
            }),
            ports: vec![port(Some(5432))],
            endpoints: vec![endpoint(Some("db-0")), endpoint(None)],
            trigger_time: Some("2024-01-02T03:04:05Z".into()),
        }),
        Object::Pod(Pod {
            meta: meta("a"),
            ip: Some(ips[0]),
            terminating: false,
            finished: false,
            host_network: false,
            labels: Default::default(),
        }),
        Object::Pod(Pod {
            meta: meta("b"),
            ip: Some(ips[1]),
            terminating: true,
            finished: false,
            host_network: true,
            labels: Default::default(),
        }),
        Object::ServiceImport(ServiceImport {
            meta: meta("far"),
            kind: ServiceKind::Headless,
            ports: vec![port(Some(80))],
        }),
    ]
}

fn file_of(objects: &[Object]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), KEY, saved_at());
    objects
        .iter()
        .for_each(|object| encoder.object(object).expect("memory"));
    let (octets, size) = encoder.finish().expect("memory");
    assert_eq!(octets.len(), size);
    octets
}

/// Everything but the digest, changed, with a digest that fits.
fn sealed(file: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut content = file[..file.len() - DIGEST_LEN].to_vec();
    change(&mut content);
    let digest = Sha256::digest(&content);
    content.extend_from_slice(&digest);
    content
}

fn refusal(octets: &[u8]) -> Refusal {
    Snapshot::open(octets, KEY).expect_err("it is refused")
}

#[test]
fn every_field_of_every_object_comes_back() {
    let file = file_of(&objects());
    let snapshot = Snapshot::open(&file, KEY).expect("a snapshot");
    assert_eq!(snapshot.saved_at(), saved_at());
    assert_eq!(snapshot.objects().collect::<Vec<_>>(), objects());
}

#[test]
fn a_large_file_is_written_in_pieces_and_comes_back() {
    let many: Vec<Object> = (0..10_000)
        .map(|n| service(&format!("web-{n}"), ServiceKind::Headless))
        .collect();
    let file = file_of(&many);
    assert!(file.len() > 4 * BUFFER);
    let snapshot = Snapshot::open(&file, KEY).expect("a snapshot");
    assert!(snapshot.objects().eq(many));
}

#[test]
fn no_prefix_of_a_file_is_taken() {
    let file = file_of(&objects());
    for length in 0..file.len() {
        assert!(Snapshot::open(&file[..length], KEY).is_err(), "{length}");
    }
}

#[test]
fn a_file_with_any_bit_flipped_is_not_taken() {
    let mut file = file_of(&objects());
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(Snapshot::open(&file, KEY).is_err(), "{bit}");
        file[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn octets_behind_a_file_are_not_taken() {
    let mut file = file_of(&objects());
    file.push(0);
    assert_eq!(
        refusal(&file),
        Refusal::Corrupt("its checksum does not match")
    );
}

#[test]
fn what_is_no_snapshot_and_what_another_version_wrote_is_told_apart() {
    assert_eq!(refusal(b""), Refusal::Unknown("it is no snapshot"));
    assert_eq!(refusal(&[0; 200]), Refusal::Unknown("it is no snapshot"));
    let file = sealed(&file_of(&[]), |content| content[MAGIC.len() + 1] += 1);
    assert_eq!(
        refusal(&file),
        Refusal::Unknown("it has the format of another version")
    );
}

#[test]
fn the_snapshot_of_another_cluster_is_foreign() {
    let file = file_of(&objects());
    let other = Snapshot::open(&file, Key::of("another"));
    assert_eq!(other.expect_err("it is refused"), Refusal::Foreign);
}

/// Whoever writes a digest that fits can write anything behind it: no panic, no endless loop.
#[test]
fn a_hostile_file_is_refused_or_read_and_never_a_panic() {
    let file = file_of(&objects());
    let mut refused = 0;
    for at in HEADER_LEN..file.len() - DIGEST_LEN {
        for octet in [0, 1, 0x7f, 0x80, 0xff, file[at].wrapping_add(1)] {
            let file = sealed(&file, |content| content[at] = octet);
            match Snapshot::open(&file, KEY) {
                Ok(snapshot) => assert!(snapshot.objects().count() <= objects().len()),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_record_without_a_name_or_with_two_kinds_is_corrupt() {
    let record = |fields: &[u8]| {
        let length = u8::try_from(fields.len()).expect("a short one");
        sealed(&file_of(&[]), |content| {
            content.extend_from_slice(&[2, 0, 0, 0, length]);
            content.extend_from_slice(fields);
        })
    };
    for (fields, why) in [
        (&b"\x05\x00"[..], "an object has no name"),
        (b"\x02\x01a", "a Service is of no kind, or of several"),
        (
            b"\x02\x01a\x05\x00\x04\x00",
            "a Service is of no kind, or of several",
        ),
        (b"\x02\x01\xff\x05\x00", "text is not UTF-8"),
        (
            b"\x02\x01a\x04\x02\x01\x00",
            "an address has not 4 or 16 octets",
        ),
        (
            b"\x02\x01a\x05\x00\x07\x03\x0d\x01\x50",
            "a port has not 2 octets",
        ),
        (b"\x02\x02a", "a field is cut off"),
        (b"\x02\xff\xff\xff\xff\x7fa", "a field is cut off"),
    ] {
        assert_eq!(refusal(&record(fields)), Refusal::Corrupt(why));
    }
    assert!(Snapshot::open(&record(b"\x02\x01a\x05\x00"), KEY).is_ok());
}

#[test]
fn fields_and_kinds_that_a_later_version_adds_are_passed_over() {
    let file = sealed(&file_of(&[]), |content| {
        content.extend_from_slice(b"\xc8\x00\x00\x00\x02xy");
        content.extend_from_slice(b"\x02\x00\x00\x00\x08\x02\x01a\x05\x00\xc8\x01z");
    });
    let snapshot = Snapshot::open(&file, KEY).expect("a snapshot");
    let names: Vec<_> = snapshot
        .objects()
        .map(|object| object.meta().name.clone())
        .collect();
    assert_eq!(names, ["a".into()]);
}

/// Its records lack what has been added since, so the first list must not pass over them as unchanged.
#[test]
fn objects_of_an_older_revision_have_no_version() {
    let file = sealed(&file_of(&objects()), |content| {
        content[MAGIC.len() + 3] -= 1
    });
    let snapshot = Snapshot::open(&file, KEY).expect("a snapshot");
    assert_eq!(snapshot.objects().count(), objects().len());
    assert!(
        snapshot
            .objects()
            .all(|object| object.meta().resource_version.is_empty())
    );
}

#[test]
fn a_time_that_no_clock_can_show_is_corrupt() {
    let file = sealed(&file_of(&[]), |content| {
        content[MAGIC.len() + 4..MAGIC.len() + 12].fill(0xff);
    });
    assert_eq!(refusal(&file), Refusal::Corrupt("its time is none"));
}
