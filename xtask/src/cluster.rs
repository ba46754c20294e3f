//! `cluster up|load|down`: a control plane for a person to play with.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::succeeds;
use crate::control_plane::{self, ControlPlane, kubectl};
use crate::{paths, provision};

fn home() -> PathBuf {
    paths::target().join("cluster")
}

/// Starts it, unless it runs.
pub fn up() -> Result<(), String> {
    let pids = home().join("pids");
    if pids.exists() {
        return Err("it is up already; `cargo xtask cluster down` stops it".into());
    }
    provision::programs()?;
    let control_plane = ControlPlane::start(&home())?;
    let kubeconfig = control_plane.kubeconfig().to_owned();
    let programs = control_plane.programs().to_owned();
    let ids = control_plane.leave();
    std::fs::write(&pids, format!("{} {}\n", ids[0], ids[1]))
        .map_err(|error| format!("{}: {error}", pids.display()))?;
    println!(
        "etcd and kube-apiserver are up (no nodes and no controllers: objects are what you load)\n"
    );
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  export PATH=$PATH:{}\n", programs.display());
    println!("  cargo xtask cluster load deploy/example\n");
    println!("a Corefile for it:\n");
    println!(
        ".:1053 {{\n    bind 127.0.0.1\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{"
    );
    println!("        kubeconfig {}", kubeconfig.display());
    println!("        pods insecure\n    }}\n}}");
    Ok(())
}

/// Stops what `up` started.
pub fn down() -> Result<(), String> {
    let path = home().join("pids");
    let text = std::fs::read_to_string(&path).map_err(|_| "it is not up".to_owned())?;
    for id in text.split_whitespace() {
        if !is_ours(id) {
            continue;
        }
        succeeds(Command::new("kill").arg(id));
        let end = Instant::now() + Duration::from_secs(20);
        while is_ours(id) {
            if Instant::now() > end {
                succeeds(Command::new("kill").args(["-9", id]));
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("stopped");
    Ok(())
}

/// A process ID is used again one day: only a program that works on our folder is ours to stop.
fn is_ours(id: &str) -> bool {
    let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains(&*home().to_string_lossy())
}

/// Puts the objects of a file, or of a folder of files, into it.
pub fn load(file: &Path) -> Result<(), String> {
    let kubeconfig = home().join("kubeconfig");
    if !home().join("pids").exists() {
        return Err("it is not up; `cargo xtask cluster up` starts it".into());
    }
    let count = load_into(&control_plane::programs()?, &kubeconfig, file)?;
    println!("loaded {count} objects");
    Ok(())
}

/// The file itself, or the files of a folder.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let entries = std::fs::read_dir(path).map_err(failed)?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

/// Applies the objects of YAML or JSON files on the server's side, status included: Namespaces first, then the rest.
pub fn load_into(programs: &Path, kubeconfig: &Path, file: &Path) -> Result<usize, String> {
    let mut objects = Vec::new();
    for file in files_of(file)? {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let read = read_objects(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        objects.extend(read);
    }
    let count = objects.len();
    let proxy = Proxy::start(programs, kubeconfig)?;
    let (first, rest) = objects
        .into_iter()
        .partition(|object| object["kind"] == "Namespace");
    proxy.apply_all(first)?;
    proxy.apply_all(rest)?;
    Ok(count)
}

/// The objects of several documents and Lists.
fn read_objects(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = match serde_json::from_str(text) {
        Ok(document) => vec![document],
        Err(_) => serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?,
    };
    let mut objects = Vec::new();
    for mut document in documents {
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => objects.extend(items),
            _ if document.is_null() => {}
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

/// Where objects of this kind live, and whether within a namespace.
fn resource(object: &Value) -> Result<String, String> {
    let name = object["metadata"]["name"]
        .as_str()
        .ok_or("an object without a name")?;
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default");
    let (group, plural) = match object["kind"].as_str() {
        Some("Namespace") => return Ok(format!("/api/v1/namespaces/{name}")),
        Some("Service") => ("/api/v1", "services"),
        Some("Pod") => ("/api/v1", "pods"),
        Some("EndpointSlice") => ("/apis/discovery.k8s.io/v1", "endpointslices"),
        kind => {
            return Err(format!(
                "`{}` is not a Namespace, Service, Pod or EndpointSlice",
                kind.unwrap_or("nothing")
            ));
        }
    };
    Ok(format!("{group}/namespaces/{namespace}/{plural}/{name}"))
}

/// `kubectl proxy`: the API server in plain HTTP on loopback, so that no TLS is needed here.
struct Proxy {
    child: std::process::Child,
    address: String,
}

impl Proxy {
    fn start(programs: &Path, kubeconfig: &Path) -> Result<Self, String> {
        let mut command = kubectl(programs, kubeconfig);
        command.args([
            "proxy",
            "--address=127.0.0.1",
            "--port=0",
            "--reject-methods=^$",
        ]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("kubectl: {error}"))?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("kubectl has no output")?;
        let read = BufReader::new(out).read_line(&mut line);
        let address = line
            .trim()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        let this = Self { child, address };
        match read {
            Ok(_) if this.address.contains(':') => Ok(this),
            _ => Err(format!("kubectl proxy said `{}`", line.trim())),
        }
    }

    fn apply_all(&self, objects: Vec<Value>) -> Result<(), String> {
        let queue = Mutex::new(objects.into_iter());
        let next = || queue.lock().expect("no thread panics with it").next();
        std::thread::scope(|scope| {
            let worker = || std::iter::from_fn(next).try_for_each(|object| self.apply(object));
            let workers: Vec<_> = (0..8).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("applying does not panic"))
        })
    }

    fn apply(&self, mut object: Value) -> Result<(), String> {
        let path = resource(&object)?;
        let (what, status) = (path.clone(), object["status"].take());
        if let Value::Object(fields) = &mut object {
            fields.remove("status");
        }
        if let Value::Object(metadata) = &mut object["metadata"] {
            // What the server that it came from wrote there.
            for field in [
                "resourceVersion",
                "uid",
                "creationTimestamp",
                "managedFields",
                "generation",
                "deletionTimestamp",
            ] {
                metadata.remove(field);
            }
        }
        let query = "?fieldManager=xtask&force=true";
        self.patch(
            &format!("{path}{query}"),
            "application/apply-patch+yaml",
            &object.to_string(),
        )
        .map_err(|error| format!("{what}: {error}"))?;
        if !status.is_object() || object["kind"] == "Namespace" {
            return Ok(());
        }
        let body = serde_json::json!({ "status": status }).to_string();
        self.patch(
            &format!("{path}/status"),
            "application/merge-patch+json",
            &body,
        )
        .map_err(|error| format!("{what}: {error}"))
    }

    fn patch(&self, path: &str, content_type: &str, body: &str) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(&self.address).map_err(text)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(text)?;
        let length = body.len();
        write!(
            stream,
            "PATCH {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            self.address
        )
        .map_err(text)?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).map_err(text)?;
        let reply = String::from_utf8_lossy(&reply);
        match reply.split(' ').nth(1) {
            Some("200" | "201") => Ok(()),
            _ => Err(reply
                .split("\r\n\r\n")
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned()),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::{read_objects, resource};

    #[test]
    fn objects_are_read_from_lists_and_from_several_documents() {
        let list = r#"{"kind":"List","items":[{"kind":"Namespace","metadata":{"name":"a"}},{"kind":"Pod","metadata":{"name":"p","namespace":"a"}}]}"#;
        let documents = "kind: Namespace\nmetadata:\n  name: a\n---\nkind: Pod\nmetadata:\n  name: p\n  namespace: a\n";
        for text in [list, documents] {
            let objects = read_objects(text).expect("both are objects");
            assert!(objects.iter().all(|object| object.get("items").is_none()));
            let paths: Vec<_> = objects
                .iter()
                .map(|object| resource(object).expect("known kinds"))
                .collect();
            assert_eq!(
                paths,
                ["/api/v1/namespaces/a", "/api/v1/namespaces/a/pods/p"],
                "{text}"
            );
        }
    }

    #[test]
    fn a_kind_that_dns_does_not_use_is_refused_by_name() {
        let objects = read_objects("kind: Secret\nmetadata: {name: s}\n").expect("it is YAML");
        assert!(
            resource(&objects[0])
                .expect_err("not one of ours")
                .contains("`Secret`")
        );
    }
}
