//! Kubernetes' protobuf encoding of request bodies.
//!
//! Go clients (kubectl's `create`, controllers) send their typed objects as
//! `k8s\0` and an envelope with type, encoding and the message. The message is
//! read along the shape of its type, numbers from `fields.txt`, straight into
//! the JSON value that everything behind works with. Answers are JSON always;
//! every such client accepts that.
//!
//! Upstream's encoder writes fields that are not set as zeros, where JSON
//! leaves them out. So does the decoder, except where a zero can only mean
//! that it was set.

mod table;
mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_api::shape::{Field, Shape, Struct};

use table::{Entry, Numbers};
use wire::{Reader, Wire};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Messages nest at most this deep.
const MAX_DEPTH: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It is no message, or not the one it says it is.
    #[error("the body is not a valid protobuf message: {0}")]
    Malformed(&'static str),
    /// Its type is not one this server knows.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    UnknownType {
        /// `apiVersion` of the envelope.
        version: String,
        /// `kind` of the envelope.
        kind: String,
    },
}

use DecodeError::Malformed;

/// Reads a body into the object that the same body in JSON would be.
pub(crate) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Malformed("it does not begin with k8s"))?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(envelope);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader::new(meta);
                while let Some((number, value)) = meta.next()? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(Malformed("its content is encoded"));
            }
            _ => {}
        }
    }
    let known =
        type_of(&version, &kind).and_then(|shape| Some((shape, table::numbers(shape.name)?)));
    let Some((shape, numbers)) = known else {
        return Err(DecodeError::UnknownType { version, kind });
    };
    let mut object = message(raw, shape, numbers, 0)?;
    object.insert("apiVersion".to_owned(), json!(version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

/// The type of an envelope. Options such as `DeleteOptions` go by the version
/// of whatever they are sent to.
fn type_of(version: &str, kind: &str) -> Option<&'static Struct> {
    let (group, version) = version.rsplit_once('/').unwrap_or(("core", version));
    let group = group.split('.').next().unwrap_or(group);
    Struct::named(&format!("{group}.{version}.{kind}"))
        .or_else(|| Struct::named(&format!("meta.v1.{kind}")))
}

fn message(
    bytes: &[u8],
    shape: &'static Struct,
    numbers: &'static Numbers,
    depth: usize,
) -> Result<Map<String, Value>, DecodeError> {
    let mut object = Map::new();
    fill(&mut object, bytes, shape, numbers, depth)?;
    Ok(object)
}

fn fill(
    object: &mut Map<String, Value>,
    bytes: &[u8],
    shape: &'static Struct,
    numbers: &'static Numbers,
    depth: usize,
) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(Malformed("it is nested too deep"));
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match numbers.get(number) {
            // A newer client's field: JSON would be told of it, but here the
            // name is not known.
            None => {}
            Some(Entry::Inline(numbers)) => fill(object, wire.bytes()?, shape, numbers, depth + 1)?,
            Some(Entry::Field { name, always }) => {
                let Some(field) = shape.field(name) else { continue };
                add(object, field, wire, *always || field.required, depth)?;
            }
        }
    }
    Ok(())
}

/// Adds one occurrence of a field to an object.
fn add(
    object: &mut Map<String, Value>,
    field: &Field,
    wire: Wire<'_>,
    keep_zero: bool,
    depth: usize,
) -> Result<(), DecodeError> {
    match field.shape() {
        Shape::List(element) => {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            let list = list.as_array_mut().ok_or(Malformed("a field is both a list and none"))?;
            match (element.shape(), &wire) {
                // Numbers may be packed into one field.
                (Shape::Int32 | Shape::Int64, Wire::Bytes(packed)) => {
                    let mut packed = Reader::new(packed);
                    while let Some(number) = packed.next_varint()? {
                        list.push(json!(number.cast_signed()));
                    }
                }
                (shape, _) => list.push(value(shape, wire, depth)?.unwrap_or(Value::Null)),
            }
        }
        Shape::Map(element) => {
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            let map = map.as_object_mut().ok_or(Malformed("a field is both a map and none"))?;
            let (mut key, mut item) = (String::new(), None);
            let mut reader = Reader::new(wire.bytes()?);
            while let Some((number, wire)) = reader.next()? {
                match number {
                    1 => key = string(wire.bytes()?)?,
                    2 => item = map_item(element.shape(), wire, depth)?,
                    _ => {}
                }
            }
            map.insert(key, item.unwrap_or_else(|| zero(element.shape())));
        }
        shape => {
            let Some(value) = value(shape, wire, depth)? else { return Ok(()) };
            // An unset port of a Service means "the same".
            let zero_port = field.name == "targetPort" && value == json!(0);
            if zero_port || (!keep_zero && is_zero(&value)) {
                return Ok(());
            }
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(())
}

/// A map's value; lists stand in a message of their own.
fn map_item(shape: Shape, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, DecodeError> {
    let Shape::List(element) = shape else { return value(shape, wire, depth) };
    let mut items = Vec::new();
    let mut reader = Reader::new(wire.bytes()?);
    while let Some((_, wire)) = reader.next()? {
        items.push(value(element.shape(), wire, depth + 1)?.unwrap_or(Value::Null));
    }
    Ok(Some(Value::Array(items)))
}

/// One value; `None` for a time that is not set.
fn value(shape: Shape, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, DecodeError> {
    Ok(Some(match shape {
        Shape::String => json!(string(wire.bytes()?)?),
        Shape::Bytes => json!(STANDARD.encode(wire.bytes()?)),
        Shape::Bool => json!(wire.varint()? != 0),
        Shape::Int32 | Shape::Int64 => json!(wire.varint()?.cast_signed()),
        Shape::Quantity => {
            json!(string(first(wire.bytes()?, 1)?.map_or(Ok(&[][..]), Wire::bytes)?)?)
        }
        Shape::Time => return time(wire.bytes()?, skiff_api::meta::rfc3339),
        Shape::MicroTime => return time(wire.bytes()?, skiff_api::meta::rfc3339_micro),
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Any => raw_json(wire.bytes()?)?,
        Shape::Struct(shape) => {
            let numbers = table::numbers(shape.name)
                .ok_or(Malformed("it holds a type that has no encoding"))?;
            Value::Object(message(wire.bytes()?, shape, numbers, depth + 1)?)
        }
        Shape::List(_) | Shape::Map(_) => {
            return Err(Malformed("a list stands directly in a list"));
        }
    }))
}

/// The value of a map's entry that names only its key.
fn zero(shape: Shape) -> Value {
    match shape {
        Shape::Bool => json!(false),
        Shape::Int32 | Shape::Int64 => json!(0),
        Shape::Struct(_) | Shape::Map(_) => json!({}),
        Shape::List(_) => json!([]),
        _ => json!(""),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The first field with that number.
fn first(bytes: &[u8], wanted: u32) -> Result<Option<Wire<'_>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

fn time(bytes: &[u8], write: fn(Timestamp) -> String) -> Result<Option<Value>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let number = |wanted| {
        Ok::<_, DecodeError>(first(bytes, wanted)?.map_or(Ok(0), Wire::varint)?.cast_signed())
    };
    let nanos =
        i32::try_from(number(2)?).map_err(|_| Malformed("a time has too many nanoseconds"))?;
    let at = Timestamp::new(number(1)?, nanos)
        .map_err(|_| Malformed("a time is beyond the calendar"))?;
    Ok(Some(json!(write(at))))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let is_text = first(bytes, 1)?.map_or(Ok(0), Wire::varint)? == 1;
    if is_text {
        return Ok(json!(string(first(bytes, 3)?.map_or(Ok(&[][..]), Wire::bytes)?)?));
    }
    Ok(json!(first(bytes, 2)?.map_or(Ok(0), Wire::varint)?.cast_signed()))
}

/// JSON inside a message, as `RawExtension` carries it.
fn raw_json(bytes: &[u8]) -> Result<Value, DecodeError> {
    match first(bytes, 1)? {
        None => Ok(Value::Null),
        Some(raw) => serde_json::from_slice(raw.bytes()?)
            .map_err(|_| Malformed("an embedded object is not JSON")),
    }
}

fn string(bytes: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests;
