//! An object of any kind, as it comes from a watch.
//!
//! `kube`'s `DynamicObject` would do, but reads each object three times: into
//! `serde`'s own buffer for the sake of its flattened fields, from that into typed
//! metadata beside a value, and, to be complete again, back into one value.

use std::borrow::Cow;
use std::fmt;

use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// An object without its managed fields.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    value: Value,
    /// Of its metadata the name and the revision, which `kube` asks for.
    meta: ObjectMeta,
}

impl Object {
    pub(crate) fn name(&self) -> Option<String> {
        self.meta.name.clone()
    }

    pub(crate) fn into_value(self) -> Value {
        self.value
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_map(Without { omitted: None })?;
        let said = |key: &str| Some(value["metadata"][key].as_str()?.to_owned());
        let meta = ObjectMeta {
            name: said("name"),
            resource_version: said("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { value, meta })
    }
}

/// Reads a map of JSON but for one key; the whole object but for its metadata's
/// managed fields if no key is given.
struct Without {
    omitted: Option<&'static str>,
}

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if self.omitted == Some(&key) {
                fields.next_value::<IgnoredAny>()?;
            } else if self.omitted.is_none() && key == "metadata" {
                map.insert(key, fields.next_value_seed(Self { omitted: Some("managedFields") })?);
            } else {
                map.insert(key, fields.next_value()?);
            }
        }
        Ok(Value::Object(map))
    }
}

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_is_read_but_managed_fields() {
        let whole = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "m", "resourceVersion": "7", "labels": {"managedFields": "a label"},
                "managedFields": [{"manager": "somebody"}]},
            "data": {"metadata": "a key", "managedFields": "another"},
        });
        let object: Object = serde_json::from_str(&whole.to_string()).unwrap();
        assert_eq!(object.meta().name.as_deref(), Some("m"));
        assert_eq!(object.meta().resource_version.as_deref(), Some("7"));
        let mut rest = whole;
        rest["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(object.into_value(), rest);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "7", "{\"metadata\": 7}", "{\"metadata\": {\"name\": }}"] {
            assert!(serde_json::from_str::<Object>(text).is_err(), "{text}");
        }
    }
}
