//! The bill of materials of a program: CycloneDX 1.6, from what cargo resolves for it.
//!
//! `scope` parts what is in the program ("required") from what only built it ("excluded": build scripts, procedural
//! macros and what they need). The digest of the program ties the bill to it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::archive::digest;
use super::elf::Machine;
use super::{Program, VERSION};
use crate::command::{cargo, output};
use crate::paths;

/// Name and version of a crate.
type Crate = (String, String);

/// The bill of a program with this content.
pub fn of(program: &Program, content: &[u8]) -> Result<Vec<u8>, String> {
    let machine = program.machine;
    let linked = tree(machine, "normal,no-proc-macro")?;
    let all = tree(machine, "normal,build")?;
    let metadata = metadata(machine)?;
    let lock = paths::root().join("Cargo.lock");
    let lock = std::fs::read_to_string(&lock).map_err(|error| format!("Cargo.lock: {error}"))?;
    let checksums = checksums(&lock);
    let packages: BTreeMap<Crate, &Value> = list(&metadata["packages"])
        .filter_map(|package| Some((identity(package)?, package)))
        .collect();
    let mut components = runtime(program, content);
    for of_tree in &all {
        let package = packages
            .get(of_tree)
            .ok_or_else(|| format!("cargo knows nothing of {}", purl(of_tree)))?;
        if of_tree.0 != "fingerpost" {
            let hash = checksums.get(of_tree).map(String::as_str);
            components.push(component(of_tree, package, linked.contains(of_tree), hash));
        }
    }
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "bom-ref": purl(&("fingerpost".into(), VERSION.into())),
            "name": "fingerpost",
            "version": VERSION,
            "licenses": [{"expression": "Apache-2.0"}],
            "hashes": [{"alg": "SHA-256", "content": digest(content).trim_start_matches("sha256:")}],
            "properties": [{"name": "cargo:target", "value": machine.target()}],
        }},
        "components": components,
        "dependencies": dependencies(&metadata, &all),
    });
    let mut text = serde_json::to_vec_pretty(&bill).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

/// What is linked beside the crates: the standard library, by the compiler's mark in the program, and the C library.
fn runtime(program: &Program, content: &[u8]) -> Vec<Value> {
    const MARK: &[u8] = b"rustc version ";
    let found = content
        .windows(MARK.len())
        .position(|window| window == MARK);
    let standard = found.map(|at| {
        let rest = content[at + MARK.len()..].iter();
        let is_number = |&&octet: &&u8| octet.is_ascii_digit() || octet == b'.';
        rest.take_while(is_number)
            .map(|&octet| char::from(octet))
            .collect::<String>()
    });
    [
        ("rust-std", standard, "MIT OR Apache-2.0"),
        ("glibc", program.c_library.clone(), "LGPL-2.1-or-later"),
    ]
    .into_iter()
    .filter_map(|(name, version, license)| {
        let version = version?;
        let purl = format!("pkg:generic/{name}@{version}");
        Some(json!({
            "type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version,
            "scope": "required", "licenses": [{"expression": license}],
        }))
    })
    .collect()
}

fn component(this: &Crate, package: &Value, is_linked: bool, checksum: Option<&str>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(this),
        "purl": purl(this),
        "name": this.0,
        "version": this.1,
        "scope": if is_linked { "required" } else { "excluded" },
    });
    if let Some(license) = package["license"].as_str() {
        // Older crates write `MIT/Apache-2.0`, which SPDX does not know.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(checksum) = checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

fn dependencies(metadata: &Value, all: &BTreeSet<Crate>) -> Vec<Value> {
    let ids: BTreeMap<&str, Crate> = list(&metadata["packages"])
        .filter_map(|package| Some((package["id"].as_str()?, identity(package)?)))
        .filter(|(_, this)| all.contains(this))
        .collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let Some(this) = node["id"].as_str().and_then(|id| ids.get(id)) else {
            continue;
        };
        let needs = list(&node["deps"])
            .filter(|edge| list(&edge["dep_kinds"]).any(|kind| kind["kind"] != "dev"))
            .filter_map(|edge| ids.get(edge["pkg"].as_str()?))
            .map(purl);
        edges.insert(purl(this), needs.collect());
    }
    edges
        .into_iter()
        .map(|(this, needs)| json!({"ref": this, "dependsOn": needs}))
        .collect()
}

/// What the program alone resolves to: `cargo metadata` mixes in what the rest of the workspace asks for.
fn tree(machine: Machine, edges: &str) -> Result<BTreeSet<Crate>, String> {
    let text = output(cargo().args([
        "tree",
        "--locked",
        "--package=fingerpost",
        "--edges",
        edges,
        "--target",
        machine.target(),
        "--prefix=none",
        "--format={p}",
    ]))?;
    Ok(text.lines().filter_map(crate_of_line).collect())
}

/// `foldhash v0.2.0 (*)` names a crate and its version.
fn crate_of_line(line: &str) -> Option<Crate> {
    let mut words = line.split(' ');
    let name = words.next()?.to_owned();
    let version = words.next()?.strip_prefix('v')?.to_owned();
    Some((name, version))
}

fn metadata(machine: Machine) -> Result<Value, String> {
    let target = machine.target();
    let text = output(cargo().args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        target,
    ]))?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// What `Cargo.lock` says that each crate's package hashes to.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches(['=', ' ', '"']).to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            let this = (value(block, "name ")?, value(block, "version ")?);
            Some((this, value(block, "checksum ")?))
        })
        .collect()
}

fn identity(package: &Value) -> Option<Crate> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    Some((text("name")?, text("version")?))
}

/// The name that all tools know a package by.
fn purl((name, version): &Crate) -> String {
    format!("pkg:cargo/{name}@{version}")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Machine, Program, checksums, crate_of_line, list, of};

    #[test]
    fn the_bill_names_what_is_in_the_program_and_what_only_built_it() {
        let program = Program {
            path: "program".into(),
            machine: Machine::Amd64,
            c_library: Some("2.36".into()),
        };
        let content = b"\0\x7frustc version 1.95.0 (59807616e 2026-04-14)\0";
        let text = of(&program, content).expect("cargo resolves its own checkout");
        let bill: Value = serde_json::from_slice(&text).expect("JSON");
        let scope = |name: &str| {
            let found = list(&bill["components"]).find(|component| component["name"] == name);
            found.map(|component| component["scope"].as_str().expect("a scope").to_owned())
        };
        assert_eq!(scope("tokio").as_deref(), Some("required"));
        assert_eq!(scope("ring").as_deref(), Some("required"));
        assert_eq!(scope("serde_derive").as_deref(), Some("excluded"));
        assert_eq!(scope("cc").as_deref(), Some("excluded"));
        // Tests and developer commands need these; the program does not.
        assert_eq!(scope("tempfile"), None);
        assert_eq!(scope("flate2"), None);
        let version = |name: &str| {
            let found = list(&bill["components"]).find(|component| component["name"] == name);
            found.map(|component| component["version"].clone())
        };
        assert_eq!(version("rust-std"), Some("1.95.0".into()));
        assert_eq!(version("glibc"), Some("2.36".into()));
        for component in list(&bill["components"]) {
            let purl = component["purl"].as_str().expect("a package URL");
            let is_crate = purl.starts_with("pkg:cargo/");
            let checksum = &component["hashes"][0]["content"];
            assert_eq!(is_crate, checksum.is_string(), "{purl}");
            assert!(component["licenses"][0].is_object(), "{component}");
        }
        let ours = list(&bill["dependencies"])
            .find(|edge| edge["ref"] == bill["metadata"]["component"]["bom-ref"]);
        let needs = &ours.expect("the program has dependencies")["dependsOn"];
        assert!(list(needs).any(|to| to.as_str().is_some_and(|to| to.contains("/tokio@"))));
    }

    #[test]
    fn checksums_are_those_of_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"a\"\n\
                    version = \"1.2.3\"\nsource = \"registry\"\nchecksum = \"0123\"\n";
        let found: Vec<_> = checksums(lock).into_iter().collect();
        assert_eq!(found, [(("a".into(), "1.2.3".into()), "0123".into())]);
        let this = crate_of_line("ring v0.17.14 (*)");
        assert_eq!(this, Some(("ring".into(), "0.17.14".into())));
    }
}
