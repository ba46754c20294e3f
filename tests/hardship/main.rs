//! What the host takes away: file descriptors, room on the wire, a reader of the log, a disk, CPU time, memory. The real
//! program goes on, counts what is lost, and serves as before once it has back what it lacked.
//!
//! | what is missing | where what is lost is counted |
//! |---|---|
//! | file descriptors | `fingerpost_tcp_connections_evicted_total`, `…_refused_total`, `fingerpost_tcp_accept_failures_total`, `fingerpost_http_accept_failures_total`; SERVFAIL in `coredns_dns_responses_total` |
//! | room on the wire, the kernel says so | `fingerpost_udp_send_failures_total` |
//! | room on the wire, the kernel says nothing | `fingerpost_udp_kernel_send_drops_total` |
//! | a firewall's consent | `fingerpost_udp_send_failures_total` |
//! | time to empty the receive queues | `fingerpost_udp_kernel_drops_total`, `fingerpost_udp_limited_total` |
//! | a reader of standard output, or its disk | `fingerpost_log_dropped_total` |
//! | a disk for the snapshot | `fingerpost_kubernetes_snapshot_writes_total{outcome="failed"}` |
//! | memory | `fingerpost_queries_in_flight_refused_total`; caches have their budget |
//!
//! Each test that changes the network, mounts or limits runs itself again in namespaces of its own, which end with it.
//! Where these cannot be made (that takes root, `ip`, `tc`, `nft`), the test says so.
#![cfg(all(feature = "kubernetes", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/fake_api.rs"]
mod fake_api;
#[path = "../support/model_api.rs"]
mod model_api;
#[path = "../support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

mod cgroup;
mod descriptors;
mod lab;
mod limits;
mod output;
mod wire;
