//! One test for each thing that an upstream can do wrong, with `cache` above `forward`. What others make of the same
//! (CoreDNS 1.14.7, Unbound 1.17.1, dnsdist 1.7.3, each asked once, with an upstream that does the same over UDP):
//!
//! | fault | here | CoreDNS | Unbound | dnsdist |
//! |---|---|---|---|---|
//! | no reply | SERVFAIL, 2 packets | SERVFAIL, 2 | SERVFAIL, 10 | silence |
//! | wrong ID | SERVFAIL | SERVFAIL | SERVFAIL | silence |
//! | wrong ID, garbage or 1 octet, then a good reply | good | good | good | good |
//! | QR 0, then good | good | FORMERR at once | SERVFAIL | good |
//! | cut in a record, then good | good | NOERROR with TC | SERVFAIL | passes the junk on |
//! | another question; QDCOUNT 0 | SERVFAIL | FORMERR at once | SERVFAIL | silence |
//! | the same, then good | good | FORMERR at once | SERVFAIL | good |
//! | another type, another class | SERVFAIL | FORMERR | SERVFAIL | silence |
//! | a record of another name in ANSWER | cut off | passes it on | cut off | passes it on |
//! | NS and glue of another zone | cut off | passes them on | cut off | passes them on |
//! | TC always | TC | TC | SERVFAIL, 10 | TC |
//! | SERVFAIL | SERVFAIL, 1 | SERVFAIL, 1 | SERVFAIL, 5 | SERVFAIL, 1 |
//! | REFUSED, FORMERR, NOTIMP | passed on, 1 | passed on, 1 | SERVFAIL, 5 to 10 | passed on, 1 |
//! | NXDOMAIN, NODATA without SOA | passed on | passed on | passed on | passed on |
//! | a CNAME to itself | SERVFAIL | passes it on | SERVFAIL | passes it on |
//! | a pointer loop | SERVFAIL, 2 | SERVFAIL, 2 | SERVFAIL, 5 | passes the junk on |
//! | counts of 65535 and no record | SERVFAIL | NOERROR | SERVFAIL | passes the junk on |
//! | three copies of the reply | one | one | one | one |
//! | QNAME in other letters | accepted | accepted | accepted | accepted |
//! | a TTL of 0xffffffff | as 0 | accepted | accepted | accepted |
//! | 200 addresses without EDNS | TC | TC | TC | 3240 octets |

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/bed.rs"]
mod bed;
#[path = "support/upstream.rs"]
mod upstream;

use bed::{Bed, Reply, nobody, plain_query};
use fingerpost::chain::exchange::Protocol;
use fingerpost::wire::code::{Rcode, RecordType};
use fingerpost::wire::record::Records;
use upstream::{FORGED, Upstream};

/// Packets that one query of a client may cost, whatever the upstream does.
const PACKETS_MAX: usize = 6;

struct Fault {
    upstream: Upstream,
    bed: Bed,
}

impl Fault {
    async fn with(options: &str) -> Self {
        let upstream = Upstream::start(1).await;
        let bed = Bed::new(&format!(
            ". {{\ncache\nforward . {} {{\n{options}\n}}\n}}",
            upstream.address
        ));
        Self { upstream, bed }
    }

    /// With time enough for the good reply that may come after a bad one.
    async fn patient() -> Self {
        Self::with("read_timeout 2s").await
    }

    async fn impatient() -> Self {
        Self::with("read_timeout 60ms").await
    }

    async fn meet(&self, fault: &str, protocol: Protocol) -> Reply {
        let before = self.upstream.seen().len();
        let message = plain_query(&format!("{fault}.fault.test"), RecordType::A);
        let reply = bed::ask(&self.bed.zones, &message, protocol).await;
        let packets = self.upstream.seen().len() - before;
        assert!(packets <= PACKETS_MAX, "{packets} packets");
        let forged = FORGED.octets();
        let is_forged = reply.octets.windows(4).any(|octets| octets == forged);
        assert!(!is_forged, "{reply:?}");
        reply
    }

    fn count(&self) -> usize {
        self.upstream.seen().len()
    }
}

/// The true answer comes after the fault, which has cost nothing.
async fn is_waited_out(fault: &str) {
    let at = Fault::patient().await;
    let reply = at.meet(&format!("{fault}thengood"), Protocol::Udp).await;
    assert_eq!(
        (reply.rcode(), reply.number(), at.count()),
        (Rcode::NOERROR, 1, 1)
    );
}

/// Nothing comes of it but SERVFAIL, and nothing of it is kept.
async fn is_no_reply(fault: &str) {
    let at = Fault::impatient().await;
    let reply = at.meet(fault, Protocol::Udp).await;
    assert_eq!((reply.rcode(), at.count()), (Rcode::SERVFAIL, 2));
    assert!(reply.addresses().is_empty());
}

/// The rcode goes to the client as it is, at the cost of one packet.
async fn is_passed_on(fault: &str, rcode: Rcode) {
    let at = Fault::impatient().await;
    let reply = at.meet(fault, Protocol::Udp).await;
    assert_eq!((reply.rcode(), at.count()), (rcode, 1));
}

/// One address is left of it.
async fn is_stripped(fault: &str) {
    let at = Fault::impatient().await;
    let reply = at.meet(fault, Protocol::Udp).await;
    assert_eq!((reply.rcode(), reply.number()), (Rcode::NOERROR, 1));
    assert_eq!(Records::of_message(&reply.octets).unwrap().count(), 1);
    let series = format!(
        "fingerpost_forward_stripped_replies_total{{to=\"{}\"}}",
        at.upstream.address
    );
    assert_eq!(at.bed.metric(&series), 1);
    // From the cache it is the same, and the name that was smuggled in is asked for.
    assert_eq!(at.meet(fault, Protocol::Udp).await.number(), 1);
    assert_eq!(at.count(), 1);
    assert_eq!(at.meet("victim", Protocol::Udp).await.number(), 1);
    assert_eq!(at.count(), 2);
}

#[tokio::test]
async fn silence() {
    is_no_reply("timeout").await;
}

#[tokio::test]
async fn a_wrong_id() {
    is_no_reply("wrongid").await;
}

#[tokio::test]
async fn a_wrong_id_before_the_reply() {
    is_waited_out("wrongid").await;
}

#[tokio::test]
async fn garbage_before_the_reply() {
    is_waited_out("garbage").await;
}

#[tokio::test]
async fn one_octet_before_the_reply() {
    is_waited_out("short").await;
}

#[tokio::test]
async fn a_query_in_place_of_a_reply_before_the_reply() {
    is_waited_out("qr0").await;
}

#[tokio::test]
async fn a_reply_cut_in_a_record_before_the_reply() {
    is_waited_out("malformed").await;
}

#[tokio::test]
async fn another_question() {
    is_no_reply("wrongq").await;
}

#[tokio::test]
async fn another_question_before_the_reply() {
    is_waited_out("wrongq").await;
}

#[tokio::test]
async fn no_question() {
    is_no_reply("qd0").await;
}

#[tokio::test]
async fn no_question_before_the_reply() {
    is_waited_out("qd0").await;
}

#[tokio::test]
async fn another_type() {
    is_no_reply("wrongtype").await;
}

#[tokio::test]
async fn another_class() {
    is_no_reply("wrongclass").await;
}

#[tokio::test]
async fn an_address_of_another_name_behind_the_answer() {
    is_stripped("poisonans").await;
}

#[tokio::test]
async fn an_address_of_another_name_before_the_answer() {
    is_stripped("poisonmid").await;
}

#[tokio::test]
async fn name_servers_and_glue_of_another_zone() {
    is_stripped("poisonauth").await;
}

#[tokio::test]
async fn truncated_whatever_the_transport() {
    let at = Fault::with("prefer_udp").await;
    assert!(at.meet("tc", Protocol::Udp).await.is_truncated());
    assert_eq!(at.count(), 2);
    let reply = at.meet("tc", Protocol::Tcp).await;
    assert_eq!(
        (reply.rcode(), reply.is_truncated()),
        (Rcode::SERVFAIL, false)
    );
}

#[tokio::test]
async fn servfail() {
    is_passed_on("servfail", Rcode::SERVFAIL).await;
}

#[tokio::test]
async fn refused() {
    is_passed_on("refused", Rcode::REFUSED).await;
}

#[tokio::test]
async fn formerr() {
    is_passed_on("formerr", Rcode::FORMERR).await;
}

#[tokio::test]
async fn notimp() {
    is_passed_on("notimp", Rcode::NOTIMP).await;
}

#[tokio::test]
async fn a_name_error_without_soa() {
    is_passed_on("nxdomain", Rcode::NXDOMAIN).await;
}

#[tokio::test]
async fn nodata_without_soa() {
    is_passed_on("nodata", Rcode::NOERROR).await;
}

#[tokio::test]
async fn a_cname_to_itself() {
    let at = Fault::impatient().await;
    let reply = at.meet("cnameloop", Protocol::Udp).await;
    assert_eq!((reply.rcode(), at.count()), (Rcode::SERVFAIL, 1));
    assert_eq!(Records::of_message(&reply.octets).unwrap().count(), 0);
}

#[tokio::test]
async fn a_loop_of_pointers() {
    is_no_reply("pointer").await;
}

#[tokio::test]
async fn counts_of_records_that_are_not_there() {
    is_no_reply("lying").await;
}

#[tokio::test]
async fn three_copies_of_the_reply() {
    let at = Fault::impatient().await;
    assert_eq!(at.meet("dup", Protocol::Udp).await.number(), 1);
    assert_eq!(at.meet("ok", Protocol::Udp).await.number(), 1);
    assert_eq!(at.count(), 2);
}

#[tokio::test]
async fn a_question_in_other_letters() {
    let at = Fault::impatient().await;
    assert_eq!(at.meet("case", Protocol::Udp).await.number(), 1);
}

#[tokio::test]
async fn a_ttl_past_all_bounds() {
    let at = Fault::impatient().await;
    let message = plain_query("wild.fault.test", RecordType::A);
    let reply = bed::ask(&at.bed.zones, &message, Protocol::Udp).await;
    let (_, record) = Records::of_message(&reply.octets)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    // The least that `cache` says; without it 0 (`a_ttl_beyond_all_bounds_is_zero`).
    assert_eq!(record.ttl, 5);
}

#[tokio::test]
async fn more_addresses_than_the_client_takes() {
    let at = Fault::patient().await;
    let reply = at.meet("big", Protocol::Udp).await;
    assert!(reply.is_truncated() && reply.octets.len() <= 512);
}

#[tokio::test]
async fn a_connection_reset_in_place_of_a_reply() {
    let at = Fault::patient().await;
    let reply = at.meet("rst", Protocol::Tcp).await;
    assert_eq!((reply.rcode(), at.count()), (Rcode::SERVFAIL, 2));
}

#[tokio::test]
async fn a_connection_reset_within_the_reply() {
    let at = Fault::patient().await;
    let reply = at.meet("midrst", Protocol::Tcp).await;
    assert_eq!((reply.rcode(), at.count()), (Rcode::SERVFAIL, 2));
}

#[tokio::test]
async fn a_reply_octet_by_octet_has_the_time_of_any_other() {
    // Fifty octets with 30 ms after each.
    let at = Fault::with("read_timeout 300ms").await;
    let reply = at.meet("drip", Protocol::Tcp).await;
    assert_eq!((reply.rcode(), at.count()), (Rcode::SERVFAIL, 2));
}

#[tokio::test]
async fn two_replies_in_one_segment() {
    let at = Fault::patient().await;
    assert_eq!(at.meet("glued", Protocol::Tcp).await.number(), 1);
    // The second one stands before the next query's reply on the same connection.
    let reply = at.meet("ok", Protocol::Tcp).await;
    assert_eq!((reply.rcode(), reply.number()), (Rcode::NOERROR, 1));
}

#[tokio::test]
async fn a_length_of_65535_and_ten_octets() {
    let at = Fault::with("read_timeout 300ms").await;
    let reply = at.meet("longlength", Protocol::Tcp).await;
    assert_eq!((reply.rcode(), at.count()), (Rcode::SERVFAIL, 2));
}

#[tokio::test]
async fn a_port_that_refuses_sends_the_query_to_the_next_upstream_at_once() {
    let upstream = Upstream::start(1).await;
    let bed = Bed::new(&format!(
        ". {{\nforward . {} {} {{\npolicy sequential\nread_timeout 1h\n}}\n}}",
        nobody(),
        upstream.address
    ));
    assert_eq!(bed.ask("ok.fault.test").await.number(), 1);
    assert_eq!(bed.ask_over_tcp("ok.fault.test").await.number(), 1);
}

#[tokio::test]
async fn replies_that_overtake_one_another_reach_those_who_asked() {
    let at = Fault::with("read_timeout 5s\nmax_idle_conns 1").await;
    let slow = at.meet("wrongidthengood", Protocol::Udp);
    let fast = at.meet("ok", Protocol::Udp);
    let (slow, fast) = tokio::join!(slow, fast);
    assert_eq!((slow.number(), fast.number()), (1, 1));
}

/// A query that is out, and `tries` forgeries from the upstream's own address to its own port before the reply: half
/// with a wrong ID, half with the right ID and another question.
async fn spoof(tries: u32) {
    let upstream = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = upstream.local_addr().unwrap();
    let bed = Bed::new(&format!(". {{\nforward . {to} {{\nread_timeout 1h\n}}\n}}"));
    let attack = async {
        let mut query = [0; 512];
        let (length, client) = upstream.recv_from(&mut query).await.unwrap();
        let mut forged = query[..length].to_vec();
        let (flags_at, count_at, name_at) = (2, 7, 13);
        forged[flags_at..4].copy_from_slice(&[0x81, 0x80]);
        forged[count_at] = 1;
        forged.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04");
        let mut good = forged.clone();
        forged.extend_from_slice(&FORGED.octets());
        good.extend_from_slice(&[192, 0, 2, 1]);
        let id = u16::from_be_bytes([query[0], query[1]]);
        for turn in 0..tries {
            let mut message = forged.clone();
            if turn % 2 == 0 {
                // Every other ID there is, again and again.
                let other = 1 + u16::try_from(turn / 2 % 65_535).unwrap();
                message[..2].copy_from_slice(&id.wrapping_add(other).to_be_bytes());
            } else {
                message[name_at] ^= 1 + u8::try_from(turn % 15).unwrap();
            }
            upstream.send_to(&message, client).await.unwrap();
        }
        // The kernel may have dropped some of a burst, so the reply is sent until it has arrived.
        loop {
            upstream.send_to(&good, client).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let message = plain_query("www.fault.test", RecordType::A);
    let reply = tokio::select! {
        reply = bed.send(&message) => reply,
        () = attack => unreachable!("it goes on until there is a reply"),
    };
    assert_eq!((reply.rcode(), reply.number()), (Rcode::NOERROR, 1));
    let series = format!("fingerpost_forward_ignored_replies_total{{proto=\"udp\",to=\"{to}\"}}");
    let ignored = bed.metric(&series);
    assert!(ignored > 0, "none has arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgeries_to_the_right_port_are_ignored_and_the_reply_delivered() {
    spoof(20_000).await;
}

/// `cargo test --test upstream_faults a_million -- --ignored`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes about a minute without optimization"]
async fn a_million_forgeries_are_ignored() {
    // A query waits for five seconds at most, so each has its share.
    for _ in 0..50 {
        spoof(20_000).await;
    }
}

/// Whatever one of three upstreams does, a second try costs no more packets than there may be.
#[tokio::test]
async fn no_fault_costs_more_packets_with_a_hedge() {
    let upstreams = [
        Upstream::start(1).await,
        Upstream::start(2).await,
        Upstream::start(3).await,
    ];
    let [a, b, c] = upstreams.each_ref().map(|upstream| upstream.address);
    let bed = Bed::new(&format!(
        ". {{\nforward . {a} {b} {c} {{\nhedge\nfailover SERVFAIL\nread_timeout 60ms\nmax_fails 0\n}}\n}}"
    ));
    let seen = || -> usize { upstreams.iter().map(|upstream| upstream.seen().len()).sum() };
    for fault in [
        "timeout",
        "wrongid",
        "garbage",
        "short",
        "qr0",
        "malformed",
        "wrongq",
        "qd0",
        "wrongtype",
        "wrongclass",
        "tc",
        "tcudp",
        "servfail",
        "refused",
        "nxdomain",
        "nodata",
        "cnameloop",
        "pointer",
        "lying",
        "dup",
        "big",
        "wrongidthengood",
        "malformedthengood",
    ] {
        for turn in 0..40 {
            bed.ask(&format!("ok-{fault}-{turn}.fault.test")).await;
        }
        let before = seen();
        bed.ask(&format!("{fault}.fault.test")).await;
        let packets = seen() - before;
        assert!(packets <= PACKETS_MAX, "{fault}: {packets} packets");
    }
    let of = |outcome: &str| {
        bed.metric(&format!(
            "fingerpost_forward_hedges_total{{outcome=\"{outcome}\"}}"
        ))
    };
    assert!(of("won") + of("lost") > 0);
}

#[tokio::test]
async fn a_third_of_all_packets_lost_costs_no_client_its_answer() {
    let upstreams = [Upstream::start(1).await, Upstream::start(2).await];
    let [a, b] = upstreams.each_ref().map(|upstream| upstream.address);
    // Twelve in a row are lost to one of 500,000.
    let bed = Bed::new(&format!(
        ". {{\nforward . {a} {b} {{\nread_timeout 60ms\nmax_connect_attempts 12\n}}\n}}"
    ));
    for upstream in &upstreams {
        upstream.set_lossy(3);
    }
    for turn in 0..60 {
        let reply = bed.ask(&format!("ok-{turn}.fault.test")).await;
        assert_eq!(reply.rcode(), Rcode::NOERROR);
    }
}
