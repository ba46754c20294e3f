//! What the server tells about itself: log lines and metrics.

/// The metric families that belong to no plugin, and the registry of those that do.
pub mod metrics;

/// Log lines on their way out: a bounded buffer and the one thread that writes it.
pub mod lines;

/// Log lines as CoreDNS prints them.
pub mod logging;

/// The families that every query counts in.
pub mod requests;

/// Metric families put together by hand.
pub mod exposition;
