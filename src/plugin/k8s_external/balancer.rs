//! Load balancers that have a name instead of an address: the rest of the server, or another one, knows where it leads.

use futures_util::future::join_all;

use crate::chain::exchange::{Exchange, Resolution};
use crate::chain::plugin::Step;
use crate::cluster::table::{ExternalTarget, ServiceView};
use crate::plugin::service::target;
use crate::wire::code::RecordType;
use crate::wire::name::NameRef;
use crate::wire::writer::{Owner, ReplyWriter};

/// Names whose addresses go along with an answer to SRV. Each costs two questions.
const GLUE_NAMES_MAX: usize = 8;

/// The names that a Service is reached by.
pub(super) fn names(view: &ServiceView) -> impl Iterator<Item = NameRef<'_>> + Clone {
    view.external().iter().filter_map(|target| match target {
        ExternalTarget::Name(name) => Some(name.as_ref()),
        ExternalTarget::Address(_) => None,
    })
}

/// The name that a Service's name is an alias of. An alias stands alone (RFC 2181, section 10.1): where there are
/// addresses too they are the answer, and of several names the first is. CoreDNS gives all of them.
pub(super) fn alias(view: &ServiceView) -> Option<NameRef<'_>> {
    let alone = names(view).count() == view.external().len();
    names(view).next().filter(|_| alone)
}

/// Writes the alias, unless it is one of itself.
pub(super) fn write_alias(target: NameRef<'_>, ttl: u32, reply: &mut ReplyWriter<'_>) {
    if reply.qname() != target {
        reply.name_record(Owner::Question, RecordType::CNAME, ttl, target);
    }
}

/// Appends the addresses of these names, both families.
pub(super) fn complete_with_addresses<'n>(
    exchange: &mut Exchange<'_>,
    names: impl Iterator<Item = NameRef<'n>>,
) -> Step {
    let types = [RecordType::A, RecordType::AAAA];
    let questions: Vec<_> = names
        .take(GLUE_NAMES_MAX)
        .flat_map(|name| types.map(|qtype| (name, qtype)))
        .collect();
    complete(exchange, &questions)
}

/// Asks the whole server these questions, and appends what it answers to what is written already. What it denies or
/// fails to say is left out: the name that leads there exists.
pub(super) fn complete(
    exchange: &mut Exchange<'_>,
    questions: &[(NameRef<'_>, RecordType)],
) -> Step {
    let resolutions: Vec<Resolution> = questions
        .iter()
        .map(|&(name, qtype)| exchange.resolve(name, qtype))
        .collect();
    let is_ready = |resolution: &Resolution| matches!(resolution, Resolution::Ready(_));
    if resolutions.iter().all(is_ready) {
        for resolution in &resolutions {
            if let Resolution::Ready(Some(message)) = resolution {
                target::copy_answer(message, &mut exchange.reply);
            }
        }
        return Step::Answered;
    }
    let query: Box<[u8]> = exchange.query.message().into();
    let so_far = exchange.reply.to_partial();
    let extended_error = exchange.state.extended_error.clone();
    Step::Defer(Box::pin(async move {
        let said = join_all(resolutions.into_iter().map(|resolution| async {
            match resolution {
                Resolution::Ready(message) => message,
                Resolution::Waiting(message) => message.await,
            }
        }));
        let said = said.await;
        target::late_reply(&query, extended_error, |reply| {
            reply.restore(so_far);
            for message in said.iter().flatten() {
                target::copy_answer(message, reply);
            }
        })
    }))
}
