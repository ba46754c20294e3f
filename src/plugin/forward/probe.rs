//! Probes of an upstream that failed: from the first failed query until the first answered probe.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::plugin::forward::random;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::upstream::Upstream;
use crate::wire::HEADER_LEN;
use crate::wire::code::RecordType;
use crate::wire::query::flag;

/// How long one probe waits.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The least time between two probes: `health_check 0` is no wish for a flood.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Probes until a probe is answered or nobody uses the upstream any more.
pub(super) async fn run(upstream: Weak<Upstream>) {
    loop {
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        if once(&upstream).await.is_ok() {
            return upstream.recovered();
        }
        upstream.failed();
        let interval = upstream.transport.health.interval.max(INTERVAL_MIN);
        drop(upstream);
        sleep(interval).await;
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
