//! `shed` by the real program, behind a wire that takes no more replies.
//!
//! ```text
//! a network namespace of the test's own, loopback only:
//! client --queries, as fast as they come--> server
//! client <--replies over UDP: hardly any------'     TCP and HTTP are not slowed down
//! ```
//!
//! Each test runs itself again within the namespace, which ends with it. It takes `unshare` and `tc`, and root or user
//! namespaces; without, the test says so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use program::{Program, free_port, wait_until};

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    shed
    prometheus 127.0.0.1:METRICS
    whoami
}
";

/// A class of traffic that gets 1000 octets a second; what is in no class passes at once.
const SLOW: [&str; 2] = [
    "qdisc add dev lo root handle 1: htb",
    "class add dev lo parent 1: classid 1:1 htb rate 8kbit burst 1600",
];

/// Says that we are within the namespace already.
const WITHIN: &str = "FINGERPOST_TEST_WITHIN";

const SENT: u16 = 4000;

/// What a socket holds with `shed`.
const HELD_MAX: usize = 1024;

fn tc(arguments: &str) {
    let status = Command::new("tc").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "tc {arguments}");
}

/// True if we are within a namespace of our own. If not, runs the test there, and false comes back.
fn within(test: &str) -> bool {
    if std::env::var_os(WITHIN).is_some() {
        return true;
    }
    let unshare = |program: &std::ffi::OsStr| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net"]).arg(program);
        command
    };
    let mut probe = unshare("sh".as_ref());
    probe.args([
        "-c",
        &format!(
            "ip link set lo up && {}",
            SLOW.map(|line| format!("tc {line}")).join(" && ")
        ),
    ]);
    if !probe.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a namespace with a slow wire cannot be made here");
        return false;
    }
    let status = unshare(std::env::current_exe().unwrap().as_os_str())
        .args(["--exact", test, "--nocapture"])
        .env(WITHIN, "1")
        .status();
    assert!(status.unwrap().success(), "see above");
    false
}

struct Lab {
    program: Program,
    metrics: u16,
    client: UdpSocket,
    /// IDs of replies, as they come.
    replies: Receiver<u16>,
}

impl Lab {
    /// A server whose UDP replies hardly leave.
    fn new() -> Self {
        assert!(
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        let metrics = free_port();
        let program = Program::start(&COREFILE.replace("METRICS", &metrics.to_string()));
        let port = program.port;
        SLOW.into_iter().for_each(tc);
        tc(&format!(
            "filter add dev lo parent 1: protocol ip u32 match ip protocol 17 0xff match ip sport {port} 0xffff flowid 1:1"
        ));
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let reader = client.try_clone().unwrap();
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            let mut octets = [0; 512];
            while let Ok(2..) = reader.recv(&mut octets) {
                if sender
                    .send(u16::from_be_bytes([octets[0], octets[1]]))
                    .is_err()
                {
                    return;
                }
            }
        });
        Self {
            program,
            metrics,
            client,
            replies,
        }
    }

    /// Sends all queries, and waits until each is answered or dropped.
    fn flood(&self) {
        let before = self.count("coredns_dns_requests_total{");
        for id in 0..SENT {
            let mut query = id.to_be_bytes().to_vec();
            query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1]);
            self.client.send(&query).unwrap();
        }
        wait_until("every query looked at", || {
            let answered = self.count("coredns_dns_requests_total{") - before;
            answered + self.dropped("query") == usize::from(SENT)
        });
    }

    fn dropped(&self, reason: &str) -> usize {
        self.count(&format!("coredns_shed_dropped_total{{reason=\"{reason}\""))
    }

    /// The sum of the samples that begin like this.
    fn count(&self, start: &str) -> usize {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.metrics)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let samples = text.lines().filter(|line| line.starts_with(start));
        samples
            .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
            .sum()
    }

    /// The wire takes replies as fast as the client reads them.
    fn open_the_wire(&self) {
        tc("class change dev lo parent 1: classid 1:1 htb rate 8mbit burst 16kb");
    }

    /// So many replies, in the order in which they come.
    fn take_replies(&self, count: usize) -> Vec<u16> {
        let replies = (0..count).map(|_| self.replies.recv_timeout(program::PATIENCE));
        replies
            .map(|reply| reply.expect("a reply is due"))
            .collect()
    }
}

#[test]
fn replies_that_find_no_room_leave_newest_first_and_every_query_is_answered_or_counted() {
    if !within(
        "replies_that_find_no_room_leave_newest_first_and_every_query_is_answered_or_counted",
    ) {
        return;
    }
    let lab = Lab::new();
    lab.flood();
    assert!(lab.dropped("query") > 0, "the socket never was full");
    lab.open_the_wire();
    let lost = lab.dropped("query") + lab.dropped("response");
    let replies = lab.take_replies(usize::from(SENT) - lost);
    let backwards = replies.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(backwards > HELD_MAX / 2, "{backwards} of {}", replies.len());
    assert_eq!(lab.dropped("query") + lab.dropped("response"), lost);
    // What comes then is answered at once, and first.
    lab.client
        .send(b"\xff\xff\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01")
        .unwrap();
    assert_eq!(lab.take_replies(1), [0xffff]);
}

#[test]
fn a_stop_waits_for_the_replies_that_are_held() {
    if !within("a_stop_waits_for_the_replies_that_are_held") {
        return;
    }
    let mut lab = Lab::new();
    lab.flood();
    let lost = lab.dropped("query") + lab.dropped("response");
    lab.program.signal("TERM");
    wait_until("the socket of metrics closed", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, lab.program.port)).is_err()
    });
    lab.open_the_wire();
    let mut replies = lab.take_replies(usize::from(SENT) - lost);
    replies.sort_unstable();
    replies.dedup();
    assert_eq!(replies.len(), usize::from(SENT) - lost);
    assert!(lab.program.wait().success());
}
