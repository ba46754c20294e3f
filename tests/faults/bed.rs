//! What the tests stand on: one API server for all, a cluster that is fed through a proxy, the real program behind one,
//! and the oracle that knows what is right.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use fingerpost::cluster::connect::{Connection, Surroundings};
use fingerpost::cluster::objects::Resource;
use fingerpost::cluster::source::{ApiSource, Limits};
use fingerpost::cluster::table::ViewKind;
use fingerpost::cluster::watch::pace::Pace;
use fingerpost::cluster::watch::{WatchHandle, WatchPlan, start_on};
use fingerpost::cluster::{Cluster, Keep};
use fingerpost::server::process::Process;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control_plane::{ControlPlane, free_port};
use crate::fault_proxy::FaultProxy;
use crate::program::{Program, answers, ask, command};

/// Far longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// All that may be watched.
pub(crate) const ALL: [Resource; 4] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
];

/// One control plane for all tests. Who stops it takes it alone.
static PLANE: LazyLock<Option<RwLock<ControlPlane>>> =
    LazyLock::new(|| ControlPlane::start(&[]).map(RwLock::new));

/// Runs a test beside others, with a proxy of its own.
pub(crate) fn with_plane(test: impl FnOnce(&ControlPlane, &FaultProxy)) {
    if let Some(plane) = &*PLANE {
        let plane = plane.read().unwrap_or_else(PoisonError::into_inner);
        test(&plane, &FaultProxy::start(&plane));
    }
}

/// Runs a test that stops the API server.
pub(crate) fn with_plane_alone(test: impl FnOnce(&ControlPlane, &FaultProxy)) {
    if let Some(plane) = &*PLANE {
        let plane = plane.write().unwrap_or_else(PoisonError::into_inner);
        test(&plane, &FaultProxy::start(&plane));
    }
}

/// As in production, with delays that a test can wait for, and a patience that a busy machine does not exhaust.
pub(crate) fn pace() -> Pace {
    Pace {
        reply: PATIENCE,
        list_idle: PATIENCE,
        idle: 2 * PATIENCE,
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(50),
        connect_delay_max: Duration::from_millis(50),
        refused_delay_max: Duration::from_millis(50),
        ..Pace::default()
    }
}

/// Waits until it holds.
#[track_caller]
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        pause(5);
    }
}

/// Lets so many milliseconds pass.
pub(crate) fn pause(milliseconds: u64) {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// A cluster in this process, with the watches that feed it.
pub(crate) struct Fed {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) handle: Arc<WatchHandle>,
    pub(crate) process: Arc<Process>,
    _runtime: tokio::runtime::Runtime,
}

/// Addresses behind names, sorted.
pub(crate) type State = BTreeMap<String, Vec<IpAddr>>;

impl Fed {
    /// All resources through a proxy, at the usual pace of tests.
    pub(crate) fn through(proxy: &FaultProxy) -> Self {
        Self::at(pace(), proxy)
    }

    /// The same at another pace.
    pub(crate) fn at(pace: Pace, proxy: &FaultProxy) -> Self {
        Self::over(&endpoint(proxy.url()), pace)
    }

    /// From any source.
    pub(crate) fn over(source: &ApiSource, pace: Pace) -> Self {
        let connection = Connection::of(source, &Surroundings::default()).unwrap();
        Self::on(connection, pace)
    }

    /// Over a connection.
    pub(crate) fn on(connection: Connection, pace: Pace) -> Self {
        let plan = WatchPlan {
            resources: ALL.to_vec(),
            // As fast as it goes: what the limits do has tests of its own.
            limits: Limits {
                interval: Some(Duration::ZERO),
                ..Limits::default()
            },
            ..WatchPlan::default()
        };
        Self::planned(connection, plan, pace)
    }

    pub(crate) fn planned(connection: Connection, plan: WatchPlan, pace: Pace) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let process = Process::new(runtime.handle().clone());
        let cluster = Arc::new(Cluster::new(&plan.resources, Keep::default()));
        let handle = start_on(connection, plan, cluster.clone(), &process, pace).unwrap();
        Self {
            cluster,
            handle,
            process,
            _runtime: runtime,
        }
    }

    pub(crate) fn wait_synced(&self) {
        wait("the first lists", || self.cluster.synced());
    }

    /// The addresses of a Service; none if it does not exist.
    pub(crate) fn addresses(&self, namespace: &str, service: &str) -> Option<Vec<IpAddr>> {
        let label = |text: &str| {
            let length = u8::try_from(text.len()).unwrap();
            [&[length], text.as_bytes()].concat()
        };
        let labels = [label(service), label(namespace)].concat();
        let view = self.cluster.table.service(&labels)?;
        let mut addresses: Vec<IpAddr> = match &view.kind {
            ViewKind::Absent => return None,
            ViewKind::ClusterIp(addresses) => addresses.to_vec(),
            ViewKind::Headless => view.backends().map(|backend| backend.address).collect(),
            ViewKind::ExternalName(_) => Vec::new(),
        };
        addresses.sort_unstable();
        addresses.dedup();
        Some(addresses)
    }

    /// What it knows of these names.
    pub(crate) fn state(&self, namespace: &str, names: &BTreeSet<String>) -> State {
        let known = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.addresses(namespace, name)?)));
        known.collect()
    }

    /// Waits until it knows what the API server knows.
    #[track_caller]
    pub(crate) fn wait_for_oracle(&self, plane: &ControlPlane, world: &World) {
        let right = oracle(plane, &world.namespace);
        let end = Instant::now() + PATIENCE;
        loop {
            let known = self.state(&world.namespace, &world.names);
            if known == right {
                return;
            }
            assert!(Instant::now() < end, "known {known:?}\nright {right:?}");
            pause(5);
        }
    }

    /// A counter or gauge, summed over the labels that are not named.
    pub(crate) fn count(&self, family: &str, wanted: &[(&str, &str)]) -> u64 {
        let families = self.process.metrics.registry().gather();
        let metrics = families.iter().filter(|found| found.name() == family);
        let metrics = metrics.flat_map(|family| family.get_metric());
        let labeled = metrics.filter(|metric| {
            wanted.iter().all(|(name, value)| {
                let mut labels = metric.get_label().iter();
                labels.any(|label| (label.name(), label.value()) == (*name, *value))
            })
        });
        labeled
            .map(|metric| {
                (metric.get_counter().get_value() + metric.get_gauge().get_value()) as u64
            })
            .sum()
    }

    /// Failures of watches for a reason.
    pub(crate) fn failures(&self, reason: &str) -> u64 {
        self.count(
            "fingerpost_kubernetes_watch_failures_total",
            &[("reason", reason)],
        )
    }

    /// Complete lists of a resource.
    pub(crate) fn lists(&self, resource: &str) -> u64 {
        self.count(
            "fingerpost_kubernetes_lists_total",
            &[("resource", resource)],
        )
    }
}

pub(crate) fn endpoint(url: String) -> ApiSource {
    ApiSource::Endpoint { url, tls: None }
}

/// What the API server has in a namespace: cluster addresses, or the ready endpoints of headless Services.
pub(crate) fn oracle(plane: &ControlPlane, namespace: &str) -> State {
    let list = |path: &str| {
        let list = plane.request(Method::GET, path, None);
        list["items"].as_array().unwrap().clone()
    };
    let mut state = State::new();
    let mut headless = BTreeSet::new();
    for service in list(&format!("/api/v1/namespaces/{namespace}/services")) {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        let texts = service["spec"]["clusterIPs"].as_array().cloned();
        let texts: Vec<_> = texts.into_iter().flatten().collect();
        if texts.first() == Some(&json!("None")) {
            headless.insert(name.clone());
        }
        let addresses = texts.iter().filter_map(|text| text.as_str()?.parse().ok());
        state.insert(name, addresses.collect());
    }
    for slice in list(&format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    )) {
        let Some(name) = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() else {
            continue;
        };
        let (true, Some(addresses)) = (headless.contains(name), state.get_mut(name)) else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] != json!(false) {
                let texts = endpoint["addresses"].as_array().unwrap().iter();
                addresses.extend(
                    texts.map(|text| -> IpAddr { text.as_str().unwrap().parse().unwrap() }),
                );
            }
        }
    }
    for addresses in state.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    state
}

/// A namespace of one test, and every name that ever stood in it.
pub(crate) struct World {
    pub(crate) namespace: String,
    pub(crate) names: BTreeSet<String>,
    next: u8,
    /// The third octet of the addresses behind headless Services.
    third: u8,
}

impl World {
    /// A namespace with a Service `stays` and a headless `moves`.
    pub(crate) fn new(plane: &ControlPlane, namespace: &str) -> Self {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        plane.load(&json!({"items": [object]}));
        let third = namespace
            .bytes()
            .fold(0u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet));
        let mut world = Self {
            namespace: namespace.to_owned(),
            names: BTreeSet::new(),
            next: 0,
            third,
        };
        world.create(plane, "stays");
        world.create_headless(plane, "moves");
        world
    }

    /// A Service, whose address the API server chooses.
    pub(crate) fn create(&mut self, plane: &ControlPlane, name: &str) {
        self.names.insert(name.to_owned());
        plane.create(&self.service(name, &json!({"ports": [{"name": "http", "port": 80}]})));
    }

    pub(crate) fn create_headless(&mut self, plane: &ControlPlane, name: &str) {
        self.names.insert(name.to_owned());
        let spec = json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]});
        plane.create(&self.service(name, &spec));
        self.set_endpoints(plane, name, 2);
    }

    pub(crate) fn delete(&self, plane: &ControlPlane, name: &str) {
        plane.delete(&self.service(name, &json!({})));
    }

    /// Gives a headless Service so many endpoints, none of which it had before.
    pub(crate) fn set_endpoints(&mut self, plane: &ControlPlane, name: &str, count: u8) {
        let endpoints: Vec<Value> = (0..count)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                json!({"addresses": [format!("10.77.{}.{}", self.third, self.next)]})
            })
            .collect();
        plane.load(&json!({"items": [{
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": self.namespace, "name": format!("{name}-1"),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        }]}));
    }

    /// Changes something of every kind: creates, moves and deletes.
    pub(crate) fn churn(&mut self, plane: &ControlPlane, round: usize) {
        self.create(plane, &format!("new-{round}"));
        self.set_endpoints(plane, "moves", 3);
        if let Some(before) = round.checked_sub(1) {
            self.delete(plane, &format!("new-{before}"));
        }
    }

    fn service(&self, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": self.namespace, "name": name}, "spec": spec,
        })
    }

    /// The full name of a Service.
    pub(crate) fn qname(&self, name: &str) -> String {
        format!("{name}.{}.svc.cluster.local.", self.namespace)
    }
}

/// The real program, with a port for its probes and metrics.
pub(crate) struct Served {
    pub(crate) program: Program,
    probes: u16,
}

impl Served {
    /// With lines for its `kubernetes` block that say where the API server is.
    pub(crate) fn start(source: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), source)
    }

    pub(crate) fn start_in(folder: TempDir, source: &str) -> Self {
        Self::start_with(folder, source, &[])
    }

    /// With variables in its environment.
    pub(crate) fn start_with(folder: TempDir, source: &str, around: &[(&str, &OsStr)]) -> Self {
        let probes = free_port();
        let mut command = command();
        command.envs(around.iter().copied());
        let program = Program::start_by(command, folder, &corefile(source, probes), None);
        Self { program, probes }
    }

    /// Through a proxy.
    pub(crate) fn through(proxy: &FaultProxy) -> Self {
        Self::start(&format!("endpoint {}", proxy.url()))
    }

    pub(crate) fn http(&self, path: &str) -> (u16, String) {
        http_get(self.probes, path)
    }

    pub(crate) fn rcode(&self, name: &str) -> ResponseCode {
        ask(self.program.port, name, RecordType::A)
            .metadata
            .response_code
    }

    /// Addresses, sorted; none if the name does not exist. Panics on any failure.
    #[track_caller]
    pub(crate) fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let reply = ask(self.program.port, name, RecordType::A);
        match reply.metadata.response_code {
            ResponseCode::NXDomain => None,
            ResponseCode::NoError => {
                let mut addresses: Vec<IpAddr> = answers(&reply)
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .collect();
                addresses.sort_unstable();
                Some(addresses)
            }
            other => panic!("{name}: {other}"),
        }
    }

    pub(crate) fn state(&self, world: &World) -> State {
        let known = world
            .names
            .iter()
            .filter_map(|name| Some((name.clone(), self.addresses(&world.qname(name))?)));
        known.collect()
    }

    /// Asks for every Service until all is as the API server has it. Returns how long that took.
    #[track_caller]
    pub(crate) fn wait_for_oracle(&self, plane: &ControlPlane, world: &World) -> Duration {
        let began = Instant::now();
        let right = oracle(plane, &world.namespace);
        loop {
            let known = self.state(world);
            if known == right {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "known {known:?}\nright {right:?}\n{}",
                self.program.output()
            );
            pause(20);
        }
    }

    /// The value of a metric, summed over its labels; none if it is not there.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.http("/metrics");
        let values: Vec<f64> = text
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let of_name = rest.starts_with('{') || rest.starts_with(' ');
                of_name.then(|| rest.rsplit(' ').next().unwrap().parse().unwrap())
            })
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// The Corefile of [`Served`].
pub(crate) fn corefile(source: &str, probes: u16) -> String {
    format!(
        ".:PORT {{
            health 127.0.0.1:{probes}
            ready 127.0.0.1:{probes}
            prometheus 127.0.0.1:{probes}
            hosts /dev/null {{
                192.0.2.1 outside.example
                fallthrough
            }}
            kubernetes cluster.local in-addr.arpa {{
                {source}
                startup_timeout 1s
                apiserver_qps 1000
            }}
        }}\n"
    )
}

/// Status and body; 0 if nobody answers.
pub(crate) fn http_get(port: u16, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut text = String::new();
    let patience = Duration::from_secs(5);
    let address = ([127, 0, 0, 1], port).into();
    if let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, patience) {
        let _ = stream.set_read_timeout(Some(patience));
        let _ = write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.read_to_string(&mut text);
    }
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code.unwrap_or(0), body.to_owned())
}

/// Asks one name over and over while something happens, and expects one answer.
pub(crate) fn while_asking<R>(
    served: &Served,
    name: &str,
    expected: &[IpAddr],
    happens: impl FnOnce() -> R,
) -> R {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut wrong) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                let reply = ask(served.program.port, name, RecordType::A);
                let mut got: Vec<IpAddr> = answers(&reply)
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .collect();
                got.sort_unstable();
                asked += 1;
                if got != expected {
                    wrong.push((reply.metadata.response_code, got));
                }
                pause(1);
            }
            (asked, wrong)
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(happens));
        over.store(true, Ordering::Relaxed);
        let (asked, wrong) = asking.join().unwrap();
        assert!(asked > 0 && wrong.is_empty(), "{wrong:?} of {asked}");
        match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Writes a kubeconfig that names a server and a token file.
pub(crate) fn kubeconfig_with_token_file(folder: &Path, url: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me"}}],
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"tokenFile": folder.join("token")}}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}
