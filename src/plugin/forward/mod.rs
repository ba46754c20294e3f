//! `forward`: asks other servers.
//!
//! ```text
//! query -> FROM, except -> max_concurrent -> identical question out? -> wait for its reply
//!                                                  | no
//!                       policy -> upstream -> socket -> ... -> reply: ID, question, records checked
//!                          ^                                      |
//!                          '-- time-out, error, `failover` -------+--> passed on without its OPT
//! ```
//!
//! It is a proxy of octets: a message of our own goes out (`request.rs`), and the reply's records are walked, not
//! decoded (`reply.rs`). All waiting is done in the query's own future (`way.rs`), which the worker that has the query polls
//! as long as upstreams are asked over UDP; no task is spawned for it, but for an upstream that lost against a second one
//! (`hedge.rs`). Sockets outlive queries (`udp.rs`, `tcp.rs`, `doh.rs`), and
//! upstreams outlive reloads that leave their options alone: they are shared through the process by all that configures
//! them.
//!
//! Each directive of a block is one link of the chain, in the order they stand.

mod bailiwick;
mod budget;
mod config;
mod doh;
mod flight;
mod group;
mod health;
mod hedge;
mod metrics;
mod options;
mod pointers;
mod policy;
mod private;
mod probe;
mod random;
mod reply;
mod request;
mod resolver;
mod target;
mod tcp;
mod tls;
mod trouble;
mod udp;
mod upstream;
mod way;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::chain::exchange::{Exchange, Protocol};
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::plugin::forward::budget::Budget;
use crate::plugin::forward::config::{ForwardConfig, Stanza, Transport};
use crate::plugin::forward::group::{Group, Member};
use crate::plugin::forward::health::Health;
use crate::plugin::forward::metrics::ForwardMetrics;
use crate::plugin::forward::policy::UPSTREAMS_MAX;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::target::{Destination, Protocol as Spoken};
use crate::plugin::forward::tls::{Client, Tls};
use crate::plugin::forward::upstream::Upstream;
use crate::plugin::{BuildError, Config, Spec};
use crate::server::assembly::Assembly;
use crate::server::process::Process;
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::{Name, NameRef};

/// What is known about `forward`.
pub static SPEC: Spec = Spec {
    name: "forward",
    summary: "asks other servers",
    options: options::OPTIONS,
    parse: config::parse,
};

impl Config for ForwardConfig {
    fn files(&self, root: &Path) -> Vec<PathBuf> {
        let all = self.stanzas.iter();
        all.flat_map(|stanza| stanza.files(root)).collect()
    }

    fn build(&self, assembly: &mut Assembly<'_>) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
        random::check()?;
        let mut links: Vec<Arc<dyn Plugin>> = Vec::new();
        for (place, stanza) in self.stanzas.iter().enumerate() {
            let has_next = place + 1 < self.stanzas.len();
            let group = group(stanza, has_next, assembly)?;
            for member in group.members() {
                let member = Arc::clone(member);
                assembly.generation.upstreams.add(member);
            }
            links.push(Arc::new(Forward {
                from: stanza.from.clone(),
                except: stanza.except.clone(),
                limit: stanza.max_concurrent,
                running: Arc::default(),
                group,
                metrics: assembly.process.metrics.families(),
            }));
        }
        Ok(links)
    }
}

/// The directive's upstreams: those of the generation before, if nothing about them has changed.
fn group(
    stanza: &Stanza,
    has_next: bool,
    assembly: &Assembly<'_>,
) -> Result<Arc<Group>, BuildError> {
    let process = assembly.process;
    let metrics: Arc<ForwardMetrics> = process.metrics.families();
    let addresses = target::resolve(&stanza.targets, &stanza.resolvers)?;
    if addresses.is_empty() {
        return Err(BuildError("no valid upstream addresses found".into()));
    }
    if addresses.len() > UPSTREAMS_MAX {
        let count = addresses.len();
        let text = format!("more than {UPSTREAMS_MAX} upstream addresses: {count}");
        return Err(BuildError(text));
    }
    // Which upstreams lead back to us depends on the zones that are forwarded to them, so the block is in the key.
    let (server, origins) = (assembly.server, assembly.origins());
    let key = format!("{server} {origins:?} {has_next} {addresses:?} {stanza:?}");
    let mut members = Vec::new();
    for Destination {
        address,
        protocol,
        file,
        host,
    } in addresses
    {
        let place = (address, host.as_deref());
        let tls = tls(&protocol, stanza, place, assembly)?;
        let method = (protocol == Spoken::Https).then(|| stanza.doh_method.clone());
        let upstream = upstream(address, (tls, method), stanza, process, &metrics);
        members.push(Arc::new(Member::new(upstream, file, stanza.from.clone())));
    }
    let made = process.shared.get_or_try(&key, || {
        let group = Group::new(stanza.clone(), has_next, members, metrics);
        Ok::<_, Infallible>(Arc::new(group))
    });
    let Ok(group) = made;
    Ok(group)
}

/// TLS to an upstream, if that is what it speaks. Whoever names the same files shares what was read.
fn tls(
    protocol: &Spoken,
    stanza: &Stanza,
    (address, host): (SocketAddr, Option<&str>),
    assembly: &Assembly<'_>,
) -> Result<Option<Tls>, BuildError> {
    let name = match protocol {
        Spoken::Dns => return Ok(None),
        Spoken::Tls(name) => name.as_ref().or(stanza.server_name.as_ref()),
        Spoken::Https => stanza.server_name.as_ref(),
    };
    let files = stanza.tls.below(assembly.root);
    let mut is_new = false;
    let alpn: &[u8] = match protocol {
        Spoken::Https => b"h2",
        _ => b"dot",
    };
    let key = format!("{alpn:?} {files:?}");
    let client = assembly.process.shared.get_or_try(&key, || {
        is_new = true;
        Client::new(files, alpn).map(Arc::new)
    })?;
    if !is_new {
        // Of the generation before, or of another directive.
        client.refresh()?;
    }
    Ok(Some(Tls {
        client,
        // Whoever lied about the address of a host could well have a certificate for that address, so it is the host
        // that counts. Without any name it is the address.
        name: name
            .cloned()
            .or_else(|| ServerName::try_from(host?.trim_end_matches('.').to_owned()).ok())
            .unwrap_or_else(|| address.ip().into()),
    }))
}

/// An upstream, which all that ask it in the same way share.
fn upstream(
    address: SocketAddr,
    (tls, method): (Option<Tls>, Option<Method>),
    stanza: &Stanza,
    process: &Process,
    metrics: &Arc<ForwardMetrics>,
) -> Arc<Upstream> {
    let transport = stanza.transport.clone();
    let secure = tls
        .as_ref()
        .map(|tls| format!("{method:?} {:?} {:?}", tls.name, tls.client.files()));
    // However many blocks and options ask an address, it is probed once.
    let Transport {
        force_tcp,
        source,
        ref health,
        ..
    } = transport;
    let health_key = format!("{address} {secure:?} {force_tcp} {source:?} {health:?}");
    let made = process
        .shared
        .get_or_try(&health_key, || Ok::<_, Infallible>(Arc::new(Health::new())));
    let Ok(health) = made;
    // The network counts packets by address, whoever sends them.
    let budget = transport.packet_budget.map(|rate| {
        let made = process
            .shared
            .get_or_try(&format!("{address} {rate:?}"), || {
                Ok::<_, Infallible>(Arc::new(Budget::new(rate)))
            });
        let Ok(budget) = made;
        budget
    });
    let key = format!("{address} {secure:?} {transport:?}");
    let made = process.shared.get_or_try(&key, || {
        let (metrics, runtime) = (Arc::clone(metrics), process.runtime.clone());
        Ok::<_, Infallible>(Arc::new(Upstream::new(
            address,
            transport,
            (tls, method),
            health,
            budget,
            metrics,
            runtime,
        )))
    });
    let Ok(upstream) = made;
    upstream
}

/// One directive at work.
struct Forward {
    from: Name,
    except: Vec<Name>,
    limit: u64,
    /// Queries under way, counted if there is a limit.
    running: Arc<AtomicU64>,
    group: Arc<Group>,
    metrics: Arc<ForwardMetrics>,
}

impl Plugin for Forward {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn metadata(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn std::fmt::Write,
    ) -> bool {
        let upstream = exchange
            .state
            .upstream
            .filter(|_| label == "forward/upstream");
        upstream.is_some_and(|upstream| write!(value, "{upstream}").is_ok())
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if !self.concerns(exchange.qname()) {
            return Step::Next;
        }
        if matches!(exchange.qtype(), RecordType::AXFR | RecordType::IXFR) {
            // A transfer is many messages; the first alone would pass for all of it.
            const WHY: &str = "zone transfers are not forwarded";
            exchange.fail(Rcode::REFUSED, WHY);
            let why = ExtendedError::new(ExtendedError::NOT_SUPPORTED, WHY);
            exchange.state.extended_error = Some(why);
            return Step::Answered;
        }
        let Ok(running) = Running::enter(self) else {
            self.metrics.rejected.inc();
            let text = format!("concurrent queries exceeded maximum {}", self.limit);
            exchange.fail(Rcode::REFUSED, text);
            let why = ExtendedError::new(ExtendedError::OTHER, "too many concurrent queries");
            exchange.state.extended_error = Some(why);
            return Step::Answered;
        };
        let over_tcp = exchange.arrival().protocol == Protocol::Tcp;
        let request = if exchange.state.ask_authentic_data {
            Request::forwarded_with_ad
        } else {
            Request::forwarded
        };
        let request = request(exchange.query, over_tcp, exchange.state.is_whole());
        let pending = Box::pin(Arc::clone(&self.group).ask(request, running));
        if self.group.stays_here {
            Step::DeferHere(pending)
        } else {
            Step::Defer(pending)
        }
    }
}

impl Forward {
    /// Whether a name in lower case is forwarded here. `except` never excepts FROM itself, as in CoreDNS.
    fn concerns(&self, qname: NameRef<'_>) -> bool {
        let from = self.from.as_ref();
        qname.is_at_or_below(from)
            && (qname.len() == from.len()
                || !self
                    .except
                    .iter()
                    .any(|zone| qname.is_at_or_below(zone.as_ref())))
    }
}

/// A query under way, where their number has a limit.
struct Running(Option<Arc<AtomicU64>>);

/// There are as many as there may be.
struct Exceeded;

impl Running {
    fn enter(forward: &Forward) -> Result<Self, Exceeded> {
        if forward.limit == 0 {
            return Ok(Self(None));
        }
        let before = forward.running.fetch_add(1, Ordering::Relaxed);
        let running = Self(Some(Arc::clone(&forward.running)));
        if before < forward.limit {
            Ok(running)
        } else {
            Err(Exceeded)
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(running) = &self.0 {
            running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
