//! Corefiles from the field, and broken ones, against the verdicts of CoreDNS 1.14.7.
//!
//! The collection lies beside the repository, in `../shared/corefiles`; without it these tests say so and pass. A file
//! counts as soon as all its plugins are registered, so each new plugin widens what is tested.

use std::fs;
use std::path::{Path, PathBuf};

use fingerpost::corefile::diagnostic::{Faults, Severity};
use fingerpost::corefile::parser::load;
use fingerpost::corefile::render::render;
use fingerpost::corefile::tree::Corefile;
use fingerpost::plugin::PLUGINS;
use fingerpost::plugin::configure::configure;

/// Files that are refused though CoreDNS got past them, with the reason.
const STRICTER: &[(&str, &str)] = &[(
    "bad/065-forward-bad-port.Corefile",
    "port 99999; CoreDNS fails with every query instead",
)];

/// Broken files: the plugin that finds the fault (none for the grammar itself), a word of the fault, and its place.
#[rustfmt::skip] // a table
const BROKEN: &[(&str, &str, &str, &str)] = &[
    ("001-unknown-directive", "", "frobnicate", "3:5"),
    ("003-wrong-case", "forward", "Forward", "2:5"),
    ("005-missing-close-brace", "forward", "a `}` is missing", "3:15"),
    ("009-brace-no-space", "whoami", ".:53{", "1:1"),
    ("011-close-brace-same-line", "whoami", "}", "2:12"),
    ("013-duplicate-zone-implicit-port", "whoami", "cannot serve dns://.:53 - it is already defined", "4:1"),
    ("015-duplicate-zone-case", "whoami", "cannot serve dns://example.org.:53 - it is already defined", "4:1"),
    ("017-duplicate-cache", "cache", "cache", "3:5"),
    ("021-bad-port-negative", "", "invalid port", "1:1"),
    ("025-bad-zone-label", "", "is not a zone", "1:1"),
    ("031-acl-bad-action", "acl", "deny", "3:9"),
    ("035-cache-negative", "cache", "-5", "2:11"),
    ("037-cache-unknown-prop", "cache", "sucess", "3:9"),
    ("039-cache-prefetch-bad", "cache", "95%", "3:24"),
    ("041-health-two-args", "health", ":8081", "2:18"),
    ("043-reload-too-short", "reload", "1s", "2:12"),
    ("045-import-snippet-after", "", "common", "2:12"),
    ("047-import-snippet-cycle", "", "imports itself", "5:12"),
    ("051-import-no-arg", "", "import", "2:5"),
    ("053-duplicate-snippet", "", "snippet `s` is defined twice", "4:1"),
    ("055-single-quotes", "template", "answer", "3:9"),
    ("057-template-bad-regex", "template", "(foo", "3:15"),
    ("059-template-bad-rcode", "template", "NOPE", "3:15"),
    ("061-forward-no-args", "forward", "forward", "2:5"),
    ("067-forward-bad-policy", "forward", "fastest", "3:16"),
    ("069-forward-https", "forward", "path", "2:15"),
    ("071-forward-bad-expire", "forward", "-5s", "3:16"),
    ("073-forward-unknown-prop", "forward", "timeout", "3:9"),
    ("075-hosts-bad-ttl", "hosts", "99999999999", "4:13"),
    ("079-kubernetes-bad-pods", "kubernetes", "maybe", "3:14"),
    ("081-file-no-args", "file", "file", "2:5"),
    ("083-file-wrong-origin", "file", "never", "3:16"),
    ("085-rewrite-bad-field", "rewrite", "colour", "2:13"),
    ("087-rewrite-bad-rcode", "rewrite", "HINFOO", "2:22"),
    ("089-errors-bad-regex", "errors", "([", "3:24"),
    ("091-bind-no-args", "bind", "bind", "2:5"),
    ("099-prometheus-bad-addr", "prometheus", "9153", "2:16"),
    ("101-bufsize-range", "bufsize", "128", "2:13"),
    ("103-view-bad-expr", "view", "client_ip(", "3:14"),
    ("107-secondary-no-transfer", "secondary", "secondary", "2:5"),
    ("109-subdirective-at-top", "forward", "force_tcp", "3:5"),
    ("111-semicolon-comment", "", ".:53", "2:1"),
    ("115-yaml-pasted", "", "kind:", "2:1"),
    ("129-utf16", "", "UTF-16", "1:1"),
    ("135-nul-byte", "", "who", "2:5"),
    ("137-long-line", "", "1048576", "1:1"),
    ("141-env-unset", "forward", "is not an address", "2:15"),
    ("143-env-percent", "forward", "is not an address", "2:15"),
    ("145-helm-unrendered", "", ".Values.zone", "1:4"),
    ("149-whoami-arg", "whoami", "me", "2:12"),
    ("151-debug-arg", "debug", "on", "2:11"),
    ("165-dns64-bad-prefix", "dns64", "10.0.0.0/96", "2:11"),
    ("167-timeouts-range", "timeouts", "0s", "3:14"),
    ("169-minimal-arg", "minimal", "yes", "2:13"),
    ("171-ready-two", "ready", "ready", "3:5"),
];

/// One line of an index.
struct Case {
    file: String,
    plugins: Vec<String>,
    verdict: String,
}

impl Case {
    fn is_accepted(&self) -> bool {
        self.verdict == "accept"
            || self.verdict == "setup-ok-listen-failed"
            || self.verdict.starts_with("parse-ok")
    }

    /// Whether CoreDNS finds the fault in the text, not in what it runs on.
    fn is_wrong(&self) -> bool {
        self.verdict.starts_with("reject") && self.verdict != "reject-environment"
    }

    fn is_stricter(&self) -> bool {
        STRICTER.iter().any(|(file, _)| *file == self.file)
    }
}

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corefiles");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: there is no folder ../shared/corefiles");
    None
}

/// The lines of an index; `plugins` and `verdict` are columns.
fn index(path: &Path, plugins: Option<usize>, verdict: usize) -> Vec<Case> {
    let octets = fs::read(path).expect("the collection has an index");
    String::from_utf8_lossy(&octets)
        .lines()
        .skip(1)
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let listed = plugins.map_or("", |plugins| columns[plugins]);
            Case {
                file: columns[0].to_owned(),
                plugins: listed.split(',').map(str::to_owned).collect(),
                verdict: columns[verdict].to_owned(),
            }
        })
        .collect()
}

fn is_registered(name: &str) -> bool {
    name.is_empty() || name == "import" || PLUGINS.iter().any(|spec| spec.name == name)
}

fn checked(path: &Path) -> (Corefile, Faults) {
    let (corefile, mut faults) = load(path).expect("the collection is readable");
    configure(&corefile, &mut faults);
    (corefile, faults)
}

#[test]
fn what_runs_on_coredns_has_no_fault_here() {
    let Some(folder) = folder() else { return };
    let (mut count, mut not_built, mut wrong) = (0, 0, Vec::new());
    for case in index(&folder.join("index.tsv"), Some(2), 3) {
        if !case.is_accepted() || !case.plugins.iter().all(|name| is_registered(name)) {
            continue;
        }
        let (corefile, faults) = checked(&folder.join(&case.file));
        count += 1;
        not_built += faults.count(Severity::NotBuilt);
        if (faults.error_count() > 0) != case.is_stricter() {
            wrong.push(render(&faults, &corefile.sources));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 0);
    eprintln!(
        "{count} Corefiles without a fault, {not_built} uses of options that are not built yet"
    );
}

#[test]
fn what_coredns_refuses_is_refused_here() {
    let Some(folder) = folder() else { return };
    let mut taken = Vec::new();
    for case in index(&folder.join("index.tsv"), Some(2), 3) {
        if case.is_wrong() && case.plugins.iter().all(|name| is_registered(name)) {
            let (_, faults) = checked(&folder.join(&case.file));
            if faults.error_count() == 0 {
                taken.push(case.file);
            }
        }
    }
    assert!(taken.is_empty(), "{taken:?}");
}

#[test]
fn a_broken_file_is_refused_for_its_fault_at_its_place() {
    let Some(folder) = folder() else { return };
    let (mut count, mut wrong) = (0, Vec::new());
    for (stem, plugin, fragment, place) in BROKEN {
        if !is_registered(plugin) {
            continue;
        }
        let path = folder.join(format!("bad/{stem}.Corefile"));
        let (corefile, faults) = checked(&path);
        let found = faults.iter().any(|fault| {
            fault.severity == Severity::Error
                && fault.message.contains(fragment)
                && corefile.place(fault.span).ends_with(&format!(":{place}"))
        });
        count += 1;
        if !found {
            let report = render(&faults, &corefile.sources);
            wrong.push(format!("{stem}: no `{fragment}` at {place}\n{report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("{count} of {} broken files", BROKEN.len());
}

#[test]
fn every_broken_file_of_the_collection_is_in_the_table() {
    let Some(folder) = folder() else { return };
    for case in index(&folder.join("bad/index.tsv"), None, 2) {
        let stem = case.file.trim_end_matches(".Corefile");
        let listed = BROKEN.iter().any(|(name, ..)| *name == stem);
        assert_eq!(listed, case.is_wrong(), "{stem}: {}", case.verdict);
    }
}

#[test]
fn an_odd_file_that_coredns_takes_is_taken() {
    let Some(folder) = folder() else { return };
    let mut refused = Vec::new();
    for mut case in index(&folder.join("bad/index.tsv"), None, 2) {
        case.file = format!("bad/{}", case.file);
        let (corefile, faults) = checked(&folder.join(&case.file));
        let is_ours = corefile
            .blocks
            .iter()
            .flat_map(|block| &block.directives)
            .all(|directive| is_registered(&directive.name.text));
        if case.is_accepted() && is_ours && (faults.error_count() > 0) != case.is_stricter() {
            refused.push(render(&faults, &corefile.sources));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
