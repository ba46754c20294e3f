//! An answer from memory allocates nothing and knows no async runtime: from the socket, through the chain, to the
//! socket again.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "an allocator has no safe interface; the helpers of a test are part of it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fingerpost::chain::Chain;
use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Exchange, Protocol};
use fingerpost::chain::plugin::{Plugin, Step};
use fingerpost::corefile::render::Color;
use fingerpost::net::batch;
use fingerpost::net::limit::Limits;
use fingerpost::net::service::Service;
use fingerpost::net::udp::Worker;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::loader::Reading;
use fingerpost::server::process::Process;
use fingerpost::telemetry::metrics::ServerMetrics;
use fingerpost::wire::code::{Class, Rcode, RecordType};
use fingerpost::wire::name::Name;
use fingerpost::wire::record::{Section, skip_name};
use fingerpost::wire::writer::{Owner, SoaTimes};
use fingerpost::zone::Zones;
use fingerpost::zone::block::ServerBlock;

/// The system's allocator, with a count of what this thread asked of it.
struct Counting;

thread_local! {
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is going away has nothing to count any more.
    let _ = REQUESTS.try_with(|requests| requests.set(requests.get() + 1));
}

// SAFETY: every call is the system's, with the caller's own arguments; counting touches no memory of the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator, by this thread, while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = REQUESTS.get();
    work();
    REQUESTS.get() - before
}

/// Answers every kind of question as a plugin with its data in memory does.
struct Memory {
    apex: Name,
    target: Name,
}

impl Plugin for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let reply = &mut exchange.reply;
        reply.authoritative = true;
        match exchange.query.qtype() {
            RecordType::A => {
                for last in 0..200 {
                    reply.a(Owner::Question, 5, Ipv4Addr::new(10, 0, 0, last));
                }
            }
            RecordType::SRV => {
                reply.srv(Owner::Question, 5, 0, 100, 80, self.target.as_ref());
                reply.go_to(Section::Additional);
                reply.a(
                    Owner::Name(self.target.as_ref()),
                    5,
                    Ipv4Addr::new(10, 0, 0, 1),
                );
            }
            RecordType::PTR => {
                reply.name_record(Owner::Question, RecordType::PTR, 5, self.target.as_ref());
            }
            _ => {
                reply.rcode = Rcode::NXDOMAIN;
                reply.go_to(Section::Authority);
                let times = SoaTimes {
                    serial: 1,
                    refresh: 7200,
                    retry: 1800,
                    expire: 86_400,
                    minimum: 5,
                };
                let apex = self.apex.as_ref();
                reply.soa(Owner::Name(apex), 5, apex, apex, times);
            }
        }
        Step::Answered
    }
}

/// A plugin that only looks on.
struct Onlooker;

impl Plugin for Onlooker {
    fn name(&self) -> &'static str {
        "onlooker"
    }

    fn query(&self, _exchange: &mut Exchange<'_>) -> Step {
        Step::Next
    }
}

/// A worker on this thread, and a client of it.
struct Bench {
    worker: Worker,
    client: UdpSocket,
}

impl Bench {
    /// Of these links.
    fn of_links(links: Vec<Arc<dyn Plugin>>) -> Self {
        Self::new(|process| {
            let block = ServerBlock {
                origin: Name::from_text("cluster.local").unwrap(),
                server: "dns://:53".into(),
                chain: Chain::new(links),
            };
            let metrics = Arc::new(ServerMetrics::new(&process.metrics, "dns://:53"));
            Arc::new(Zones::new(vec![Arc::new(block)], metrics))
        })
    }

    /// Of what a Corefile of one listener says. Whatever it starts has the time that it asks for, and no more; the
    /// names of `learned` are asked before the runtime goes, so that what has to be fetched has been.
    fn of_corefile(text: &str, learned: &[&str]) -> Self {
        Self::new(|process| {
            let reading = Reading::of(Path::new("Corefile"), text.as_bytes(), 1053);
            assert_eq!(reading.refusal(Color::Never), None);
            let defaults = ServeDefaults { port: 1053 };
            let mut generation =
                Generation::build(&reading.blocks, defaults, process).expect("it can be built");
            process.runtime.block_on(async {
                for task in generation.plan.before_serving.drain(..) {
                    task.await.expect("it starts");
                }
            });
            let (_, zones) = generation.zones.pop_first().expect("one listener");
            for name in learned {
                let outcome = zones.answer(&query(name, RecordType::A), arrival(), &mut Vec::new());
                if let Outcome::Deferred(deferred) = outcome {
                    process.runtime.block_on(deferred.finish());
                }
            }
            zones
        })
    }

    fn new(build: impl FnOnce(&Arc<Process>) -> Arc<Zones>) -> Self {
        // The runtime is gone before the first query: whoever needs one will say so.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let zones = build(&process);
        drop(runtime);
        // A wildcard socket: the one that has to note which address was asked.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let address = socket.local_addr().unwrap();
        batch::prepare(&socket, &address, 1 << 20).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(("127.0.0.1", address.port())).unwrap();
        let zones = Arc::new(ArcSwap::new(zones));
        let service = Service::new(address, zones, Limits::default(), &process);
        Self {
            worker: Worker::new(socket, service),
            client,
        }
    }

    /// Asks so often that every buffer is used, and returns the allocations of all rounds but the first.
    fn ask(&mut self, name: &str, kind: RecordType, rcode: Rcode) -> u64 {
        self.send(&query(name, kind), rcode)
    }

    fn send(&mut self, question: &[u8], rcode: Rcode) -> u64 {
        let mut all = 0;
        for round in 0..3 {
            const QUERIES: usize = 5;
            for _ in 0..QUERIES {
                self.client.send(question).unwrap();
            }
            let counted = allocations(|| {
                let mut done = 0;
                while done < QUERIES {
                    done += self.worker.turn(true).expect("queries are waiting");
                }
            });
            // What is grown once is kept.
            all += if round == 0 { 0 } else { counted };
            for _ in 0..QUERIES {
                let mut reply = [0; 4096];
                let length = self.client.recv(&mut reply).unwrap();
                assert!(length >= question.len());
                assert_eq!(u16::from(reply[3] & 0x0f), rcode.0, "{question:02x?}");
            }
        }
        all
    }
}

fn arrival() -> Arrival {
    Arrival {
        client: (Ipv4Addr::LOCALHOST, 5353).into(),
        local: (Ipv4Addr::LOCALHOST, 53).into(),
        protocol: Protocol::Udp,
        received: Instant::now(),
        alias_depth: 0,
        is_crowded: false,
    }
}

/// Answers one query with one address, then is gone.
fn upstream_of_one_query() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut message = [0; 512];
        let (_, client) = socket.recv_from(&mut message).unwrap();
        let question_end = skip_name(&message, 12).unwrap() + 4;
        let mut reply = message[..question_end].to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1]);
        socket.send_to(&reply, client).unwrap();
    });
    address
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A query with an OPT, as most clients send.
fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    octets.extend_from_slice(Name::from_text(name).unwrap().as_ref().as_wire());
    octets.extend_from_slice(&kind.0.to_be_bytes());
    octets.extend_from_slice(&Class::IN.0.to_be_bytes());
    octets.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    octets
}

#[test]
fn the_allocator_is_counted() {
    assert_eq!(allocations(|| drop(Box::new(1))), 2);
}

#[test]
fn an_answer_from_memory_allocates_nothing() {
    let memory = Memory {
        apex: Name::from_text("cluster.local").unwrap(),
        target: Name::from_text("web.shop.svc.cluster.local").unwrap(),
    };
    let mut bench = Bench::of_links(vec![
        Arc::new(Onlooker),
        Arc::new(Onlooker),
        Arc::new(memory),
    ]);
    for (kind, rcode) in [
        (RecordType::A, Rcode::NOERROR),
        (RecordType::SRV, Rcode::NOERROR),
        (RecordType::PTR, Rcode::NOERROR),
        (RecordType::AAAA, Rcode::NXDOMAIN),
    ] {
        let name = "Web.Shop.svc.cluster.local";
        assert_eq!(bench.ask(name, kind, rcode), 0, "{kind}");
    }
}

#[test]
fn a_refusal_and_a_failure_allocate_nothing() {
    let mut bench = Bench::of_links(vec![Arc::new(Onlooker)]);
    assert_eq!(
        bench.ask("www.example.org", RecordType::A, Rcode::REFUSED),
        0
    );
    assert_eq!(
        bench.ask("web.cluster.local", RecordType::A, Rcode::SERVFAIL),
        0
    );
}

#[test]
fn an_answer_from_a_hosts_file_allocates_nothing() {
    let mut bench = Bench::of_corefile(
        ". {
            errors
            bufsize 1232
            hosts {
                10.0.0.1 web.example.org
                2001:db8::1 web.example.org
            }
        }",
        &[],
    );
    for (name, kind) in [
        ("Web.example.org", RecordType::A),
        ("web.example.org", RecordType::AAAA),
        ("web.example.org", RecordType::MX),
        ("1.0.0.10.in-addr.arpa", RecordType::PTR),
    ] {
        assert_eq!(bench.ask(name, kind, Rcode::NOERROR), 0, "{name} {kind}");
    }
}

#[test]
fn a_cookie_allocates_nothing() {
    let mut bench = Bench::of_corefile(
        ". {
            cookie
            hosts {
                10.0.0.1 web.example.org
            }
        }",
        &[],
    );
    for sent in [&[1; 8][..], &[2; 24]] {
        let mut question = query("web.example.org", RecordType::A);
        let length = u8::try_from(sent.len()).unwrap();
        *question.last_mut().unwrap() = length + 4;
        question.extend_from_slice(&[0, 10, 0, length]);
        question.extend_from_slice(sent);
        assert_eq!(bench.send(&question, Rcode::NOERROR), 0);
    }
}

#[test]
fn an_answer_about_a_cluster_allocates_nothing() {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/cluster.yaml");
    let corefile = format!(
        ". {{
            errors
            kubernetes cluster.local in-addr.arpa {{
                manifests {}
                pods verified
            }}
        }}",
        manifests.display()
    );
    let mut bench = Bench::of_corefile(&corefile, &[]);
    for (name, kind) in [
        ("Web.ns1.svc.cluster.local", RecordType::A),
        ("dual.ns1.svc.cluster.local", RecordType::AAAA),
        ("web.ns1.svc.cluster.local", RecordType::AAAA),
        ("hl.ns1.svc.cluster.local", RecordType::A),
        // Endpoints in two slices: duplicates are looked for.
        ("hldup.ns1.svc.cluster.local", RecordType::A),
        ("hldual.ns1.svc.cluster.local", RecordType::SRV),
        ("hl.ns1.svc.cluster.local", RecordType::SRV),
        ("_http._tcp.web.ns1.svc.cluster.local", RecordType::SRV),
        ("ep1a.web.ns1.svc.cluster.local", RecordType::A),
        ("10-244-1-1.ns1.pod.cluster.local", RecordType::A),
        ("1.1.96.10.in-addr.arpa", RecordType::PTR),
        ("2.1.244.10.in-addr.arpa", RecordType::PTR),
        ("cluster.local", RecordType::SOA),
        ("web.ns1.svc.cluster.local", RecordType::TXT),
    ] {
        assert_eq!(bench.ask(name, kind, Rcode::NOERROR), 0, "{name} {kind}");
    }
    for (name, kind) in [
        ("nope.ns1.svc.cluster.local", RecordType::A),
        ("_nope._tcp.web.ns1.svc.cluster.local", RecordType::SRV),
        ("99.99.99.99.in-addr.arpa", RecordType::PTR),
    ] {
        assert_eq!(bench.ask(name, kind, Rcode::NXDOMAIN), 0, "{name} {kind}");
    }
}

#[test]
fn an_answer_about_topology_zones_and_other_clusters_allocates_nothing() {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/cluster.yaml");
    let corefile = format!(
        ". {{
            errors
            kubernetes cluster.local clusterset.local {{
                manifests {}
                zonal
                multicluster clusterset.local
            }}
        }}",
        manifests.display()
    );
    let mut bench = Bench::of_corefile(&corefile, &[]);
    for (name, kind, rcode) in [
        (
            "Us-A.pin._zone.hlz.ns1.svc.cluster.local",
            RecordType::A,
            Rcode::NOERROR,
        ),
        (
            "us-c.prefer._zone.hlz.ns1.svc.cluster.local",
            RecordType::SRV,
            Rcode::NOERROR,
        ),
        (
            "us-c.pin._zone.hlz.ns1.svc.cluster.local",
            RecordType::A,
            Rcode::NOERROR,
        ),
        (
            "us-a.pin._zone.nope.ns1.svc.cluster.local",
            RecordType::A,
            Rcode::NXDOMAIN,
        ),
        (
            "Web.ns1.svc.clusterset.local",
            RecordType::A,
            Rcode::NOERROR,
        ),
        (
            "mdual.ns1.svc.clusterset.local",
            RecordType::SRV,
            Rcode::NOERROR,
        ),
        (
            "mhl.ns1.svc.clusterset.local",
            RecordType::SRV,
            Rcode::NOERROR,
        ),
        (
            "moverlap.ns1.svc.clusterset.local",
            RecordType::A,
            Rcode::NOERROR,
        ),
        (
            "pod-0.c2.mhl.ns1.svc.clusterset.local",
            RecordType::A,
            Rcode::NOERROR,
        ),
        (
            "web.ns1.svc.clusterset.local",
            RecordType::TXT,
            Rcode::NOERROR,
        ),
        (
            "pod-0.mhl.ns1.svc.clusterset.local",
            RecordType::A,
            Rcode::NXDOMAIN,
        ),
    ] {
        assert_eq!(bench.ask(name, kind, rcode), 0, "{name} {kind}");
    }
}

#[test]
fn an_answer_about_a_cluster_seen_from_outside_allocates_nothing() {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/k8s_external/cluster.yaml");
    let corefile = format!(
        ". {{
            errors
            k8s_external ext.test in-addr.arpa {{
                headless
            }}
            kubernetes cluster.local {{
                manifests {}
            }}
        }}",
        manifests.display()
    );
    let mut bench = Bench::of_corefile(&corefile, &[]);
    for (name, kind, rcode) in [
        ("LB.ns1.ext.test", RecordType::A, Rcode::NOERROR),
        ("lb2.ns1.ext.test", RecordType::AAAA, Rcode::NOERROR),
        ("_http._tcp.lb.ns1.ext.test", RecordType::A, Rcode::NOERROR),
        ("lb.ns1.ext.test", RecordType::AAAA, Rcode::NOERROR),
        ("lb.ns1.ext.test", RecordType::SRV, Rcode::NOERROR),
        ("lbhost.ns1.ext.test", RecordType::CNAME, Rcode::NOERROR),
        ("ext.test", RecordType::SOA, Rcode::NOERROR),
        ("1.100.51.198.in-addr.arpa", RecordType::PTR, Rcode::NOERROR),
        ("nope.ns1.ext.test", RecordType::A, Rcode::NXDOMAIN),
        ("hl.ns1.ext.test", RecordType::A, Rcode::NOERROR),
        ("hl.ns1.ext.test", RecordType::SRV, Rcode::NOERROR),
        ("_dup.hl.ns1.ext.test", RecordType::A, Rcode::NOERROR),
    ] {
        assert_eq!(bench.ask(name, kind, rcode), 0, "{name} {kind}");
    }
    // A load balancer's name is looked up by the whole server, whose reply has to be kept for a moment.
    let asks_again = bench.ask("lbhost.ns1.ext.test", RecordType::A, Rcode::NOERROR);
    assert!(asks_again > 0);
}

#[test]
fn a_search_through_a_cluster_allocates_nothing() {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/cluster.yaml");
    let corefile = format!(
        ". {{
            errors
            autopath @kubernetes
            cache 30
            kubernetes cluster.local in-addr.arpa {{
                manifests {}
                pods verified
            }}
        }}",
        manifests.display()
    );
    let mut bench = Bench::of_corefile(&corefile, &[]);
    for (name, kind) in [
        // The first element has it, the second, or it exists without data.
        ("web.ns1.svc.cluster.local", RecordType::A),
        ("web.ns2.ns1.svc.cluster.local", RecordType::A),
        ("web.ns2.ns1.svc.cluster.local", RecordType::SRV),
        ("web.ns2.ns1.svc.cluster.local", RecordType::AAAA),
        ("ext.ns1.svc.cluster.local", RecordType::TXT),
    ] {
        assert_eq!(bench.ask(name, kind, Rcode::NOERROR), 0, "{name} {kind}");
    }
}

#[test]
fn an_answer_about_one_of_ten_thousand_endpoints_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: big, namespace: shop}\nspec: {clusterIP: None}\n",
    );
    for slice in 0..100 {
        let endpoint =
            |at: u32| format!("{{addresses: [10.7.{slice}.{at}], hostname: pod-{slice}-{at}}}");
        let endpoints: Vec<_> = (0..100).map(endpoint).collect();
        objects += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: big-{slice}, namespace: shop, labels: {{kubernetes.io/service-name: big}}}}\naddressType: IPv4\nendpoints: [{}]\n",
            endpoints.join(", ")
        );
    }
    std::fs::write(folder.path().join("big.yaml"), objects).unwrap();
    let corefile = format!(
        ". {{
            kubernetes cluster.local in-addr.arpa {{
                manifests {}
            }}
        }}",
        folder.path().display()
    );
    let mut bench = Bench::of_corefile(&corefile, &[]);
    for (name, kind) in [
        ("Pod-99-98.big.shop.svc.cluster.local", RecordType::A),
        ("pod-0-1.big.shop.svc.cluster.local", RecordType::SRV),
        ("98.99.7.10.in-addr.arpa", RecordType::PTR),
        ("big.shop.svc.cluster.local", RecordType::A),
        ("big.shop.svc.cluster.local", RecordType::SRV),
    ] {
        assert_eq!(bench.ask(name, kind, Rcode::NOERROR), 0, "{name} {kind}");
    }
}

/// The configuration of most clusters, as far as it concerns queries that memory can answer.
fn cluster_corefile(upstream: SocketAddr) -> String {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/example");
    format!(
        ". {{
            errors
            prometheus 127.0.0.1:0
            kubernetes cluster.local in-addr.arpa ip6.arpa {{
                manifests {}
                pods insecure
                fallthrough in-addr.arpa ip6.arpa
            }}
            cache 30
            forward . {upstream}
        }}",
        manifests.display()
    )
}

#[test]
fn counting_and_passing_a_cache_on_the_way_to_the_cluster_allocate_nothing() {
    let mut bench = Bench::of_corefile(&cluster_corefile(upstream_of_one_query()), &[]);
    for (name, kind, rcode) in [
        (
            "Web-Service.default.svc.Cluster.Local",
            RecordType::A,
            Rcode::NOERROR,
        ),
        ("1.10.96.10.in-addr.arpa", RecordType::PTR, Rcode::NOERROR),
        (
            "www.example.org.default.svc.cluster.local",
            RecordType::A,
            Rcode::NXDOMAIN,
        ),
    ] {
        assert_eq!(bench.ask(name, kind, rcode), 0, "{name} {kind}");
    }
}

#[test]
fn an_answer_from_the_cache_allocates_nothing() {
    let name = "www.example.org";
    let mut bench = Bench::of_corefile(&cluster_corefile(upstream_of_one_query()), &[name]);
    // The upstream is gone, so every answer is the cache's.
    assert_eq!(bench.ask(name, RecordType::A, Rcode::NOERROR), 0);
}
