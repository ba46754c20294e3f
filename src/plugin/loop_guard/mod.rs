//! `loop`: notices that we forward to ourselves.
//!
//! Each upstream of the block is sent a question with a name that nobody can guess. If the same name then comes in as
//! a query, that upstream leads back to us:
//!
//! ```text
//! probe 5f0c….a.org. HINFO -> upstream -> … -> us: `loop` sees 5f0c….a.org. -> upstream is taken out
//! ```
//!
//! A name counts only while its own probe is out, and a loop is believed only after two probes with two names, so no
//! query that somebody makes up can put an upstream out of work, let alone end the process. What is taken out is the
//! upstream, not the server: names of the cluster are answered on, and the rest gets SERVFAIL at once instead of
//! queries that multiply. It is probed on and comes back when it no longer leads here.

mod config;
mod metrics;
mod watch;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::chain::exchange::Exchange;
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::plugin::loop_guard::config::LoopConfig;
use crate::plugin::loop_guard::metrics::{LoopMetrics, Out};
use crate::plugin::loop_guard::watch::Watch;
use crate::plugin::{BuildError, Config, Spec};
use crate::server::assembly::{Assembly, Upstream};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::name::Name;

/// What is known about `loop`.
pub static SPEC: Spec = Spec {
    name: "loop",
    summary: "notices that we forward to ourselves",
    options: config::OPTIONS,
    parse: config::parse,
};

/// When probes are sent.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between two probes of an upstream that did not reply, and how many there are.
    retry: Duration,
    tries: u32,
    /// Between two probes of an upstream that was taken out.
    again: Duration,
}

/// As often and as long as CoreDNS probes; what it cannot do is come back.
const PACE: Pace = Pace {
    retry: Duration::from_secs(1),
    tries: 30,
    again: Duration::from_secs(10),
};

impl Config for LoopConfig {
    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        let watch = Arc::<Watch>::default();
        let zone = assembly.origins().into_iter().next();
        let guard = Guard {
            watch: Arc::clone(&watch),
            zone: zone.expect("a server block has a zone"),
            server: Arc::clone(assembly.server),
            exit: self.exit,
            metrics: assembly.process.metrics.families(),
            pace: PACE,
        };
        // The upstreams are there when every plugin of the block has been built.
        let upstreams = assembly.generation.upstreams.clone();
        let stop = assembly.generation.stop.clone();
        assembly.generation.after_serving.push(Box::pin(async move {
            let upstreams = upstreams.all();
            let all = upstreams
                .iter()
                .map(|upstream| guard.look_after(&**upstream));
            tokio::select! {
                () = stop.cancelled() => {}
                _ = join_all(all) => {}
            }
        }));
        Ok(vec![Arc::new(LoopGuard { watch })])
    }
}

/// The link that sees probes come back.
struct LoopGuard {
    watch: Arc<Watch>,
}

impl Plugin for LoopGuard {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.qtype() != RecordType::HINFO {
            return Step::Next;
        }
        let client = exchange.arrival().client;
        if !self.watch.notice(exchange.qname(), client) {
            return Step::Next;
        }
        // It has done its work; sent on, it would go round once more.
        exchange.reply.rcode = Rcode::NXDOMAIN;
        Step::Answered
    }
}

/// Sends the probes of one block.
struct Guard {
    watch: Arc<Watch>,
    /// The first zone of the block.
    zone: Name,
    server: Arc<str>,
    exit: bool,
    metrics: Arc<LoopMetrics>,
    pace: Pace,
}

/// What became of the probes of an upstream.
enum Finding {
    /// They came back: from here, and this was the last name.
    Loop(SocketAddr, Name),
    /// It replied, and nothing came back.
    Clear,
    /// It did not reply.
    Silent,
}

impl Guard {
    /// Probes one upstream until it is clear, and for as long as it loops.
    async fn look_after(&self, upstream: &dyn Upstream) {
        let Some(zone) = self.zone_for(upstream) else {
            return;
        };
        let mut out: Option<Out> = None;
        let mut tries = 0;
        loop {
            match self.probe_twice(upstream, zone).await {
                Finding::Loop(client, name) => {
                    if out.is_none() {
                        self.report(upstream, zone, client, &name);
                        let address = upstream.address();
                        let held = upstream.take_out();
                        out = Some(self.metrics.out(&self.server, address, held));
                    }
                    sleep(self.pace.again).await;
                }
                Finding::Clear => {
                    if out.is_some() {
                        tracing::info!(
                            target: "plugin/loop",
                            "{} no longer leads back to this server and is asked again",
                            named(upstream)
                        );
                    }
                    return;
                }
                Finding::Silent if out.is_some() => sleep(self.pace.again).await,
                Finding::Silent => {
                    tries += 1;
                    if tries >= self.pace.tries {
                        return;
                    }
                    sleep(self.pace.retry).await;
                }
            }
        }
    }

    /// Where probes go: below what is sent to the upstream and what the block serves, whichever is deeper.
    fn zone_for<'z>(&'z self, upstream: &'z dyn Upstream) -> Option<&'z Name> {
        let (zone, origin) = (self.zone.as_ref(), upstream.origin().as_ref());
        if origin.is_at_or_below(zone) {
            Some(upstream.origin())
        } else if zone.is_at_or_below(origin) {
            Some(&self.zone)
        } else {
            None
        }
    }

    async fn probe_twice(&self, upstream: &dyn Upstream, zone: &Name) -> Finding {
        let mut last = None;
        for _ in 0..2 {
            let Some(probe) = self.watch.probe(zone.as_ref()) else {
                return Finding::Clear;
            };
            let replied = upstream.ask(&probe.name, RecordType::HINFO).await;
            match probe.seen_from() {
                Some(client) => last = Some((client, probe.name.clone())),
                None if replied => return Finding::Clear,
                None => return Finding::Silent,
            }
        }
        match last {
            Some((client, name)) => Finding::Loop(client, name),
            None => Finding::Clear,
        }
    }

    fn report(&self, upstream: &dyn Upstream, zone: &Name, client: SocketAddr, name: &Name) {
        let (address, named) = (upstream.address(), named(upstream));
        if !self.exit {
            tracing::error!(
                target: "plugin/loop",
                "{named} leads back to this server for zone `{zone}` and is taken out; a probe came back from \
                 `{client}`: `HINFO {name}`"
            );
            return;
        }
        tracing::error!(
            target: "plugin/loop",
            fatal = true,
            "Loop ({client} -> {address}) detected for zone \"{zone}\": {named} leads back to this server. \
             Query: \"HINFO {name}\""
        );
        crate::telemetry::logging::flush();
        std::process::exit(1);
    }
}

/// An upstream as an operator knows it.
fn named(upstream: &dyn Upstream) -> String {
    let address = upstream.address();
    match upstream.file() {
        Some(file) => format!("upstream `{address}` from `{}`", file.display()),
        None => format!("upstream `{address}`"),
    }
}
