//! A client of the API server: JSON over TLS, one request after the other on a connection that is kept.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::control_plane::{ControlPlane, TOKEN};

/// Where the API server is, and what it proves itself by.
#[derive(Clone)]
pub struct Api {
    address: SocketAddrV4,
    config: Arc<ClientConfig>,
}

/// One connection.
pub struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl Api {
    pub fn of(control_plane: &ControlPlane) -> Result<Self, String> {
        Self::new(control_plane.address(), &control_plane.authority())
    }

    fn new(address: SocketAddrV4, authority: &Path) -> Result<Self, String> {
        let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", authority.display());
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(authority).map_err(|error| shown(&error))?
        {
            let certificate = certificate.map_err(|error| shown(&error))?;
            roots.add(certificate).map_err(|error| shown(&error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            address,
            config: Arc::new(config),
        })
    }

    pub fn connect(&self) -> Result<Connection, String> {
        let text = |error: std::io::Error| format!("API server: {error}");
        let tcp = TcpStream::connect(self.address).map_err(text)?;
        tcp.set_nodelay(true).map_err(text)?;
        tcp.set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(text)?;
        let name = ServerName::from(IpAddr::V4(*self.address.ip()));
        let tls = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| error.to_string())?;
        Ok(Connection {
            stream: BufReader::new(StreamOwned::new(tls, tcp)),
        })
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        let ask = || self.connect()?.request("GET", "/readyz", None);
        ask().is_ok_and(|(code, _)| code == 200)
    }
}

impl Connection {
    /// One request; returns its status and body.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>), String> {
        self.send(method, path, body)?;
        read_reply(&mut self.stream)
    }

    /// The same, which must succeed.
    pub fn demand(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let (code, reply) = self.request(method, path, body)?;
        if !(200..300).contains(&code) {
            return Err(format!(
                "{method} {path}: {code} {}",
                String::from_utf8_lossy(&reply)
            ));
        }
        serde_json::from_slice(&reply).map_err(|error| format!("{method} {path}: {error}"))
    }

    fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(), String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let content = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let message = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let stream = self.stream.get_mut();
        stream
            .write_all(message.as_bytes())
            .and_then(|()| stream.flush())
            .map_err(|error| format!("{method} {path}: {error}"))
    }

    /// Watches; `each` gets every event as it comes, until it says false or the server ends it.
    pub fn watch(mut self, path: &str, mut each: impl FnMut(&Value) -> bool) -> Result<(), String> {
        self.send("GET", path, None)?;
        let head = read_head(&mut self.stream)?;
        if head.code != 200 {
            return Err(format!("GET {path}: {}", head.code));
        }
        let mut line = Vec::new();
        while let Some(chunk) = read_chunk(&mut self.stream)? {
            line.extend_from_slice(&chunk);
            while let Some(end) = line.iter().position(|&octet| octet == b'\n') {
                let event: Value =
                    serde_json::from_slice(&line[..end]).map_err(|error| error.to_string())?;
                line.drain(..=end);
                if !each(&event) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

struct Head {
    code: u16,
    length: Option<usize>,
}

fn read_head(stream: &mut impl BufRead) -> Result<Head, String> {
    let mut head = Head {
        code: 0,
        length: None,
    };
    loop {
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        let line = line.trim_end();
        if head.code == 0 {
            let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            head.code = code.ok_or_else(|| format!("no reply, but `{line}`"))?;
        } else if line.is_empty() {
            return Ok(head);
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            head.length = value.trim().parse().ok();
        }
    }
}

/// The next chunk; none at the end.
fn read_chunk(stream: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut size = String::new();
    stream.read_line(&mut size).map_err(text)?;
    let size = usize::from_str_radix(size.trim(), 16).map_err(|_| "the stream broke off")?;
    let mut chunk = vec![0; size + 2];
    stream.read_exact(&mut chunk).map_err(text)?;
    chunk.truncate(size);
    Ok((size > 0).then_some(chunk))
}

/// Status and body of a reply that has a length or comes in chunks.
pub fn read_reply(stream: &mut impl BufRead) -> Result<(u16, Vec<u8>), String> {
    let head = read_head(stream)?;
    let mut body = Vec::new();
    match head.length {
        Some(length) => {
            body.resize(length, 0);
            stream
                .read_exact(&mut body)
                .map_err(|error| error.to_string())?;
        }
        None => {
            while let Some(chunk) = read_chunk(stream)? {
                body.extend_from_slice(&chunk);
            }
        }
    }
    Ok((head.code, body))
}

#[cfg(test)]
mod tests {
    use super::read_reply;

    #[test]
    fn a_reply_is_read_by_its_length_or_in_chunks() {
        let plain = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabcHTTP".as_slice();
        assert_eq!(read_reply(&mut { plain }), Ok((201, b"abc".to_vec())));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\na\r\n0123456789\r\n0\r\n\r\n".as_slice();
        assert_eq!(
            read_reply(&mut { chunked }),
            Ok((200, b"ab0123456789".to_vec()))
        );
        assert!(read_reply(&mut b"".as_slice()).is_err());
    }
}
