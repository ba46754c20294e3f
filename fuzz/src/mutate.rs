//! Fuzzing without libFuzzer: seeds, changed at random from a fixed start, for so many seconds.
//!
//! `mutate TARGET SECONDS [SEED_FOLDER]` prints one line; on a fault it keeps the input and exits with 1.
//! `mutate TARGET --file INPUT` runs one kept input again.
//!
//! It sees no coverage. It keeps an input when the target's fingerprint of it is new, which is the next best thing.

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fingerpost_fuzz::{TARGETS, Target};

/// Inputs kept at most; past it a new one takes the place of an old one.
const KEPT_MAX: usize = 4096;

/// Octets of an input at most.
const INPUT_MAX: usize = 4096;

/// Octets that break things more often than others.
const SPECIAL: &[u8] = &[
    0x00, 0x01, 0x29, 0x2e, 0x3f, 0x40, 0x5c, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xff, b'"', b'\n', b'#',
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let found = args
        .first()
        .and_then(|name| TARGETS.iter().find(|(target, _)| target == name));
    let (Some(&(name, target)), Some(what)) = (found, args.get(1)) else {
        eprintln!("usage: mutate TARGET SECONDS [SEED_FOLDER] | mutate TARGET --file INPUT");
        return ExitCode::from(2);
    };
    if what == "--file" {
        let Some(input) = args.get(2).and_then(|path| std::fs::read(path).ok()) else {
            eprintln!("no such input");
            return ExitCode::from(2);
        };
        println!("fingerprint {:016x}", target(&input));
        return ExitCode::SUCCESS;
    }
    let Ok(seconds) = what.parse() else {
        eprintln!("`{what}` is not a number of seconds");
        return ExitCode::from(2);
    };
    let default = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(name);
    let seeds = read_seeds(&args.get(2).map_or(default, PathBuf::from));
    fuzz(name, target, seeds, Duration::from_secs(seconds))
}

fn read_seeds(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // The order that a folder is listed in differs between machines.
    paths.sort();
    paths
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

fn fuzz(name: &str, target: Target, seeds: Vec<Vec<u8>>, time: Duration) -> ExitCode {
    let end = Instant::now() + time;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut seen = HashSet::new();
    let mut kept = vec![Vec::new()];
    let mut runs: u64 = 0;
    let seed_count = seeds.len();
    let mut waiting = seeds.into_iter();
    loop {
        let input = waiting.next().unwrap_or_else(|| random.mutate(&kept));
        let Ok(print) = catch_unwind(|| target(&input)) else {
            return keep_fault(name, &input);
        };
        runs += 1;
        if seen.len() < KEPT_MAX * 16 && seen.insert(print) {
            if kept.len() < KEPT_MAX {
                kept.push(input);
            } else {
                let place = random.below(kept.len());
                kept[place] = input;
            }
        }
        // The clock is dearer than most runs.
        if runs % 64 == 0 && Instant::now() >= end {
            break;
        }
    }
    println!(
        "{name}: {runs} runs from {seed_count} seeds, {} different outcomes, no fault",
        seen.len()
    );
    ExitCode::SUCCESS
}

fn keep_fault(name: &str, input: &[u8]) -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("artifacts")
        .join(name);
    let path = folder.join("fault");
    match std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input)) {
        Ok(()) => eprintln!("{name}: fault; the input is in {}", path.display()),
        Err(error) => {
            eprintln!("{name}: fault; the input could not be kept ({error}): {input:02x?}")
        }
    }
    ExitCode::FAILURE
}

/// xorshift64*: the same row of numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).expect("usize fits"))
            .expect("below a usize")
    }

    fn mutate(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let mut input = kept[self.below(kept.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(8) {
                0 => input.insert(at, self.octet()),
                1 if at < input.len() => drop(input.remove(at)),
                2 => input.truncate(at),
                3 => {
                    let other = &kept[self.below(kept.len())];
                    let from = self.below(other.len());
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                4 => {
                    let end = (at + 1 + self.below(16)).min(input.len());
                    let piece = input[at..end].to_vec();
                    let place = self.below(input.len() + 1);
                    input.splice(place..place, piece);
                }
                5 if at < input.len() => input[at] ^= 1 << self.below(8),
                _ if at < input.len() => input[at] = self.octet(),
                _ => input.push(self.octet()),
            }
            input.truncate(INPUT_MAX);
        }
        input
    }

    fn octet(&mut self) -> u8 {
        match self.below(2) {
            0 => SPECIAL[self.below(SPECIAL.len())],
            _ => self.next().to_be_bytes()[0],
        }
    }
}
