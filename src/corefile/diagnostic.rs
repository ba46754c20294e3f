//! What is wrong with a Corefile, and where.

use std::path::PathBuf;
use std::sync::Arc;

/// Some octets of some source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

    /// Adds what to write instead.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All faults found so far, in the order they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Diagnostic>,
}

impl Faults {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Keeps the value, or adds the fault.
    pub fn note<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|diagnostic| self.push(diagnostic)).ok()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// The worst of them.
    pub fn worst(&self) -> Option<Severity> {
        self.list.iter().map(|diagnostic| diagnostic.severity).max()
    }

    /// How many of them are errors: a parser that finds more at its end than at its start has nothing to give back.
    pub fn error_count(&self) -> usize {
        let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
        self.list.iter().filter(is_error).count()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
