//! What the server tells about itself: log lines and metrics.

/// The metric families that belong to no plugin, and the registry of those that do.
pub mod metrics;
