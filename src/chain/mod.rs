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

/// The time that an answer took.
pub mod stopwatch;

/// Questions to the plugins below, apart from the one that was asked.
pub mod aside;

use std::fmt::Write;
use std::sync::Arc;

use crate::chain::content::Held;
use crate::chain::deferred::{Outcome, Wait};
use crate::chain::exchange::Exchange;
use crate::chain::plugin::{After, Passes, Pending, Plugin, Step};
use crate::chain::search::SearchPath;
use crate::wire::code::Rcode;
use crate::wire::edns::ExtendedError;

/// The error at the end of a chain. Log filters know these words.
const NO_NEXT_PLUGIN: &str = "no next plugin found";

/// The plugins of a server block, in the order of the registry.
pub struct Chain {
    links: Box<[Link]>,
    /// Places of the links that may own names, worked out once.
    owners: Box<[usize]>,
}

struct Link {
    plugin: Arc<dyn Plugin>,
    passes: Passes,
}

impl Chain {
    /// A chain of these plugins.
    pub fn new(links: Vec<Arc<dyn Plugin>>) -> Self {
        let owners = links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.may_own())
            .map(|(place, _)| place)
            .collect();
        let links = links.into_iter().map(|plugin| Link {
            passes: plugin.passes(),
            plugin,
        });
        Self {
            links: links.collect(),
            owners,
        }
    }

    /// Whether no plugin is in it that sees queries.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    fn plugins(&self) -> impl Iterator<Item = &dyn Plugin> {
        self.links.iter().map(|link| &*link.plugin)
    }

    /// The names of its links, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.plugins().map(|plugin| plugin.name())
    }

    pub(in crate::chain) fn name_of(&self, depth: usize) -> &'static str {
        self.links[depth].plugin.name()
    }

    pub(in crate::chain) fn answer_at_once(
        &self,
        depth: usize,
        exchange: &mut Exchange<'_>,
    ) -> bool {
        self.links[depth].plugin.answer_at_once(exchange)
    }

    pub(in crate::chain) fn owned_below(&self, exchange: &Exchange<'_>) -> bool {
        self.owners
            .iter()
            .any(|&place| place > exchange.depth() && self.links[place].plugin.owns(exchange))
    }

    /// What the first plugin below the one being asked has of a zone that it holds.
    pub(in crate::chain) fn content_below(&self, exchange: &Exchange<'_>) -> Held {
        self.plugins()
            .skip(exchange.depth() + 1)
            .map(|plugin| plugin.content(exchange.qname()))
            .find(|held| !matches!(held, Held::Nothing))
            .unwrap_or(Held::Nothing)
    }

    pub(in crate::chain) fn search_path_below<'e>(
        &'e self,
        plugin: &str,
        exchange: &'e Exchange<'_>,
    ) -> Option<SearchPath<'e>> {
        let mut below = self.plugins().skip(exchange.depth() + 1);
        let found = below.find(|below| below.name() == plugin)?;
        found.search_path(exchange)
    }

    pub(in crate::chain) fn metadata(
        &self,
        label: &str,
        exchange: &Exchange<'_>,
        value: &mut dyn Write,
    ) -> bool {
        self.plugins()
            .any(|plugin| plugin.metadata(label, exchange, value))
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
            if link.passes == Passes::Queries {
                continue;
            }
            exchange.depth = depth;
            match link.plugin.query(exchange) {
                Step::Next => {}
                Step::Answered => {
                    exchange.state.answered_by = Some(link.plugin.name());
                    return Self::climb(exchange, depth, floor);
                }
                Step::Defer(pending) => return Self::defer(exchange, pending, floor, Wait::Down),
                Step::DeferHere(pending) => {
                    return Self::defer(exchange, pending, floor, Wait::DownHere);
                }
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
            let link = &chain.links[place];
            if link.passes == Passes::Replies {
                continue;
            }
            exchange.depth = place;
            match link.plugin.reply(exchange) {
                After::Done => {}
                After::Defer(pending) => return Self::defer(exchange, pending, floor, Wait::Up),
            }
        }
        if exchange.state.dropped {
            return Outcome::Drop;
        }
        exchange.finish();
        Outcome::Reply
    }

    fn defer(exchange: &mut Exchange<'_>, pending: Pending, floor: usize, wait: Wait) -> Outcome {
        Outcome::Deferred(exchange.suspend(pending, floor, wait))
    }
}
