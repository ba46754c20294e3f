use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use fingerpost::cluster::decode::{list_from_json, object_from_json};
use fingerpost::cluster::manifests::{Filter, load};
use fingerpost::cluster::objects::{Object, Resource};
use fingerpost::cluster::protobuf;
use fingerpost::cluster::{Cluster, Keep, ObjectSink};

use crate::fingerprint;

const ALL: [Resource; Resource::COUNT] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
    Resource::ServiceImports,
];

/// The first octet says what the rest is: a file of YAML or JSON, an object or a list from the API server in JSON or
/// protobuf, or an event of a watch.
pub fn run(data: &[u8]) -> u64 {
    let Some((form, rest)) = data.split_first() else {
        return 0;
    };
    let resource = ALL[usize::from(form / 8) % ALL.len()];
    match form % 8 {
        0 | 1 => file("yaml", rest),
        2 => file("json", rest),
        3 => {
            let object = object_from_json(resource, rest);
            taken_in(object.as_ref().ok());
            fingerprint(("json", object.map_err(|error| kind(&error.message)).is_ok()))
        }
        4 => {
            let mut objects = Vec::new();
            let mut faults = 0;
            let meta = list_from_json(resource, rest, &mut |object| match object {
                Ok(object) => objects.push(object),
                Err(_) => faults += 1,
            });
            taken_in(&objects);
            fingerprint(("list", objects.len(), faults, meta.is_ok()))
        }
        5 => {
            let mut objects = Vec::new();
            let mut faults = Vec::new();
            let page = protobuf::page(resource, rest, |object| match object {
                Ok(object) => objects.push(object),
                Err(fault) => faults.push(fault.0),
            });
            taken_in(&objects);
            fingerprint((
                "page",
                objects.len(),
                faults,
                page.map(drop).map_err(|fault| fault.0),
            ))
        }
        6 => {
            let event = protobuf::event(resource, rest);
            fingerprint((
                "event",
                event
                    .map(|event| std::mem::discriminant(&event))
                    .map_err(|fault| fault.0),
            ))
        }
        _ => {
            let mut count = 0;
            let page = protobuf::metadata_page(rest, |_| count += 1);
            let status = protobuf::status(rest).is_ok();
            fingerprint((
                "metadata",
                count,
                page.map(drop).map_err(|fault| fault.0),
                status,
            ))
        }
    }
}

thread_local! {
    static FOLDER: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// A file of `kubernetes { manifests }`. Its faults have a place within it and say something.
fn file(suffix: &str, text: &[u8]) -> u64 {
    let folder = FOLDER.with(|folder| {
        let make = || {
            let name = format!("fingerpost-fuzz-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).expect("a folder");
            folder
        };
        folder.get_or_init(make).clone()
    });
    let path = folder.join(format!("objects.{suffix}"));
    fs::write(&path, text).expect("a file");
    let outcome = match load(&[path], &Filter::default()) {
        Ok(contents) => format!("{contents:?}").len().to_string(),
        Err(faults) => {
            // YAML ends a line at a carriage return too.
            let lines = text.split(|octet| b"\r\n".contains(octet)).count();
            for fault in &faults {
                assert!(!fault.error.message.is_empty());
                if let Some((line, _)) = fault.error.place {
                    assert!(line <= lines + 1, "{fault} in {lines} lines");
                }
            }
            let kinds: Vec<_> = faults
                .iter()
                .map(|fault| kind(&fault.error.message))
                .collect();
            kinds.join(" ")
        }
    };
    fingerprint((suffix, outcome))
}

/// A message without what it quotes and counts.
fn kind(message: &str) -> String {
    let plain = message.split('`').step_by(2).collect::<String>();
    plain
        .chars()
        .filter(|char| !char.is_ascii_digit())
        .collect()
}

/// A cluster takes anything in that was read.
fn taken_in<'o>(objects: impl IntoIterator<Item = &'o Object>) {
    let keep = Keep {
        pod_names: true,
        external: true,
        zones: true,
        imports: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&ALL, keep);
    for resource in ALL {
        cluster.list_started(resource);
    }
    for object in objects {
        cluster.listed(object.clone());
    }
    for resource in ALL {
        cluster.list_finished(resource);
    }
    assert!(cluster.synced());
}
