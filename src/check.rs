//! `fingerpost check`: reads a Corefile as a start would, tells every fault, touches nothing but local files.

use std::io;
use std::path::Path;

use crate::cli::Options;
use crate::corefile::diagnostic::{Diagnostic, Faults, Severity, Span};
use crate::corefile::parser;
use crate::corefile::render::{Color, render_in};
use crate::corefile::text;
use crate::corefile::tree::{Block, Corefile, Directive, Word};
use crate::plugin::configure::{BlockConfig, configure};
use crate::plugin::root;

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
    let blocks = configure(&corefile, &mut faults);
    for (block, config) in corefile.blocks.iter().zip(&blocks) {
        note_missing_files(block, config, &mut faults);
    }
    Verdict {
        report: render_in(&faults, &corefile.sources, color),
        summary: summary(path, &corefile, &faults),
        is_sound: faults.error_count() == 0,
    }
}

/// Warns of files that a start would read and that are not here. They may well be where the server will run.
fn note_missing_files(block: &Block, config: &BlockConfig, faults: &mut Faults) {
    let mut configs = config.plugins.iter().map(|(_, config)| &**config);
    let root = configs.find_map(root::path_of).unwrap_or(Path::new(""));
    for (spec, config) in &config.plugins {
        let directives = block.by_name().remove(spec.name).unwrap_or_default();
        let mut files = config.files(root);
        files.sort();
        files.dedup();
        for file in files {
            let Err(error) = look_at(&file) else { continue };
            let Some(span) = place_of(&file, root, &directives) else {
                continue;
            };
            faults.push(Diagnostic::warning(
                span,
                format!("`{}` cannot be read here: {error}", file.display()),
                "a start needs it",
            ));
        }
    }
}

/// Whether it can be read. A pipe is not opened: it would wait for somebody who writes.
fn look_at(file: &Path) -> io::Result<()> {
    if std::fs::metadata(file)?.is_file() {
        std::fs::File::open(file)?;
    }
    Ok(())
}

/// Where a file is named, or else the directive that stands for it.
fn place_of(file: &Path, root: &Path, directives: &[&Directive]) -> Option<Span> {
    fn find(directive: &Directive, named: &impl Fn(&Word) -> bool) -> Option<Span> {
        let word = directive.args.iter().find(|word| named(word));
        let mut options = directive.options().iter();
        word.map(|word| word.span)
            .or_else(|| options.find_map(|option| find(option, named)))
    }
    let named = |word: &Word| root.join(&word.text) == *file || Path::new(&word.text) == file;
    let mut all = directives.iter();
    let span = all.find_map(|directive| find(directive, &named));
    span.or_else(|| Some(directives.first()?.name.span))
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
    fn a_file_that_a_start_would_miss_is_a_warning_where_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        std::fs::write(folder.path().join("here"), "example.org\n").unwrap();
        let files = [
            "forward . ROOT/resolvers",
            "forward . tls://192.0.2.1 {\ntls cert key\n}",
            "loadbalance weighted weights",
            "kubernetes {\nmanifests here objects\n}",
            "kubernetes {\nkubeconfig config\n}",
            "kubernetes {\nendpoint https://192.0.2.1\ntls a.crt a.key ca.crt\n}",
            "cookie {\nsecret secret\n}",
            "hosts nowhere",
        ];
        let missing: Vec<Vec<String>> = files
            .iter()
            .map(|directive| {
                let directive = directive.replace("ROOT", &root.to_string());
                let verdict = checked(&format!(". {{\nroot {root}\n{directive}\n}}\n"));
                assert!(verdict.is_sound, "{}", verdict.report);
                let lines = verdict.report.lines();
                let start = format!("warning: `{root}/");
                lines
                    .filter_map(|line| line.strip_prefix(&start)?.split_once("` cannot be read"))
                    .map(|(name, _)| name.to_owned())
                    .collect()
            })
            .collect();
        let expected: [&[&str]; 8] = [
            &["resolvers"],
            &["cert", "key"],
            &["weights"],
            &["objects"],
            &["config"],
            &["a.crt", "a.key", "ca.crt"],
            &["secret"],
            // Without the file there are no names, and nothing is wrong.
            &[],
        ];
        assert_eq!(missing, expected);
        let verdict = checked(&format!(". {{\n  loadbalance weighted {root}/gone\n}}\n"));
        let place = " --> Corefile:2:24\n";
        assert!(verdict.report.contains(place), "{}", verdict.report);
        assert!(verdict.report.contains("^ a start needs it"));
        assert_eq!(
            verdict.summary,
            "Corefile: 1 server block, no error, 1 warning"
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
