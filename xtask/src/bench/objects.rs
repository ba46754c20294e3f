//! Objects as an API server stores them, with all the fields that it would fill in: what a list carries costs what it
//! costs in a cluster.

use std::fmt::Write;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// The first ClusterIP, and the address before the first endpoint.
const CLUSTER_IP: u32 = u32::from_be_bytes([10, 97, 0, 0]);
const ENDPOINT: u32 = u32::from_be_bytes([172, 24, 0, 0]);
const POD: u32 = u32::from_be_bytes([172, 20, 0, 0]);

/// An object with its place in etcd.
pub type Stored = (String, Value);

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub services: u32,
    /// Of each Service.
    pub endpoints: u32,
    pub pods: u32,
}

impl Size {
    fn namespaces(self) -> u32 {
        (self.services / 20).max(1)
    }

    /// All of it: every tenth Service is headless.
    pub fn objects(self) -> impl Iterator<Item = Stored> {
        let namespaces = (0..self.namespaces()).map(|at| namespace(&format!("ns-{at}")));
        let services = (0..self.services).flat_map(move |at| self.service(at));
        let pods = (0..self.pods).map(move |at| pod(self, at));
        namespaces.chain(services).chain(pods)
    }

    fn service(self, at: u32) -> Vec<Stored> {
        let (namespace, name) = (self.namespace_of(at), format!("svc-{at}"));
        let mut objects = Vec::new();
        if is_headless(at) {
            objects.push(service(&namespace, &name, "None"));
        } else {
            let address = Ipv4Addr::from_bits(CLUSTER_IP + at).to_string();
            objects.push(service(&namespace, &name, &address));
            objects.push(address_of(&namespace, &name, &address));
        }
        for (part, first) in (0..self.endpoints).step_by(100).enumerate() {
            let last = (first + 100).min(self.endpoints);
            let addresses = (first..last).map(|n| endpoint_address(self, at, n));
            objects.push(slice(
                &namespace,
                &name,
                &format!("{name}-{:05x}", at * 7 + part as u32),
                &addresses.collect::<Vec<_>>(),
            ));
        }
        objects
    }

    pub fn namespace_of(self, at: u32) -> String {
        format!("ns-{}", at % self.namespaces())
    }
}

/// Whether the Service of this number has no address of its own.
pub fn is_headless(at: u32) -> bool {
    at % 10 == 9
}

/// The address of a Service with one.
pub fn cluster_ip(at: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(CLUSTER_IP + at)
}

/// The address of an endpoint of a Service.
pub fn endpoint_address(size: Size, at: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(ENDPOINT + 1 + at * size.endpoints + endpoint)
}

fn metadata(namespace: &str, name: &str, labels: Value, manager: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "uid": uid(namespace, name),
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "generation": 1,
        "labels": labels,
        "managedFields": [{
            "manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:internalTrafficPolicy": {},
                "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {},
                "f:protocol": {}, "f:targetPort": {}}}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}}
        }]
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

/// Some text of the form of one, the same for the same object.
fn uid(namespace: &str, name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for octet in namespace.bytes().chain([b'/']).chain(name.bytes()) {
        hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    }
    let hex = format!("{hash:016x}");
    format!(
        "{}-{}-4000-8000-{:012x}",
        &hex[..8],
        &hex[8..12],
        hash >> 16
    )
}

pub fn namespace(name: &str) -> Stored {
    let labels = json!({"kubernetes.io/metadata.name": name});
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": metadata("", name, labels, "kubectl"),
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    (format!("/registry/namespaces/{name}"), object)
}

pub fn service(namespace: &str, name: &str, cluster_ip: &str) -> Stored {
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata(namespace, name, json!({"app": name}), "helm"),
        "spec": {
            "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "selector": {"app": name},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
                {"name": "metrics", "protocol": "TCP", "port": 9090, "targetPort": 9090},
            ],
        },
        "status": {"loadBalancer": {}},
    });
    (
        format!("/registry/services/specs/{namespace}/{name}"),
        object,
    )
}

/// That an address is taken: without it the API server would make one for each Service while we measure.
pub fn address_of(namespace: &str, name: &str, address: &str) -> Stored {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address, "uid": uid("", address), "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    });
    (format!("/registry/ipaddresses/{address}"), object)
}

pub fn slice(namespace: &str, service: &str, name: &str, addresses: &[Ipv4Addr]) -> Stored {
    let endpoint = |(at, address): (usize, &Ipv4Addr)| {
        let pod = pod_name(service, at);
        json!({
            "addresses": [address.to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", at % 1000), "zone": format!("zone-{}", at % 3),
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": uid(namespace, &pod)},
        })
    };
    let labels = json!({
        "app": service, "kubernetes.io/service-name": service,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    let mut metadata = metadata(namespace, name, labels, "kube-controller-manager");
    metadata["generateName"] = format!("{service}-").into();
    metadata["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"});
    metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Service", "name": service,
        "uid": uid(namespace, service), "controller": true, "blockOwnerDeletion": true}]);
    let endpoints: Vec<Value> = addresses.iter().enumerate().map(endpoint).collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "metrics", "port": 9090, "protocol": "TCP"},
        ],
    });
    (
        format!("/registry/endpointslices/{namespace}/{name}"),
        object,
    )
}

/// As a Deployment names them.
fn pod_name(service: &str, at: usize) -> String {
    let mut name = service.to_owned();
    let _ = write!(name, "-7d9f8b6c5d-{:05x}", at * 40_503 % 0x10_0000);
    name
}

fn pod(size: Size, at: u32) -> Stored {
    let namespace = size.namespace_of(at);
    let name = format!("pod-7d9f8b6c5d-{at:06x}");
    let address = Ipv4Addr::from_bits(POD + 1 + at).to_string();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata(&namespace, &name, json!({"app": "pod", "pod-template-hash": "7d9f8b6c5d"}), "kubelet"),
        "spec": {
            "nodeName": format!("node-{}", at % 1000), "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "serviceAccountName": "default", "schedulerName": "default-scheduler",
            "securityContext": {}, "enableServiceLinks": true,
            "containers": [{
                "name": "main", "image": "registry.example/shop/main:1.2.3", "imagePullPolicy": "IfNotPresent",
                "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
        },
        "status": {
            "phase": "Running", "qosClass": "BestEffort", "hostIP": "192.0.2.1", "podIP": address,
            "podIPs": [{"ip": address}], "startTime": "2026-01-02T03:04:05Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
        },
    });
    (format!("/registry/pods/{namespace}/{name}"), object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_as_many_objects_as_were_asked_for() {
        let size = Size {
            services: 20,
            endpoints: 250,
            pods: 7,
        };
        let all: Vec<Stored> = size.objects().collect();
        let kinds = |kind: &str| {
            all.iter()
                .filter(|(_, object)| object["kind"] == kind)
                .count()
        };
        assert_eq!(kinds("Service"), 20);
        // Two of them are headless.
        assert_eq!(kinds("IPAddress"), 18);
        assert_eq!(kinds("EndpointSlice"), 20 * 3);
        assert_eq!(kinds("Pod"), 7);
        let mut keys: Vec<_> = all.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all.len());
    }
}
