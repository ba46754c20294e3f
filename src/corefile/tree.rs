//! The tree: blocks, directives, words. Imports and snippets are spliced in, environment variables expanded.

use std::collections::BTreeMap;

use crate::corefile::diagnostic::{Source, Sources, Span};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corefile {
    /// Server blocks in the order they stand.
    pub blocks: Vec<Block>,
    /// Every text that was read, the Corefile first.
    pub sources: Sources,
    /// The port of plain DNS keys that name none: `-dns.port`.
    pub port: u16,
}

impl Default for Corefile {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            sources: Vec::new(),
            port: 53,
        }
    }
}

impl Corefile {
    /// What runs without a Corefile, or with one that has no server block.
    pub fn builtin() -> Self {
        let (corefile, _) = super::parser::parse_text(". {\nwhoami\nlog\n}\n");
        corefile
    }

    /// A place as `FILE:LINE:COLUMN`, the column in characters from 1.
    pub fn place(&self, span: Span) -> String {
        place(&self.sources, span)
    }
}

/// A place as `FILE:LINE:COLUMN`, the column in characters from 1.
pub fn place(sources: &[Source], span: Span) -> String {
    let Some(source) = usize::try_from(span.source)
        .ok()
        .and_then(|index| sources.get(index))
    else {
        return String::new();
    };
    let before = source.text.get(..span.start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("{}:{line}:{column}", source.path.display())
}

/// One server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its keys as written, at least one.
    pub keys: Vec<Word>,
    /// Its directives in the order they stand.
    pub directives: Vec<Directive>,
}

/// One directive with its arguments, and its lines in braces. An option within the braces has the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The first word of the line.
    pub name: Word,
    /// The other words of the line.
    pub args: Vec<Word>,
    /// The lines in braces; none if there are no braces.
    pub body: Option<Vec<Self>>,
    /// The braces themselves, if there are any.
    pub braces: Option<Box<[Word; 2]>>,
}

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Its text: quotes removed, environment variables expanded.
    pub text: String,
    /// Where it stands, as it was written.
    pub span: Span,
    /// The line it starts on, from 1.
    pub line: u32,
}

impl Block {
    /// Its directives by name, those of one name in the order they stand.
    pub fn by_name(&self) -> BTreeMap<&str, Vec<&Directive>> {
        let mut by_name: BTreeMap<&str, Vec<&Directive>> = BTreeMap::new();
        for directive in &self.directives {
            by_name
                .entry(&directive.name.text)
                .or_default()
                .push(directive);
        }
        by_name
    }
}

impl Directive {
    /// Its lines in braces, none if there are no braces.
    pub fn options(&self) -> &[Self] {
        self.body.as_deref().unwrap_or_default()
    }

    /// From its first to its last word on the line.
    pub fn span(&self) -> Span {
        let last = self.args.last().map_or(self.name.span, |word| word.span);
        if last.source == self.name.span.source && last.end >= self.name.span.start {
            Span {
                end: last.end,
                ..self.name.span
            }
        } else {
            self.name.span
        }
    }
}
