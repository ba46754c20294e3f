//! One object as octets: fields with a number and a length, so that a reader passes over what it does not know.
//!
//! ```text
//! record = kind, length (4 octets), fields      field = number, length (7 bits an octet, lowest first), octets
//! ```

use std::net::IpAddr;

use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Import, Meta, Object, Pod, PodLabels, Port, Service,
    ServiceImport, ServiceKind,
};

/// Octets of a record before its fields: kind and length.
const HEAD_LEN: usize = 5;

/// Why octets are no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

mod kind {
    pub(super) const NAMESPACE: u8 = 1;
    pub(super) const SERVICE: u8 = 2;
    pub(super) const ENDPOINT_SLICE: u8 = 3;
    pub(super) const POD: u8 = 4;
    pub(super) const SERVICE_IMPORT: u8 = 5;
}

/// Numbers of fields. One that was used is never used for something else.
mod number {
    // Of every object.
    pub(super) const NAMESPACE: u8 = 1;
    pub(super) const NAME: u8 = 2;
    pub(super) const RESOURCE_VERSION: u8 = 3;
    // Of those that have them. A Service has one of addresses, headless and external name.
    pub(super) const ADDRESSES: u8 = 4;
    pub(super) const HEADLESS: u8 = 5;
    pub(super) const EXTERNAL_NAME: u8 = 6;
    pub(super) const PORT: u8 = 7;
    pub(super) const SERVICE: u8 = 8;
    pub(super) const ENDPOINT: u8 = 9;
    pub(super) const TRIGGER_TIME: u8 = 10;
    // Of an endpoint.
    pub(super) const HOSTNAME: u8 = 11;
    pub(super) const ZONE: u8 = 14;
    // Of a slice from another cluster.
    pub(super) const IMPORT: u8 = 15;
    pub(super) const CLUSTER: u8 = 16;
    // Of what a Service is from outside; in the order of the object.
    pub(super) const EXTERNAL_ADDRESS: u8 = 17;
    pub(super) const EXTERNAL_HOSTNAME: u8 = 18;
    // Of a Pod.
    pub(super) const TERMINATING: u8 = 19;
    pub(super) const HOST_NETWORK: u8 = 20;
    // Of a port.
    pub(super) const PROTOCOL: u8 = 12;
    pub(super) const PORT_NUMBER: u8 = 13;
}

/// Adds an object. Of endpoints only those that are ready, of Pods only those with an address are kept: all else leaves
/// nothing in the store either.
pub(super) fn encode(object: &Object, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend_from_slice(&[0; HEAD_LEN]);
    to[start] = match object {
        Object::Namespace(meta) => {
            put_meta(meta, to);
            kind::NAMESPACE
        }
        Object::Service(service) => {
            put_service(service, to);
            kind::SERVICE
        }
        Object::EndpointSlice(slice) => {
            put_slice(slice, to);
            kind::ENDPOINT_SLICE
        }
        Object::Pod(pod) => {
            put_pod(pod, to);
            kind::POD
        }
        Object::ServiceImport(import) => {
            let ServiceImport { meta, kind, ports } = import;
            put_meta(meta, to);
            put_kind(kind, to);
            ports.iter().for_each(|port| put_port(port, to));
            kind::SERVICE_IMPORT
        }
    };
    // An API server stores objects of a few MiB at most.
    let length = u32::try_from(to.len() - start - HEAD_LEN).unwrap_or(u32::MAX);
    to[start + 1..start + HEAD_LEN].copy_from_slice(&length.to_be_bytes());
}

fn put(number: u8, octets: &[u8], to: &mut Vec<u8>) {
    to.push(number);
    let mut rest = octets.len();
    while rest > 0x7f {
        to.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    to.push(rest as u8);
    to.extend_from_slice(octets);
}

/// Leaves an empty text out.
fn put_text(number: u8, text: &str, to: &mut Vec<u8>) {
    if !text.is_empty() {
        put(number, text.as_bytes(), to);
    }
}

fn put_meta(meta: &Meta, to: &mut Vec<u8>) {
    let Meta {
        namespace,
        name,
        resource_version,
    } = meta;
    put_text(number::NAMESPACE, namespace, to);
    put_text(number::NAME, name, to);
    put_text(number::RESOURCE_VERSION, resource_version, to);
}

/// Each address behind its length; a field even if there is none.
fn put_addresses(number: u8, addresses: &[IpAddr], to: &mut Vec<u8>) {
    let mut octets = Vec::with_capacity(addresses.len() * 17);
    for address in addresses {
        match address {
            IpAddr::V4(address) => {
                octets.push(4);
                octets.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                octets.push(16);
                octets.extend_from_slice(&address.octets());
            }
        }
    }
    put(number, &octets, to);
}

fn put_port(port: &Port, to: &mut Vec<u8>) {
    let Port {
        name,
        protocol,
        number,
    } = port;
    let mut fields = Vec::with_capacity(16);
    put_text(number::NAME, name, &mut fields);
    put_text(number::PROTOCOL, protocol, &mut fields);
    if let Some(number) = number {
        put(number::PORT_NUMBER, &number.to_be_bytes(), &mut fields);
    }
    put(number::PORT, &fields, to);
}

fn put_kind(kind: &ServiceKind, to: &mut Vec<u8>) {
    match kind {
        ServiceKind::ClusterIp(addresses) => put_addresses(number::ADDRESSES, addresses, to),
        ServiceKind::Headless => put(number::HEADLESS, &[], to),
        ServiceKind::ExternalName(target) => put(number::EXTERNAL_NAME, target.as_bytes(), to),
    }
}

fn put_service(service: &Service, to: &mut Vec<u8>) {
    let Service {
        meta,
        kind,
        ports,
        external,
    } = service;
    put_meta(meta, to);
    put_kind(kind, to);
    ports.iter().for_each(|port| put_port(port, to));
    for target in external {
        match target {
            External::Address(address) => {
                put_addresses(number::EXTERNAL_ADDRESS, &[*address], to);
            }
            External::Hostname(name) => put(number::EXTERNAL_HOSTNAME, name.as_bytes(), to),
        }
    }
}

fn put_slice(slice: &EndpointSlice, to: &mut Vec<u8>) {
    let EndpointSlice {
        meta,
        service,
        import,
        ports,
        endpoints,
        trigger_time,
    } = slice;
    put_meta(meta, to);
    put_text(number::SERVICE, service, to);
    if let Some(Import { service, cluster }) = import {
        let mut fields = Vec::with_capacity(32);
        put_text(number::SERVICE, service, &mut fields);
        put_text(number::CLUSTER, cluster, &mut fields);
        put(number::IMPORT, &fields, to);
    }
    ports.iter().for_each(|port| put_port(port, to));
    for endpoint in endpoints {
        put_endpoint(endpoint, to);
    }
    put_text(
        number::TRIGGER_TIME,
        trigger_time.as_deref().unwrap_or_default(),
        to,
    );
}

/// Only the name that it is known by, host name or Pod, is in the store; it comes back as its host name.
fn put_endpoint(endpoint: &Endpoint, to: &mut Vec<u8>) {
    let Endpoint {
        addresses,
        hostname,
        target_name: _,
        ready: _,
        zone,
    } = endpoint;
    let mut fields = Vec::with_capacity(32);
    put_addresses(number::ADDRESSES, addresses, &mut fields);
    put_text(
        number::HOSTNAME,
        hostname.as_deref().unwrap_or_default(),
        &mut fields,
    );
    put_text(
        number::ZONE,
        zone.as_deref().unwrap_or_default(),
        &mut fields,
    );
    put(number::ENDPOINT, &fields, to);
}

fn put_pod(pod: &Pod, to: &mut Vec<u8>) {
    let Pod {
        meta,
        ip,
        terminating,
        finished: _,
        host_network,
        // They come with the first list.
        labels: _,
    } = pod;
    put_meta(meta, to);
    put_addresses(number::ADDRESSES, ip.as_slice(), to);
    if *terminating {
        put(number::TERMINATING, &[], to);
    }
    if *host_network {
        put(number::HOST_NETWORK, &[], to);
    }
}

/// Takes the first record off; no object if its kind is none that we know.
pub(super) fn decode(rest: &mut &[u8]) -> Result<Option<Object>, Malformed> {
    let cut = Malformed("a record is cut off");
    let (head, behind) = rest.split_at_checked(HEAD_LEN).ok_or(cut)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let length = usize::try_from(length).map_err(|_| cut)?;
    let (fields, behind) = behind.split_at_checked(length).ok_or(cut)?;
    *rest = behind;
    let fields = Fields { rest: fields };
    Ok(match head[0] {
        kind::NAMESPACE => Some(Object::Namespace(Parts::of(fields)?.meta()?)),
        kind::SERVICE => Some(Object::Service(service(Parts::of(fields)?)?)),
        kind::ENDPOINT_SLICE => Some(Object::EndpointSlice(slice(Parts::of(fields)?)?)),
        kind::POD => Some(Object::Pod(pod(Parts::of(fields)?)?)),
        kind::SERVICE_IMPORT => Some(Object::ServiceImport(import(Parts::of(fields)?)?)),
        _ => None,
    })
}

/// The fields of a record, in the order they stand.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u8, &'a [u8])> {
        let (&number, mut rest) = self.rest.split_first()?;
        let mut length = 0usize;
        for shift in (0..).step_by(7) {
            let (&octet, behind) = rest.split_first()?;
            rest = behind;
            // No record has 2^28 octets.
            if shift > 21 {
                return None;
            }
            length |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                break;
            }
        }
        let (octets, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((number, octets))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Malformed("a field is cut off"));
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// What the fields of an object hold, of whatever kind it is.
#[derive(Default)]
struct Parts<'a> {
    namespace: &'a str,
    name: &'a str,
    resource_version: &'a str,
    addresses: Option<Vec<IpAddr>>,
    headless: bool,
    external_name: Option<&'a str>,
    ports: Vec<Port>,
    external: Vec<External>,
    service: &'a str,
    import: Option<Import>,
    endpoints: Vec<Endpoint>,
    trigger_time: Option<&'a str>,
    terminating: bool,
    host_network: bool,
}

impl<'a> Parts<'a> {
    fn of(fields: Fields<'a>) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        for field in fields {
            let (number, octets) = field?;
            match number {
                number::NAMESPACE => parts.namespace = text(octets)?,
                number::NAME => parts.name = text(octets)?,
                number::RESOURCE_VERSION => parts.resource_version = text(octets)?,
                number::ADDRESSES => parts.addresses = Some(addresses(octets)?),
                number::HEADLESS => parts.headless = true,
                number::EXTERNAL_NAME => parts.external_name = Some(text(octets)?),
                number::PORT => parts.ports.push(port(octets)?),
                number::EXTERNAL_ADDRESS => {
                    let targets = addresses(octets)?.into_iter().map(External::Address);
                    parts.external.extend(targets);
                }
                number::EXTERNAL_HOSTNAME => {
                    parts
                        .external
                        .push(External::Hostname(text(octets)?.into()));
                }
                number::SERVICE => parts.service = text(octets)?,
                number::IMPORT => parts.import = Some(labels(octets)?),
                number::ENDPOINT => parts.endpoints.push(endpoint(octets)?),
                number::TERMINATING => parts.terminating = true,
                number::HOST_NETWORK => parts.host_network = true,
                number::TRIGGER_TIME => parts.trigger_time = some_text(octets)?,
                _ => {}
            }
        }
        Ok(parts)
    }

    fn meta(&self) -> Result<Meta, Malformed> {
        if self.name.is_empty() {
            return Err(Malformed("an object has no name"));
        }
        Ok(Meta {
            namespace: self.namespace.into(),
            name: self.name.into(),
            resource_version: self.resource_version.into(),
        })
    }

    fn kind(&mut self) -> Result<ServiceKind, Malformed> {
        match (self.external_name, self.headless, self.addresses.take()) {
            (Some(target), false, None) => Ok(ServiceKind::ExternalName(target.into())),
            (None, true, None) => Ok(ServiceKind::Headless),
            (None, false, Some(addresses)) => Ok(ServiceKind::ClusterIp(addresses)),
            _ => Err(Malformed("a Service is of no kind, or of several")),
        }
    }
}

fn service(mut parts: Parts<'_>) -> Result<Service, Malformed> {
    Ok(Service {
        meta: parts.meta()?,
        kind: parts.kind()?,
        ports: parts.ports,
        external: parts.external,
    })
}

fn import(mut parts: Parts<'_>) -> Result<ServiceImport, Malformed> {
    Ok(ServiceImport {
        meta: parts.meta()?,
        kind: parts.kind()?,
        ports: parts.ports,
    })
}

fn slice(parts: Parts<'_>) -> Result<EndpointSlice, Malformed> {
    Ok(EndpointSlice {
        meta: parts.meta()?,
        service: parts.service.into(),
        import: parts.import,
        ports: parts.ports,
        endpoints: parts.endpoints,
        trigger_time: parts.trigger_time.map(Into::into),
    })
}

fn pod(parts: Parts<'_>) -> Result<Pod, Malformed> {
    Ok(Pod {
        meta: parts.meta()?,
        ip: parts
            .addresses
            .as_deref()
            .unwrap_or_default()
            .first()
            .copied(),
        terminating: parts.terminating,
        finished: false,
        host_network: parts.host_network,
        labels: PodLabels::default(),
    })
}

fn text(octets: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(octets).map_err(|_| Malformed("text is not UTF-8"))
}

/// An empty text is none.
fn some_text(octets: &[u8]) -> Result<Option<&str>, Malformed> {
    text(octets).map(|text| (!text.is_empty()).then_some(text))
}

fn addresses(mut octets: &[u8]) -> Result<Vec<IpAddr>, Malformed> {
    let wrong = Malformed("an address has not 4 or 16 octets");
    let mut addresses = Vec::new();
    while let Some((&length, rest)) = octets.split_first() {
        let (address, rest) = rest.split_at_checked(length.into()).ok_or(wrong)?;
        octets = rest;
        let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
        let v6 = <[u8; 16]>::try_from(address).map(IpAddr::from);
        addresses.push(v4.or(v6).map_err(|_| wrong)?);
    }
    Ok(addresses)
}

fn port(octets: &[u8]) -> Result<Port, Malformed> {
    let mut port = Port {
        name: Box::default(),
        protocol: Box::default(),
        number: None,
    };
    for field in (Fields { rest: octets }) {
        let (number, octets) = field?;
        match number {
            number::NAME => port.name = text(octets)?.into(),
            number::PROTOCOL => port.protocol = text(octets)?.into(),
            number::PORT_NUMBER => {
                let octets = octets
                    .try_into()
                    .map_err(|_| Malformed("a port has not 2 octets"))?;
                port.number = Some(u16::from_be_bytes(octets));
            }
            _ => {}
        }
    }
    Ok(port)
}

fn endpoint(octets: &[u8]) -> Result<Endpoint, Malformed> {
    let mut endpoint = Endpoint {
        addresses: Vec::new(),
        hostname: None,
        target_name: None,
        ready: true,
        zone: None,
    };
    for field in (Fields { rest: octets }) {
        match field? {
            (number::ADDRESSES, octets) => endpoint.addresses = addresses(octets)?,
            (number::HOSTNAME, octets) => endpoint.hostname = some_text(octets)?.map(Into::into),
            (number::ZONE, octets) => endpoint.zone = some_text(octets)?.map(Into::into),
            _ => {}
        }
    }
    Ok(endpoint)
}

fn labels(octets: &[u8]) -> Result<Import, Malformed> {
    let mut import = Import {
        service: Box::default(),
        cluster: Box::default(),
    };
    for field in (Fields { rest: octets }) {
        match field? {
            (number::SERVICE, octets) => import.service = text(octets)?.into(),
            (number::CLUSTER, octets) => import.cluster = text(octets)?.into(),
            _ => {}
        }
    }
    Ok(import)
}
