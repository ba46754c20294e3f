//! `cookie`: DNS cookies (RFC 7873, RFC 9018). A client that gets its own cookie back with the reply knows that nobody
//! off the path made it; one that sends our cookie shows that it can receive at its address.
//!
//! All is worked out from the query, its address, the time and a secret, so nothing is kept for any client, and
//! replicas that share the secret accept each other's cookies.

mod config;
mod metrics;
mod server;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::chain::exchange::{Exchange, Protocol};
use crate::chain::plugin::{Passes, Plugin, Step};
use crate::plugin::Spec;
use crate::plugin::cookie::config::Drawn;
use crate::plugin::cookie::metrics::CookieMetrics;
use crate::plugin::cookie::server::{Secret, Sent};
use crate::wire::code::Rcode;
use crate::wire::edns::{CookieOption, option_code};

/// What is known about `cookie`.
pub static SPEC: Spec = Spec {
    name: "cookie",
    summary: "makes replies hard to forge: DNS cookies (RFC 7873)",
    options: config::OPTIONS,
    parse: config::parse,
};

struct Cookie {
    /// The first makes cookies, all are accepted.
    secrets: Vec<Secret>,
    /// Keeps the secret that was drawn at random for the next generation.
    _drawn: Option<Arc<Drawn>>,
    require: bool,
    metrics: Arc<CookieMetrics>,
}

impl Cookie {
    fn new(
        secrets: Vec<Secret>,
        drawn: Option<Arc<Drawn>>,
        require: bool,
        metrics: Arc<CookieMetrics>,
    ) -> Self {
        Self {
            secrets,
            _drawn: drawn,
            require,
            metrics,
        }
    }
}

impl Plugin for Cookie {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn passes(&self) -> Passes {
        Passes::Replies
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        // Of several, the first counts (RFC 7873, section 5.2).
        let mut options = exchange
            .query
            .edns()
            .into_iter()
            .flat_map(|edns| edns.options());
        let Some((_, sent)) = options.find(|&(code, _)| code == option_code::COOKIE) else {
            return Step::Next;
        };
        let arrival = exchange.arrival();
        let (sent, cookie) = server::answer(&self.secrets, arrival.client.ip(), sent, unix_time());
        let over_udp = arrival.protocol == Protocol::Udp;
        self.metrics.count(sent);
        if sent == Sent::Malformed {
            // RFC 7873, section 5.2.2.
            exchange.reply.rcode = Rcode::FORMERR;
            return Step::Answered;
        }
        exchange.state.cookie = Some(CookieOption::new(cookie));
        if self.require && over_udp && sent != Sent::Valid {
            // RFC 7873, sections 5.2.3 and 5.2.4. Over TCP the client has shown its address already.
            exchange.reply.rcode = Rcode::BADCOOKIE;
            return Step::Answered;
        }
        Step::Next
    }
}

/// Seconds since 1970. If the clock jumps, clients get another cookie, no more.
fn unix_time() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    u32::try_from(seconds & 0xffff_ffff).unwrap_or(u32::MAX)
}
