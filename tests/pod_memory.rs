//! What a Pod costs: octets that are in use for it once the list is done, store and table together.

#![allow(unsafe_code, reason = "an allocator has no safe interface")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use fingerpost::cluster::objects::{Meta, Object, Pod, PodLabels, Resource};
use fingerpost::cluster::{Cluster, Keep, ObjectSink};

/// The system's allocator, with a count of what is in use. What it adds to each piece for itself is counted as one
/// word, and sizes are whole double words, as glibc has it.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

fn with_overhead(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call is the system's, with the caller's own arguments; counting touches no memory of the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(with_overhead(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(with_overhead(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Octets of an address, which count apart.
const ADDRESS: usize = 4;

/// Characters of the names that ReplicaSets give their Pods.
fn random_part(state: &mut u64, length: usize) -> String {
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    let mut next = || {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        alphabet[usize::try_from(*state >> 40).expect("24 bits") % alphabet.len()]
    };
    (0..length).map(|_| char::from(next())).collect()
}

/// Pods of Deployments with so many replicas each, on nodes with 30 Pods each, in the order of a list.
fn pods(count: usize, replicas: usize) -> Vec<Object> {
    let mut state = 1;
    let words = [
        "checkout",
        "catalog",
        "payments",
        "search-index",
        "user-profile",
    ];
    let mut names = Vec::with_capacity(count);
    for number in 0..count / replicas {
        let namespace = format!("team-{:03}", number % 400);
        let (word, hash) = (words[number % words.len()], random_part(&mut state, 10));
        for _ in 0..replicas {
            let end = random_part(&mut state, 5);
            names.push((namespace.clone(), format!("{word}-{number}-{hash}-{end}")));
        }
    }
    names.sort();
    let pod = |(place, (namespace, name)): (usize, (String, String))| {
        // Neighbors in the list are on nodes far from each other.
        let scattered = place * 7919 % count;
        let (node, on_node) = (scattered / 30, 2 + scattered % 30);
        let address = u32::try_from(10 << 24 | node << 8 | on_node).expect("32 bits");
        Object::Pod(Pod {
            meta: Meta {
                namespace: namespace.into(),
                name: name.into(),
                resource_version: (3_000_000_000_u64 + place as u64).to_string().into(),
            },
            ip: Some(IpAddr::V4(Ipv4Addr::from_bits(address))),
            host_network: false,
            labels: PodLabels::default(),
            terminating: false,
            finished: false,
        })
    };
    names.into_iter().enumerate().map(pod).collect()
}

#[test]
fn a_pod_costs_at_most_40_octets_beyond_its_address() {
    // The names of single replicas share little with their neighbors: what is left of them counts.
    for (count, replicas, most) in [(30_000, 50, 40), (150_000, 10, 40), (30_000, 1, 40 + 12)] {
        let pods = pods(count, replicas);
        let empty = IN_USE.load(Ordering::Relaxed);
        let cluster = Cluster::new(&[Resource::Pods], Keep::default());
        let each = || (IN_USE.load(Ordering::Relaxed) - empty) / count;
        // The second list is the first one again: nothing may stay behind of it.
        for _ in 0..if replicas == 10 { 2 } else { 1 } {
            cluster.list_started(Resource::Pods);
            pods.iter().for_each(|pod| cluster.listed(pod.clone()));
            cluster.list_finished(Resource::Pods);
            let each = each();
            assert!(each <= most + ADDRESS, "{replicas} replicas: {each} octets");
        }
        let first = Ipv4Addr::new(10, 0, 0, 2).into();
        let teams = (0..400).map(|team| format!("\x08team-{team:03}"));
        let found: u32 = teams
            .map(|team| cluster.table.pods(first, team.as_bytes()))
            .sum();
        assert_eq!(found, 1);
        // All leave. Maps keep the room that they have grown to.
        cluster.list_started(Resource::Pods);
        cluster.list_finished(Resource::Pods);
        assert!(each() <= 8, "{} octets are left of each Pod", each());
    }
}
