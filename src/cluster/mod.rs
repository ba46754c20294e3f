//! Kubernetes objects, seen from DNS; no DNS messages here.
//!
//! ```text
//! API server --watch-->  \                          one writer                 readers without locks
//!                          ObjectSink (the store)  ------------>  table  <------------  plugin/kubernetes
//! object files --read-->  /
//! ```
//!
//! A source feeds the store with objects; the store turns one change into the changed views of the table. A relist is
//! applied as a difference: what was answered before it is answered during it.

/// Slim types: only the fields that DNS needs.
pub mod objects;

/// Which API server, and how to reach it.
pub mod source;

/// Objects out of JSON and YAML.
pub mod decode;

use crate::cluster::objects::{Object, Resource};

/// Takes what a source finds out. Calls for one resource come in order, from one task at a time.
pub trait ObjectSink: Send + Sync + 'static {
    /// A complete list of the resource begins. May come again before `list_finished`: the list starts over.
    fn list_started(&self, resource: Resource);

    /// One object of the list that has begun. Equal resource versions mean: nothing changed.
    fn listed(&self, object: Object);

    /// The list is complete: what it did not name is gone. From the first one on, the resource is synced.
    fn list_finished(&self, resource: Resource);

    /// An object was added or changed.
    fn applied(&self, object: Object);

    /// An object was deleted.
    fn deleted(&self, resource: Resource, namespace: &str, name: &str);
}
