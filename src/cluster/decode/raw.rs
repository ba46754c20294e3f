//! Objects as they are written, with the fields that are read and no others.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{address, import_kind, is_finished, is_target_name, service_kind};
use crate::cluster::objects::{
    Endpoint, EndpointSlice, External, Import, Meta, Object, Pod, PodLabels, Port, Resource,
    Service, ServiceImport,
};

/// Reads an object, and as much of its labels as is asked for.
pub(super) fn object<'de, L: Labels, D: Deserializer<'de>>(
    resource: Resource,
    deserializer: D,
) -> Result<(Object, L), D::Error> {
    Ok(match resource {
        Resource::Namespaces => {
            let mut raw = RawNamespace::<L>::deserialize(deserializer)?;
            let labels = std::mem::take(&mut raw.metadata.labels);
            (Object::Namespace(raw.metadata.into()), labels)
        }
        Resource::Services => {
            let mut raw = RawService::<L>::deserialize(deserializer)?;
            let labels = std::mem::take(&mut raw.metadata.labels);
            (Object::Service(raw.into()), labels)
        }
        Resource::EndpointSlices => {
            let mut raw = RawSlice::<L>::deserialize(deserializer)?;
            let mut labels = std::mem::take(&mut raw.metadata.labels);
            let slice = raw.labeled(&mut labels);
            (Object::EndpointSlice(slice), labels)
        }
        Resource::Pods => {
            let mut raw = RawPod::<AllLabels>::deserialize(deserializer)?;
            let labels = std::mem::take(&mut raw.metadata.labels);
            let mut pod = Pod::from(raw);
            // A label without a value is none.
            let with_value = labels
                .iter()
                .filter_map(|(key, value)| Some((key, value.as_deref()?)));
            pod.labels = with_value.map(|(key, value)| (&**key, value)).collect();
            (Object::Pod(pod), L::of_pod(labels))
        }
        Resource::ServiceImports => {
            let mut raw = RawImport::<L>::deserialize(deserializer)?;
            let labels = std::mem::take(&mut raw.metadata.labels);
            (Object::ServiceImport(raw.into()), labels)
        }
    })
}

/// Go writes an empty slice, map or string as `null` as it likes.
fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What is kept of an object's labels while it is read.
pub(super) trait Labels: Default + de::DeserializeOwned {
    /// The Service that a slice belongs to.
    fn service_name(&mut self) -> Option<Box<str>>;

    /// The ServiceImport that it belongs to, and the cluster it comes from.
    fn import(&mut self) -> Option<Import>;

    /// What is kept of a Pod's.
    fn of_pod(all: AllLabels) -> Self;
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const IMPORT_NAME: &str = "multicluster.kubernetes.io/service-name";
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

/// All of them, for who has to hold a selector against them.
pub(in crate::cluster) type AllLabels = BTreeMap<Box<str>, Option<Box<str>>>;

impl Labels for AllLabels {
    fn of_pod(all: Self) -> Self {
        all
    }

    fn service_name(&mut self) -> Option<Box<str>> {
        self.get(SERVICE_NAME)?.clone()
    }

    fn import(&mut self) -> Option<Import> {
        let cluster = || self.get(SOURCE_CLUSTER)?.clone();
        Some(Import {
            service: self.get(IMPORT_NAME)?.clone()?,
            cluster: cluster().unwrap_or_default(),
        })
    }
}

/// Those that say what a slice belongs to.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct SliceLabels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<Box<str>>,
    #[serde(rename = "multicluster.kubernetes.io/service-name")]
    import: Option<Box<str>>,
    #[serde(rename = "multicluster.kubernetes.io/source-cluster")]
    cluster: Option<Box<str>>,
}

impl Labels for SliceLabels {
    fn of_pod(_: AllLabels) -> Self {
        Self::default()
    }

    fn service_name(&mut self) -> Option<Box<str>> {
        self.service.take()
    }

    fn import(&mut self) -> Option<Import> {
        Some(Import {
            service: self.import.take()?,
            cluster: self.cluster.take().unwrap_or_default(),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound = "L: Labels")]
pub(super) struct RawMeta<L> {
    name: Box<str>,
    #[serde(deserialize_with = "null_default")]
    namespace: Box<str>,
    #[serde(deserialize_with = "null_default")]
    resource_version: Box<str>,
    #[serde(deserialize_with = "null_default")]
    labels: L,
    #[serde(deserialize_with = "null_default")]
    annotations: Picked<TriggerTime>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl<L> From<RawMeta<L>> for Meta {
    fn from(raw: RawMeta<L>) -> Self {
        Self {
            namespace: raw.namespace,
            name: raw.name,
            resource_version: raw.resource_version,
        }
    }
}

/// The key of the one entry that is wanted out of a map of texts.
trait Key {
    const NAME: &'static str;
}

struct TriggerTime;

impl Key for TriggerTime {
    const NAME: &'static str = "endpoints.kubernetes.io/last-change-trigger-time";
}

/// One entry of a map of texts; the others are skipped.
struct Picked<K>(Option<Box<str>>, PhantomData<K>);

impl<K> Default for Picked<K> {
    fn default() -> Self {
        Self(None, PhantomData)
    }
}

impl<'de, K: Key> Deserialize<'de> for Picked<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de, K: Key> Visitor<'de> for Picked<K> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(wanted) = map.next_key_seed(IsKey::<K>(PhantomData))? {
            if wanted {
                self.0 = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(self)
    }
}

/// Whether a key is the wanted one, without copying it.
struct IsKey<K>(PhantomData<K>);

impl<'de, K: Key> DeserializeSeed<'de> for IsKey<K> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<K: Key> Visitor<'_> for IsKey<K> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == K::NAME)
    }
}

#[derive(Deserialize)]
#[serde(bound = "L: Labels")]
struct RawNamespace<L> {
    metadata: RawMeta<L>,
}

#[derive(Deserialize)]
#[serde(bound = "L: Labels")]
struct RawService<L> {
    metadata: RawMeta<L>,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawServiceSpec,
    #[serde(default, deserialize_with = "null_default")]
    status: RawServiceStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawServiceSpec {
    #[serde(rename = "type", deserialize_with = "null_default")]
    service_type: Box<str>,
    #[serde(rename = "clusterIP", deserialize_with = "null_default")]
    cluster_ip: Box<str>,
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    cluster_ips: Vec<Box<str>>,
    #[serde(deserialize_with = "null_default")]
    external_name: Box<str>,
    #[serde(rename = "externalIPs", deserialize_with = "null_default")]
    external_ips: Addresses,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<RawPort>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawServiceStatus {
    #[serde(deserialize_with = "null_default")]
    load_balancer: RawLoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLoadBalancer {
    #[serde(deserialize_with = "null_default")]
    ingress: Vec<RawIngress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawIngress {
    #[serde(deserialize_with = "null_default")]
    ip: Box<str>,
    #[serde(deserialize_with = "null_default")]
    hostname: Box<str>,
}

#[derive(Deserialize)]
struct RawPort {
    #[serde(default, deserialize_with = "null_default")]
    name: Box<str>,
    #[serde(default, deserialize_with = "null_default")]
    protocol: Box<str>,
    #[serde(default)]
    port: Option<u16>,
}

impl From<RawPort> for Port {
    fn from(raw: RawPort) -> Self {
        Self {
            name: raw.name,
            protocol: raw.protocol,
            number: raw.port,
        }
    }
}

impl<L> From<RawService<L>> for Service {
    fn from(raw: RawService<L>) -> Self {
        let spec = raw.spec;
        let ingress = raw.status.load_balancer.ingress.iter();
        let balanced = ingress.filter_map(|one| super::ingress(&one.ip, &one.hostname));
        let external = spec.external_ips.0.into_iter().map(External::Address);
        Self {
            meta: raw.metadata.into(),
            kind: service_kind(
                &spec.service_type,
                &spec.cluster_ip,
                &spec.cluster_ips,
                spec.external_name,
            ),
            ports: service_ports(spec.ports),
            external: external.chain(balanced).collect(),
        }
    }
}

/// Ports of a Service or ServiceImport: their protocol is TCP by default.
fn service_ports(raw: Vec<RawPort>) -> Vec<Port> {
    let mut ports: Vec<Port> = raw.into_iter().map(Port::from).collect();
    for port in &mut ports {
        if port.protocol.is_empty() {
            port.protocol = "TCP".into();
        }
    }
    ports
}

#[derive(Deserialize)]
#[serde(bound = "L: Labels")]
struct RawImport<L> {
    metadata: RawMeta<L>,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawImportSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawImportSpec {
    #[serde(rename = "type", deserialize_with = "null_default")]
    import_type: Box<str>,
    #[serde(deserialize_with = "null_default")]
    ips: Addresses,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<RawPort>,
}

impl<L> From<RawImport<L>> for ServiceImport {
    fn from(raw: RawImport<L>) -> Self {
        let spec = raw.spec;
        Self {
            meta: raw.metadata.into(),
            kind: import_kind(&spec.import_type, spec.ips.0),
            ports: service_ports(spec.ports),
        }
    }
}

#[derive(Deserialize)]
#[serde(bound = "L: Labels")]
struct RawSlice<L> {
    metadata: RawMeta<L>,
    #[serde(default, deserialize_with = "null_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "null_default")]
    ports: Vec<RawPort>,
}

impl<L: Labels> RawSlice<L> {
    fn labeled(mut self, labels: &mut L) -> EndpointSlice {
        EndpointSlice {
            service: labels.service_name().unwrap_or_default(),
            import: labels.import(),
            trigger_time: self.metadata.annotations.0.take(),
            meta: self.metadata.into(),
            ports: self.ports.into_iter().map(Port::from).collect(),
            endpoints: self.endpoints.into_iter().map(Endpoint::from).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default, deserialize_with = "null_default")]
    addresses: Addresses,
    #[serde(default, deserialize_with = "null_default")]
    conditions: RawConditions,
    #[serde(default)]
    hostname: Option<Box<str>>,
    #[serde(default, deserialize_with = "null_default")]
    target_ref: RawTarget,
    #[serde(default)]
    zone: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTarget {
    name: Option<Box<str>>,
}

impl From<RawEndpoint> for Endpoint {
    fn from(raw: RawEndpoint) -> Self {
        Self {
            addresses: raw.addresses.0,
            hostname: raw.hostname.filter(|hostname| !hostname.is_empty()),
            target_name: raw.target_ref.name.filter(|name| is_target_name(name)),
            ready: raw.conditions.ready.unwrap_or(true),
            zone: raw.zone.filter(|zone| !zone.is_empty()),
        }
    }
}

/// The addresses of an endpoint or ServiceImport; what is none is left out (slices of type FQDN hold names).
#[derive(Default)]
struct Addresses(Vec<IpAddr>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self::default())
    }
}

impl<'de> Visitor<'de> for Addresses {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of addresses")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut texts: A) -> Result<Self, A::Error> {
        while let Some(address) = texts.next_element_seed(AddressSeed)? {
            self.0.extend(address);
        }
        Ok(self)
    }
}

struct AddressSeed;

impl<'de> DeserializeSeed<'de> for AddressSeed {
    type Value = Option<IpAddr>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Option<IpAddr>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for AddressSeed {
    type Value = Option<IpAddr>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<IpAddr>, E> {
        Ok(address(text))
    }
}

#[derive(Deserialize)]
#[serde(bound = "L: Labels")]
struct RawPod<L> {
    metadata: RawMeta<L>,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawPodSpec,
    #[serde(default, deserialize_with = "null_default")]
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodSpec {
    #[serde(deserialize_with = "null_default")]
    host_network: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodStatus {
    #[serde(deserialize_with = "null_default")]
    phase: Box<str>,
    #[serde(rename = "podIP", deserialize_with = "null_default")]
    pod_ip: Box<str>,
}

impl<L> From<RawPod<L>> for Pod {
    fn from(raw: RawPod<L>) -> Self {
        Self {
            terminating: raw.metadata.deletion_timestamp.is_some(),
            finished: is_finished(&raw.status.phase),
            ip: address(&raw.status.pod_ip),
            host_network: raw.spec.host_network,
            labels: PodLabels::default(),
            meta: raw.metadata.into(),
        }
    }
}
