//! What is wrong with a Corefile, and where.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Some octets of some source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Index into [`Sources`].
    pub source: u32,
    /// First octet.
    pub start: usize,
    /// One past the last octet.
    pub end: usize,
}

/// One text that was read: the Corefile itself, or an imported file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As it is shown: the path given by the user, or the absolute path of an import.
    pub path: PathBuf,
    /// Its text; invalid UTF-8 is replaced.
    pub text: Arc<str>,
}

/// Every text that was read, the Corefile first.
pub type Sources = Vec<Source>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is refused.
    Warning,
    /// Right, but this version does not do it yet: `check` names it, start refuses it.
    NotBuilt,
    /// Wrong.
    Error,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What, in one line: lower case, no full stop, values in back quotes.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What was expected here; may be empty.
    pub label: String,
    /// Another place that has to do with it, and what that is: "first defined here".
    pub related: Option<Box<(Span, String)>>,
    /// What to write instead, if we are sure.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Something wrong.
    pub fn error(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            label: label.into(),
            related: None,
            help: None,
        }
    }

    /// Something worth knowing.
    pub fn warning(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message, label)
        }
    }

    /// Something right that this version does not do yet. `what` names it: "`forward` option `tls`".
    pub fn not_built(span: Span, what: &str) -> Self {
        let message = format!("{what} is not built yet");
        Self {
            severity: Severity::NotBuilt,
            ..Self::error(span, message, "this version cannot do this")
        }
    }

    /// Adds another place that has to do with it.
    #[must_use]
    pub fn with_related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some(Box::new((span, label.into())));
        self
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The most faults kept of each severity; what comes later is only counted.
const FAULTS_MAX: usize = 1000;

/// All faults found so far, each once: a snippet that is imported twice does not double its faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Diagnostic>,
    seen: HashSet<(Span, String)>,
    counts: [usize; 3],
    errors: usize,
}

impl Faults {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        let seen = (diagnostic.span, diagnostic.message.clone());
        if self.seen.contains(&seen) {
            return;
        }
        let count = &mut self.counts[diagnostic.severity as usize];
        *count += 1;
        if *count <= FAULTS_MAX {
            self.seen.insert(seen);
            self.list.push(diagnostic);
        }
    }

    /// Keeps the value, or adds the fault.
    pub fn note<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.push(diagnostic)).ok()
    }

    /// All of them in the order they were found, at most 1000 of each severity.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// All of them in the order of the text.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<_> = self.list.iter().collect();
        sorted.sort_by_key(|diagnostic| (diagnostic.span.source, diagnostic.span.start));
        sorted
    }

    /// How many there are of this severity, those included that were not kept.
    pub fn count(&self, severity: Severity) -> usize {
        self.counts[severity as usize]
    }

    /// How many were not kept.
    pub fn left_out(&self) -> usize {
        self.counts.iter().sum::<usize>() - self.list.len()
    }

    /// The worst of them.
    pub fn worst(&self) -> Option<Severity> {
        [Severity::Error, Severity::NotBuilt, Severity::Warning]
            .into_iter()
            .find(|&severity| self.count(severity) > 0)
    }

    /// How many errors were added, those found twice counted twice: a parser that finds more at its end than at its
    /// start has nothing to give back.
    pub fn error_count(&self) -> usize {
        self.errors
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: usize) -> Span {
        Span {
            source: 0,
            start,
            end: start + 1,
        }
    }

    #[test]
    fn a_fault_found_twice_is_kept_once() {
        let mut faults = Faults::default();
        for start in [7, 3, 7] {
            faults.push(Diagnostic::warning(at(start), "odd", ""));
        }
        let starts: Vec<_> = faults
            .sorted()
            .iter()
            .map(|fault| fault.span.start)
            .collect();
        assert_eq!(starts, [3, 7]);
        assert_eq!(faults.worst(), Some(Severity::Warning));
    }

    #[test]
    fn an_error_found_twice_still_stops_the_parser_that_finds_it_again() {
        let mut faults = Faults::default();
        for count in 1..=2 {
            faults.push(Diagnostic::error(at(0), "wrong", ""));
            assert_eq!(faults.error_count(), count);
        }
        assert_eq!(faults.count(Severity::Error), 1);
    }

    #[test]
    fn faults_beyond_the_limit_are_counted_and_an_error_still_counts_as_one() {
        let mut faults = Faults::default();
        for start in 0..=FAULTS_MAX {
            faults.push(Diagnostic::warning(at(start), "odd", ""));
        }
        faults.push(Diagnostic::error(at(0), "wrong", ""));
        assert_eq!(faults.count(Severity::Warning), FAULTS_MAX + 1);
        assert_eq!(faults.left_out(), 1);
        assert_eq!(faults.worst(), Some(Severity::Error));
    }
}
