//! The upstreams of one directive, and what becomes of their replies.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::chain::plugin::{Answer, Failure, Verdict};
use crate::plugin::forward::config::Stanza;
use crate::plugin::forward::flight::{Flights, Join};
use crate::plugin::forward::hedge::{Hedge, Slowness};
use crate::plugin::forward::metrics::ForwardMetrics;
use crate::plugin::forward::policy::Picker;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::upstream::Upstream;
use crate::plugin::forward::way::Way;
use crate::server::assembly::{self, TakenOut, Task};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::Name;

/// How long one query may take, all attempts together.
const PATIENCE: Duration = Duration::from_secs(5);

/// The upstreams of a directive.
pub(super) struct Group {
    pub(super) stanza: Stanza,
    /// Another directive follows, so a reply may be passed over for its.
    has_next: bool,
    members: Vec<Arc<Member>>,
    /// All are asked over UDP first: the thread that serves a query can see it through.
    pub(super) stays_here: bool,
    pub(super) picker: Picker,
    /// Second tries that were earned, if there may be any.
    pub(super) hedge: Option<Hedge>,
    flights: Flights,
    pub(super) metrics: Arc<ForwardMetrics>,
}

/// An upstream as one directive sees it.
pub(super) struct Member {
    pub(super) upstream: Arc<Upstream>,
    /// What nearly all of its replies take, kept with `hedge` only.
    pub(super) slowness: Slowness,
    /// The file that named it.
    file: Option<PathBuf>,
    /// FROM.
    from: Name,
    /// Those who found that it leads back to us; nothing is sent to it while there are any.
    pub(super) out: Arc<AtomicUsize>,
}

impl Member {
    pub(super) fn new(upstream: Arc<Upstream>, file: Option<PathBuf>, from: Name) -> Self {
        Self {
            upstream,
            slowness: Slowness::default(),
            file,
            from,
            out: Arc::default(),
        }
    }
}

impl assembly::Upstream for Member {
    fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn origin(&self) -> &Name {
        &self.from
    }

    fn ask(&self, qname: &Name, qtype: RecordType) -> Task<bool> {
        let upstream = Arc::clone(&self.upstream);
        let request = Request::own(qname.as_ref(), qtype, true);
        Box::pin(async move {
            let start = Instant::now();
            let deadline = start + PATIENCE;
            upstream.exchange(&request, start, deadline).await.is_ok()
        })
    }

    fn take_out(&self) -> TakenOut {
        TakenOut::new(&self.out)
    }
}

/// What to do after an attempt.
pub(super) enum Turn {
    Over(Verdict),
    /// The next upstream may know better.
    Next,
}

impl Group {
    pub(super) fn new(
        stanza: Stanza,
        has_next: bool,
        members: Vec<Arc<Member>>,
        metrics: Arc<ForwardMetrics>,
    ) -> Self {
        Self {
            stays_here: members.iter().all(|member| member.upstream.is_over_udp()),
            picker: Picker::new(stanza.policy),
            hedge: stanza.hedge.then(Hedge::default),
            stanza,
            has_next,
            members,
            flights: Flights::default(),
            metrics,
        }
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Asks, or waits for the reply to an identical question that is out already. Keeps `meanwhile` until then. No
    /// `async fn`: that would hold twice what it is given, and thousands may wait.
    #[expect(clippy::manual_async_fn, reason = "see above")]
    pub(super) fn ask<T: Send>(
        self: Arc<Self>,
        request: Request,
        meanwhile: T,
    ) -> impl Future<Output = Verdict> + Send {
        async move {
            let _meanwhile = &meanwhile;
            let mut now = Instant::now();
            let deadline = now + PATIENCE;
            loop {
                let reply = match self.flights.join(request.key(), now) {
                    Join::Lead(flight) => {
                        let (verdict, in_vain) = match Way::of(&self, &request, now, deadline).await
                        {
                            Ok(verdict) => (verdict, false),
                            Err(trouble) => {
                                let was_sent =
                                    trouble.as_ref().is_some_and(|trouble| !trouble.spent);
                                (failed(trouble), was_sent)
                            }
                        };
                        if flight.land(&verdict, in_vain) {
                            self.metrics.forgotten.inc();
                        }
                        return verdict;
                    }
                    Join::Failed(failure) => {
                        self.metrics.remembered.inc();
                        return Verdict::Fail(failure);
                    }
                    Join::Follow(reply) => reply,
                    Join::Full => return refused("too many queries wait for upstreams"),
                };
                match timeout_at(deadline.into(), reply).await {
                    Ok(Ok(verdict)) => {
                        self.metrics.shared.inc();
                        return verdict;
                    }
                    Ok(Err(_given_up)) => now = Instant::now(),
                    Err(_) => return failed(Some(Trouble::late("forward: i/o timeout".into()))),
                }
            }
        }
    }

    /// What is to be done with a reply. `may_fail_over` if another upstream is left to be asked.
    pub(super) fn judge(
        &self,
        request: &Request,
        mut reply: Reply,
        upstream: &Upstream,
        may_fail_over: bool,
    ) -> Turn {
        let (stanza, from) = (&self.stanza, upstream.address);
        if may_fail_over && stanza.failover.contains(&reply.rcode) {
            return Turn::Next;
        }
        let is_nodata = reply.rcode == Rcode::NOERROR && reply.is_without_answer();
        if self.has_next
            && (stanza.next.contains(&reply.rcode) || stanza.next_on_nodata && is_nodata)
        {
            return Turn::Over(Verdict::Next);
        }
        if reply.truncated && request.over_tcp {
            // There is nothing larger than TCP to ask again over.
            let text = format!("read tcp {from}: the reply is truncated");
            return Turn::Over(failed(Some(Trouble::network(text))));
        }
        if let Some(deny) = &stanza.deny_private {
            let asked = request.asked();
            if deny.concerns(&asked) && reply.deny_private(&asked) {
                upstream.metrics.private();
            }
        }
        Turn::Over(Verdict::Reply(Answer {
            rcode_high: u8::try_from(reply.rcode.0 >> 4).expect("an RCODE has twelve bits"),
            message: reply.message,
            extended_error: reply.extended_error,
            upstream: Some(from),
            answered_by: None,
            rest: None,
        }))
    }
}

/// SERVFAIL after attempts that failed, or without any because all upstreams are down.
fn failed(trouble: Option<Trouble>) -> Verdict {
    let (code, text) = match &trouble {
        Some(Trouble { spent: true, .. }) => (
            ExtendedError::OTHER,
            "the packet budget of the upstreams is spent",
        ),
        Some(Trouble {
            timed_out: false, ..
        }) => (ExtendedError::NETWORK_ERROR, "no upstream can be reached"),
        Some(_) => (
            ExtendedError::NO_REACHABLE_AUTHORITY,
            "no upstream replied in time",
        ),
        None => (
            ExtendedError::NO_REACHABLE_AUTHORITY,
            "all upstreams are down",
        ),
    };
    Verdict::Fail(Failure {
        rcode: Rcode::SERVFAIL,
        error: trouble.map_or("no healthy proxies".into(), |trouble| trouble.text.into()),
        extended_error: Some(ExtendedError::new(code, text)),
    })
}

/// SERVFAIL without an attempt.
pub(super) fn refused(text: &'static str) -> Verdict {
    Verdict::Fail(Failure {
        rcode: Rcode::SERVFAIL,
        error: text.into(),
        extended_error: Some(ExtendedError::new(ExtendedError::OTHER, text)),
    })
}
