//! The real program with an upstream that is the program itself.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

#[path = "support/program.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod program;
#[path = "support/upstream.rs"]
mod upstream;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use program::{Program, answers, ask, free_port, run, wait_until};
use upstream::Upstream;

const LOOPING: &str = ".:PORT {
    bind 127.0.0.1
    errors
    hosts {
        10.0.0.1 a.internal
        fallthrough
    }
    loop
    forward . 127.0.0.1:PORT
}
";

#[test]
fn a_looping_upstream_is_named_and_taken_out_and_our_own_names_are_answered() {
    let program = Program::start(LOOPING);
    let port = program.port;
    let named = format!(
        "[ERROR] plugin/loop: upstream `127.0.0.1:{port}` leads back to this server for zone `.`"
    );
    program.wait_for_output(&named, 1);
    let reply = ask(port, "www.example.org", A);
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    program.wait_for_output(
        "www.example.org. A: every upstream leads back to this server",
        1,
    );
    assert_eq!(program.ask("a.internal", A), ["10.0.0.1"]);
}

#[test]
fn loop_exit_ends_the_process_with_1_and_a_fatal_line() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let corefile = LOOPING
        .replace("    loop\n", "    loop {\n        exit\n    }\n")
        .replace("PORT", &port);
    std::fs::write(folder.path().join("Corefile"), corefile).unwrap();
    let (out, err, code) = run(folder.path(), &["-conf", "Corefile"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(
        out.contains("[FATAL] plugin/loop: Loop (127.0.0.1:"),
        "{out}{err}"
    );
    assert!(out.contains("detected for zone \".\""), "{out}{err}");
    assert!(out.contains("Query: \"HINFO "), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_upstream_loops_the_others_are_asked() {
    let healthy = Upstream::start(7).await;
    let with_both = format!("forward . 127.0.0.1:PORT {}", healthy.address);
    let corefile = LOOPING.replace("forward . 127.0.0.1:PORT", &with_both);
    tokio::task::spawn_blocking(move || {
        let program = Program::start(&corefile);
        program.wait_for_output("is taken out", 1);
        for turn in 0..10 {
            let name = format!("ok-{turn}.fault.test");
            assert_eq!(answers(&ask(program.port, &name, A)), ["192.0.2.7"]);
        }
        let to_healthy = format!("`{}` leads back", healthy.address);
        assert!(!program.output().contains(&to_healthy));
    })
    .await
    .unwrap();
}

#[test]
fn a_loop_over_two_blocks_is_found_too() {
    let other = free_port();
    let corefile = format!(
        ".:PORT {{\nbind 127.0.0.1\nloop\nforward . 127.0.0.1:{other}\n}}\n\
         .:{other} {{\nbind 127.0.0.1\nforward . 127.0.0.1:PORT\n}}\n"
    );
    let program = Program::start(&corefile);
    program.wait_for_output(&format!("upstream `127.0.0.1:{other}` leads back"), 1);
}

#[test]
fn a_reload_that_repairs_the_upstream_ends_the_loop() {
    let program = Program::start(LOOPING);
    program.wait_for_output("is taken out", 1);
    program.rewrite(&LOOPING.replace("forward . 127.0.0.1:PORT", "whoami"));
    program.signal("USR1");
    wait_until("another answer than SERVFAIL", || {
        let reply = ask(program.port, "www.example.org", A);
        reply.metadata.response_code == ResponseCode::NoError
    });
}
