//! A query that left the fast path.

use std::sync::Arc;

use crate::chain::Chain;
use crate::chain::exchange::{Exchange, Parts, State};
use crate::chain::plugin::{Answer, Failure, Messages, Pending, Verdict};
use crate::wire::code::Rcode;
use crate::wire::edns::ExtendedError;
use crate::wire::name::NameBuf;
use crate::wire::query::Query;
use crate::wire::writer::PartialReply;

/// What became of a query.
pub enum Outcome {
    /// The reply stands in the buffer, ready to be sent.
    Reply,
    /// It has to wait; the buffer holds nothing of use.
    Deferred(Box<Deferred>),
    /// Send nothing.
    Drop,
}

/// Where a query waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chain) enum Wait {
    /// On its way down.
    Down,
    /// The same, and the thread that serves it may see it through.
    DownHere,
    /// With its reply, on the way up.
    Up,
}

/// What a wait on the thread that serves came to.
pub enum Here {
    /// Its end; none means: send nothing.
    Finished(Option<Finished>),
    /// It has to wait once more, and not on this thread.
    Leaves(Box<Deferred>),
}

/// A reply that was waited for, ready to be sent.
pub struct Finished {
    /// Its first message, mostly the only one.
    pub message: Vec<u8>,
    /// Those that follow.
    pub rest: Option<Box<dyn Messages>>,
}

/// A query that waits for a plugin's verdict. It keeps its chain alive, so a reload never pulls one from under it.
pub struct Deferred {
    parts: Parts,
    pending: Pending,
    stays: bool,
    depth: usize,
    floor: usize,
    /// The reply so far, where the plugin deferred on the way up.
    rising: Option<PartialReply>,
}

impl Deferred {
    pub(in crate::chain) fn new(
        parts: Parts,
        pending: Pending,
        stays: bool,
        depth: usize,
        floor: usize,
        rising: Option<PartialReply>,
    ) -> Self {
        Self {
            parts,
            pending,
            stays,
            depth,
            floor,
            rising,
        }
    }

    /// What is known about the query.
    pub fn state(&self) -> &State {
        &self.parts.state
    }

    /// Whether the thread that serves may see it through ([`Step::DeferHere`](crate::chain::plugin::Step::DeferHere)).
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// The query as it came in.
    pub fn message(&self) -> Arc<[u8]> {
        Arc::clone(&self.parts.message)
    }

    /// Waits for the verdict, then goes the rest of the way. None means: send nothing. For those who can use one
    /// message only.
    pub async fn finish(self: Box<Self>) -> Option<Vec<u8>> {
        self.finish_all().await.map(|finished| finished.message)
    }

    /// The same with the messages that follow the first.
    pub async fn finish_all(self: Box<Self>) -> Option<Finished> {
        self.run().await.map(|(finished, _)| finished)
    }

    /// One message, with what else is known of it: for who asked aside.
    pub async fn finish_aside(self: Box<Self>) -> Option<(Vec<u8>, State)> {
        let (finished, state) = self.run().await?;
        Some((finished.message, state))
    }

    /// The first message, if all waits are for the thread that serves.
    pub async fn finish_here(self: Box<Self>) -> Here {
        let mut this = self;
        while this.stays {
            let verdict = this.verdict().await;
            match this.resume(verdict) {
                Woken::Finished(done) => return Here::Finished(Some(done.0)),
                Woken::Dropped => return Here::Finished(None),
                Woken::Waits(next) => this = next,
            }
        }
        Here::Leaves(this)
    }

    async fn verdict(&mut self) -> Verdict {
        match self.parts.state.deadline {
            None => self.pending.as_mut().await,
            Some(deadline) => {
                let pending = tokio::time::timeout_at(deadline.into(), self.pending.as_mut());
                // Those without a deadline need not keep a place for its timer.
                Box::pin(pending).await.unwrap_or_else(|_| out_of_time())
            }
        }
    }

    /// It stays in its box until the wait is over: thousands may wait, and a future holds twice what it is given.
    async fn run(self: Box<Self>) -> Option<(Finished, State)> {
        let mut this = self;
        loop {
            let verdict = this.verdict().await;
            match this.resume(verdict) {
                Woken::Finished(done) => return Some(*done),
                Woken::Dropped => return None,
                Woken::Waits(next) => this = next,
            }
        }
    }

    fn resume(self: Box<Self>, verdict: Verdict) -> Woken {
        let mut message = Vec::with_capacity(512);
        let this = *self;
        let resumed = resume(
            this.parts,
            verdict,
            this.depth,
            this.floor,
            this.rising,
            &mut message,
        );
        let Resumed {
            outcome,
            rest,
            state,
        } = resumed;
        match outcome {
            Outcome::Reply => Woken::Finished(Box::new((Finished { message, rest }, state))),
            Outcome::Drop => Woken::Dropped,
            Outcome::Deferred(next) => Woken::Waits(next),
        }
    }

    /// Answers at once, without waiting, because there is no room for one more in flight: with what the plugin that
    /// wanted to wait has to offer instead, or else SERVFAIL for the reason given.
    pub fn refuse(self, reason: &'static str, out: &mut Vec<u8>) -> Outcome {
        drop(self.pending);
        let (depth, floor) = (self.depth, self.floor);
        // Once turned round, a plugin has no other answer than the one that it wanted to work on.
        let goes_down = self.rising.is_none();
        let resumed = with_exchange(self.parts, depth, out, |exchange| {
            let chain = &exchange.block().chain;
            if goes_down && chain.answer_at_once(depth, exchange) {
                exchange.state.answered_by = Some(chain.name_of(depth));
            } else {
                exchange.fail(Rcode::SERVFAIL, reason);
                let why = ExtendedError::new(ExtendedError::OTHER, reason);
                exchange.state.extended_error = Some(why);
            }
            Chain::climb(exchange, depth, floor)
        });
        resumed.outcome
    }
}

fn out_of_time() -> Verdict {
    const WHY: &str = "the query's time is over";
    Verdict::Fail(Failure {
        rcode: Rcode::SERVFAIL,
        error: WHY.into(),
        extended_error: Some(ExtendedError::new(ExtendedError::OTHER, WHY)),
    })
}

/// What became of a query whose wait was over.
enum Woken {
    Finished(Box<(Finished, State)>),
    Dropped,
    /// It has to wait once more.
    Waits(Box<Deferred>),
}

/// What a query came to that went on its way.
struct Resumed {
    outcome: Outcome,
    rest: Option<Box<dyn Messages>>,
    state: State,
}

fn resume(
    parts: Parts,
    verdict: Verdict,
    depth: usize,
    floor: usize,
    rising: Option<PartialReply>,
    out: &mut Vec<u8>,
) -> Resumed {
    with_exchange(parts, depth, out, |exchange| {
        let was_rising = rising.is_some();
        if let Some(rising) = rising {
            exchange.reply.restore(rising);
        }
        go_on(exchange, verdict, depth, floor, was_rising)
    })
}

/// Takes a query up again at the link that it waited at.
fn with_exchange(
    parts: Parts,
    depth: usize,
    out: &mut Vec<u8>,
    go: impl FnOnce(&mut Exchange<'_>) -> Outcome,
) -> Resumed {
    let Parts {
        message,
        state,
        block,
        zones,
        rest: following,
    } = parts;
    let query = Query::parse(&message).expect("it was checked before it waited");
    let qname = NameBuf::lower_of(query.qname());
    let mut exchange = Exchange::new(&query, &qname, state, &block, &zones, out);
    exchange.depth = depth;
    exchange.rest = following;
    let outcome = go(&mut exchange);
    let nothing = State::new(exchange.state.arrival);
    Resumed {
        outcome,
        rest: exchange.rest.take(),
        state: std::mem::replace(&mut exchange.state, nothing),
    }
}

fn go_on(
    exchange: &mut Exchange<'_>,
    verdict: Verdict,
    depth: usize,
    floor: usize,
    was_rising: bool,
) -> Outcome {
    match verdict {
        Verdict::Next if was_rising => {}
        Verdict::Next => return Chain::descend(exchange, depth + 1, floor),
        Verdict::Reply(answer) => take(exchange, answer, depth),
        Verdict::Fail(failure) => {
            exchange.fail(failure.rcode, failure.error);
            exchange.state.extended_error = failure.extended_error;
        }
        Verdict::Drop => exchange.state.dropped = true,
    }
    Chain::climb(exchange, depth, floor)
}

fn take(exchange: &mut Exchange<'_>, answer: Answer, depth: usize) {
    if exchange.reply.adopt(&answer.message).is_err() {
        exchange.fail(
            Rcode::SERVFAIL,
            "a plugin came back with a reply to another question",
        );
        return;
    }
    exchange.reply.rcode.0 |= u16::from(answer.rcode_high) << 4;
    exchange.state.extended_error = answer.extended_error;
    exchange.state.upstream = answer.upstream;
    exchange.rest = answer.rest;
    let chain = &exchange.block().chain;
    exchange.state.answered_by = answer.answered_by.or(Some(chain.name_of(depth)));
}
