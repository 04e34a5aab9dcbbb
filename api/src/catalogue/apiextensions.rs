//! Definitions of custom resources: none so far, and none can be made.
//!
//! Clients list them to learn whether a kind that they do not know is a custom
//! one, and take a missing collection for a broken server. So it is there,
//! empty, for reading only, until custom resources are.

use serde_json::{Value, json};

use super::{Behaviour, Column, FieldError, Part, Resource};
use crate::shape::Struct;
use crate::table;

pub(super) const ENTRIES: &[Resource] = &[Resource {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    verbs: &["get", "list", "watch"],
    behaviour: &Absent,
    ..Resource::BASE
}];

/// The behaviour of a kind of which there are no objects.
struct Absent;

impl Behaviour for Absent {
    fn normalize(&self, _: &mut Value) -> Result<Vec<String>, String> {
        Err("custom resources are not supported".into())
    }

    fn default(&self, _: &mut Value) {}

    fn prepare_create(&self, _: &mut Value) {}

    fn prepare_update(&self, _: &mut Value, _: &Value, _: Part) {}

    fn restrict(&self, _: &mut Value, _: Part) {}

    fn validate_create(&self, _: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_update(&self, _: &Value, _: &Value, _: Part) -> Vec<FieldError> {
        Vec::new()
    }

    fn columns(&self) -> Vec<Column> {
        table::NAME_AND_AGE.columns.to_vec()
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        (table::NAME_AND_AGE.row)(object, now)
    }

    fn selectable(&self, _: &Value, _: &str) -> Option<String> {
        None
    }

    fn shape(&self) -> Option<&'static Struct> {
        None
    }

    fn schema(&self) -> Value {
        let name =
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
        json!({
            "title": name,
            "type": "object",
            "description": "The definition of a custom resource.",
            "properties": {
                "apiVersion": {"type": "string", "description": "Group and version of this object."},
                "kind": {"type": "string", "description": "What this object is."},
            },
        })
    }
}
