//! What a name below an external zone asks for.
//!
//! ```text
//!                            example.org.     SOA, NS
//!                        dns.example.org.     `apex`: an empty non-terminal above the name server
//!                    ns1.dns.example.org.     name server
//!                       shop.example.org.     namespace
//!                   web.shop.example.org.     service
//!             web-0.web.shop.example.org.     host name of an endpoint
//!        _http._tcp.web.shop.example.org.     port, protocol, service, namespace
//! ```

use crate::plugin::service::{Part, ServicePlace};
use crate::wire::name::NameRef;

/// What a name stands for, before anything is looked up. All text is in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'q> {
    /// The zone itself.
    Apex,
    /// The label of the name servers, which has no records.
    Branch,
    /// The name server.
    NameServer,
    /// Something else below that label.
    BelowBranch,
    /// A namespace, label with its length.
    Namespace(&'q [u8]),
    /// A Service or something of it.
    Service(ServicePlace<'q>),
    /// No such name can be.
    Invalid,
}

/// The labels left of the zone that can mean anything: port, protocol, service, namespace.
const LABELS_MAX: usize = 4;

/// Reads a name, in lower case, whose first `split` octets stand left of the zone. `apex` is the label of the name
/// servers: a namespace of the same name is hidden.
pub(super) fn parse<'q>(qname: NameRef<'q>, split: usize, apex: &[u8]) -> Place<'q> {
    let wire = &qname.as_wire()[..split];
    // Where the labels start, the last ones first.
    let mut starts = [0; LABELS_MAX];
    let (mut count, mut at) = (0, 0);
    while at < split {
        starts.rotate_right(1);
        starts[0] = at;
        count += 1;
        at += 1 + usize::from(wire[at]);
    }
    let label = |index: usize| {
        let start = starts[index];
        &wire[start + 1..start + 1 + usize::from(wire[start])]
    };
    if count == 0 {
        return Place::Apex;
    }
    if label(0) == apex {
        return match count {
            1 => Place::Branch,
            2 if label(1) == b"ns1" => Place::NameServer,
            _ => Place::BelowBranch,
        };
    }
    let namespace = &wire[starts[0]..];
    if count == 1 {
        return Place::Namespace(namespace);
    }
    let part = match count {
        2 => Part::Whole,
        3 => Part::endpoint(label(2)),
        4 => Part::port(label(3), label(2)),
        _ => return Place::Invalid,
    };
    Place::Service(ServicePlace {
        key: &wire[starts[1]..],
        namespace,
        part,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    /// Reads a name below `example.org.`, and shows it.
    fn place(text: &str) -> String {
        let name = Name::from_text(&format!("{text}example.org.")).expect("a name");
        let zone = Name::from_text("example.org.").expect("a name");
        let split = name.as_ref().prefix_len(zone.as_ref()).expect("below");
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        match parse(name.as_ref(), split, b"dns") {
            Place::Service(place) => {
                let (service, namespace) =
                    place.key.split_at(place.key.len() - place.namespace.len());
                assert_eq!(namespace, place.namespace);
                let part = match place.part {
                    Part::Whole => String::new(),
                    Part::Endpoint(name) => format!(" endpoint {}", text(name)),
                    Part::Port { port, protocol } => {
                        format!(" port {}/{}", text(port), text(protocol))
                    }
                    Part::Zone { .. } | Part::ClusterEndpoint { .. } => {
                        panic!("there are no topology zones here, and no clusters")
                    }
                };
                format!("{}/{}{part}", text(&namespace[1..]), text(&service[1..]))
            }
            Place::Namespace(namespace) => format!("all of {}", text(&namespace[1..])),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_name_is_read_from_the_right() {
        assert_eq!(place(""), "Apex");
        assert_eq!(place("dns."), "Branch");
        assert_eq!(place("ns1.dns."), "NameServer");
        assert_eq!(place("ns2.dns."), "BelowBranch");
        assert_eq!(place("a.ns1.dns."), "BelowBranch");
        assert_eq!(place("a.b.c.d.ns1.dns."), "BelowBranch");
        assert_eq!(place("shop."), "all of shop");
        assert_eq!(place("web.shop."), "shop/web");
        assert_eq!(place("dns.shop."), "shop/dns");
        assert_eq!(place("web-0.web.shop."), "shop/web endpoint web-0");
        // One underscore is no part of the name; nothing but an underscore stands for anything.
        assert_eq!(place("_tcp.web.shop."), "shop/web endpoint tcp");
        assert_eq!(place("_.web.shop."), "shop/web");
        assert_eq!(place("_http._tcp.web.shop."), "shop/web port http/tcp");
        assert_eq!(place("http.tcp.web.shop."), "shop/web port http/tcp");
        assert_eq!(place("__x._.web.shop."), "shop/web port _x/");
        assert_eq!(place("a.b.c.web.shop."), "Invalid");
        assert_eq!(place("a.b.c.d.e.web.shop."), "Invalid");
    }
}
