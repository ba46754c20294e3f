//! Cuts text into words, each with its place.
//!
//! The rules are CoreDNS', odd ones included, because Corefiles in use depend on them:
//!
//! ```text
//! forward . "tls://9.9.9.9" 1.1.1.1#old 8.8.8.8   # a comment to the end of the line
//! ^^^^^^^ ^ ^^^^^^^^^^^^^^^ ^^^^^^^     ^^^^^^^   a `#` within a word hides only the rest of that word
//! ```
//!
//! A carriage return separates nothing: it vanishes, even from the middle of a word.

use nom::branch::alt;
use nom::bytes::complete::{is_not, tag, take_till, take_while1};
use nom::character::complete::{anychar, char};
use nom::combinator::{opt, recognize, value};
use nom::multi::{fold_many0, many0_count};
use nom::sequence::{pair, preceded};
use nom::{IResult, Parser};

use crate::corefile::diagnostic::Span;

/// One word as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its text without quotes; environment variables are still to be expanded.
    pub text: String,
    /// Whether it stood in quotes.
    pub quoted: bool,
    /// Where, quotes included.
    pub span: Span,
    /// The line it starts on, from 1.
    pub line: u32,
    /// The line it ends on; a quoted word may hold line breaks.
    pub line_end: u32,
}

/// The most words of a configuration, imports counted each time: what snippets that import others twice can do, and what
/// a file of a megabyte of single letters can cost.
pub const WORDS_MAX: usize = 2_000_000;

/// All words of a text, and where a quote opens that is never closed. Stops when there are more than [`WORDS_MAX`].
pub fn lex(text: &str, source: u32) -> (Vec<Token>, Option<Span>) {
    let mut tokens = Vec::new();
    let mut unclosed = None;
    let mut line = 1;
    let mut rest = text;
    loop {
        let from = rest;
        if let Ok((after, _)) = blank(rest) {
            rest = after;
        }
        line += line_breaks(&from[..from.len() - rest.len()]);
        if rest.is_empty() || tokens.len() > WORDS_MAX {
            return (tokens, unclosed);
        }
        let start = text.len() - rest.len();
        let quoted = rest.starts_with('"');
        let read = if quoted {
            quoted_word(rest)
        } else {
            bare_word(rest)
        };
        let (after, word) = read.expect("what is no white space and no comment starts a word");
        let end = text.len() - after.len();
        let line_end = line + line_breaks(&text[start..end]);
        let span = Span {
            source,
            start,
            end: start + word.length,
        };
        if !word.closed {
            unclosed = Some(Span {
                end: start + 1,
                ..span
            });
        }
        // An open quote without text is no word.
        if word.closed || !word.text.is_empty() {
            tokens.push(Token {
                text: word.text,
                quoted,
                span,
                line,
                line_end,
            });
        }
        line = line_end;
        rest = after;
    }
}

/// A word, how many octets of source it covers, and whether its quote was closed (true without quotes).
struct Lexeme {
    text: String,
    length: usize,
    closed: bool,
}

/// White space and comments.
fn blank(input: &str) -> IResult<&str, usize> {
    many0_count(alt((
        take_while1(char::is_whitespace),
        recognize(preceded(char('#'), take_till(|c| c == '\n'))),
    )))
    .parse(input)
}

/// A word in quotes. Only `\"` is an escape; any other backslash stands for itself.
fn quoted_word(input: &str) -> IResult<&str, Lexeme> {
    let piece = alt((
        is_not("\\\""),
        value("\"", tag("\\\"")),
        recognize(pair(char('\\'), anychar)),
    ));
    let (rest, text) = preceded(
        char('"'),
        fold_many0(piece, String::new, |mut text, piece: &str| {
            text.push_str(piece);
            text
        }),
    )
    .parse(input)?;
    // What is left is the closing quote, the end of the text, or a lone backslash before the end.
    let (rest, closed) = opt(char('"')).parse(rest)?;
    let rest = if closed.is_some() { rest } else { "" };
    Ok((
        rest,
        Lexeme {
            text,
            length: input.len() - rest.len(),
            closed: closed.is_some(),
        },
    ))
}

/// A word without quotes, and the comment glued to it, which ends at the next white space.
fn bare_word(input: &str) -> IResult<&str, Lexeme> {
    let (rest, raw) =
        take_while1(|c: char| c == '\r' || !(c.is_whitespace() || c == '#')).parse(input)?;
    let (rest, _) = opt(preceded(
        char('#'),
        take_till(|c: char| c != '\r' && c.is_whitespace()),
    ))
    .parse(rest)?;
    let text: String = raw.chars().filter(|&c| c != '\r').collect();
    Ok((
        rest,
        Lexeme {
            text,
            length: raw.trim_end_matches('\r').len(),
            closed: true,
        },
    ))
}

fn line_breaks(text: &str) -> u32 {
    let count = text.bytes().filter(|&octet| octet == b'\n').count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        lex(text, 0).0.into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn any_unicode_white_space_separates_words() {
        assert_eq!(
            words("a\u{a0}b\u{3000}c\td\u{2028}e"),
            ["a", "b", "c", "d", "e"]
        );
    }

    #[test]
    fn a_carriage_return_vanishes_even_within_a_word() {
        assert_eq!(words("a\rb\r\nc\r\n"), ["ab", "c"]);
        assert_eq!(words("\r\r"), Vec::<String>::new());
        let (tokens, _) = lex("ab\r\nc", 0);
        assert_eq!((tokens[0].span.start, tokens[0].span.end), (0, 2));
        assert_eq!(tokens[1].line, 2);
    }

    #[test]
    fn a_comment_within_a_word_ends_at_white_space() {
        assert_eq!(
            words("1.1.1.1#x bogus # all of\nthis"),
            ["1.1.1.1", "bogus", "this"]
        );
        assert_eq!(words("a#b\rc d"), ["a", "d"]);
        assert_eq!(words("# nothing"), Vec::<String>::new());
    }

    #[test]
    fn quotes_count_only_at_the_start_of_a_word() {
        assert_eq!(
            words(r#"a"b" "c d"e "" '"x'"#),
            ["a\"b\"", "c d", "e", "", "'\"x'"]
        );
        assert_eq!(words("\"# no comment\""), ["# no comment"]);
    }

    #[test]
    fn only_a_quote_can_be_escaped() {
        assert_eq!(
            words(r#""a\"b" "\n" "\\" "\\" x"#),
            ["a\"b", "\\n", "\\\\", "\\\\", "x"]
        );
    }

    #[test]
    fn an_open_quote_is_reported_and_ends_with_the_text() {
        let (tokens, unclosed) = lex("log \"a b\nc", 3);
        assert_eq!(tokens[1].text, "a b\nc");
        assert_eq!((tokens[1].line, tokens[1].line_end), (1, 2));
        assert_eq!(
            unclosed,
            Some(Span {
                source: 3,
                start: 4,
                end: 5
            })
        );
        assert_eq!(words("a \""), ["a"]);
        assert_eq!(words("\"x\\"), ["x"]);
    }

    #[test]
    fn a_word_knows_its_lines_and_place() {
        let (tokens, _) = lex("\n  \"x\ny\" z\n\nw", 0);
        let places: Vec<_> = tokens
            .iter()
            .map(|token| (token.line, token.line_end, token.span.start, token.span.end))
            .collect();
        assert_eq!(places, [(2, 3, 3, 8), (3, 3, 9, 10), (5, 5, 12, 13)]);
    }
}
