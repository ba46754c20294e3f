//! The real program on a loopback port: faults, signals, reload.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/program.rs"]
mod program;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use hickory_proto::rr::RecordType::A;
use program::{Program, answers, ask, free_port, get, run};

/// A block that answers one name from the Corefile itself.
const ONE_HOST: &str = ".:PORT {
    bind 127.0.0.1
    hosts {
        10.0.0.1 a.internal
    }
}
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_typing_error_is_underlined_and_ends_the_start_with_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("Corefile"),
        ".:1053 {\n    bind 127.0.0.1\n    whoamy\n}\n",
    )
    .unwrap();
    let (out, err, code) = run(folder.path(), &["-conf", "Corefile"]);
    assert_eq!(code, Some(1), "{out}{err}");
    for text in [
        "unknown plugin `whoamy`",
        "Corefile:3:5",
        "^^^^^^",
        "did you mean `whoami`?",
    ] {
        assert!(err.contains(text), "no `{text}` in\n{err}");
    }
    let (out, err, code) = run(folder.path(), &["check", "Corefile"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!((out + &err).contains("unknown plugin `whoamy`"));
}

#[test]
fn a_port_that_is_taken_is_named_and_ends_the_start_with_1() {
    let port = free_port();
    let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let _tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("Corefile"),
        ONE_HOST.replace("PORT", &port.to_string()),
    )
    .unwrap();
    let (out, err, code) = run(folder.path(), &["-conf", "Corefile"]);
    assert_eq!(code, Some(1), "{out}{err}");
    for text in [&port.to_string(), "127.0.0.1", "taken"] {
        assert!(err.contains(text), "no `{text}` in {err}");
    }
}

#[test]
fn a_start_tells_the_warnings_that_check_tells() {
    let program = Program::start(&ONE_HOST.replacen('{', "\n", 1));
    program.wait_for_output("Corefile:7:1 - a `}` without a `{`", 1);
}

#[test]
fn a_start_tells_of_another_server_on_its_port() {
    let first = Program::start(ONE_HOST);
    let shared = ONE_HOST.replace("PORT", &first.port.to_string());
    let second = Program::start(&format!("{shared}{ONE_HOST}"));
    let told = format!("another program serves on `127.0.0.1:{}` too", first.port);
    second.wait_for_output(&told, 1);
    assert!(!first.output().contains("another program"));
}

#[test]
fn a_corefile_that_is_missing_ends_the_start_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let (out, err, code) = run(folder.path(), &["-conf", "nowhere"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("nowhere"), "{err}");
}

#[test]
fn an_unknown_flag_ends_the_start_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let (out, err, code) = run(folder.path(), &["-frobnicate"]);
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(err.contains("frobnicate"), "{err}");
}

#[test]
fn version_and_plugins_are_told_without_a_start() {
    let (out, _, code) = run(root(), &["-version"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("Fingerpost-"), "{out}");
    let (out, _, code) = run(root(), &["-plugins"]);
    assert_eq!(code, Some(0));
    let names: Vec<&str> = out.lines().filter(|line| !line.is_empty()).collect();
    assert!(names.contains(&"forward"), "{out}");
    assert!(names.is_sorted(), "{out}");
}

#[test]
fn sigterm_and_sigint_stop_with_0() {
    for signal in ["TERM", "INT"] {
        let mut program = Program::start(ONE_HOST);
        program.signal(signal);
        assert_eq!(
            program.wait().code(),
            Some(0),
            "SIG{signal}\n{}",
            program.output()
        );
        assert!(
            program.output().contains(&format!("SIG{signal}")),
            "{}",
            program.output()
        );
    }
}

#[test]
fn sigusr1_and_sighup_read_the_corefile_again() {
    for signal in ["USR1", "HUP"] {
        let program = Program::start(ONE_HOST);
        program.rewrite(&ONE_HOST.replace("10.0.0.1", "10.0.0.2"));
        assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
        program.signal(signal);
        program.wait_for_answer("a.internal.", A, &["10.0.0.2"]);
    }
}

#[test]
fn a_broken_corefile_changes_nothing_but_the_log() {
    let mut program = Program::start(ONE_HOST);
    program.rewrite(".:PORT {\n    bind 127.0.0.1\n    whoamy\n}\n");
    program.signal("USR1");
    program.wait_for_output("unknown plugin `whoamy`", 1);
    program.wait_for_output(
        "[ERROR] plugin/reload: Corefile changed but reload failed",
        1,
    );
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    program.rewrite(&ONE_HOST.replace("10.0.0.1", "10.0.0.3"));
    program.signal("USR1");
    program.wait_for_answer("a.internal.", A, &["10.0.0.3"]);
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_corefile_that_became_empty_changes_nothing_but_the_log() {
    let program = Program::start(ONE_HOST);
    program.rewrite("# being written\n");
    for times in 1..=2 {
        program.signal("USR1");
        program.wait_for_output("Restart failed: the Corefile has no server block", times);
        assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    }
    program.rewrite(&ONE_HOST.replace("10.0.0.1", "10.0.0.2"));
    program.signal("USR1");
    program.wait_for_answer("a.internal.", A, &["10.0.0.2"]);
}

#[test]
fn a_reload_after_stdin_takes_up_what_the_pipe_held() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let log = std::fs::File::create(folder.path().join("out")).unwrap();
    let child = program::command()
        .args(["-conf", "stdin"])
        .stdin(std::process::Stdio::piped())
        .stdout(log)
        .spawn();
    let Stopped(child) = &mut Stopped(child.unwrap());
    let corefile = ONE_HOST.replace("PORT", &port.to_string());
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(corefile.as_bytes()).unwrap();
    drop(pipe);
    let output = || std::fs::read_to_string(folder.path().join("out")).unwrap();
    program::wait_until("the banner", || output().contains("Fingerpost-"));
    let pid = child.id().to_string();
    let status = std::process::Command::new("kill")
        .args(["-USR1", &pid])
        .status();
    assert!(status.unwrap().success());
    program::wait_until("the reload", || output().contains("Reloading complete"));
    assert_eq!(answers(&ask(port, "a.internal.", A)), ["10.0.0.1"]);
}

/// A process that does not outlive its test.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stop_does_not_wait_for_a_reload_that_waits_for_an_api_server() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = silent.local_addr().unwrap();
    let mut program = Program::start(ONE_HOST);
    program.rewrite(&format!(
        ".:PORT {{\n    bind 127.0.0.1\n    kubernetes cluster.local {{\n        endpoint http://{endpoint}\n        \
         startup_timeout 5m\n    }}\n}}\n"
    ));
    program.signal("USR1");
    program.wait_for_output("Reloading", 2);
    // It has asked, so it waits.
    drop(silent.accept().unwrap());
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0), "{}", program.output());
}

#[test]
fn a_signal_without_a_corefile_is_told_and_changes_nothing() {
    let program = Program::start(ONE_HOST);
    std::fs::remove_file(program.folder.path().join("Corefile")).unwrap();
    program.signal("HUP");
    program.wait_for_output("Restart failed: cannot read the Corefile", 1);
    program.wait_for_output("the configuration from before serves on", 1);
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
}

#[test]
fn a_reload_may_change_where_it_listens() {
    let program = Program::start(ONE_HOST);
    let other = free_port();
    program.rewrite(&format!(
        "{ONE_HOST}{}",
        ONE_HOST
            .replace("PORT", &other.to_string())
            .replace("10.0.0.1", "10.0.0.4")
    ));
    program.signal("USR1");
    program::wait_until("the new port", || {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, other)).is_err()
    });
    assert_eq!(answers(&ask(other, "a.internal.", A)), ["10.0.0.4"]);
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
}

#[test]
fn root_is_where_relative_names_start_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("names"), "10.0.0.2 b.internal\n").unwrap();
    let corefile = format!(
        ".:PORT {{\n    bind 127.0.0.1\n    hosts names\n    root {}\n}}\n",
        folder.path().display()
    );
    let program = Program::start(&corefile);
    assert_eq!(program.ask("b.internal", A), ["10.0.0.2"]);
}

#[test]
fn a_change_is_noticed_by_interval_before_and_after_a_signal() {
    let watched = ONE_HOST.replace("hosts {", "reload 2s 0s\n    hosts {");
    let program = Program::start(&watched);
    program.rewrite(&watched.replace("10.0.0.1", "10.0.0.2"));
    program.wait_for_answer("a.internal.", A, &["10.0.0.2"]);
    program.rewrite(&watched.replace("10.0.0.1", "10.0.0.3"));
    program.signal("USR1");
    program.wait_for_answer("a.internal.", A, &["10.0.0.3"]);
    program.rewrite(&watched.replace("10.0.0.1", "10.0.0.4"));
    program.wait_for_answer("a.internal.", A, &["10.0.0.4"]);
}

#[test]
fn through_the_lame_duck_time_it_answers_and_says_it_is_not_ready() {
    let http = free_port();
    let corefile = ONE_HOST.replace(
        "hosts {",
        &format!(
            "health 127.0.0.1:{http} {{\n        lameduck 3s\n    }}\n    ready 127.0.0.1:{http}\n    hosts {{"
        ),
    );
    let mut program = Program::start(&corefile);
    assert!(get(http, "/ready").starts_with("HTTP/1.1 200"));
    program.signal("TERM");
    program.wait_for_output("Going into lameduck mode for 3s", 1);
    assert!(get(http, "/ready").starts_with("HTTP/1.1 503"));
    assert!(get(http, "/health").starts_with("HTTP/1.1 200"));
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_probe_on_a_connection_that_was_kept_open_learns_of_the_stop() {
    let http = free_port();
    let program = Program::start(&with_http(
        http,
        "health HTTP {\n lameduck 20s\n }\n ready HTTP",
    ));
    let mut kept = TcpStream::connect((Ipv4Addr::LOCALHOST, http)).unwrap();
    let mut ask = || {
        write!(kept, "GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        kept.read_exact(&mut start).unwrap();
        // The rest of this reply, which is short.
        assert!(kept.read(&mut [0; 4096]).unwrap() > 0);
        String::from_utf8(start.to_vec()).unwrap()
    };
    assert_eq!(ask(), "HTTP/1.1 200");
    program.signal("TERM");
    program.wait_for_output("Going into lameduck mode", 1);
    assert_eq!(ask(), "HTTP/1.1 503");
}

#[test]
fn a_second_signal_does_not_wait() {
    for (signal, code) in [("TERM", 2), ("INT", 2), ("QUIT", 0)] {
        let http = free_port();
        let mut program = Program::start(&with_http(http, "health HTTP {\n lameduck 5m\n }"));
        program.signal("TERM");
        program.wait_for_output("Going into lameduck mode for 5m0s", 1);
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(code), "SIG{signal}");
        if code == 2 {
            program.wait_for_output(&format!("SIG{signal}: Force quit"), 1);
        }
    }
}

#[test]
fn a_signal_ends_a_start_that_waits_for_an_api_server() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = silent.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let corefile = format!(
        ".:{} {{\n bind 127.0.0.1\n kubernetes cluster.local {{\n endpoint http://{endpoint}\n startup_timeout 5m\n }}\n}}\n",
        free_port()
    );
    std::fs::write(folder.path().join("Corefile"), corefile).unwrap();
    let child = program::command()
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn();
    let Stopped(child) = &mut Stopped(child.unwrap());
    drop(silent.accept().unwrap());
    let pid = child.id().to_string();
    let kill = std::process::Command::new("kill").arg(pid).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_stops_when_it_has_been_quiet_for_a_while() {
    let http = free_port();
    let mut program = Program::start(&with_http(
        http,
        "health HTTP {\n lameduck 100ms\n quiet 4s 5m\n }",
    ));
    program.signal("TERM");
    program.wait_for_output("serving on until no query has come for 4s", 1);
    let begun = std::time::Instant::now();
    // Longer than it is quiet for.
    while begun.elapsed().as_secs() < 5 {
        assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    }
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_client_that_never_goes_does_not_hold_up_a_stop() {
    let http = free_port();
    let mut program = Program::start(&with_http(
        http,
        "health HTTP {\n lameduck 100ms\n quiet 1m 3s\n }",
    ));
    program.signal("TERM");
    program.wait_for_output("Going into lameduck mode", 1);
    assert_eq!(program.ask("a.internal.", A), ["10.0.0.1"]);
    assert_eq!(program.wait().code(), Some(0));
    program.wait_for_output(
        "queries still arrive 3s after the signal, the last from `127.0.0.1`: stopping all the same",
        1,
    );
}

/// The block with more directives; `HTTP` in them is a port of loopback.
fn with_http(port: u16, directives: &str) -> String {
    let directives = directives.replace("HTTP", &format!("127.0.0.1:{port}"));
    ONE_HOST.replace("hosts {", &format!("{directives}\n    hosts {{"))
}
