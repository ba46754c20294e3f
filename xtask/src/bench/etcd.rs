//! Puts objects into etcd itself, many at once.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::bench::api::read_reply;
use crate::bench::objects::Stored;

/// Objects of one transaction; etcd takes 128.
const BATCH: usize = 100;

const WRITERS: usize = 4;

/// Puts all of them; what is there already is replaced.
pub fn put_all(port: u16, objects: impl Iterator<Item = Stored> + Send) -> Result<usize, String> {
    let queue = Mutex::new((objects, 0));
    let next = || {
        let mut queue = queue.lock().expect("no thread panics with it");
        let batch: Vec<Stored> = queue.0.by_ref().take(BATCH).collect();
        queue.1 += batch.len();
        (!batch.is_empty()).then_some(batch)
    };
    std::thread::scope(|scope| {
        let worker = || -> Result<(), String> {
            let mut etcd = Etcd::connect(port)?;
            std::iter::from_fn(next).try_for_each(|batch| etcd.put(&batch))
        };
        let workers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("putting does not panic"))
    })?;
    Ok(queue.into_inner().expect("no thread panicked with it").1)
}

struct Etcd {
    stream: BufReader<TcpStream>,
}

impl Etcd {
    fn connect(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(text)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Puts them in one transaction, through etcd's HTTP gateway.
    fn put(&mut self, batch: &[Stored]) -> Result<(), String> {
        let put = |(key, object): &Stored| {
            let value = base64(object.to_string().as_bytes());
            serde_json::json!({"requestPut": {"key": base64(key.as_bytes()), "value": value}})
        };
        let puts: Vec<Value> = batch.iter().map(put).collect();
        let body = serde_json::json!({"success": puts}).to_string();
        write!(
            self.stream.get_mut(),
            "POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .map_err(text)?;
        match read_reply(&mut self.stream)? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("etcd: {code} {}", String::from_utf8_lossy(&body))),
        }
    }
}

fn text(error: std::io::Error) -> String {
    format!("etcd: {error}")
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for three in octets.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            // 6 bits, which any usize holds.
            let character = char::from(DIGITS[value as usize]);
            text.push(if digit > three.len() { '=' } else { character });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_as_rfc_4648_has_it() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
