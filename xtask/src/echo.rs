//! `echo PORT`: the least that any server can cost. It receives a batch, puts one A record behind each question, and
//! sends the batch; it looks nothing up and checks nothing. It is also the upstream of the benches, for which it does the
//! same over TCP; there nothing is compared with it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::parent_id;
use std::time::Duration;

use crate::load::batch;

const HEADER_LEN: usize = 12;

/// Owner: the question's; A, IN, an hour, 192.0.2.1.
const ANSWER: [u8; 16] = [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 1];

/// Answers until it is killed, or until whoever started it is gone.
pub fn run(port: &str) -> Result<(), String> {
    let parent = parent_id();
    std::thread::spawn(move || {
        while parent_id() == parent {
            std::thread::sleep(Duration::from_secs(1));
        }
        std::process::exit(0);
    });
    let number = port
        .parse()
        .map_err(|_| format!("`{port}` is not a port"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number));
    let listener = listener.map_err(|error| format!("127.0.0.1:{port}: {error}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || converse(stream));
        }
    });
    batch::echo(number, answer).map_err(|error| format!("127.0.0.1:{port}: {error}"))
}

/// Answers on one connection until it ends.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut octets = [0; 2048];
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        let query = octets
            .get_mut(2..2 + length)
            .ok_or(ErrorKind::InvalidData)?;
        stream.read_exact(query)?;
        let length = answer(&mut octets[2..], length);
        let prefix = u16::try_from(length).map_err(|_| ErrorKind::InvalidData)?;
        octets[..2].copy_from_slice(&prefix.to_be_bytes());
        stream.write_all(&octets[..2 + length])?;
    }
}

/// Makes a query of `length` octets its own reply; the reply's length.
fn answer(octets: &mut [u8], length: usize) -> usize {
    let mut end = HEADER_LEN;
    while end < length && octets[end] != 0 {
        end += 1 + usize::from(octets[end]);
    }
    // The root, and type and class.
    end += 5;
    if end > length || end + ANSWER.len() > octets.len() {
        return 0;
    }
    // QR, AA and RD; RA. One question, one answer, nothing else.
    octets[2..HEADER_LEN].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    octets[end..end + ANSWER.len()].copy_from_slice(&ANSWER);
    end + ANSWER.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_one_connection_are_answered_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let server = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || listener.accept().map(|(stream, _)| converse(stream)));
        let mut client = TcpStream::connect(server).expect("it listens");
        let query = [0, 17, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        client
            .write_all(&[query, query].concat())
            .expect("it reads");
        let mut replies = [0; 2 * (2 + 17 + 16)];
        client.read_exact(&mut replies).expect("it answers both");
        assert_eq!(replies[..4], [0, 33, 0, 7]);
        assert_eq!(replies[..35], replies[35..]);
    }

    #[test]
    fn a_query_becomes_its_reply_and_what_is_none_becomes_nothing() {
        let mut octets = [0; 64];
        let query = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        octets[..query.len()].copy_from_slice(&query);
        assert_eq!(answer(&mut octets, query.len()), query.len() + 16);
        assert_eq!(octets[..12], [0, 7, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(octets[query.len() + 12..][..4], [192, 0, 2, 1]);
        assert_eq!(answer(&mut octets, 11), 0);
        octets[12] = 63;
        assert_eq!(answer(&mut octets, query.len()), 0);
    }
}
