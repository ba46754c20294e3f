//! Reloads of the real program: what may happen to the file, what is kept, and that no query and no probe notices.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "each test uses its part of the support")]
mod program;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use program::{Program, answers, ask, free_port, get, wait_until};

/// Looks every 2 s, and answers one name with `ANSWER`.
const WATCHED: &str = ".:PORT {
    bind 127.0.0.1
    reload 2s 0s
    prometheus 127.0.0.1:HTTP
    hosts {
        ANSWER a.internal
    }
}
";

/// [`WATCHED`] with this answer.
fn watched(http: u16, answer: &str) -> String {
    WATCHED
        .replace("HTTP", &http.to_string())
        .replace("ANSWER", answer)
}

/// The value of a metric without labels, or of the first row.
fn metric(http: u16, name: &str) -> u64 {
    let text = get(http, "/metrics");
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

const FAILED: &str = "coredns_reload_failed_total";

#[test]
fn a_config_map_is_taken_up_when_its_folder_is_swapped() {
    let http = free_port();
    let program = Program::start(&watched(http, "10.0.0.1"));
    let folder = program.folder.path();
    // As the kubelet lays it out: the file is a link into `..data`, and that a link to the version.
    let publish = |version: &str, answer: &str| {
        let text = watched(http, answer).replace("PORT", &program.port.to_string());
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("Corefile"), text).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    publish("..2026_1", "10.0.0.2");
    symlink("..data/Corefile", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), folder.join("Corefile")).unwrap();
    program.wait_for_answer("a.internal.", A, &["10.0.0.2"]);
    publish("..2026_2", "10.0.0.3");
    std::fs::remove_dir_all(folder.join("..2026_1")).unwrap();
    program.wait_for_answer("a.internal.", A, &["10.0.0.3"]);
    assert_eq!(metric(http, FAILED), 0);
}

#[test]
fn a_half_written_file_is_an_error_until_it_is_whole() {
    let http = free_port();
    let program = Program::start(&watched(http, "10.0.0.1"));
    let path = program.folder.path().join("Corefile");
    let text = watched(http, "10.0.0.2").replace("PORT", &program.port.to_string());
    // In place, and cut within a word.
    std::fs::write(&path, &text[..text.find("osts {").unwrap()]).unwrap();
    program.wait_for_output("reload failed: the configuration from before serves on", 1);
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    assert_eq!(metric(http, FAILED), 1);
    std::fs::write(&path, text).unwrap();
    program.wait_for_answer("a.internal.", A, &["10.0.0.2"]);
    assert_eq!(metric(http, FAILED), 1);
}

#[test]
fn a_file_that_stays_away_is_told_of_once_and_taken_up_when_it_is_back() {
    let http = free_port();
    let program = Program::start(&watched(http, "10.0.0.1"));
    let path = program.folder.path().join("Corefile");
    std::fs::remove_file(&path).unwrap();
    program.wait_for_output("Restart failed: cannot read the Corefile", 1);
    assert_eq!(metric(http, FAILED), 1);
    // No folder, no pipe is a Corefile either; the pipe would hold up whoever reads it.
    let pipe = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(pipe.unwrap().success());
    program.signal("HUP");
    program.wait_for_output("it is not a regular file", 1);
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    assert_eq!(metric(http, FAILED), 2);
    program.rewrite(&watched(http, "10.0.0.2"));
    program.wait_for_answer("a.internal.", A, &["10.0.0.2"]);
    assert_eq!(program.output().matches("Restart failed").count(), 2);
}

#[test]
fn a_port_that_is_taken_leaves_everything_as_it_was() {
    let http = free_port();
    let program = Program::start(&watched(http, "10.0.0.1"));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let (other, free) = (free_port(), free_port());
    let next = watched(free, "10.0.0.2");
    let block = |port: u16, line: &str| {
        format!("b.test:{port} {{\n    bind 127.0.0.1\n    whoami\n    {line}\n}}\n")
    };
    for (times, more, named) in [
        (1, block(port, ""), ""),
        (
            2,
            block(other, &format!("health 127.0.0.1:{port}")),
            "plugin/health: ",
        ),
    ] {
        program.rewrite(&format!("{next}{more}"));
        program.signal("USR1");
        program.wait_for_output(
            "reload failed: the configuration from before serves on",
            times,
        );
        let why = format!("{named}tcp port {port} on 127.0.0.1 is taken by another program");
        assert!(program.output().contains(&why), "{}", program.output());
        assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
        assert_eq!(metric(http, FAILED), times as u64);
        // Nothing of it is left open.
        for port in [other, free] {
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        }
    }
}

#[test]
fn a_zone_that_is_removed_is_refused_and_its_port_closed_while_others_go_on() {
    let other = free_port();
    let zone = |port: &str, zone: &str| {
        format!(
            "{zone}:{port} {{\n    bind 127.0.0.1\n    hosts {{\n        10.0.0.1 a.{zone}\n    }}\n}}\n"
        )
    };
    let (kept, removed, moved) = (
        zone("PORT", "kept.test"),
        zone("PORT", "removed.test"),
        zone(&other.to_string(), "removed.test"),
    );
    let program = Program::start(&format!("{kept}{removed}{moved}"));
    assert_eq!(answers(&ask(other, "a.removed.test.", A)), ["10.0.0.1"]);
    program.rewrite(&kept);
    program.signal("USR1");
    program.wait_for_output("Reloading complete", 1);
    assert_eq!(program.ask("a.kept.test.", A), ["10.0.0.1"]);
    let reply = ask(program.port, "a.removed.test.", A);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, other)).is_ok());
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, other)).is_ok());
}

/// A zone that is cached and does not change, and one that is another at each version.
fn versioned(http: u16, version: usize) -> String {
    format!(
        "same.test:PORT {{
    bind 127.0.0.1
    health 127.0.0.1:{http} {{
        lameduck 5m
    }}
    ready 127.0.0.1:{http}
    prometheus 127.0.0.1:{http}
    cache
    hosts {{
        10.0.0.1 a.same.test
    }}
}}
version.test:PORT {{
    bind 127.0.0.1
    prometheus 127.0.0.1:{http}
    hosts {{
        10.0.1.{version} a.version.test
    }}
}}
"
    )
}

#[test]
fn fifty_reloads_cost_no_query_no_probe_no_cache_and_no_descriptor() {
    const RELOADS: usize = 50;
    let http = free_port();
    let program = Program::start(&versioned(http, 0));
    assert_eq!(program.ask("a.same.test.", A), ["10.0.0.1"]);
    wait_until("readiness", || get(http, "/ready").contains(" 200 "));
    let inodes = sockets_of(program.id(), program.port);
    let descriptors = || {
        let folder = format!("/proc/{}/fd", program.id());
        std::fs::read_dir(folder).unwrap().count()
    };
    let before = descriptors();
    let misses = metric(http, "coredns_cache_misses_total");
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let queries = scope.spawn(|| ask_on_and_on(program.port, &end));
        let probes = scope.spawn(|| probe_on_and_on(http, &end));
        for version in 1..=RELOADS {
            let is_broken = version % 10 == 0;
            let text = versioned(http, version);
            program.rewrite(&if is_broken {
                text.replace("hosts {\n        10.0.1", "hosst {\n        10.0.1")
            } else {
                text
            });
            program.signal("USR1");
            if is_broken {
                program.wait_for_output("Corefile changed but reload failed", version / 10);
                let before = format!("10.0.1.{}", version - 1);
                assert_eq!(program.ask("a.version.test.", A), [before]);
            } else {
                program.wait_for_answer("a.version.test.", A, &[&format!("10.0.1.{version}")]);
            }
        }
        end.store(true, Ordering::Relaxed);
        let (asked, lost) = queries.join().unwrap();
        assert!(asked > RELOADS, "{asked} is no load");
        assert_eq!(lost, 0, "of {asked} queries");
        let (asked, not_ready) = probes.join().unwrap();
        assert!(asked > RELOADS, "{asked} is no probing");
        assert_eq!(not_ready, 0, "of {asked} probes");
    });
    assert_eq!(metric(http, FAILED), 5);
    assert_eq!(metric(http, "coredns_cache_misses_total"), misses);
    assert_eq!(sockets_of(program.id(), program.port), inodes);
    assert!(!program.output().contains("lameduck"));
    // Those of the last client are closed a moment later.
    wait_until("the descriptors of before", || descriptors() <= before);
}

/// How many queries were sent, one after the other, and how many got no reply.
fn ask_on_and_on(port: u16, end: &AtomicBool) -> (usize, usize) {
    let (mut asked, mut lost) = (0, 0);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\x04same\x04test\0\0\x01\0\x01".to_vec();
    while !end.load(Ordering::Relaxed) {
        asked += 1;
        query[..2].copy_from_slice(&(asked as u16).to_be_bytes());
        socket.send(&query).unwrap();
        let mut reply = [0; 512];
        let is_answer = |reply: &[u8]| reply[..2] == query[..2] && reply[3] & 15 == 0;
        match socket.recv(&mut reply) {
            Ok(length) if length > query.len() && is_answer(&reply) => {}
            _ => lost += 1,
        }
    }
    (asked, lost)
}

/// How many probes were sent, half of them on one connection that is kept open, and how many said anything but 200.
fn probe_on_and_on(http: u16, end: &AtomicBool) -> (usize, usize) {
    let (mut asked, mut not_ready) = (0, 0);
    while !end.load(Ordering::Relaxed) {
        let mut kept = TcpStream::connect((Ipv4Addr::LOCALHOST, http)).unwrap();
        for _ in 0..10 {
            asked += 2;
            write!(kept, "GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            let mut reply = [0; 1024];
            let length = kept.read(&mut reply).unwrap();
            not_ready += usize::from(!reply[..length].starts_with(b"HTTP/1.1 200"));
            not_ready += usize::from(!get(http, "/ready").starts_with("HTTP/1.1 200"));
        }
    }
    (asked, not_ready)
}

/// The sockets that are bound to a port, by inode: the same ones are the same.
fn sockets_of(process: u32, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for (file, state) in [("udp", "07"), ("tcp", "0A")] {
        let path = format!("/proc/{process}/net/{file}");
        let table = std::fs::read_to_string(Path::new(&path)).unwrap();
        let rows = table.lines().map(|line| line.split_whitespace());
        inodes.extend(rows.filter_map(|mut row| {
            let is_ours = row.nth(1)?.ends_with(&port) && row.nth(1)? == state;
            is_ours.then(|| row.nth(5).map(str::to_owned))?
        }));
    }
    assert!(!inodes.is_empty());
    inodes.sort();
    inodes
}
