//! A flood of names that are asked once each, while the upstream replies to nothing: memory stays within its bound, and the
//! cluster's names are answered. `cargo xtask bench blackhole` has the times.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use hickory_proto::rr::RecordType::A;
use program::Program;

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    kubernetes cluster.local {
        manifests EXAMPLE
    }
    cache 30
    forward . UPSTREAM
}
";

/// More than may wait, several times.
const NAMES: u32 = 40_000;

/// Megabytes: 10,000 queries that wait, and what the allocator keeps of others.
const GROWTH_MAX: u64 = 48;

fn query(number: u32) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 20];
    query.extend_from_slice(format!("u{number:019}").as_bytes());
    query.extend_from_slice(b"\x07example\x03com\0\0\x01\0\x01");
    query
}

#[test]
fn a_flood_of_new_names_without_an_upstream_costs_bounded_memory_and_no_answer_of_the_cluster() {
    // It is bound and never read.
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/example");
    let corefile = COREFILE
        .replace("EXAMPLE", &example.to_string_lossy())
        .replace("UPSTREAM", &upstream.local_addr().unwrap().to_string());
    let program = Program::start(&corefile);
    let clients: Vec<_> = (1..=16)
        .map(|last| {
            let client = UdpSocket::bind((Ipv4Addr::new(127, 0, 2, last), 0)).unwrap();
            client.connect((Ipv4Addr::LOCALHOST, program.port)).unwrap();
            client
        })
        .collect();
    let cluster_name = || {
        // Asked once: a lost query is a failure.
        let reply = program::try_ask(program.port, "web-service.default.svc.cluster.local.", A);
        reply.map_or_else(Vec::new, |reply| program::answers(&reply))
    };
    program.wait_for_answer("web-service.default.svc.cluster.local.", A, &["10.96.10.1"]);
    let before = program.kilobytes("VmRSS:");
    for number in 0..NAMES {
        clients[number as usize % clients.len()]
            .send(&query(number))
            .unwrap();
        // Waiting for an answer now and then keeps the queue of the socket short, too.
        if number % 100 == 99 {
            assert_eq!(cluster_name(), ["10.96.10.1"], "after {number} names");
        }
    }
    let grown = program.kilobytes("VmHWM:").saturating_sub(before) / 1024;
    assert!(grown <= GROWTH_MAX, "{grown} MB");
    // Most were refused, for the table was full: it is the bound that holds.
    assert!(grown >= 5, "{grown} MB: hardly any of them waited");
}
