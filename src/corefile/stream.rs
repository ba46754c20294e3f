//! The words of a Corefile in the order they count, imports spliced in.
//!
//! An import is a frame on top of the text that asks for it:
//!
//! ```text
//! frames:   Corefile  >  (common)  >  /etc/coredns/custom/a.server   <- words come from here
//! ```
//!
//! A frame stays until a word below it is wanted, so the frames name everything that the next word came through: an
//! import of something already in there is a cycle.

use std::rc::Rc;

use crate::corefile::diagnostic::Span;
use crate::corefile::lexer::Token;

/// What a frame's words are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A file, by its index in the sources.
    File(u32),
    /// A snippet, by name.
    Snippet(String),
}

struct Frame {
    tokens: Rc<[Token]>,
    at: usize,
    origin: Origin,
}

pub(super) struct Stream {
    frames: Vec<Frame>,
    /// The word read last, and the line it ends on.
    last: Option<(Span, u32)>,
    words_left: usize,
}

impl Stream {
    /// Starts with the words of the Corefile; ends after `words_max` words.
    pub(super) fn new(tokens: Rc<[Token]>, words_max: usize) -> Self {
        let mut stream = Self {
            frames: Vec::new(),
            last: None,
            words_left: words_max,
        };
        stream.push(tokens, Origin::File(0));
        stream
    }

    /// Puts words in front of those that are left.
    pub(super) fn push(&mut self, tokens: Rc<[Token]>, origin: Origin) {
        self.frames.push(Frame {
            tokens,
            at: 0,
            origin,
        });
    }

    /// Whether the next word comes through this. A frame that nothing was read from yet waits beside the others: the
    /// second file of a glob, say.
    pub(super) fn is_within(&self, origin: &Origin) -> bool {
        self.frames
            .iter()
            .any(|frame| frame.at > 0 && frame.origin == *origin)
    }

    /// The next word, left where it is.
    pub(super) fn peek(&mut self) -> Option<&Token> {
        while self.frames.last().is_some_and(Frame::is_done) {
            self.frames.pop();
        }
        if self.words_left == 0 {
            return None;
        }
        self.frames.last().map(|frame| &frame.tokens[frame.at])
    }

    /// Whether the next word is this one.
    pub(super) fn next_is(&mut self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.text == text)
    }

    /// Whether the next word starts a line. What was imported starts a line and ends one.
    pub(super) fn next_starts_line(&mut self) -> bool {
        let last = self.last;
        let Some(token) = self.peek() else {
            return true;
        };
        let follows = is_on_line(token, last);
        let fresh = self.frames.last().is_some_and(|frame| frame.at == 0);
        fresh || !follows
    }

    /// Takes the next word.
    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.peek()?.clone();
        Some(self.take(token))
    }

    /// Takes the next word if it stands on the line of the one read last. Never leaves the frame.
    pub(super) fn next_on_line(&mut self) -> Option<Token> {
        let frame = self.frames.last()?;
        let token = frame.tokens.get(frame.at)?;
        if self.words_left == 0 || !is_on_line(token, self.last) {
            return None;
        }
        let token = token.clone();
        Some(self.take(token))
    }

    fn take(&mut self, token: Token) -> Token {
        let frame = self
            .frames
            .last_mut()
            .expect("the word was just seen in the top frame");
        frame.at += 1;
        self.last = Some((token.span, token.line_end));
        self.words_left -= 1;
        token
    }

    /// Where the word read last stands.
    pub(super) fn last_span(&self) -> Option<Span> {
        self.last.map(|(span, _)| span)
    }

    /// Whether reading ended because there were too many words.
    pub(super) fn has_overflowed(&self) -> bool {
        self.words_left == 0 && self.frames.iter().any(|frame| !frame.is_done())
    }
}

impl Frame {
    fn is_done(&self) -> bool {
        self.at == self.tokens.len()
    }
}

/// Whether a word stands on the line that the one before it ends on.
fn is_on_line(token: &Token, before: Option<(Span, u32)>) -> bool {
    before.is_some_and(|(span, line)| span.source == token.span.source && line == token.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::lexer::lex;

    fn tokens(text: &str, source: u32) -> Rc<[Token]> {
        lex(text, source).0.into()
    }

    #[test]
    fn a_frame_counts_as_passed_through_until_a_word_below_it_is_wanted() {
        let a = Origin::Snippet("a".into());
        let mut stream = Stream::new(tokens("x\ny", 0), 9);
        stream.next().expect("x");
        stream.push(tokens("one", 0), a.clone());
        assert!(!stream.is_within(&a), "nothing was read from it yet");
        stream.next().expect("one");
        assert!(stream.is_within(&a), "its last word may be an import");
        assert!(stream.next_is("y"));
        assert!(!stream.is_within(&a));
    }

    #[test]
    fn what_is_imported_starts_a_line_and_ends_one() {
        let mut stream = Stream::new(tokens("import a\nz", 0), 9);
        stream.next().expect("import");
        assert_eq!(stream.next_on_line().expect("its argument").text, "a");
        assert!(stream.next_on_line().is_none());
        stream.push(tokens("b c", 1), Origin::File(1));
        assert!(stream.next_starts_line());
        stream.next().expect("b");
        assert!(!stream.next_starts_line());
        stream.next().expect("c");
        assert!(stream.next_starts_line());
    }

    #[test]
    fn too_many_words_end_the_stream() {
        let mut stream = Stream::new(tokens("a b c", 0), 2);
        let mut count = 0;
        while stream.next().is_some() {
            count += 1;
        }
        assert_eq!((count, stream.has_overflowed()), (2, true));
    }
}
