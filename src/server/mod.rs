//! Puts it together and keeps it running.

/// What a plugin is built with.
pub mod assembly;

/// What outlives a reload.
pub mod process;
