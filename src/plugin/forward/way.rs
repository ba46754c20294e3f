//! The way of one query through the upstreams of a directive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::chain::plugin::Verdict;
use crate::plugin::forward::group::{Group, Member, Turn, refused};
use crate::plugin::forward::health::Health;
use crate::plugin::forward::hedge::{Outcome, Race};
use crate::plugin::forward::policy::{Order, Policy};
use crate::plugin::forward::random;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::trouble::Trouble;
use crate::wire::code::Rcode;

/// Attempts for each upstream, unless `max_connect_attempts` says otherwise.
const ATTEMPTS_EACH: usize = 2;

/// Pause after a failed attempt where attempts have no limit, so that a refusing upstream is not asked in a hot loop.
const PAUSE: Duration = Duration::from_millis(50);

/// A query that asks one upstream after the other until one replies.
pub(super) struct Way<'g> {
    group: &'g Group,
    request: &'g Request,
    deadline: Instant,
    usable: Vec<&'g Arc<Member>>,
    order: Order,
    /// Those that will probably reply, as bits. If there are any, no others are asked in the first round.
    well: u64,
    /// Those of this round that are down.
    down: usize,
    /// Failed attempts, and how many there may be; 0 means any number.
    attempts: usize,
    attempts_max: usize,
    failovers: usize,
    /// Two upstreams have been asked at a time.
    hedged: bool,
    trouble: Option<Trouble>,
}

impl<'g> Way<'g> {
    /// None if every upstream leads back to this server.
    fn new(group: &'g Group, request: &'g Request, deadline: Instant) -> Option<Self> {
        let members = group.members().iter();
        let usable: Vec<_> = members
            .filter(|member| member.out.load(Ordering::Relaxed) == 0)
            .collect();
        if usable.is_empty() {
            return None;
        }
        let cost = |place: usize| usable[place].upstream.health.cost();
        let order = group.picker.order(usable.len(), cost);
        let attempts_max = match group.stanza.max_connect_attempts {
            Some(attempts) => attempts as usize,
            None => ATTEMPTS_EACH * usable.len(),
        };
        if let Some(hedge) = &group.hedge {
            hedge.earn();
        }
        let mut way = Self {
            group,
            request,
            deadline,
            usable,
            order,
            well: 0,
            down: 0,
            attempts: 0,
            attempts_max,
            failovers: 0,
            hedged: false,
            trouble: None,
        };
        // With `max_fails 0` the Corefile says that all are as good.
        if group.stanza.max_fails != 0 {
            // Who wants a certain order may want certain answers; then a slow reply is better than another one.
            way.well = way.present(group.stanza.policy != Policy::Sequential);
        }
        Some(way)
    }

    /// Asks until there is a reply, or no time or attempt left. Then the last trouble is the error; none if nobody was
    /// asked.
    pub(super) async fn of(
        group: &'g Group,
        request: &'g Request,
        mut now: Instant,
        deadline: Instant,
    ) -> Result<Verdict, Option<Trouble>> {
        let Some(mut way) = Self::new(group, request, deadline) else {
            return Ok(refused("every upstream leads back to this server"));
        };
        while now < deadline && way.has_attempts(1) {
            let Some(member) = way.next() else { break };
            let before = way.attempts;
            let (first, second) = way.ask(member, now).await;
            for outcome in std::iter::once(first).chain(second) {
                if let Turn::Over(verdict) = way.note(outcome) {
                    return Ok(verdict);
                }
            }
            if way.attempts != before {
                if way.down >= way.usable.len() {
                    break;
                }
                if way.attempts_max == 0 {
                    sleep(PAUSE).await;
                }
            }
            now = Instant::now();
        }
        Err(way.trouble)
    }

    /// Whether so many more may fail.
    fn has_attempts(&self, count: usize) -> bool {
        self.attempts_max == 0 || self.attempts + count <= self.attempts_max
    }

    /// The upstreams that will probably reply, as bits.
    fn present(&self, mind_silence: bool) -> u64 {
        let fails_max = self.group.stanza.max_fails;
        let is_absent = |health: &Health| {
            health.is_doubtful() || health.is_down(fails_max) || mind_silence && health.is_quiet()
        };
        self.usable
            .iter()
            .enumerate()
            .filter(|(_, member)| !is_absent(&member.upstream.health))
            .fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Who is asked now; nobody while all are down, if the Corefile says so.
    fn next(&mut self) -> Option<&'g Arc<Member>> {
        let stanza = &self.group.stanza;
        loop {
            if self.order.is_round_over() {
                self.down = 0;
                self.well = 0;
            }
            let place = self.order.next();
            let member = self.usable[place];
            if self.well != 0 && self.well & (1 << place) == 0 {
                self.pass_over(member);
                continue;
            }
            if !member.upstream.health.is_down(stanza.max_fails) {
                return Some(member);
            }
            member.upstream.try_again(self.request);
            self.down += 1;
            if self.down < self.usable.len() {
                continue;
            }
            self.group.metrics.broken.inc();
            // Perhaps it is the probes that are broken: any upstream is as good as another.
            let any = self.usable[random::below(self.usable.len())];
            return (!stanza.failfast).then_some(any);
        }
    }

    /// Goes by an upstream that will probably not reply; others will.
    fn pass_over(&self, member: &Member) {
        self.group.metrics.passed_over.inc();
        if member.upstream.health.is_doubtful() {
            member.upstream.try_again(self.request);
        }
    }

    /// Asks one upstream, and with `hedge` perhaps another.
    async fn ask(
        &mut self,
        first: &'g Arc<Member>,
        now: Instant,
    ) -> (Outcome<'g>, Option<Outcome<'g>>) {
        let (group, request, deadline) = (self.group, self.request, self.deadline);
        let hedge = match &group.hedge {
            Some(hedge) if !self.hedged && self.has_attempts(2) => hedge,
            _ => {
                let result = first.upstream.ask(request, now, deadline).await;
                let member = first;
                return (Outcome { member, result }, None);
            }
        };
        let race = Race {
            hedge,
            metrics: &group.metrics,
            request,
            deadline,
            wait: self.usual_time(first),
            may_doubt: group.stanza.max_fails != 0,
        };
        let is_good = |reply: &Reply| {
            matches!(reply.rcode, Rcode::NOERROR | Rcode::NXDOMAIN)
                && !group.stanza.failover.contains(&reply.rcode)
                && !(reply.truncated && request.over_tcp)
        };
        race.run(first, || self.second(), is_good).await
    }

    /// What nearly all replies of an upstream take. Of one that has never replied the others are the measure.
    fn usual_time(&self, member: &Member) -> Option<Duration> {
        let of_any = || {
            self.usable
                .iter()
                .filter_map(|any| any.slowness.time())
                .max()
        };
        member.slowness.time().or_else(of_any)
    }

    /// Who is asked as well: somebody who will probably reply, and was not asked in this round.
    fn second(&mut self) -> Option<&'g Arc<Member>> {
        let present = self.present(true);
        let place = self.order.next_of(present)?;
        self.hedged = true;
        Some(self.usable[place])
    }

    /// What follows from an attempt.
    fn note(&mut self, outcome: Outcome<'g>) -> Turn {
        let upstream = &outcome.member.upstream;
        match outcome.result {
            Ok(reply) => {
                self.failovers += 1;
                let may_fail_over = self.failovers < self.usable.len();
                self.group
                    .judge(self.request, reply, upstream, may_fail_over)
            }
            Err(error) => {
                if !error.spent && self.group.stanza.max_fails != 0 {
                    upstream.doubt();
                }
                self.trouble = Some(error);
                self.attempts += 1;
                Turn::Next
            }
        }
    }
}
