//! What strict field validation has to say of a JSON body.
//!
//! `serde_json::Value` keeps the last of two equal keys and says nothing, and
//! it has forgotten in which order they stood. So the bytes are read once more
//! with a visitor that keeps only key names.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The paths of keys that occur more than once in their object, in upstream's
/// spelling (`spec.containers[0].name`), each once. Empty for bytes that are
/// not JSON: decoding them reports that.
pub fn duplicate_fields(body: &[u8]) -> Vec<String> {
    walk(body, &HashSet::new()).into_iter().map(|(_, path)| path).collect()
}

/// The complaints about a body of whose fields the type does not know
/// `unknown`, in the order in which they stand in it, as upstream's decoder
/// tells them. What is in an unknown field is not looked at.
pub fn field_problems(body: &[u8], unknown: &[String]) -> Vec<String> {
    let paths = unknown.iter().map(String::as_str).collect();
    let found = walk(body, &paths);
    let told: HashSet<&str> = found.iter().map(|(_, path)| path.as_str()).collect();
    // A body in an old shape was rewritten before its type saw it.
    let moved = unknown.iter().filter(|path| !told.contains(path.as_str()));
    let moved = moved.map(|path| (Problem::Unknown, path.clone()));
    found.iter().cloned().chain(moved).map(|(problem, path)| problem.about(&path)).collect()
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy)]
enum Problem {
    Unknown,
    Duplicate,
}

impl Problem {
    fn about(self, path: &str) -> String {
        match self {
            Self::Unknown => unknown_field(path),
            Self::Duplicate => duplicate_field(path),
        }
    }
}

/// The complaint about a field that the type does not have.
pub fn unknown_field(path: &str) -> String {
    format!("unknown field {path:?}")
}

/// The complaint about a field that stands there twice.
pub fn duplicate_field(path: &str) -> String {
    format!("duplicate field {path:?}")
}

fn walk(body: &[u8], unknown: &HashSet<&str>) -> Vec<(Problem, String)> {
    let mut found = Vec::new();
    let mut path = String::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let walk = Walk { path: &mut path, found: &mut found, unknown };
    if walk.deserialize(&mut json).is_err() {
        return Vec::new();
    }
    found
}

struct Walk<'a> {
    path: &'a mut String,
    found: &'a mut Vec<(Problem, String)>,
    unknown: &'a HashSet<&'a str>,
}

impl Walk<'_> {
    /// The walk through what is at the path now.
    fn inner(&mut self) -> Walk<'_> {
        Walk { path: self.path, found: self.found, unknown: self.unknown }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        let mut reported = HashSet::new();
        let parent = self.path.len();
        while let Some(key) = map.next_key::<String>()? {
            if parent > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let again = !seen.insert(key.clone());
            if self.unknown.contains(self.path.as_str()) {
                if !again {
                    self.found.push((Problem::Unknown, self.path.clone()));
                }
                map.next_value::<IgnoredAny>()?;
            } else {
                if again && reported.insert(key) {
                    self.found.push((Problem::Duplicate, self.path.clone()));
                }
                map.next_value_seed(self.inner())?;
            }
            self.path.truncate(parent);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let parent = self.path.len();
        for index in 0.. {
            self.path.push_str(&format!("[{index}]"));
            let next = seq.next_element_seed(self.inner())?;
            self.path.truncate(parent);
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_duplicate_once() {
        let cases: &[(&str, &[&str])] = &[
            (r#"{"a": 1, "b": {"a": 2}}"#, &[]),
            (r#"{"metadata": {"name": "a", "name": "b", "name": "c"}}"#, &["metadata.name"]),
            (
                r#"{"spec": {"containers": [{"name": "a"}, {"image": "x", "image": "y"}]}}"#,
                &["spec.containers[1].image"],
            ),
            (r#"{"a": [[{"b": null, "b": true}]], "a": 1}"#, &["a[0][0].b", "a"]),
            ("{", &[]),
        ];
        for (body, expected) in cases {
            assert_eq!(duplicate_fields(body.as_bytes()), *expected, "{body}");
        }
    }

    #[test]
    fn complaints_stand_in_the_order_of_the_body() {
        let unknown = ["spec.extra", "spec.list[0].x", "moved.away"].map(str::to_owned);
        let body = br#"{"spec": {"extra": {"a": 1, "a": 2}, "n": 1, "n": 2, "extra": 3,
            "list": [{"x": 1, "y": 1, "y": 2}]}}"#;
        let expected = [
            r#"unknown field "spec.extra""#,
            r#"duplicate field "spec.n""#,
            r#"unknown field "spec.list[0].x""#,
            r#"duplicate field "spec.list[0].y""#,
            r#"unknown field "moved.away""#,
        ];
        assert_eq!(field_problems(body, &unknown), expected);
        assert_eq!(field_problems(br#"{"spec": {}}"#, &[]), Vec::<String>::new());
    }
}
