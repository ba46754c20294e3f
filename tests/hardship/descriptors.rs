//! As few file descriptors as the program may be given, and more TCP clients, upstream sockets and probes than that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::lab::{Upstream, after, count, is_well, query, rcode, rcode_over_tcp, shop};
use crate::model_api::{Model, Wire};
use crate::program::{Program, free_port, wait_until};
use fingerpost::cluster::objects::Resource;

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    errors
    health 127.0.0.1:HEALTH
    prometheus 127.0.0.1:METRICS
    kubernetes cluster.local {
        endpoint API
    }
    forward . UPSTREAM
}
";

const SERVFAIL: u8 = 2;

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]},
    })
}

/// The program with so many descriptors, an upstream and an API server.
struct Lab {
    program: Program,
    health: u16,
    metrics: u16,
    upstream: Upstream,
    model: Model,
    _api: crate::fake_api::FakeApi,
}

impl Lab {
    fn new(descriptors: u32) -> Self {
        let upstream = Upstream::start();
        let model = shop(vec![service("web", "10.96.0.7")]);
        let api = model.serve();
        let (health, metrics) = (free_port(), free_port());
        let corefile = COREFILE
            .replace("HEALTH", &health.to_string())
            .replace("METRICS", &metrics.to_string())
            .replace("UPSTREAM", &upstream.address.to_string())
            .replace("API", &api.url());
        let program = Program::start_by(
            after(&format!("ulimit -n {descriptors}")),
            tempfile::tempdir().unwrap(),
            &corefile,
            None,
        );
        program.wait_for_answer("web.shop.svc.cluster.local.", RecordType::A, &["10.96.0.7"]);
        Self {
            program,
            health,
            metrics,
            upstream,
            model,
            _api: api,
        }
    }

    /// Connections that say nothing, from many addresses.
    fn idle_clients(&self, connections: u32) -> Vec<TcpStream> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.program.port));
        let connect = |number: u32| {
            let from = Ipv4Addr::from_bits(u32::from_be_bytes([127, 0, 3, 1]) + number % 100);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
            socket.connect(&server.into()).unwrap();
            socket.into()
        };
        (0..connections).map(connect).collect()
    }

    /// Names that are asked once each, without a look at the replies.
    fn ask_for(&self, first: u32, names: u32) {
        for number in first..first + names {
            let from = Ipv4Addr::from_bits(u32::from_be_bytes([127, 0, 4, 1]) + number % 20);
            let client = crate::lab::client(IpAddr::from(from), self.program.port);
            client
                .send(&query(7, &format!("u{number}.example")))
                .unwrap();
        }
    }

    /// All that a server has to do.
    #[track_caller]
    fn assert_serves(&self, name: &str) {
        let upstream = || {
            rcode(
                self.program.port,
                &format!("{name}.example"),
                Duration::from_secs(9),
            )
        };
        wait_until("an answer of the upstream", || upstream() == Some(0));
        let cluster = || rcode_over_tcp(self.program.port, "web.shop.svc.cluster.local");
        wait_until("an answer over TCP", || cluster() == Some(0));
        wait_until("health", || is_well(self.health));
        self.model.set(
            Resource::Services,
            service(name, "10.96.0.8"),
            Wire::Delivers,
        );
        let new = format!("{name}.shop.svc.cluster.local.");
        self.program
            .wait_for_answer(&new, RecordType::A, &["10.96.0.8"]);
    }
}

#[test]
fn tcp_clients_leave_half_of_few_descriptors_to_probes_upstreams_and_the_api_server() {
    let lab = Lab::new(256);
    let held = lab.idle_clients(600);
    wait_until("all connections looked at", || {
        count(lab.metrics, "fingerpost_tcp_connections_evicted_total", "") >= 400
    });
    assert!(count(lab.metrics, "fingerpost_tcp_connections", "") <= 128);
    // Every probe, not one of some: the kubelet counts failures.
    for round in 0..20 {
        assert!(is_well(lab.health), "round {round}");
    }
    lab.assert_serves("crowded");
    // The API server is connected to anew, too.
    lab.model.cut();
    let name = "anew.shop.svc.cluster.local.";
    wait_until("a change over another connection", || {
        let service = service("anew", "10.96.0.9");
        lab.model.set(Resource::Services, service, Wire::Delivers);
        lab.program.ask(name, RecordType::A) == ["10.96.0.9"]
    });
    assert_eq!(
        count(lab.metrics, "fingerpost_tcp_accept_failures_total", ""),
        0
    );
    assert_eq!(
        count(lab.metrics, "fingerpost_http_accept_failures_total", ""),
        0
    );
    drop(held);
    lab.assert_serves("alone");
}

#[test]
fn without_a_descriptor_queries_are_refused_one_by_one_and_what_is_in_memory_is_served() {
    let lab = Lab::new(48);
    lab.upstream.fall_silent(true);
    let held = lab.idle_clients(60);
    lab.ask_for(0, 600);
    let servfail = || {
        rcode(
            lab.program.port,
            "u.one.more.example",
            Duration::from_secs(9),
        )
    };
    assert_eq!(servfail(), Some(SERVFAIL));
    lab.program.wait_for_output("too many open files", 1);
    let cluster = || {
        rcode(
            lab.program.port,
            "web.shop.svc.cluster.local",
            Duration::from_secs(9),
        )
    };
    assert_eq!(cluster(), Some(0));
    lab.upstream.fall_silent(false);
    drop(held);
    lab.assert_serves("afterwards");
    let failed = count(
        lab.metrics,
        "coredns_dns_responses_total",
        "rcode=\"SERVFAIL\"",
    );
    assert!(failed > 0, "{failed}");
}
