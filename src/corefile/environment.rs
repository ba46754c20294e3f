//! Environment variables in words: `{$NAME}`, and `{%NAME%}` as Windows writes it.

/// Why a word could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub enum ExpandError {
    /// The value holds a reference to the variable itself, or too many others.
    Endless(String),
    /// The result is longer than any word should be.
    TooLong(String),
}

/// What came out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that are not set; they count as empty.
    pub unset: Vec<String>,
}

/// The most replacements in one word. CoreDNS has no limit and hangs on a variable that refers to itself.
const ROUNDS_MAX: usize = 64;

/// The most octets of an expanded word.
const LENGTH_MAX: usize = 1 << 20;

/// Looks up a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every reference in a word. It stays one word, whatever the values hold; values are expanded again. There are
/// no default values: `{$NAME:x}` looks for a variable called `NAME:x`.
pub fn expand(text: &str, lookup: Lookup<'_>) -> Result<Expanded, ExpandError> {
    let mut expanded = Expanded {
        text: text.to_owned(),
        unset: Vec::new(),
    };
    expand_form(&mut expanded, "{%", "%}", lookup)?;
    expand_form(&mut expanded, "{$", "}", lookup)?;
    Ok(expanded)
}

fn expand_form(
    expanded: &mut Expanded,
    open: &str,
    close: &str,
    lookup: Lookup<'_>,
) -> Result<(), ExpandError> {
    for _ in 0..ROUNDS_MAX {
        let Some(start) = expanded.text.find(open) else {
            return Ok(());
        };
        let inside = &expanded.text[start + open.len()..];
        let Some(name) = name_of(inside, open, close) else {
            return Ok(());
        };
        let name = name.to_owned();
        let value = lookup(&name).unwrap_or_else(|| {
            expanded.unset.push(name.clone());
            String::new()
        });
        let reference = format!("{open}{name}{close}");
        let count = expanded.text.matches(&reference).count();
        if expanded.text.len() + count * value.len() > LENGTH_MAX {
            return Err(ExpandError::TooLong(name));
        }
        expanded.text = expanded.text.replace(&reference, &value);
    }
    match expanded.text.split_once(open) {
        None => Ok(()),
        Some((_, inside)) => Err(ExpandError::Endless(
            name_of(inside, open, close).unwrap_or_default().to_owned(),
        )),
    }
}

/// The name before the closing mark; none if there is no closing mark, or no name, which ends expansion of this form.
fn name_of<'t>(inside: &'t str, open: &str, close: &str) -> Option<&'t str> {
    // The closing mark of `{%` shares its first character with the opening one: `{%}` is a reference that never ends.
    let search = if open == "{%" && inside.starts_with('}') {
        return None;
    } else {
        inside.find(close)?
    };
    (search > 0).then(|| &inside[..search])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        Some(
            match name {
                "A" => "one",
                "SPACE" => "two words",
                "NESTED" => "<{$A}>",
                "SELF" => "x{$SELF}",
                "PING" => "{$PONG}",
                "PONG" => "{$PING}",
                "BIG" => "{$BIG}{$BIG}{$A}",
                "NAME:x" => "literal",
                _ => return None,
            }
            .to_owned(),
        )
    }

    fn expanded(text: &str) -> String {
        expand(text, &lookup).expect(text).text
    }

    #[test]
    fn both_forms_are_expanded_anywhere_in_a_word() {
        assert_eq!(expanded("a{$A}b{%A%}c{$A}"), "aonebonecone");
        assert_eq!(expanded("{$SPACE}"), "two words");
        assert_eq!(expanded("{$NESTED}"), "<one>");
        assert_eq!(expanded("{$NAME:x}"), "literal");
    }

    #[test]
    fn an_unset_variable_is_empty_and_named() {
        let got = expand("[{$NONE}]", &lookup).expect("expands");
        assert_eq!((got.text.as_str(), got.unset), ("[]", vec!["NONE".into()]));
    }

    #[test]
    fn what_is_no_reference_stays() {
        for text in ["{$}", "{$A", "{%%}", "{%A", "{A}", "{$}{$A}", "{%}"] {
            assert_eq!(expanded(text), text);
        }
        // A template's variable looks like one of ours, as it does to CoreDNS.
        assert_eq!(expanded("{{$v}}"), "{}");
    }

    #[test]
    fn a_variable_that_refers_to_itself_is_a_fault() {
        for name in ["SELF", "PING", "BIG"] {
            let text = format!("{{${name}}}");
            assert!(expand(&text, &lookup).is_err(), "{name}");
        }
    }
}
