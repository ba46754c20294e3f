//! Names in wire form: labels with their lengths, ending in the root's zero octet, never compressed.
//!
//! [`NameRef`] borrows, [`Name`] owns, [`NameBuf`] is a fixed buffer for the fast path. All three hold valid names by
//! construction: at most 255 octets, labels of 1 to 63 octets (RFC 1035, section 2.3.4). Octets are any octets
//! (RFC 2181, section 11); only the text forms escape them.

use std::borrow::Borrow;
use std::fmt;

/// The most octets a name has in wire form, root included (RFC 1035, section 2.3.4).
pub const NAME_MAX: usize = 255;

/// The most octets a label has.
pub const LABEL_MAX: usize = 63;

/// Why some octets or some text are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// More than 255 octets.
    TooLong,
    /// A label of more than 63 octets.
    LabelTooLong,
    /// Two dots in a row, or a leading dot.
    EmptyLabel,
    /// A backslash escape that is none.
    BadEscape,
    /// No text at all.
    Empty,
    /// Octets end within the name, or a label type other than plain.
    Malformed,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a name has at most 255 octets",
            Self::LabelTooLong => "a label has at most 63 octets",
            Self::EmptyLabel => "a label may not be empty",
            Self::BadEscape => "a backslash takes one character or three decimal digits up to 255",
            Self::Empty => "a name may not be empty",
            Self::Malformed => "not a name in wire form",
        })
    }
}

impl std::error::Error for NameError {}

/// A borrowed name.
#[derive(Clone, Copy)]
pub struct NameRef<'a>(&'a [u8]);

/// The root.
pub const ROOT: NameRef<'static> = NameRef(&[0]);

impl<'a> NameRef<'a> {
    /// Reads an uncompressed name at the start of `octets`; what follows it is not looked at.
    pub fn from_wire(octets: &'a [u8]) -> Result<Self, NameError> {
        let mut at = 0;
        loop {
            let length = usize::from(*octets.get(at).ok_or(NameError::Malformed)?);
            if length > LABEL_MAX {
                return Err(NameError::Malformed);
            }
            at += 1 + length;
            if at > NAME_MAX {
                return Err(NameError::TooLong);
            }
            if length == 0 {
                return Ok(Self(&octets[..at]));
            }
        }
    }

    /// The octets, root included.
    pub fn as_wire(self) -> &'a [u8] {
        self.0
    }

    /// Octets in wire form, at least 1 (the root).
    #[expect(clippy::len_without_is_empty, reason = "a name is never empty")]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether this is the root.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// The labels from the left, without the root.
    pub fn labels(self) -> Labels<'a> {
        Labels(self.0)
    }

    /// Labels, the root not counted.
    pub fn label_count(self) -> usize {
        self.labels().count()
    }

    /// The name without its first label; none above the root.
    pub fn parent(self) -> Option<Self> {
        match self.0[0] {
            0 => None,
            length => Some(Self(&self.0[1 + usize::from(length)..])),
        }
    }

    /// Equality of names: ASCII letters match in either case (RFC 4343).
    pub fn eq_ignore_case(self, other: NameRef<'_>) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }

    /// Whether this name is `zone` or lies below it.
    pub fn is_at_or_below(self, zone: NameRef<'_>) -> bool {
        self.prefix_len(zone).is_some()
    }

    /// Octets of this name that stand left of `zone`, if it is at or below it.
    pub fn prefix_len(self, zone: NameRef<'_>) -> Option<usize> {
        let split = self.0.len().checked_sub(zone.0.len())?;
        if zone.is_root() {
            return Some(split);
        }
        let tail = &self.0[split..];
        // Mostly both are in lower case, and octets compare faster than letters.
        if tail != zone.0 && !tail.eq_ignore_ascii_case(zone.0) {
            return None;
        }
        // The octets match; they are a suffix of labels only if the split is between two labels.
        let mut at = 0;
        while at < split {
            at += 1 + usize::from(self.0[at]);
        }
        (at == split).then_some(split)
    }

    /// An owned copy, spelled as it is.
    pub fn to_name(self) -> Name {
        Name(self.0.into())
    }

    /// An owned copy in lower case.
    pub fn to_lower(self) -> Name {
        Name(self.0.to_ascii_lowercase().into())
    }
}

impl PartialEq for NameRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.eq_ignore_case(*other)
    }
}

impl Eq for NameRef<'_> {}

impl fmt::Display for NameRef<'_> {
    /// Presentation form with the final dot; what is not a printable character is escaped (RFC 1035, section 5.1),
    /// so the text is safe in logs and metric labels.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            match std::str::from_utf8(label) {
                // Nearly every label there is; octet by octet a name costs more than the rest of a log line.
                Ok(text) if label.iter().all(is_plain) => f.write_str(text)?,
                _ => write_escaped(label, f)?,
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

fn is_plain(octet: &u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')
}

fn write_escaped(label: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for &octet in label {
        match octet {
            b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' | b' ' | b'\'' => {
                write!(f, "\\{}", char::from(octet))?
            }
            0x21..=0x7e => write!(f, "{}", char::from(octet))?,
            _ => write!(f, "\\{octet:03}")?,
        }
    }
    Ok(())
}

impl fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The labels of a name from the left, without the root.
#[derive(Clone)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        if length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at(usize::from(length));
        self.0 = rest;
        Some(label)
    }
}

/// An owned name. Equality, order and hash heed letter case: fold with [`Name::to_lower`] before using one as a key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    pub fn root() -> Self {
        ROOT.to_name()
    }

    /// Reads presentation form: `web.example.org`, with or without the final dot, escapes as in RFC 1035, section 5.1.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text == "." {
            return Ok(Self::root());
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut label_start = 0;
        wire.push(0);
        let mut octets = text.bytes();
        while let Some(octet) = octets.next() {
            if octet == b'.' {
                close_label(&mut wire, label_start)?;
                label_start = wire.len();
                wire.push(0);
                continue;
            }
            wire.push(if octet == b'\\' {
                escaped(&mut octets)?
            } else {
                octet
            });
        }
        if wire.len() - label_start > 1 {
            close_label(&mut wire, label_start)?;
            wire.push(0);
        }
        if wire.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(wire.into()))
    }

    /// Borrows it.
    pub fn as_ref(&self) -> NameRef<'_> {
        NameRef(&self.0)
    }

    /// A copy in lower case.
    pub fn to_lower(&self) -> Self {
        self.as_ref().to_lower()
    }
}

fn close_label(wire: &mut [u8], start: usize) -> Result<(), NameError> {
    let length = wire.len() - start - 1;
    if length == 0 {
        return Err(NameError::EmptyLabel);
    }
    wire[start] = u8::try_from(length)
        .ok()
        .filter(|&length| usize::from(length) <= LABEL_MAX)
        .ok_or(NameError::LabelTooLong)?;
    Ok(())
}

fn escaped(octets: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = octets.next().ok_or(NameError::BadEscape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = octets
            .next()
            .filter(u8::is_ascii_digit)
            .ok_or(NameError::BadEscape)?;
        value = value * 10 + u16::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::BadEscape)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// A name in a buffer of fixed size: no allocation, cheap to reuse.
#[derive(Clone)]
pub struct NameBuf {
    length: u8,
    octets: [u8; BUFFER_LEN],
}

/// Room for any name, in whole blocks.
const BUFFER_LEN: usize = NAME_MAX.next_multiple_of(FOLD_BLOCK);

/// Octets whose letter case is folded at a time: a fixed number becomes vector instructions.
const FOLD_BLOCK: usize = 32;

impl NameBuf {
    /// Holds the root.
    pub fn new() -> Self {
        Self {
            length: 1,
            octets: [0; BUFFER_LEN],
        }
    }

    /// Holds `name` in lower case.
    pub fn lower_of(name: NameRef<'_>) -> Self {
        let mut this = Self::new();
        this.set_lower(name);
        this
    }

    /// Holds `name` as it is spelled.
    pub fn copy_of(name: NameRef<'_>) -> Self {
        let mut this = Self::new();
        this.octets[..name.len()].copy_from_slice(name.0);
        this.length = octet_count(name.len());
        this
    }

    /// Takes over `name` in lower case. Length octets are below 64, so folding every octet leaves them alone.
    pub fn set_lower(&mut self, name: NameRef<'_>) {
        self.octets[..name.len()].copy_from_slice(name.0);
        // The last block folds octets behind the name too, which nobody looks at.
        let blocks = name.len().next_multiple_of(FOLD_BLOCK);
        for block in self.octets[..blocks].chunks_exact_mut(FOLD_BLOCK) {
            for octet in block {
                *octet = octet.to_ascii_lowercase();
            }
        }
        self.length = octet_count(name.len());
    }

    /// Appends a label in front of the root.
    pub fn push_label(&mut self, label: &[u8]) -> Result<(), NameError> {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.len() > LABEL_MAX {
            return Err(NameError::LabelTooLong);
        }
        let at = usize::from(self.length) - 1;
        let end = at + 1 + label.len();
        if end + 1 > NAME_MAX {
            return Err(NameError::TooLong);
        }
        self.octets[at] = octet_count(label.len());
        self.octets[at + 1..end].copy_from_slice(label);
        self.octets[end] = 0;
        self.length = octet_count(end + 1);
        Ok(())
    }

    /// Appends all labels of `suffix`.
    pub fn push_name(&mut self, suffix: NameRef<'_>) -> Result<(), NameError> {
        let at = usize::from(self.length) - 1;
        let end = at + suffix.len();
        if end > NAME_MAX {
            return Err(NameError::TooLong);
        }
        self.octets[at..end].copy_from_slice(suffix.0);
        self.length = octet_count(end);
        Ok(())
    }

    /// Borrows it.
    pub fn as_ref(&self) -> NameRef<'_> {
        NameRef(&self.octets[..usize::from(self.length)])
    }
}

fn octet_count(length: usize) -> u8 {
    u8::try_from(length).expect("a name has at most 255 octets")
}

impl Default for NameBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).expect(text)
    }

    #[test]
    fn text_round_trips_with_its_escapes() {
        for text in [
            ".",
            "a.",
            "web.example.org.",
            "we\\.b.example.org.",
            "a\\032b.",
            "\\000\\255.x.",
            "A.b.",
        ] {
            let expected = if text == "a\\032b." { "a\\ b." } else { text };
            assert_eq!(name(text).to_string(), expected);
        }
        assert_eq!(name("example.org"), name("example.org."));
    }

    #[test]
    fn text_that_is_no_name_says_why() {
        assert_eq!(Name::from_text(""), Err(NameError::Empty));
        assert_eq!(Name::from_text("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(Name::from_text(".a"), Err(NameError::EmptyLabel));
        assert_eq!(
            Name::from_text(&"a".repeat(64)),
            Err(NameError::LabelTooLong)
        );
        assert_eq!(Name::from_text(&"a.".repeat(128)), Err(NameError::TooLong));
        assert_eq!(Name::from_text("a\\25"), Err(NameError::BadEscape));
        assert_eq!(Name::from_text("a\\256"), Err(NameError::BadEscape));
        assert_eq!(name(&"a.".repeat(127)).as_ref().len(), 255);
    }

    #[test]
    fn a_suffix_matches_whole_labels_only() {
        let org = name("Example.ORG");
        assert_eq!(
            name("web.example.org").as_ref().prefix_len(org.as_ref()),
            Some(4)
        );
        assert!(name("example.org").as_ref().is_at_or_below(org.as_ref()));
        assert!(
            !name("counterexample.org")
                .as_ref()
                .is_at_or_below(org.as_ref())
        );
        assert!(!name("org").as_ref().is_at_or_below(org.as_ref()));
        assert!(name("org").as_ref().is_at_or_below(ROOT));
        // The octet before the suffix is a label length by chance.
        assert!(
            !name("\\007example.org")
                .as_ref()
                .is_at_or_below(org.as_ref())
        );
    }

    #[test]
    fn a_buffer_refuses_what_makes_it_too_long() {
        let mut buffer = NameBuf::copy_of(name(&"a.".repeat(126)).as_ref());
        assert_eq!(buffer.push_label(b"bb"), Err(NameError::TooLong));
        assert_eq!(buffer.push_label(b"b"), Ok(()));
        assert_eq!(buffer.as_ref().len(), 255);
        assert_eq!(buffer.push_label(b"b"), Err(NameError::TooLong));
    }
}
