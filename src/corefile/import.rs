//! What `import` brings in: snippets, files, files by pattern.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::corefile::args::nearest;
use crate::corefile::diagnostic::{Diagnostic, Faults, Source, Sources, Span};
use crate::corefile::glob::{self, GlobError};
use crate::corefile::lexer::{Token, lex};
use crate::corefile::stream::{Origin, Stream};
use crate::corefile::text;
use crate::corefile::tree::Word;

/// The most imports of snippets.
const SNIPPET_IMPORTS_MAX: usize = 10_000;

/// The most imports of files.
const FILE_IMPORTS_MAX: usize = 100_000;

/// The most octets of all texts together.
const TEXT_MAX: usize = 64 << 20;

/// Everything that can be imported, and everything that was read.
pub(super) struct Importer {
    /// Texts in the order they were read.
    pub(super) sources: Sources,
    files: HashMap<PathBuf, (u32, Rc<[Token]>)>,
    snippets: HashMap<String, Snippet>,
    /// Imports that found nothing, with what they looked for: a snippet of that name may come too late.
    missing: Vec<(Diagnostic, String)>,
    text_length: usize,
    snippet_imports: usize,
    file_imports: usize,
}

struct Snippet {
    tokens: Rc<[Token]>,
    name: Span,
}

impl Importer {
    /// Reads the Corefile's own text.
    pub(super) fn new(path: &Path, octets: &[u8], faults: &mut Faults) -> (Self, Rc<[Token]>) {
        let mut this = Self {
            sources: Vec::new(),
            files: HashMap::new(),
            snippets: HashMap::new(),
            missing: Vec::new(),
            text_length: 0,
            snippet_imports: 0,
            file_imports: 0,
        };
        let (source, tokens) = this.add(path, octets, faults);
        if let Some(path) = absolute(path) {
            this.files.insert(path, (source, tokens.clone()));
        }
        (this, tokens)
    }

    fn add(&mut self, path: &Path, octets: &[u8], faults: &mut Faults) -> (u32, Rc<[Token]>) {
        let source =
            u32::try_from(self.sources.len()).expect("imports are limited well below this");
        let text = text::decode(octets, source, faults);
        let (tokens, unclosed) = lex(&text, source);
        if let Some(span) = unclosed {
            faults.push(Diagnostic::error(
                span,
                "a quote is not closed",
                "expected another `\"` after this",
            ));
        }
        self.text_length += text.len();
        self.sources.push(Source {
            path: path.to_owned(),
            text: text.into(),
        });
        (source, tokens.into())
    }

    /// Keeps a snippet.
    pub(super) fn define(
        &mut self,
        name: &str,
        word: &Word,
        tokens: Vec<Token>,
    ) -> Result<(), Diagnostic> {
        if let Some(first) = self.snippets.get(name) {
            return Err(Diagnostic::error(
                word.span,
                format!("snippet `{name}` is defined twice"),
                "expected another name",
            )
            .with_related(first.name, "first defined here"));
        }
        let snippet = Snippet {
            tokens: tokens.into(),
            name: word.span,
        };
        self.snippets.insert(name.to_owned(), snippet);
        Ok(())
    }

    /// Puts what `pattern` names in front of the words of `stream`.
    pub(super) fn import(
        &mut self,
        pattern: &Word,
        stream: &mut Stream,
        faults: &mut Faults,
    ) -> Result<(), Diagnostic> {
        if pattern.text.is_empty() {
            return Err(Diagnostic::error(
                pattern.span,
                "`import` of nothing",
                "expected the name of a snippet, a file, or a pattern such as `custom/*.conf`",
            ));
        }
        if let Some(snippet) = self.snippets.get(&pattern.text) {
            self.snippet_imports += 1;
            let origin = Origin::Snippet(pattern.text.clone());
            if stream.is_within(&origin) {
                return Err(cycle(pattern, "snippet"));
            }
            check_limit(
                self.snippet_imports,
                SNIPPET_IMPORTS_MAX,
                "snippets",
                pattern,
            )?;
            stream.push(snippet.tokens.clone(), origin);
            return Ok(());
        }
        self.file_imports += 1;
        check_limit(self.file_imports, FILE_IMPORTS_MAX, "files", pattern)?;
        let mut files = Vec::new();
        for path in self.find(pattern, faults)? {
            let (source, tokens) = self.file(&path, pattern, faults)?;
            if stream.is_within(&Origin::File(source)) {
                return Err(cycle(pattern, "file"));
            }
            files.push((source, tokens));
        }
        for (source, tokens) in files.into_iter().rev() {
            stream.push(tokens, Origin::File(source));
        }
        Ok(())
    }

    /// The files that a pattern names. Relative ones stand beside the file that asks for them.
    fn find(&mut self, pattern: &Word, faults: &mut Faults) -> Result<Vec<PathBuf>, Diagnostic> {
        let index = usize::try_from(pattern.span.source).unwrap_or_default();
        let asking = &self.sources[index].path;
        let text = &pattern.text;
        let wrong = |label: &str| {
            Diagnostic::error(pattern.span, format!("`{text}` cannot be imported"), label)
        };
        let Some(folder) = absolute(asking).and_then(|path| Some(path.parent()?.to_owned())) else {
            return Err(wrong("the working directory is gone"));
        };
        let full = glob::clean(&folder.join(text));
        let found = glob::glob(&full).map_err(|error| {
            wrong(match error {
                GlobError::TooComplex => {
                    "expected at most one `*`, at most one `?` and no `[...]` in the whole path"
                }
                GlobError::Malformed => "expected no `[`",
                GlobError::TooMany => "it matches too many files",
            })
            .with_help(format!("the whole path is `{}`", full.display()))
        })?;
        if !found.is_empty() {
            return Ok(found);
        }
        if glob::is_pattern(&full.to_string_lossy()) {
            // A folder for additions that nobody has made yet is the usual reason: CoreDNS only logs this.
            faults.push(Diagnostic::warning(
                pattern.span,
                format!("no files match `{text}`"),
                "nothing is imported here",
            ));
            return Ok(found);
        }
        let missing = Diagnostic::error(
            pattern.span,
            format!("there is no snippet and no file `{text}`"),
            "expected a snippet defined above, or a file",
        );
        self.missing.push((missing, text.clone()));
        Ok(found)
    }

    /// The words of a file; read once, however often it is imported.
    fn file(
        &mut self,
        path: &Path,
        pattern: &Word,
        faults: &mut Faults,
    ) -> Result<(u32, Rc<[Token]>), Diagnostic> {
        if let Some(known) = self.files.get(path) {
            return Ok(known.clone());
        }
        let wrong = |why: String| {
            Diagnostic::error(
                pattern.span,
                format!("`{}` cannot be imported", path.display()),
                why,
            )
        };
        let octets = text::read_regular(path).map_err(|error| wrong(error.to_string()))?;
        if self.text_length + octets.len() > TEXT_MAX {
            return Err(wrong(format!(
                "expected at most {TEXT_MAX} octets in all files together"
            )));
        }
        let file = self.add(path, &octets, faults);
        self.files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    /// Reports the imports that found nothing, now that all snippets are known.
    pub(super) fn finish(self, faults: &mut Faults) -> Sources {
        for (diagnostic, name) in self.missing {
            let diagnostic = if let Some(snippet) = self.snippets.get(&name) {
                diagnostic
                    .with_related(snippet.name, "defined here, below its use")
                    .with_help("move the snippet above its first use")
            } else if let Some(near) = nearest(&name, self.snippets.keys().map(String::as_str)) {
                diagnostic.with_help(format!("did you mean `{near}`?"))
            } else {
                diagnostic
            };
            faults.push(diagnostic);
        }
        self.sources
    }
}

fn cycle(pattern: &Word, what: &str) -> Diagnostic {
    Diagnostic::error(
        pattern.span,
        format!("{what} `{}` imports itself", pattern.text),
        "this import leads back to itself",
    )
}

fn check_limit(count: usize, limit: usize, what: &str, pattern: &Word) -> Result<(), Diagnostic> {
    if count <= limit {
        return Ok(());
    }
    Err(Diagnostic::error(
        pattern.span,
        format!("more than {limit} imports of {what}"),
        "this one is too many",
    ))
}

fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path)
        .ok()
        .map(|path| glob::clean(&path))
}
