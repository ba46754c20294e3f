//! Typed reading of one directive's words. Every fault gets its place for free, because the words carry theirs.

use std::time::Duration;

use crate::corefile::diagnostic::{Diagnostic, Span};
use crate::corefile::tree::{Directive, Word};

/// What a word can be read as.
pub trait FromWord: Sized {
    /// Reads it; none if it is not one. What was expected is for the caller to say.
    fn from_word(text: &str) -> Option<Self>;
}

impl FromWord for u8 {
    fn from_word(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromWord for u16 {
    fn from_word(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromWord for u32 {
    fn from_word(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromWord for i64 {
    fn from_word(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromWord for f64 {
    fn from_word(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number: &Self| number.is_finite())
    }
}

impl FromWord for std::net::IpAddr {
    fn from_word(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// A duration as Go writes it: `10s`, `1h30m`, `1.5ms`, `0`. May be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    /// Nanoseconds.
    pub nanoseconds: i64,
}

impl GoDuration {
    /// As a duration; none if negative.
    pub fn to_duration(self) -> Option<Duration> {
        u64::try_from(self.nanoseconds)
            .ok()
            .map(Duration::from_nanos)
    }
}

impl From<Duration> for GoDuration {
    /// What does not fit is the longest duration there is, 292 years.
    fn from(duration: Duration) -> Self {
        Self {
            nanoseconds: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

impl std::fmt::Display for GoDuration {
    /// As Go prints it: `1h30m0s`, `2s`, `1.5ms`, `0s`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanoseconds = self.nanoseconds.unsigned_abs();
        if self.nanoseconds < 0 {
            f.write_str("-")?;
        }
        let (unit, name) = match nanoseconds {
            0 => return f.write_str("0s"),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (1_000_000_000, "s"),
        };
        let mut whole = nanoseconds / unit;
        if unit == 1_000_000_000 {
            let (hours, minutes) = (whole / 3600, whole / 60 % 60);
            if hours > 0 {
                write!(f, "{hours}h")?;
            }
            if hours + minutes > 0 {
                write!(f, "{minutes}m")?;
                whole %= 60;
            }
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{:0width$}", nanoseconds % unit);
        let fraction = digits.trim_end_matches('0');
        if fraction.is_empty() {
            write!(f, "{whole}{name}")
        } else {
            write!(f, "{whole}.{fraction}{name}")
        }
    }
}

impl FromWord for GoDuration {
    fn from_word(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Some(Self { nanoseconds: 0 });
        }
        if rest.is_empty() {
            return None;
        }
        let mut total = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let unit_len = rest
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(rest.len());
            total += number
                * match &rest[..unit_len] {
                    "ns" => 1.0,
                    "us" | "µs" | "μs" => 1e3,
                    "ms" => 1e6,
                    "s" => 1e9,
                    "m" => 60e9,
                    "h" => 3600e9,
                    _ => return None,
                };
            rest = &rest[unit_len..];
        }
        #[expect(clippy::cast_precision_loss, reason = "only the bound is compared")]
        if total > i64::MAX as f64 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
        let nanoseconds = total.round() as i64;
        Some(Self {
            nanoseconds: if negative { -nanoseconds } else { nanoseconds },
        })
    }
}

/// The words of one directive, read from the left.
#[derive(Clone, Debug)]
pub struct Args<'d> {
    directive: &'d Directive,
    at: usize,
}

impl<'d> Args<'d> {
    /// Starts behind the directive's name.
    pub fn of(directive: &'d Directive) -> Self {
        Self { directive, at: 0 }
    }

    /// The next word. `expected` says what it should be, with an example: "an upstream address such as 192.0.2.1:53".
    pub fn take(&mut self, expected: &str) -> Result<&'d Word, Diagnostic> {
        let Some(word) = self.directive.args.get(self.at) else {
            let name = &self.directive.name.text;
            return Err(Diagnostic::error(
                self.directive.span(),
                format!("`{name}` needs {expected}"),
                format!("expected {expected} after this"),
            ));
        };
        self.at += 1;
        Ok(word)
    }

    /// The next word, read as `T`.
    pub fn take_as<T: FromWord>(&mut self, expected: &str) -> Result<T, Diagnostic> {
        let word = self.take(expected)?;
        read_as(word, expected)
    }

    /// The next word if it is a `T`; else it stays.
    pub fn take_if<T: FromWord>(&mut self) -> Option<T> {
        let value = T::from_word(&self.directive.args.get(self.at)?.text)?;
        self.at += 1;
        Some(value)
    }

    /// The next word without taking it.
    pub fn peek(&self) -> Option<&'d Word> {
        self.directive.args.get(self.at)
    }

    /// All words left.
    pub fn rest(&mut self) -> &'d [Word] {
        let rest = &self.directive.args[self.at..];
        self.at = self.directive.args.len();
        rest
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), Diagnostic> {
        let Some(word) = self.directive.args.get(self.at) else {
            return Ok(());
        };
        let name = &self.directive.name.text;
        Err(Diagnostic::error(
            word.span,
            format!("`{name}` takes no `{}`", word.text),
            if self.at == 0 {
                "expected no argument"
            } else {
                "expected the end of the line"
            },
        ))
    }

    /// The whole line.
    pub fn span(&self) -> Span {
        self.directive.span()
    }
}

/// Reads a word as `T`.
pub fn read_as<T: FromWord>(word: &Word, expected: &str) -> Result<T, Diagnostic> {
    T::from_word(&word.text).ok_or_else(|| {
        Diagnostic::error(
            word.span,
            format!("`{}` is not {expected}", word.text),
            format!("expected {expected}"),
        )
    })
}

/// The fault of an option that the directive does not have, with the nearest one that it has.
pub fn unknown_option<'n>(
    directive: &str,
    option: &Directive,
    known: impl IntoIterator<Item = &'n str>,
) -> Diagnostic {
    let word = &option.name;
    let known: Vec<&str> = known.into_iter().collect();
    let diagnostic = Diagnostic::error(
        word.span,
        format!("`{directive}` has no option `{}`", word.text),
        "unknown option",
    );
    match nearest(&word.text, known.iter().copied()) {
        Some(near) => diagnostic.with_help(format!("did you mean `{near}`?")),
        None if known.is_empty() => diagnostic,
        None => diagnostic.with_help(format!("options of `{directive}`: {}", known.join(", "))),
    }
}

/// The candidate that `word` is most likely a slip of, if one is near enough.
pub fn nearest<'n>(word: &str, candidates: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let folded = word.to_ascii_lowercase();
    let far = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, candidate), candidate))
        .filter(|&(distance, _)| distance <= far)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_printed_as_go_prints_it() {
        for (text, printed) in [
            ("0", "0s"),
            ("90m", "1h30m0s"),
            ("3600s", "1h0m0s"),
            ("61s", "1m1s"),
            ("2s", "2s"),
            ("1500ms", "1.5s"),
            ("1.5ms", "1.5ms"),
            ("10us", "10µs"),
            ("7ns", "7ns"),
            ("-5s", "-5s"),
        ] {
            let duration = GoDuration::from_word(text).expect(text);
            assert_eq!(duration.to_string(), printed);
        }
    }

    #[test]
    fn a_duration_is_read_as_go_reads_it() {
        let nanoseconds = |text| GoDuration::from_word(text).map(|duration| duration.nanoseconds);
        assert_eq!(nanoseconds("1h30m"), Some(5_400_000_000_000));
        assert_eq!(nanoseconds("1.5ms"), Some(1_500_000));
        assert_eq!(nanoseconds("-5s"), Some(-5_000_000_000));
        assert_eq!(nanoseconds("0"), Some(0));
        for wrong in ["10", "", "-", "s", "1 s", "1d", "..s", "1e3s"] {
            assert_eq!(nanoseconds(wrong), None, "{wrong}");
        }
    }
}
