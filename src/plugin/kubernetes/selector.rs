//! Label selectors as Kubernetes writes them: `app=web, tier in (front, back), !canary`.
//!
//! They are only checked here; the API server applies them.

/// Octets that a label's name or value may have.
const PART_MAX: usize = 63;

/// Octets that the prefix of a label's key may have.
const PREFIX_MAX: usize = 253;

/// Whether the text is a selector; if not, why.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Ok(());
    }
    loop {
        rest = requirement(rest)?.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => return Ok(()),
            None => return Err(format!("expected a comma before `{rest}`")),
        }
    }
}

/// Reads one requirement, and returns what follows it.
fn requirement(text: &str) -> Result<&str, String> {
    if let Some(negated) = text.strip_prefix('!') {
        let (key, rest) = word(negated.trim_start());
        return check_key(key).map(|()| rest);
    }
    let (key, rest) = word(text);
    check_key(key)?;
    let rest = rest.trim_start();
    for operator in ["==", "!=", "=", "<", ">"] {
        if let Some(after) = rest.strip_prefix(operator) {
            let (value, rest) = word(after.trim_start());
            if matches!(operator, "<" | ">") && value.parse::<i64>().is_err() {
                return Err(format!("`{value}` is not a number"));
            }
            return check_value(value).map(|()| rest);
        }
    }
    let (operator, after) = word(rest);
    match operator {
        "in" | "notin" => set(after.trim_start()),
        // The key alone: it exists.
        "" => Ok(rest),
        other => Err(format!("`{other}` is not an operator")),
    }
}

fn set(text: &str) -> Result<&str, String> {
    let inner = text
        .strip_prefix('(')
        .ok_or("expected `(` after `in` or `notin`")?;
    let (values, rest) = inner.split_once(')').ok_or("expected `)`")?;
    for value in values.split(',') {
        check_value(value.trim())?;
    }
    Ok(rest)
}

/// The octets up to the next one that means something.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || "=!<>(),".contains(c));
    text.split_at(end.unwrap_or(text.len()))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_good = prefix.is_none_or(|prefix| {
        let octets = |octet: &u8| {
            octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-.".contains(octet)
        };
        !prefix.is_empty() && prefix.len() <= PREFIX_MAX && prefix.as_bytes().iter().all(octets)
    });
    if name.is_empty() || !is_part(name) || !prefix_is_good {
        return Err(format!("`{key}` is not the key of a label"));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), String> {
    if is_part(value) {
        Ok(())
    } else {
        Err(format!("`{value}` is not the value of a label"))
    }
}

/// Letters and digits, and `-_.` between them.
fn is_part(text: &str) -> bool {
    let octets = text.as_bytes();
    let at_edge = |octet: Option<&u8>| octet.is_none_or(u8::is_ascii_alphanumeric);
    octets.len() <= PART_MAX
        && at_edge(octets.first())
        && at_edge(octets.last())
        && octets
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_requirement_is_understood() {
        for good in [
            "",
            "app",
            "!app",
            "app=web",
            "app == web",
            "app!=web",
            "app=",
            "example.org/tier in (front, back),!canary",
            "a notin (b)",
            "a in (b,)",
            "n > 3, m<4",
            "environment in (production,qa),tier",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_selector_says_why() {
        for (wrong, why) in [
            ("a in (b", "expected `)`"),
            ("a in b", "expected `(` after `in` or `notin`"),
            ("a b", "`b` is not an operator"),
            ("a=b c", "expected a comma before `c`"),
            ("=b", "`` is not the key of a label"),
            ("-a=b", "`-a` is not the key of a label"),
            ("A.B/c", "`A.B/c` is not the key of a label"),
            ("a=b_", "`b_` is not the value of a label"),
            ("a>b", "`b` is not a number"),
            ("a,", "`` is not the key of a label"),
        ] {
            assert_eq!(check(wrong), Err(why.to_owned()), "{wrong}");
        }
    }
}
