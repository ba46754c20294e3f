//! The cluster: everything that runs, and a way to run a program in a pod.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::api::Api;
use crate::command::{find, output};
use crate::control_plane::{ControlPlane, Reach, kubectl};
use crate::e2e::client::{Client, Found};
use crate::e2e::container::write;
use crate::e2e::kubelet::{Kubelet, Settings, View};
use crate::e2e::network::{self, HERE, NODES};
use crate::e2e::questions;
use crate::paths;
use crate::server::Running;

/// Service `kube-dns`, as kubeadm and every kubelet have it.
pub const DNS: &str = "10.96.0.10";

/// How long the cluster may take to become what it was told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Becomes the command, with the files of a pod.
const IN_POD: &str =
    r#"mount --bind "$1" /etc/resolv.conf; mount --bind "$2" /etc/hosts; shift 2; exec "$@""#;

/// Names outside the cluster. All others are denied.
const ROOT_ZONE: &str = "\
. 60 SOA a.invalid. b.invalid. 1 3600 600 86400 60
. 60 NS a.invalid.
example.com. 60 A 192.0.2.10
www.example.com. 60 A 192.0.2.11
";

/// The cluster.
pub struct Bed {
    pub folder: PathBuf,
    pub control_plane: ControlPlane,
    pub api: Api,
    pub kubelet: Kubelet,
    // They run as long as the bed does.
    _running: Vec<Running>,
}

impl Bed {
    /// Starts it in this network namespace, and waits until two replicas of the image are ready.
    pub fn start(folder: &Path, image: PathBuf) -> Result<Self, String> {
        network::build()?;
        let upstream = start_upstream(&folder.join("upstream"))?;
        let reach = Reach::Cluster(HERE);
        let control_plane = ControlPlane::start_for(reach, &folder.join("control-plane"))?;
        let mut running = start_controllers(&control_plane, folder)?;
        running.push(upstream);
        let api = Api::of(&control_plane)?;
        let settings = Settings {
            api: api.clone(),
            authority: control_plane.authority(),
            folder: folder.join("pods"),
            image,
        };
        let bed = Self {
            folder: folder.to_owned(),
            api,
            kubelet: Kubelet::start(settings),
            control_plane,
            _running: running,
        };
        bed.load()?;
        bed.wait_for_replicas(&[])?;
        bed.wait_for_rules()?;
        Ok(bed)
    }

    /// The objects of `deploy/base`, and what the pods ask for.
    fn load(&self) -> Result<(), String> {
        self.kubectl(&["apply", "--server-side", "-f"], &objects())?;
        for slice in questions::slices() {
            self.demand(
                "POST",
                "/apis/discovery.k8s.io/v1/namespaces/apps/endpointslices",
                Some(&slice),
            )?;
        }
        let base = paths::root().join("deploy/base");
        self.kubectl(&["apply", "--server-side", "-k"], &base)?;
        // Nobody scales here.
        let two = json!({"spec": {"replicas": 2}});
        self.demand("PATCH", DEPLOYMENT, Some(&two)).map(drop)
    }

    /// Waits until both nodes know the way to both replicas, for UDP and TCP.
    fn wait_for_rules(&self) -> Result<(), String> {
        let replicas = self.kubelet.replicas();
        NODES.iter().try_for_each(|node| {
            self.wait_until("kube-proxy's rules", || {
                let mut list = node.command("nft");
                let rules = output(list.args(["list", "table", "ip", "kube-proxy"]))?;
                let is_there = |(_, view): &(String, View)| {
                    rules.matches(&format!(": {} . 53", view.address)).count() == 2
                };
                match replicas.iter().all(is_there) {
                    true => Ok(()),
                    false => Err(rules),
                }
            })
        })
    }

    /// One request to the API server, which must succeed.
    pub fn demand(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        self.api.connect()?.demand(method, path, body)
    }

    /// Has all pods of the Deployment replaced, as `kubectl rollout restart` does.
    pub fn roll(&self, round: u32) -> Result<(), String> {
        let annotations = json!({"e2e/round": round.to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        self.demand("PATCH", DEPLOYMENT, Some(&patch)).map(drop)
    }

    /// Waits until there are two replicas, all ready, and none of those named before.
    pub fn wait_for_replicas(&self, before: &[String]) -> Result<(), String> {
        self.wait_until("two replicas to be ready", || {
            let replicas = self.kubelet.replicas();
            let settled = |(name, view): &(String, View)| {
                view.is_ready && !view.is_stopping && !before.contains(name)
            };
            match replicas.len() == 2 && replicas.iter().all(settled) {
                true => Ok(()),
                false => Err(format!("{replicas:?}")),
            }
        })
    }

    /// Deletes a pod and waits until it is gone; returns what makes it again.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<Value, String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let mut pod = self.demand("GET", &path, None)?;
        self.demand("DELETE", &path, None)?;
        self.wait_until("the pod to be gone", || match self.pod(name) {
            Ok(view) => Err(format!("{view:?}")),
            Err(_) => Ok(()),
        })?;
        let mut metadata = json!({});
        for field in ["name", "namespace", "labels", "annotations"] {
            metadata[field] = pod["metadata"][field].take();
        }
        let spec = pod["spec"].take();
        Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
    }

    fn kubectl(&self, words: &[&str], path: &Path) -> Result<(), String> {
        let plane = &self.control_plane;
        let mut command = kubectl(plane.programs(), plane.kubeconfig());
        output(command.args(words).arg(path)).map(drop)
    }

    /// Waits until it holds; an error says what was seen last.
    pub fn wait_until(
        &self,
        what: &str,
        mut holds: impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            match holds() {
                Ok(()) => return Ok(()),
                Err(last) if Instant::now() > end => {
                    let troubles = self.kubelet.troubles().join("; ");
                    return Err(format!("waited for {what}; last: {last} {troubles}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// A pod by its name.
    pub fn pod(&self, name: &str) -> Result<View, String> {
        let mut pods = self.kubelet.pods();
        pods.remove(name)
            .ok_or_else(|| format!("there is no pod {name}"))
    }

    /// A program in a pod, with the files that a kubelet gives it.
    pub fn within(&self, pod: &str, program: &Path) -> Result<Command, String> {
        let view = self.pod(pod)?;
        let folder = self.folder.join("pods").join(pod);
        let resolv_conf = folder.join("resolv.conf");
        let namespace = &view.namespace;
        write(
            &resolv_conf,
            &format!(
                "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {DNS}\noptions ndots:5\n"
            ),
        )?;
        let mut command = network::within(&view.network, "unshare");
        command
            .args(["--mount", "sh", "-ec", IN_POD, "sh"])
            .arg(resolv_conf)
            .arg(folder.join("hosts"))
            .arg(program);
        Ok(command)
    }

    /// What a client in a pod finds.
    pub fn find(&self, client: Client, pod: &str, name: &str) -> Result<Found, String> {
        let is_address = name.parse::<std::net::Ipv4Addr>().is_ok();
        // The pod is there for as long as the bed.
        self.pod(pod)?;
        let clients = self.folder.join("clients");
        client.find(&clients, name, is_address, |program| {
            self.within(pod, program)
                .unwrap_or_else(|_| Command::new("false"))
        })
    }

    /// What `dig` prints in a pod: the records of the answer alone, sorted.
    pub fn dig(&self, pod: &str, words: &[&str]) -> Result<Found, String> {
        let mut dig = self.within(pod, Path::new("dig"))?;
        dig.args(["+short", "+search", "+tries=1", "+time=3"])
            .args(words);
        let said = output(&mut dig)?;
        let mut lines: Found = said.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }
}

fn objects() -> PathBuf {
    paths::root().join("xtask/src/e2e/cluster.yaml")
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kube-system/deployments/fingerpost";

fn start_upstream(folder: &Path) -> Result<Running, String> {
    let text = format!(
        "server:\n    listen: {HERE}@53\n    rundir: {0}\ndatabase:\n    storage: {0}\n\
         template:\n  - id: default\n    storage: {0}\n    journal-content: none\n    zonefile-sync: -1\n    zonefile-load: whole\n\
         zone:\n  - domain: .\n    file: root.db\n",
        folder.display()
    );
    write(&folder.join("knot.conf"), &text)?;
    write(&folder.join("root.db"), ROOT_ZONE)?;
    let knotd = find("knotd").ok_or("there is no `knotd`")?;
    let mut command = Command::new(knotd);
    command.arg("-c").arg(folder.join("knot.conf"));
    Running::start(&mut command, &folder.join("log"))
}

/// kube-controller-manager here, and a kube-proxy on each node.
fn start_controllers(control_plane: &ControlPlane, folder: &Path) -> Result<Vec<Running>, String> {
    let programs = control_plane.programs();
    let mut command = Command::new(programs.join("kube-controller-manager"));
    command
        .arg("--kubeconfig")
        .arg(control_plane.kubeconfig())
        .args(["--leader-elect=false", "--secure-port=0"])
        .arg("--controllers=endpointslice-controller,deployment-controller,replicaset-controller");
    let mut running = vec![Running::start(
        &mut command,
        &folder.join("kube-controller-manager.log"),
    )?];
    let api = Api::of(control_plane)?;
    for node in NODES {
        let (name, address) = (node.name(), node.address());
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        let mut connection = api.connect()?;
        connection.demand("POST", "/api/v1/nodes", Some(&object))?;
        connection.demand(
            "PATCH",
            &format!("/api/v1/nodes/{name}/status"),
            Some(&status),
        )?;
        let mut command = node.command(programs.join("kube-proxy"));
        command
            .arg("--kubeconfig")
            .arg(control_plane.kubeconfig())
            .args([
                "--proxy-mode=nftables",
                "--cluster-cidr=10.244.0.0/16",
                // These are the machine's, not the namespace's.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
                "--v=2",
            ]);
        command.arg(format!("--hostname-override={name}"));
        let log = folder.join(format!("kube-proxy-{name}.log"));
        running.push(Running::start(&mut command, &log)?);
    }
    Ok(running)
}
