//! Files by pattern: `*` and `?` within one path component, as `import` has them.

use std::path::{Component, Path, PathBuf};

/// The most files that one pattern may match.
const MATCHES_MAX: usize = 10_000;

/// Why a pattern cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GlobError {
    /// More than one `*`, more than one `?`, or a character class.
    TooComplex,
    /// A `[` that opens no class.
    Malformed,
    /// More files than are allowed.
    TooMany,
}

/// Whether a pattern may match nothing: it has wildcards.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', ']'])
}

/// The files that match an absolute pattern, sorted. A pattern without wildcards matches itself if it exists.
///
/// Patterns are held to one `*` and one `?`, counted over the whole path: more can take very long.
pub(super) fn glob(pattern: &Path) -> Result<Vec<PathBuf>, GlobError> {
    let text = pattern.to_string_lossy();
    if text.matches('*').count() > 1
        || text.matches('?').count() > 1
        || (text.contains('[') && text.contains(']'))
    {
        return Err(GlobError::TooComplex);
    }
    if text.contains('[') {
        return Err(GlobError::Malformed);
    }
    if !text.contains(['*', '?']) {
        return Ok(pattern
            .symlink_metadata()
            .map(|_| pattern.to_owned())
            .into_iter()
            .collect());
    }
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let part = component.as_os_str().to_string_lossy();
        if matches!(component, Component::Normal(_)) && part.contains(['*', '?']) {
            found = found
                .iter()
                .flat_map(|folder| entries(folder, &part))
                .take(MATCHES_MAX + 1)
                .collect();
        } else {
            for path in &mut found {
                path.push(component);
            }
        }
        if found.len() > MATCHES_MAX {
            return Err(GlobError::TooMany);
        }
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    Ok(found)
}

/// The entries of a folder whose names match, sorted; none if it cannot be read.
fn entries(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let pattern: Vec<char> = pattern.chars().collect();
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| {
            let name: Vec<char> = name.to_string_lossy().chars().collect();
            matches(&pattern, &name)
        })
        .collect();
    names.sort();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Whether a name matches. With at most one `*` this is a prefix and a suffix.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let same = |pattern: &[char], name: &[char]| {
        pattern.len() == name.len()
            && pattern
                .iter()
                .zip(name)
                .all(|(&want, &have)| want == '?' || want == have)
    };
    match pattern.iter().position(|&c| c == '*') {
        None => same(pattern, name),
        Some(star) => {
            let (head, tail) = (&pattern[..star], &pattern[star + 1..]);
            name.len() >= head.len() + tail.len()
                && same(head, &name[..head.len()])
                && same(tail, &name[name.len() - tail.len()..])
        }
    }
}

/// An absolute path without `.`, `..` and doubled separators, worked out on the text alone.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_and_a_question_mark_match_within_a_name() {
        let matches = |pattern: &str, name: &str| {
            let pattern: Vec<char> = pattern.chars().collect();
            matches(&pattern, &name.chars().collect::<Vec<_>>())
        };
        assert!(matches("*.server", "a.server"));
        assert!(matches("*", ".hidden"));
        assert!(matches("a?c*", "abcdef"));
        assert!(matches("ab*ba", "abba"));
        assert!(!matches("ab*ba", "aba"));
        assert!(!matches("a?c", "ac"));
        assert!(!matches("*.server", "a.override"));
    }

    #[test]
    fn matches_come_sorted_and_a_plain_path_matches_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.conf", "a.conf", "c.other"] {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        let names = |pattern: &str| {
            glob(&folder.path().join(pattern)).map(|paths| {
                paths
                    .iter()
                    .map(|path| path.file_name().expect("a name").to_os_string())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(names("*.conf"), Ok(vec!["a.conf".into(), "b.conf".into()]));
        assert_eq!(names("c.other"), Ok(vec!["c.other".into()]));
        assert_eq!(names("?.o*"), Ok(vec!["c.other".into()]));
        assert_eq!(names("none"), Ok(vec![]));
        assert_eq!(names("none/*"), Ok(vec![]));
        assert_eq!(names("*/x"), Ok(vec![]));
        assert_eq!(names("**"), Err(GlobError::TooComplex));
        assert_eq!(names("[ab].conf"), Err(GlobError::TooComplex));
        assert_eq!(names("[ab.conf"), Err(GlobError::Malformed));
    }

    #[test]
    fn a_path_is_cleaned_on_its_text() {
        assert_eq!(clean(Path::new("/a/./b//../c")), Path::new("/a/c"));
        assert_eq!(clean(Path::new("/../x")), Path::new("/x"));
    }
}
