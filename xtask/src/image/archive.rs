//! An OCI image layout as one tar file: blobs by their SHA-256, a manifest for each machine, and an index that names them.
//!
//! Every document is written with its keys in order, so the same content gives the same octets and the same digests.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::elf::Machine;
use super::{Source, VERSION, layer};

const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Nobody's user and group, the same as in CoreDNS' image. By number: with `runAsNonRoot` the kubelet must see that it is
/// not root, and there is no passwd file to look in.
const USER: &str = "65532:65532";

/// An image that is being put together.
pub struct Archive {
    name: String,
    commit: Option<String>,
    date: Option<String>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

impl Archive {
    /// Without any machine yet.
    pub fn new(name: &str, source: &Source) -> Self {
        let date = source.date.and_then(|date| i64::try_from(date).ok());
        let date = date.and_then(|date| jiff::Timestamp::from_second(date).ok());
        Self {
            name: name.to_owned(),
            commit: source.commit.clone(),
            date: date.map(|date| date.to_string()),
            blobs: BTreeMap::new(),
            manifests: Vec::new(),
        }
    }

    /// Adds the image of one machine, of this layer alone.
    pub fn add(&mut self, machine: Machine, layer: &[u8]) -> Result<(), String> {
        let platform = json!({"architecture": machine.name(), "os": "linux"});
        if self
            .manifests
            .iter()
            .any(|other| other["platform"] == platform)
        {
            return Err(format!("two programs are for {}", machine.name()));
        }
        let configuration = self.configuration(machine, &digest(layer));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.keep(CONFIGURATION, octets(&configuration)),
            "layers": [self.keep(LAYER, compressed(layer)?)],
            "annotations": self.labels(),
        });
        let mut descriptor = self.keep(MANIFEST, octets(&manifest));
        descriptor["platform"] = platform;
        self.manifests.push(descriptor);
        Ok(())
    }

    /// The tar file, and the digest that a registry will know the image by.
    pub fn finish(mut self) -> Result<(Vec<u8>, String), String> {
        // An index of one would only be one more thing that a reader may not know.
        let mut top = match &self.manifests[..] {
            [only] => only.clone(),
            several => {
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": several});
                self.keep(INDEX, octets(&index))
            }
        };
        let (reference, tag) = reference(&self.name)?;
        top["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": tag,
        });
        let digest = top["digest"].as_str().unwrap_or_default().to_owned();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});
        let archive = self.write(&index);
        let archive = archive.map_err(|error| format!("the image's archive: {error}"))?;
        Ok((archive, digest))
    }

    fn write(&self, index: &Value) -> std::io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        let mut file = |path: &str, content: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            header.set_mtime(0);
            tar.append_data(&mut header, path, content)
        };
        file(
            "oci-layout",
            &octets(&json!({"imageLayoutVersion": "1.0.0"})),
        )?;
        file("index.json", &octets(index))?;
        for (name, content) in &self.blobs {
            file(&format!("blobs/sha256/{name}"), content)?;
        }
        tar.into_inner()
    }

    fn configuration(&self, machine: Machine, layer: &str) -> Value {
        let mut configuration = json!({
            "architecture": machine.name(),
            "os": "linux",
            "config": {
                "User": USER,
                "WorkingDir": "/",
                "Entrypoint": [format!("/{}", layer::PROGRAM)],
                "ExposedPorts": {"53/tcp": {}, "53/udp": {}, "9153/tcp": {}},
                "Labels": self.labels(),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created_by": "cargo xtask image"}],
        });
        if let Some(date) = &self.date {
            configuration["created"] = json!(date);
            configuration["history"][0]["created"] = json!(date);
        }
        configuration
    }

    /// The names that the specification lays down for annotations, which labels use too.
    fn labels(&self) -> BTreeMap<&'static str, String> {
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.title", "fingerpost".to_owned()),
            ("org.opencontainers.image.version", VERSION.to_owned()),
            ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
            (
                "org.opencontainers.image.description",
                "a cluster DNS server".to_owned(),
            ),
        ]);
        if let Some(commit) = &self.commit {
            labels.insert("org.opencontainers.image.revision", commit.clone());
        }
        if let Some(date) = &self.date {
            labels.insert("org.opencontainers.image.created", date.clone());
        }
        labels
    }

    /// Takes a blob in and returns its descriptor.
    fn keep(&mut self, kind: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor = json!({"mediaType": kind, "digest": digest, "size": content.len()});
        let hex = digest.trim_start_matches("sha256:").to_owned();
        self.blobs.insert(hex, content);
        descriptor
    }
}

/// How OCI names content.
pub fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn octets(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

/// gzip without a name or a time in its header.
fn compressed(layer: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    encoder
        .write_all(layer)
        .and_then(|()| encoder.finish())
        .map_err(|error| format!("the image's layer: {error}"))
}

/// The full reference of a short name, as containerd writes it, and its tag.
fn reference(name: &str) -> Result<(String, &str), String> {
    let tag = match name.rsplit_once(':') {
        Some((_, tag)) if !tag.is_empty() && !tag.contains('/') => tag,
        _ => return Err(format!("`{name}` has no tag: NAME:TAG")),
    };
    let full = match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    };
    Ok((full, tag))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use serde_json::Value;

    use super::{Archive, Machine, Source, digest, reference};

    fn source() -> Source {
        Source {
            commit: Some("0123abc".into()),
            date: Some(1_700_000_000),
        }
    }

    fn archive(machines: &[Machine]) -> (Vec<u8>, String) {
        let mut archive = Archive::new("fingerpost:1", &source());
        for &machine in machines {
            archive
                .add(machine, machine.name().as_bytes())
                .expect("it compresses");
        }
        archive.finish().expect("memory takes it")
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("a tar file");
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("in memory");
            (path, content)
        };
        entries.map(read).collect()
    }

    fn blob(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Vec<u8> {
        let name = descriptor["digest"].as_str().expect("a digest");
        let path = format!("blobs/{}", name.replace(':', "/"));
        let content = files.get(&path).expect("each descriptor has its blob");
        assert_eq!(digest(content), name);
        assert_eq!(descriptor["size"], content.len());
        content.clone()
    }

    fn document(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
        serde_json::from_slice(&blob(files, descriptor)).expect("JSON")
    }

    #[test]
    fn the_same_content_gives_the_same_archive() {
        assert_eq!(archive(&[Machine::Amd64]), archive(&[Machine::Amd64]));
        assert_ne!(archive(&[Machine::Amd64]).1, archive(&[Machine::Arm64]).1);
    }

    #[test]
    fn a_runtime_finds_user_entry_point_and_layer() {
        let (octets, name) = archive(&[Machine::Amd64]);
        let files = files(&octets);
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("JSON");
        let top = &index["manifests"][0];
        assert_eq!(top["digest"], name);
        assert_eq!(
            top["annotations"]["io.containerd.image.name"],
            "docker.io/library/fingerpost:1"
        );
        let manifest = document(&files, top);
        let configuration = document(&files, &manifest["config"]);
        assert_eq!(configuration["created"], "2023-11-14T22:13:20Z");
        assert_eq!(configuration["config"]["User"], "65532:65532");
        assert_eq!(configuration["config"]["Entrypoint"][0], "/fingerpost");
        let compressed = blob(&files, &manifest["layers"][0]);
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_end(&mut layer)
            .expect("gzip");
        assert_eq!(layer, b"amd64");
        assert_eq!(configuration["rootfs"]["diff_ids"][0], digest(&layer));
    }

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let dockerfile = include_str!("../../../deploy/Dockerfile");
        let source = Source::default();
        let image = Archive::new("fingerpost:1", &source).configuration(Machine::Amd64, "");
        let config = &image["config"];
        let text = |key: &str| config[key].as_str().expect("a text").to_owned();
        for line in [
            format!("USER {}", text("User")),
            format!("WORKDIR {}", text("WorkingDir")),
            format!("ENTRYPOINT {}", config["Entrypoint"]),
            "EXPOSE 53/udp 53/tcp 9153/tcp".to_owned(),
        ] {
            assert!(dockerfile.lines().any(|found| found == line), "{line}");
        }
        let exposed = config["ExposedPorts"].as_object().expect("ports");
        assert_eq!(exposed.len(), 3);
    }

    #[test]
    fn an_image_of_two_machines_is_found_by_each() {
        let (octets, _) = archive(&[Machine::Amd64, Machine::Arm64]);
        let files = files(&octets);
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("JSON");
        let inner = document(&files, &index["manifests"][0]);
        for (at, name) in ["amd64", "arm64"].into_iter().enumerate() {
            let descriptor = &inner["manifests"][at];
            assert_eq!(descriptor["platform"]["architecture"], name);
            let manifest = document(&files, descriptor);
            let configuration = document(&files, &manifest["config"]);
            assert_eq!(configuration["architecture"], name);
        }
        let mut twice = Archive::new("fingerpost:1", &source());
        twice.add(Machine::Amd64, b"a").expect("the first");
        assert!(twice.add(Machine::Amd64, b"b").is_err());
    }

    #[test]
    fn short_names_become_the_references_that_containerd_knows() {
        for (name, full) in [
            ("fingerpost:1", Some("docker.io/library/fingerpost:1")),
            ("team/fingerpost:1", Some("docker.io/team/fingerpost:1")),
            ("localhost:5000/f:1", Some("localhost:5000/f:1")),
            ("registry.example/f:1", Some("registry.example/f:1")),
            ("fingerpost", None),
            ("localhost:5000/f", None),
        ] {
            let found = reference(name).ok().map(|(full, _)| full);
            assert_eq!(found.as_deref(), full, "{name}");
        }
    }
}
