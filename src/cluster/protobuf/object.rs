//! The objects that DNS answers from, field by field.

use std::net::IpAddr;

use crate::cluster::decode;
use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Import, Meta, Object, Pod, PodLabels, Port, Resource,
    Service, ServiceKind,
};
use crate::cluster::protobuf::fields::{Fields, Malformed, Value, text};

/// An object of this resource.
pub(super) fn object(resource: Resource, message: &[u8]) -> Result<Object, Malformed> {
    let object = match resource {
        Resource::Namespaces => Object::Namespace(metadata(message)?.meta()),
        Resource::Services => Object::Service(service(message)?),
        Resource::EndpointSlices => Object::EndpointSlice(endpoint_slice(message)?),
        Resource::Pods => Object::Pod(pod(message)?),
        Resource::ServiceImports => {
            return Err(Malformed("there is no protobuf for what users define"));
        }
    };
    if object.meta().name.is_empty() {
        return Err(Malformed("an object has no name"));
    }
    Ok(object)
}

/// ObjectMeta, borrowed.
#[derive(Default)]
pub(super) struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
    pub(super) version: &'a str,
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
            let (key, value) = parts(entry)?;
            if key == wanted.as_bytes() {
                return text(value).map(Some);
            }
        }
        Ok(None)
    }

    /// All of them.
    fn all(self, number: u64) -> Result<Vec<(&'a str, &'a str)>, Malformed> {
        let mut all = Vec::new();
        for field in Fields::of(self.message) {
            if let (found, Value::Bytes(entry)) = field?
                && found == number
            {
                let (key, value) = parts(entry)?;
                all.push((text(key)?, text(value)?));
            }
        }
        Ok(all)
    }
}

/// Key and value of an entry of a map.
fn parts(entry: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value) = (&[][..], &[][..]);
    for field in Fields::of(entry) {
        match field? {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

impl<'a> Metadata<'a> {
    /// What identifies the object.
    pub(super) fn meta(&self) -> Meta {
        Meta {
            namespace: self.namespace.into(),
            name: self.name.into(),
            resource_version: self.version.into(),
        }
    }

    fn label(&self, key: &str) -> Result<Option<&'a str>, Malformed> {
        self.labels.find(11, key)
    }

    /// The value of an annotation.
    pub(super) fn annotation(&self, key: &str) -> Result<Option<&'a str>, Malformed> {
        self.annotations.find(12, key)
    }
}

/// The metadata of an object: field 1 of all that we read.
pub(super) fn metadata(object: &[u8]) -> Result<Metadata<'_>, Malformed> {
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
    let mut balanced = Vec::new();
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => meta = object_meta(bytes)?.meta(),
            (2, Value::Bytes(bytes)) => spec = service_spec(bytes)?,
            (3, Value::Bytes(bytes)) => balanced = service_status(bytes)?,
            _ => {}
        }
    }
    let mut external = std::mem::take(&mut spec.external);
    external.append(&mut balanced);
    Ok(Service {
        meta,
        kind: spec.kind(),
        ports: spec.ports,
        external,
    })
}

#[derive(Default)]
struct ServiceSpec<'a> {
    kind: &'a str,
    external_name: &'a str,
    cluster_ip: &'a str,
    cluster_ips: Vec<&'a str>,
    ports: Vec<Port>,
    external: Vec<External>,
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
            (5, Value::Bytes(bytes)) => spec.external.extend(address(bytes).map(External::Address)),
            (10, Value::Bytes(bytes)) => spec.external_name = text(bytes)?,
            (18, Value::Bytes(bytes)) => spec.cluster_ips.push(text(bytes)?),
            _ => {}
        }
    }
    Ok(spec)
}

/// ServiceStatus { 1: LoadBalancerStatus { 1: LoadBalancerIngress { 1: ip, 2: hostname } } }
fn service_status(message: &[u8]) -> Result<Vec<External>, Malformed> {
    let mut external = Vec::new();
    for field in Fields::of(message) {
        let (1, Value::Bytes(balancer)) = field? else {
            continue;
        };
        for field in Fields::of(balancer) {
            if let (1, Value::Bytes(ingress)) = field? {
                external.extend(load_balancer_ingress(ingress)?);
            }
        }
    }
    Ok(external)
}

fn load_balancer_ingress(message: &[u8]) -> Result<Option<External>, Malformed> {
    let (mut ip, mut hostname) = ("", "");
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => ip = text(bytes)?,
            (2, Value::Bytes(bytes)) => hostname = text(bytes)?,
            _ => {}
        }
    }
    Ok(decode::ingress(ip, hostname))
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
        import: None,
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
                slice.import = import(&found)?;
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

fn import(found: &Metadata<'_>) -> Result<Option<Import>, Malformed> {
    let Some(service) = found.label("multicluster.kubernetes.io/service-name")? else {
        return Ok(None);
    };
    let cluster = found.label("multicluster.kubernetes.io/source-cluster")?;
    Ok(Some(Import {
        service: service.into(),
        cluster: cluster.unwrap_or("").into(),
    }))
}

fn endpoint(message: &[u8]) -> Result<Endpoint, Malformed> {
    let mut endpoint = Endpoint {
        addresses: Vec::new(),
        hostname: None,
        target_name: None,
        ready: true,
        zone: None,
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
            (7, Value::Bytes(bytes)) if !bytes.is_empty() => {
                endpoint.zone = Some(text(bytes)?.into());
            }
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
        host_network: false,
        labels: PodLabels::default(),
        terminating: false,
        finished: false,
    };
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(bytes)) => {
                let found = object_meta(bytes)?;
                pod.meta = found.meta();
                pod.terminating = found.terminating;
                pod.labels = found.labels.all(11)?.into_iter().collect();
            }
            (2, Value::Bytes(spec)) => {
                for field in Fields::of(spec) {
                    if let (11, Value::Number(host_network)) = field? {
                        pod.host_network = host_network != 0;
                    }
                }
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
