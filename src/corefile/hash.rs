//! What `reload` compares: a digest of the words that count, computed as CoreDNS computes it, so that both log the same.
//!
//! The digest is SHA-512 over JSON without white space:
//!
//! ```text
//! [{"Keys":[".:53"],"Tokens":{"log":[{"File":"","Line":2,"Text":"log"}]}}]
//! ```
//!
//! Keys stand as written, variables expanded. Tokens are grouped by directive, sorted by its name, the lines of a repeated
//! directive one after the other. `File` is empty for the Corefile and the absolute path of an import. Comments and
//! blanks do not count, unless they move a line.

use std::fmt::Write as _;

use sha2::{Digest, Sha512};

use crate::corefile::diagnostic::Sources;
use crate::corefile::lexer::lex;
use crate::corefile::tree::{Block, Corefile, Directive, Word};

/// The digest in lower-case hexadecimal.
pub fn running_hash(corefile: &Corefile) -> String {
    let json = json(corefile);
    let mut hex = String::with_capacity(128);
    for octet in Sha512::digest(json.as_bytes()) {
        let _ = write!(hex, "{octet:02x}");
    }
    hex
}

/// The text that is digested.
fn json(corefile: &Corefile) -> String {
    // A Go slice without elements that nobody made is `null`.
    if corefile.blocks.is_empty() {
        return "null".into();
    }
    let mut writer = Writer {
        json: String::new(),
        sources: &corefile.sources,
    };
    writer.list('[', ']', &corefile.blocks, Writer::block);
    writer.json
}

struct Writer<'c> {
    json: String,
    sources: &'c Sources,
}

impl<'c> Writer<'c> {
    fn list<T>(&mut self, open: char, close: char, items: &[T], item: fn(&mut Self, &T)) {
        self.json.push(open);
        for (index, value) in items.iter().enumerate() {
            if index > 0 {
                self.json.push(',');
            }
            item(self, value);
        }
        self.json.push(close);
    }

    fn block(&mut self, block: &Block) {
        self.json.push_str("{\"Keys\":");
        self.list('[', ']', &block.keys, |this, key| this.string(&key.text));
        self.json.push_str(",\"Tokens\":");
        let groups: Vec<_> = block.by_name().into_iter().collect();
        self.list('{', '}', &groups, |this, (name, directives)| {
            this.string(name);
            this.json.push_str(":[");
            for directive in directives {
                // The name of a directive, unlike every other word, counts as it was written.
                let written = this.as_written(&directive.name);
                this.token(&directive.name, &written);
                this.rest(directive);
            }
            this.json.push(']');
        });
        self.json.push('}');
    }

    /// Everything of a directive but its name.
    fn rest(&mut self, directive: &Directive) {
        for word in &directive.args {
            self.token(word, &word.text);
        }
        let Some([open, close]) = directive.braces.as_deref() else {
            return;
        };
        self.token(open, &open.text);
        for option in directive.options() {
            self.token(&option.name, &option.name.text);
            self.rest(option);
        }
        self.token(close, &close.text);
    }

    fn token(&mut self, word: &Word, text: &str) {
        // Only a token before this one ends in a brace: a list opens with a bracket.
        if self.json.ends_with('}') {
            self.json.push(',');
        }
        self.json.push_str("{\"File\":");
        let sources = self.sources;
        let index = usize::try_from(word.span.source).unwrap_or_default();
        match sources.get(index) {
            Some(source) if index > 0 => self.string(&source.path.to_string_lossy()),
            _ => self.string(""),
        }
        let _ = write!(self.json, ",\"Line\":{},\"Text\":", word.line);
        self.string(text);
        self.json.push('}');
    }

    fn as_written(&self, word: &Word) -> String {
        usize::try_from(word.span.source)
            .ok()
            .and_then(|index| self.sources.get(index))
            .and_then(|source| source.text.get(word.span.start..word.span.end))
            .and_then(|text| lex(text, 0).0.into_iter().next())
            .map_or_else(|| word.text.clone(), |token| token.text)
    }

    /// A string as Go writes it, which escapes what could end a script element in HTML.
    fn string(&mut self, text: &str) {
        self.json.push('"');
        for c in text.chars() {
            match c {
                '"' => self.json.push_str("\\\""),
                '\\' => self.json.push_str("\\\\"),
                '\n' => self.json.push_str("\\n"),
                '\r' => self.json.push_str("\\r"),
                '\t' => self.json.push_str("\\t"),
                '\u{8}' => self.json.push_str("\\b"),
                '\u{c}' => self.json.push_str("\\f"),
                '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    let _ = write!(self.json, "\\u{:04x}", u32::from(c));
                }
                _ => self.json.push(c),
            }
        }
        self.json.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::parser::{parse_text, parse_with};
    use std::path::Path;

    fn json_of(text: &str) -> String {
        json(&parse_text(text).0)
    }

    #[test]
    fn words_are_grouped_by_directive_with_their_braces() {
        assert_eq!(
            json_of(".:53, a {\n b x {\n  c\n }\n a\n b y\n}"),
            concat!(
                r#"[{"Keys":[".:53","a"],"Tokens":{"a":[{"File":"","Line":5,"Text":"a"}],"#,
                r#""b":[{"File":"","Line":2,"Text":"b"},{"File":"","Line":2,"Text":"x"},"#,
                r#"{"File":"","Line":2,"Text":"{"},{"File":"","Line":3,"Text":"c"},"#,
                r#"{"File":"","Line":4,"Text":"}"},{"File":"","Line":6,"Text":"b"},"#,
                r#"{"File":"","Line":6,"Text":"y"}]}}]"#
            )
        );
        assert_eq!(json_of(""), "null");
        assert_eq!(json_of("a"), r#"[{"Keys":["a"],"Tokens":{}}]"#);
    }

    #[test]
    fn comments_count_only_if_they_move_a_line() {
        let plain = running_hash(&parse_text(". {\n log\n}\n").0);
        assert_eq!(running_hash(&parse_text(". {  # x\n log\n}\n# y").0), plain);
        assert_ne!(running_hash(&parse_text("# x\n. {\n log\n}\n").0), plain);
    }

    #[test]
    fn a_change_in_an_imported_file_counts_and_an_unused_snippet_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let part = folder.path().join("part");
        let hash = |text: &str, imported: &str| {
            std::fs::write(&part, imported).expect("a file");
            let (corefile, faults) =
                parse_with(&folder.path().join("Corefile"), text.as_bytes(), &|_| None);
            assert!(faults.is_empty(), "{faults:?}");
            running_hash(&corefile)
        };
        let text = ". {\nimport part\n}\n";
        assert_ne!(hash(text, "log"), hash(text, "errors"));
        assert_eq!(
            hash(text, "log"),
            hash(". {\nimport part\n}\n(s) {\nx\n}", "log")
        );
    }

    /// The digest is that of CoreDNS 1.14.7, as its log line shows it for the same text and environment.
    #[test]
    fn the_digest_is_that_of_coredns() {
        let text = include_bytes!("../../tests/corefile/digest.corefile");
        let (corefile, _) = parse_with(Path::new("Corefile"), text, &|name| {
            Some(match name {
                "KEY" => "a<b>".to_owned(),
                "DIRECTIVE" => "debug".to_owned(),
                _ => return None,
            })
        });
        assert_eq!(
            running_hash(&corefile),
            "a9d7ea5c89d2d1c6e7c3ed24e902b5eb36f9f450676ab51d580654b7da64e70b3bad08f6e363f4082f1e7a9df2d600361e95736b9fe2e9993027f94334805da1"
        );
    }
}
