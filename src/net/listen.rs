//! Binds an address for UDP and TCP, and owns what serves it.
//!
//! All listeners are opened before any is started, so a start that fails has answered nobody.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use socket2::{Domain, Socket, Type};

use crate::net::batch;
use crate::net::limit::{
    self, ACCEPT_BACKLOG, Limits, STOP_LOOK, UDP_QUEUE_OCTETS, UDP_SEND_TIMEOUT,
};
use crate::net::service::Service;
use crate::net::stream;
use crate::net::udp::Worker;
use crate::server::process::Process;
use crate::zone::Zones;

/// Tries to find a port that is free for both UDP and TCP, where any will do.
const PORT_TRIES: usize = 16;

/// How a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// UDP workers, each with its thread and its socket.
    pub workers: NonZeroUsize,
    /// Bounds.
    pub limits: Limits,
}

impl Default for Options {
    /// A worker for each core that we may use: the affinity mask and the CPU quota of our cgroup are heeded. So is the
    /// limit of open files.
    fn default() -> Self {
        let connections = file_limit().map_or(usize::MAX, limit::connections_of_files);
        Self {
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits {
                connections_of_process_max: connections,
                ..Limits::default()
            },
        }
    }
}

/// How many files the process may open; none if there is no limit.
fn file_limit() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    usize::try_from(limit.current?).ok()
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, port, protocol) = (self.address.ip(), self.address.port(), self.protocol);
        match self.error.kind() {
            ErrorKind::AddrInUse => write!(
                f,
                "{protocol} port {port} on {ip} is taken by another program"
            ),
            ErrorKind::PermissionDenied => write!(
                f,
                "{protocol} port {port} on {ip} needs CAP_NET_BIND_SERVICE: run as root, grant the capability, \
                 or listen on a port from 1024 on"
            ),
            ErrorKind::AddrNotAvailable => write!(
                f,
                "{protocol} port {port} on {ip}: no interface of this host has that address"
            ),
            _ => write!(f, "{protocol} port {port} on {ip}: {}", self.error),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// One address, UDP and TCP: bound when opened, serving when started.
pub struct Listener {
    service: Arc<Service>,
    workers: Vec<Worker>,
    tcp: Option<TcpListener>,
}

impl Listener {
    /// Binds `address`. The wildcard of IPv6 takes IPv4 as well, and gives way to that of IPv4 where the system has
    /// no IPv6. Port 0 takes any that is free.
    pub fn open(
        address: SocketAddr,
        zones: Arc<ArcSwap<Zones>>,
        options: &Options,
        process: &Arc<Process>,
    ) -> Result<Self, BindError> {
        let (address, udp, tcp) = match bind_all(address, options.workers) {
            Err(failure) if is_without_ipv6(&failure) => bind_all(
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
                options.workers,
            )?,
            bound => bound?,
        };
        let service = Service::new(address, zones, options.limits, process);
        let workers = udp
            .into_iter()
            .map(|socket| Worker::new(socket, Arc::clone(&service)))
            .collect();
        Ok(Self {
            service,
            workers,
            tcp: Some(tcp),
        })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.service.address
    }

    /// What it serves; store another to swap it.
    pub fn zones(&self) -> &Arc<ArcSwap<Zones>> {
        &self.service.zones
    }

    /// Whether a panic ends the process (`debug`).
    pub fn set_debug(&self, debug: bool) {
        self.service.set_debug(debug);
    }

    /// Whether UDP replies that find no room are held instead of waited for (`shed`), and what counts those that are lost.
    pub fn set_shed(&self, lost: Option<IntCounter>) {
        self.service.shed.store(lost.map(Arc::new));
    }

    /// Serves from now on. Starting twice changes nothing.
    pub fn start(&mut self) -> io::Result<()> {
        for (index, worker) in self.workers.drain(..).enumerate() {
            // The stop waits for all tokens, so for the thread too.
            let token = self.service.tasks.token();
            std::thread::Builder::new()
                .name(format!("udp-{index}"))
                .spawn(move || {
                    worker.run();
                    drop(token);
                })?;
        }
        if let Some(tcp) = self.tcp.take() {
            let service = Arc::clone(&self.service);
            self.service.spawn(async move {
                match tokio::net::TcpListener::from_std(tcp) {
                    Ok(tcp) => stream::accept(tcp, service).await,
                    Err(error) => tracing::error!("listening on `{}`: {error}", service.address),
                }
            });
        }
        Ok(())
    }

    /// From now on [`heard`](Self::heard) grows with whatever comes in.
    pub fn watch(&self) {
        self.service.watch();
    }

    /// How much has come in since it is watched, in no unit, and who sent the last of it.
    pub fn heard(&self) -> (u64, Option<IpAddr>) {
        self.service.heard()
    }

    /// Clients are to go elsewhere: connections are closed when they have been idle for a moment. All else is served on.
    pub fn send_away(&self) {
        self.service.leave.cancel();
    }

    /// Stops serving: finishes what is in flight and what stands in the queues, as long as the stop time-out allows.
    pub async fn stop(self) {
        let service = &self.service;
        service.stop();
        let patience = service.limits.stop_timeout + STOP_LOOK;
        if tokio::time::timeout(patience, service.tasks.wait())
            .await
            .is_err()
        {
            service.abandon.cancel();
            service.tasks.wait().await;
        }
    }
}

impl Drop for Listener {
    /// What was not stopped stops on its own, with nobody waiting for it.
    fn drop(&mut self) {
        self.service.stop();
    }
}

type Bound = (SocketAddr, Vec<UdpSocket>, TcpListener);

fn bind_all(address: SocketAddr, workers: NonZeroUsize) -> Result<Bound, BindError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(address, workers) {
            Err(failure) if tries != 0 && failure.error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

fn bind_once(mut address: SocketAddr, workers: NonZeroUsize) -> Result<Bound, BindError> {
    let failed = |protocol: &'static str, address: SocketAddr| {
        move |error| BindError {
            address,
            protocol,
            error,
        }
    };
    let mut udp = Vec::with_capacity(workers.get());
    for _ in 0..workers.get() {
        let socket = bind_udp(address).map_err(failed("udp", address))?;
        // The others take the port that the first one got.
        address = socket.local_addr().map_err(failed("udp", address))?;
        udp.push(socket);
    }
    let tcp = bind_tcp(address).map_err(failed("tcp", address))?;
    Ok((address, udp, tcp))
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket_for(&address, Type::DGRAM)?;
    let queue = batch::prepare(&socket, &address, UDP_QUEUE_OCTETS)?;
    if queue < UDP_QUEUE_OCTETS {
        report_short_queue(queue);
    }
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(STOP_LOOK))?;
    socket.set_write_timeout(Some(UDP_SEND_TIMEOUT))?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(&address, Type::STREAM)?;
    // Connections of the process before that are not quite gone must not keep the port from us.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn socket_for(address: &SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(*address), kind, None)?;
    // Each worker has its own socket on the one port, and so has the process that takes over from this one.
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // The default is the system's to choose; ours does not depend on it.
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    Ok(socket)
}

/// Whether somebody else serves on this address, and would share it with us. Asked before anything of ours is open, and of
/// TCP: a UDP socket gets queries from the moment it is bound, and they would end with it.
pub fn is_shared(address: SocketAddr) -> bool {
    let alone = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Connections that are not quite gone are nobody's service.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    address.port() != 0
        && alone().is_err_and(|error: io::Error| error.kind() == ErrorKind::AddrInUse)
}

/// Says early whether `address` could be listened on, as far as TCP tells, and for the reason that [`is_shared`] has. What is
/// bound and does not listen gets no connection.
pub fn check(address: SocketAddr) -> Result<(), BindError> {
    let check = |address: SocketAddr| {
        let bind = || {
            let socket = socket_for(&address, Type::STREAM)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())
        };
        bind().map_err(|error| BindError {
            address,
            protocol: "tcp",
            error,
        })
    };
    match check(address) {
        Err(failure) if is_without_ipv6(&failure) => check(SocketAddr::new(
            Ipv4Addr::UNSPECIFIED.into(),
            address.port(),
        )),
        checked => checked,
    }
}

/// The wildcard of IPv6 failed because the system has no IPv6.
fn is_without_ipv6(failure: &BindError) -> bool {
    failure.address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && (failure.error.kind() == ErrorKind::AddrNotAvailable
            || failure.error.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

fn report_short_queue(queue: usize) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "UDP receive queues hold {queue} octets instead of {UDP_QUEUE_OCTETS}: raise net.core.rmem_max to \
             keep bursts from being dropped"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> String {
        BindError {
            address: "0.0.0.0:53".parse().unwrap(),
            protocol: "udp",
            error: kind.into(),
        }
        .to_string()
    }

    #[test]
    fn a_bind_error_says_what_is_wrong_and_what_to_do() {
        assert_eq!(
            error(ErrorKind::AddrInUse),
            "udp port 53 on 0.0.0.0 is taken by another program"
        );
        assert!(error(ErrorKind::PermissionDenied).contains("needs CAP_NET_BIND_SERVICE: run as"));
        assert!(error(ErrorKind::AddrNotAvailable).contains("no interface of this host"));
    }

    #[test]
    fn only_the_wildcard_of_ipv6_gives_way_to_ipv4() {
        let failure = |address: &str, error| BindError {
            address: address.parse().unwrap(),
            protocol: "udp",
            error,
        };
        let unsupported = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        assert!(is_without_ipv6(&failure("[::]:53", unsupported())));
        assert!(!is_without_ipv6(&failure("[::1]:53", unsupported())));
        assert!(!is_without_ipv6(&failure(
            "[::]:53",
            ErrorKind::AddrInUse.into()
        )));
    }

    #[test]
    fn an_address_that_another_server_has_is_shared() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, udp, _tcp) = bind_all(any, NonZeroUsize::MIN).expect("loopback is there");
        assert!(is_shared(address) && !is_shared(any));
        assert!(bind_udp(address).is_ok(), "the kernel lets both have it");
        drop(udp);
    }

    #[test]
    fn a_look_at_an_address_takes_no_query_from_who_serves_there() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, udp, tcp) = bind_all(any, NonZeroUsize::MIN).expect("loopback is there");
        // From many ports, of which the kernel gives a share to each socket that is bound.
        let send = move || {
            for number in 0..2000 {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(&[number as u8], address).unwrap();
            }
        };
        let sending = std::thread::spawn(send);
        while !sending.is_finished() {
            check(address).expect("the kernel lets both have it");
            assert!(is_shared(address));
        }
        let received = std::iter::from_fn(|| udp[0].recv(&mut [0; 16]).ok());
        assert_eq!(received.count(), 2000);
        drop(tcp);
        let alone = TcpListener::bind(address).unwrap();
        let failure = check(address).expect_err("it is not shared");
        assert_eq!(failure.error.kind(), ErrorKind::AddrInUse);
        drop(alone);
    }

    #[test]
    fn the_sockets_of_all_workers_share_one_port_with_tcp() {
        let workers = NonZeroUsize::new(3).unwrap();
        let (address, udp, tcp) =
            bind_all("127.0.0.1:0".parse().unwrap(), workers).expect("loopback is there");
        assert_eq!(udp.len(), 3);
        assert!(
            udp.iter()
                .all(|socket| socket.local_addr().unwrap() == address)
        );
        assert_eq!(tcp.local_addr().unwrap(), address);
    }
}
