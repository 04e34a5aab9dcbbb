//! One step of a path through an object, as `fieldsV1` spells it.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// One step of a path. The order of the variants is the order of their texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// `f:NAME`: a field of an object, or a key of a map.
    Field(Cow<'static, str>),
    /// `i:N`: the item at a place of a list. Never made here; others may.
    Index(i64),
    /// `k:{…}`: the item of a list that has these keys, as JSON with sorted
    /// names.
    Key(String),
    /// `v:…`: this very item of a list, as JSON.
    Value(String),
}

impl Element {
    /// Reads the text of `fieldsV1`; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(Cow::Owned(rest.to_owned()))),
            "i" => rest.parse().ok().map(Self::Index),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::Key(Value::Object(keys).to_string()))
            }
            "v" => {
                let value: Value = serde_json::from_str(rest).ok()?;
                Some(Self::Value(value.to_string()))
            }
            _ => None,
        }
    }
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Field(name) => serializer.collect_str(&format_args!("f:{name}")),
            Self::Index(at) => serializer.collect_str(&format_args!("i:{at}")),
            Self::Key(keys) => serializer.collect_str(&format_args!("k:{keys}")),
            Self::Value(value) => serializer.collect_str(&format_args!("v:{value}")),
        }
    }
}

/// As messages spell it: `.spec`, `[name="web"]`, `[="a"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Index(at) => write!(f, "[{at}]"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                f.write_str("[")?;
                for (at, (name, value)) in keys.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_and_spelled() {
        let cases = [
            ("f:spec", ".spec"),
            ("f:a.b/c", ".a.b/c"),
            ("f:", "."),
            (r#"k:{"protocol":"TCP","containerPort":80}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (r#"v:"a:b""#, r#"[="a:b"]"#),
            ("v:3", "[=3]"),
            ("i:2", "[2]"),
        ];
        for (text, shown) in cases {
            let element = Element::parse(text).unwrap();
            assert_eq!(element.to_string(), shown);
            let written = serde_json::to_value(&element).unwrap();
            assert_eq!(Element::parse(written.as_str().unwrap()), Some(element), "{text}");
        }
        for text in ["", ".", "spec", "x:a", "k:3", "k:{", "v:", "i:x"] {
            assert_eq!(Element::parse(text), None, "{text}");
        }
    }
}
