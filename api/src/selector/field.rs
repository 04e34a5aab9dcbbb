//! Field selectors: `metadata.name=x,status.phase!=Running`.
//!
//! Which fields a kind can be selected by is the catalogue's to say.

use std::borrow::Cow;
use std::fmt;

use super::SelectorError;

/// A conjunction of requirements. Without any it selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// The requirements, all of which must hold.
    pub requirements: Vec<FieldRequirement>,
}

/// What is required of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Path of the field, such as `spec.nodeName`.
    pub field: String,
    /// The value it must have, or must not have.
    pub value: String,
    /// Whether it must have the value (`=`) or not (`!=`).
    pub equal: bool,
}

impl FieldSelector {
    /// Reads the text form. `\,`, `\=` and `\\` stand for those signs in a
    /// value.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut requirements = Vec::new();
        for term in terms(text).filter(|term| !term.is_empty()) {
            let (field, value, equal) = split(term).ok_or_else(|| {
                SelectorError::new(format!("invalid selector: '{text}'; can't understand '{term}'"))
            })?;
            let value = unescape(value).map_err(|why| {
                SelectorError::new(format!("invalid field selector value: {value:?}: {why}"))
            })?;
            requirements.push(FieldRequirement { field: field.to_owned(), value, equal });
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether it selects an object whose fields `get` looks up. A field that
    /// the object lacks is empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = get(&requirement.field);
            (value.as_deref().unwrap_or("") == requirement.value) == requirement.equal
        })
    }

    /// The value that a field must have, if the selector says so. A list by
    /// `metadata.name` need not look at other objects.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let same = |r: &&FieldRequirement| r.equal && r.field == field;
        self.requirements.iter().find(same).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let sign = if requirement.equal { "=" } else { "!=" };
            let value =
                requirement.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{sign}{value}", requirement.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

fn split(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find('=')?;
    let (field, value) = (&term[..at], &term[at + 1..]);
    match field.strip_suffix('!') {
        Some(field) => Some((field, value, false)),
        None => Some((field, value.strip_prefix('=').unwrap_or(value), true)),
    }
}

fn unescape(value: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => return Err("invalid escape sequence"),
            },
            ',' | '=' => return Err("unescaped character"),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn matching() {
        let get = |field: &str| match field {
            "metadata.name" => Some(Cow::Borrowed("a")),
            "x" => Some(Cow::Borrowed("1,2=3\\")),
            _ => None,
        };
        let cases = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a", true),
            ("metadata.name!=a", false),
            ("metadata.name=a,spec.nodeName=", true),
            ("metadata.name=a,,", true),
            ("spec.nodeName!=", false),
            ("x=1\\,2\\=3\\\\", true),
        ];
        for (text, expected) in cases {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(get), expected, "{text}");
        }
        assert_eq!(FieldSelector::parse("a!=b,a=c").unwrap().exact("a"), Some("c"));
    }

    #[test]
    fn refusals() {
        for text in ["a", "a=b=c", "a=\\x", "a=\\"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(pairs in prop::collection::vec(("[a-z.]{1,5}", "[a-z,=\\\\]{0,5}", any::<bool>()), 0..4)) {
            let requirements = pairs.into_iter().map(|(field, value, equal)| FieldRequirement { field, value, equal });
            let selector = FieldSelector { requirements: requirements.collect() };
            prop_assert_eq!(&FieldSelector::parse(&selector.to_string()).unwrap(), &selector);
        }

        #[test]
        fn reading_never_panics(text in "[a=!,\\\\é]{0,30}") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
