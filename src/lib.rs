//! Fingerpost: a cluster DNS server.
//!
//! The modules stand in the order in which a query meets them; see `ARCHITECTURE.md` for its whole road.

/// Bytes in, bytes out.
pub mod net;

/// Messages as bytes.
pub mod wire;

/// Which server block owns this QNAME.
pub mod zone;

/// How plugins are walked.
pub mod chain;

/// What can be done to a query.
pub mod plugin;

/// Work that waits, on the thread that began it.
pub mod reactor;

/// Kubernetes objects, seen from DNS.
pub mod cluster;

/// From Corefile text to a checked tree.
pub mod corefile;

/// Puts it together and keeps it running.
pub mod server;

/// What the server tells about itself.
pub mod telemetry;

/// The command line.
pub mod cli;

/// Tells what is wrong with a Corefile.
pub mod check;
