//! One upstream: its sockets, its health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use tokio::runtime::Handle;

use crate::plugin::forward::budget::Budget;
use crate::plugin::forward::config::Transport;
use crate::plugin::forward::doh::Doh;
use crate::plugin::forward::health::Health;
use crate::plugin::forward::metrics::{ForwardMetrics, UpstreamMetrics};
use crate::plugin::forward::probe;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::tcp::Streams;
use crate::plugin::forward::tls::Tls;
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::udp::Lanes;

/// How long a trial waits.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that we ask. Blocks and generations that talk to it in the same way share it.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
    link: Link,
    pub(super) health: Arc<Health>,
    /// Messages that it may be sent, if they are limited.
    budget: Option<Arc<Budget>>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    runtime: Handle,
}

/// What queries go over.
enum Link {
    Plain { udp: Lanes, tcp: Arc<Streams> },
    Tls(Arc<Streams>),
    Https(Arc<Doh>),
}

impl Upstream {
    pub(super) fn new(
        address: SocketAddr,
        transport: Transport,
        (tls, method): (Option<Tls>, Option<Method>),
        health: Arc<Health>,
        budget: Option<Arc<Budget>>,
        metrics: Arc<ForwardMetrics>,
        runtime: Handle,
    ) -> Self {
        let metrics = Arc::new(UpstreamMetrics::new(metrics, address));
        let (rt, counts) = (runtime.clone(), Arc::clone(&metrics));
        let link = match (tls, method) {
            (None, _) => Link::Plain {
                udp: Lanes::new(address, &transport, rt.clone(), Arc::clone(&counts)),
                tcp: Streams::new(address, &transport, None, rt, counts),
            },
            (tls, None) => Link::Tls(Streams::new(address, &transport, tls, rt, counts)),
            (Some(tls), Some(method)) => {
                Link::Https(Doh::new(address, &transport, (tls, method), rt, counts))
            }
        };
        Self {
            link,
            address,
            transport,
            health,
            budget,
            metrics,
            runtime,
        }
    }

    /// Whether clients' queries over UDP go on over UDP.
    pub(super) fn is_over_udp(&self) -> bool {
        matches!(self.link, Link::Plain { .. }) && !self.transport.force_tcp
    }

    /// Asks once, now, over the transport that the upstream, the options and the client choose.
    pub(super) async fn exchange(
        &self,
        request: &Request,
        start: Instant,
        deadline: Instant,
    ) -> Result<Reply, Trouble> {
        let transport = &self.transport;
        let (udp, tcp) = match &self.link {
            Link::Plain { udp, tcp } => (udp, tcp),
            // In boxes: connections take far more room than a query over UDP, of which thousands may wait.
            Link::Tls(streams) => return Box::pin(self.over(streams, request, deadline)).await,
            Link::Https(doh) => {
                let reply = Box::pin(doh.exchange(request, deadline)).await?;
                self.replied(&reply, start);
                return Ok(reply);
            }
        };
        if transport.force_tcp || request.over_tcp && !transport.prefer_udp {
            return Box::pin(self.over(tcp, request, deadline)).await;
        }
        let until = deadline.min(start + transport.read_timeout);
        let reply = udp.exchange(request, start, until).await?;
        self.replied(&reply, start);
        let is_wanted_whole = transport.prefer_udp || request.whole;
        if !reply.truncated || !is_wanted_whole || !self.may_send(Instant::now()) {
            return Ok(reply);
        }
        match Box::pin(self.over(tcp, request, deadline)).await {
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
            Link::Https(doh) => doh.probe(message, is_alive, until).await,
        }
    }

    fn replied(&self, reply: &Reply, start: Instant) {
        self.metrics.replied(reply.rcode, start.elapsed());
        if reply.stripped {
            self.metrics.stripped();
        }
    }

    /// Asks once, now, and notes how that went.
    pub(super) async fn ask(
        &self,
        request: &Request,
        start: Instant,
        deadline: Instant,
    ) -> Result<Reply, Trouble> {
        if !self.may_send(start) {
            let text = format!("the packet budget of {} is spent", self.address);
            return Err(Trouble::spent(text));
        }
        let _wait = self.health.wait();
        let result = self.exchange(request, start, deadline).await;
        if let Ok(reply) = &result {
            self.health.replied(start.elapsed(), reply.rcode);
        }
        result
    }

    /// Takes one message out of the budget, if there is one.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        let may = self.budget.as_ref().is_none_or(|budget| budget.take(now));
        if !may {
            self.metrics.spent();
        }
        may
    }

    /// Starts probing, unless that is under way.
    pub(super) fn doubt(self: &Arc<Self>) {
        if self.health.doubt() {
            let health = Arc::clone(&self.health);
            let prober = probe::run(Arc::downgrade(self), health);
            self.runtime.spawn(prober);
        }
    }

    /// Sends a copy of a query that goes elsewhere, to see whether there is a reply again; at most one a second.
    pub(super) fn try_again(self: &Arc<Self>, request: &Request) {
        if !self.health.may_try() {
            return;
        }
        let (this, request) = (Arc::clone(self), request.clone());
        self.runtime.spawn(async move {
            // A reply is noted; that there is none is nothing new.
            let start = Instant::now();
            drop(this.ask(&request, start, start + TRIAL_TIMEOUT).await);
        });
    }
}
