//! Probes of an upstream that failed: from the first failed query until the first answered probe.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::plugin::forward::health::{self, Health};
use crate::plugin::forward::random;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::upstream::Upstream;
use crate::wire::HEADER_LEN;
use crate::wire::code::RecordType;
use crate::wire::query::flag;

/// How long one probe waits.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Probes until the upstream is well or nobody uses it any more.
pub(super) async fn run(upstream: Weak<Upstream>, health: Arc<Health>) {
    for probes in 0.. {
        let Some(upstream) = upstream.upgrade() else {
            return health.end_probing();
        };
        let pause = health::pause(upstream.transport.health.interval, probes);
        // A probe that the budget does not allow tells nothing.
        if upstream.may_send(Instant::now()) {
            if once(&upstream).await.is_ok() {
                health.recovered();
            } else {
                upstream.metrics.health_failed();
                health.probe_failed();
            }
        }
        drop(upstream);
        if health.may_end_probing() {
            return;
        }
        // A reply to a query is as good as one to a probe.
        let _ = timeout(pause, health.until_well()).await;
        if health.may_end_probing() {
            return;
        }
    }
}

/// Asks for the name servers of the probe's domain. Whatever comes back, even a refusal, is a sign of life.
async fn once(upstream: &Upstream) -> Result<(), Trouble> {
    let health = &upstream.transport.health;
    let request = Request::own(
        health.domain.as_ref(),
        RecordType::NS,
        health.recursion_desired,
    );
    let id = random::number();
    let message = request.message(id);
    let is_alive = |reply: &[u8]| {
        reply.len() >= HEADER_LEN
            && reply.starts_with(&id.to_be_bytes())
            && reply[2] & flag::QR != 0
    };
    upstream
        .send_probe(&message, is_alive, Instant::now() + TIMEOUT)
        .await
}
