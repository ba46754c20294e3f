//! Reads the API server's protobuf: a small reader that borrows, and the fields of the objects that DNS needs.
//!
//! ```text
//! frame of a watch:  WatchEvent { 1: type, 2: RawExtension { 1: raw } }
//! raw, and replies:  "k8s\0" Unknown { 1: TypeMeta { 2: kind }, 2: the message itself }
//! ```
//!
//! Field numbers are those of the published `generated.proto` files; what has another number or another wire type than
//! expected is passed over, as the format asks. Nothing is trusted: every length is checked against what is there.

use std::net::IpAddr;

use crate::cluster::decode;
use crate::cluster::objects::{
    Endpoint, EndpointSlice, Meta, Object, Pod, Port, Resource, Service, ServiceKind,
};
use crate::cluster::watch::event::{Event, Page, Status};

/// Before every message of its own.
const MAGIC: &[u8] = b"k8s\0";

/// Not protobuf as the API server writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A fixed-width number: no field that we read has one.
    Fixed,
}

/// The fields of a message, in the order they stand.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self
                .rest
                .split_first()
                .ok_or(Malformed("a number is cut off"))?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed("a number has more than ten bytes"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let cut = Malformed("a field is longer than its message");
        let length = usize::try_from(length).map_err(|_| cut)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed("a field has an unknown wire type")),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// One event of a watch.
pub fn event(resource: Resource, frame: &[u8]) -> Result<Event, Malformed> {
    let (mut kind, mut raw) = ("", &[][..]);
    for field in Fields::of(frame) {
        match field? {
            (1, Value::Bytes(bytes)) => kind = text(bytes)?,
            (2, Value::Bytes(extension)) => {
                for field in Fields::of(extension) {
                    if let (1, Value::Bytes(bytes)) = field? {
                        raw = bytes;
                    }
                }
            }
            _ => {}
        }
    }
    let message = open(raw)?;
    Ok(match kind {
        "ADDED" | "MODIFIED" => match object(resource, message) {
            Ok(object) => Event::Set(object),
            Err(Malformed(why)) => Event::Garbled(why.to_owned()),
        },
        "DELETED" => Event::Deleted(metadata(message)?.meta()),
        "BOOKMARK" => {
            let found = metadata(message)?;
            Event::Bookmark {
                version: found.version.into(),
                list_ends: found.annotation(LIST_ENDS)? == Some("true"),
            }
        }
        "ERROR" => Event::Error(status_message(message)?),
        _ => Event::Unknown,
    })
}

/// The annotation of the bookmark that stands between the list and what happens after it.
pub const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// One page of a list, each object handed to `each`.
pub fn page(
    resource: Resource,
    reply: &[u8],
    mut each: impl FnMut(Object),
) -> Result<Page, Malformed> {
    let mut page = Page::default();
    for field in Fields::of(open(reply)?) {
        match field? {
            (1, Value::Bytes(list)) => {
                for field in Fields::of(list) {
                    match field? {
                        (2, Value::Bytes(bytes)) => page.version = text(bytes)?.into(),
                        (3, Value::Bytes(bytes)) => page.next = text(bytes)?.into(),
                        _ => {}
                    }
                }
            }
            (2, Value::Bytes(item)) => each(object(resource, item)?),
            _ => {}
        }
    }
    Ok(page)
}

/// The Status that a refused request is answered with.
pub fn status(reply: &[u8]) -> Result<Status, Malformed> {
    status_message(open(reply)?)
}

/// The message behind the magic.
fn open(raw: &[u8]) -> Result<&[u8], Malformed> {
    let unknown = raw
        .strip_prefix(MAGIC)
        .ok_or(Malformed("the prefix of a Kubernetes message is missing"))?;
    let mut message = &[][..];
    for field in Fields::of(unknown) {
        if let (2, Value::Bytes(bytes)) = field? {
            message = bytes;
        }
    }
    Ok(message)
}

fn status_message(message: &[u8]) -> Result<Status, Malformed> {
    let mut status = Status::default();
    for field in Fields::of(message) {
        match field? {
            (3, Value::Bytes(bytes)) => status.message = text(bytes)?.to_owned(),
            (4, Value::Bytes(bytes)) => status.reason = text(bytes)?.to_owned(),
            (5, Value::Bytes(details)) => status_details(&mut status, details)?,
            (6, Value::Number(code)) => status.code = u16::try_from(code).unwrap_or(0),
            _ => {}
        }
    }
    Ok(status)
}

fn status_details(status: &mut Status, details: &[u8]) -> Result<(), Malformed> {
    for field in Fields::of(details) {
        match field? {
            (4, Value::Bytes(cause)) => {
                for field in Fields::of(cause) {
                    if let (1, Value::Bytes(bytes)) = field? {
                        status.causes.push(text(bytes)?.to_owned());
                    }
                }
            }
            (5, Value::Number(seconds)) => status.retry_after = Some(seconds),
            _ => {}
        }
    }
    Ok(())
}

fn object(resource: Resource, message: &[u8]) -> Result<Object, Malformed> {
    let object = match resource {
        Resource::Namespaces => Object::Namespace(metadata(message)?.meta()),
        Resource::Services => Object::Service(service(message)?),
        Resource::EndpointSlices => Object::EndpointSlice(endpoint_slice(message)?),
        Resource::Pods => Object::Pod(pod(message)?),
    };
    if object.meta().name.is_empty() {
        return Err(Malformed("an object has no name"));
    }
    Ok(object)
}

/// ObjectMeta, borrowed.
#[derive(Default)]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
    version: &'a str,
    terminating: bool,
    labels: Entries<'a>,
    annotations: Entries<'a>,
}

/// The message around a map, whose entries are looked up one by one: two are wanted of a few.
#[derive(Clone, Copy, Default)]
struct Entries<'a> {
    message: &'a [u8],
}

impl<'a> Entries<'a> {
    /// The value of a key among the fields with this number.
    fn find(self, number: u64, wanted: &str) -> Result<Option<&'a str>, Malformed> {
        for field in Fields::of(self.message) {
            let (found, Value::Bytes(entry)) = field? else {
                continue;
            };
            if found != number {
                continue;
            }
            let (mut key, mut value) = (&[][..], &[][..]);
            for field in Fields::of(entry) {
                match field? {
                    (1, Value::Bytes(bytes)) => key = bytes,
                    (2, Value::Bytes(bytes)) => value = bytes,
                    _ => {}
                }
            }
            if key == wanted.as_bytes() {
                return text(value).map(Some);
            }
        }
        Ok(None)
    }
}

impl<'a> Metadata<'a> {
    fn meta(&self) -> Meta {
        Meta {
            namespace: self.namespace.into(),
            name: self.name.into(),
            resource_version: self.version.into(),
        }
    }

    fn label(&self, key: &str) -> Result<Option<&'a str>, Malformed> {
        self.labels.find(11, key)
    }

    fn annotation(&self, key: &str) -> Result<Option<&'a str>, Malformed> {
        self.annotations.find(12, key)
    }
}

/// The metadata of an object: field 1 of all that we read.
fn metadata(object: &[u8]) -> Result<Metadata<'_>, Malformed> {
    for field in Fields::of(object) {
        if let (1, Value::Bytes(message)) = field? {
            return object_meta(message);
        }
    }
    Ok(Metadata::default())
}

fn object_meta(message: &[u8]) -> Result<Metadata<'_>, Malformed> {
    let mut meta = Metadata {
        labels: Entries { message },
        annotations: Entries { message },
        ..Metadata::default()
    };
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => meta.name = text(bytes)?,
            (3, Value::Bytes(bytes)) => meta.namespace = text(bytes)?,
            (6, Value::Bytes(bytes)) => meta.version = text(bytes)?,
            (9, Value::Bytes(_)) => meta.terminating = true,
            _ => {}
        }
    }
    Ok(meta)
}

fn service(message: &[u8]) -> Result<Service, Malformed> {
    let mut meta = Meta::default();
    let mut spec = ServiceSpec::default();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => meta = object_meta(bytes)?.meta(),
            (2, Value::Bytes(bytes)) => spec = service_spec(bytes)?,
            _ => {}
        }
    }
    Ok(Service {
        meta,
        kind: spec.kind(),
        ports: spec.ports,
    })
}

#[derive(Default)]
struct ServiceSpec<'a> {
    kind: &'a str,
    external_name: &'a str,
    cluster_ip: &'a str,
    cluster_ips: Vec<&'a str>,
    ports: Vec<Port>,
}

impl ServiceSpec<'_> {
    fn kind(&self) -> ServiceKind {
        decode::service_kind(
            self.kind,
            self.cluster_ip,
            &self.cluster_ips,
            self.external_name.into(),
        )
    }
}

fn service_spec(message: &[u8]) -> Result<ServiceSpec<'_>, Malformed> {
    let mut spec = ServiceSpec::default();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => spec.ports.push(port(bytes, "TCP")?),
            (3, Value::Bytes(bytes)) => spec.cluster_ip = text(bytes)?,
            (4, Value::Bytes(bytes)) => spec.kind = text(bytes)?,
            (10, Value::Bytes(bytes)) => spec.external_name = text(bytes)?,
            (18, Value::Bytes(bytes)) => spec.cluster_ips.push(text(bytes)?),
            _ => {}
        }
    }
    Ok(spec)
}

/// ServicePort and EndpointPort have the same first three fields.
fn port(message: &[u8], protocol_default: &'static str) -> Result<Port, Malformed> {
    let (mut name, mut protocol, mut number) = ("", "", None);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => name = text(bytes)?,
            (2, Value::Bytes(bytes)) => protocol = text(bytes)?,
            (3, Value::Number(value)) => number = u16::try_from(value).ok(),
            _ => {}
        }
    }
    if protocol.is_empty() {
        protocol = protocol_default;
    }
    Ok(Port {
        name: name.into(),
        protocol: protocol.into(),
        number,
    })
}

fn endpoint_slice(message: &[u8]) -> Result<EndpointSlice, Malformed> {
    let mut slice = EndpointSlice {
        meta: Meta::default(),
        service: Box::default(),
        ports: Vec::new(),
        endpoints: Vec::new(),
        trigger_time: None,
    };
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => {
                let found = object_meta(bytes)?;
                slice.meta = found.meta();
                slice.service = found
                    .label("kubernetes.io/service-name")?
                    .unwrap_or("")
                    .into();
                slice.trigger_time = found
                    .annotation("endpoints.kubernetes.io/last-change-trigger-time")?
                    .map(Into::into);
            }
            (2, Value::Bytes(bytes)) => slice.endpoints.push(endpoint(bytes)?),
            (3, Value::Bytes(bytes)) => slice.ports.push(port(bytes, "")?),
            _ => {}
        }
    }
    Ok(slice)
}

fn endpoint(message: &[u8]) -> Result<Endpoint, Malformed> {
    let mut endpoint = Endpoint {
        addresses: Vec::new(),
        hostname: None,
        target_name: None,
        ready: true,
    };
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => endpoint.addresses.extend(address(bytes)),
            (2, Value::Bytes(conditions)) => {
                for field in Fields::of(conditions) {
                    if let (1, Value::Number(ready)) = field? {
                        endpoint.ready = ready != 0;
                    }
                }
            }
            (3, Value::Bytes(bytes)) if !bytes.is_empty() => {
                endpoint.hostname = Some(text(bytes)?.into());
            }
            (4, Value::Bytes(reference)) => endpoint.target_name = target_name(reference)?,
            _ => {}
        }
    }
    Ok(endpoint)
}

fn target_name(reference: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    for field in Fields::of(reference) {
        if let (3, Value::Bytes(bytes)) = field? {
            let name = text(bytes)?;
            return Ok(decode::is_target_name(name).then(|| name.into()));
        }
    }
    Ok(None)
}

fn pod(message: &[u8]) -> Result<Pod, Malformed> {
    let mut pod = Pod {
        meta: Meta::default(),
        ip: None,
        terminating: false,
        finished: false,
    };
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => {
                let found = object_meta(bytes)?;
                pod.meta = found.meta();
                pod.terminating = found.terminating;
            }
            (3, Value::Bytes(status)) => {
                for field in Fields::of(status) {
                    match field? {
                        (1, Value::Bytes(phase)) => {
                            pod.finished = decode::is_finished(text(phase)?);
                        }
                        (6, Value::Bytes(bytes)) => pod.ip = address(bytes),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(pod)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    decode::address(str::from_utf8(bytes).ok()?)
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| Malformed("text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    number(13, 1),
                    bytes(18, "10.0.0.1"),
                    bytes(18, "fd00::1"),
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
                &[bytes(1, "10.1.0.1"), bytes(1, "host.example"), pod("web-0")],
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
    fn a_pod_keeps_its_first_address() {
        let pod = Pod {
            meta: expected_meta(),
            ip: Some("10.1.0.1".parse().unwrap()),
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
            assert_eq!(object.meta(), &expected_meta());
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
}
