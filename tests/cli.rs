//! The program on the command line: what it prints where, and its exit codes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str], folder: &Path, input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fingerpost"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    // A program that does not read its input may be gone by now.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("it prints text");
    (status.code(), text(stdout), text(stderr))
}

fn folder_with(corefile: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Corefile"), corefile).expect("a file");
    folder
}

const SOUND: &str = ".:1053 {\n    whoami\n}\n";
const FAULTY: &str = ".:1053 {\n    whoami me\n    whoamj\n}\n";

#[test]
fn check_of_a_sound_file_ends_with_0() {
    let folder = folder_with(SOUND);
    let expected = "1 server block, no error\n";
    for (args, name) in [
        (vec!["check"], "Corefile"),
        (vec!["check", "Corefile"], "Corefile"),
        (vec!["check", "-conf", "Corefile"], "Corefile"),
        (vec!["check", "-"], "stdin"),
        (vec!["check", "-conf", "stdin"], "stdin"),
    ] {
        let (code, stdout, stderr) = run(&args, folder.path(), SOUND);
        assert_eq!(stdout, format!("{name}: {expected}"), "{args:?}");
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn check_of_a_faulty_file_draws_every_fault_and_ends_with_1() {
    let folder = folder_with(FAULTY);
    let (code, stdout, stderr) = run(&["check"], folder.path(), "");
    assert_eq!(code, Some(1));
    assert_eq!(stdout, "Corefile: 1 server block, 2 errors\n");
    for part in [
        "--> Corefile:2:12",
        "--> Corefile:3:5",
        "help: did you mean `whoami`?",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(!stderr.contains('\u{1b}'), "no colors but for a terminal");
}

#[test]
fn check_of_a_missing_file_ends_with_1() {
    let folder = folder_with(SOUND);
    let (code, stdout, stderr) = run(&["check", "none"], folder.path(), "");
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.starts_with("cannot read the Corefile `none`: "),
        "{stderr}"
    );
}

#[test]
fn an_unknown_flag_ends_with_2_and_the_usage() {
    let folder = folder_with(SOUND);
    let (code, stdout, stderr) = run(&["-foo"], folder.path(), "");
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.starts_with("flag provided but not defined: -foo\nUsage of fingerpost:\n  -conf"),
        "{stderr}"
    );
}

#[test]
fn extra_arguments_end_with_1() {
    let folder = folder_with(SOUND);
    let (code, _, stderr) = run(&["-quiet", "foo"], folder.path(), "");
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "extra command line arguments: [foo]\n");
}

#[test]
fn what_only_prints_ends_with_0() {
    let folder = folder_with(SOUND);
    for (flag, start) in [
        ("-version", "Fingerpost-"),
        ("--version", "Fingerpost-"),
        ("-plugins", "any\n"),
        ("--help", "Fingerpost "),
    ] {
        let (code, stdout, stderr) = run(&[flag], folder.path(), "");
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{flag}");
        assert!(stdout.starts_with(start), "{flag}: {stdout}");
    }
}
