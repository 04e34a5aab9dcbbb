//! The shapes of the built-in types: which fields a type has, of what type, and
//! how two versions of a list are merged.
//!
//! `k8s-openapi` knows the fields but not upstream's struct tags
//! (`patchStrategy`, `patchMergeKey`, `listType`), so both are kept together as
//! data in `types.txt`, read once at first use. Strategic merge patches, the
//! canonical form of objects and the OpenAPI documents walk objects along it.

mod canonical;
mod check;

use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, OnceLock};

pub use canonical::{canonicalize, fill_nulls};
pub use check::{WrongType, unknown_fields, wrong_type};

/// The shape of a value.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A string.
    String,
    /// Bytes, as base64 text.
    Bytes,
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A [`crate::quantity::Quantity`].
    Quantity,
    /// A time with seconds.
    Time,
    /// A time with microseconds.
    MicroTime,
    /// A number, or a string such as `25%` or a port's name.
    IntOrString,
    /// Anything.
    Any,
    /// An object with known fields.
    Struct(&'static Struct),
    /// A list.
    List(Element),
    /// A map with string keys.
    Map(Element),
}

/// The shape of a list's items or a map's values.
#[derive(Debug, Clone, Copy)]
pub struct Element(&'static str);

impl Element {
    /// Its shape.
    pub fn shape(self) -> Shape {
        parse(self.0)
    }
}

/// An object type.
pub struct Struct {
    /// Short name, such as `core.v1.Pod`.
    pub name: &'static str,
    /// Server-side apply treats the object as one value.
    pub atomic: bool,
    /// Its fields, sorted by name.
    pub fields: Vec<Field>,
}

/// Types refer to each other, some to themselves.
impl fmt::Debug for Struct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Struct {
    /// The type of that name, short (`core.v1.Pod`) or as upstream's OpenAPI
    /// spells it (`io.k8s.api.core.v1.Pod`).
    pub fn named(name: &str) -> Option<&'static Struct> {
        let prefixes = [API, APIMACHINERY, AGGREGATOR];
        let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        TYPES.get(short)
    }

    /// The name in upstream's OpenAPI documents.
    pub fn full_name(&self) -> String {
        let prefix = match self.name.split('.').next() {
            Some("meta") => APIMACHINERY,
            Some("apiregistration") => AGGREGATOR,
            _ => API,
        };
        format!("{prefix}{}", self.name)
    }

    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by_key(&name, |field| field.name).ok().map(|at| &self.fields[at])
    }
}

/// A field of an object type.
#[derive(Debug)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// How strategic merge patches change a list.
    pub merge: Merge,
    /// A patch lists the keys that it wants kept in `$retainKeys`.
    pub retain_keys: bool,
    /// A strategic merge patch replaces the whole object.
    pub replace: bool,
    /// How server-side apply sees a list or map.
    pub list_type: ListType,
    /// What it is where it is left out, if it tells the items of a list apart.
    pub default: Option<&'static str>,
    spec: &'static str,
    shape: OnceLock<Shape>,
}

impl Field {
    /// The shape of its value.
    pub fn shape(&self) -> Shape {
        // Objects are walked with every write: the name is looked up once.
        *self.shape.get_or_init(|| parse(self.spec))
    }
}

/// How a strategic merge patch changes a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// It replaces the list.
    Replace,
    /// It adds plain values that are not there yet.
    Values,
    /// It merges the objects that agree in this key.
    ByKey(&'static str),
}

/// How server-side apply sees a list or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Lists are atomic, maps granular.
    Default,
    /// One value.
    Atomic,
    /// Each value has an owner.
    Set,
    /// Each item has an owner; items are told apart by these keys,
    /// comma-separated.
    Map(&'static str),
}

const API: &str = "io.k8s.api.";
const APIMACHINERY: &str = "io.k8s.apimachinery.pkg.apis.";
const AGGREGATOR: &str = "io.k8s.kube-aggregator.pkg.apis.";

/// Every type.
pub fn types() -> impl Iterator<Item = &'static Struct> {
    TYPES.values()
}

static TYPES: LazyLock<HashMap<&'static str, Struct>> =
    LazyLock::new(|| read(include_str!("types.txt")));

/// Reads `types.txt`; its format stands at its head.
fn read(text: &'static str) -> HashMap<&'static str, Struct> {
    let mut types: Vec<Struct> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.trim_start().split(' ');
        let name = words.next().unwrap_or_default();
        match types.last_mut() {
            Some(last) if line.starts_with(' ') => last.fields.push(field(name, words)),
            _ => types.push(Struct {
                name,
                atomic: words.next() == Some("atomic"),
                fields: Vec::new(),
            }),
        }
    }
    types.into_iter().map(|shape| (shape.name, shape)).collect()
}

fn field(name: &'static str, mut words: std::str::Split<'static, char>) -> Field {
    let mut field = Field {
        name: name.trim_end_matches('!'),
        required: name.ends_with('!'),
        merge: Merge::Replace,
        retain_keys: false,
        replace: false,
        list_type: ListType::Default,
        default: None,
        spec: words.next().unwrap_or_default(),
        shape: OnceLock::new(),
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("merge", "") => field.merge = Merge::Values,
            ("merge", key) => field.merge = Merge::ByKey(key),
            ("retainKeys", _) => field.retain_keys = true,
            ("replace", _) => field.replace = true,
            ("set", _) => field.list_type = ListType::Set,
            ("atomic", _) => field.list_type = ListType::Atomic,
            ("map", keys) => field.list_type = ListType::Map(keys),
            ("default", text) => field.default = Some(text),
            // The test over the whole file keeps other words out.
            _ => {}
        }
    }
    field
}

fn parse(spec: &'static str) -> Shape {
    if let Some(element) = spec.strip_prefix("[]") {
        return Shape::List(Element(element));
    }
    if let Some(element) = spec.strip_prefix("{}") {
        return Shape::Map(Element(element));
    }
    if let Some(name) = spec.strip_prefix('@') {
        return TYPES.get(name).map_or(Shape::Any, Shape::Struct);
    }
    match spec {
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "quantity" => Shape::Quantity,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "intorstring" => Shape::IntOrString,
        _ => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::catalogue;

    #[test]
    fn every_word_is_understood() {
        for line in include_str!("types.txt").lines().filter(|l| l.starts_with(' ')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let base = words[1].trim_start_matches(['[', ']', '{', '}']);
            match base.strip_prefix('@') {
                Some(name) => assert!(Struct::named(name).is_some(), "{line}"),
                None => assert!(base == "any" || !matches!(parse(words[1]), Shape::Any), "{line}"),
            }
            for word in &words[2..] {
                let known = ["merge", "retainKeys", "replace", "set", "atomic", "map", "default"];
                assert!(known.contains(&word.split('=').next().unwrap()), "{line}");
            }
        }
        for shape in types() {
            assert!(shape.fields.is_sorted_by_key(|f| f.name), "{}", shape.name);
            for field in &shape.fields {
                if let (Merge::ByKey(key), Shape::List(item)) = (field.merge, field.shape()) {
                    let Shape::Struct(item) = item.shape() else {
                        panic!("{} {}", shape.name, field.name)
                    };
                    assert!(item.field(key).is_some(), "{} {}", shape.name, field.name);
                }
            }
        }
    }

    /// The file has every field that the generated types have, and no other.
    #[test]
    fn agrees_with_the_generated_types() {
        let mut seen = BTreeSet::new();
        // A kind that is served empty has no fields to agree on.
        let shaped = catalogue::all().iter().filter(|r| r.behaviour.shape().is_some());
        for resource in shaped {
            let schema = resource.behaviour.schema();
            let own = std::iter::once((schema["title"].as_str().unwrap(), &schema));
            let defs = schema["$defs"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, s)| (name.as_str(), s));
            for (name, schema) in own.chain(defs) {
                let Some(properties) = schema["properties"].as_object() else { continue };
                if !seen.insert(name.to_owned()) {
                    continue;
                }
                let shape = Struct::named(name).unwrap_or_else(|| panic!("{name} is missing"));
                assert_eq!(shape.full_name(), name);
                let required = |f: &str| {
                    schema["required"].as_array().is_some_and(|r| r.contains(&Value::from(f)))
                };
                let expected: Vec<_> =
                    properties.keys().map(|f| (f.as_str(), required(f))).collect();
                let fields: Vec<_> = shape.fields.iter().map(|f| (f.name, f.required)).collect();
                assert_eq!(fields, expected, "{name}");
            }
        }
        assert!(seen.len() > 400);
    }
}
