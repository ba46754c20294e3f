//! Sockets: where replies leave from, what a bad client gets, what is finished before a stop.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/listener.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

use fingerpost::net::limit::Limits;
use support::{
    A, AAAA, FORMERR, NOERROR, PAGE_LEN, PAGES, SERVFAIL, Server, TXT, answer_address, ask, frame,
    id, query, question_of, rcode, read_reply,
};

/// Long enough to never run out on a busy machine, short enough to see a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn udp_to(server: &Server, ip: &str) -> UdpSocket {
    let bind = if ip.contains(':') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Connected, the socket takes datagrams from that one address alone.
    socket
        .connect((ip.parse::<std::net::IpAddr>().unwrap(), server.port()))
        .unwrap();
    socket
}

fn tcp_to(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The octets until the server closes. A reset is a close.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut octets = Vec::new();
    match stream.read_to_end(&mut octets) {
        Ok(_) => octets,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => octets,
        Err(error) => panic!("the server did not close: {error}"),
    }
}

fn impatient() -> Limits {
    Limits {
        first_query_timeout: Duration::from_millis(150),
        message_timeout: Duration::from_millis(150),
        idle_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[test]
fn replies_leave_from_the_address_that_was_asked() {
    let server = Server::start("0.0.0.0:0", Limits::default());
    for ip in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
        let client = udp_to(&server, ip);
        let reply = ask(&client, &query(7, "local.test", A));
        assert_eq!(answer_address(&reply), ip);
    }
}

#[test]
fn replies_that_were_waited_for_leave_from_the_address_that_was_asked() {
    let server = Server::start("[::]:0", Limits::default());
    for ip in ["127.0.0.2", "::1"] {
        let client = udp_to(&server, ip);
        for name in ["soon.test", "soon.here.test", "soon.leaves.test"] {
            let reply = ask(&client, &query(7, name, A));
            assert_eq!((id(&reply), rcode(&reply)), (7, NOERROR), "{name}");
        }
    }
}

#[test]
fn one_wildcard_socket_serves_both_families_and_sees_plain_addresses() {
    let server = Server::start("[::]:0", Limits::default());
    for (ip, client_ip) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.1"),
        ("::1", "::1"),
    ] {
        let client = udp_to(&server, ip);
        let kind = if ip.contains(':') { AAAA } else { A };
        assert_eq!(
            answer_address(&ask(&client, &query(1, "local.test", kind))),
            ip
        );
        assert_eq!(
            answer_address(&ask(&client, &query(2, "client.test", kind))),
            client_ip
        );
    }
    let mut stream = tcp_to(&server);
    stream
        .write_all(&frame(&query(3, "client.test", A)))
        .unwrap();
    assert_eq!(answer_address(&read_reply(&mut stream)), "127.0.0.1");
}

#[test]
fn every_datagram_of_many_is_answered_once() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let mut answered = vec![false; 1000];
    // Fewer than a batch at a time and more, so that batches of all sizes occur.
    for chunk in (0..1000u16).collect::<Vec<_>>().chunks(97) {
        for &number in chunk {
            client
                .send(&query(number, &format!("n{number}.test"), A))
                .unwrap();
        }
        for _ in chunk {
            let mut reply = [0; 512];
            let length = client.recv(&mut reply).unwrap();
            let number = id(&reply[..length]);
            assert_eq!(
                question_of(&reply[..length]),
                question_of(&query(number, &format!("n{number}.test"), A))
            );
            assert!(!std::mem::replace(&mut answered[usize::from(number)], true));
        }
    }
    assert!(answered.iter().all(|&answered| answered));
}

#[test]
fn what_is_longer_than_any_query_is_answered_formerr_by_a_bare_header() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let mut long = query(5, "a.test", A);
    long.resize(4097, 0);
    let reply = ask(&client, &long);
    assert_eq!((id(&reply), rcode(&reply), reply.len()), (5, FORMERR, 12));
    long.truncate(4096);
    assert_eq!(rcode(&ask(&client, &long)), NOERROR);
    assert_eq!(server.metric("fingerpost_udp_oversized_total"), 1);
}

#[test]
fn replies_and_scraps_are_dropped_and_the_next_query_is_answered() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let mut reply = query(1, "a.test", A);
    reply[2] |= 0x80;
    for octets in [&reply[..], &[], &[1, 2, 3], &query(2, "a.test", A)[..11]] {
        client.send(octets).unwrap();
    }
    assert_eq!(id(&ask(&client, &query(9, "a.test", A))), 9);
}

#[test]
fn a_panic_costs_its_query_a_servfail_and_nobody_else_anything() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let mut stream = tcp_to(&server);
    for name in ["panic.test", "panic-later.test", "panic-later.here.test"] {
        let question = query(3, name, A);
        let reply = ask(&client, &question);
        assert_eq!((id(&reply), rcode(&reply)), (3, SERVFAIL), "{name}");
        assert_eq!(question_of(&reply), question_of(&question));
        stream.write_all(&frame(&question)).unwrap();
        assert_eq!(rcode(&read_reply(&mut stream)), SERVFAIL, "{name}");
    }
    assert_eq!(server.metric("coredns_panics_total"), 6);
    assert_eq!(rcode(&ask(&client, &query(4, "a.test", A))), NOERROR);
    stream.write_all(&frame(&query(5, "a.test", A))).unwrap();
    assert_eq!(rcode(&read_reply(&mut stream)), NOERROR);
}

#[test]
fn past_the_bound_of_queries_in_flight_the_answer_is_servfail_at_once() {
    let limits = Limits {
        queries_in_flight_max: 1,
        ..Limits::default()
    };
    let server = Server::start("127.0.0.1:0", limits);
    let (first, second) = (udp_to(&server, "127.0.0.1"), udp_to(&server, "127.0.0.1"));
    first.send(&query(1, "wait.here.test", A)).unwrap();
    server.wait_for("fingerpost_queries_in_flight", 1);
    assert_eq!(rcode(&ask(&second, &query(2, "wait.test", A))), SERVFAIL);
    let mut stream = tcp_to(&server);
    stream.write_all(&frame(&query(3, "wait.test", A))).unwrap();
    assert_eq!(rcode(&read_reply(&mut stream)), SERVFAIL);
    assert_eq!(
        server.metric("fingerpost_queries_in_flight_refused_total"),
        2
    );
    // What memory can answer is not concerned.
    assert_eq!(rcode(&ask(&second, &query(4, "release.test", A))), NOERROR);
    let mut reply = [0; 512];
    let length = first.recv(&mut reply).unwrap();
    assert_eq!((id(&reply), rcode(&reply[..length])), (1, NOERROR));
    server.wait_for("fingerpost_queries_in_flight", 0);
}

#[test]
fn a_client_in_a_loop_takes_its_share_of_the_places_and_is_named() {
    let limits = Limits {
        queries_in_flight_max: 40,
        ..Limits::default()
    };
    let server = Server::start("127.0.0.1:0", limits);
    let greedy = udp_to(&server, "127.0.0.1");
    for number in 0..40 {
        greedy.send(&query(number, "wait.test", A)).unwrap();
    }
    server.wait_for("fingerpost_queries_in_flight_refused_total", 20);
    assert_eq!(server.metric("fingerpost_queries_in_flight"), 20);
    for last in 2..=11 {
        let modest = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
        modest.connect(("127.0.0.1", server.port())).unwrap();
        modest.send(&query(1, "wait.test", A)).unwrap();
    }
    server.wait_for("fingerpost_queries_in_flight", 30);
    // Of the client in a loop, even a new connection finds no place.
    let mut stream = tcp_to(&server);
    stream.write_all(&frame(&query(3, "wait.test", A))).unwrap();
    assert_eq!(rcode(&read_reply(&mut stream)), SERVFAIL);
    // Those refused while the metric was being read are left out.
    assert!((1..=21).contains(&server.metric("fingerpost_limited_client_queries")));
    server.gate().add_permits(30);
    server.wait_for("fingerpost_queries_in_flight", 0);
}

/// Datagrams that fill a receive queue by two thirds. The kernel counts 768 octets for a small one, and gives twice what
/// it is asked for: 4 MiB, or what may be asked for.
fn two_thirds_of_a_queue() -> usize {
    let asked = UdpSocket::bind("127.0.0.1:0").unwrap();
    let asked = socket2::SockRef::from(&asked);
    asked.set_recv_buffer_size(4 << 20).unwrap();
    asked.recv_buffer_size().unwrap() / 768 * 2 / 3
}

#[test]
fn a_flood_from_one_sender_drowns_nobody_else_and_is_named() {
    let mut server = Server::open("127.0.0.1:0", Limits::default());
    let flood = UdpSocket::bind("127.0.0.2:0").unwrap();
    flood.connect(("127.0.0.1", server.port())).unwrap();
    let others: Vec<_> = (0..200)
        .map(|last| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, last), 0)).unwrap();
            socket.connect(("127.0.0.1", server.port())).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
        .collect();
    let question = query(1, "a.test", A);
    let total = two_thirds_of_a_queue();
    // Nobody reads yet, so all of it stands in the queue.
    for (number, other) in others.iter().enumerate() {
        for _ in 0..total / others.len() {
            flood.send(&question).unwrap();
        }
        other.send(&query(number as u16, "a.test", A)).unwrap();
    }
    server.serve();
    // And it goes on.
    server.wait_while(|server| {
        for _ in 0..100 {
            flood.send(&question).unwrap();
        }
        server.metric("fingerpost_udp_limited_total") == 0
    });
    for (number, other) in others.iter().enumerate() {
        let mut reply = [0; 512];
        let length = other.recv(&mut reply).expect("nobody else loses a query");
        assert_eq!(
            (usize::from(id(&reply)), rcode(&reply[..length])),
            (number, NOERROR)
        );
    }
    server.wait_while(|server| {
        for _ in 0..100 {
            flood.send(&question).unwrap();
        }
        server.metric("fingerpost_limited_client_queries") == 0
    });
    assert_eq!(server.metric("fingerpost_udp_kernel_drops_total"), 0);
}

#[test]
fn what_the_kernel_drops_is_counted() {
    let mut server = Server::open("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let question = query(1, "a.test", A);
    // So many that none of them is to blame.
    let crowd: Vec<_> = (0..40)
        .map(|last| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, last), 0)).unwrap();
            socket.connect(("127.0.0.1", server.port())).unwrap();
            socket
        })
        .collect();
    for _ in 0..1000 {
        for one in &crowd {
            // Nobody reads yet, so the queue overflows.
            one.send(&question).unwrap();
        }
    }
    server.serve();
    client.set_nonblocking(true).unwrap();
    let mut reply = [0; 512];
    server.wait_while(|server| {
        // The count comes with what is received after the loss.
        let _ = client.send(&question);
        while client.recv(&mut reply).is_ok() {}
        server.metric("fingerpost_udp_kernel_drops_total") == 0
    });
}

#[test]
fn new_zones_answer_from_the_moment_they_are_stored() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    assert_eq!(rcode(&ask(&client, &query(1, "a.test", A))), NOERROR);
    server.swap_for_no_zones();
    assert_eq!(
        rcode(&ask(&client, &query(2, "a.test", A))),
        support::REFUSED
    );
}

#[test]
fn frames_shorter_than_a_header_close_at_once() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    for length in [0, 1, 11] {
        let mut stream = tcp_to(&server);
        stream.write_all(&frame(&vec![0; length])).unwrap();
        assert_eq!(rest(stream), b"", "length {length}");
    }
    assert_eq!(
        server.metric("fingerpost_tcp_connections_malformed_total"),
        3
    );
}

#[test]
fn a_message_that_does_not_end_closes_by_its_deadline() {
    let server = Server::start("127.0.0.1:0", impatient());
    for octets in [
        &b"\xff\xff\x12\x34\x01\0\0\x01\0\0\0\0\0\0"[..],
        b"\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut stream = tcp_to(&server);
        stream.write_all(octets).unwrap();
        assert_eq!(rest(stream), b"");
    }
    assert_eq!(server.timeouts("message"), 4);
}

#[test]
fn an_octet_now_and_then_does_not_move_the_deadline() {
    let server = Server::start("127.0.0.1:0", impatient());
    let mut stream = tcp_to(&server);
    stream.write_all(b"\xff\xff").unwrap();
    // The writes fail once the server has closed.
    while stream.write_all(b"x").is_ok() {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(server.timeouts("message"), 1);
}

#[test]
fn a_silent_connection_closes_by_the_deadline_of_its_first_query() {
    let server = Server::start("127.0.0.1:0", impatient());
    assert_eq!(rest(tcp_to(&server)), b"");
    assert_eq!(server.timeouts("query"), 1);
    server.wait_for("fingerpost_tcp_connections", 0);
}

#[test]
fn a_query_in_single_octets_is_answered_and_then_the_connection_idles_out() {
    let server = Server::start(
        "127.0.0.1:0",
        Limits {
            idle_timeout: Duration::from_millis(300),
            ..Limits::default()
        },
    );
    let mut stream = tcp_to(&server);
    stream.set_nodelay(true).unwrap();
    for octet in frame(&query(7, "a.test", A)) {
        stream.write_all(&[octet]).unwrap();
    }
    let reply = read_reply(&mut stream);
    assert_eq!((id(&reply), rcode(&reply)), (7, NOERROR));
    assert_eq!(rest(stream), b"");
    assert_eq!(server.timeouts("idle"), 1);
}

#[test]
fn more_pipelined_queries_than_may_be_queued_are_all_answered() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    let mut octets = Vec::new();
    for number in 0..500 {
        octets.extend(frame(&query(number, "a.test", A)));
    }
    stream.write_all(&octets).unwrap();
    for number in 0..500 {
        assert_eq!(id(&read_reply(&mut stream)), number);
    }
}

#[test]
fn pipelined_replies_come_as_they_are_ready() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    let mut octets = frame(&query(1, "wait.test", A));
    octets.extend(frame(&query(2, "a.test", A)));
    stream.write_all(&octets).unwrap();
    assert_eq!(id(&read_reply(&mut stream)), 2);
    stream
        .write_all(&frame(&query(3, "release.test", A)))
        .unwrap();
    let mut ids = [id(&read_reply(&mut stream)), id(&read_reply(&mut stream))];
    ids.sort_unstable();
    assert_eq!(ids, [1, 3]);
}

#[test]
fn a_connection_with_a_full_pipeline_is_read_again_when_there_is_room() {
    let server = Server::start(
        "127.0.0.1:0",
        Limits {
            pipeline_max: 2,
            ..Limits::default()
        },
    );
    let mut stream = tcp_to(&server);
    for number in 1..=5 {
        stream
            .write_all(&frame(&query(number, "wait.test", A)))
            .unwrap();
    }
    server.wait_for("fingerpost_queries_in_flight", 2);
    let client = udp_to(&server, "127.0.0.1");
    let mut ids = Vec::new();
    while ids.len() < 5 {
        ask(&client, &query(9, "release.test", A));
        ids.push(id(&read_reply(&mut stream)));
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
}

#[test]
fn half_closed_connections_get_their_answers_and_then_a_fin() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    for name in ["a.test", "soon.test"] {
        let mut stream = tcp_to(&server);
        stream.write_all(&frame(&query(1, name, A))).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rcode(&read_reply(&mut stream)), NOERROR);
        assert_eq!(rest(stream), b"");
    }
}

#[test]
fn the_third_unanswerable_message_closes() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut reply = query(1, "a.test", A);
    reply[2] |= 0x80;
    for bad in [&reply[..], &[0xff; 40]] {
        let mut stream = tcp_to(&server);
        for _ in 0..2 {
            stream.write_all(&frame(bad)).unwrap();
        }
        stream.write_all(&frame(&query(5, "a.test", A))).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!((id(&reply), rcode(&reply)), (5, NOERROR));
        stream.write_all(&frame(bad)).unwrap();
        assert_eq!(rest(stream), b"");
    }
}

#[test]
fn a_malformed_query_is_answered_formerr_and_the_connection_goes_on() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    let mut pointer_loop = query(4, "a.test", A)[..12].to_vec();
    pointer_loop.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1]);
    for _ in 0..4 {
        stream.write_all(&frame(&pointer_loop)).unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!((id(&reply), rcode(&reply), reply.len()), (4, FORMERR, 12));
    }
    stream.write_all(&frame(&query(5, "a.test", A))).unwrap();
    assert_eq!(rcode(&read_reply(&mut stream)), NOERROR);
}

#[test]
fn two_queries_with_one_id_are_both_answered() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    let (a, aaaa) = (query(9, "a.test", A), query(9, "a.test", AAAA));
    let mut octets = frame(&a);
    octets.extend(frame(&aaaa));
    stream.write_all(&octets).unwrap();
    let replies = [read_reply(&mut stream), read_reply(&mut stream)];
    for question in [question_of(&a), question_of(&aaaa)] {
        assert!(
            replies
                .iter()
                .any(|reply| id(reply) == 9 && question_of(reply) == question)
        );
    }
}

#[test]
fn large_replies_come_whole_over_tcp() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    stream
        .write_all(&frame(&query(1, "big.test", TXT)))
        .unwrap();
    let reply = read_reply(&mut stream);
    assert!(reply.len() > 40_000 && reply[2] & 0x02 == 0);
}

#[test]
fn a_source_at_its_bound_loses_its_own_idle_connection() {
    let server = Server::start(
        "127.0.0.1:0",
        Limits {
            connections_per_source_max: 2,
            ..Limits::default()
        },
    );
    let (first, mut second) = (tcp_to(&server), tcp_to(&server));
    server.wait_for("fingerpost_tcp_connections", 2);
    second.write_all(&frame(&query(1, "a.test", A))).unwrap();
    read_reply(&mut second);
    let mut third = tcp_to(&server);
    assert_eq!(rest(first), b"");
    for stream in [&mut second, &mut third] {
        stream.write_all(&frame(&query(2, "a.test", A))).unwrap();
        assert_eq!(rcode(&read_reply(stream)), NOERROR);
    }
    assert_eq!(server.metric("fingerpost_tcp_connections_evicted_total"), 1);
    assert_eq!(server.metric("fingerpost_tcp_connections"), 2);
}

#[test]
fn where_nobody_is_idle_the_new_connection_is_closed() {
    let server = Server::start(
        "127.0.0.1:0",
        Limits {
            connections_max: 1,
            ..Limits::default()
        },
    );
    let mut first = tcp_to(&server);
    first.write_all(&frame(&query(1, "wait.test", A))).unwrap();
    server.wait_for("fingerpost_queries_in_flight", 1);
    // What is answered after the first query has left for its future knows that the connection is busy.
    first.write_all(&frame(&query(2, "a.test", A))).unwrap();
    assert_eq!(id(&read_reply(&mut first)), 2);
    assert_eq!(rest(tcp_to(&server)), b"");
    assert_eq!(server.metric("fingerpost_tcp_connections_refused_total"), 1);
    first
        .write_all(&frame(&query(3, "release.test", A)))
        .unwrap();
    read_reply(&mut first);
    read_reply(&mut first);
}

#[test]
fn who_does_not_read_is_not_read_and_then_closed() {
    let server = Server::start("127.0.0.1:0", impatient());
    let mut stream = tcp_to(&server);
    stream.set_nonblocking(true).unwrap();
    let question = frame(&query(1, "big.test", TXT));
    // Far more replies than both kernels hold: without a bound the server would take all of these.
    let mut refused = false;
    for _ in 0..200_000 {
        match stream.write(&question) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused = true;
                break;
            }
            Err(_) => break,
        }
    }
    server.wait_while(|server| server.timeouts("write") == 0);
    server.wait_for("fingerpost_tcp_connections", 0);
    assert!(refused || stream.write(&question).is_err());
}

#[test]
fn a_reply_of_many_messages_arrives_whole_between_others() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    stream
        .write_all(&frame(&query(1, "pages.test", A)))
        .unwrap();
    stream
        .write_all(&frame(&query(2, "local.test", A)))
        .unwrap();
    let (mut pages, mut others) = (0, 0);
    while pages < PAGES || others < 2 {
        let reply = read_reply(&mut stream);
        match (id(&reply), reply.len()) {
            (1, PAGE_LEN) => pages += 1,
            _ => others += 1,
        }
    }
    assert_eq!((pages, server.pages_made()), (PAGES, PAGES));
    // The connection goes on.
    stream
        .write_all(&frame(&query(3, "local.test", A)))
        .unwrap();
    assert_eq!(id(&read_reply(&mut stream)), 3);
}

#[test]
fn messages_that_the_client_does_not_take_are_not_made() {
    let server = Server::start("127.0.0.1:0", impatient());
    let mut stream = tcp_to(&server);
    stream
        .write_all(&frame(&query(1, "pages.test", A)))
        .unwrap();
    server.wait_while(|server| server.timeouts("write") == 0);
    server.wait_for("fingerpost_tcp_connections", 0);
    assert!(server.pages_made() < PAGES, "{}", server.pages_made());
}

#[test]
fn a_client_that_goes_away_ends_the_making_of_messages() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    stream
        .write_all(&frame(&query(1, "pages.test", A)))
        .unwrap();
    read_reply(&mut stream);
    drop(stream);
    server.wait_for("fingerpost_tcp_connections", 0);
    assert!(server.pages_made() < PAGES, "{}", server.pages_made());
}

#[test]
fn a_reply_that_cannot_be_completed_ends_its_connection() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    stream.write_all(&frame(&query(1, "torn.test", A))).unwrap();
    let octets = rest(stream);
    assert!(octets.len() > 2 * PAGE_LEN);
    assert_eq!(server.pages_made(), 2);
}

#[test]
fn a_stop_answers_what_stands_in_the_queue() {
    let mut server = Server::open("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    for number in 0..150 {
        client.send(&query(number, "a.test", A)).unwrap();
    }
    server.serve();
    server.stop();
    let mut ids: Vec<_> = (0..150)
        .map(|_| {
            let mut reply = [0; 512];
            client.recv(&mut reply).unwrap();
            id(&reply)
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
}

#[test]
fn a_stop_waits_for_what_is_in_flight() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let mut stream = tcp_to(&server);
    let idle = tcp_to(&server);
    client.send(&query(1, "wait.test", A)).unwrap();
    client.send(&query(3, "wait.here.test", A)).unwrap();
    stream.write_all(&frame(&query(2, "wait.test", A))).unwrap();
    server.wait_for("fingerpost_queries_in_flight", 3);
    let gate = server.gate();
    let stopped = std::thread::spawn(move || server.stop());
    // The idle connection tells that the stop has begun.
    assert_eq!(rest(idle), b"");
    gate.add_permits(3);
    let mut replies = [0; 2].map(|_| {
        let mut reply = [0; 512];
        client.recv(&mut reply).unwrap();
        id(&reply)
    });
    replies.sort_unstable();
    assert_eq!(replies, [1, 3]);
    assert_eq!(id(&read_reply(&mut stream)), 2);
    assert_eq!(rest(stream), b"");
    stopped.join().unwrap();
}

#[test]
fn a_stop_gives_up_on_what_never_ends() {
    let server = Server::start(
        "127.0.0.1:0",
        Limits {
            stop_timeout: Duration::from_millis(100),
            ..Limits::default()
        },
    );
    let client = udp_to(&server, "127.0.0.1");
    client.send(&query(1, "wait.test", A)).unwrap();
    client.send(&query(3, "wait.here.test", A)).unwrap();
    let mut stream = tcp_to(&server);
    stream.write_all(&frame(&query(2, "wait.test", A))).unwrap();
    server.wait_for("fingerpost_queries_in_flight", 3);
    server.stop();
    assert_eq!(rest(stream), b"");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::try_open(address, Limits::default())
        .err()
        .expect("the port is taken");
    assert_eq!(
        error.to_string(),
        format!(
            "udp port {} on {} is taken by another program",
            address.port(),
            Ipv4Addr::LOCALHOST
        )
    );
}

/// Asks each time from another port, until told to stop. Returns how many queries it sent, and how many got no reply.
fn ask_from_new_ports(port: u16, stop: &std::sync::atomic::AtomicBool) -> (usize, usize) {
    use std::sync::atomic::Ordering;
    let (mut asked, mut lost) = (0_usize, 0);
    let mut waiting = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        // Each has its own socket, so one ID does for all.
        socket.send(&query(7, "a.test", A)).unwrap();
        asked += 1;
        waiting.push(socket);
        if waiting.len() == 50 {
            lost += unanswered(&mut waiting);
        }
    }
    (asked, lost + unanswered(&mut waiting))
}

fn unanswered(waiting: &mut Vec<UdpSocket>) -> usize {
    let is_lost = |socket: &UdpSocket| socket.recv(&mut [0; 512]).is_err();
    waiting.drain(..).filter(is_lost).count()
}

#[test]
fn a_stop_leaves_every_query_to_the_server_that_takes_over() {
    let mut first = Server::start("127.0.0.1:0", Limits::default());
    let port = first.port();
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| ask_from_new_ports(port, &end));
        for _ in 0..10 {
            let next = Server::start(&format!("127.0.0.1:{port}"), Limits::default());
            std::mem::replace(&mut first, next).stop();
        }
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        let (asked, lost) = client.join().unwrap();
        assert!(asked > 100, "{asked} is no load");
        assert_eq!(lost, 0, "of {asked}");
    });
}

#[test]
fn a_stop_answers_late_queries_of_both_families_from_a_wildcard() {
    // A socket that was connected to turn new datagrams away still replies to those before, whoever sent them.
    let mut server = Server::open("[::]:0", Limits::default());
    let clients = [udp_to(&server, "127.0.0.1"), udp_to(&server, "::1")];
    let gate = server.gate();
    server.serve();
    for client in &clients {
        client.send(&query(1, "wait.test", A)).unwrap();
    }
    server.wait_for("fingerpost_queries_in_flight", 2);
    for client in &clients {
        client.send(&query(2, "wait.test", A)).unwrap();
    }
    server.wait_for("fingerpost_queries_in_flight", 4);
    let stopped = std::thread::spawn(move || server.stop());
    gate.add_permits(4);
    for client in &clients {
        for _ in 0..2 {
            let mut reply = [0; 512];
            client.recv(&mut reply).unwrap();
            assert_eq!(rcode(&reply), NOERROR);
        }
    }
    stopped.join().unwrap();
}

#[test]
fn a_stop_answers_all_that_a_connection_has_sent_and_then_ends_it_in_order() {
    // More than is read at once, so that a close too early would be a reset.
    const COUNT: u16 = 1000;
    let server = Server::start("127.0.0.1:0", Limits::default());
    let mut stream = tcp_to(&server);
    stream.write_all(&frame(&query(0, "a.test", A))).unwrap();
    assert_eq!(id(&read_reply(&mut stream)), 0);
    let all: Vec<u8> = (1..=COUNT)
        .flat_map(|number| frame(&query(number, "a.test", A)))
        .collect();
    stream.write_all(&all).unwrap();
    let stopped = std::thread::spawn(move || server.stop());
    for number in 1..=COUNT {
        assert_eq!(id(&read_reply(&mut stream)), number);
    }
    let mut end = [0; 1];
    assert_eq!(stream.read(&mut end).unwrap(), 0, "a FIN, no reset");
    stopped.join().unwrap();
}

#[test]
fn clients_that_are_sent_away_lose_their_connection_when_it_idles_and_nothing_else() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let gate = server.gate();
    let mut idle = tcp_to(&server);
    idle.write_all(&frame(&query(1, "a.test", A))).unwrap();
    assert_eq!(id(&read_reply(&mut idle)), 1);
    let mut waiting = tcp_to(&server);
    waiting
        .write_all(&frame(&query(2, "wait.test", A)))
        .unwrap();
    server.wait_for("fingerpost_queries_in_flight", 1);
    server.send_away();
    assert_eq!(rest(idle), b"");
    // Who comes all the same is served.
    let mut late = tcp_to(&server);
    late.write_all(&frame(&query(3, "a.test", A))).unwrap();
    assert_eq!(id(&read_reply(&mut late)), 3);
    assert_eq!(rest(late), b"");
    gate.add_permits(1);
    assert_eq!(id(&read_reply(&mut waiting)), 2);
    assert_eq!(rest(waiting), b"");
    assert_eq!(server.timeouts("idle"), 0);
}

#[test]
fn what_is_heard_is_counted_once_it_is_watched() {
    let server = Server::start("127.0.0.1:0", Limits::default());
    let client = udp_to(&server, "127.0.0.1");
    let mut stream = tcp_to(&server);
    let ask_udp = || {
        client.send(&query(1, "a.test", A)).unwrap();
        client.recv(&mut [0; 512]).unwrap();
    };
    ask_udp();
    assert_eq!(server.heard(), (0, None));
    server.watch();
    ask_udp();
    let (once, last) = server.heard();
    assert_eq!(last, Some(Ipv4Addr::LOCALHOST.into()));
    stream.write_all(&frame(&query(2, "a.test", A))).unwrap();
    read_reply(&mut stream);
    assert!(once > 0 && server.heard().0 > once);
}
