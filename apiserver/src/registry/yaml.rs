//! YAML bodies as JSON values, within bounds.
//!
//! YAML can say much with little: an alias repeats whatever its anchor names,
//! and aliases of aliases multiply. So the value is built node by node and
//! text by text against a budget, and given up when the budget is spent, not
//! measured when it is there.
//!
//! The parser underneath looks at every open flow collection for each token,
//! so its time grows with the square of the depth. Depth is therefore bounded
//! before it sees the text.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess as _, Visitor,
};
use serde_json::{Map, Number, Value};

/// Levels of nesting once aliases are followed.
const DEPTH: usize = 128;

/// Nodes once aliases are followed.
const NODES: usize = 200_000;

/// Bytes of text once aliases are followed: what a body may have without.
const TEXT: usize = super::body::LIMIT;

/// Flow collections that a text may open without closing them, counted where
/// they may also stand in a string; see [`opens_too_much`].
const OPEN: usize = 10_000;

/// Keys that stand twice in one object and are told of; a text can have
/// thousands.
const TWICE: usize = 100;

/// A document.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) value: Value,
    /// Keys that stood twice in one object, of which the last one counts.
    pub(crate) twice: Vec<String>,
}

/// Reads one document.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, String> {
    if opens_too_much(bytes) {
        return Err(TOO_LARGE.to_owned());
    }
    let budget = Budget { nodes: Cell::new(NODES), text: Cell::new(TEXT) };
    let twice = RefCell::default();
    let node = Node { budget: &budget, twice: &twice, depth: 0 };
    let value = node
        .deserialize(serde_yaml::Deserializer::from_slice(bytes))
        .map_err(|err| err.to_string())?;
    Ok(Document { value, twice: twice.into_inner() })
}

const TOO_LARGE: &str = "document is nested too deep or too large";

/// Whether more flow collections are opened than closed by far. Brackets in a
/// string count too: a text with thousands of them unbalanced is no manifest.
fn opens_too_much(bytes: &[u8]) -> bool {
    let mut open = 0_usize;
    bytes.iter().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > OPEN
    })
}

/// What is left to build.
struct Budget {
    nodes: Cell<usize>,
    text: Cell<usize>,
}

impl Budget {
    fn spend<E: serde::de::Error>(left: &Cell<usize>, amount: usize) -> Result<(), E> {
        left.set(left.get().checked_sub(amount).ok_or_else(|| E::custom(TOO_LARGE))?);
        Ok(())
    }
}

/// Builds one node.
#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Budget,
    twice: &'a RefCell<Vec<String>>,
    depth: usize,
}

impl Node<'_> {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH {
            return Err(E::custom(TOO_LARGE));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Budget::spend(&self.budget.nodes, 1)?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has, too")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        let not_json = || E::custom(format!("{number} is not a JSON number"));
        Number::from_f64(number).map(Value::Number).ok_or_else(not_json)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Budget::spend(&self.budget.text, text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key_seed(inner)? {
            let key = match key {
                Value::String(key) => key,
                Value::Number(key) => key.to_string(),
                Value::Bool(key) => key.to_string(),
                _ => return Err(A::Error::custom("a key is not a text")),
            };
            let value = entries.next_value_seed(inner)?;
            if object.contains_key(&key) && self.twice.borrow().len() < TWICE {
                self.twice.borrow_mut().push(key.clone());
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }

    /// A value with a tag of its own: the tag says nothing to us.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (_, value) = tagged.variant::<IgnoredAny>()?;
        value.newtype_variant_seed(self.inner()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    #[test]
    fn ordinary_documents_are_read() {
        let text = b"a: 1\nb: [x, true, null, -2, 1.5, 18446744073709551615]\n3: y\nc: &c {d: e}\nf: *c\ng: !tag h\ni: |\n  j\n  k\n";
        let expected = json!({
            "a": 1, "b": ["x", true, null, -2, 1.5, 18_446_744_073_709_551_615_u64], "3": "y",
            "c": {"d": "e"}, "f": {"d": "e"}, "g": "h", "i": "j\nk\n",
        });
        let document = parse(text).unwrap();
        assert_eq!((document.value, document.twice), (expected, Vec::new()));
        assert_eq!(parse(b"").unwrap().value, Value::Null);
        let document = parse(b"a: 1\nb: {c: 1, c: 2}\na: 3\n").unwrap();
        assert_eq!(document.value, json!({"a": 3, "b": {"c": 2}}));
        assert_eq!(document.twice, ["c", "a"]);
        let many: String = (0..2 * TWICE).map(|n| format!("k{n}: 1\nk{n}: 2\n")).collect();
        assert_eq!(parse(many.as_bytes()).unwrap().twice.len(), TWICE);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let cases: [&[u8]; 8] = [
            b"a: [",
            b"a: b: c",
            b"\xff\xfe",
            b"a: \xc3\x28",
            b"a: 1\n---\nb: 2\n",
            b"? [a, b]\n: c\n",
            b"a: .nan",
            b"a: *missing",
        ];
        for text in cases {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    /// Aliases of aliases, ten of each.
    fn laughter() -> String {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let refs = vec![format!("*a{before}"); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        bomb
    }

    #[test]
    fn nothing_grows_or_runs_without_bound() {
        const MEGA: usize = 1 << 20;
        let cases = [
            ("aliases of aliases", laughter()),
            (
                "one long list, many times",
                format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(MEGA / 2), "*a,".repeat(200)),
            ),
            (
                "one long text, many times",
                format!("a: &a {}\nb: [{}]\n", "x".repeat(MEGA), "*a,".repeat(MEGA / 4)),
            ),
            ("itself", "a: &a [*a]\n".to_owned()),
            ("deep lists", "[".repeat(5_000) + &"]".repeat(5_000)),
            ("deeper lists", "[".repeat(3 * MEGA)),
            ("deep maps", "{a: ".repeat(9_000)),
            ("deep keys", "{".repeat(3 * MEGA)),
            ("deep blocks", "- ".repeat(MEGA)),
            ("deep questions", "? ".repeat(MEGA)),
            ("deep indentation", (0..2_000).map(|level| " ".repeat(level) + "a:\n").collect()),
        ];
        for (name, text) in cases {
            let begun = Instant::now();
            assert!(parse(text.as_bytes()).is_err(), "{name}");
            println!("{name}: {:?}", begun.elapsed());
        }
        let cases = [
            ("anchors", (0..MEGA / 16).map(|n| format!("a{n}: &a{n} b\n")).collect::<String>()),
            ("colons", "a: ".to_owned() + &"b:".repeat(MEGA)),
            ("quotes", "a: '".to_owned() + &"''".repeat(MEGA) + "'"),
            ("spaces", "a: ".to_owned() + &" ".repeat(3 * MEGA)),
            ("comments", "#\n".repeat(MEGA)),
            ("opened and closed", "a: [".to_owned() + &"[],".repeat(MEGA / 8) + "]"),
            ("words", "a: [".to_owned() + &"x,".repeat(MEGA) + "]"),
            ("documents", "---\n".repeat(MEGA / 2)),
        ];
        for (name, text) in cases {
            let begun = Instant::now();
            let read = parse(text.as_bytes());
            println!("{name}: {:?} {}", begun.elapsed(), read.is_ok());
            assert!(begun.elapsed() < Duration::from_secs(10), "{name}");
        }
    }
}
