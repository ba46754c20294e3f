//! Replies that the network does not take, and queries that come while nobody reads them. All of it in a network namespace
//! of the test's own.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::lab::{Upstream, client, count, is_well, query, rcode, rcode_over_tcp, run, within};
use crate::program::{Program, free_port, wait_until};

const COREFILE: &str = "example.org:PORT {
    bind 127.0.0.1
    prometheus 127.0.0.1:METRICS
    errors
    forward . UPSTREAM
}
big:PORT {
    bind 127.0.0.1
    bufsize 4096
    hosts {
        BIG
    }
}
.:PORT {
    bind 127.0.0.1
    health 127.0.0.1:HEALTH
    prometheus 127.0.0.1:METRICS
    whoami
}
";

const SERVFAIL: u8 = 2;

const SENT: u16 = 2000;

struct Lab {
    program: Program,
    health: u16,
    metrics: u16,
    _upstream: Upstream,
}

impl Lab {
    fn new() -> Self {
        run("ip link set lo up");
        let (health, metrics, upstream) = (free_port(), free_port(), Upstream::start());
        let big: Vec<_> = (1..=100).map(|last| format!("10.0.0.{last} big")).collect();
        let corefile = COREFILE
            .replace("BIG", &big.join("\n"))
            .replace("HEALTH", &health.to_string())
            .replace("METRICS", &metrics.to_string())
            .replace("UPSTREAM", &upstream.address.to_string());
        Self {
            program: Program::start(&corefile),
            health,
            metrics,
            _upstream: upstream,
        }
    }

    /// Replies over UDP go through a class of their own, which has these leaves.
    fn slow_down(&self, class: &str, leaf: Option<&str>) {
        run("tc qdisc add dev lo root handle 1: htb");
        run(&format!(
            "tc class add dev lo parent 1: classid 1:1 htb {class}"
        ));
        if let Some(leaf) = leaf {
            run(&format!("tc qdisc add dev lo parent 1:1 handle 10: {leaf}"));
        }
        run(&format!(
            "tc filter add dev lo parent 1: protocol ip u32 match ip protocol 17 0xff match ip sport {} 0xffff flowid 1:1",
            self.program.port
        ));
    }

    fn count(&self, name: &str) -> u64 {
        count(self.metrics, name, "")
    }

    /// Queries from one client, and then until each was looked at.
    fn flood(&self) -> UdpSocket {
        let before = self.count("coredns_dns_requests_total");
        let client = client(Ipv4Addr::LOCALHOST, self.program.port);
        for id in 0..SENT {
            client.send(&query(id, "a")).unwrap();
        }
        wait_until("every query answered", || {
            self.count("coredns_dns_requests_total") - before
                + self.count("fingerpost_udp_limited_total")
                + self.count("fingerpost_udp_kernel_drops_total")
                >= u64::from(SENT)
        });
        client
    }

    #[track_caller]
    fn assert_serves(&self) {
        let udp = || rcode(self.program.port, "a", Duration::from_secs(1));
        wait_until("an answer over UDP", || udp() == Some(0));
        assert_eq!(rcode_over_tcp(self.program.port, "a"), Some(0));
        let upstream = || rcode(self.program.port, "a.example.org", Duration::from_secs(9));
        wait_until("an answer of the upstream", || upstream() == Some(0));
        assert!(is_well(self.health));
    }
}

/// Replies that a client has received.
fn received(client: &UdpSocket) -> u64 {
    client
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut reply = [0; 512];
    std::iter::from_fn(|| client.recv(&mut reply).ok()).count() as u64
}

#[test]
fn replies_that_the_network_throws_away_without_a_word_are_counted() {
    if !within(
        "wire::replies_that_the_network_throws_away_without_a_word_are_counted",
        &["--map-root-user", "--net"],
        "ip link set lo up && tc qdisc add dev lo root handle 1: htb",
    ) {
        return;
    }
    let lab = Lab::new();
    lab.slow_down("rate 80kbit burst 1600", Some("pfifo limit 4"));
    let client = lab.flood();
    // What the qdisc holds leaves it before it is taken away.
    let received = received(&client);
    let lost = lab.count("fingerpost_udp_kernel_send_drops_total");
    assert!(lost > 0, "none was thrown away");
    // Sending did not fail: nobody told the program.
    assert_eq!(lab.count("fingerpost_udp_send_failures_total"), 0);
    let not_answered =
        lab.count("fingerpost_udp_limited_total") + lab.count("fingerpost_udp_kernel_drops_total");
    assert_eq!(received + lost + not_answered, u64::from(SENT));
    run("tc qdisc del dev lo root");
    lab.assert_serves();
}

#[test]
fn replies_that_find_no_room_in_time_are_counted_and_tcp_is_served_meanwhile() {
    if !within(
        "wire::replies_that_find_no_room_in_time_are_counted_and_tcp_is_served_meanwhile",
        &["--map-root-user", "--net"],
        "ip link set lo up && tc qdisc add dev lo root handle 1: htb",
    ) {
        return;
    }
    let lab = Lab::new();
    lab.slow_down("rate 400bit burst 1600", None);
    let client = client(Ipv4Addr::LOCALHOST, lab.program.port);
    for id in 0..SENT {
        client.send(&query(id, "a")).unwrap();
    }
    wait_until("a reply given up", || {
        lab.count("fingerpost_udp_send_failures_total") > 0
    });
    assert_eq!(rcode_over_tcp(lab.program.port, "a"), Some(0));
    assert!(is_well(lab.health));
    run("tc qdisc del dev lo root");
    lab.assert_serves();
}

#[test]
fn replies_that_a_firewall_forbids_are_counted_and_those_beside_them_arrive() {
    if !within(
        "wire::replies_that_a_firewall_forbids_are_counted_and_those_beside_them_arrive",
        &["--map-root-user", "--net"],
        "ip link set lo up && nft add table inet try",
    ) {
        return;
    }
    let lab = Lab::new();
    let port = lab.program.port;
    run("nft add table inet test");
    run("nft add chain inet test out { type filter hook output priority 0 ; }");
    let forbidden = client(Ipv4Addr::new(127, 0, 5, 1), port);
    let allowed = client(Ipv4Addr::LOCALHOST, port);
    run(&format!(
        "nft add rule inet test out udp sport {port} ip daddr 127.0.5.1 drop"
    ));
    for id in 0..200 {
        forbidden.send(&query(id, "a")).unwrap();
        allowed.send(&query(id, "a")).unwrap();
    }
    wait_until("the replies to one client lost", || {
        lab.count("fingerpost_udp_send_failures_total") == 200
    });
    assert_eq!((received(&forbidden), received(&allowed)), (0, 200));
    run("nft flush chain inet test out");
    let upstream = lab._upstream.address.port();
    run(&format!(
        "nft add rule inet test out udp dport {upstream} drop"
    ));
    assert_eq!(
        rcode(port, "b.example.org", Duration::from_secs(9)),
        Some(SERVFAIL)
    );
    let servfail = count(
        lab.metrics,
        "coredns_dns_responses_total",
        "rcode=\"SERVFAIL\"",
    );
    assert!(
        servfail > 0,
        "a query that could not be sent on is not counted"
    );
    run("nft flush chain inet test out");
    lab.assert_serves();
}

#[test]
fn what_the_kernel_drops_while_the_server_stands_still_is_counted_to_the_last_query() {
    if !within(
        "wire::what_the_kernel_drops_while_the_server_stands_still_is_counted_to_the_last_query",
        &["--map-root-user", "--net"],
        "ip link set lo up",
    ) {
        return;
    }
    const EACH: u64 = 2500;
    let lab = Lab::new();
    // The programs' own start has asked, too.
    let before = lab.count("coredns_dns_requests_total");
    let clients: Vec<_> = (1..=16)
        .map(|last| client(IpAddr::from([127, 0, 6, last]), lab.program.port))
        .collect();
    lab.program.signal("STOP");
    for number in 0..EACH {
        for client in &clients {
            client.send(&query(number as u16, "a")).unwrap();
        }
    }
    lab.program.signal("CONT");
    let sent = std::cell::Cell::new(EACH * clients.len() as u64);
    wait_until("each query answered or counted", || {
        // What is dropped last is told with the query that comes next, to each socket.
        for client in &clients {
            client.send(&query(0, "a")).unwrap();
        }
        sent.set(sent.get() + clients.len() as u64);
        let answered = lab.count("coredns_dns_requests_total") - before;
        let dropped = lab.count("fingerpost_udp_kernel_drops_total");
        let limited = lab.count("fingerpost_udp_limited_total");
        assert!(
            answered + dropped + limited <= sent.get(),
            "{answered} + {dropped} + {limited}"
        );
        dropped > 0 && answered + dropped + limited == sent.get()
    });
    lab.assert_serves();
}

/// RFC 9715, section 3.1; `bufsize` may allow what no path takes whole.
#[test]
fn replies_that_fit_any_path_forbid_fragments_and_larger_ones_allow_them() {
    if !within(
        "wire::replies_that_fit_any_path_forbid_fragments_and_larger_ones_allow_them",
        &["--map-root-user", "--net"],
        "ip link set lo up mtu 1280 && nft add table inet try",
    ) {
        return;
    }
    let lab = Lab::new();
    let port = lab.program.port;
    run("ip link set lo mtu 1280");
    run("nft add table inet test");
    run("nft add chain inet test out { type filter hook output priority 0 ; }");
    run(&format!(
        "nft add rule inet test out udp sport {port} ip frag-off & 0x4000 != 0x4000 drop"
    ));
    assert_eq!(rcode(port, "a", Duration::from_secs(9)), Some(0));
    run("nft flush chain inet test out");
    let client = client(Ipv4Addr::LOCALHOST, port);
    let mut query = query(7, "big");
    query[11] = 1;
    query.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    client.send(&query).unwrap();
    let mut reply = [0; 4096];
    let length = client.recv(&mut reply).unwrap();
    assert!(length > 1600, "{length}");
    assert_eq!(reply[2] & 2, 0, "it is cut");
    lab.assert_serves();
}
