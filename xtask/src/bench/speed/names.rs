//! The names that all servers are given, and the questions about them.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::bench::dns::reverse;
use crate::bench::objects::{Size, cluster_ip, endpoint_address, is_headless};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A and AAAA of ClusterIPs, in turn.
    ClusterIp,
    /// Services that are not there.
    Missing,
    /// The name of a ClusterIP.
    Reverse,
    /// A named port, with the address behind it.
    Port,
    /// Ten addresses.
    Headless,
    /// Few names of the upstream, again and again.
    Cached,
    /// A name of the upstream that was never asked before.
    Fresh,
}

/// Names that `Cached` asks.
const CACHED: u32 = 1000;

/// Some number without a common factor with any of the sizes, so that neighbors in the table are not asked in turn.
const STRIDE: u64 = 7919;

impl Ask {
    /// Lines for [`crate::load::Questions`], in no order.
    pub fn lines(self, size: Size) -> String {
        let mut text = String::new();
        for turn in 0..size.services {
            let at = scatter(turn, size.services);
            let name = format!("svc-{at}.{}.svc.cluster.local", size.namespace_of(at));
            let written = match self {
                Self::ClusterIp if is_headless(at) => Ok(()),
                Self::ClusterIp => {
                    let kind = if turn % 2 == 0 { "A" } else { "AAAA" };
                    writeln!(text, "{name} {kind}")
                }
                Self::Missing => writeln!(text, "none-{name} A"),
                Self::Reverse if is_headless(at) => Ok(()),
                Self::Reverse => writeln!(text, "{} PTR", reverse(cluster_ip(at))),
                Self::Port if is_headless(at) => Ok(()),
                Self::Port => writeln!(text, "_http._tcp.{name} SRV"),
                Self::Headless if is_headless(at) => writeln!(text, "{name} A"),
                Self::Headless => Ok(()),
                Self::Cached if turn < CACHED => writeln!(text, "host-{at}.cached.example A"),
                Self::Cached => Ok(()),
                Self::Fresh if turn == 0 => writeln!(text, "u%.fresh.example A"),
                Self::Fresh => Ok(()),
            };
            written.expect("text takes text");
        }
        text
    }

    /// The RCODE of every right reply, and how many records the answer to the first line has at least.
    pub fn right(self) -> (u8, u16) {
        match self {
            Self::Missing => (3, 0),
            Self::Headless => (0, 10),
            _ => (0, 1),
        }
    }
}

/// Every number below `count` once.
fn scatter(turn: u32, count: u32) -> u32 {
    let at = u64::from(turn) * STRIDE % u64::from(count.max(1));
    u32::try_from(at).expect("it is below a u32")
}

/// The zones of the cluster, as master files: `cluster.local`, and the reverse zone of the ClusterIPs.
pub fn zones(size: Size) -> [(&'static str, String); 2] {
    let soa = |zone: &str| {
        format!(
            "$TTL 30\n@ IN SOA ns.dns.{zone}. hostmaster.{zone}. 1 7200 1800 86400 30\n@ IN NS ns.dns.{zone}.\n"
        )
    };
    let mut forward = soa("cluster.local");
    forward += "ns.dns IN A 10.96.0.10\n";
    let mut backward = soa("97.10.in-addr.arpa");
    for record in records(size) {
        match &record.owner.strip_suffix(".cluster.local") {
            Some(owner) => writeln!(forward, "{owner} IN {}", record.data),
            None => writeln!(backward, "{}. IN {}", record.owner, record.data),
        }
        .expect("text takes text");
    }
    [("cluster.local", forward), ("97.10.in-addr.arpa", backward)]
}

/// The same as `local-data` of Unbound.
pub fn local_data(size: Size) -> String {
    let mut text = String::new();
    for zone in ["cluster.local", "97.10.in-addr.arpa"] {
        writeln!(text, "local-zone: \"{zone}.\" static\nlocal-data: \"{zone}. 30 IN SOA ns.dns.{zone}. hostmaster.{zone}. 1 7200 1800 86400 30\"")
            .expect("text takes text");
    }
    for record in records(size) {
        writeln!(
            text,
            "local-data: \"{}. 30 IN {}\"",
            record.owner, record.data
        )
        .expect("text takes text");
    }
    text
}

struct Record {
    owner: String,
    data: String,
}

fn records(size: Size) -> impl Iterator<Item = Record> {
    (0..size.services).flat_map(move |at| {
        let name = format!("svc-{at}.{}.svc.cluster.local", size.namespace_of(at));
        let record = |owner: &str, data: String| Record {
            owner: owner.to_owned(),
            data,
        };
        if is_headless(at) {
            let addresses = (0..size.endpoints).map(|n| endpoint_address(size, at, n));
            return addresses
                .map(|address| record(&name, format!("A {address}")))
                .collect::<Vec<_>>();
        }
        let address: Ipv4Addr = cluster_ip(at);
        vec![
            record(&name, format!("A {address}")),
            record(&name, format!("SRV 0 50 80 {name}.")),
            record(&name, format!("SRV 0 50 9090 {name}.")),
            record(
                &format!("_http._tcp.{name}"),
                format!("SRV 0 100 80 {name}."),
            ),
            record(
                &format!("_metrics._tcp.{name}"),
                format!("SRV 0 100 9090 {name}."),
            ),
            record(&reverse(address), format!("PTR {name}.")),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        services: 100,
        endpoints: 10,
        pods: 0,
    };

    #[test]
    fn every_service_is_asked_once_and_no_neighbors_in_turn() {
        let lines = Ask::Missing.lines(SIZE);
        let mut names: Vec<&str> = lines.lines().collect();
        assert_ne!(names[1], "none-svc-1.ns-1.svc.cluster.local A");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 100);
        assert_eq!(Ask::ClusterIp.lines(SIZE).lines().count(), 90);
        assert_eq!(Ask::Headless.lines(SIZE).lines().count(), 10);
        let aaaa = Ask::ClusterIp.lines(SIZE).matches(" AAAA").count();
        assert!((40..=50).contains(&aaaa), "{aaaa}");
    }

    #[test]
    fn zones_hold_what_is_asked() {
        let [(_, forward), (_, backward)] = zones(SIZE);
        assert!(forward.contains("svc-1.ns-1.svc IN A 10.97.0.1\n"));
        assert_eq!(forward.matches("\nsvc-9.ns-4.svc IN A ").count(), 10);
        assert!(
            forward.contains(
                "_http._tcp.svc-1.ns-1.svc IN SRV 0 100 80 svc-1.ns-1.svc.cluster.local.\n"
            )
        );
        assert!(
            backward.contains("1.0.97.10.in-addr.arpa. IN PTR svc-1.ns-1.svc.cluster.local.\n")
        );
        assert_eq!(
            local_data(SIZE).matches("local-data:").count(),
            2 + 90 * 6 + 100
        );
    }
}
