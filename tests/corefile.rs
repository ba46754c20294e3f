//! Golden tests: each `corefile/NAME.corefile` becomes the tree and the faults in `corefile/NAME.expected`.
//!
//! `UPDATE=1 cargo test --test corefile` writes what comes out now; read the difference before it is committed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use fingerpost::corefile::key::parse_keys;
use fingerpost::corefile::parser::parse_with;
use fingerpost::corefile::render::render;
use fingerpost::corefile::tree::{Corefile, Directive, Word};
use fingerpost::plugin::overlap::Claims;

/// The environment of every golden test.
fn variable(name: &str) -> Option<String> {
    let value = match name {
        "SET" => "a value",
        "ZONE" => "env.org",
        "NESTED" => "<{$ZONE}>",
        "DIRECTIVE" => "log",
        "SNIPPET" => "parts/more",
        "SELF" => "x{$SELF}",
        _ => return None,
    };
    Some(value.to_owned())
}

/// What a Corefile is read as: keys and directives of every block, then the faults.
fn read(path: &Path) -> String {
    let octets = fs::read(path).expect("a golden file is readable");
    let (corefile, mut faults) = parse_with(path, &octets, &variable);
    let mut text = String::new();
    let mut claims = Claims::new(corefile.port);
    for block in &corefile.blocks {
        let keys = parse_keys(block, &mut faults);
        claims.check(block, &keys, &mut faults);
        writeln!(text, "block{}", words(&block.keys)).expect("a string takes all");
        for key in &keys {
            let scheme = key.scheme.as_str();
            let port = key.port.map_or(String::new(), |port| format!(":{port}"));
            writeln!(text, "  = {scheme}://{}{port}", key.zone).expect("a string takes all");
        }
        for directive in &block.directives {
            draw(directive, 1, &mut text);
        }
    }
    if !faults.is_empty() {
        writeln!(text, "\n{}", render(&faults, &corefile.sources)).expect("a string takes all");
    }
    relative(&text, &corefile)
}

fn draw(directive: &Directive, depth: usize, text: &mut String) {
    let indent = "    ".repeat(depth);
    let name = std::slice::from_ref(&directive.name);
    let line = format!("{}{}", words(name), words(&directive.args));
    let brace = if directive.body.is_some() { " {" } else { "" };
    writeln!(text, "{indent}{}{brace}", line.trim_start()).expect("a string takes all");
    for option in directive.options() {
        draw(option, depth + 1, text);
    }
    if directive.body.is_some() {
        writeln!(text, "{indent}}}").expect("a string takes all");
    }
}

/// Words as they are used; those that would be mistaken for several stand in quotes.
fn words(words: &[Word]) -> String {
    words
        .iter()
        .map(|word| {
            let plain = !word.text.is_empty() && !word.text.contains(char::is_whitespace);
            if plain && !word.text.contains(['"', '\0']) {
                format!(" {}", word.text)
            } else {
                format!(" {:?}", word.text)
            }
        })
        .collect()
}

/// Paths as seen from the folder of golden files, wherever that lies.
fn relative(text: &str, corefile: &Corefile) -> String {
    let folder = format!("{}/", folder().display());
    let text = text.replace(&folder, "");
    assert!(
        !text.contains(env!("CARGO_MANIFEST_DIR")),
        "{:?}",
        corefile.sources.first()
    );
    text
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corefile")
}

#[test]
fn every_golden_file_is_read_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .expect("the golden files are part of the package")
        .map(|entry| entry.expect("an entry can be read").path())
        .filter(|path| path.extension().is_some_and(|end| end == "corefile"))
        .collect();
    paths.sort();
    assert!(paths.len() > 20, "the golden files are there");
    let mut different = Vec::new();
    for path in paths {
        let got = read(&path);
        let golden = path.with_extension("expected");
        if update {
            fs::write(&golden, &got).expect("a golden file is writable");
        } else if fs::read_to_string(&golden).unwrap_or_default() != got {
            different.push(format!("{}:\n{got}", path.display()));
        }
    }
    assert!(
        different.is_empty(),
        "not as expected (UPDATE=1 accepts):\n{}",
        different.join("\n")
    );
}
