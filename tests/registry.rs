//! The registry of plugins, held to its word: names, order, manuals, examples.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fingerpost::corefile::diagnostic::Severity;
use fingerpost::corefile::parser;
use fingerpost::corefile::render::render;
use fingerpost::plugin::configure::{COREDNS_PLUGINS, configure};
use fingerpost::plugin::{PLUGINS, Spec};
use regex::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a plugin: its name, unless that is a word of the language.
fn folder(spec: &Spec) -> PathBuf {
    let name = match spec.name {
        "loop" => "loop_guard",
        name => name,
    };
    root().join("src/plugin").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manual(spec: &Spec) -> String {
    read(&folder(spec).join("README.md"))
}

/// Plugins that CoreDNS does not have.
const OWN_PLUGINS: &[&str] = &["cookie"];

#[test]
fn plugins_stand_in_the_order_of_coredns_each_once() {
    let places: Vec<usize> = PLUGINS
        .iter()
        .filter(|spec| !OWN_PLUGINS.contains(&spec.name))
        .map(|spec| {
            COREDNS_PLUGINS
                .iter()
                .position(|name| *name == spec.name)
                .unwrap_or_else(|| panic!("CoreDNS has no plugin `{}`", spec.name))
        })
        .collect();
    assert!(!places.is_empty());
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
}

#[test]
fn plugins_of_our_own_are_there_once_and_unknown_to_coredns() {
    for name in OWN_PLUGINS {
        let count = PLUGINS.iter().filter(|spec| spec.name == *name).count();
        assert_eq!(count, 1, "`{name}`");
        assert!(!COREDNS_PLUGINS.contains(name), "`{name}`");
    }
}

#[test]
fn every_folder_of_a_plugin_is_registered() {
    let registered: Vec<PathBuf> = PLUGINS.iter().map(|spec| folder(spec)).collect();
    for entry in
        std::fs::read_dir(root().join("src/plugin")).expect("the folder is part of the package")
    {
        let path = entry.expect("it can be listed").path();
        if path.join("README.md").exists() {
            assert!(
                registered.contains(&path),
                "{} is not in PLUGINS",
                path.display()
            );
        }
    }
}

#[test]
fn every_plugin_says_what_it_does_in_one_line() {
    for spec in PLUGINS {
        assert!(!spec.summary.is_empty(), "`{}`", spec.name);
        assert!(!spec.summary.contains('\n'), "`{}`", spec.name);
        assert!(!spec.summary.ends_with('.'), "`{}`", spec.name);
        assert!(
            manual(spec).starts_with(&format!("# {}\n", spec.name)),
            "`{}`",
            spec.name
        );
    }
}

#[test]
fn every_option_is_in_its_plugins_manual_and_explained() {
    for spec in PLUGINS {
        let manual = manual(spec);
        let mut seen = Vec::new();
        for option in spec.options {
            assert!(
                !seen.contains(&option.name),
                "`{}` lists `{}` twice",
                spec.name,
                option.name
            );
            seen.push(option.name);
            assert!(
                option.syntax.starts_with(option.name),
                "`{}` in `{}`",
                option.name,
                spec.name
            );
            assert!(
                !option.help.is_empty(),
                "`{}` in `{}`",
                option.name,
                spec.name
            );
            let mentioned = manual.contains(&format!("`{}`", option.name))
                || manual.contains(&format!("`{} ", option.name));
            assert!(
                mentioned,
                "the manual of `{}` does not mention `{}`",
                spec.name, option.name
            );
        }
    }
}

/// The texts between a line that opens a block of this language and the next fence.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().expect("split yields at least one"))
        .collect()
}

/// Every fault that is worse than a warning, drawn.
fn faults(text: &str) -> Option<String> {
    let (corefile, mut faults) = parser::parse(&root().join("Corefile"), text.as_bytes());
    configure(&corefile, &mut faults);
    faults
        .worst()
        .filter(|&worst| worst > Severity::Warning)
        .map(|_| render(&faults, &corefile.sources))
}

#[test]
fn every_corefile_in_a_manual_configures() {
    let mut manuals: Vec<PathBuf> = PLUGINS
        .iter()
        .map(|spec| folder(spec).join("README.md"))
        .collect();
    manuals.extend([root().join("README.md"), root().join("CONTRIBUTING.md")]);
    let mut count = 0;
    for path in manuals {
        for block in blocks(&read(&path), "corefile") {
            count += 1;
            if let Some(faults) = faults(block) {
                panic!("{}:\n{block}\n{faults}", path.display());
            }
        }
    }
    assert!(count > PLUGINS.len(), "most manuals have an example");
}

#[test]
fn the_corefiles_that_we_ship_configure() {
    let map = read(&root().join("deploy/base/configmap.yaml"));
    let (_, indented) = map
        .split_once("Corefile: |\n")
        .expect("the map holds a Corefile");
    for text in [read(&root().join("Corefile.example")), indented.to_owned()] {
        if let Some(faults) = faults(&text) {
            panic!("{text}\n{faults}");
        }
    }
}

#[test]
fn a_fault_is_found_by_what_looks_for_faults_here() {
    assert!(
        faults(". {\n    whoamy\n}\n").is_some_and(|text| text.contains("did you mean `whoami`?"))
    );
}

#[test]
fn every_test_that_the_deviations_name_exists() {
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        append_sources(&root().join(folder), &mut sources);
    }
    let deviations = read(&root().join("docs/deviations.md"));
    let named = deviations
        .lines()
        .filter_map(|line| line.strip_suffix(" |")?.rsplit(" | ").next())
        .flat_map(|tests| tests.split('`').skip(1).step_by(2));
    let mut count = 0;
    for test in named {
        let exists = if test.contains('/') {
            ["", ".rs", ".corefile"]
                .iter()
                .any(|end| root().join(format!("{test}{end}")).exists())
        } else {
            sources.contains(&format!("fn {test}("))
        };
        assert!(exists, "docs/deviations.md names `{test}`");
        count += 1;
    }
    assert!(count > 50, "the tables are read");
}

fn append_sources(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            append_sources(&path, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.push_str(&read(&path));
        }
    }
}

/// The rules of the list that `kubernetes`, `k8s_external`, `autopath` and transfers are built by.
const RULES: std::ops::RangeInclusive<usize> = 1..=263;

/// Numbers of rules in a comment, `Case 7`, `cases 7, 9 and 11`, `Cases 7 to 9`, or in a test's name, `fn case_7_…`.
fn rules_in(text: &str) -> Vec<usize> {
    static NUMBERS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\b[Cc]ases? (\d+(?:(?:, | and | to )\d+)*)").expect("a pattern")
    });
    let mut rules = Vec::new();
    for found in NUMBERS.captures_iter(text) {
        let mut range = false;
        for word in found[1].split(' ') {
            let Ok(number) = word.trim_end_matches(',').parse::<usize>() else {
                range = word == "to";
                continue;
            };
            match rules.last() {
                Some(&from) if range => rules.extend(from + 1..=number),
                _ => rules.push(number),
            }
            range = false;
        }
    }
    rules
}

#[test]
fn numbers_of_rules_are_read_one_by_one_and_from_to() {
    assert_eq!(rules_in("/// Case 7. A port 80."), [7]);
    assert_eq!(
        rules_in("// see cases 7, 9 and 11 to 13"),
        [7, 9, 11, 12, 13]
    );
    assert!(rules_in("case by case").is_empty());
}

#[test]
fn every_rule_of_the_list_has_a_test() {
    let mut found = std::collections::BTreeSet::new();
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        append_sources(&root().join(folder), &mut sources);
    }
    for line in sources.lines().map(str::trim_start) {
        if line.starts_with("//") {
            found.extend(rules_in(line));
        } else if line.starts_with("fn case") {
            found.extend(rules_in(&line.replace('_', " ")));
        }
    }
    for entry in std::fs::read_dir(root().join("tests")).expect("a folder") {
        let cases = entry.expect("an entry").path().join("cases");
        if cases.is_file() {
            let text = read(&cases);
            let numbers = text.lines().filter_map(|line| {
                let word = line.split(' ').next()?;
                word.trim_end_matches(|end: char| end.is_ascii_lowercase())
                    .parse::<usize>()
                    .ok()
            });
            found.extend(numbers);
        }
    }
    let missing: Vec<usize> = RULES.filter(|rule| !found.contains(rule)).collect();
    assert!(missing.is_empty(), "no test names the rules {missing:?}");
}
