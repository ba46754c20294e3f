//! From octets to text: encodings, sizes, and reading files without being held up by one.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::corefile::diagnostic::{Diagnostic, Faults, Span};

/// The most octets of one file. A Corefile with 100 000 inline hosts has 3 MB.
pub const FILE_MAX: usize = 16 << 20;

/// Makes text of octets. What is not UTF-8 becomes U+FFFD octet by octet, as CoreDNS reads it; the leading byte order
/// mark is dropped. A file in another encoding, or too long, comes out empty, with a fault.
pub fn decode(octets: &[u8], source: u32, faults: &mut Faults) -> String {
    let top = Span {
        source,
        start: 0,
        end: 0,
    };
    if octets.len() > FILE_MAX {
        faults.push(Diagnostic::error(
            top,
            format!("the file has {} octets", octets.len()),
            format!("expected at most {FILE_MAX}"),
        ));
        return String::new();
    }
    if is_utf_16(octets) {
        faults.push(
            Diagnostic::error(top, "the file is UTF-16", "expected UTF-8")
                .with_help("convert it with `iconv -f UTF-16 -t UTF-8`"),
        );
        return String::new();
    }
    let octets = octets.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(octets);
    let mut text = String::with_capacity(octets.len());
    let mut bad: Option<(Span, u8)> = None;
    for chunk in octets.utf8_chunks() {
        text.push_str(chunk.valid());
        for &octet in chunk.invalid() {
            let start = text.len();
            text.push(char::REPLACEMENT_CHARACTER);
            let end = text.len();
            bad.get_or_insert((Span { source, start, end }, octet));
        }
    }
    if let Some((span, octet)) = bad {
        // CoreDNS takes such files, mostly for a Latin-1 comment, so this may not stop a server.
        faults.push(
            Diagnostic::warning(
                span,
                format!("octet 0x{octet:02X} is not UTF-8"),
                "read as U+FFFD, as CoreDNS does",
            )
            .with_help("save the file as UTF-8"),
        );
    }
    if let Some(start) = text.find('\0') {
        let end = start + 1;
        faults.push(Diagnostic::error(
            Span { source, start, end },
            "a NUL octet stands in the text",
            "expected text",
        ));
    }
    text
}

/// A byte order mark, or a NUL in every other place: UTF-16, which editors on Windows call "Unicode".
fn is_utf_16(octets: &[u8]) -> bool {
    let head = &octets[..octets.len().min(1024)];
    let nuls_at = |odd| {
        head.iter()
            .skip(odd)
            .step_by(2)
            .filter(|&&octet| octet == 0)
            .count()
    };
    let many = |count: usize| count >= 4 && count * 4 > head.len();
    head.starts_with(b"\xFF\xFE")
        || head.starts_with(b"\xFE\xFF")
        || (many(nuls_at(0)) != many(nuls_at(1)))
}

/// Reads a Corefile; a pipe will do.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(File::open(path)?)
}

/// Reads an imported file. Only regular files: a glob must not hang on a pipe that somebody left in the folder.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    read(path)
}

/// All octets, but not many more than are allowed: [`decode`] refuses the excess.
pub fn read_bounded(input: impl Read) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    input.take(FILE_MAX as u64 + 1).read_to_end(&mut octets)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(octets: &[u8]) -> (String, Vec<String>) {
        let mut faults = Faults::default();
        let text = decode(octets, 0, &mut faults);
        let messages = faults.iter().map(|fault| fault.message.clone()).collect();
        (text, messages)
    }

    #[test]
    fn a_byte_order_mark_is_dropped_once() {
        assert_eq!(decoded(b"\xEF\xBB\xBFa"), ("a".into(), vec![]));
        assert_eq!(decoded(b"\xEF\xBB\xBF\xEF\xBB\xBFa").0, "\u{feff}a");
    }

    #[test]
    fn utf_16_is_named_with_and_without_its_mark() {
        let text: Vec<u8> = ".:53 {\n  whoami\n}\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let marked = [b"\xFF\xFE".as_slice(), &text].concat();
        for octets in [text, marked] {
            assert_eq!(
                decoded(&octets),
                (String::new(), vec!["the file is UTF-16".into()])
            );
        }
    }

    #[test]
    fn each_octet_that_is_not_utf_8_is_replaced_and_told_once() {
        let (text, messages) = decoded(b"caf\xE9 \xE2\x82 ok");
        assert_eq!(text, "caf\u{fffd} \u{fffd}\u{fffd} ok");
        assert_eq!(messages, ["octet 0xE9 is not UTF-8"]);
    }

    #[test]
    fn a_nul_is_a_fault() {
        assert_eq!(decoded(b"who\0ami").1, ["a NUL octet stands in the text"]);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let (text, messages) = decoded(&vec![b'a'; FILE_MAX + 1]);
        assert_eq!(text, "");
        assert_eq!(messages, [format!("the file has {} octets", FILE_MAX + 1)]);
    }
}
