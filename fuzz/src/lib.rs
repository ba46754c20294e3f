//! What the fuzzers run: one function a target, fed with any octets, panicking on a fault.
//!
//! libFuzzer calls them from `fuzz_targets/`; where there is no nightly compiler, `mutate` does. Each returns a
//! fingerprint of what happened, so that `mutate`, which sees no coverage, can tell a new path from an old one.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A received message: parsed, compared with hickory-proto, answered, and the reply read back.
pub mod query;

/// Names: text and wire form there and back, compared with hickory-proto.
pub mod name;

/// A Corefile: parsed, configured, its faults drawn.
pub mod corefile;

/// The cluster's file: read, written again, taken in, and replaced by lists.
pub mod snapshot;

/// Any octets as a message, compared with hickory-proto record by record.
pub mod message;

/// A query's OPT, through a server with cookies.
pub mod edns;

/// What a client sends over TCP.
pub mod stream;

/// What an upstream replies, through `forward` and `cache` to the client.
pub mod reply;

/// Objects: files, and what the API server sends.
pub mod objects;

mod server;

/// A target's body.
pub type Target = fn(&[u8]) -> u64;

/// Every target by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("query", query::run),
    ("name", name::run),
    ("corefile", corefile::run),
    ("snapshot", snapshot::run),
    ("message", message::run),
    ("edns", edns::run),
    ("stream", stream::run),
    ("reply", reply::run),
    ("objects", objects::run),
];

/// Some values as one number.
pub(crate) fn fingerprint(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
