//! Kubernetes objects cut down to the fields that DNS needs.
//!
//! Every source of objects (protobuf and JSON from the API server, YAML and JSON from files) decodes
//! into these, so nothing behind them knows where an object came from. Text is as the API gave it;
//! the store lower-cases what it uses as a key.

use std::net::IpAddr;

/// What identifies an object, and which version of it this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; empty for objects that have none.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Opaque; compared for equality only. Empty where the source has none (files).
    pub resource_version: Box<str>,
}

/// One object of a kind that DNS answers from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Namespace: only its existence matters.
    Namespace(Meta),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A ServiceImport: a Service of several clusters.
    ServiceImport(ServiceImport),
}

/// The resources that are listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `/api/v1/namespaces`
    Namespaces,
    /// `/api/v1/services`
    Services,
    /// `/apis/discovery.k8s.io/v1/endpointslices`
    EndpointSlices,
    /// `/api/v1/pods`
    Pods,
    /// `/apis/multicluster.x-k8s.io/v1alpha1/serviceimports`: defined by users, so it may not exist at all.
    ServiceImports,
}

/// What a Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// ClusterIP, NodePort, LoadBalancer with addresses, in the order of the spec.
    /// Empty while the API server has not allocated one.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`.
    Headless,
    /// `type: ExternalName`, whatever its clusterIP says; the target as the object spells it, maybe empty.
    ExternalName(Box<str>),
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Identity and version.
    pub meta: Meta,
    /// Addresses or alias.
    pub kind: ServiceKind,
    /// Ports; empty is legal.
    pub ports: Vec<Port>,
    /// Where it is reached from outside of the cluster: `spec.externalIPs`, then `status.loadBalancer.ingress`.
    pub external: Vec<External>,
}

/// One way to a Service from outside of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// By an address.
    Address(IpAddr),
    /// By the name of a load balancer, as the object spells it.
    Hostname(Box<str>),
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Name; empty if it has none.
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP` as the object spells it; empty if the slice leaves it out. (Services default to TCP.)
    pub protocol: Box<str>,
    /// Number; none where a slice's port is null.
    pub number: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Identity and version.
    pub meta: Meta,
    /// The label `kubernetes.io/service-name`; empty if it is missing.
    pub service: Box<str>,
    /// What it says of itself if it came from another cluster.
    pub import: Option<Import>,
    /// Ports, shared by all endpoints.
    pub ports: Vec<Port>,
    /// Endpoints, ready or not, in the order of the object.
    pub endpoints: Vec<Endpoint>,
    /// The annotation `endpoints.kubernetes.io/last-change-trigger-time` (RFC 3339), as it stands.
    pub trigger_time: Option<Box<str>>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses. What is not an IP address is left out by the decoder.
    pub addresses: Vec<IpAddr>,
    /// `hostname`, if set and not empty.
    pub hostname: Option<Box<str>>,
    /// `targetRef.name`, if set and shorter than 64 characters.
    pub target_name: Option<Box<str>>,
    /// `conditions.ready`; absent or null means true.
    pub ready: bool,
    /// `zone`, the topology zone it is in, if set and not empty.
    pub zone: Option<Box<str>>,
}

/// The labels of an EndpointSlice that another cluster exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The label `multicluster.kubernetes.io/service-name`: the ServiceImport that it belongs to.
    pub service: Box<str>,
    /// The label `multicluster.kubernetes.io/source-cluster`; empty if it is missing.
    pub cluster: Box<str>,
}

/// A ServiceImport (`multicluster.x-k8s.io/v1alpha1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImport {
    /// Identity and version.
    pub meta: Meta,
    /// Addresses; never an alias. `ClusterIp` without any is one that no address was given yet.
    pub kind: ServiceKind,
    /// Ports; empty is legal.
    pub ports: Vec<Port>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Identity and version.
    pub meta: Meta,
    /// `status.podIP`, if it is an IP address.
    pub ip: Option<IpAddr>,
    /// `spec.hostNetwork`: its address is its node's.
    pub host_network: bool,
    /// `metadata.labels`
    pub labels: PodLabels,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is Succeeded, Failed or Unknown. (The API server filters these out; a file cannot.)
    pub finished: bool,
}

/// The labels of a Pod, in one piece of text: they are kept for few, and read by fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodLabels(Box<str>);

impl PodLabels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut texts = self.0.split_terminator('\0');
        while let (Some(known), Some(value)) = (texts.next(), texts.next()) {
            if known == key {
                return Some(value);
            }
        }
        None
    }
}

impl<'l> FromIterator<(&'l str, &'l str)> for PodLabels {
    fn from_iter<I: IntoIterator<Item = (&'l str, &'l str)>>(labels: I) -> Self {
        let mut text = String::new();
        for (key, value) in labels {
            // No label of the API has one.
            if !key.contains('\0') && !value.contains('\0') {
                text.extend([key, "\0", value, "\0"]);
            }
        }
        Self(text.into())
    }
}

impl Resource {
    /// How many there are: `resource as usize` is below it.
    pub const COUNT: usize = Self::ServiceImports as usize + 1;

    /// Its name in the API, as roles, log lines and metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Pods => "pods",
            Self::ServiceImports => "serviceimports",
        }
    }
}

impl Object {
    /// Identity and version.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Namespace(meta) => meta,
            Self::Service(service) => &service.meta,
            Self::EndpointSlice(slice) => &slice.meta,
            Self::Pod(pod) => &pod.meta,
            Self::ServiceImport(import) => &import.meta,
        }
    }

    /// Identity and version, to be changed.
    pub fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Self::Namespace(meta) => meta,
            Self::Service(service) => &mut service.meta,
            Self::EndpointSlice(slice) => &mut slice.meta,
            Self::Pod(pod) => &mut pod.meta,
            Self::ServiceImport(import) => &mut import.meta,
        }
    }

    /// The resource it belongs to.
    pub fn resource(&self) -> Resource {
        match self {
            Self::Namespace(_) => Resource::Namespaces,
            Self::Service(_) => Resource::Services,
            Self::EndpointSlice(_) => Resource::EndpointSlices,
            Self::Pod(_) => Resource::Pods,
            Self::ServiceImport(_) => Resource::ServiceImports,
        }
    }
}
