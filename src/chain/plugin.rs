//! What a plugin is to the chain.

use std::fmt::{Debug, Write};
use std::future::Future;
use std::pin::Pin;

use crate::chain::content::Held;
use crate::chain::exchange::Exchange;
use crate::chain::search::SearchPath;
use crate::wire::name::{Name, NameRef};

/// One link of the chain.
pub trait Plugin: Send + Sync + 'static {
    /// Its Corefile word, as it stands in metrics and logs.
    fn name(&self) -> &'static str;

    /// Looks at a query on its way down. Must not block.
    fn query(&self, exchange: &mut Exchange<'_>) -> Step;

    /// Looks at the reply on its way up, also where it is a failure or a drop. Called only where `query` said
    /// [`Step::Next`]. Must not block.
    fn reply(&self, _exchange: &mut Exchange<'_>) -> After {
        After::Done
    }

    /// The ways on which this plugin looks at nothing: the chain leaves it out there. Asked once, at load.
    fn passes(&self) -> Passes {
        Passes::Never
    }

    /// Answers a query for which `query` said [`Step::Defer`] and that must not wait, because there is no room for one
    /// more in flight. False if there is nothing better than a failure. Must not block.
    fn answer_at_once(&self, _exchange: &mut Exchange<'_>) -> bool {
        false
    }

    /// Whether this plugin answers the question from data it holds, now and whatever comes. A cache above neither
    /// looks up nor stores what is owned, so what we know is never answered from an older copy.
    fn owns(&self, _exchange: &Exchange<'_>) -> bool {
        false
    }

    /// Whether [`Plugin::owns`] can ever say yes; asked once, at load.
    fn may_own(&self) -> bool {
        false
    }

    /// The apexes of the zones that [`Plugin::content`] knows, in lower case. They may change with time.
    fn zones_held(&self) -> Vec<Name> {
        Vec::new()
    }

    /// All of a zone, for those who may copy it (`transfer`). `apex` is in lower case and has to be the zone's very
    /// name: no zone starts below it. Must not block.
    fn content(&self, _apex: NameRef<'_>) -> Held {
        Held::Nothing
    }

    /// Where the client's resolver looks for names, if this plugin knows the client and QNAME is below the first element
    /// of its path (`autopath @NAME`). Must not block.
    fn search_path(&self, _exchange: &Exchange<'_>) -> Option<SearchPath<'_>> {
        None
    }

    /// Writes what this plugin knows of the query under a label such as `kubernetes/namespace`; false if it knows no such
    /// label. Asked only when somebody wants to read it, on the way up.
    fn metadata(&self, _label: &str, _exchange: &Exchange<'_>, _value: &mut dyn Write) -> bool {
        false
    }
}

/// The way on which a plugin has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// It looks at queries and at replies.
    Never,
    /// [`Plugin::query`] says [`Step::Next`] to everything.
    Queries,
    /// [`Plugin::reply`] says [`After::Done`] to everything, and leaves it as it is.
    Replies,
}

/// What a plugin wants after looking at a query.
pub enum Step {
    /// Not mine: ask the next plugin.
    Next,
    /// The reply is complete: turn round here.
    Answered,
    /// The answer is not in memory: turn round here once this is ready.
    Defer(Pending),
    /// The same for what never computes for long and mostly waits for a [source](crate::reactor::Source): the thread that
    /// serves the query sees it through, if it can. Still it may be polled on any thread.
    DeferHere(Pending),
    /// Send nothing at all.
    Drop,
}

/// What a plugin wants after looking at a reply.
pub enum After {
    /// Keep climbing.
    Done,
    /// The reply needs more work that must wait (dns64 asking for A, say).
    Defer(Pending),
}

/// A verdict still on its way: the one allocation a query pays for leaving the fast path.
/// Dropping it gives the work up.
pub type Pending = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// What a deferred plugin came back with.
#[derive(Debug)]
pub enum Verdict {
    /// A whole reply message in wire form, without OPT, its question ours in any letter case.
    Reply(Answer),
    /// Go on down the chain (`forward … next`, `fallthrough`). After [`After::Defer`]: keep the reply as it is.
    Next,
    /// Nobody could say.
    Fail(Failure),
    /// Send nothing at all.
    Drop,
}

/// A reply that was waited for.
#[derive(Debug, Default)]
pub struct Answer {
    /// Header, question and records, no OPT. ID, QR, RD and CD are not looked at.
    pub message: Vec<u8>,
    /// The RCODE's upper bits, if it had any (RFC 6891, section 6.1.3).
    pub rcode_high: u8,
    /// What the upstream said about the failure.
    pub extended_error: Option<crate::wire::edns::ExtendedError>,
    /// The upstream that gave it.
    pub upstream: Option<std::net::SocketAddr>,
    /// The plugin that answered, where that is another one than came back with it.
    pub answered_by: Option<&'static str>,
    /// The messages that follow it, over TCP.
    pub rest: Option<Box<dyn Messages>>,
}

/// The messages that follow the first one of a reply: only zone transfers have any (RFC 5936, section 2.2). They go to
/// the client as they are; no other plugin sees them.
pub trait Messages: Send + Debug {
    /// Writes the next one into `out`, whose content is dropped. Asked for only when the client has taken most of what
    /// came before, on a thread that may take its time: it can last some milliseconds.
    fn next(&mut self, out: &mut Vec<u8>) -> Next;
}

/// What [`Messages::next`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Written one; there are more.
    More,
    /// Written the last one.
    Last,
    /// Given up: the connection has to end here, so that nobody takes a part for the whole.
    GivenUp,
}

/// Why there is no reply.
#[derive(Debug)]
pub struct Failure {
    /// Mostly SERVFAIL.
    pub rcode: crate::wire::code::Rcode,
    /// For the log.
    pub error: std::borrow::Cow<'static, str>,
    /// For the client.
    pub extended_error: Option<crate::wire::edns::ExtendedError>,
}
