//! Which objects of a collection a request means: its label and field
//! selectors.
//!
//! Most requests have none, many only a name; neither makes the server look
//! into the objects.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use skiff_api::catalogue::Resource;
use skiff_api::selector::{FieldSelector, LabelSelector};
use skiff_store::Entry;

use super::selected::Selected;
use super::{Call, object};
use crate::status::ApiError;

/// The selectors of one request.
pub(crate) struct Filter {
    stored: &'static Resource,
    labels: LabelSelector,
    fields: FieldSelector,
    /// The field selector names only `metadata.name` and `.namespace`, which
    /// stand in the key.
    key_only: bool,
    /// The view whose own field names the selector uses.
    view: Option<&'static Resource>,
    /// What was found in objects before, for those who ask for each that changes.
    selected: Option<Selected>,
}

/// The part of an object that label selectors look at, without copying.
#[derive(Deserialize)]
struct Labelled<'a> {
    #[serde(borrow)]
    metadata: Labels<'a>,
}

#[derive(Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default)]
    labels: HashMap<Cow<'a, str>, Cow<'a, str>>,
}

impl Filter {
    /// Reads the selectors of a call. 400 for what cannot be read or selected.
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let options = &call.options;
        let labels = LabelSelector::parse(&options.label_selector)
            .map_err(|err| ApiError::bad_request(format!("unable to parse requirement: {err}")))?;
        let mut fields = FieldSelector::parse(&options.field_selector).map_err(|err| {
            ApiError::bad_request(format!(
                "invalid field selector {:?}: {err}",
                options.field_selector
            ))
        })?;
        let on_key = |field: &str| matches!(field, "metadata.name" | "metadata.namespace");
        let has = |resource: &Resource, field: &str| {
            resource.behaviour.selectable(&serde_json::Value::Null, field).is_some()
        };
        let mut view = None;
        for requirement in &fields.requirements {
            let field = requirement.field.as_str();
            if on_key(field) || has(call.stored, field) {
                continue;
            }
            if has(call.resource, field) {
                view = Some(call.resource);
            } else {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
        }
        // `/watch/…/pods/NAME` is a watch on one name. Whatever the selector
        // says, nothing beyond the name that was authorized may be seen.
        if !call.info.name.is_empty() {
            fields.requirements.push(skiff_api::selector::FieldRequirement {
                field: "metadata.name".to_owned(),
                value: call.info.name.clone(),
                equal: true,
            });
        }
        let key_only = fields.requirements.iter().all(|requirement| on_key(&requirement.field));
        Ok(Self { stored: call.stored, labels, fields, key_only, view, selected: None })
    }

    /// The same for a watch: what it looks for in an object may have been found.
    pub(super) fn beside(self, selected: &Selected) -> Self {
        // Fields that only a view has are looked for by few.
        let selected = self.view.is_none().then(|| selected.clone());
        Self { selected, ..self }
    }

    /// Whether nothing is left out.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object is meant.
    pub(crate) fn matches(&self, entry: &Entry) -> Result<bool, ApiError> {
        if self.is_everything() {
            return Ok(true);
        }
        if !self.fields.is_empty() && self.key_only {
            let (namespace, name) = names(self.stored, &entry.key);
            let selected = self.fields.matches(|field| match field {
                "metadata.name" => Some(Cow::Borrowed(name)),
                "metadata.namespace" => Some(Cow::Borrowed(namespace)),
                _ => None,
            });
            if !selected {
                return Ok(false);
            }
        }
        if !self.labels.is_empty() && !self.labels_match(entry)? {
            return Ok(false);
        }
        if self.key_only {
            return Ok(true);
        }
        let wanted: Vec<&str> = self.fields.requirements.iter().map(|one| &*one.field).collect();
        let found = match &self.selected {
            Some(selected) => selected.of(entry, &wanted, || self.values(entry, &wanted))?,
            None => self.values(entry, &wanted)?,
        };
        Ok(self.fields.matches(|field| {
            let value = found.iter().find(|(name, _)| name == field)?.1.as_deref();
            value.map(Cow::Borrowed)
        }))
    }

    /// What the object has in these fields.
    fn values(
        &self,
        entry: &Entry,
        fields: &[&str],
    ) -> Result<Vec<(String, Option<String>)>, ApiError> {
        let object = object::decode_entry(entry)?;
        let shown = self.view.map(|view| (view, object::view(view, object.clone())));
        let in_view = |field: &str| {
            let (view, shown) = shown.as_ref()?;
            view.behaviour.selectable(shown, field)
        };
        let value = |field: &str| match field {
            "metadata.name" => Some(object::meta(&object, "name").to_owned()),
            "metadata.namespace" => Some(object::meta(&object, "namespace").to_owned()),
            _ => self.stored.behaviour.selectable(&object, field).or_else(|| in_view(field)),
        };
        Ok(fields.iter().map(|field| ((*field).to_owned(), value(field))).collect())
    }

    fn labels_match(&self, entry: &Entry) -> Result<bool, ApiError> {
        let read: Labelled<'_> = serde_json::from_slice(&entry.value).map_err(|err| {
            tracing::error!(%err, key = %entry.key, "a stored object has no readable labels");
            ApiError::internal("a stored object is damaged")
        })?;
        let labels = read.metadata.labels;
        Ok(self.labels.matches(|key| labels.get(key).map(|value| &**value)))
    }
}

/// Namespace and name in a key.
fn names<'a>(stored: &Resource, key: &'a str) -> (&'a str, &'a str) {
    let mut parts = key.rsplitn(3, '/');
    let name = parts.next().unwrap_or_default();
    let namespace = if stored.namespaced { parts.next().unwrap_or_default() } else { "" };
    (namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_names() {
        let pods = skiff_api::catalogue::find("", "v1", "pods").unwrap();
        let nodes = skiff_api::catalogue::find("", "v1", "nodes").unwrap();
        assert_eq!(names(pods, "/core/pods/default/a"), ("default", "a"));
        assert_eq!(names(nodes, "/core/nodes/n"), ("", "n"));
    }
}
