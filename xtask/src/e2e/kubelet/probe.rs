//! Readiness, as a kubelet probes it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A container is probed for the first time this long after its start.
const FIRST: Duration = Duration::from_millis(500);

/// Whether a pod is ready, and when to ask again.
pub struct Readiness {
    /// None: nobody asks, and it is what it was at the start.
    probe: Option<Probe>,
    is_ready: bool,
}

struct Probe {
    port: u16,
    path: String,
    period: Duration,
    timeout: Duration,
    threshold: u32,
    failures: u32,
    at: Instant,
}

impl Readiness {
    /// As the container's `readinessProbe` says; without one, what is given.
    pub fn new(spec: &Value, otherwise: bool) -> Self {
        let number = |field: &str, default| spec[field].as_u64().unwrap_or(default);
        let port = spec["httpGet"]["port"].as_u64();
        let probe = port
            .and_then(|port| u16::try_from(port).ok())
            .map(|port| Probe {
                port,
                path: spec["httpGet"]["path"].as_str().unwrap_or("/").to_owned(),
                period: Duration::from_secs(number("periodSeconds", 10)),
                timeout: Duration::from_secs(number("timeoutSeconds", 1)),
                threshold: u32::try_from(number("failureThreshold", 3)).unwrap_or(3),
                failures: 0,
                at: Instant::now(),
            });
        Self {
            is_ready: probe.is_none() && otherwise,
            probe,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// A container has started.
    pub fn restart(&mut self) {
        if let Some(probe) = &mut self.probe {
            self.is_ready = false;
            probe.failures = 0;
            probe.at = Instant::now() + FIRST;
        }
    }

    /// Nothing runs any more.
    pub fn fail(&mut self) {
        self.is_ready = false;
    }

    /// Probes if it is time to.
    pub fn look(&mut self, address: Ipv4Addr) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if Instant::now() < probe.at {
            return;
        }
        probe.at += probe.period;
        if probe.succeeds(address) {
            probe.failures = 0;
            self.is_ready = true;
        } else {
            probe.failures += 1;
            self.is_ready &= probe.failures < probe.threshold;
        }
    }
}

impl Probe {
    fn succeeds(&self, address: Ipv4Addr) -> bool {
        let ask = || -> std::io::Result<bool> {
            let address = SocketAddr::from((address, self.port));
            let mut stream = TcpStream::connect_timeout(&address, self.timeout)?;
            stream.set_read_timeout(Some(self.timeout))?;
            let path = &self.path;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            )?;
            let mut head = [0; 12];
            stream.read_exact(&mut head)?;
            Ok(matches!(&head[9..], [b'2' | b'3', ..]))
        };
        ask().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_unready_only_after_as_many_failures_as_its_probe_allows() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = nobody.local_addr().expect("it is bound").port();
        drop(nobody);
        let spec = json!({"httpGet": {"path": "/ready", "port": port}, "periodSeconds": 0});
        let mut readiness = Readiness::new(&spec, true);
        assert!(!readiness.is_ready());
        readiness.is_ready = true;
        let after = [(); 4].map(|()| {
            readiness.look(Ipv4Addr::LOCALHOST);
            readiness.is_ready()
        });
        assert_eq!(after, [true, true, false, false]);
    }

    #[test]
    fn without_a_probe_a_pod_is_what_it_is_said_to_be() {
        for said in [true, false] {
            let mut readiness = Readiness::new(&Value::Null, said);
            readiness.look(Ipv4Addr::LOCALHOST);
            assert_eq!(readiness.is_ready(), said);
        }
    }
}
