//! What is asked: names from a file, some of them new each time.

use std::sync::Arc;

/// Digits of the number in place of a `%`.
const DIGITS: usize = 12;

/// Queries without their IDs, asked in turn.
#[derive(Clone, Debug)]
pub struct Questions {
    all: Arc<[Question]>,
}

#[derive(Debug)]
struct Question {
    message: Vec<u8>,
    /// Where the digits of a number stand that is never used twice.
    number_at: Option<usize>,
}

impl Questions {
    /// Lines of `name TYPE`, as dnsperf reads them; `#` starts a comment.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        let questions = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, qtype) = line.split_once(char::is_whitespace).unwrap_or((line, "A"));
            Question::new(name, qtype.trim())
        });
        let all: Vec<Question> = questions.collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err("there are no names to ask".into());
        }
        Ok(Self { all: all.into() })
    }

    /// These names, for A.
    pub fn of_names(names: &[&str]) -> Result<Self, String> {
        Self::parse(&names.join("\n"))
    }

    /// Writes the query with this number, counted over all that are sent.
    pub fn write(&self, number: u64, id: u16, out: &mut Vec<u8>) {
        let index = number % self.all.len() as u64;
        let question = &self.all[usize::try_from(index).expect("there are few")];
        out.clear();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&question.message);
        if let Some(at) = question.number_at {
            let digits = out[2 + at..].iter_mut().take(DIGITS).rev();
            let mut rest = number;
            for digit in digits {
                *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
                rest /= 10;
            }
        }
    }
}

impl Question {
    fn new(name: &str, qtype: &str) -> Result<Self, String> {
        let qtype: u16 = match qtype.to_ascii_uppercase().as_str() {
            "A" => 1,
            "NS" => 2,
            "CNAME" => 5,
            "SOA" => 6,
            "PTR" => 12,
            "TXT" => 16,
            "AAAA" => 28,
            "SRV" => 33,
            other => return Err(format!("`{other}` is no type that is known here")),
        };
        let number = "0".repeat(DIGITS);
        let name = name.trim_end_matches('.');
        // Flags with RD, one question.
        let mut message = vec![1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let mut number_at = None;
        for label in name.split('.') {
            let in_label = label.find('%');
            let label = label.replacen('%', &number, 1);
            let length = u8::try_from(label.len())
                .ok()
                .filter(|len| (1..64).contains(len));
            message.push(length.ok_or_else(|| format!("`{name}` has a label that is none"))?);
            number_at = number_at.or(in_label.map(|at| message.len() + at));
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        message.extend_from_slice(&qtype.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        Ok(Self { message, number_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_in_turn_and_numbers_never_twice() {
        let questions = Questions::parse("a.b AAAA # both\n\nu%x.c.\n").expect("two names");
        let mut out = Vec::new();
        questions.write(0, 7, &mut out);
        assert_eq!(out[..2], [0, 7]);
        assert_eq!(out[12..], *b"\x01a\x01b\0\0\x1c\0\x01");
        questions.write(1, 8, &mut out);
        assert_eq!(out[12..], *b"\x0eu000000000001x\x01c\0\0\x01\0\x01");
        questions.write(4_203, 8, &mut out);
        assert_eq!(&out[13..27], b"u000000004203x");
    }

    #[test]
    fn what_is_no_name_is_said() {
        assert!(Questions::parse("# nothing").is_err());
        assert!(Questions::parse("a..b").is_err());
        assert!(Questions::parse("a BOGUS").is_err());
    }
}
