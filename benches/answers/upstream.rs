//! An upstream that answers on the thread that asks it, so that a relayed query takes the same steps every time.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use fingerpost::chain::deferred::Outcome;
use fingerpost::reactor::Reactor;
use fingerpost::wire::record::skip_name;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers A questions with one address that may be kept for an hour.
pub(crate) struct Upstream {
    socket: UdpSocket,
    message: [u8; 512],
}

impl Upstream {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            message: [0; 512],
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sees a query through that has to be asked here, as a worker does, and returns its reply's octets.
    pub(crate) fn see_through(&mut self, outcome: Outcome, reactor: &mut Reactor<usize>) -> usize {
        let Outcome::Deferred(deferred) = outcome else {
            panic!("a query that is answered from memory is another case");
        };
        let reply = async {
            let reply = deferred.finish().await;
            reply.map_or(0, |reply| reply.len())
        };
        assert!(reactor.start(reply).is_none());
        // The query leaves; nothing has come.
        reactor.wait(&self.socket, Duration::ZERO).unwrap();
        self.answer_one();
        let mut octets = 0;
        while octets == 0 {
            reactor.wait(&self.socket, PATIENCE).unwrap();
            reactor.run_woken(|of_reply| octets = of_reply);
        }
        octets
    }

    fn answer_one(&mut self) {
        let (_, client) = self.socket.recv_from(&mut self.message).unwrap();
        let question_end = skip_name(&self.message, 12).unwrap() + 4;
        self.message[2..4].copy_from_slice(&[0x81, 0x80]);
        self.message[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 1];
        let end = question_end + record.len();
        self.message[question_end..end].copy_from_slice(&record);
        self.socket.send_to(&self.message[..end], client).unwrap();
    }
}
