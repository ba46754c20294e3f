//! One upstream: its sockets, its health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use tokio::runtime::Handle;

use crate::plugin::forward::config::Transport;
use crate::plugin::forward::metrics::{ForwardMetrics, UpstreamMetrics};
use crate::plugin::forward::probe;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::tcp::Streams;
use crate::plugin::forward::tls::Tls;
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::udp::Lanes;

/// A server that we ask. Blocks and generations that talk to it in the same way share it.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
    link: Link,
    /// Probes that failed in a row. Queries that fail start a probe, but do not count.
    fails: AtomicU32,
    probing: AtomicBool,
    pub(super) metrics: Arc<UpstreamMetrics>,
    runtime: Handle,
}

/// What queries go over.
enum Link {
    Plain { udp: Lanes, tcp: Arc<Streams> },
    Tls(Arc<Streams>),
}

impl Upstream {
    pub(super) fn new(
        address: SocketAddr,
        transport: Transport,
        tls: Option<Tls>,
        metrics: Arc<ForwardMetrics>,
        runtime: Handle,
    ) -> Self {
        let metrics = Arc::new(UpstreamMetrics::new(metrics, address));
        let is_secure = tls.is_some();
        let (rt, counts) = (runtime.clone(), Arc::clone(&metrics));
        let streams = Streams::new(address, &transport, tls, rt.clone(), Arc::clone(&counts));
        let link = if is_secure {
            Link::Tls(streams)
        } else {
            let udp = Lanes::new(address, &transport, rt, counts);
            Link::Plain { udp, tcp: streams }
        };
        Self {
            link,
            address,
            transport,
            fails: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            metrics,
            runtime,
        }
    }

    /// Asks once, over the transport that the upstream, the options and the client choose.
    pub(super) async fn exchange(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Reply, Trouble> {
        let transport = &self.transport;
        let (udp, tcp) = match &self.link {
            Link::Plain { udp, tcp } => (udp, tcp),
            Link::Tls(streams) => return self.over(streams, request, deadline).await,
        };
        if transport.force_tcp || request.over_tcp && !transport.prefer_udp {
            return self.over(tcp, request, deadline).await;
        }
        let start = Instant::now();
        let until = deadline.min(start + transport.read_timeout);
        let reply = udp.exchange(request, until).await?;
        self.replied(&reply, start);
        if !reply.truncated || !(transport.prefer_udp || request.whole) {
            return Ok(reply);
        }
        match self.over(tcp, request, deadline).await {
            // A client over UDP can make something of TC: ask again over TCP, perhaps with more luck.
            Err(_) if !request.over_tcp && !request.whole => Ok(reply),
            result => result,
        }
    }

    async fn over(
        &self,
        streams: &Arc<Streams>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Reply, Trouble> {
        let start = Instant::now();
        let reply = streams.exchange(request, deadline).await?;
        self.replied(&reply, start);
        Ok(reply)
    }

    /// Sends a probe over a socket of its own and waits until something is taken for a reply.
    pub(super) async fn send_probe(
        &self,
        message: &[u8],
        is_alive: impl Fn(&[u8]) -> bool,
        until: Instant,
    ) -> Result<(), Trouble> {
        match &self.link {
            Link::Plain { udp, .. } if !self.transport.force_tcp => {
                udp.probe(message, is_alive, until).await
            }
            Link::Plain { tcp: streams, .. } | Link::Tls(streams) => {
                streams.probe(message, is_alive, until).await
            }
        }
    }

    fn replied(&self, reply: &Reply, start: Instant) {
        self.metrics.replied(reply.rcode, start.elapsed());
        if reply.stripped {
            self.metrics.stripped();
        }
    }

    /// Whether more probes failed than may; 0 may fail without end.
    pub(super) fn is_down(&self, fails_max: u32) -> bool {
        fails_max != 0 && self.fails.load(Ordering::Relaxed) > fails_max
    }

    /// Starts probing, unless that is under way.
    pub(super) fn probe(self: &Arc<Self>) {
        if !self.probing.swap(true, Ordering::AcqRel) {
            self.runtime.spawn(probe::run(Arc::downgrade(self)));
        }
    }

    /// A probe was answered: all is forgotten, probing ends.
    pub(super) fn recovered(&self) {
        self.fails.store(0, Ordering::Relaxed);
        self.probing.store(false, Ordering::Release);
    }

    /// A probe was not answered.
    pub(super) fn failed(&self) {
        self.metrics.health_failed();
        let _ = self
            .fails
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fails| {
                fails.checked_add(1)
            });
    }
}
