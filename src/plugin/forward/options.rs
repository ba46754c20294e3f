//! The options of `forward`, as the manual shows them.

use crate::plugin::OptionSpec;

pub(super) const OPTIONS: &[OptionSpec] = &[
    option(
        "except",
        "except ZONES...",
        "none",
        "names at or below these zones are passed on",
    ),
    option(
        "force_tcp",
        "force_tcp",
        "as the client asked",
        "asks over TCP, whatever the client used",
    ),
    option(
        "prefer_udp",
        "prefer_udp",
        "as the client asked",
        "asks over UDP first, and over TCP if the reply is truncated",
    ),
    option(
        "expire",
        "expire DURATION",
        "10s",
        "closes sockets that were idle for so long",
    ),
    option(
        "max_age",
        "max_age DURATION",
        "1m over TCP, else 0 (any age)",
        "closes sockets that became so old, or up to a quarter earlier; not less than `expire`",
    ),
    option(
        "max_idle_conns",
        "max_idle_conns N",
        "0 (our own bound)",
        "sockets kept for each upstream and transport",
    ),
    option(
        "read_timeout",
        "read_timeout DURATION",
        "2s",
        "how long one attempt waits for a reply",
    ),
    option(
        "max_fails",
        "max_fails N",
        "2",
        "failed probes after which an upstream is down; 0 means never",
    ),
    option(
        "max_connect_attempts",
        "max_connect_attempts N",
        "2 for each upstream",
        "failed attempts for one query; 0 means as many as 5 s allow",
    ),
    option(
        "health_check",
        "health_check DURATION [no_rec] [domain NAME]",
        "0.5s, domain .",
        "how an upstream that failed is probed, and how often",
    ),
    option(
        "policy",
        "policy random|round_robin|sequential|lowest_latency",
        "random",
        "which upstream is asked first",
    ),
    option(
        "hedge",
        "hedge",
        "off",
        "asks another upstream as well if a reply takes longer than 95 of 100 do, for one query of 20 at most",
    ),
    option(
        "packet_budget",
        "packet_budget N/s",
        "none",
        "messages that each upstream may be sent in any second",
    ),
    option(
        "max_concurrent",
        "max_concurrent N",
        "0 (no limit)",
        "queries at a time; more are answered REFUSED",
    ),
    option(
        "next",
        "next RCODE...",
        "none",
        "replies with these rcodes are passed over for the next `forward` of the block",
    ),
    option(
        "next_on_nodata",
        "next_on_nodata",
        "off",
        "so are replies without an answer",
    ),
    option(
        "failover",
        "failover RCODE...",
        "none",
        "replies with these rcodes are passed over for the next upstream",
    ),
    option(
        "failfast_all_unhealthy_upstreams",
        "failfast_all_unhealthy_upstreams",
        "off",
        "answers SERVFAIL at once while all upstreams are down",
    ),
    option(
        "deny_private",
        "deny_private [ZONES...]",
        "off",
        "takes private addresses out of replies, but for names in these zones",
    ),
    option(
        "source_address",
        "source_address IP",
        "chosen by the system",
        "address that queries are sent from",
    ),
    option(
        "tls",
        "tls [CERT KEY] [CA]",
        "the system's CAs",
        "our certificate and who may sign those of upstreams over TLS",
    ),
    option(
        "tls_servername",
        "tls_servername NAME",
        "the address",
        "name in the certificates of upstreams over TLS",
    ),
    option(
        "doh_method",
        "doh_method POST|GET",
        "POST",
        "method for upstreams over HTTPS",
    ),
    option(
        "resolver",
        "resolver IP[:PORT]...",
        "the system's",
        "who resolves upstreams that are given by name",
    ),
];

const fn option(
    name: &'static str,
    syntax: &'static str,
    default: &'static str,
    help: &'static str,
) -> OptionSpec {
    OptionSpec {
        name,
        syntax,
        default,
        help,
    }
}
