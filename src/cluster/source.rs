//! Which API server, how to reach it, and how hard to press it.

use std::path::PathBuf;
use std::time::Duration;

/// Where the connection to the API server is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSource {
    /// Nothing was said: the service account inside a cluster; outside of one `$KUBECONFIG`, then `~/.kube/config`.
    Default,
    /// `kubeconfig FILE [CONTEXT]`
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context; its current one if none.
        context: Option<String>,
    },
    /// `endpoint URL` with an optional `tls CERT KEY CA`
    Endpoint {
        /// The URL of the API server.
        url: String,
        /// Client certificate, its key, and the CA of the server.
        tls: Option<[PathBuf; 3]>,
    },
}

/// Why no connection can be made, whatever the network does: one line, as the log shows it.
#[derive(Debug)]
pub struct ConnectError(pub String);

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConnectError {}

/// Less often than once a year is never.
pub(in crate::cluster) const INTERVAL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How often and how widely the API server is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time between requests in the long run; none is the default of 200 ms.
    pub interval: Option<Duration>,
    /// Requests that may come at once; none is the default of 10.
    pub burst: Option<u32>,
    /// Lists and other requests in flight at once, watches aside; none is any number.
    pub in_flight_max: Option<u32>,
}

impl Limits {
    /// Time between requests at a rate a second; none, the default, at 0.
    pub fn interval_of(rate: f64) -> Option<Duration> {
        let interval = Duration::try_from_secs_f64(rate.recip());
        (rate > 0.0).then(|| interval.unwrap_or(INTERVAL_MAX).min(INTERVAL_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_time_between_two_requests() {
        assert_eq!(Limits::interval_of(0.0), None);
        assert_eq!(Limits::interval_of(4.0), Some(Duration::from_millis(250)));
        assert_eq!(Limits::interval_of(0.01), Some(Duration::from_secs(100)));
        assert_eq!(Limits::interval_of(f64::INFINITY), Some(Duration::ZERO));
        assert_eq!(Limits::interval_of(f64::MIN_POSITIVE), Some(INTERVAL_MAX));
    }
}
