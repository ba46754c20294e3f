//! Kubernetes objects, seen from DNS; no DNS messages here.

/// Slim types: only the fields that DNS needs.
pub mod objects;
