//! Questions that a plugin asks those below it apart from the one it was asked: the reply comes back whole (no limit of
//! UDP), and nothing above sees it.

use std::sync::Arc;

use crate::chain::Chain;
use crate::chain::deferred::{Deferred, Outcome};
use crate::chain::exchange::{Below, Exchange, State, write_question};
use crate::wire::name::{NameBuf, NameRef};
use crate::wire::query::Query;
use crate::zone::Zones;
use crate::zone::block::ServerBlock;

/// Room for a question asked aside and its reply, to be used again and again.
#[derive(Debug, Default)]
pub struct Room {
    query: Vec<u8>,
    reply: Vec<u8>,
}

impl Room {
    /// Without any yet.
    pub const fn new() -> Self {
        Self {
            query: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// The reply of the last question that [`Aside::Reply`] came back for: a whole message, with an OPT if the client's
    /// query has one.
    pub fn reply(&self) -> &[u8] {
        &self.reply
    }
}

/// What became of a question asked aside.
#[expect(clippy::large_enum_variant, reason = "a box would allocate")]
pub enum Aside {
    /// The reply stands in its [`Room`]; this is what else is known of it.
    Reply(State),
    /// It has to be waited for.
    Deferred(Box<Deferred>),
    /// There will be none.
    Drop,
}

impl Exchange<'_> {
    /// Asks the plugins below the one being asked for another name, as far as memory can take it. Allocates nothing
    /// that those do not, once the room has grown.
    pub fn ask_below(&self, qname: NameRef<'_>, room: &mut Room) -> Aside {
        let (block, zones) = self.surroundings();
        ask(
            self.query,
            qname,
            self.aside_state(),
            (block, zones),
            self.depth() + 1,
            room,
        )
    }
}

impl Below {
    /// The same from within a future.
    pub fn ask_for(&self, qname: NameRef<'_>, room: &mut Room) -> Aside {
        let Ok(query) = Query::parse(&self.message) else {
            return Aside::Drop;
        };
        let surroundings = (&self.block, &self.zones);
        ask(
            &query,
            qname,
            self.state.clone(),
            surroundings,
            self.floor,
            room,
        )
    }
}

fn ask(
    query: &Query<'_>,
    qname: NameRef<'_>,
    state: State,
    (block, zones): (&Arc<ServerBlock>, &Arc<Zones>),
    floor: usize,
    room: &mut Room,
) -> Aside {
    room.query.clear();
    write_question(query, qname, query.qtype(), &mut room.query);
    let Ok(query) = Query::parse(&room.query) else {
        return Aside::Drop;
    };
    let qname = NameBuf::lower_of(query.qname());
    let mut exchange = Exchange::new(&query, &qname, state, block, zones, &mut room.reply);
    match Chain::descend(&mut exchange, floor, floor) {
        Outcome::Reply => {
            let nothing = State::new(exchange.state.arrival);
            Aside::Reply(std::mem::replace(&mut exchange.state, nothing))
        }
        Outcome::Deferred(deferred) => Aside::Deferred(deferred),
        Outcome::Drop => Aside::Drop,
    }
}
