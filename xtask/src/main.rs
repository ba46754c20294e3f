//! Every developer command, in Rust: no other tool is needed.

fn main() -> std::process::ExitCode {
    let ok = std::process::Command::new(env!("CARGO"))
        .args(["test", "--workspace"])
        .status();
    if ok.is_ok_and(|status| status.success()) {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}
