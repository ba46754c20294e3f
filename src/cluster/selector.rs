//! Label selectors as Kubernetes writes them: `app=web, tier in (front, back), !canary`.
//!
//! The API server applies them itself; objects from files are held against them here.

/// Octets that a label's name or value may have.
const PART_MAX: usize = 63;

/// Octets that the prefix of a label's key may have.
const PREFIX_MAX: usize = 253;

/// Which labels an object must have and which not. The empty one takes every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    text: String,
    requirements: Vec<Requirement>,
}

/// One part of a selector; an object must meet them all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

/// What is asked of the label with the key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Also met where the label is missing.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Selector {
    /// Reads one; if the text is none, says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selector = Self {
            text: text.to_owned(),
            requirements: Vec::new(),
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Ok(selector);
        }
        loop {
            let (requirement, after) = requirement(rest)?;
            selector.requirements.push(requirement);
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(after) => rest = after.trim_start(),
                None if rest.is_empty() => return Ok(selector),
                None => return Err(format!("expected a comma before `{rest}`")),
            }
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it takes every object, so that labels need not be read.
    pub fn takes_all(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with these labels is taken; `label` finds the value of a key.
    pub fn takes<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.test.is_met(label(&requirement.key)))
    }
}

impl Test {
    fn is_met(&self, value: Option<&str>) -> bool {
        let is_one_of =
            |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        let number = || value?.parse::<i64>().ok();
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => is_one_of(values),
            Self::NotIn(values) => !is_one_of(values),
            Self::Above(bound) => number().is_some_and(|number| number > *bound),
            Self::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// Reads one requirement, and returns what follows it.
fn requirement(text: &str) -> Result<(Requirement, &str), String> {
    let of = |key: &str, test, rest| {
        let key = key.to_owned();
        Ok((Requirement { key, test }, rest))
    };
    if let Some(negated) = text.strip_prefix('!') {
        let (key, rest) = word(negated.trim_start());
        check_key(key)?;
        return of(key, Test::Absent, rest);
    }
    let (key, rest) = word(text);
    check_key(key)?;
    let rest = rest.trim_start();
    for operator in ["==", "!=", "=", "<", ">"] {
        if let Some(after) = rest.strip_prefix(operator) {
            let (value, rest) = word(after.trim_start());
            return of(key, comparison(operator, value)?, rest);
        }
    }
    let (operator, after) = word(rest);
    match operator {
        "in" | "notin" => {
            let (values, rest) = set(after.trim_start())?;
            let test = if operator == "in" {
                Test::In
            } else {
                Test::NotIn
            };
            of(key, test(values), rest)
        }
        // The key alone: it exists.
        "" => of(key, Test::Exists, rest),
        other => Err(format!("`{other}` is not an operator")),
    }
}

fn comparison(operator: &str, value: &str) -> Result<Test, String> {
    let number = || {
        let number = value.parse::<i64>();
        number.map_err(|_| format!("`{value}` is not a number"))
    };
    let values = || check_value(value).map(|()| vec![value.to_owned()]);
    Ok(match operator {
        ">" => Test::Above(number()?),
        "<" => Test::Below(number()?),
        "!=" => Test::NotIn(values()?),
        _ => Test::In(values()?),
    })
}

fn set(text: &str) -> Result<(Vec<String>, &str), String> {
    let inner = text
        .strip_prefix('(')
        .ok_or("expected `(` after `in` or `notin`")?;
    let (inner, rest) = inner.split_once(')').ok_or("expected `)`")?;
    let mut values = Vec::new();
    for value in inner.split(',') {
        check_value(value.trim())?;
        values.push(value.trim().to_owned());
    }
    Ok((values, rest))
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
            let read = Selector::parse(good);
            assert_eq!(read.as_ref().map(Selector::text), Ok(good), "{good}");
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
            assert_eq!(Selector::parse(wrong), Err(why.to_owned()), "{wrong}");
        }
    }

    /// Whether a selector takes an object with `app=web`, `tier=front`, `n=3` and an empty `flag`.
    fn takes(selector: &str) -> bool {
        let labels = [("app", "web"), ("tier", "front"), ("n", "3"), ("flag", "")];
        let selector = Selector::parse(selector).expect("a selector");
        selector.takes(|key| {
            labels
                .iter()
                .find(|label| label.0 == key)
                .map(|label| label.1)
        })
    }

    #[test]
    fn an_object_is_taken_if_it_meets_every_requirement() {
        for selector in [
            "",
            "app",
            "app=web",
            "app==web,tier=front",
            "tier in (back, front)",
            "tier notin (back)",
            "app!=db",
            "!canary",
            "flag",
            "flag=",
            "flag in ()",
            "n>2,n<4",
        ] {
            assert!(takes(selector), "{selector}");
        }
        for selector in [
            "canary",
            "app=Web",
            "app=web,tier=back",
            "tier in (back,side)",
            "tier notin (front)",
            "app!=web",
            "!app",
            "!flag",
            "flag!=",
            "n>3",
            "n<3",
            "app>1",
            "canary<1",
        ] {
            assert!(!takes(selector), "{selector}");
        }
    }

    #[test]
    fn a_missing_label_meets_what_is_said_of_its_absence_alone() {
        let takes = |selector: &str| {
            let selector = Selector::parse(selector).expect("a selector");
            selector.takes(|_| None)
        };
        for selector in ["", "!a", "a!=b", "a notin (b)", "a!="] {
            assert!(takes(selector), "{selector}");
        }
        for selector in ["a", "a=b", "a=", "a in (b,)", "a>1", "a<1"] {
            assert!(!takes(selector), "{selector}");
        }
    }
}
