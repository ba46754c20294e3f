//! A pod on its node: its network, its container if it has one, and what the API server is told of it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::probe::Readiness;
use super::{Settings, View, text};
use crate::bench::api::Connection;
use crate::e2e::container::{Container, Pod, write};
use crate::e2e::network::{self, Node};

/// How often a kubelet looks at its containers.
const RELIST: Duration = Duration::from_secs(1);

/// Says which address a pod shall have, and whether it is ready.
const ADDRESS: &str = "e2e/address";
const READY: &str = "e2e/ready";

/// A pod on its node.
pub struct Sandbox {
    pub name: String,
    namespace: String,
    node: Node,
    address: Ipv4Addr,
    network: String,
    folder: PathBuf,
    spec: Value,
    environment: Vec<String>,
    readiness: Readiness,
    container: Option<Container>,
    starts: u32,
    relist_at: Instant,
    /// When it will be killed.
    kill_at: Option<Instant>,
    has_ended: bool,
    /// What the API server was told last.
    told: Option<(bool, bool)>,
}

impl Sandbox {
    /// With its network, and nothing in it yet. `number` tells it from all others.
    pub fn new(pod: &Value, node: Node, number: u32, folder: &Path) -> Result<Self, String> {
        let metadata = &pod["metadata"];
        let annotations = &metadata["annotations"];
        let place = 20 + u8::try_from(number % 200).expect("below 200");
        let address = match annotations[ADDRESS].as_str() {
            Some(wanted) => wanted
                .parse()
                .map_err(|_| format!("`{wanted}` is no address"))?,
            None => node.pod_address(place),
        };
        let (name, network) = (text(&metadata["name"]), format!("pod-{}", number));
        network::attach(node, &network, address)?;
        let folder = folder.join(&name);
        write(
            &folder.join("hosts"),
            &format!("127.0.0.1\tlocalhost\n{address}\t{name}\n"),
        )?;
        let container = &pod["spec"]["containers"][0];
        Ok(Self {
            namespace: text(&metadata["namespace"]),
            node,
            address,
            network,
            folder,
            readiness: Readiness::new(&container["readinessProbe"], annotations[READY] != "false"),
            environment: environment(pod),
            spec: pod["spec"].clone(),
            container: None,
            starts: 0,
            relist_at: Instant::now(),
            kill_at: None,
            has_ended: false,
            told: None,
            name,
        })
    }

    /// Lays down what a container reads of the API server's.
    pub fn prepare(&mut self, connection: &mut Connection) -> Result<(), String> {
        let namespace = &self.namespace;
        let map = format!("/api/v1/namespaces/{namespace}/configmaps/coredns");
        let map = connection.demand("GET", &map, None)?;
        let account = text(&self.spec["serviceAccountName"]);
        let token = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        });
        let token = connection.demand("POST", &token, Some(&request))?;
        write(
            &self.folder.join("Corefile"),
            &text(&map["data"]["Corefile"]),
        )?;
        write(&self.folder.join("token"), &text(&token["status"]["token"]))?;
        // dnsPolicy Default: the node's own.
        let upstream = network::HERE;
        write(
            &self.folder.join("resolv.conf"),
            &format!("nameserver {upstream}\n"),
        )
    }

    pub fn start(&mut self, settings: &Settings) -> Result<(), String> {
        let read = |name: &str| {
            let path = self.folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let pod = Pod {
            name: &self.name,
            namespace: &self.namespace,
            network: &self.network,
            corefile: &read("Corefile")?,
            token: &read("token")?,
            authority: &settings.authority,
            hosts: &self.folder.join("hosts"),
            resolv_conf: &self.folder.join("resolv.conf"),
            environment: &self.environment,
        };
        self.starts += 1;
        let container = Container::start(&settings.image, &pod, &self.folder, self.starts)?;
        self.container = Some(container);
        self.readiness.restart();
        Ok(())
    }

    pub fn stop(&mut self, grace: Duration) {
        if self.kill_at.is_none() {
            self.kill_at = Some(Instant::now() + grace);
            match &self.container {
                Some(container) => container.signal("TERM"),
                None => self.has_ended = true,
            }
        }
    }

    /// What a kubelet does without the API server.
    pub fn look(&mut self, settings: &Settings) -> Result<(), String> {
        let now = Instant::now();
        if self.container.is_some() && !self.has_ended {
            self.readiness.look(self.address);
        }
        if now < self.relist_at {
            return Ok(());
        }
        self.relist_at = now + RELIST;
        let Some(container) = &mut self.container else {
            return Ok(());
        };
        match (container.has_ended(), self.kill_at) {
            (true, Some(_)) => {
                self.has_ended = true;
                self.readiness.fail();
            }
            (true, None) => self.start(settings)?,
            (false, Some(at)) if now > at => container.signal("KILL"),
            (false, _) => {}
        }
        Ok(())
    }

    /// Writes the pod's status if it is another than before, and removes a pod that has ended.
    pub fn tell(&mut self, connection: &mut Connection) -> Result<(), String> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name);
        let now = (self.readiness.is_ready(), self.has_ended);
        if self.told != Some(now) {
            connection.demand("PATCH", &format!("{path}/status"), Some(&self.status()))?;
            self.told = Some(now);
        } else if self.has_ended {
            remove(connection, &path)?;
        }
        Ok(())
    }

    fn status(&self) -> Value {
        let ready = if self.readiness.is_ready() {
            "True"
        } else {
            "False"
        };
        let condition = |name: &str, status: &str| json!({"type": name, "status": status});
        json!({"status": {
            "phase": if self.has_ended { "Succeeded" } else { "Running" },
            "hostIP": self.node.address(),
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [
                condition("Initialized", "True"), condition("PodScheduled", "True"),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
        }})
    }

    pub fn tear_down(&mut self) {
        if let Some(container) = &self.container
            && !self.has_ended
        {
            container.signal("KILL");
        }
        network::detach(self.node, &self.network);
    }

    pub fn view(&self) -> (String, View) {
        let view = View {
            namespace: self.namespace.clone(),
            address: self.address,
            network: self.network.clone(),
            pid: self.container.as_ref().and_then(Container::pid),
            is_ready: self.readiness.is_ready(),
            is_stopping: self.kill_at.is_some(),
        };
        (self.name.clone(), view)
    }
}

/// `env` of the container, with what the downward API fills in.
fn environment(pod: &Value) -> Vec<String> {
    let all = pod["spec"]["containers"][0]["env"].as_array();
    let line = |variable: &Value| {
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match field {
            // `metadata.name` as a pointer is `/metadata/name`.
            Some(path) => pod.pointer(&format!("/{}", path.replace('.', "/"))),
            None => Some(&variable["value"]),
        };
        let value = value.map(text).unwrap_or_default();
        format!("{}={value}", text(&variable["name"]))
    };
    all.into_iter().flatten().map(line).collect()
}

/// For good, as a kubelet does when nothing of it runs any more.
pub fn remove(connection: &mut Connection, path: &str) -> Result<(), String> {
    let (code, reply) =
        connection.request("DELETE", &format!("{path}?gracePeriodSeconds=0"), None)?;
    match code {
        200 | 404 => Ok(()),
        _ => Err(format!(
            "DELETE {path}: {}",
            String::from_utf8_lossy(&reply)
        )),
    }
}
