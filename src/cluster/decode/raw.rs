//! Objects as they are written, with the fields that are read and no others.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{address, is_finished, is_target_name, service_kind};
use crate::cluster::objects::{Endpoint, EndpointSlice, Meta, Pod, Port, Service};

/// Go writes an empty slice, map or string as `null` as it likes.
fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawMeta {
    name: Box<str>,
    #[serde(deserialize_with = "null_default")]
    namespace: Box<str>,
    #[serde(deserialize_with = "null_default")]
    resource_version: Box<str>,
    #[serde(deserialize_with = "null_default")]
    labels: Picked<ServiceName>,
    #[serde(deserialize_with = "null_default")]
    annotations: Picked<TriggerTime>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl From<RawMeta> for Meta {
    fn from(raw: RawMeta) -> Self {
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

struct ServiceName;

impl Key for ServiceName {
    const NAME: &'static str = "kubernetes.io/service-name";
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
pub(super) struct RawNamespace {
    pub(super) metadata: RawMeta,
}

#[derive(Deserialize)]
pub(super) struct RawService {
    pub(super) metadata: RawMeta,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawServiceSpec,
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
    #[serde(deserialize_with = "null_default")]
    ports: Vec<RawPort>,
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

impl From<RawService> for Service {
    fn from(raw: RawService) -> Self {
        let spec = raw.spec;
        let mut ports: Vec<Port> = spec.ports.into_iter().map(Port::from).collect();
        for port in &mut ports {
            if port.protocol.is_empty() {
                port.protocol = "TCP".into();
            }
        }
        Self {
            meta: raw.metadata.into(),
            kind: service_kind(
                &spec.service_type,
                &spec.cluster_ip,
                &spec.cluster_ips,
                spec.external_name,
            ),
            ports,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct RawSlice {
    pub(super) metadata: RawMeta,
    #[serde(default, deserialize_with = "null_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "null_default")]
    ports: Vec<RawPort>,
}

impl From<RawSlice> for EndpointSlice {
    fn from(mut raw: RawSlice) -> Self {
        Self {
            service: raw.metadata.labels.0.take().unwrap_or_default(),
            trigger_time: raw.metadata.annotations.0.take(),
            meta: raw.metadata.into(),
            ports: raw.ports.into_iter().map(Port::from).collect(),
            endpoints: raw.endpoints.into_iter().map(Endpoint::from).collect(),
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
        }
    }
}

/// The addresses of an endpoint; what is none is left out (slices of type FQDN hold names).
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
pub(super) struct RawPod {
    pub(super) metadata: RawMeta,
    #[serde(default, deserialize_with = "null_default")]
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodStatus {
    #[serde(deserialize_with = "null_default")]
    phase: Box<str>,
    #[serde(rename = "podIP", deserialize_with = "null_default")]
    pod_ip: Box<str>,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        Self {
            terminating: raw.metadata.deletion_timestamp.is_some(),
            finished: is_finished(&raw.status.phase),
            ip: address(&raw.status.pod_ip),
            meta: raw.metadata.into(),
        }
    }
}
