//! A server within the process, for targets that go all the way.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fingerpost::chain::deferred::Outcome;
use fingerpost::chain::exchange::{Arrival, Protocol};
use fingerpost::corefile::render::Color;
use fingerpost::server::generation::{Generation, ServeDefaults};
use fingerpost::server::loader::Reading;
use fingerpost::server::process::Process;
use fingerpost::zone::Zones;
use tokio::runtime::Runtime;

/// What a Corefile of one listener says, on a runtime of one thread: it runs only while somebody waits in it.
pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) process: Arc<Process>,
    pub(crate) zones: Arc<Zones>,
    _generation: Generation,
}

impl Server {
    pub(crate) fn new(corefile: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let process = Process::new(runtime.handle().clone());
        let reading = Reading::of(Path::new("Corefile"), corefile.as_bytes(), 1053);
        assert_eq!(reading.refusal(Color::Never), None);
        let defaults = ServeDefaults { port: 1053 };
        let mut generation = {
            let _within = runtime.enter();
            Generation::build(&reading.blocks, defaults, &process).expect("it can be built")
        };
        let (_, zones) = generation.zones.pop_first().expect("one listener");
        Self {
            runtime,
            process,
            zones,
            _generation: generation,
        }
    }
}

/// What comes of a message; none if nothing is sent.
pub(crate) async fn ask(zones: &Arc<Zones>, message: &[u8], protocol: Protocol) -> Option<Vec<u8>> {
    let arrival = Arrival {
        client: (Ipv4Addr::new(192, 0, 2, 7), 4444).into(),
        local: (Ipv4Addr::LOCALHOST, 53).into(),
        protocol,
        received: Instant::now(),
        alias_depth: 0,
        is_crowded: false,
    };
    let deferred = {
        let mut out = Vec::new();
        match zones.answer(message, arrival, &mut out) {
            Outcome::Reply => return Some(out),
            Outcome::Drop => return None,
            Outcome::Deferred(deferred) => deferred,
        }
    };
    deferred.finish().await
}

/// A query for an A record: RD, no EDNS.
pub(crate) fn query(qname: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let name = fingerpost::wire::name::Name::from_text(qname).expect("a name");
    message.extend_from_slice(name.as_ref().as_wire());
    message.extend_from_slice(&[0, 1, 0, 1]);
    message
}
