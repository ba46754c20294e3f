//! Fingerpost: a cluster DNS server.
//!
//! The modules stand in the order in which a query meets them.

/// Kubernetes objects, seen from DNS.
pub mod cluster;
