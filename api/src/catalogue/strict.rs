//! Finds object keys that occur twice in a JSON body.
//!
//! `serde_json::Value` keeps the last of two equal keys and says nothing, so
//! strict field validation reads the bytes once more with a visitor that keeps
//! only key names.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The paths of keys that occur more than once in their object, in upstream's
/// spelling (`spec.containers[0].name`), each once. Empty for bytes that are
/// not JSON: decoding them reports that.
pub fn duplicate_fields(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = String::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let walk = Walk { path: &mut path, found: &mut found };
    if walk.deserialize(&mut json).is_err() {
        return Vec::new();
    }
    found
}

struct Walk<'a> {
    path: &'a mut String,
    found: &'a mut Vec<String>,
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

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        let mut reported = HashSet::new();
        let parent = self.path.len();
        while let Some(key) = map.next_key::<String>()? {
            if parent > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if !seen.insert(key.clone()) && reported.insert(key) {
                self.found.push(self.path.clone());
            }
            map.next_value_seed(Walk { path: self.path, found: self.found })?;
            self.path.truncate(parent);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let parent = self.path.len();
        for index in 0.. {
            self.path.push_str(&format!("[{index}]"));
            let next = seq.next_element_seed(Walk { path: self.path, found: self.found })?;
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
}
