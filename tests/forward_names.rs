//! Upstreams of `forward` that are given by name.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/bed.rs"]
mod bed;
#[path = "support/secure.rs"]
mod secure;
#[path = "support/upstream.rs"]
mod upstream;

use std::net::SocketAddr;

use authority::Authority;
use bed::{Bed, nobody};
use fingerpost::server::process::Process;
use fingerpost::wire::code::Rcode;
use secure::{SecureUpstream, config};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use upstream::Upstream;

/// A server that says of every name that it is at these IPv4 addresses, and at no other.
async fn resolver(addresses: &[[u8; 4]]) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let addresses = addresses.to_vec();
    let task = tokio::spawn(async move {
        let mut query = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut query).await.unwrap();
            let mut reply = query[..length].to_vec();
            reply[2] |= 0x80;
            if query[..length].ends_with(&[0, 1, 0, 1]) {
                reply[7] = u8::try_from(addresses.len()).unwrap();
                for address in &addresses {
                    reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04");
                    reply.extend_from_slice(address);
                }
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    (address, task)
}

fn build(corefile: &str) -> Result<Bed, String> {
    let process = Process::new(tokio::runtime::Handle::current());
    Bed::try_within(&process, corefile).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_asked_of_each_resolver_in_turn_until_one_knows_it() {
    let upstream = Upstream::start(1).await;
    let (ignorant, _task) = resolver(&[]).await;
    let (knowing, _other) = resolver(&[[127, 0, 0, 1]]).await;
    let (dead, port) = (nobody(), upstream.address.port());
    let bed = build(&format!(
        ". {{\nforward . dns.test:{port} {{\nresolver {dead} {ignorant} {knowing}\n}}\n}}"
    ));
    assert_eq!(bed.unwrap().ask("ok.fault.test").await.number(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_addresses_of_a_name_are_upstreams_each_once() {
    let upstream = Upstream::start(1).await;
    let (known, _task) = resolver(&[[127, 0, 0, 9], [127, 0, 0, 1], [127, 0, 0, 1]]).await;
    let port = upstream.address.port();
    let bed = build(&format!(
        ". {{\nforward . dns.test:{port} 127.0.0.1:{port} {{\nresolver {known}\npolicy sequential\n}}\n}}"
    ))
    .unwrap();
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
    let addresses: Vec<_> = bed
        .plan
        .upstreams
        .all()
        .iter()
        .map(|upstream| upstream.address().to_string())
        .collect();
    let expected = [format!("127.0.0.9:{port}"), format!("127.0.0.1:{port}")];
    assert_eq!(addresses, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_nobody_knows_ends_the_start_and_says_why() {
    let (ignorant, _task) = resolver(&[]).await;
    let dead = nobody();
    for (servers, expected) in [
        (
            ignorant.to_string(),
            "`dns.test` cannot be resolved: it has no address".to_owned(),
        ),
        (
            dead.to_string(),
            format!("`dns.test` cannot be resolved: `{dead}`: Connection refused (os error 111)"),
        ),
    ] {
        let made = build(&format!(
            ". {{\nforward . dns.test {{\nresolver {servers}\n}}\n}}"
        ));
        assert_eq!(made.err().unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_says_nothing_is_waited_for_so_long_and_named() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = silent.local_addr().unwrap();
    let made = build(&format!(
        ". {{\nforward . dns.test {{\nresolver {to}\n}}\n}}"
    ));
    assert_eq!(
        made.err().unwrap(),
        format!("`dns.test` cannot be resolved: `{to}` did not reply within 2 s")
    );
}

#[tokio::test]
async fn without_resolvers_the_system_is_asked() {
    let upstream = Upstream::start(1).await;
    let port = upstream.address.port();
    let bed = build(&format!(
        ". {{\nforward . localhost:{port} {{\nfailover SERVFAIL\n}}\n}}"
    ));
    assert_eq!(bed.unwrap().ask("ok.fault.test").await.number(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_over_tls_must_have_a_certificate_for_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.write(folder.path()).display().to_string();
    let (known, _task) = resolver(&[[127, 0, 0, 1]]).await;
    for (names, rcode) in [("dns.test", Rcode::NOERROR), ("127.0.0.1", Rcode::SERVFAIL)] {
        let upstream = SecureUpstream::start(1, config(&authority.sign(&[names]), None)).await;
        let port = upstream.address.port();
        let bed = build(&format!(
            ". {{\nforward . tls://dns.test:{port} {{\ntls {ca}\nresolver {known}\n}}\n}}"
        ));
        assert_eq!(bed.unwrap().ask("www.test").await.rcode(), rcode, "{names}");
    }
}
