//! Any octets are read without a panic, and every fault has a place within its text. The inputs are the same in each
//! run; the fuzz target does the long search.

use std::fs;
use std::path::{Path, PathBuf};

use fingerpost::corefile::hash::running_hash;
use fingerpost::corefile::parser::parse_with;
use fingerpost::corefile::render::render;
use fingerpost::plugin::PLUGINS;
use fingerpost::plugin::configure::configure;

/// Pieces that mean something to the reader.
#[rustfmt::skip] // a table
const PIECES: &[&str] = &[
    "{", "}", "{\n", "}\n", "\n", "\n", " ", " ", "\t", "\r\n", ".", ".:53", "a.org", "b.org,", "10.0.0.0/9",
    "2001:db8::/31", "tls://", ":0", "(s)", "(s) {\n log\n}\n", "(t) {\n import s\n import t2\n}\n",
    "(t2) {\n import t\n}\n", "import", "import s", "import t", "import parts/half", "import parts/whole",
    "import parts/*/*", "import parts/custom/*", "import parts/cycle", "\"", "\"a b\"", "\"}\"", "\"\"", "\\\"",
    "#", "# c\n", "{$SELF}", "{%SET%}", "{$", "{$}", "{$UNSET}", "\0", "é", "\u{feff}", "\u{a0}", "-1", "0", "1",
    "5s", "99999999999999999999", "10", "1.1.1.1", "::1", "/etc/hosts", "fallthrough", "all", "*", "[", "(", "%",
];

/// A small generator: the same numbers in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a usize")
    }

    fn pick<'p>(&mut self, pieces: &[&'p str]) -> &'p str {
        pieces[self.below(pieces.len())]
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corefile")
}

fn variable(name: &str) -> Option<String> {
    match name {
        "SELF" => Some("{$SELF}{$SET}".to_owned()),
        "SET" => Some("set { }".to_owned()),
        _ => None,
    }
}

/// Reads, checks, draws and hashes.
fn swallow(octets: &[u8]) {
    let (corefile, mut faults) = parse_with(&folder().join("Corefile"), octets, &variable);
    configure(&corefile, &mut faults);
    for fault in faults.iter() {
        let related = fault.related.iter().map(|related| related.0);
        for span in std::iter::once(fault.span).chain(related) {
            let source = &corefile.sources[span.source as usize];
            let text = source.text.get(span.start..span.end);
            assert!(text.is_some(), "{fault:?} in {:?}", source.path);
        }
    }
    let drawn = render(&faults, &corefile.sources);
    assert_eq!(drawn.is_empty(), faults.is_empty());
    running_hash(&corefile);
}

/// Changes a text here and there: cuts, doubles, swaps in pieces and odd octets.
fn mutate(octets: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut octets = octets.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(octets.len() + 1);
        let end = (at + numbers.below(24)).min(octets.len());
        match numbers.below(5) {
            0 => drop(octets.drain(at..end)),
            1 => octets.truncate(at.max(8)),
            2 => {
                let copy = octets[at..end].to_vec();
                octets.splice(at..at, copy);
            }
            3 => drop(octets.splice(at..at, numbers.pick(PIECES).bytes())),
            _ => octets.insert(at, u8::try_from(numbers.below(256)).expect("an octet")),
        }
    }
    octets
}

#[test]
fn a_soup_of_words_is_read_without_a_panic() {
    let mut pieces = PIECES.to_vec();
    for spec in PLUGINS {
        // A plugin's own words, twice: they open the doors.
        pieces.extend([spec.name, spec.name]);
        pieces.extend(spec.option_names());
    }
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    for _ in 0..2000 {
        let mut text = String::from(numbers.pick(&["", ". {\n", ". {\n", "(s) {\n x\n}\n"]));
        for _ in 0..numbers.below(40) {
            text.push_str(numbers.pick(&pieces));
            text.push_str(numbers.pick(&["", " ", " ", " ", "\n", " {\n", "\n}\n"]));
        }
        swallow(text.as_bytes());
    }
}

#[test]
fn corefiles_with_damage_are_read_without_a_panic() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corefiles");
    let mut numbers = Numbers(0xD1B5_4A32_D192_ED03);
    let mut count = 0;
    for folder in [folder(), shared.clone(), shared.join("bad")] {
        let Ok(entries) = fs::read_dir(&folder) else {
            eprintln!("skipped: there is no folder {}", folder.display());
            continue;
        };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry can be read").path())
            .filter(|path| path.is_file())
            .collect();
        paths.sort();
        for path in paths {
            let octets = fs::read(&path).expect("it is readable");
            // The megabytes of some are for other tests.
            if octets.len() < 20_000 {
                for _ in 0..4 {
                    swallow(&mutate(&octets, &mut numbers));
                    count += 1;
                }
            }
        }
    }
    assert!(count > 100);
}
