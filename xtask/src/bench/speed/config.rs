//! What each server is told: the same names, one worker, no logs, no limits on a client.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::bench::objects::Size;
use crate::bench::speed::names;
use crate::bench::speed::peer::{Program, Setup, World};
use crate::server::free_port;

/// Writes its files; what it is called with.
pub fn write(
    program: Program,
    setup: Setup,
    port: u16,
    folder: &Path,
    world: &World,
) -> Result<Vec<OsString>, String> {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let words = |flags: &[&str], name: &str| {
        let mut words: Vec<OsString> = flags.iter().map(OsString::from).collect();
        words.push(folder.join(name).into());
        words
    };
    match program {
        Program::Echo => Ok(vec!["echo".into(), port.to_string().into()]),
        Program::Fingerpost | Program::Coredns => {
            let mut files = 0;
            if let Setup::Services(_) = setup {
                for text in manifests(setup.size(world)) {
                    put(&format!("cluster-{files}.json"), &text)?;
                    files += 1;
                }
            }
            put("Corefile", &corefile(program, setup, port, files, world)?)?;
            Ok(words(&["-conf"], "Corefile"))
        }
        Program::Knot | Program::Nsd => {
            for (zone, text) in names::zones(world.size) {
                put(&format!("{zone}.zone"), &text)?;
            }
            if program == Program::Knot {
                put("knot.conf", &knot(port, folder))?;
                Ok(words(&["-c"], "knot.conf"))
            } else {
                put("nsd.conf", &nsd(port, folder))?;
                Ok(words(&["-d", "-c"], "nsd.conf"))
            }
        }
        Program::Unbound => {
            put("names.conf", &names::local_data(world.size))?;
            put("unbound.conf", &unbound(port, world.upstream, folder))?;
            Ok(words(&["-d", "-c"], "unbound.conf"))
        }
        Program::Dnsdist => {
            put(
                "dnsdist.conf",
                &dnsdist(port, world.upstream, setup == Setup::Forward),
            )?;
            Ok(words(
                &["--supervised", "--disable-syslog", "-C"],
                "dnsdist.conf",
            ))
        }
    }
}

/// kubeadm's, for a cluster in so many files or of the API server, with what the setup adds; for `Forward` what is left without a cluster and a cache.
fn corefile(
    program: Program,
    setup: Setup,
    port: u16,
    files: usize,
    world: &World,
) -> Result<String, String> {
    let (upstream, metrics) = (world.upstream, free_port()?);
    if setup == Setup::Forward {
        return Ok(format!(
            ".:{port} {{\n bind 127.0.0.1\n errors\n prometheus 127.0.0.1:{metrics}\n \
             forward . 127.0.0.1:{upstream} {{\n  max_concurrent 1000\n }}\n}}\n"
        ));
    }
    let (ready, health) = (free_port()?, free_port()?);
    let cluster = match setup {
        Setup::Services(_) => {
            let files = (0..files).map(|part| format!(" cluster-{part}.json"));
            format!("manifests{}", files.collect::<String>())
        }
        _ => format!("kubeconfig {}", world.kubeconfig.display()),
    };
    let more = match (setup, program) {
        (Setup::Log, _) => "    log\n",
        // Fingerpost has a worker a core of its own accord.
        (Setup::TwoWorkers, Program::Coredns) => "    multisocket 2\n",
        _ => "",
    };
    let mut text = format!(
        ".:{port} {{
    bind 127.0.0.1
    errors
{more}    health 127.0.0.1:{health} {{
       lameduck 5s
    }}
    ready 127.0.0.1:{ready}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       {cluster}
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus 127.0.0.1:{metrics}
    forward . 127.0.0.1:{upstream} {{
       max_concurrent 1000
    }}
    cache 30
    loop
    reload
    loadbalance
}}
"
    );
    if let Setup::Blocks(count) = setup {
        for number in 1..count {
            write!(
                text,
                "zone-{number}.example:{port} {{\n bind 127.0.0.1\n errors\n cache 30\n forward . 127.0.0.1:{upstream}\n}}\n"
            )
            .expect("text takes text");
        }
    }
    Ok(text)
}

/// Objects of one file: it may not be larger than 64 MiB.
const OBJECTS_MAX: usize = 20_000;

/// The objects as lists, with only what DNS reads: 100,000 Services must not take a minute to read.
fn manifests(size: Size) -> impl Iterator<Item = String> {
    let size = Size {
        endpoints: size.endpoints.min(1),
        ..size
    };
    let mut items = size.objects().filter_map(|(_, mut object)| {
        if object["kind"] == "IPAddress" {
            return None;
        }
        if let Value::Object(metadata) = &mut object["metadata"] {
            metadata.retain(|field, _| matches!(field.as_str(), "name" | "namespace" | "labels"));
        }
        Some(object.to_string())
    });
    std::iter::from_fn(move || {
        let part: Vec<String> = items.by_ref().take(OBJECTS_MAX).collect();
        let list = |part: Vec<String>| {
            format!(
                "{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{}]}}",
                part.join(",")
            )
        };
        (!part.is_empty()).then(|| list(part))
    })
}

fn knot(port: u16, folder: &Path) -> String {
    let folder = folder.display();
    let mut text = format!(
        "server:
  rundir: {folder}
  listen: 127.0.0.1@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: warning
database:
  storage: {folder}/database
template:
  - id: default
    storage: {folder}
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off
zone:
"
    );
    for zone in ZONES {
        write!(text, "  - domain: {zone}\n    file: {zone}.zone\n").expect("text takes text");
    }
    text
}

fn nsd(port: u16, folder: &Path) -> String {
    let folder = folder.display();
    let mut text = format!(
        "server:
  server-count: 1
  ip-address: 127.0.0.1@{port}
  do-ip6: no
  username: \"\"
  chroot: \"\"
  zonesdir: \"{folder}\"
  xfrdir: \"{folder}\"
  database: \"\"
  pidfile: \"{folder}/nsd.pid\"
  xfrdfile: \"{folder}/xfrd.state\"
  zonelistfile: \"{folder}/zone.list\"
  logfile: \"{folder}/nsd.log\"
  receive-buffer-size: 4194304
  rrl-ratelimit: 0
remote-control:
  control-enable: no
"
    );
    for zone in ZONES {
        write!(
            text,
            "zone:\n  name: \"{zone}\"\n  zonefile: \"{zone}.zone\"\n"
        )
        .expect("text takes text");
    }
    text
}

const ZONES: [&str; 2] = ["cluster.local", "97.10.in-addr.arpa"];

fn unbound(port: u16, upstream: u16, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "server:
  interface: 127.0.0.1
  port: {port}
  num-threads: 1
  do-ip6: no
  username: \"\"
  chroot: \"\"
  directory: \"{folder}\"
  pidfile: \"\"
  do-daemonize: no
  use-syslog: no
  module-config: \"iterator\"
  do-not-query-localhost: no
  so-rcvbuf: 4m
  incoming-num-tcp: 200
  outgoing-range: 4096
  num-queries-per-thread: 2048
  include: \"{folder}/names.conf\"
remote-control:
  control-enable: no
forward-zone:
  name: \".\"
  forward-addr: 127.0.0.1@{upstream}
"
    )
}

fn dnsdist(port: u16, upstream: u16, is_plain: bool) -> String {
    let cache = if is_plain {
        ""
    } else {
        "getPool(\"\"):setCache(newPacketCache(100000))\n"
    };
    format!(
        "setSecurityPollSuffix(\"\")
setLocal(\"127.0.0.1:{port}\")
setACL({{\"127.0.0.0/8\"}})
newServer({{address=\"127.0.0.1:{upstream}\", checkInterval=60, mustResolve=false}})
{cache}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_hold_services_with_an_endpoint_each() {
        let size = Size {
            services: 20,
            endpoints: 10,
            pods: 0,
        };
        let files: Vec<String> = manifests(size).collect();
        assert_eq!(files.len(), 1);
        let list: Value = serde_json::from_str(&files[0]).expect("it is JSON");
        let items = list["items"].as_array().expect("it is a list");
        let kinds = |kind: &str| items.iter().filter(|item| item["kind"] == kind).count();
        assert_eq!((kinds("Service"), kinds("EndpointSlice")), (20, 20));
        assert_eq!(kinds("IPAddress"), 0);
    }
}
