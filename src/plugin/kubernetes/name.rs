//! What a name below a cluster zone asks for.
//!
//! ```text
//! _http._tcp.web.shop.svc.cluster.local.     port, protocol, service, namespace
//!      web-0.web.shop.svc.cluster.local.     host name of an endpoint
//!            web.shop.svc.cluster.local.     service
//!       10-1-0-4.shop.pod.cluster.local.     pod
//!                shop.svc.cluster.local.     empty non-terminal, as are svc. and pod.
//!
//! with `zonal`:
//! eu-1.pin._zone.web.shop.svc.cluster.local.  endpoints in a topology zone; `prefer` for all if it has none
//!
//! in a zone of `multicluster`:
//!            web-0.c1.web.shop.svc.clusterset.local.  host name of an endpoint in the cluster `c1`
//! ```

use crate::plugin::service::{Part, ServicePlace};
use crate::wire::name::NameRef;

/// What a name stands for, before anything is looked up. All text is in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'q> {
    /// The zone itself.
    Apex,
    /// `svc` or `pod`: nothing but the way to what is below.
    Branch,
    /// `ns.dns`: the addresses of this server.
    NameServer,
    /// `dns-version`
    Version,
    /// A namespace, label with its length.
    Namespace {
        /// Below `pod`, not `svc`.
        pod: bool,
        namespace: &'q [u8],
    },
    /// A Service or something of it.
    Service(ServicePlace<'q>),
    /// A Pod by its address.
    Pod {
        /// The label, without its length.
        dashed: &'q [u8],
        /// Label with its length.
        namespace: &'q [u8],
        /// Octets of QNAME before the dashed label.
        at: usize,
    },
    /// No such name can be.
    Invalid,
}

/// The labels left of the zone that can mean anything: port, protocol, service, namespace, kind.
const LABELS_MAX: usize = 5;

/// What names of a zone may ask for besides what they may in every zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// Nothing.
    Plain,
    /// Endpoints in a topology zone.
    Zonal,
    /// Endpoints in one of several clusters.
    Multicluster,
}

/// Reads a name, in lower case, whose first `split` octets stand left of the zone.
pub(super) fn parse(qname: NameRef<'_>, split: usize, grammar: Grammar) -> Place<'_> {
    let wire = &qname.as_wire()[..split];
    let mut starts = [0; LABELS_MAX];
    let (mut count, mut at) = (0, 0);
    while at < split {
        // The last five labels are kept.
        if count >= LABELS_MAX {
            starts.rotate_left(1);
            starts[LABELS_MAX - 1] = at;
        } else {
            starts[count] = at;
        }
        count += 1;
        at += 1 + usize::from(wire[at]);
    }
    let kept = count.min(LABELS_MAX);
    // Labels from the right: 0 is the kind.
    let start = |index: usize| starts[kept - 1 - index];
    let label = |index: usize| {
        let start = start(index);
        &wire[start + 1..start + 1 + usize::from(wire[start])]
    };
    if count == 0 {
        return Place::Apex;
    }
    let pod = match label(0) {
        b"svc" => false,
        b"pod" => true,
        b"dns" if count == 2 && label(1) == b"ns" => return Place::NameServer,
        b"dns-version" if count == 1 => return Place::Version,
        _ => return Place::Invalid,
    };
    if count == 1 {
        return Place::Branch;
    }
    let namespace = &wire[start(1)..start(0)];
    let service = |part| {
        Place::Service(ServicePlace {
            key: &wire[start(2)..start(0)],
            namespace,
            part,
        })
    };
    match count {
        2 => Place::Namespace { pod, namespace },
        // One or two labels left of a Pod's name are let pass, as CoreDNS does: wildcard certificates rely on it.
        3..=5 if pod => Place::Pod {
            dashed: label(2),
            namespace,
            at: start(2),
        },
        3 => service(Part::Whole),
        4 => service(Part::Endpoint(label(3))),
        // Where an endpoint has a cluster, only an underscore makes it a port.
        5 if grammar == Grammar::Multicluster
            && !label(3).starts_with(b"_")
            && !label(4).starts_with(b"_") =>
        {
            service(Part::ClusterEndpoint {
                host: label(4),
                cluster: label(3),
            })
        }
        5 => service(Part::port(label(4), label(3))),
        // The value of a zone may have dots: all that is left of the directive is the zone.
        _ if grammar == Grammar::Zonal && !pod && label(3) == b"_zone" => {
            let zone = &wire[..start(4)];
            match label(4) {
                b"pin" => service(Part::Zone {
                    zone,
                    prefer: false,
                }),
                b"prefer" => service(Part::Zone { zone, prefer: true }),
                _ => Place::Invalid,
            }
        }
        _ => Place::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    /// Reads a name below `cluster.local.`, and shows it.
    fn place(text: &str) -> String {
        place_with(text, Grammar::Plain)
    }

    fn place_with(text: &str, grammar: Grammar) -> String {
        let name = Name::from_text(&format!("{text}cluster.local.")).expect("a name");
        let zone = Name::from_text("cluster.local.").expect("a name");
        let split = name.as_ref().prefix_len(zone.as_ref()).expect("below");
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        match parse(name.as_ref(), split, grammar) {
            Place::Service(place) => {
                let (service, namespace) =
                    place.key.split_at(place.key.len() - place.namespace.len());
                let part = match place.part {
                    Part::Whole => String::new(),
                    Part::Endpoint(name) => format!(" endpoint {}", text(name)),
                    Part::Port { port, protocol } => {
                        format!(" port {}/{}", text(port), text(protocol))
                    }
                    Part::ClusterEndpoint { host, cluster } => {
                        format!(" endpoint {} of {}", text(host), text(cluster))
                    }
                    Part::Zone { zone, prefer } => format!(" zone {zone:?} {prefer}"),
                };
                format!("{}/{}{part}", text(&namespace[1..]), text(&service[1..]))
            }
            Place::Pod {
                dashed,
                namespace,
                at,
            } => format!("pod {}/{} @{at}", text(&namespace[1..]), text(dashed)),
            Place::Namespace { pod, namespace } => {
                format!(
                    "{} {}",
                    if pod { "pods of" } else { "services of" },
                    text(&namespace[1..])
                )
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_name_is_read_from_the_right() {
        assert_eq!(place(""), "Apex");
        assert_eq!(place("svc."), "Branch");
        assert_eq!(place("pod."), "Branch");
        assert_eq!(place("shop.svc."), "services of shop");
        assert_eq!(place("shop.pod."), "pods of shop");
        assert_eq!(place("web.shop.svc."), "shop/web");
        assert_eq!(place("web-0.web.shop.svc."), "shop/web endpoint web-0");
        // One label is an endpoint, whatever it starts with.
        assert_eq!(place("_tcp.web.shop.svc."), "shop/web endpoint _tcp");
        assert_eq!(place("_http._tcp.web.shop.svc."), "shop/web port http/tcp");
        assert_eq!(place("http.tcp.web.shop.svc."), "shop/web port http/tcp");
        assert_eq!(place("__x._.web.shop.svc."), "shop/web port _x/");
        assert_eq!(place("a.b.c.web.shop.svc."), "Invalid");
        assert_eq!(place("a.b.c.d.web.shop.svc."), "Invalid");
        assert_eq!(place("1-2-3-4.shop.pod."), "pod shop/1-2-3-4 @0");
        assert_eq!(place("a.b.1-2-3-4.shop.pod."), "pod shop/1-2-3-4 @4");
        assert_eq!(place("a.b.c.1-2-3-4.shop.pod."), "Invalid");
        assert_eq!(place("ns.dns."), "NameServer");
        assert_eq!(place("a.ns.dns."), "Invalid");
        assert_eq!(place("dns."), "Invalid");
        assert_eq!(place("dns-version."), "Version");
        assert_eq!(place("x.dns-version."), "Invalid");
        assert_eq!(place("foo."), "Invalid");
        assert_eq!(place("a.b.c.d.e.f.g.shop.nope."), "Invalid");
    }

    #[test]
    fn a_topology_zone_is_all_that_stands_left_of_the_directive() {
        let place = |text: &str| place_with(&format!("{text}web.shop.svc."), Grammar::Zonal);
        let zone = |zone: &[u8], prefer| format!("shop/web zone {zone:?} {prefer}");
        assert_eq!(place("eu.pin._zone."), zone(b"\x02eu", false));
        assert_eq!(place("eu.prefer._zone."), zone(b"\x02eu", true));
        assert_eq!(place("a.eu.pin._zone."), zone(b"\x01a\x02eu", false));
        assert_eq!(place("pin.pin._zone."), zone(b"\x03pin", false));
        // Fewer labels are what they are without the option.
        assert_eq!(place("pin._zone."), "shop/web port pin/zone");
        assert_eq!(place("_zone."), "shop/web endpoint _zone");
        assert_eq!(place("eu.florp._zone."), "Invalid");
        assert_eq!(place("eu.pin._zones."), "Invalid");
        let text = "eu.pin._zone.web.shop.pod.";
        assert_eq!(place_with(text, Grammar::Zonal), "Invalid");
        let text = "eu.pin._zone.web.shop.svc.";
        assert_eq!(place_with(text, Grammar::Plain), "Invalid");
        assert_eq!(place_with(text, Grammar::Multicluster), "Invalid");
    }

    #[test]
    fn where_there_are_clusters_a_port_has_an_underscore() {
        let place = |text: &str| place_with(&format!("{text}web.shop.svc."), Grammar::Multicluster);
        assert_eq!(place("web-0.c1."), "shop/web endpoint web-0 of c1");
        assert_eq!(place("http.tcp."), "shop/web endpoint http of tcp");
        assert_eq!(place("_http.tcp."), "shop/web port http/tcp");
        assert_eq!(place("http._tcp."), "shop/web port http/tcp");
        assert_eq!(place("c1."), "shop/web endpoint c1");
        assert_eq!(place("a.web-0.c1."), "Invalid");
        assert_eq!(place(""), "shop/web");
        // Pods know no clusters.
        let pod = place_with("a.b.1-2-3-4.shop.pod.", Grammar::Multicluster);
        assert_eq!(pod, "pod shop/1-2-3-4 @4");
    }
}
