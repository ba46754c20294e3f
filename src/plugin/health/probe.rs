//! The process asks itself whether it is well.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

use crate::corefile::args::GoDuration;
use crate::plugin::health::PATH;
use crate::telemetry::metrics::Families;

/// Between two requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Longer than this is worth a warning.
const SLOW: Duration = Duration::from_secs(1);

/// `coredns_health_*`.
pub(in crate::plugin::health) struct HealthMetrics {
    pub(in crate::plugin::health) duration: Histogram,
    pub(in crate::plugin::health) failures: IntCounter,
}

impl Families for HealthMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = vec![0.00025, 0.0025, 0.025, 0.25, 2.5];
        let this = Self {
            duration: Histogram::with_opts(
                HistogramOpts::new(
                    "coredns_health_request_duration_seconds",
                    "time that the server took to answer its own health request",
                )
                .buckets(buckets),
            )?,
            failures: IntCounter::new(
                "coredns_health_request_failures_total",
                "health requests of the server to itself that failed",
            )?,
        };
        registry.register(Box::new(this.duration.clone()))?;
        registry.register(Box::new(this.failures.clone()))?;
        Ok(this)
    }
}

/// Asks one listener.
pub(in crate::plugin::health) struct Probe {
    target: SocketAddr,
    metrics: Arc<HealthMetrics>,
}

impl Probe {
    /// Asks the listener at `address`; over loopback if it listens everywhere.
    pub(in crate::plugin::health) fn new(address: SocketAddr, metrics: Arc<HealthMetrics>) -> Self {
        let target = if address.ip().is_unspecified() {
            (Ipv4Addr::LOCALHOST, address.port()).into()
        } else {
            address
        };
        Self { target, metrics }
    }

    /// Asks once a second. Never ends.
    pub(in crate::plugin::health) async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.ask_once().await;
        }
    }

    /// Asks, and counts how that went.
    pub(in crate::plugin::health) async fn ask_once(&self) {
        let begun = Instant::now();
        let answer = tokio::time::timeout(TIMEOUT, get(self.target))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let took = begun.elapsed();
        self.metrics.duration.observe(took.as_secs_f64());
        let url = format!("http://{}{PATH}", self.target);
        match answer {
            Err(error) => {
                self.metrics.failures.inc();
                tracing::warn!(target: "plugin/health", "Local health request to \"{url}\" failed: {error}");
            }
            Ok(()) if took > SLOW => {
                let took = GoDuration::from(took);
                tracing::warn!(target: "plugin/health", "Local health request to \"{url}\" took more than 1s: {took}");
            }
            Ok(()) => {}
        }
    }
}

/// One request on a connection of its own; whatever the server says in HTTP is an answer.
async fn get(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 5];
    stream.read_exact(&mut start).await?;
    if &start != b"HTTP/" {
        return Err(io::Error::other("not an HTTP reply"));
    }
    // Reading to the end spares the server a reset.
    tokio::io::copy(&mut stream.take(1 << 10), &mut tokio::io::sink()).await?;
    Ok(())
}
