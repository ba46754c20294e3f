//! Puts it together and keeps it running.

/// What a plugin is built with.
pub mod assembly;

/// What outlives a reload.
pub mod process;

/// The HTTP listeners of `health`, `ready` and `prometheus`.
pub mod http;
