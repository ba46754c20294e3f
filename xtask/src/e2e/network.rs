//! The wires: a machine of the control plane, two nodes, and pods behind them, each in a network namespace of its own.
//!
//! ```text
//!  here: API server, upstream          node-a: kube-proxy            pod
//!  172.31.0.1  172.31.1.1 ==veth== 172.31.1.2   169.254.1.1 ==veth== 10.244.1.10
//!              172.31.2.1 ==veth== 172.31.2.2   node-b …
//! ```
//!
//! All is routed, nothing bridged: a pod's packets meet the rules of its own node first, where kube-proxy turns a
//! Service's address into a pod's and conntrack turns the replies back.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::command::output;

/// The machine of the control plane, as everybody reaches it.
pub const HERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// The other end of every pod's wire.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The nodes, by name.
pub const NODES: [Node; 2] = [Node { number: 1 }, Node { number: 2 }];

/// A machine that runs pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    number: u8,
}

impl Node {
    pub fn find(name: &str) -> Option<Self> {
        NODES.into_iter().find(|node| node.name() == name)
    }

    /// Its name, which is its network namespace's too.
    pub fn name(self) -> &'static str {
        match self.number {
            1 => "node-a",
            _ => "node-b",
        }
    }

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, self.number, 2)
    }

    /// An address of its pods.
    pub fn pod_address(self, place: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, place)
    }

    /// A program on it.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(self.name(), program)
    }
}

/// A program in a network namespace.
pub fn within(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path(namespace).display()))
        .arg(program);
    command
}

/// What a network namespace is known by.
pub fn path(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

/// Makes the nodes and their wires to here. Only for a network namespace of our own.
pub fn build() -> Result<(), String> {
    ip(None, "link set lo up")?;
    ip(None, &format!("address add {HERE}/32 dev lo"))?;
    forward(Command::new("sh"))?;
    for node in NODES {
        let (name, number, address) = (node.name(), node.number, node.address());
        let wire = format!("to-{name}");
        ip(None, &format!("netns add {name}"))?;
        ip(
            None,
            &format!("link add {wire} type veth peer name eth0 netns {name}"),
        )?;
        ip(
            None,
            &format!("address add 172.31.{number}.1/24 dev {wire}"),
        )?;
        ip(None, &format!("link set {wire} up"))?;
        ip(Some(name), "link set lo up")?;
        ip(Some(name), &format!("address add {address}/24 dev eth0"))?;
        ip(Some(name), "link set eth0 up")?;
        ip(
            Some(name),
            &format!("route add default via 172.31.{number}.1"),
        )?;
        ip(
            None,
            &format!("route add 10.244.{number}.0/24 via {address}"),
        )?;
        forward(node.command("sh"))?;
    }
    Ok(())
}

fn forward(mut shell: Command) -> Result<(), String> {
    output(shell.args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])).map(drop)
}

/// Makes a pod's namespace with this name and wires it to its node.
pub fn attach(node: Node, pod: &str, address: Ipv4Addr) -> Result<(), String> {
    let [host, own] = [node.name(), pod].map(Some);
    let address_of_node = node.address();
    ip(None, &format!("netns add {pod}"))?;
    ip(
        host,
        &format!("link add {pod} type veth peer name eth0 netns {pod}"),
    )?;
    ip(host, &format!("address add {GATEWAY}/32 dev {pod}"))?;
    ip(host, &format!("link set {pod} up"))?;
    ip(
        host,
        &format!("route add {address}/32 dev {pod} src {address_of_node}"),
    )?;
    ip(own, "link set lo up")?;
    ip(own, &format!("address add {address}/32 dev eth0"))?;
    ip(own, "link set eth0 up")?;
    ip(own, &format!("route add {GATEWAY} dev eth0 scope link"))?;
    ip(own, &format!("route add default via {GATEWAY}"))
}

/// Takes a pod's wire and its namespace away.
pub fn detach(node: Node, pod: &str) {
    let _ = ip(Some(node.name()), &format!("link delete {pod}"));
    let _ = ip(None, &format!("netns delete {pod}"));
}

fn ip(namespace: Option<&str>, words: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    output(command.args(words.split(' '))).map(drop)
}

/// Gives nftables these commands, in a network namespace.
pub fn nft(namespace: &str, commands: &str) -> Result<(), String> {
    use std::io::Write;
    let failed = |error: std::io::Error| format!("nft: {error}");
    let mut command = within(namespace, "nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.as_bytes()).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("nft in {namespace}: {status}"))
    }
}
