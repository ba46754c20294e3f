use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use fingerpost::cluster::objects::{Object, Resource, ServiceKind};
use fingerpost::cluster::snapshot::format::{Encoder, Key, Refusal, Snapshot};
use fingerpost::cluster::{Cluster, Keep, ObjectSink};
use sha2::{Digest, Sha256};

use crate::fingerprint;

const KEY: Key = Key([7; 32]);

const ALL: [Resource; Resource::COUNT] = [
    Resource::Namespaces,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Pods,
    Resource::ServiceImports,
];

/// The octets are the records of a file whose header and digest fit.
pub fn run(data: &[u8]) -> u64 {
    let mut file = file_of(&[]);
    let digest = file.split_off(file.len() - 32);
    if data.is_empty() {
        assert_eq!(digest[..], Sha256::digest(&file)[..]);
    }
    file.extend_from_slice(data);
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    let snapshot = match Snapshot::open(&file, KEY) {
        Ok(snapshot) => snapshot,
        Err(Refusal::Corrupt(why)) => return fingerprint(why),
        Err(refusal) => panic!("header and digest fit: {refusal:?}"),
    };
    let objects: Vec<Object> = snapshot.objects().collect();
    there_and_back(&objects);
    taken_in_and_replaced(&objects);
    let kinds: Vec<_> = objects.iter().map(Object::resource).collect();
    fingerprint((kinds, data.len() / 16))
}

fn file_of(objects: &[Object]) -> Vec<u8> {
    let saved_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut encoder = Encoder::new(Vec::new(), KEY, saved_at);
    for object in objects {
        encoder.object(object).expect("a few");
    }
    encoder.finish().expect("memory").0
}

/// What was read is written such that the same is read again.
fn there_and_back(objects: &[Object]) {
    let file = file_of(objects);
    let again = Snapshot::open(&file, KEY).expect("we wrote it");
    assert!(again.objects().eq(objects.iter().cloned()));
}

/// A cluster takes anything in, and empty lists take all of it away again.
fn taken_in_and_replaced(objects: &[Object]) {
    let keep = Keep {
        pod_names: true,
        external: true,
        zones: true,
        imports: true,
        ..Keep::default()
    };
    let cluster = Cluster::new(&ALL, keep);
    let saved_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    cluster.restore(objects.iter().cloned(), saved_at);
    assert!(cluster.is_restored() && cluster.servable() && !cluster.synced());
    for resource in ALL {
        cluster.list_started(resource);
        cluster.list_finished(resource);
    }
    assert!(!cluster.is_restored() && cluster.synced());
    for address in objects.iter().flat_map(addresses) {
        assert_eq!(
            cluster.table.with_owners(address, <[_]>::len),
            0,
            "{address}"
        );
    }
}

fn addresses(object: &Object) -> Vec<IpAddr> {
    match object {
        Object::Service(service) => match &service.kind {
            ServiceKind::ClusterIp(addresses) => addresses.clone(),
            ServiceKind::Headless | ServiceKind::ExternalName(_) => Vec::new(),
        },
        Object::EndpointSlice(slice) => {
            let endpoints = slice.endpoints.iter();
            endpoints
                .flat_map(|endpoint| endpoint.addresses.clone())
                .collect()
        }
        Object::Namespace(_) | Object::Pod(_) | Object::ServiceImport(_) => Vec::new(),
    }
}
