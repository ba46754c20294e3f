//! The clients: what resolves names in real pods.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::output;
use crate::{paths, provision};

/// A resolver of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `getaddrinfo` of glibc.
    Glibc,
    /// `getaddrinfo` of musl, as in Alpine's images: asks all its servers at once, and knows no EDNS.
    Musl,
    /// Go's own, which most programs in a cluster have: asks with EDNS and 1,232 octets.
    Go,
    /// BIND's `nslookup`.
    Nslookup,
}

pub const ALL: [Client; 4] = [Client::Glibc, Client::Musl, Client::Go, Client::Nslookup];

/// What a client came to know, sorted. None at all: there is no such name, or it has no address.
pub type Found = Vec<String>;

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Go => "Go",
            Self::Nslookup => "nslookup",
        }
    }

    /// Whether it takes a reply of more than 512 octets, over TCP or by EDNS. musl does since 1.2.4, up to 48 addresses.
    pub fn takes_long_replies(self) -> bool {
        self != Self::Musl
    }

    fn program(self, folder: &Path) -> PathBuf {
        match self {
            Self::Glibc => folder.join("resolve-glibc"),
            Self::Musl => folder.join("resolve-musl"),
            Self::Go => folder.join("resolve-go"),
            Self::Nslookup => PathBuf::from("nslookup"),
        }
    }

    /// Addresses of a name; with `is_address`, names of an address. `within` makes the command one of a pod.
    pub fn find(
        self,
        folder: &Path,
        name: &str,
        is_address: bool,
        within: impl Fn(&Path) -> Command,
    ) -> Result<Found, String> {
        let mut command = within(&self.program(folder));
        if is_address && self != Self::Nslookup {
            command.arg("-x");
        }
        let output = command.arg(name).output();
        let output = output.map_err(|error| format!("{}: {error}", self.name()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let mut found: Found = match (self, output.status.code()) {
            (Self::Nslookup, Some(0)) => read_nslookup(&said, is_address),
            (Self::Nslookup, Some(1)) if said.contains("NXDOMAIN") => Vec::new(),
            (_, Some(0)) => said.lines().map(str::to_owned).collect(),
            (Self::Glibc | Self::Musl | Self::Go, Some(1)) => Vec::new(),
            _ => return Err(format!("{} {}", said.trim(), complaint.trim())),
        };
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// The names, or the addresses that stand after the server's own.
fn read_nslookup(said: &str, is_address: bool) -> Found {
    if is_address {
        let names = said.lines().filter_map(|line| line.split_once("name = "));
        return names
            .map(|(_, name)| name.trim_end_matches('.').to_owned())
            .collect();
    }
    let lines = said.lines().skip_while(|line| !line.is_empty());
    lines
        .filter_map(|line| line.strip_prefix("Address: "))
        .map(str::to_owned)
        .collect()
}

/// Builds them into a folder.
pub fn build(folder: &Path) -> Result<(), String> {
    let source = paths::root().join("xtask/src/e2e");
    for (compiler, name) in [("cc", "resolve-glibc"), ("musl-gcc", "resolve-musl")] {
        let mut command = Command::new(compiler);
        command.args(["-O1", "-o"]).arg(folder.join(name));
        if compiler == "musl-gcc" {
            command.arg("-static");
        }
        output(command.arg(source.join("resolve.c")))?;
    }
    let mut go = Command::new(provision::go()?);
    go.args(["build", "-trimpath", "-o"])
        .arg(folder.join("resolve-go"))
        .arg(source.join("resolve.go"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "");
    output(&mut go).map(drop)
}

#[cfg(test)]
mod tests {
    use super::read_nslookup;

    #[test]
    fn nslookup_names_the_server_first_and_the_answers_after_it() {
        let said = "Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n\na.svc\tcanonical name = b.svc.\nName:\tb.svc\nAddress: 10.96.0.1\nName:\tb.svc\nAddress: fd00::1\n\n";
        assert_eq!(read_nslookup(said, false), ["10.96.0.1", "fd00::1"]);
        let said = "1.0.96.10.in-addr.arpa\tname = a.svc.\n\n";
        assert_eq!(read_nslookup(said, true), ["a.svc"]);
    }
}
