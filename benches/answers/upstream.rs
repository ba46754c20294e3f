//! An upstream that answers on the thread that asks it, so that a relayed query takes the same steps every time.

use std::future::poll_fn;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use fingerpost::chain::deferred::Outcome;
use fingerpost::wire::record::skip_name;
use tokio::runtime::Runtime;

/// Answers A questions with one address that may be kept for an hour.
pub(crate) struct Upstream {
    socket: UdpSocket,
    message: [u8; 512],
}

impl Upstream {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self {
            socket,
            message: [0; 512],
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sees a query through that may have to be asked here, and returns its reply's octets.
    pub(crate) fn see_through(&mut self, outcome: Outcome, runtime: &Runtime) -> usize {
        let Outcome::Deferred(deferred) = outcome else {
            panic!("a query that is answered from memory is another case");
        };
        runtime.block_on(async {
            let mut reply = pin!(deferred.finish());
            // The first turn sends the query, and what it has come to does not matter.
            poll_fn(|context| Poll::Ready(reply.as_mut().poll(context).is_pending())).await;
            self.answer_one();
            reply.await.unwrap().len()
        })
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
