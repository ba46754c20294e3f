//! `fingerpost check`: reads a Corefile as a start would, tells every fault, touches nothing but local files.

use std::io;
use std::path::Path;

use crate::cli::Options;
use crate::corefile::diagnostic::{Faults, Severity};
use crate::corefile::parser;
use crate::corefile::render::{Color, render_in};
use crate::corefile::text;
use crate::corefile::tree::Corefile;
use crate::plugin::configure::configure;

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    /// Every fault, drawn; empty if there is none.
    pub report: String,
    /// One line: what was read and how many faults it has.
    pub summary: String,
    /// Whether there is no error. An option that is not built yet is none: the file is right, the version is early.
    pub is_sound: bool,
}

/// Reads and checks the Corefile that the options name.
pub fn check(options: &Options, color: Color) -> io::Result<Verdict> {
    let path = options.conf.as_deref().unwrap_or(Path::new("Corefile"));
    let octets = if path == Path::new("stdin") {
        text::read_bounded(io::stdin().lock())?
    } else {
        text::read(path)?
    };
    Ok(check_text(path, &octets, options.port, color))
}

/// Checks a Corefile that was read already.
pub fn check_text(path: &Path, octets: &[u8], port: u16, color: Color) -> Verdict {
    let (mut corefile, mut faults) = parser::parse(path, octets);
    corefile.port = port;
    configure(&corefile, &mut faults);
    Verdict {
        report: render_in(&faults, &corefile.sources, color),
        summary: summary(path, &corefile, &faults),
        is_sound: faults.error_count() == 0,
    }
}

fn summary(path: &Path, corefile: &Corefile, faults: &Faults) -> String {
    let counted = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    };
    if corefile.blocks.is_empty() && faults.is_empty() {
        let path = path.display();
        return format!("{path}: no server block, so the built-in `whoami` and `log` would run");
    }
    let mut parts = vec![counted(
        corefile.blocks.len(),
        "server block",
        "server blocks",
    )];
    if corefile.sources.len() > 1 {
        parts.push(counted(corefile.sources.len(), "file", "files"));
    }
    parts.push(match faults.count(Severity::Error) {
        0 => "no error".to_owned(),
        count => counted(count, "error", "errors"),
    });
    match faults.count(Severity::Warning) {
        0 => {}
        count => parts.push(counted(count, "warning", "warnings")),
    }
    match faults.count(Severity::NotBuilt) {
        0 => {}
        count => parts.push(format!(
            "{count} not built yet: this version refuses to start with it"
        )),
    }
    format!("{}: {}", path.display(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Verdict {
        check_text(Path::new("Corefile"), text.as_bytes(), 53, Color::Never)
    }

    #[test]
    fn a_sound_file_has_a_summary_and_no_report() {
        let verdict = checked(". {\n}\nexample.org {\n}\n");
        assert_eq!(verdict.summary, "Corefile: 2 server blocks, no error");
        assert_eq!(verdict.report, "");
        assert!(verdict.is_sound);
    }

    #[test]
    fn a_file_without_a_block_says_what_would_run() {
        let verdict = checked("# nothing\n");
        assert!(verdict.summary.contains("the built-in `whoami` and `log`"));
        assert!(verdict.is_sound);
    }

    #[test]
    fn every_fault_is_drawn_with_its_place() {
        let verdict = checked(". {\n  frobnicate 1\n}\n}");
        assert_eq!(
            verdict.summary,
            "Corefile: 2 server blocks, 1 error, 1 warning"
        );
        assert!(!verdict.is_sound);
        assert_eq!(
            verdict.report,
            "\
error: unknown plugin `frobnicate`
 --> Corefile:2:3
  |
2 |   frobnicate 1
  |   ^^^^^^^^^^ not a plugin of this server, nor of CoreDNS

warning: a `}` too many
 --> Corefile:4:1
  |
4 | }
  | ^ taken as the zone of an empty server block, as CoreDNS does
  |
  = help: remove it
"
        );
    }

    #[test]
    fn the_port_decides_whether_two_keys_are_the_same() {
        let text = b". {\n}\n.:1053 {\n}\n";
        let path = Path::new("Corefile");
        assert!(check_text(path, text, 53, Color::Never).is_sound);
        assert!(!check_text(path, text, 1053, Color::Never).is_sound);
    }
}
