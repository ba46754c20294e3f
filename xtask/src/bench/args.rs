//! Flags of a bench: `--name value`.

use std::str::FromStr;

/// What was said, checked against the flags that there are. The default: nothing.
#[derive(Default)]
pub struct Args(Vec<(String, String)>);

impl Args {
    /// Takes pairs of a known flag and a value.
    pub fn parse(words: &[&str], known: &[&str]) -> Result<Self, String> {
        let mut args = Vec::new();
        for pair in words.chunks(2) {
            match pair {
                [flag, value] if known.contains(flag) => {
                    args.push(((*flag).to_owned(), (*value).to_owned()));
                }
                [flag] if known.contains(flag) => return Err(format!("`{flag}` wants a value")),
                _ => {
                    return Err(format!(
                        "no flag `{}`; there are {}",
                        pair[0],
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(Self(args))
    }

    /// The value of a flag, or the default.
    pub fn get<T: FromStr>(&self, flag: &str, default: T) -> Result<T, String> {
        match self.text(flag) {
            None => Ok(default),
            Some(text) => number(flag, text),
        }
    }

    /// The values of a flag, with commas between them.
    pub fn list<T: FromStr + Clone>(&self, flag: &str, default: &[T]) -> Result<Vec<T>, String> {
        match self.text(flag) {
            None => Ok(default.to_vec()),
            Some(text) => text.split(',').map(|text| number(flag, text)).collect(),
        }
    }

    fn text(&self, flag: &str) -> Option<&str> {
        let said = self.0.iter().rev().find(|(known, _)| known == flag);
        said.map(|(_, value)| value.as_str())
    }
}

fn number<T: FromStr>(flag: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{flag}` cannot be `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::Args;

    #[test]
    fn flags_are_known_and_have_values() {
        let args = Args::parse(
            &["--services", "10,20", "--rate", "5"],
            &["--services", "--rate"],
        );
        let args = args.expect("both are known");
        assert_eq!(args.list("--services", &[1usize]), Ok(vec![10, 20]));
        assert_eq!(args.get("--rate", 1), Ok(5));
        assert_eq!(args.get("--other", 7), Ok(7));
        assert!(Args::parse(&["--rate"], &["--rate"]).is_err());
        assert!(Args::parse(&["--rote", "5"], &["--rate"]).is_err());
        assert!(args.get::<u8>("--services", 1).is_err());
    }
}
