//! What `cookie` counts.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::plugin::cookie::server::Sent;
use crate::telemetry::metrics::Families;

/// Queries by what they carried.
pub(super) struct CookieMetrics {
    malformed: IntCounter,
    new: IntCounter,
    valid: IntCounter,
    invalid: IntCounter,
}

impl Families for CookieMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "queries with a cookie, by what it was";
        let family = IntCounterVec::new(
            Opts::new("fingerpost_cookie_queries_total", help),
            &["cookie"],
        )?;
        registry.register(Box::new(family.clone()))?;
        let counter = |cookie| family.with_label_values(&[cookie]);
        Ok(Self {
            malformed: counter("malformed"),
            new: counter("new"),
            valid: counter("valid"),
            invalid: counter("invalid"),
        })
    }
}

impl CookieMetrics {
    /// Counts a query.
    pub(super) fn count(&self, sent: Sent) {
        match sent {
            Sent::Malformed => &self.malformed,
            Sent::New => &self.new,
            Sent::Valid => &self.valid,
            Sent::Invalid => &self.invalid,
        }
        .inc();
    }
}
