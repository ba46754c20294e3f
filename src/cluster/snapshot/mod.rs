//! The cluster on disk, so that a server which starts while the API server is away has something to serve.
//!
//! ```text
//! store --a few objects at a time--> encode --> temporary file --fsync, rename--> PATH
//!                                                                                  |
//! store <--what no list has told yet-- all objects <--checked whole: digest, key, age, every record
//! ```
//!
//! A file is taken whole or not at all: nothing of it reaches the store before its last octet has been checked. What it
//! brings stands in the store as if an earlier list had told it, so the first real list is a difference like any other:
//! the same version is left alone, a changed object replaces, and what is not named is gone.
//!
//! Saving and loading have a thread of their own ([`keeper`]): disks stall, and neither queries nor the watch may wait
//! for one.

/// The file as octets.
pub mod format;

/// One object as octets.
mod record;

/// Reading within bounds, and writing in one step.
pub mod file;

/// The thread that saves and loads.
pub mod keeper;

/// What is counted.
mod metrics;
