//! Plays the scheduler and two kubelets: binds pods to nodes, runs them, probes them, writes their status, stops them.
//!
//! What matters for the answers is when a kubelet does what, so the times are a kubelet's: a container is seen to have
//! ended within a second, a probe runs once in its period and counts after its threshold, readiness is probed while a
//! pod stops too, and SIGTERM goes out when the pod is deleted, at the same time as everybody else learns of that.
//!
//! Only pods that want the image `fingerpost` have a program. Others are an address and a status.

mod probe;
mod sandbox;
mod scheduler;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::bench::api::{Api, Connection};
use crate::e2e::network::Node;
use sandbox::{Sandbox, remove};
use scheduler::{is_server, schedule};

/// How often what the API server has is looked at.
const TURN: Duration = Duration::from_millis(100);

/// What others may know of a pod.
#[derive(Clone, Debug)]
pub struct View {
    pub namespace: String,
    pub address: Ipv4Addr,
    /// Of its network namespace.
    pub network: String,
    pub pid: Option<String>,
    pub is_ready: bool,
    pub is_stopping: bool,
}

/// The thread that does it all; ends with the process.
pub struct Kubelet {
    shared: Arc<Shared>,
    _thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    views: Mutex<BTreeMap<String, View>>,
    troubles: Mutex<Vec<String>>,
    is_away: AtomicBool,
}

/// What the kubelets are given.
#[derive(Clone)]
pub struct Settings {
    pub api: Api,
    pub authority: PathBuf,
    pub folder: PathBuf,
    /// The unpacked image of the server.
    pub image: PathBuf,
}

impl Kubelet {
    pub fn start(settings: Settings) -> Self {
        let shared = Arc::new(Shared::default());
        let mut worker = Worker {
            settings,
            connection: None,
            sandboxes: HashMap::new(),
            next: 0,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::spawn(move || {
            loop {
                worker.turn();
                std::thread::sleep(TURN);
            }
        });
        Self {
            shared,
            _thread: thread,
        }
    }

    /// All pods that have a network now, by name.
    pub fn pods(&self) -> BTreeMap<String, View> {
        lock(&self.shared.views).clone()
    }

    /// The replicas of the server.
    pub fn replicas(&self) -> Vec<(String, View)> {
        let is_replica = |name: &str| name.starts_with("fingerpost-");
        let pods = self.pods().into_iter();
        pods.filter(|(name, _)| is_replica(name)).collect()
    }

    /// What went wrong since the last call, while the API server should have been there.
    pub fn troubles(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.troubles))
    }

    /// While the API server is taken away, its silence is no trouble.
    pub fn expect_no_api_server(&self, is_away: bool) {
        self.shared.is_away.store(is_away, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics with it")
}

struct Worker {
    settings: Settings,
    connection: Option<Connection>,
    sandboxes: HashMap<String, Sandbox>,
    /// Numbers network namespaces, and so the addresses.
    next: u32,
    shared: Arc<Shared>,
}

impl Worker {
    fn turn(&mut self) {
        if let Err(error) = self.look_at_api_server() {
            self.connection = None;
            if !self.shared.is_away.load(Ordering::Relaxed) {
                lock(&self.shared.troubles).push(error);
            }
        }
        for sandbox in self.sandboxes.values_mut() {
            if let Err(error) = sandbox.look(&self.settings) {
                lock(&self.shared.troubles).push(format!("{}: {error}", sandbox.name));
            }
        }
        let views = self.sandboxes.values().map(Sandbox::view).collect();
        *lock(&self.shared.views) = views;
    }

    fn look_at_api_server(&mut self) -> Result<(), String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.settings.api.connect()?,
        };
        let mut list = connection.demand("GET", "/api/v1/pods", None)?;
        let pods = match list["items"].take() {
            Value::Array(pods) => pods,
            _ => Vec::new(),
        };
        schedule(&pods, &mut connection)?;
        let mut seen = Vec::new();
        for pod in &pods {
            let uid = text(&pod["metadata"]["uid"]);
            self.note(pod, &uid, &mut connection)?;
            seen.push(uid);
        }
        // Deleted without us: nothing is left to tell.
        self.sandboxes.retain(|uid, sandbox| {
            let stays = seen.contains(uid);
            if !stays {
                sandbox.tear_down();
            }
            stays
        });
        for sandbox in self.sandboxes.values_mut() {
            sandbox.tell(&mut connection)?;
        }
        self.connection = Some(connection);
        Ok(())
    }

    fn note(&mut self, pod: &Value, uid: &str, connection: &mut Connection) -> Result<(), String> {
        let metadata = &pod["metadata"];
        let is_deleted = metadata["deletionTimestamp"].is_string();
        if let Some(sandbox) = self.sandboxes.get_mut(uid) {
            if is_deleted {
                let grace = metadata["deletionGracePeriodSeconds"].as_u64();
                sandbox.stop(Duration::from_secs(grace.unwrap_or(30)));
            }
            return Ok(());
        }
        let node = Node::find(&text(&pod["spec"]["nodeName"]));
        let path = path_of(pod);
        match node {
            _ if is_deleted => remove(connection, &path),
            None => Ok(()),
            Some(node) => {
                let sandbox = self.run(pod, node, connection)?;
                self.sandboxes.insert(uid.to_owned(), sandbox);
                Ok(())
            }
        }
    }

    fn run(
        &mut self,
        pod: &Value,
        node: Node,
        connection: &mut Connection,
    ) -> Result<Sandbox, String> {
        self.next += 1;
        let mut sandbox = Sandbox::new(pod, node, self.next, &self.settings.folder)?;
        if is_server(pod) {
            sandbox.prepare(connection)?;
            sandbox.start(&self.settings)?;
        }
        Ok(sandbox)
    }
}

fn path_of(pod: &Value) -> String {
    let [namespace, name] = ["namespace", "name"].map(|field| text(&pod["metadata"][field]));
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
