//! Modules point one way: who may know whom, read from the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What no line of a layer's code may hold. The layer may name the modules it stands on, and nothing above.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "wire",
        &[
            "crate::net",
            "crate::zone",
            "crate::chain",
            "crate::plugin",
            "crate::cluster",
            "crate::corefile",
            "crate::server",
            "crate::telemetry",
            "tokio",
            "std::time",
            "Socket",
            "Stream",
            "std::thread",
            "std::sync",
            "std::fs",
        ],
    ),
    (
        "corefile",
        &[
            "crate::plugin",
            "crate::net",
            "crate::zone",
            "crate::chain",
            "crate::cluster",
            "crate::server",
            "tokio",
        ],
    ),
    (
        "cluster",
        &[
            "crate::wire::query",
            "crate::wire::writer",
            "crate::wire::record",
            "crate::wire::edns",
            "crate::chain",
            "crate::zone",
            "crate::plugin",
            "crate::net",
        ],
    ),
    ("zone", &["crate::plugin", "crate::net", "crate::cluster"]),
    ("chain", &["crate::plugin", "crate::net", "crate::cluster"]),
    ("plugin", &["crate::net"]),
    ("telemetry", &["crate::plugin", "crate::net"]),
    (
        "net",
        &["crate::plugin", "crate::cluster", "crate::corefile"],
    ),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file: no comments, nothing from its tests on, grouped imports written out (`a::{b, c}` as `a::b`,
/// `a::c`), one item or statement a line.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("sources are text");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let bare: Vec<_> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().trim())
        .collect();
    let mut written_out = String::new();
    for statement in bare.join(" ").split_inclusive(';') {
        written_out.push_str(statement);
        written_out.push('\n');
        if let Some((root, group)) = statement.split_once("crate::{") {
            let root = root.split_whitespace().next_back().unwrap_or_default();
            for item in group.split(['{', '}', ',']).map(str::trim) {
                written_out.push_str(&format!("{root} crate::{item}\n"));
            }
        }
    }
    written_out
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn no_layer_knows_one_above_it() {
    let mut faults = Vec::new();
    for (layer, forbidden) in LAYERS {
        for path in sources(&source_folder().join(layer)) {
            let code = code(&path);
            for word in *forbidden {
                if code.contains(word) {
                    faults.push(format!("{} knows `{word}`", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_plugin_knows_another() {
    let folder = source_folder().join("plugin");
    let plugins: BTreeSet<_> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.join("mod.rs").is_file())
        .map(|path| path.file_name().expect("a folder has a name").to_owned())
        .filter_map(|name| name.into_string().ok())
        .collect();
    let mut faults = Vec::new();
    for plugin in &plugins {
        for path in sources(&folder.join(plugin)) {
            let code = code(&path);
            for other in plugins.iter().filter(|&other| other != plugin) {
                let exact = [";", "::", " ", ",", "}", "("];
                if exact
                    .iter()
                    .any(|end| code.contains(&format!("crate::plugin::{other}{end}")))
                {
                    faults.push(format!("{} knows `{other}`", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let with_unsafe: Vec<_> = sources(&source_folder())
        .into_iter()
        .filter(|path| code(path).contains("unsafe {"))
        .map(|path| {
            let inside = path.strip_prefix(source_folder()).expect("found there");
            inside.display().to_string()
        })
        .collect();
    assert_eq!(with_unsafe, ["net/batch.rs"]);
}

/// The files that read the wall clock. It may jump by years; what waits, expires or measures goes by `Instant`, which
/// may not.
const WALL_CLOCK: &[&str] = &[
    // The SOA's serial.
    "cluster/serial.rs",
    // Time stamps of objects, and the histogram that they are for.
    "cluster/store.rs",
    "cluster/store/service.rs",
    "cluster/trigger.rs",
    "plugin/kubernetes/status.rs",
    // A metric that is a time of day.
    "cluster/watch/metrics.rs",
    // The age of a file that another run has left. Where it seems to come from the future it counts as new.
    "cluster/mod.rs",
    "cluster/snapshot/file.rs",
    "cluster/snapshot/format.rs",
    "cluster/snapshot/keeper.rs",
    "cluster/snapshot/metrics.rs",
    // An Event says when it was.
    "cluster/events/mod.rs",
    // A cookie's age, which replicas compare.
    "plugin/cookie/mod.rs",
    // Signatures are valid from and to a time of day.
    "plugin/cache/mod.rs",
    "plugin/log/class.rs",
    // A file's time of change, compared for equality.
    "plugin/hosts/file.rs",
];

#[test]
fn the_wall_clock_is_read_where_a_jump_does_no_harm() {
    let root = source_folder();
    let is_of_tests = |path: &PathBuf| {
        path.iter()
            .any(|part| part.to_string_lossy().starts_with("test"))
    };
    for path in sources(&root) {
        let file = path.strip_prefix(&root).expect("below it").to_owned();
        if is_of_tests(&file) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("sources are text");
        let reads = text
            .lines()
            .any(|line| line.contains("SystemTime") && !line.trim().starts_with("//"));
        let file = file.display().to_string();
        let may = WALL_CLOCK.contains(&file.as_str());
        assert!(may || !reads, "{file} reads the wall clock");
        assert!(
            reads || !may,
            "{file} does not read the wall clock any more"
        );
    }
}
