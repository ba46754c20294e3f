//! Tells the program which compiler built it, for `-version` and the build-info metric.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    // `rustc 1.95.0 (0123abcd 2026-01-01)`: the number is enough.
    let number = version.split(' ').nth(1).unwrap_or("unknown").trim();
    println!("cargo::rustc-env=FINGERPOST_RUSTC={number}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=FINGERPOST_COMMIT");
}
