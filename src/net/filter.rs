//! The filter in front of a UDP socket: a small program for the kernel that drops a part of what some senders send.
//!
//! Classic BPF, which needs no privilege. A dropped datagram costs the kernel some 50 ns and us nothing. For each sender
//! there is a block; what matches none passes:
//!
//! ```text
//! version 4: source == A ? (random < pass of A ? pass : drop) : next
//!            source == B ? ...
//! version 6: likewise, four words each
//! ```

use std::io;
use std::net::UdpSocket;

use crate::net::sieve::Limited;

/// Lets only a part of what these clients send into the socket's queue; everything if there are none.
#[cfg(target_os = "linux")]
pub fn apply(socket: &UdpSocket, limited: &[Limited]) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    if limited.is_empty() {
        return socket.detach_filter();
    }
    socket.attach_filter(&linux::program(limited))
}

/// There is no such filter here.
#[cfg(not(target_os = "linux"))]
pub fn apply(_socket: &UdpSocket, _limited: &[Limited]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::IpAddr;

    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_RSH, BPF_W,
    };
    use socket2::SockFilter;

    use crate::net::sieve::Limited;

    /// From here on offsets count from the IP header.
    const IP_HEADER: u32 = libc::SKF_NET_OFF as u32;

    /// A load from here gives a random number.
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;

    /// Where the source address stands (RFC 791, section 3.1; RFC 8200, section 3).
    const SOURCE_V4: u32 = IP_HEADER + 12;
    const SOURCE_V6: u32 = IP_HEADER + 8;

    const DROP: u32 = 0;

    /// More octets than any datagram has.
    const PASS: u32 = u32::MAX;

    /// Instructions from the draw of the random number to the end of a block.
    const DRAW_LEN: u8 = 4;

    pub(super) fn program(limited: &[Limited]) -> Vec<SockFilter> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for one in limited {
            match one.client {
                IpAddr::V4(address) => {
                    v4.push(load(BPF_W, SOURCE_V4));
                    v4.push(unless_equal(u32::from(address), DRAW_LEN));
                    v4.extend(draw(one.pass));
                }
                IpAddr::V6(address) => {
                    let words: [u32; 4] = std::array::from_fn(|word| {
                        (u128::from(address) >> (96 - 32 * word)) as u32
                    });
                    for (word, (value, left)) in words.into_iter().zip([6, 4, 2, 0]).enumerate() {
                        v6.push(load(BPF_W, SOURCE_V6 + 4 * word as u32));
                        v6.push(unless_equal(value, left + DRAW_LEN));
                    }
                    v6.extend(draw(one.pass));
                }
            }
        }
        v4.push(end(PASS));
        v6.push(end(PASS));
        let over_v4 =
            u8::try_from(v4.len()).expect("there are few clients, of 6 instructions each");
        let mut program = vec![
            load(BPF_B, IP_HEADER),
            SockFilter::new((BPF_ALU | BPF_RSH | BPF_K) as u16, 0, 0, 4),
            SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, over_v4, 0, 6),
        ];
        program.extend(v4);
        program.extend(v6);
        program
    }

    fn load(size: u32, at: u32) -> SockFilter {
        SockFilter::new((BPF_LD | size | BPF_ABS) as u16, 0, 0, at)
    }

    fn unless_equal(value: u32, skip: u8) -> SockFilter {
        SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, skip, value)
    }

    fn end(verdict: u32) -> SockFilter {
        SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, verdict)
    }

    fn draw(pass: f64) -> [SockFilter; DRAW_LEN as usize] {
        // The cast is to the nearest bound where the number is out of range.
        let below = (pass * f64::from(u32::MAX)) as u32;
        [
            load(BPF_W, RANDOM),
            SockFilter::new((BPF_JMP | BPF_JGE | BPF_K) as u16, 0, 1, below),
            end(DROP),
            end(PASS),
        ]
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::net::{IpAddr, SocketAddr};
    use std::time::Duration;

    const SENT: usize = 2000;

    /// How many of a client's datagrams come through.
    fn through(server: &UdpSocket, client: &str) -> usize {
        let client: IpAddr = client.parse().unwrap();
        let sender = UdpSocket::bind((client, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let to = match client {
            IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], port)),
            IpAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        };
        let mut octets = [0; 8];
        let mut come = 0;
        for _ in 0..SENT {
            sender.send_to(b"x", to).unwrap();
            while server.recv(&mut octets).is_ok() {
                come += 1;
            }
        }
        come
    }

    fn limited(client: &str, pass: f64) -> Limited {
        Limited {
            client: client.parse().unwrap(),
            pass,
        }
    }

    #[test]
    fn of_limited_clients_a_part_passes_and_of_all_others_everything() {
        let server = UdpSocket::bind("[::]:0").unwrap();
        server.set_nonblocking(true).unwrap();
        // A datagram on loopback is in the queue when its send returns.
        assert_eq!(through(&server, "127.0.0.1"), SENT);
        let some = [
            limited("127.0.0.2", 0.25),
            limited("127.0.0.3", 0.0),
            limited("::1", 0.5),
            limited("2001:db8::1", 0.0),
        ];
        apply(&server, &some).unwrap();
        assert_eq!(through(&server, "127.0.0.1"), SENT);
        assert!((300..700).contains(&through(&server, "127.0.0.2")));
        assert!(through(&server, "127.0.0.3") < 10);
        assert!((700..1300).contains(&through(&server, "::1")));
        apply(&server, &[]).unwrap();
        assert_eq!(through(&server, "127.0.0.3"), SENT);
    }

    #[test]
    fn the_kernel_takes_a_program_for_as_many_clients_as_there_may_be() {
        let server = UdpSocket::bind("[::1]:0").unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let some: Vec<Limited> = (0..crate::net::sieve::LIMITED_MAX)
            .map(|number| limited(&format!("2001:db8::{number}"), 0.5))
            .collect();
        apply(&server, &some).unwrap();
        let some: Vec<Limited> = (0..crate::net::sieve::LIMITED_MAX)
            .map(|number| limited(&format!("10.0.0.{number}"), 0.5))
            .collect();
        apply(&server, &some).unwrap();
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
    }
}
