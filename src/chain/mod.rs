//! How plugins are walked.
//!
//! ```text
//! query  ->  errors  ->  cache  ->  kubernetes        down: `Plugin::query`, until one does not say `Next`
//! reply  <-  errors  <-  cache  <-'                   up:   `Plugin::reply`, for those that said `Next`
//! ```
//!
//! The chain owns control flow: a plugin returns a verdict and can neither forget to call the next one, nor call it
//! twice, nor answer twice. Where a plugin has to wait it hands back a future; the walk stops there as a
//! [`deferred::Deferred`] and goes on from the same link when the future is ready.

/// What a plugin is to the chain.
pub mod plugin;

/// All of a zone, for a transfer.
pub mod content;

/// A query and its reply in progress.
pub mod exchange;

/// A query that left the fast path.
pub mod deferred;

/// Where the resolver of a client looks for a name.
pub mod search;

/// Questions to the plugins below, apart from the one that was asked.
pub mod aside;

use std::fmt::Write;
use std::sync::Arc;

use crate::chain::content::Held;
use crate::chain::deferred::Outcome;
use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Pending, Plugin, Step};
use crate::chain::search::SearchPath;
use crate::wire::code::Rcode;
use crate::wire::edns::ExtendedError;

/// The error at the end of a chain. Log filters know these words.
const NO_NEXT_PLUGIN: &str = "no next plugin found";

/// The plugins of a server block, in the order of the registry.
pub struct Chain {
    links: Box<[Arc<dyn Plugin>]>,
    /// Places of the links that may own names, worked out once.
    owners: Box<[usize]>,
}

impl Chain {
    /// A chain of these links.
    pub fn new(links: Vec<Arc<dyn Plugin>>) -> Self {
        let owners = links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.may_own())
            .map(|(place, _)| place)
            .collect();
        Self {
            links: links.into(),
            owners,
        }
    }

    /// Whether no plugin is in it that sees queries.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The names of its links, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.links.iter().map(|link| link.name())
    }

    pub(in crate::chain) fn name_of(&self, depth: usize) -> &'static str {
        self.links[depth].name()
    }

    pub(in crate::chain) fn answer_at_once(
        &self,
        depth: usize,
        exchange: &mut Exchange<'_>,
    ) -> bool {
        self.links[depth].answer_at_once(exchange)
    }

    pub(in crate::chain) fn owned_below(&self, exchange: &Exchange<'_>) -> bool {
        self.owners
            .iter()
            .any(|&place| place > exchange.depth() && self.links[place].owns(exchange))
    }

    /// What the first plugin below the one being asked has of a zone that it holds.
    pub(in crate::chain) fn content_below(&self, exchange: &Exchange<'_>) -> Held {
        let below = self.links.iter().skip(exchange.depth() + 1);
        below
            .map(|link| link.content(exchange.qname()))
            .find(|held| !matches!(held, Held::Nothing))
            .unwrap_or(Held::Nothing)
    }

    pub(in crate::chain) fn search_path_below<'e>(
        &'e self,
        plugin: &str,
        exchange: &'e Exchange<'_>,
    ) -> Option<SearchPath<'e>> {
        let mut links = self.links.iter().skip(exchange.depth() + 1);
        let link = links.find(|link| link.name() == plugin)?;
        link.search_path(exchange)
    }

    pub(in crate::chain) fn metadata(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn Write,
    ) -> bool {
        let mut links = self.links.iter();
        links.any(|link| link.metadata(label, exchange, value))
    }

    /// Runs the chain of the exchange's block as far as memory can take it, from the link `floor` on.
    pub fn start(exchange: &mut Exchange<'_>, floor: usize) -> Outcome {
        Self::descend(exchange, floor, floor)
    }

    /// Goes down from the link `from`. The climb will end above `floor`.
    pub(in crate::chain) fn descend(
        exchange: &mut Exchange<'_>,
        from: usize,
        floor: usize,
    ) -> Outcome {
        let chain = &exchange.block().chain;
        for (depth, link) in chain.links.iter().enumerate().skip(from) {
            exchange.depth = depth;
            match link.query(exchange) {
                Step::Next => {}
                Step::Answered => {
                    exchange.state.answered_by = Some(link.name());
                    return Self::climb(exchange, depth, floor);
                }
                Step::Defer(pending) => return Self::defer(exchange, pending, floor, false),
                Step::Drop => {
                    exchange.state.dropped = true;
                    return Self::climb(exchange, depth, floor);
                }
            }
        }
        // REFUSED is for names that no block serves; a block that has no answer has failed.
        exchange.fail(Rcode::SERVFAIL, NO_NEXT_PLUGIN);
        let why = ExtendedError::new(ExtendedError::OTHER, "no plugin answers for this name");
        exchange.state.extended_error = Some(why);
        Self::climb(exchange, chain.links.len(), floor)
    }

    /// Lets the links above `depth`, down to and with `floor`, see the reply.
    pub(in crate::chain) fn climb(
        exchange: &mut Exchange<'_>,
        depth: usize,
        floor: usize,
    ) -> Outcome {
        let chain = &exchange.block().chain;
        for place in (floor..depth).rev() {
            exchange.depth = place;
            match chain.links[place].reply(exchange) {
                After::Done => {}
                After::Defer(pending) => return Self::defer(exchange, pending, floor, true),
            }
        }
        if exchange.state.dropped {
            return Outcome::Drop;
        }
        exchange.finish();
        Outcome::Reply
    }

    fn defer(exchange: &mut Exchange<'_>, pending: Pending, floor: usize, rising: bool) -> Outcome {
        Outcome::Deferred(exchange.suspend(pending, floor, rising))
    }
}
