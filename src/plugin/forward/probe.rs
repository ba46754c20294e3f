//! Probes of an upstream that failed: from the first failed query until the first answered probe.

use std::io;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::plugin::forward::config::Transport;
use crate::plugin::forward::random;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::upstream::Upstream;
use crate::plugin::forward::{tcp, udp};
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

async fn once(upstream: &Upstream) -> io::Result<()> {
    timeout(TIMEOUT, exchange(upstream)).await?
}

/// Asks for the name servers of the probe's domain. Whatever comes back, even a refusal, is a sign of life.
async fn exchange(upstream: &Upstream) -> io::Result<()> {
    let Transport {
        force_tcp,
        source,
        ref health,
        ..
    } = upstream.transport;
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
    if force_tcp {
        let mut stream = tcp::connect(upstream.address, source).await?;
        tcp::send(&mut stream, &message).await?;
        while !is_alive(&tcp::receive(&mut stream).await?) {}
        return Ok(());
    }
    let socket = udp::connect(upstream.address, source)?;
    socket.send(&message).await?;
    // The header is all that counts; the rest of a datagram may be cut off.
    let mut reply = [0; 512];
    loop {
        let length = socket.recv(&mut reply).await?;
        if is_alive(&reply[..length]) {
            return Ok(());
        }
    }
}
