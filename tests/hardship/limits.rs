//! A tenth of a core, and 64 MiB: more is asked for than they can do.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use fingerpost::cluster::objects::Resource;
use hickory_proto::rr::RecordType::A;
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::lab::{Upstream, after, client, count, is_well, query, rcode, rcode_over_tcp, shop};
use crate::model_api::{Model, Wire};
use crate::program::{Program, free_port, wait_until};

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    errors
    health 127.0.0.1:HEALTH
    prometheus 127.0.0.1:METRICS
    kubernetes cluster.local {
        endpoint API
    }
    cache 3600
    forward . UPSTREAM
}
";

fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": format!("web-{number}")},
        "spec": {"clusterIP": address(number).to_string(), "ports": [{"name": "http", "port": 80}]},
    })
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0001 + number)
}

fn slice(number: u32) -> Value {
    let endpoint = |last: u32| {
        let address = Ipv4Addr::from_bits(0x0a80_0000 + number * 4 + last).to_string();
        json!({"addresses": [address], "conditions": {"ready": true}})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": "shop", "name": format!("web-{number}-abcde"),
            "labels": {"kubernetes.io/service-name": format!("web-{number}")},
        },
        "endpoints": [endpoint(0), endpoint(1), endpoint(2)],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// The program within a limit, and what it talks to.
struct Lab {
    program: Program,
    health: u16,
    metrics: u16,
    upstream: Upstream,
    model: Model,
    clients: Vec<UdpSocket>,
    sent: Cell<u64>,
    _api: crate::fake_api::FakeApi,
}

impl Lab {
    fn new(cgroup: &Cgroup, services: u32) -> Self {
        let upstream = Upstream::start();
        let model = shop((0..services).map(service).collect());
        model.set_all(
            Resource::EndpointSlices,
            (0..services).map(slice).collect(),
            Wire::Delivers,
        );
        let api = model.serve();
        let (health, metrics) = (free_port(), free_port());
        let corefile = COREFILE
            .replace("HEALTH", &health.to_string())
            .replace("METRICS", &metrics.to_string())
            .replace("UPSTREAM", &upstream.address.to_string())
            .replace("API", &api.url());
        let program = Program::start_by(
            after(&cgroup.entrance()),
            tempfile::tempdir().unwrap(),
            &corefile,
            None,
        );
        let clients = (1..=16)
            .map(|last| client(IpAddr::from([127, 0, 7, last]), program.port))
            .collect();
        let this = Self {
            program,
            health,
            metrics,
            upstream,
            model,
            clients,
            sent: Cell::new(0),
            _api: api,
        };
        this.wait_for_service(services - 1);
        this
    }

    fn wait_for_service(&self, number: u32) {
        let name = format!("web-{number}.shop.svc.cluster.local.");
        self.program
            .wait_for_answer(&name, A, &[&address(number).to_string()]);
    }

    /// Sends these, from many clients in turn, without a look at replies.
    fn send(&self, names: impl Iterator<Item = String>) {
        for (number, name) in names.enumerate() {
            let client = &self.clients[number % self.clients.len()];
            client.send(&query(number as u16, &name)).unwrap();
            self.sent.set(self.sent.get() + 1);
        }
    }

    fn count(&self, name: &str) -> u64 {
        count(self.metrics, name, "")
    }

    /// What the kernel and the program took or dropped of what was sent to it.
    fn looked_at(&self) -> u64 {
        self.count("coredns_dns_requests_total")
            + self.count("fingerpost_udp_kernel_drops_total")
            + self.count("fingerpost_udp_limited_total")
    }

    #[track_caller]
    fn assert_serves(&self, number: u32) {
        assert!(is_well(self.health));
        assert_eq!(
            rcode_over_tcp(self.program.port, "web-0.shop.svc.cluster.local"),
            Some(0)
        );
        self.model
            .set(Resource::Services, service(number), Wire::Delivers);
        self.wait_for_service(number);
        let name = format!("once-{number}.example");
        let upstream = || rcode(self.program.port, &name, Duration::from_secs(9));
        wait_until("an answer of the upstream", || upstream() == Some(0));
    }
}

#[test]
fn with_a_tenth_of_a_core_it_answers_what_it_can_counts_the_rest_and_stays_well() {
    let Some(cgroup) = Cgroup::of_cpu(10) else {
        return;
    };
    let lab = Lab::new(&cgroup, 10);
    let before = lab.looked_at();
    for round in 0..2 {
        let names = (0..30_000).map(|number| format!("web-{}.shop.svc.cluster.local", number % 10));
        lab.send(names);
        assert!(is_well(lab.health), "round {round}");
        assert_eq!(
            rcode_over_tcp(lab.program.port, "web-0.shop.svc.cluster.local"),
            Some(0)
        );
    }
    wait_until("each query answered or counted", || {
        // What is dropped last is told with the query that comes next, to each socket.
        lab.send((0..16).map(|_| "web-0.shop.svc.cluster.local".to_owned()));
        // Those over TCP are not among those sent.
        lab.looked_at() >= before + lab.sent.get() + 2
    });
    lab.assert_serves(10);
}

#[test]
fn in_64_mib_it_holds_a_large_cluster_and_full_caches_and_outlives_an_upstream_that_is_silent() {
    let Some(cgroup) = Cgroup::of_memory(64 << 20) else {
        return;
    };
    let lab = Lab::new(&cgroup, 10_000);
    // More names than the cache has room for.
    for part in 0.. {
        assert!(part < 1000, "the cache is never full");
        lab.send((0..50).map(|number| format!("known-{part}-{number}.some-long-name.example")));
        lab.wait_for_service(part);
        if part % 50 == 49 && lab.count("coredns_cache_evictions_total") > 0 {
            break;
        }
    }
    lab.upstream.fall_silent(true);
    for part in 0..400 {
        lab.send((0..100).map(|number| format!("silent-{part}-{number}.some-long-name.example")));
        lab.wait_for_service(part);
    }
    let refused = lab.count("fingerpost_queries_in_flight_refused_total");
    assert!(refused > 0, "all found room");
    lab.upstream.fall_silent(false);
    lab.assert_serves(10_000);
}
