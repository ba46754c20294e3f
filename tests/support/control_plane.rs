//! A real etcd and a real kube-apiserver on loopback, for the tests of one binary.
//!
//! Their programs come from `KUBEBUILDER_ASSETS`, else from `target/control-plane/bin`, where `cargo xtask` puts them.
//! They end with the process that started them, however it ends: a shell stands over each and kills it when our end of
//! a pipe is closed.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test binary uses a part of it"
)]

#[allow(clippy::duplicate_mod, reason = "a test may have both of its users")]
#[path = "free_port.rs"]
mod port;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// An API server takes 5 to 8 s on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The token with all rights.
pub const ADMIN: &str = "test-admin";

/// The two of them.
pub struct ControlPlane {
    programs: PathBuf,
    folder: PathBuf,
    etcd_port: u16,
    port: u16,
    wrapper: Vec<String>,
    api_server: Mutex<Option<Guarded>>,
    etcd: Mutex<Option<Guarded>>,
    runtime: Runtime,
}

/// A program under the eyes of a shell.
struct Guarded {
    shell: Child,
}

impl Guarded {
    /// `remains` is a folder to remove at the end, unless there is a file `keep` in it.
    fn start(command: &[String], log: &Path, remains: Option<&Path>) -> Self {
        let script = r#"log=$1; remains=$2; shift 2
            "$@" </dev/null >"$log" 2>&1 & child=$!
            echo $child >"$log.pid"
            cat >/dev/null
            kill -9 $child; wait $child
            test -z "$remains" || test -e "$remains/keep" || rm -rf "$remains""#;
        let shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(log)
            .arg(remains.unwrap_or(Path::new("")))
            .args(command)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        Self { shell }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Where the programs are; none, and a line that says how to get them, if they are nowhere.
pub fn programs() -> Option<PathBuf> {
    let folder = match std::env::var_os("KUBEBUILDER_ASSETS").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/control-plane/bin"),
    };
    if folder.join("etcd").is_file() && folder.join("kube-apiserver").is_file() {
        return Some(folder);
    }
    eprintln!(
        "skipped: no etcd and kube-apiserver in `{}`; run `cargo xtask test`, which builds them, or set \
         KUBEBUILDER_ASSETS",
        folder.display()
    );
    None
}

impl ControlPlane {
    /// Starts both and waits until they are ready; none if there are no programs. Each command is put behind `wrapper`
    /// (`ip netns exec NAME`, say).
    pub fn start(wrapper: &[&str]) -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new()
            .prefix("fingerpost-")
            .tempdir()
            .unwrap()
            .keep();
        std::fs::write(
            folder.join("tokens.csv"),
            format!("{ADMIN},admin,admin,\"system:masters\"\n"),
        )
        .unwrap();
        let key = folder.join("service-account.key");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .output();
        assert!(made.expect("openssl is installed").status.success());
        let wrapper: Vec<String> = wrapper.iter().map(|&word| word.to_owned()).collect();
        let etcd_port = free_port();
        let plane = Self {
            programs,
            folder,
            etcd_port,
            port: free_port(),
            wrapper,
            api_server: Mutex::new(None),
            etcd: Mutex::new(None),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
        };
        plane.start_etcd();
        plane.start_api_server();
        Some(plane)
    }

    fn start_etcd(&self) {
        let command = etcd_command(&self.wrapper, &self.programs, &self.folder, self.etcd_port);
        let started = Guarded::start(&command, &self.folder.join("etcd.log"), Some(&self.folder));
        *self.etcd.lock().unwrap() = Some(started);
    }

    /// Copies etcd's data as they are now. It stands still meanwhile.
    pub fn save_data(&self) {
        let pid = std::fs::read_to_string(self.folder.join("etcd.log.pid")).unwrap();
        let script = r#"kill -STOP "$1" && cp -a "$2" "$3"; done=$?; kill -CONT "$1"; exit $done"#;
        let status = Command::new("sh")
            .args(["-c", script, "sh", pid.trim()])
            .args([self.folder.join("etcd"), self.folder.join("etcd.saved")])
            .status();
        assert!(status.unwrap().success());
    }

    /// Ends both and starts them with the data of [`ControlPlane::save_data`], as after a restore from a backup.
    pub fn restore_data(&self) {
        self.kill_api_server();
        let keep = self.folder.join("keep");
        std::fs::write(&keep, "").unwrap();
        *self.etcd.lock().unwrap() = None;
        std::fs::remove_file(keep).unwrap();
        let data = self.folder.join("etcd");
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(self.folder.join("etcd.saved"), &data).unwrap();
        self.start_etcd();
        self.start_api_server();
    }

    /// Starts the API server, on the port it always has.
    pub fn start_api_server(&self) {
        let log = self.folder.join("kube-apiserver.log");
        let started = Guarded::start(&self.api_server_command(), &log, None);
        *self.api_server.lock().unwrap() = Some(started);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let in_vain = Instant::now() >= deadline || said.contains("\"command failed\"");
            assert!(!in_vain, "kube-apiserver is not ready:\n{said}");
            self.runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(100)).await });
        }
    }

    /// Kills the API server, as a node that loses power would.
    pub fn kill_api_server(&self) {
        *self.api_server.lock().unwrap() = None;
    }

    fn is_ready(&self) -> bool {
        // The certificate is made by the server itself.
        self.authority().is_file()
            && [
                "/readyz",
                "/api/v1/namespaces/default",
                "/api/v1/namespaces/kube-system",
            ]
            .iter()
            .all(|path| self.try_request(&Method::GET, path, None).is_ok())
    }

    fn api_server_command(&self) -> Vec<String> {
        let folder = self.folder.display();
        let key = format!("{folder}/service-account.key");
        let own = [
            self.programs.join("kube-apiserver").display().to_string(),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={folder}/certificates"),
            format!("--token-auth-file={folder}/tokens.csv"),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/108".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // In a network namespace without a route it would find none, and give up.
            "--advertise-address=192.0.2.1".to_owned(),
            // The EndpointSlice of Service `kubernetes` comes from whoever loads objects.
            "--endpoint-reconciler-type=none".to_owned(),
        ];
        self.wrapper.iter().cloned().chain(own).collect()
    }

    /// Host and port of the API server.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with the certificate that its own is verified by.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    /// A folder that goes away with the control plane.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a kubeconfig with all rights; its context is called `test`.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.folder.join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.host()),
                "certificate-authority": self.authority(),
            }}],
            "users": [{"name": "admin", "user": {"token": ADMIN}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    /// The same, for what may fail.
    pub fn try_request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<String, kube::Error> {
        let request = self.request_of(method, path, body);
        self.runtime
            .block_on(async { self.client().request_text(request).await })
    }

    fn request_of(&self, method: &Method, path: &str, body: Option<&Value>) -> Request<Vec<u8>> {
        let content = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(
                body.map(|body| body.to_string().into_bytes())
                    .unwrap_or_default(),
            )
            .unwrap()
    }

    /// A client with all rights. Only within the runtime.
    fn client(&self) -> Client {
        let mut config = Config::new(format!("https://{}", self.host()).parse().unwrap());
        config.root_cert_file = Some(self.authority());
        config.default_retry = false;
        config.headers.push((
            "authorization".parse().unwrap(),
            format!("Bearer {ADMIN}").parse().unwrap(),
        ));
        Client::try_from(config).unwrap()
    }

    /// Asks with all rights.
    #[track_caller]
    pub fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        match self.try_request(&method, path, body) {
            Ok(text) => serde_json::from_str(&text).unwrap(),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// Creates an object.
    #[track_caller]
    pub fn create(&self, object: &Value) {
        self.request(Method::POST, &collection(object), Some(object));
    }

    /// Deletes an object.
    #[track_caller]
    pub fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.request(
            Method::DELETE,
            &format!("{}/{name}", collection(object)),
            None,
        );
    }

    /// Creates all objects of a List, namespaces first; those that exist already are changed.
    pub fn load(&self, list: &Value) {
        let items = list["items"].as_array().expect("a List has items");
        let rank = |item: &Value| {
            ["Namespace", "Service"]
                .iter()
                .position(|kind| item["kind"] == *kind)
                .unwrap_or(2)
        };
        for wanted in 0..3 {
            let wave = items.iter().filter(|item| rank(item) == wanted);
            self.runtime.block_on(async {
                let client = self.client();
                for chunk in wave.collect::<Vec<_>>().chunks(16) {
                    let puts = chunk.iter().map(|item| self.put(&client, item));
                    futures_util::future::join_all(puts).await;
                }
            });
        }
    }

    async fn put(&self, client: &Client, item: &Value) {
        let path = collection(item);
        let one = format!("{path}/{}", item["metadata"]["name"].as_str().unwrap());
        let send = |method: Method, path: &str, body: Option<&Value>| {
            client.request_text(self.request_of(&method, path, body))
        };
        let mut bare = item.clone();
        bare.as_object_mut().unwrap().remove("status");
        let mut outcome = send(Method::POST, &path, Some(&bare)).await;
        if matches!(&outcome, Err(kube::Error::Api(status)) if status.code == 409) {
            outcome = send(Method::PATCH, &one, Some(&bare)).await;
        }
        outcome.unwrap_or_else(|error| panic!("{one}: {error}"));
        // The status of a Pod is a resource of its own.
        if let Some(status) = item.get("status") {
            let patch = json!({ "status": status });
            let patched = send(Method::PATCH, &format!("{one}/status"), Some(&patch)).await;
            patched.unwrap_or_else(|error| panic!("{one}/status: {error}"));
        }
    }

    /// Creates the objects of a YAML file with several documents.
    pub fn apply(&self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        self.load(&json!({ "items": documents }));
    }

    /// A token for a service account, valid for an hour.
    pub fn token(&self, namespace: &str, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}
        });
        let made = self.request(Method::POST, &path, Some(&asked));
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Writes `token` and `ca.crt` as a pod finds them.
    pub fn write_account(&self, folder: &Path, token: &str) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
        std::fs::copy(self.authority(), folder.join("ca.crt")).unwrap();
    }
}

fn etcd_command(wrapper: &[String], programs: &Path, folder: &Path, port: u16) -> Vec<String> {
    let own = [
        programs.join("etcd").display().to_string(),
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    wrapper.iter().cloned().chain(own).collect()
}

/// A port that is free for UDP and TCP now.
pub fn free_port() -> u16 {
    port::find().unwrap()
}

/// Where objects of this kind are created.
fn collection(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version.contains('/') { "apis" } else { "api" };
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{kind}s"),
        None => format!("/{root}/{version}/{kind}s"),
    }
}
