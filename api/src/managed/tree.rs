//! What may be owned: a shape as ownership sees it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Element;
use crate::shape::{self, Field, ListType, Shape, Struct};

/// How a value divides into parts with owners of their own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tree {
    /// It does not: plain values, and lists, maps and types that are atomic.
    Leaf,
    /// By the fields of its type.
    Struct(&'static Struct),
    /// By key.
    Map(shape::Element),
    /// By item; items are told apart by the values of these fields,
    /// comma-separated.
    Keyed(shape::Element, &'static str),
    /// By item; an item is a plain value.
    Set,
    /// By what is there: objects by key, anything else not at all. Upstream's
    /// "deduced" types.
    Any,
}

impl Tree {
    pub(super) fn of(shape: Shape, list_type: ListType) -> Self {
        match (shape, list_type) {
            (Shape::Struct(shape), _) if !shape.atomic => Self::Struct(shape),
            (Shape::Map(value), ListType::Default) => Self::Map(value),
            (Shape::List(item), ListType::Map(keys)) => Self::Keyed(item, keys),
            (Shape::List(_), ListType::Set) => Self::Set,
            (Shape::Any, _) => Self::Any,
            _ => Self::Leaf,
        }
    }

    fn of_field(field: &Field) -> Self {
        Self::of(field.shape(), field.list_type)
    }

    /// The member of that name; `None` if the type has no such field.
    pub(super) fn member(self, name: &str) -> Option<Member> {
        match self {
            Self::Struct(shape) => {
                let field = shape.field(name)?;
                Some(Member { field: Some(field), tree: Self::of_field(field) })
            }
            Self::Map(value) => {
                Some(Member { field: None, tree: Self::of(value.shape(), ListType::Default) })
            }
            _ => Some(Member { field: None, tree: Self::Any }),
        }
    }

    /// How an item divides.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Keyed(item, _) => Self::of(item.shape(), ListType::Default),
            _ => Self::Leaf,
        }
    }

    /// How the value below an element of a path divides.
    pub(super) fn below(self, element: &Element) -> Self {
        match (self, element) {
            (_, Element::Field(name)) => self.member(name).map_or(Self::Any, |m| m.tree),
            _ => self.item(),
        }
    }

    /// What tells an item of this list from the others, or why nothing does.
    pub(super) fn identify(self, item: &Value) -> Result<Element, String> {
        match self {
            Self::Keyed(element, keys) => keyed(element, keys, item),
            _ => match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".into())
                }
                Value::Array(_) => {
                    Err("not supported: associative list with lists as elements".into())
                }
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null"
                        .into())
                }
                item => Ok(Element::Value(item.to_string())),
            },
        }
    }
}

/// A member of an object, found once.
#[derive(Clone, Copy)]
pub(super) struct Member {
    /// The field, if the object's type has one; a map has keys.
    pub(super) field: Option<&'static Field>,
    /// How its value divides.
    pub(super) tree: Tree,
}

impl Member {
    /// The element that leads to the member called `name`.
    pub(super) fn element(self, name: &str) -> Element {
        Element::Field(match self.field {
            Some(field) => Cow::Borrowed(field.name),
            None => Cow::Owned(name.to_owned()),
        })
    }
}

/// A key field that is left out has its default, if it has one: a port without
/// a protocol is a TCP port.
fn keyed(element: shape::Element, keys: &str, item: &Value) -> Result<Element, String> {
    let item = match item {
        Value::Object(item) => item,
        Value::Null => {
            return Err("associative list with keys may not have a null element".into());
        }
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut found = Map::new();
    for key in keys.split(',') {
        let default = || match element.shape() {
            Shape::Struct(shape) => shape.field(key)?.default.map(Value::from),
            _ => None,
        };
        if let Some(value) = item.get(key).cloned().or_else(default) {
            found.insert(key.to_owned(), value);
        }
    }
    if found.is_empty() {
        let keys: Vec<&str> = keys.split(',').collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default values for any key fields)"
        ));
    }
    Ok(Element::Key(Value::Object(found).to_string()))
}

/// The members of an object; none if it is not one.
pub(super) fn members(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

/// The items of a list; none if it is not one.
pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
