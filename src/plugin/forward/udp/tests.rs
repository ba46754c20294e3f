//! Tests of ports, and of what others may do to a socket.

use std::collections::HashMap;
use std::net::UdpSocket as StdSocket;

use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover};
use socket2::Protocol;

use super::*;

/// A bound socket to send to.
fn listener() -> (StdSocket, SocketAddr) {
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn reports_of_narrow_paths_are_omitted_by_the_kernel() {
    let (_listener, to) = listener();
    let socket = connect(to, None).unwrap();
    assert_eq!(
        ip_mtu_discover(&socket).unwrap(),
        Ipv4PathMtuDiscovery::OMIT
    );
    let Ok(listener) = StdSocket::bind("[::1]:0") else {
        // There is no IPv6 here.
        return;
    };
    let socket = connect(listener.local_addr().unwrap(), None).unwrap();
    assert_eq!(
        ipv6_mtu_discover(&socket).unwrap(),
        Ipv6PathMtuDiscovery::OMIT
    );
}

#[tokio::test]
async fn ports_are_spread_over_fifteen_and_a_half_bits() {
    const SOCKETS: u32 = 20_000;
    let (_listener, to) = listener();
    let mut uses: HashMap<u16, u32> = HashMap::new();
    let (mut last, mut near) = (0u16, 0);
    for _ in 0..SOCKETS {
        let port = connect(to, None).unwrap().local_addr().unwrap().port();
        *uses.entry(port).or_default() += 1;
        near += u32::from(port.wrapping_sub(last) < 256);
        last = port;
    }
    // How often two of them are alike says how many a guesser has to choose from (the entropy of Rényi, which is the
    // least of all that are in use). 3,600 pairs are expected; 15.5 bits are ten standard deviations away.
    let alike: u32 = uses.values().map(|uses| uses * (uses - 1) / 2).sum();
    let pairs = f64::from(SOCKETS) * f64::from(SOCKETS - 1) / 2.0;
    let bits = (pairs / f64::from(alike)).log2();
    assert!(bits > 15.5, "{bits} bits");
    // Of two in a row 256 in 55,296 are near by chance: 93 of these, with a deviation of 10.
    assert!(near < 200, "{near} follow one another");
}

/// Sends an ICMP message of type 3 about a datagram from `from` to `to`, as any host could that guesses the ports.
/// False where raw sockets are not for everyone, as mostly outside containers.
fn forge_icmp(code: u8, from: SocketAddr, to: SocketAddr) -> bool {
    let Ok(raw) = RawSocket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) else {
        return false;
    };
    let mut message = vec![3, code, 0, 0, 0, 0, 0, 68];
    message.extend_from_slice(&[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    for address in [from, to] {
        let IpAddr::V4(ip) = address.ip() else {
            unreachable!("both are IPv4");
        };
        message.extend_from_slice(&ip.octets());
    }
    for number in [from.port(), to.port(), 40, 0] {
        message.extend_from_slice(&number.to_be_bytes());
    }
    let sum = message.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((sum + (sum >> 16)) & 0xffff).unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    raw.send_to(&message, &SocketAddr::new(from.ip(), 0).into())
        .unwrap();
    true
}

/// What a socket says after such a message; none where raw sockets are not allowed.
async fn error_after(code: u8) -> Option<io::Error> {
    let (_listener, to) = listener();
    let socket = connect(to, None).unwrap();
    let from = socket.local_addr().unwrap();
    if !forge_icmp(code, from, to) {
        return None;
    }
    let ready = socket.ready(ARRIVAL);
    let _ = tokio::time::timeout(Duration::from_secs(10), ready)
        .await
        .expect("loopback delivers");
    socket.take_error().unwrap()
}

#[tokio::test]
async fn a_forged_report_of_a_narrow_path_concerns_no_query() {
    const FRAGMENTATION_NEEDED: u8 = 4;
    if let Some(error) = error_after(FRAGMENTATION_NEEDED).await {
        assert!(matches!(Weight::of(&error), Weight::None), "{error}");
    }
}

#[tokio::test]
async fn whatever_icmp_says_the_socket_stays() {
    // Protocol, port; network and host unknown, isolated, prohibited; filtered, and precedence.
    for code in [2, 3, 6, 7, 8, 9, 10, 13, 14, 15] {
        if let Some(error) = error_after(code).await {
            assert!(matches!(Weight::of(&error), Weight::Queries), "{error}");
        }
    }
}

/// What asks an upstream for `web.a`, and gives up after so long.
fn ask(
    lanes: &Arc<Lanes>,
    patience: Duration,
) -> impl Future<Output = Result<Reply, Trouble>> + Send + use<> {
    let qname = crate::wire::name::Name::from_text("web.a").unwrap();
    let request = Request::own(qname.as_ref(), crate::wire::code::RecordType::A, true);
    let lanes = Arc::clone(lanes);
    async move {
        let now = Instant::now();
        lanes.exchange(&request, now, now + patience).await
    }
}

/// Lanes to an upstream, for a thread with a reactor of its own.
fn lanes(to: SocketAddr) -> (Arc<Lanes>, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let metrics = crate::telemetry::metrics::Metrics::new().families();
    let metrics = Arc::new(UpstreamMetrics::new(metrics, to));
    let root = crate::wire::name::Name::root();
    let transport = crate::plugin::forward::config::Stanza::new(root).transport;
    let handle = runtime.handle().clone();
    (
        Arc::new(Lanes::new(to, &transport, handle, metrics)),
        runtime,
    )
}

type Results = Vec<Result<Reply, Trouble>>;

/// Lets the reactor work until so many are done.
fn finish(reactor: &mut reactor::Reactor<Result<Reply, Trouble>>, count: usize) -> Results {
    let (own, _) = listener();
    let mut results = Vec::new();
    while results.len() < count {
        reactor.wait(&own, Duration::from_secs(10)).unwrap();
        reactor.run_woken(|result| results.push(result));
    }
    results
}

/// Answers so many queries with what they are, marked as replies.
fn answer(upstream: &StdSocket, count: usize) -> Vec<SocketAddr> {
    let mut message = [0; 512];
    let answer = |_| {
        let (length, from) = upstream.recv_from(&mut message).unwrap();
        message[2] |= 0x80;
        upstream.send_to(&message[..length], from).unwrap();
        from
    };
    (0..count).map(answer).collect()
}

#[test]
fn who_sends_on_a_thread_of_its_own_receives_there_and_its_ports_change_as_elsewhere() {
    const BATCHES: usize = 40;
    const EACH: usize = 40;
    let (upstream, to) = listener();
    let (lanes, _runtime) = lanes(to);
    let mut reactor = reactor::Reactor::open().unwrap();
    let mut ports: HashMap<SocketAddr, u32> = HashMap::new();
    let (own, _) = listener();
    for _ in 0..BATCHES {
        for _ in 0..EACH {
            let asked = ask(&lanes, Duration::from_secs(60));
            assert!(reactor.start(asked).is_none(), "it waits");
        }
        // They leave together.
        reactor.wait(&own, Duration::ZERO).unwrap();
        for from in answer(&upstream, EACH) {
            *ports.entry(from).or_default() += 1;
        }
        let results = finish(&mut reactor, EACH);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    assert!(ports.values().all(|&uses| uses <= USES_MAX));
    // 40 draws of 32 lanes that all fall on fewer than 10: one run in 10^14.
    assert!(ports.len() >= 10, "{} ports", ports.len());
    assert_eq!(lanes.outstanding.load(Ordering::Relaxed), 0);
    assert!(!reactor.is_busy());
}

#[test]
fn silence_is_told_on_a_thread_of_its_own_too() {
    let (_upstream, to) = listener();
    let (lanes, _runtime) = lanes(to);
    let mut reactor = reactor::Reactor::open().unwrap();
    let asked = ask(&lanes, Duration::from_millis(20));
    assert!(reactor.start(asked).is_none());
    let results = finish(&mut reactor, 1);
    let trouble = results[0].as_ref().unwrap_err();
    assert!(
        trouble.timed_out && trouble.text.ends_with(": i/o timeout"),
        "{trouble:?}"
    );
    assert!(!reactor.is_busy());
}

#[test]
fn a_refusal_is_told_on_a_thread_of_its_own_too() {
    let (upstream, to) = listener();
    drop(upstream);
    let (lanes, _runtime) = lanes(to);
    let mut reactor = reactor::Reactor::open().unwrap();
    for _ in 0..3 {
        let asked = ask(&lanes, Duration::from_secs(60));
        assert!(reactor.start(asked).is_none());
    }
    for result in finish(&mut reactor, 3) {
        let trouble = result.unwrap_err();
        assert!(
            !trouble.timed_out && trouble.text.ends_with("connection refused"),
            "{trouble:?}"
        );
    }
}

#[test]
fn the_end_of_a_thread_is_told_to_those_who_wait_elsewhere() {
    let (_upstream, to) = listener();
    let (lanes, runtime) = lanes(to);
    let mut reactor = reactor::Reactor::<()>::open().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let asked = ask(&lanes, Duration::from_secs(60));
    let task = async move {
        let mut asked = Box::pin(asked);
        std::future::poll_fn(|context| {
            let pending = asked.as_mut().poll(context).is_pending();
            assert!(pending);
            std::task::Poll::Ready(())
        })
        .await;
        sender.send(asked).unwrap();
    };
    assert!(reactor.start(task).is_some());
    let asked = receiver.recv().unwrap();
    drop(reactor);
    let trouble = runtime.block_on(asked).unwrap_err();
    assert!(
        trouble.text.ends_with("the socket was closed"),
        "{trouble:?}"
    );
}
