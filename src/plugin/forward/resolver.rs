//! The addresses of upstreams that are given by name, found once, before anything is served.
//!
//! Whoever runs a DNS server for a cluster may well have a `/etc/resolv.conf` that names this very server, which does
//! not answer yet. So a name has [`PATIENCE`], and what is told then says what to do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::net::lookup_host;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::plugin::BuildError;
use crate::plugin::forward::random;
use crate::plugin::forward::reply::Reply;
use crate::plugin::forward::request::Request;
use crate::plugin::forward::udp;
use crate::wire::code::RecordType;
use crate::wire::name::Name;
use crate::wire::record::{Records, Section};

/// How long a name may take. The C library asks a second time after 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one server of `resolver` may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The addresses of hosts, of each IPv4 first if `resolver` names servers, and in the system's order if not. Blocks.
pub(super) fn lookup(
    hosts: &[&str],
    servers: &[SocketAddr],
) -> Result<Vec<Vec<IpAddr>>, BuildError> {
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let all = async {
        let each = hosts.iter().map(|host| within_patience(host, servers));
        try_join_all(each).await
    };
    // A thread of its own: the caller's may be one that must not wait in another runtime.
    let look = || -> io::Result<_> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let found = runtime.block_on(all);
        // The C library may still wait; nobody waits for it.
        runtime.shutdown_background();
        Ok(found)
    };
    thread::scope(|scope| scope.spawn(look).join())
        .map_err(|_| BuildError("the search for upstreams given by name broke off".into()))?
        .map_err(|error| BuildError(format!("upstreams given by name: {error}")))?
}

async fn within_patience(host: &str, servers: &[SocketAddr]) -> Result<Vec<IpAddr>, BuildError> {
    let fault = |text: String| BuildError(format!("`{host}` cannot be resolved: {text}"));
    let look = async {
        if servers.is_empty() {
            of_system(host).await
        } else {
            of_servers(host, servers).await
        }
    };
    match timeout(PATIENCE, look).await {
        Ok(found) => found.map_err(fault),
        Err(_) => Err(fault(format!(
            "nothing came within {} s; if /etc/resolv.conf names this server, `resolver` can name another",
            PATIENCE.as_secs()
        ))),
    }
}

async fn of_system(host: &str) -> Result<Vec<IpAddr>, String> {
    let mut list = Vec::new();
    let found = lookup_host((host, 0)).await;
    for address in found.map_err(|error| error.to_string())? {
        if !list.contains(&address.ip()) {
            list.push(address.ip());
        }
    }
    if list.is_empty() {
        return Err("it has no address".into());
    }
    Ok(list)
}

/// Asks one server after the other until one knows an address.
async fn of_servers(host: &str, servers: &[SocketAddr]) -> Result<Vec<IpAddr>, String> {
    let name = Name::from_text(host).map_err(|error| error.to_string())?;
    let mut trouble = None;
    for &server in servers {
        let (ipv4, ipv6) = tokio::join!(
            ask(server, &name, RecordType::A),
            ask(server, &name, RecordType::AAAA),
        );
        let mut list = Vec::new();
        for found in [ipv4, ipv6] {
            match found {
                Ok(found) => list.extend(found),
                Err(error) => trouble = Some(error),
            }
        }
        if !list.is_empty() {
            return Ok(list);
        }
    }
    Err(trouble.unwrap_or_else(|| "it has no address".into()))
}

async fn ask(server: SocketAddr, name: &Name, qtype: RecordType) -> Result<Vec<IpAddr>, String> {
    let request = Request::own(name.as_ref(), qtype, true);
    let reply = timeout(TIMEOUT, exchange(server, &request))
        .await
        .map_err(|_| format!("`{server}` did not reply within {} s", TIMEOUT.as_secs()))?
        .map_err(|error| format!("`{server}`: {error}"))?;
    let records = Records::of_message(&reply.message).into_iter().flatten();
    Ok(records
        .flatten()
        .filter(|(section, _)| *section == Section::Answer)
        .filter_map(|(_, record)| {
            let ipv4 = record.ipv4().map(IpAddr::from);
            ipv4.or_else(|| record.ipv6().map(IpAddr::from))
        })
        .collect())
}

async fn exchange(server: SocketAddr, request: &Request) -> io::Result<Reply> {
    let socket = udp::connect(server, None)?;
    let (id, asked) = (random::number(), request.asked());
    socket.send(&request.message(id)).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let message = &buffer[..length];
        if message.starts_with(&id.to_be_bytes())
            && let Some(reply) = Reply::accept(message, &asked)
        {
            return Ok(reply);
        }
    }
}
