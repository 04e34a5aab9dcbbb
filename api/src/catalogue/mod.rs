//! The catalogue: one entry per served kind. Adding a kind is adding an entry.
//!
//! An entry says how a kind is named, what can be done with it, and points to
//! the functions that decode, default, validate and print its objects. The API
//! server is a machine over this table and has no handler of a kind's own.

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod autoscaling;
mod batch;
mod certificates;
mod convert;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod legacy;
mod networking;
mod node;
mod policy;
mod prepare;
mod rbac;
mod resource;
mod scheduling;
mod storage;
mod strict;
mod subresources;
mod typed;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub use prepare::{InitialStatus, Rules};
pub use strict::{duplicate_field, duplicate_fields, field_problems, unknown_field};
pub use typed::{Typed, ValidateUpdate};

/// Verbs of a kind that is stored and can be changed in every way.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Every entry, in discovery's order of preference: a kind's current group
/// comes before its dropped ones.
pub fn all() -> &'static [Resource] {
    &ALL
}

/// The entry of a resource by group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    BY_PLURAL.get(&(group, version, plural)).map(|&at| &ALL[at])
}

/// The entry of a kind by group, version and kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    ALL.iter().find(|r| r.kind == kind && r.version == version && r.group == group)
}

/// The served groups with their versions, both in order of preference.
pub fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for resource in all() {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if versions.contains(&resource.version) => {}
            Some((_, versions)) => versions.push(resource.version),
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    groups
}

#[cfg(test)]
mod tests;

static ALL: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut all = [
        core::ENTRIES,
        apps::ENTRIES,
        events::ENTRIES,
        authentication::AUTHENTICATION,
        authentication::AUTHORIZATION,
        autoscaling::ENTRIES,
        batch::ENTRIES,
        certificates::ENTRIES,
        networking::ENTRIES,
        policy::ENTRIES,
        rbac::ENTRIES,
        storage::ENTRIES,
        admissionregistration::ENTRIES,
        scheduling::ENTRIES,
        apiextensions::ENTRIES,
        apiregistration::ENTRIES,
        coordination::ENTRIES,
        node::ENTRIES,
        discovery::ENTRIES,
        flowcontrol::ENTRIES,
        resource::ENTRIES,
    ]
    .concat();
    all.extend(legacy::entries(&all));
    all
});

type Name = (&'static str, &'static str, &'static str);

static BY_PLURAL: LazyLock<HashMap<Name, usize>> = LazyLock::new(|| {
    ALL.iter().enumerate().map(|(at, r)| ((r.group, r.version, r.plural), at)).collect()
});

/// One served resource: a kind in one group and version.
#[derive(Clone, Copy)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version, such as `v1`.
    pub version: &'static str,
    /// Kind, such as `Pod`.
    pub kind: &'static str,
    /// Plural resource name, such as `pods`.
    pub plural: &'static str,
    /// Singular name, such as `pod`.
    pub singular: &'static str,
    /// Short names, such as `po`.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs in discovery's spelling (`create`, `get`, `list`, `watch`,
    /// `update`, `patch`, `delete`, `deletecollection`).
    pub verbs: &'static [&'static str],
    /// Subresources in the order discovery shows them.
    pub subresources: &'static [Subresource],
    /// What the kind does to its objects.
    pub behaviour: &'static dyn Behaviour,
    /// For a view of a kind that is stored in another group or version
    /// (dropped versions, and pairs such as `events`): how the two map.
    pub legacy: Option<&'static Legacy>,
    /// Where the `scale` subresource finds its numbers.
    pub scale: Option<&'static ScalePaths>,
}

impl Resource {
    /// What most entries have in common.
    const BASE: Resource = Resource {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        behaviour: &Typed::<k8s_openapi::api::core::v1::ConfigMap>::PLAIN,
        legacy: None,
        scale: None,
    };

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The entry under which objects are stored: itself, or for a view the
    /// kind it maps to. Defaulting, validation, storage and printing use it.
    pub fn stored(&'static self) -> &'static Resource {
        match self.legacy {
            // A view of a kind that is not served would be our own bug; the
            // test `views_point_to_entries` keeps it out.
            Some(legacy) => {
                find(legacy.current.0, legacy.current.1, legacy.current.2).unwrap_or(self)
            }
            None => self,
        }
    }

    /// The version in which the fields of an object are recorded that is
    /// written through this entry: its own, unless the stored shape calls them
    /// by other names.
    pub fn recorded_version(&'static self) -> String {
        match self.legacy {
            Some(legacy) if legacy.reshaped => self.stored().api_version(),
            _ => self.api_version(),
        }
    }

    /// Reads a body in this entry's shape and leaves it in the stored shape,
    /// `apiVersion` included. Returns the paths of unknown fields.
    pub fn decode(&'static self, object: &mut Value) -> Result<Vec<String>, String> {
        let Some(legacy) = self.legacy else { return self.behaviour.normalize(object) };
        let mut unknown =
            if legacy.own_type { self.behaviour.normalize(object)? } else { Vec::new() };
        (legacy.to_current)(object);
        let stored = self.stored();
        name_type(object, stored);
        unknown.extend(stored.behaviour.normalize(object)?);
        Ok(unknown)
    }

    /// Turns a stored object into this entry's shape.
    pub fn encode(&'static self, object: &mut Value) {
        if let Some(legacy) = self.legacy {
            (legacy.from_current)(object);
            name_type(object, self);
        }
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the answer to a deletion is the object that went, as upstream
    /// chose for some kinds; else it is a `Status`. Clients that are generated
    /// from the API's description rely on it.
    pub fn returns_deleted(&self) -> bool {
        match self.group {
            "" => matches!(
                self.plural,
                "persistentvolumeclaims"
                    | "persistentvolumes"
                    | "pods"
                    | "podtemplates"
                    | "resourcequotas"
                    | "serviceaccounts"
                    | "services"
            ),
            "resource.k8s.io" => true,
            "storage.k8s.io" => self.plural != "csistoragecapacities",
            _ => false,
        }
    }

    /// Whether objects of the kind are kept, and so can be watched. Reviews
    /// and bindings are not: they are answered and forgotten.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"watch")
    }
}

/// Writes the entry's `apiVersion` and `kind` into an object.
fn name_type(object: &mut Value, resource: &Resource) {
    if let Value::Object(map) = object {
        map.insert("apiVersion".into(), resource.api_version().into());
        map.insert("kind".into(), resource.kind.into());
    }
}

/// A subresource such as `pods/log`.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// Its name, such as `log`.
    pub name: &'static str,
    /// The kind it exchanges, with group and version where they differ from
    /// the parent's (`Scale` is `autoscaling/v1`).
    pub kind: &'static str,
    /// Group of `kind`.
    pub group: &'static str,
    /// Version of `kind`.
    pub version: &'static str,
    /// Its verbs.
    pub verbs: &'static [&'static str],
}

/// Maps one view of a kind to the group and version that is stored.
#[derive(Debug)]
pub struct Legacy {
    /// Group, version and plural of the stored kind.
    pub current: (&'static str, &'static str, &'static str),
    /// Whether the entry's behaviour reads the view's own shape. Versions that
    /// Kubernetes has dropped have no type any more and are converted first.
    pub own_type: bool,
    /// Whether some fields have other names or places than in the stored kind.
    pub reshaped: bool,
    /// What a `Warning` header tells users of a dropped version.
    pub warning: Option<&'static str>,
    /// Rewrites an object of the old version into the current one.
    pub to_current: fn(&mut Value),
    /// Rewrites a stored object into the old version.
    pub from_current: fn(&mut Value),
}

/// Where the `scale` subresource of a kind finds its numbers, as JSON pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalePaths {
    /// The desired number.
    pub spec_replicas: &'static str,
    /// The observed number.
    pub status_replicas: &'static str,
    /// The selector: a `LabelSelector`, or a plain map of labels.
    pub selector: &'static str,
}

/// How strictly a body is read: the `fieldValidation` query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Unknown and duplicate fields are dropped silently.
    Ignore,
    /// They are dropped, and each gives a warning.
    Warn,
    /// They refuse the request.
    Strict,
}

/// Which write is being made; some rules hold for one and not for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object itself: `status` is kept from the old object.
    Main,
    /// The `status` subresource: everything but `status` is kept.
    Status,
    /// Another subresource that edits the object, by name
    /// (`ephemeralcontainers`, `resize`, `binding`…).
    Other(&'static str),
}

/// What a kind does to its objects. All functions are pure.
pub trait Behaviour: Send + Sync {
    /// Reads `object` as the kind's type: wrong types are an error that names
    /// the field, fields the kind does not have are removed and returned as
    /// paths (`spec.replcias`) for the caller to ignore, warn of or refuse.
    fn normalize(&self, object: &mut Value) -> Result<Vec<String>, String>;

    /// Fills in what Kubernetes fills in when a field is left out.
    fn default(&self, object: &mut Value);

    /// Puts a new object into the state that a create may start from: drops a
    /// client's `status`, sets `metadata.generation`.
    fn prepare_create(&self, object: &mut Value);

    /// Carries over from `old` what this part of an update must not change and
    /// advances `metadata.generation` when the desired state changed.
    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part);

    /// Leaves of an applied configuration what this part may write, so that
    /// nobody comes to own what is ignored.
    fn restrict(&self, config: &mut Value, part: Part);

    /// All rules a new object breaks; empty when it is valid.
    fn validate_create(&self, object: &Value) -> Vec<FieldError>;

    /// All rules an update breaks; empty when it is valid.
    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Vec<FieldError>;

    /// The columns of `kubectl get`, after upstream's printers.
    fn columns(&self) -> Vec<Column>;

    /// One row under those columns. `now` serves the ages.
    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;

    /// The value of a field that a field selector may name, `None` when the
    /// kind does not support selecting by it. `metadata.name` and
    /// `metadata.namespace` are handled by the caller.
    fn selectable(&self, object: &Value, field: &str) -> Option<String>;

    /// The kind's fields, and how they merge.
    fn shape(&self) -> Option<&'static crate::shape::Struct>;

    /// The kind's JSON schema as `k8s-openapi` generates it, definitions it
    /// refers to included.
    fn schema(&self) -> Value;
}

/// One column of a Table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Header, such as `Ready`.
    pub name: &'static str,
    /// `string`, `integer`, `date`…
    pub r#type: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// What it means.
    pub description: &'static str,
}

/// One broken rule, as upstream's `field.Error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.containers[0].name`.
    pub field: String,
    /// Kind of the error.
    pub reason: FieldReason,
    /// The offending value; `Null` where the message leaves it out.
    pub value: Value,
    /// What is wrong, in upstream's words where scripts read them.
    pub detail: String,
}

/// Kinds of field errors with the reasons that a `Status` cause carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldReason {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotFound`
    NotFound,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueTooLong`
    TooLong,
    /// `FieldValueTooMany`
    TooMany,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
}
