//! The upstreams of one directive, and the way of one query through them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use crate::chain::plugin::{Answer, Failure, Verdict};
use crate::plugin::forward::config::Stanza;
use crate::plugin::forward::flight::{Flights, Join};
use crate::plugin::forward::health::Health;
use crate::plugin::forward::metrics::ForwardMetrics;
use crate::plugin::forward::policy::{Picker, Policy};
use crate::plugin::forward::random;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::trouble::Trouble;
use crate::plugin::forward::upstream::Upstream;
use crate::server::assembly::{self, TakenOut, Task};
use crate::wire::code::{Rcode, RecordType};
use crate::wire::edns::ExtendedError;
use crate::wire::name::Name;

/// How long one query may take, all attempts together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Attempts for each upstream, unless `max_connect_attempts` says otherwise.
const ATTEMPTS_EACH: usize = 2;

/// Pause after a failed attempt where attempts have no limit, so that a refusing upstream is not asked in a hot loop.
const PAUSE: Duration = Duration::from_millis(50);

/// The upstreams of a directive.
pub(super) struct Group {
    stanza: Stanza,
    /// Another directive follows, so a reply may be passed over for its.
    has_next: bool,
    members: Vec<Arc<Member>>,
    picker: Picker,
    flights: Flights,
    metrics: Arc<ForwardMetrics>,
}

/// An upstream as one directive sees it.
pub(super) struct Member {
    upstream: Arc<Upstream>,
    /// The file that named it.
    file: Option<PathBuf>,
    /// FROM.
    from: Name,
    /// Those who found that it leads back to us; nothing is sent to it while there are any.
    out: Arc<AtomicUsize>,
}

impl Member {
    pub(super) fn new(upstream: Arc<Upstream>, file: Option<PathBuf>, from: Name) -> Self {
        Self {
            upstream,
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
            let deadline = Instant::now() + PATIENCE;
            upstream.exchange(&request, deadline).await.is_ok()
        })
    }

    fn take_out(&self) -> TakenOut {
        TakenOut::new(&self.out)
    }
}

/// What to do after one exchange.
enum Turn {
    Over(Verdict),
    /// The next upstream may know better.
    Failover,
}

impl Group {
    pub(super) fn new(
        stanza: Stanza,
        has_next: bool,
        members: Vec<Arc<Member>>,
        metrics: Arc<ForwardMetrics>,
    ) -> Self {
        Self {
            picker: Picker::new(stanza.policy),
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

    /// Asks, or waits for the reply to an identical question that is out already.
    pub(super) async fn ask(self: Arc<Self>, request: Request) -> Verdict {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = match self.flights.join(request.key(), Instant::now()) {
                Join::Lead(flight) => {
                    let (verdict, in_vain) = match self.attempts(&request, deadline).await {
                        Ok(verdict) => (verdict, false),
                        Err(trouble) => {
                            let was_sent = trouble.as_ref().is_some_and(|trouble| !trouble.spent);
                            (failed(trouble), was_sent)
                        }
                    };
                    flight.land(&verdict, in_vain);
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
                Ok(Err(_given_up)) => {}
                Err(_) => return failed(Some(Trouble::late("forward: i/o timeout".into()))),
            }
        }
    }

    /// Asks one upstream after the other until one replies. If none does, the last trouble is the error; none if nobody
    /// was asked.
    async fn attempts(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Verdict, Option<Trouble>> {
        let usable: Vec<&Member> = self
            .members
            .iter()
            .map(AsRef::as_ref)
            .filter(|member: &&Member| member.out.load(Ordering::Relaxed) == 0)
            .collect();
        if usable.is_empty() {
            return Ok(refused("every upstream leads back to this server"));
        }
        let attempts_max = match self.stanza.max_connect_attempts {
            Some(attempts) => attempts as usize,
            None => ATTEMPTS_EACH * usable.len(),
        };
        let mut well = self.well(&usable);
        let mut order = self
            .picker
            .order(usable.len(), |place| usable[place].upstream.health.cost());
        let (mut down, mut attempts, mut failovers) = (0, 0, 0);
        let mut trouble = None;
        while Instant::now() < deadline && (attempts_max == 0 || attempts < attempts_max) {
            if order.is_round_over() {
                down = 0;
                well = 0;
            }
            let place = order.next();
            let mut upstream = &usable[place].upstream;
            if well != 0 && well & (1 << place) == 0 {
                self.pass_over(upstream, request);
                continue;
            }
            if upstream.health.is_down(self.stanza.max_fails) {
                upstream.try_again(request);
                down += 1;
                if down < usable.len() {
                    continue;
                }
                self.metrics.broken.inc();
                if self.stanza.failfast {
                    break;
                }
                // Perhaps it is the probes that are broken: any upstream is as good as another.
                upstream = &usable[random::below(usable.len())].upstream;
            }
            match upstream.ask(request, deadline).await {
                Ok(reply) => {
                    failovers += 1;
                    let may_fail_over = failovers < usable.len();
                    match self.judge(request, reply, upstream, may_fail_over) {
                        Turn::Over(verdict) => return Ok(verdict),
                        Turn::Failover => {}
                    }
                }
                Err(error) => {
                    let was_sent = !error.spent;
                    trouble = Some(error);
                    if was_sent && self.stanza.max_fails != 0 {
                        upstream.doubt();
                    }
                    attempts += 1;
                    if down >= usable.len() {
                        break;
                    }
                    if attempts_max == 0 {
                        sleep(PAUSE).await;
                    }
                }
            }
        }
        Err(trouble)
    }

    /// The upstreams that will probably reply, as bits; none where the Corefile says that all are as good
    /// (`max_fails 0`).
    fn well(&self, usable: &[&Member]) -> u64 {
        let stanza = &self.stanza;
        if stanza.max_fails == 0 {
            return 0;
        }
        // Who wants a certain order may want certain answers; then a slow reply is better than another one.
        let mind_silence = stanza.policy != Policy::Sequential;
        let is_absent = |health: &Health| {
            health.is_doubtful()
                || health.is_down(stanza.max_fails)
                || mind_silence && health.is_quiet()
        };
        usable
            .iter()
            .enumerate()
            .filter(|(_, member)| !is_absent(&member.upstream.health))
            .fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Goes by an upstream that will probably not reply; others will.
    fn pass_over(&self, upstream: &Arc<Upstream>, request: &Request) {
        self.metrics.passed_over.inc();
        if upstream.health.is_doubtful() {
            upstream.try_again(request);
        }
    }

    fn judge(
        &self,
        request: &Request,
        mut reply: Reply,
        upstream: &Upstream,
        may_fail_over: bool,
    ) -> Turn {
        let (stanza, from) = (&self.stanza, upstream.address);
        if may_fail_over && stanza.failover.contains(&reply.rcode) {
            return Turn::Failover;
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
fn refused(text: &'static str) -> Verdict {
    Verdict::Fail(Failure {
        rcode: Rcode::SERVFAIL,
        error: text.into(),
        extended_error: Some(ExtendedError::new(ExtendedError::OTHER, text)),
    })
}
