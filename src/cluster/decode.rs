//! Objects out of JSON and YAML, straight into the slim types.
//!
//! A large share of an object is `managedFields`, pod specifications and status that DNS never reads. Nothing here
//! builds a tree of it: fields that are not named below are skipped while they are read.

mod raw;

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::cluster::decode::raw::{AllLabels, SliceLabels};
use crate::cluster::objects::{External, Object, Resource, ServiceKind};

/// Octets in a pod name from which on it is not used as a host name: it would not be one label.
const TARGET_NAME_MAX: usize = 63;

/// Why some text is not the object it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Line and column, from 1, where they are known.
    pub place: Option<(usize, usize)>,
    /// What is wrong, in one line.
    pub message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        let place = (error.line() > 0).then(|| (error.line(), error.column()));
        let mut message = error.to_string();
        // The place stands in a field of its own.
        if let Some(end) = message.rfind(" at line ") {
            message.truncate(end);
        }
        Self { place, message }
    }
}

/// Reads one object of a resource from JSON. `kind` and `apiVersion` are not looked at.
pub fn object_from_json(resource: Resource, json: &[u8]) -> Result<Object, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let object = ObjectSeed(resource).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(object)
}

/// What a list says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListMeta {
    /// The version that a watch goes on from.
    pub resource_version: Box<str>,
    /// Where the next page starts; empty on the last one.
    pub continue_token: Box<str>,
}

/// Reads a list (`ServiceList`, …) from JSON and hands over each object as soon as it is whole, or why it is none: one
/// that cannot be read must not cost the others.
pub fn list_from_json(
    resource: Resource,
    json: &[u8],
    each: &mut dyn FnMut(Result<Object, DecodeError>),
) -> Result<ListMeta, DecodeError> {
    let text = String::from_utf8_lossy(json);
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let meta = deserializer.deserialize_map(ListVisitor { resource, each })?;
    deserializer.end()?;
    Ok(meta)
}

/// Reads one object of a resource from any format; also within something larger, such as a watch event.
#[derive(Clone, Copy, Debug)]
pub struct ObjectSeed(pub Resource);

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        let (object, _) = raw::object::<SliceLabels, D>(self.0, deserializer)?;
        named(object)
    }
}

/// The same with the object's labels.
#[derive(Clone, Copy, Debug)]
pub(in crate::cluster) struct LabeledSeed(pub(in crate::cluster) Resource);

impl<'de> DeserializeSeed<'de> for LabeledSeed {
    type Value = (Object, AllLabels);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let (object, labels) = raw::object::<AllLabels, D>(self.0, deserializer)?;
        Ok((named(object)?, labels))
    }
}

fn named<E: de::Error>(object: Object) -> Result<Object, E> {
    if object.meta().name.is_empty() {
        return Err(E::custom("an object needs `metadata.name`"));
    }
    Ok(object)
}

struct ListVisitor<'f> {
    resource: Resource,
    each: &'f mut dyn FnMut(Result<Object, DecodeError>),
}

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = ListMeta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ListMeta, A::Error> {
        let mut meta = ListMeta::default();
        while let Some(field) = map.next_key::<ListField>()? {
            match field {
                ListField::Metadata => meta = map.next_value::<RawListMeta>()?.into(),
                ListField::Items => map.next_value_seed(ItemsSeed {
                    resource: self.resource,
                    each: self.each,
                })?,
                ListField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(meta)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ListField {
    Metadata,
    Items,
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawListMeta {
    resource_version: Box<str>,
    #[serde(rename = "continue")]
    continue_token: Box<str>,
}

impl From<RawListMeta> for ListMeta {
    fn from(raw: RawListMeta) -> Self {
        Self {
            resource_version: raw.resource_version,
            continue_token: raw.continue_token,
        }
    }
}

struct ItemsSeed<'f> {
    resource: Resource,
    each: &'f mut dyn FnMut(Result<Object, DecodeError>),
}

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // An empty list may be `null`.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of objects")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&RawValue>()? {
            (self.each)(object_from_json(self.resource, item.get().as_bytes()));
        }
        Ok(())
    }
}

/// What a Service's name stands for. The type decides before the addresses do.
pub fn service_kind<T: AsRef<str>>(
    service_type: &str,
    cluster_ip: &str,
    cluster_ips: &[T],
    external_name: Box<str>,
) -> ServiceKind {
    if service_type == "ExternalName" {
        return ServiceKind::ExternalName(external_name);
    }
    // Servers from before dual stack fill `clusterIP` only.
    if cluster_ips.is_empty() {
        return service_kind_of_addresses([cluster_ip].into_iter());
    }
    service_kind_of_addresses(cluster_ips.iter().map(AsRef::as_ref))
}

fn service_kind_of_addresses<'a>(mut texts: impl Iterator<Item = &'a str> + Clone) -> ServiceKind {
    if texts.clone().next() == Some("None") {
        return ServiceKind::Headless;
    }
    ServiceKind::ClusterIp(texts.by_ref().filter_map(address).collect())
}

/// What a ServiceImport's name stands for: all types but one have addresses, maybe none yet.
fn import_kind(import_type: &str, addresses: Vec<IpAddr>) -> ServiceKind {
    if import_type == "Headless" {
        ServiceKind::Headless
    } else {
        ServiceKind::ClusterIp(addresses)
    }
}

/// Reads an address; IPv4-mapped ones mean IPv4.
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

/// What one load balancer's ingress leads to: its address, or else its name.
pub fn ingress(ip: &str, hostname: &str) -> Option<External> {
    if !ip.is_empty() {
        return address(ip).map(External::Address);
    }
    (!hostname.is_empty()).then(|| External::Hostname(hostname.into()))
}

/// Whether the name of what an endpoint stands for can be a host name.
pub fn is_target_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= TARGET_NAME_MAX
}

/// Whether a Pod of this phase has no address of its own any more.
pub fn is_finished(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed" | "Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::objects::{EndpointSlice, Service};

    fn service(json: &str) -> Service {
        match object_from_json(Resource::Services, json.as_bytes()) {
            Ok(Object::Service(service)) => service,
            other => panic!("{other:?}"),
        }
    }

    fn slice(json: &str) -> EndpointSlice {
        match object_from_json(Resource::EndpointSlices, json.as_bytes()) {
            Ok(Object::EndpointSlice(slice)) => slice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_service_keeps_identity_addresses_and_ports_alone() {
        let service = service(
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"managedFields":[{"a":{"b":[1,2]}}],"name":"web",
            "namespace":"shop","resourceVersion":"7","labels":{"x":"y"}},
            "spec":{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],"ports":[{"port":80,"name":"http"},
            {"port":53,"protocol":"UDP"}]},"status":{"loadBalancer":{}}}"#,
        );
        assert_eq!(
            (&*service.meta.namespace, &*service.meta.name),
            ("shop", "web")
        );
        assert_eq!(&*service.meta.resource_version, "7");
        let addresses = ["10.0.0.1", "fd00::1"].map(|text| text.parse().expect("an address"));
        assert_eq!(service.kind, ServiceKind::ClusterIp(addresses.to_vec()));
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| (&*port.name, &*port.protocol, port.number))
            .collect();
        assert_eq!(ports, [("http", "TCP", Some(80)), ("", "UDP", Some(53))]);
    }

    #[test]
    fn the_type_decides_before_the_addresses() {
        let kind =
            |spec: &str| service(&format!(r#"{{"metadata":{{"name":"a"}},"spec":{spec}}}"#)).kind;
        assert_eq!(kind(r#"{"clusterIP":"None"}"#), ServiceKind::Headless);
        assert_eq!(
            kind(r#"{"clusterIPs":["None"],"clusterIP":"None"}"#),
            ServiceKind::Headless
        );
        assert_eq!(
            kind(r#"{"type":"ExternalName","clusterIP":"None","externalName":"A.example"}"#),
            ServiceKind::ExternalName("A.example".into())
        );
        assert_eq!(kind("null"), ServiceKind::ClusterIp(Vec::new()));
        assert_eq!(
            kind(r#"{"clusterIP":"10.0.0.9"}"#),
            ServiceKind::ClusterIp(vec!["10.0.0.9".parse().expect("an address")])
        );
    }

    #[test]
    fn a_service_is_reached_from_outside_by_its_own_addresses_then_by_its_load_balancers() {
        let external = |json: &str| service(json).external;
        let address = |text: &str| External::Address(text.parse().expect("an address"));
        assert_eq!(
            external(
                r#"{"metadata":{"name":"a"},"spec":{"externalIPs":["198.51.100.1","none","2001:db8::1"]},
                "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","hostname":"unused","ipMode":"VIP"},
                {"hostname":"LB.example.com","ports":[{"port":80,"protocol":"TCP"}]},{},{"ip":"x"},{"ip":""}]}}}"#
            ),
            [
                address("198.51.100.1"),
                address("2001:db8::1"),
                address("203.0.113.1"),
                External::Hostname("LB.example.com".into()),
            ]
        );
        for empty in [
            "",
            r#","spec":{"externalIPs":null},"status":null"#,
            r#","status":{"loadBalancer":null}"#,
            r#","status":{"loadBalancer":{"ingress":null}}"#,
            r#","status":{"loadBalancer":{"ingress":[{"ip":null,"hostname":null}]}}"#,
        ] {
            let json = format!(r#"{{"metadata":{{"name":"a"}}{empty}}}"#);
            assert!(external(&json).is_empty(), "{json}");
        }
    }

    #[test]
    fn an_endpoint_is_ready_unless_it_says_otherwise() {
        let slice = slice(
            r#"{"metadata":{"name":"web-1","namespace":"shop","labels":{"kubernetes.io/service-name":"web","a":"b"},
            "annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2024-01-02T03:04:05Z"}},
            "endpoints":[{"addresses":["10.1.0.1","host.example"],"conditions":{}},
            {"addresses":["10.1.0.2"],"conditions":{"ready":null},"hostname":""},
            {"addresses":["10.1.0.3"]},{"addresses":null,"conditions":{"ready":false},"hostname":"h",
            "targetRef":{"kind":"Pod","name":"web-abc"}}],
            "ports":[{"port":null,"name":null,"protocol":null}]}"#,
        );
        assert_eq!(&*slice.service, "web");
        assert_eq!(slice.trigger_time.as_deref(), Some("2024-01-02T03:04:05Z"));
        let ready: Vec<bool> = slice
            .endpoints
            .iter()
            .map(|endpoint| endpoint.ready)
            .collect();
        assert_eq!(ready, [true, true, true, false]);
        assert_eq!(slice.endpoints[0].addresses.len(), 1);
        assert_eq!(slice.endpoints[1].hostname, None);
        assert_eq!(slice.endpoints[3].target_name.as_deref(), Some("web-abc"));
        assert_eq!((&*slice.ports[0].name, slice.ports[0].number), ("", None));
    }

    #[test]
    fn a_slice_keeps_the_zones_of_its_endpoints_and_what_it_was_imported_for() {
        let slice = slice(
            r#"{"metadata":{"name":"web-1","namespace":"shop","labels":{
            "multicluster.kubernetes.io/source-cluster":"c1","a":"b","multicluster.kubernetes.io/service-name":"web"}},
            "endpoints":[{"addresses":["10.1.0.1"],"zone":"Eu-West.1"},{"addresses":["10.1.0.2"],"zone":null},
            {"addresses":["10.1.0.3"],"zone":""}]}"#,
        );
        assert_eq!(&*slice.service, "");
        let import = slice.import.expect("an imported slice");
        assert_eq!((&*import.service, &*import.cluster), ("web", "c1"));
        let zones: Vec<_> = slice
            .endpoints
            .iter()
            .map(|endpoint| endpoint.zone.as_deref())
            .collect();
        assert_eq!(zones, [Some("Eu-West.1"), None, None]);
    }

    #[test]
    fn a_slice_of_no_known_cluster_is_imported_all_the_same() {
        let import = |labels: &str| {
            let json = format!(r#"{{"metadata":{{"name":"a","labels":{labels}}}}}"#);
            slice(&json).import.map(|import| import.cluster)
        };
        assert_eq!(
            import(r#"{"multicluster.kubernetes.io/service-name":"web"}"#),
            Some("".into())
        );
        assert_eq!(
            import(r#"{"multicluster.kubernetes.io/source-cluster":"c1"}"#),
            None
        );
    }

    #[test]
    fn an_import_has_addresses_or_is_headless() {
        let import = |spec: &str| {
            let json =
                format!(r#"{{"metadata":{{"name":"web","namespace":"shop"}},"spec":{spec}}}"#);
            match object_from_json(Resource::ServiceImports, json.as_bytes()) {
                Ok(Object::ServiceImport(import)) => import,
                other => panic!("{other:?}"),
            }
        };
        let web = import(
            r#"{"type":"ClusterSetIP","ips":["10.97.0.1","none"],"ports":[{"name":"http","port":80},
            {"port":53,"protocol":"UDP","appProtocol":"dns"}],"sessionAffinity":"None"}"#,
        );
        let address = "10.97.0.1".parse().expect("an address");
        assert_eq!(web.kind, ServiceKind::ClusterIp(vec![address]));
        let ports: Vec<_> = web
            .ports
            .iter()
            .map(|port| (&*port.name, &*port.protocol, port.number))
            .collect();
        assert_eq!(ports, [("http", "TCP", Some(80)), ("", "UDP", Some(53))]);
        assert_eq!(import(r#"{"type":"Headless"}"#).kind, ServiceKind::Headless);
        for pending in ["null", "{}", r#"{"type":"ClusterSetIP","ips":null}"#] {
            assert_eq!(import(pending).kind, ServiceKind::ClusterIp(Vec::new()));
        }
    }

    #[test]
    fn a_pod_name_of_64_characters_is_no_host_name() {
        assert!(is_target_name(&"a".repeat(63)));
        assert!(!is_target_name(&"a".repeat(64)));
        assert!(!is_target_name(""));
    }

    #[test]
    fn rows_and_maps_may_be_null() {
        let slice = slice(
            r#"{"metadata":{"name":"a","labels":null,"annotations":null},"endpoints":null,"ports":null}"#,
        );
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty() && slice.service.is_empty());
    }

    #[test]
    fn a_list_is_handed_over_object_by_object() {
        let mut names = Vec::new();
        let meta = list_from_json(
            Resource::Pods,
            br#"{"kind":"PodList","metadata":{"resourceVersion":"12","continue":"abc"},"items":[
            {"metadata":{"name":"a","deletionTimestamp":"2024-01-02T03:04:05Z"},
            "spec":{"hostNetwork":true,"containers":[]},"status":{"podIP":"10.1.0.1"}},
            {"metadata":{"name":"b"},"spec":null,"status":{"phase":"Failed"}}]}"#,
            &mut |object| match object {
                Ok(Object::Pod(pod)) => names.push((
                    pod.meta.name,
                    pod.ip.is_some(),
                    pod.host_network,
                    pod.terminating,
                    pod.finished,
                )),
                other => panic!("{other:?}"),
            },
        )
        .expect("a list");
        assert_eq!(
            (&*meta.resource_version, &*meta.continue_token),
            ("12", "abc")
        );
        assert_eq!(
            names,
            [
                ("a".into(), true, true, true, false),
                ("b".into(), false, false, false, true)
            ]
        );
        let empty = list_from_json(
            Resource::Pods,
            br#"{"items":null,"metadata":{}}"#,
            &mut |_| panic!("none"),
        );
        assert_eq!(empty, Ok(ListMeta::default()));
    }

    #[test]
    fn an_item_that_cannot_be_read_costs_no_other() {
        let mut names = Vec::new();
        let list = b"{\"metadata\":{\"resourceVersion\":\"1\"},\"items\":[{\"metadata\":{\"name\":\"a\"}},
            {\"metadata\":{\"name\":\"b\\ud800\"}},{\"metadata\":{\"name\":\"c\",\"annotations\":{\"\xff\":\"\xfe\"}}},
            {\"metadata\":7},{\"metadata\":{\"name\":\"d\"},\"spec\":{\"ports\":[{\"port\":65536}]}},
            {\"metadata\":{\"name\":\"e\"}}]}";
        let meta = list_from_json(Resource::Services, list, &mut |object| {
            names.push(object.ok().map(|object| object.meta().name.clone()));
        });
        assert_eq!(meta.map(|meta| meta.resource_version), Ok("1".into()));
        let expected = [Some("a"), None, Some("c"), None, None, Some("e")];
        assert_eq!(names, expected.map(|name| name.map(Box::from)));
    }

    #[test]
    fn what_is_no_object_says_where() {
        let wrong =
            |json: &str| object_from_json(Resource::Services, json.as_bytes()).expect_err("wrong");
        let error =
            wrong("{\"metadata\":{\"name\":\"a\"},\n \"spec\":{\"ports\":[{\"port\":70000}]}}");
        assert_eq!(error.place.map(|(line, _)| line), Some(2));
        assert!(
            error.message.contains("70000") && !error.message.contains("line"),
            "{error}"
        );
        assert!(wrong("{\"metadata\":{}}").message.contains("metadata.name"));
        assert!(
            wrong("{\"metadata\":{\"name\":\"a\"}} x")
                .message
                .contains("trailing")
        );
    }
}
