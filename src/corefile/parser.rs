//! Words to a tree.
//!
//! ```text
//! Corefile  =  { import | snippet | block }
//! snippet   =  "(" name ")"  "{" words "}"
//! block     =  keys  "{" directives "}"   |   keys, and directives to the end of the text
//! directive =  name  arguments to the end of the line  [ "{" directives "}" ]
//! ```
//!
//! The reference works on words, not on a tree, and lets some nonsense pass in silence: a `}` too many becomes a zone,
//! a last `}` may be missing. What is harmless is taken as it takes it, with a warning; the rest is an error here.

use std::io;
use std::path::Path;

use crate::corefile::diagnostic::{Diagnostic, Faults, Span};
use crate::corefile::environment::{ExpandError, Lookup, expand};
use crate::corefile::import::Importer;
use crate::corefile::lexer::{Token, WORDS_MAX};
use crate::corefile::stream::Stream;
use crate::corefile::text;
use crate::corefile::tree::{Block, Corefile, Directive, Word};

/// The deepest braces within a server block. The deepest that any plugin reads is two.
const DEPTH_MAX: usize = 64;

/// Reads a Corefile from a file, and what it imports. Only the Corefile itself is an I/O error; everything else that is
/// wrong is a fault.
pub fn load(path: &Path) -> io::Result<(Corefile, Faults)> {
    Ok(parse(path, &text::read(path)?))
}

/// Reads a Corefile from octets. Imports are looked up beside `path`, variables in the environment.
pub fn parse(path: &Path, octets: &[u8]) -> (Corefile, Faults) {
    parse_with(path, octets, &|name| {
        Some(std::env::var_os(name)?.to_string_lossy().into_owned())
    })
}

/// Reads a Corefile from text, as file `Corefile` of the working directory.
pub fn parse_text(text: &str) -> (Corefile, Faults) {
    parse(Path::new("Corefile"), text.as_bytes())
}

/// Reads what stands within the braces of a server block: for those who only want to try some directives.
pub fn parse_directives(text: &str) -> (Vec<Directive>, Faults) {
    let mut faults = Faults::default();
    let (importer, tokens) = Importer::new(Path::new("Corefile"), text.as_bytes(), &mut faults);
    let mut parser = Parser {
        stream: Stream::new(tokens, WORDS_MAX),
        importer,
        incomplete: faults.error_count() > 0,
        faults,
        lookup: &|_| None,
    };
    let (directives, _) = parser.lines(None, 0);
    parser.importer.finish(&mut parser.faults);
    (directives, parser.faults)
}

/// Reads a Corefile from octets, environment variables from `lookup`.
pub fn parse_with(path: &Path, octets: &[u8], lookup: Lookup<'_>) -> (Corefile, Faults) {
    parse_within(WORDS_MAX, path, octets, lookup)
}

fn parse_within(
    words_max: usize,
    path: &Path,
    octets: &[u8],
    lookup: Lookup<'_>,
) -> (Corefile, Faults) {
    let mut faults = Faults::default();
    let (importer, tokens) = Importer::new(path, octets, &mut faults);
    let mut parser = Parser {
        stream: Stream::new(tokens, words_max),
        importer,
        // After an open quote or an encoding that cannot be read, the end of the text is no news.
        incomplete: faults.error_count() > 0,
        faults,
        lookup,
    };
    let mut blocks = Vec::new();
    while parser.stream.peek().is_some() {
        blocks.extend(parser.block());
    }
    let mut faults = parser.faults;
    if parser.stream.has_overflowed() {
        let last = parser.stream.last_span().unwrap_or_default();
        faults.push(Diagnostic::error(
            last,
            format!("the configuration has more than {words_max} words"),
            "reading ends here",
        ));
    }
    let corefile = Corefile {
        blocks,
        sources: parser.importer.finish(&mut faults),
        ..Corefile::default()
    };
    (corefile, faults)
}

struct Parser<'e> {
    stream: Stream,
    importer: Importer,
    faults: Faults,
    lookup: Lookup<'e>,
    /// The text ends early and that has been said.
    incomplete: bool,
}

impl Parser<'_> {
    /// One server block, or a snippet, which is kept for later.
    fn block(&mut self) -> Option<Block> {
        if self.stream.next_is("}") {
            return self.stray_brace();
        }
        let (mut keys, empty) = self.keys();
        if let [key] = keys.as_slice()
            && let Some(name) = key.text.strip_prefix('(')
            && let Some(name) = name.strip_suffix(')')
        {
            self.snippet(key, name);
            return None;
        }
        let open = self.brace("{").or(self.glued_brace(&mut keys));
        let place = keys.first().or(empty.as_ref()).or(open.as_ref())?;
        if keys.is_empty() {
            // CoreDNS drops the whole block, which a variable that is not set can bring about.
            self.faults.push(Diagnostic::error(
                place.span,
                "a server block without a zone",
                "expected a zone such as `.` or `example.org`",
            ));
        }
        let (directives, _) = self.lines(open.as_ref(), 0);
        (!keys.is_empty()).then_some(Block { keys, directives })
    }

    /// A `}` where a zone should stand. The last word of a text may be one: it is taken as the zone `}.`, which nobody
    /// asks for.
    fn stray_brace(&mut self) -> Option<Block> {
        let brace = self.brace("}")?;
        let message = "a `}` too many";
        if self.stream.peek().is_some() {
            self.faults.push(Diagnostic::error(
                brace.span,
                message,
                "no `{` is open here; expected the zone of a server block",
            ));
            return None;
        }
        self.faults.push(
            Diagnostic::warning(
                brace.span,
                message,
                "taken as the zone of an empty server block, as CoreDNS does",
            )
            .with_help("remove it"),
        );
        Some(Block {
            keys: vec![brace],
            directives: Vec::new(),
        })
    }

    /// The brace that is glued to the last key: `.:53{`. CoreDNS reads it as part of the zone.
    fn glued_brace(&mut self, keys: &mut [Word]) -> Option<Word> {
        let key = keys.last_mut()?;
        let text = key
            .text
            .strip_suffix('{')
            .filter(|text| !text.is_empty() && !text.ends_with('{'))?;
        self.faults.push(
            Diagnostic::error(
                key.span,
                format!("`{}` is not a zone", key.text),
                "expected a space before the `{`",
            )
            .with_help(format!("write `{text} {{`")),
        );
        let brace = Word {
            text: "{".into(),
            ..key.clone()
        };
        key.text.pop();
        Some(brace)
    }

    /// The keys of a block: to the end of the line, past it after a comma. The first empty one is told apart.
    fn keys(&mut self) -> (Vec<Word>, Option<Word>) {
        let mut keys = Vec::new();
        let mut empty = None;
        let mut comma: Option<Span> = None;
        let mut any = false;
        loop {
            let starts_line = self.stream.next_starts_line();
            if any && comma.is_none() && starts_line {
                return (keys, empty);
            }
            if self.stream.next_is("{") {
                if let Some(span) = comma {
                    self.faults.push(Diagnostic::error(
                        span,
                        "a comma without a zone after it",
                        "expected another zone after this",
                    ));
                }
                return (keys, empty);
            }
            let Some(token) = self.stream.next() else {
                if let Some(span) = comma {
                    self.faults.push(Diagnostic::error(
                        span,
                        "the text ends after a comma",
                        "expected another zone after this",
                    ));
                }
                return (keys, empty);
            };
            let mut word = self.word(token);
            if word.text == "import" {
                if starts_line {
                    self.import(&word);
                    continue;
                }
                self.faults.push(Diagnostic::error(
                    word.span,
                    "`import` within a line",
                    "expected `import` on a line of its own",
                ));
            }
            any = true;
            if word.text.is_empty() {
                empty.get_or_insert(word);
                continue;
            }
            comma = None;
            if word.text.ends_with(',') {
                word.text.pop();
                comma = Some(word.span);
            }
            keys.push(word);
        }
    }

    /// The body of a snippet: words up to its closing brace, read only where it is imported.
    fn snippet(&mut self, key: &Word, name: &str) {
        let Some(open) = self.brace("{") else {
            self.faults.push(Diagnostic::error(
                key.span,
                format!("snippet `{name}` has no body"),
                "expected `{` after this",
            ));
            return;
        };
        let mut body: Vec<Token> = Vec::new();
        let mut depth = 1;
        loop {
            let starts_line = self.stream.next_starts_line();
            let after_import = body.last().is_some_and(|last| last.text == "import");
            let Some(token) = self.stream.next() else {
                self.missing_brace(&open);
                break;
            };
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                text if after_import && !starts_line && text == name => {
                    self.faults.push(Diagnostic::error(
                        token.span,
                        format!("snippet `{name}` imports itself"),
                        "this import leads back to itself",
                    ));
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
            body.push(token);
        }
        let defined = self.importer.define(name, key, body);
        self.faults.note(defined);
    }

    /// Directives up to the closing brace, or to the end of the text if there is no opening one.
    fn lines(&mut self, open: Option<&Word>, depth: usize) -> (Vec<Directive>, Option<Word>) {
        let mut directives = Vec::new();
        if depth > DEPTH_MAX {
            let close = self.skip_braces(open);
            return (directives, close);
        }
        loop {
            let Some(token) = self.stream.peek() else {
                if let Some(open) = open {
                    self.end_of_text(open, depth);
                }
                return (directives, None);
            };
            match token.text.as_str() {
                "}" => {
                    let close = self.brace("}");
                    if open.is_none()
                        && let Some(close) = &close
                    {
                        self.faults.push(Diagnostic::warning(
                            close.span,
                            "a `}` without a `{`",
                            "ends the server block, as in CoreDNS",
                        ));
                    }
                    return (directives, close);
                }
                "import" => {
                    let token = self.stream.next().expect("just seen");
                    let word = self.word(token);
                    self.import(&word);
                }
                "{" => {
                    let brace = self.brace("{");
                    if let Some(brace) = &brace {
                        self.faults.push(Diagnostic::error(
                            brace.span,
                            "a `{` without a directive",
                            "expected the name of a directive",
                        ));
                    }
                    self.lines(brace.as_ref(), depth + 1);
                }
                _ => directives.push(self.directive(depth)),
            }
        }
    }

    /// A directive, or an option within its braces: both are lines that may open a block.
    fn directive(&mut self, depth: usize) -> Directive {
        let token = self.stream.next().expect("the caller has seen a word");
        let name = self.word(token);
        let mut args = Vec::new();
        while !self.stream.next_starts_line() && !self.stream.next_is("{") {
            if self.stream.next_is("}") {
                self.brace_within_line("`}` must stand on a line of its own");
                break;
            }
            let Some(token) = self.stream.next() else {
                break;
            };
            args.push(self.word(token));
        }
        let mut directive = Directive {
            name,
            args,
            body: None,
            braces: None,
        };
        if self.stream.next_is("{") {
            self.braces(&mut directive, depth);
        }
        directive
    }

    fn braces(&mut self, directive: &mut Directive, depth: usize) {
        let starts_line = self.stream.next_starts_line();
        let Some(open) = self.brace("{") else {
            return;
        };
        if starts_line {
            // CoreDNS takes the braces for the directive's and then hands their lines to it as repeats of itself.
            let name = &directive.name.text;
            self.faults.push(Diagnostic::error(
                open.span,
                format!("the `{{` of `{name}` stands on another line"),
                format!("expected `{{` at the end of the line of `{name}`"),
            ));
        }
        let (body, close) = self.lines(Some(&open), depth + 1);
        directive.body = Some(body);
        let close = close.unwrap_or_else(|| open.clone());
        directive.braces = Some(Box::new([open, close]));
        if self.stream.next_starts_line() {
            return;
        }
        if self.stream.next_is("}") {
            self.brace_within_line("two `}` on one line");
            return;
        }
        let mut first = true;
        while !self.stream.next_starts_line() && !self.stream.next_is("}") {
            let Some(token) = self.stream.next() else {
                return;
            };
            if first {
                self.faults.push(Diagnostic::error(
                    token.span,
                    format!("`{}` after a `}}`", token.text),
                    "expected the end of the line",
                ));
            }
            first = false;
        }
    }

    /// Reports the next word, a `}`, and leaves it: it closes what is open all the same.
    fn brace_within_line(&mut self, message: &str) {
        if let Some(token) = self.stream.peek() {
            let span = token.span;
            self.faults.push(Diagnostic::error(
                span,
                message,
                "expected the end of the line before this",
            ));
        }
    }

    /// Reads past braces that are nested too deeply.
    fn skip_braces(&mut self, open: Option<&Word>) -> Option<Word> {
        let open = open?;
        self.faults.push(Diagnostic::error(
            open.span,
            "braces are nested too deeply",
            format!("expected at most {DEPTH_MAX} levels"),
        ));
        let mut depth = 1;
        while let Some(token) = self.stream.next() {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(self.word(token));
            }
        }
        self.missing_brace(open);
        None
    }

    /// The text ends within braces. CoreDNS looks only whether the last word is a `}`, so a server block may lack its
    /// own after that of a directive.
    fn end_of_text(&mut self, open: &Word, depth: usize) {
        let last = self.stream.last_span().unwrap_or(open.span);
        let sources = &self.importer.sources;
        let ends_in_brace = usize::try_from(last.source)
            .ok()
            .and_then(|index| sources.get(index)?.text.get(last.start..last.end))
            == Some("}");
        if depth > 0 || !ends_in_brace {
            self.missing_brace(open);
        } else if !self.incomplete {
            self.incomplete = true;
            self.faults.push(
                Diagnostic::warning(
                    last,
                    "a `}` is missing at the end",
                    "the server block ends here, as in CoreDNS",
                )
                .with_related(open.span, "this one is not closed"),
            );
        }
    }

    fn missing_brace(&mut self, open: &Word) {
        if self.incomplete || self.stream.has_overflowed() {
            return;
        }
        self.incomplete = true;
        let last = self.stream.last_span().unwrap_or(open.span);
        self.faults.push(
            Diagnostic::error(
                last,
                "a `}` is missing at the end",
                "expected `}` after this",
            )
            .with_related(open.span, "this one is not closed"),
        );
    }

    /// Carries out an import, the word itself just read.
    fn import(&mut self, import: &Word) {
        let Some(token) = self.stream.next_on_line() else {
            self.faults.push(Diagnostic::error(
                import.span,
                "`import` needs the name of a snippet or a file",
                "expected a snippet, a file, or a pattern such as `custom/*.conf` after this",
            ));
            return;
        };
        let pattern = self.word(token);
        let mut extra = None;
        while let Some(token) = self.stream.next_on_line() {
            extra.get_or_insert(token);
        }
        if let Some(token) = extra {
            self.faults.push(Diagnostic::error(
                token.span,
                "`import` takes one argument only",
                "expected the end of the line",
            ));
            return;
        }
        let imported = self
            .importer
            .import(&pattern, &mut self.stream, &mut self.faults);
        self.faults.note(imported);
    }

    /// The next word if it is this brace.
    fn brace(&mut self, brace: &str) -> Option<Word> {
        if !self.stream.next_is(brace) {
            return None;
        }
        let token = self.stream.next()?;
        if token.quoted {
            self.faults.push(Diagnostic::warning(
                token.span,
                format!("`{brace}` in quotes is a brace all the same"),
                "read as a brace, as CoreDNS does",
            ));
        }
        Some(self.word(token))
    }

    fn unset(&mut self, name: &str, span: Span) {
        let warning = Diagnostic::warning(
            span,
            format!("environment variable `{name}` is not set"),
            "counts as empty",
        );
        self.faults.push(if name.contains(':') {
            warning.with_help(format!(
                "there are no default values: all of `{name}` is the name of the variable"
            ))
        } else {
            warning
        });
    }

    /// A word with its environment variables expanded.
    fn word(&mut self, token: Token) -> Word {
        let Token {
            text, span, line, ..
        } = token;
        if !(text.contains("{$") || text.contains("{%")) {
            return Word { text, span, line };
        }
        match expand(&text, self.lookup) {
            Ok(expanded) => {
                for name in &expanded.unset {
                    self.unset(name, span);
                }
                let text = expanded.text;
                Word { text, span, line }
            }
            Err(error) => {
                let (name, label) = match &error {
                    ExpandError::Endless(name) => (name, "its value refers to itself"),
                    ExpandError::TooLong(name) => (name, "the word becomes too long"),
                };
                self.faults.push(Diagnostic::error(
                    span,
                    format!("environment variable `{name}` cannot be expanded"),
                    label,
                ));
                Word { text, span, line }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(faults: &Faults) -> Vec<&str> {
        faults.iter().map(|fault| fault.message.as_str()).collect()
    }

    #[test]
    fn braces_nested_too_deeply_are_skipped_as_a_whole() {
        let (open, close) = ("x {\n".repeat(10_000), "}\n".repeat(10_000));
        let (corefile, faults) = parse_text(&format!(". {{\n{open}{close}whoami\n}}"));
        assert_eq!(messages(&faults), ["braces are nested too deeply"]);
        assert_eq!(corefile.blocks[0].directives.len(), 2);
        let (_, faults) = parse_text(&format!(". {{\n{open}"));
        assert_eq!(faults.error_count(), 2);
    }

    #[test]
    fn too_many_words_are_one_fault() {
        let text = ". {\nx y\n}\n".repeat(2);
        let (corefile, faults) = parse_within(8, Path::new("Corefile"), text.as_bytes(), &|_| None);
        assert_eq!(
            messages(&faults),
            ["the configuration has more than 8 words"]
        );
        assert_eq!(corefile.blocks.len(), 2);
        let (_, faults) = parse_within(10, Path::new("Corefile"), text.as_bytes(), &|_| None);
        assert!(faults.is_empty(), "{faults:?}");
    }

    #[test]
    fn snippets_that_double_each_other_end_at_the_limit() {
        let mut text = "(s0) {\nx\n}\n".to_owned();
        for n in 1..40 {
            let before = n - 1;
            text += &format!("(s{n}) {{\nimport s{before}\nimport s{before}\n}}\n");
        }
        let (_, faults) = parse_text(&format!("{text}. {{\nimport s39\n}}"));
        assert_eq!(messages(&faults)[0], "more than 10000 imports of snippets");
    }

    #[test]
    fn a_snippet_keeps_its_name_among_those_it_imports() {
        let (corefile, faults) =
            parse_text("(a) {\nx\n}\n(b) {\nimport a\nimport a\n}\n. {\nimport b\nimport a\n}");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(corefile.blocks[0].directives.len(), 3);
    }

    #[test]
    fn the_builtin_configuration_is_sound() {
        let corefile = Corefile::builtin();
        let names: Vec<_> = corefile.blocks[0]
            .directives
            .iter()
            .map(|directive| directive.name.text.as_str())
            .collect();
        assert_eq!(names, ["whoami", "log"]);
    }

    #[test]
    fn a_missing_corefile_is_an_error_of_the_system() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(load(&folder.path().join("none")).is_err());
    }

    #[test]
    fn files_are_found_beside_the_file_that_asks_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        write("Corefile", ". {\nimport sub/a\n}\nimport sub/*.server\n");
        write("sub/a", "import b\n");
        write("sub/b", "whoami\n");
        write("sub/2.server", "two {\n}\n");
        write("sub/1.server", "one {\n}\n");
        let (corefile, faults) = load(&folder.path().join("Corefile")).expect("it is there");
        assert!(faults.is_empty(), "{faults:?}");
        let keys: Vec<_> = corefile
            .blocks
            .iter()
            .map(|block| &block.keys[0].text)
            .collect();
        assert_eq!(keys, [".", "one", "two"]);
        assert_eq!(corefile.blocks[0].directives[0].name.text, "whoami");
        // What `reload` has to watch.
        let read: Vec<_> = corefile
            .sources
            .iter()
            .map(|source| {
                source
                    .path
                    .strip_prefix(folder.path())
                    .expect("all are below it")
            })
            .collect();
        let expected = ["Corefile", "sub/a", "sub/b", "sub/1.server", "sub/2.server"];
        assert_eq!(read, expected.map(Path::new));
    }

    #[test]
    fn a_corefile_that_imports_its_own_folder_is_told_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("Corefile");
        std::fs::write(&path, ". {\nimport *\n}\n").expect("a file");
        let (_, faults) = load(&path).expect("it is there");
        assert_eq!(messages(&faults), ["file `*` imports itself"]);
    }
}
