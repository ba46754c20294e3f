//! What the real program tells about itself: log lines, probes, metrics, and all of it through a reload.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "a kit that several tests share")]
#[path = "support/program.rs"]
mod program;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use hickory_proto::rr::RecordType::A;
use program::{Program, free_port, wait_until};

const COREFILE: &str = ".:PORT {
    bind 127.0.0.1
    errors
    log a.internal
    health 127.0.0.1:HTTP
    ready 127.0.0.1:HTTP
    prometheus 127.0.0.1:HTTP
    hosts /nonexistent {
        10.0.0.1 a.internal
    }
}
";

/// The program with this Corefile, and the port of its HTTP listener.
fn start() -> (Program, u16, String) {
    let http = free_port();
    let corefile = COREFILE.replace("HTTP", &http.to_string());
    (Program::start(&corefile), http, corefile)
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
}

/// Status and body of one GET.
fn get(mut stream: TcpStream, path: &str) -> String {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.split(' ').nth(1).unwrap())
}

#[test]
fn one_port_serves_health_readiness_and_metrics() {
    let (program, http, _) = start();
    assert_eq!(get(connect(http), "/health"), "200 OK");
    assert_eq!(get(connect(http), "/ready"), "200 OK");
    assert_eq!(program.ask("a.internal", A), ["10.0.0.1"]);
    let metrics = get(connect(http), "/metrics");
    let port = program.port;
    for line in [
        format!(
            "coredns_dns_responses_total{{plugin=\"hosts\",rcode=\"NOERROR\",server=\"dns://127.0.0.1:{port}\",view=\"\",zone=\".\"}} 1"
        ),
        format!(
            "coredns_plugin_enabled{{name=\"log\",server=\"dns://127.0.0.1:{port}\",view=\"\",zone=\".\"}} 1"
        ),
        "coredns_panics_total 0".to_owned(),
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
}

#[test]
fn a_reply_is_one_line_of_standard_output() {
    let (program, ..) = start();
    program.ask("A.internal", A);
    program.wait_for_output(
        "\"A IN a.internal. udp 28 false 512\" NOERROR qr,aa,rd 54 0.",
        1,
    );
}

#[test]
fn a_reload_shows_the_plugins_of_the_new_generation() {
    let (program, http, corefile) = start();
    program.rewrite(&corefile.replace("    log a.internal\n", ""));
    program.signal("USR1");
    program.wait_for_output("Reloading complete", 1);
    wait_until("`log` is gone", || {
        !get(connect(http), "/metrics").contains("name=\"log\"")
    });
    assert_eq!(get(connect(http), "/health"), "200 OK");
}

#[test]
fn a_stop_prints_the_last_summary_of_errors() {
    let upstream = free_port();
    let corefile = format!(
        ".:PORT {{
    bind 127.0.0.1
    errors {{
        consolidate 1h .*
    }}
    forward . 127.0.0.1:{upstream} {{
        max_fails 0
    }}
}}
"
    );
    let mut program = Program::start(&corefile);
    assert!(!program.output().contains("plugin/errors"));
    program.signal("TERM");
    assert!(program.wait().success());
    let line = "errors like '.*' occurred in last 1h0m0s";
    program.wait_for_output(line, 1);
}
