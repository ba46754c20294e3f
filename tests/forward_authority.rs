//! `forward` before a real authoritative server: what it serves is what a client gets.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/bed.rs"]
mod bed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bed::{Bed, query};
use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::record::{Records, Section};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use hickory_server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

/// `example.test.` with an alias, an address, and more text than a datagram holds.
fn catalog() -> Catalog {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let origin = name("example.test.");
    let mut zone: InMemoryZoneHandler =
        InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let soa = SOA::new(
        name("ns.example.test."),
        name("admin.example.test."),
        1,
        2,
        3,
        4,
        60,
    );
    let mut records = vec![
        (origin.clone(), RData::SOA(soa)),
        (name("web.example.test."), RData::A(A::new(192, 0, 2, 80))),
        (
            name("www.example.test."),
            RData::CNAME(CNAME(name("web.example.test."))),
        ),
    ];
    for number in 0..40 {
        let text = format!("{number:0>100}");
        records.push((name("big.example.test."), RData::TXT(TXT::new(vec![text]))));
    }
    for (owner, data) in records {
        assert!(zone.upsert_mut(Record::from_rdata(owner, 300, data), 1));
    }
    let mut catalog = Catalog::new();
    catalog.upsert(origin.into(), vec![Arc::new(zone)]);
    catalog
}

async fn authority() -> (Server<Catalog>, SocketAddr) {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let mut server = Server::new(catalog());
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(10), 64);
    (server, address)
}

fn counts(reply: &bed::Reply) -> [usize; 2] {
    let sections: Vec<Section> = Records::of_message(&reply.octets)
        .unwrap()
        .map(|record| record.unwrap().0)
        .collect();
    [Section::Answer, Section::Authority].map(|wanted| {
        sections
            .iter()
            .filter(|&&section| section == wanted)
            .count()
    })
}

#[tokio::test]
async fn a_client_gets_what_the_authority_serves() {
    let (_server, address) = authority().await;
    let bed = Bed::new(&format!(". {{\nforward . {address}\n}}"));

    let alias = bed.ask("WWW.example.test").await;
    assert_eq!((alias.rcode(), counts(&alias)), (Rcode::NOERROR, [2, 0]));
    assert_eq!(alias.addresses(), [std::net::Ipv4Addr::new(192, 0, 2, 80)]);

    let missing = bed.ask("no.example.test").await;
    assert_eq!(
        (missing.rcode(), counts(&missing)),
        (Rcode::NXDOMAIN, [0, 1])
    );

    let nodata = bed.send(&query("web.example.test", RecordType::AAAA)).await;
    assert_eq!((nodata.rcode(), counts(&nodata)), (Rcode::NOERROR, [0, 1]));

    let elsewhere = bed.ask("elsewhere.org").await;
    assert_eq!(elsewhere.rcode(), Rcode::REFUSED);
}

#[tokio::test]
async fn what_a_datagram_cannot_hold_comes_over_tcp() {
    let (_server, address) = authority().await;
    let bed = Bed::new(&format!(". {{\nforward . {address}\n}}"));
    let message = query("big.example.test", RecordType::TXT);

    let over_udp = bed::ask(&bed.zones, &message, Protocol::Udp).await;
    assert!(over_udp.is_truncated() && over_udp.octets.len() <= 1232);

    let over_tcp = bed::ask(&bed.zones, &message, Protocol::Tcp).await;
    assert!(!over_tcp.is_truncated());
    assert_eq!(counts(&over_tcp), [40, 0]);
}
