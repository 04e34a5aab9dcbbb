//! Rules of `metadata`, which every kind shares, and of label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};

use super::names::{self, NameRule};
use super::path::{Errors, Path, json, list, text};
use crate::catalogue::FieldError;

/// All annotations of an object together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// What a kind demands of its objects' metadata.
#[derive(Clone, Copy)]
pub struct MetaRules {
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// The rule for its names.
    pub name: NameRule,
}

impl MetaRules {
    /// A kind within namespaces.
    pub const fn namespaced(name: NameRule) -> Self {
        MetaRules { namespaced: true, name }
    }

    /// A kind of the whole cluster.
    pub const fn cluster(name: NameRule) -> Self {
        MetaRules { namespaced: false, name }
    }
}

/// Checks a new object: its metadata first, then by `own` what its kind demands.
pub fn check_create(
    meta: &ObjectMeta,
    rules: MetaRules,
    own: impl FnOnce(&mut Errors),
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, meta, rules);
    own(&mut errors);
    errors.into_vec()
}

/// Checks an update: the metadata of the `new` and the `old` object first, then
/// by `own` what their kind demands.
pub fn check_update(
    new: &ObjectMeta,
    old: &ObjectMeta,
    own: impl FnOnce(&mut Errors),
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, new, old);
    own(&mut errors);
    errors.into_vec()
}

/// Checks a new object of a kind that has no rules of its own.
pub fn generic_create(meta: &ObjectMeta, rules: MetaRules) -> Vec<FieldError> {
    check_create(meta, rules, |_| {})
}

/// Checks an update of a kind that has no rules of its own.
pub fn generic_update(new: &ObjectMeta, old: &ObjectMeta) -> Vec<FieldError> {
    check_update(new, old, |_| {})
}

/// A `generateName` has been turned into a name before.
fn object_meta(errors: &mut Errors, meta: &ObjectMeta, rules: MetaRules) {
    let path = Path::root("metadata");
    let (name, prefix, namespace) =
        (text(&meta.name), text(&meta.generate_name), text(&meta.namespace));
    if !prefix.is_empty() {
        errors.invalid_each(&path.child("generateName"), prefix, (rules.name)(prefix, true));
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.invalid_each(&path.child("name"), name, (rules.name)(name, false));
    }
    if !rules.namespaced {
        if !namespace.is_empty() {
            errors.forbidden(&path.child("namespace"), "not allowed on this type");
        }
    } else if namespace.is_empty() {
        errors.required(&path.child("namespace"), "");
    } else {
        errors.invalid_each(&path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    common(errors, meta, &path);
}

fn object_meta_update(errors: &mut Errors, new: &ObjectMeta, old: &ObjectMeta) {
    let path = Path::root("metadata");
    if old.deletion_timestamp.is_some() {
        no_new_finalizers(errors, new, old, &path.child("finalizers"));
    }
    if new.generation.unwrap_or_default() < old.generation.unwrap_or_default() {
        let generation = new.generation.unwrap_or_default();
        errors.invalid(&path.child("generation"), generation, "must not be decremented");
    }
    errors.immutable(&path.child("name"), &new.name, &old.name);
    errors.immutable(&path.child("namespace"), &new.namespace, &old.namespace);
    errors.immutable(&path.child("uid"), &new.uid, &old.uid);
    errors.immutable(
        &path.child("creationTimestamp"),
        &new.creation_timestamp,
        &old.creation_timestamp,
    );
    errors.immutable(
        &path.child("deletionTimestamp"),
        &new.deletion_timestamp,
        &old.deletion_timestamp,
    );
    errors.immutable(
        &path.child("deletionGracePeriodSeconds"),
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
    );
    common(errors, new, &path);
}

/// Checks the metadata of a pod template, where names play no part.
pub fn template_meta(errors: &mut Errors, meta: Option<&ObjectMeta>, path: &Path<'_>) {
    if let Some(meta) = meta {
        labels(errors, meta.labels.as_ref(), &path.child("labels"));
        annotations(errors, meta.annotations.as_ref(), &path.child("annotations"));
    }
}

fn common(errors: &mut Errors, meta: &ObjectMeta, path: &Path<'_>) {
    errors.non_negative(&path.child("generation"), meta.generation.unwrap_or_default());
    labels(errors, meta.labels.as_ref(), &path.child("labels"));
    annotations(errors, meta.annotations.as_ref(), &path.child("annotations"));
    owner_references(errors, list(&meta.owner_references), &path.child("ownerReferences"));
    finalizers(errors, list(&meta.finalizers), &path.child("finalizers"));
}

/// Checks the keys and values of a set of labels.
pub fn labels(errors: &mut Errors, labels: Option<&BTreeMap<String, String>>, path: &Path<'_>) {
    for (key, value) in labels.into_iter().flatten() {
        label_key(errors, key, path);
        errors.invalid_each(path, value, names::label_value(value));
    }
}

/// Checks one label key.
pub fn label_key(errors: &mut Errors, key: &str, path: &Path<'_>) {
    errors.invalid_each(path, key, names::qualified_name(key));
}

fn annotations(
    errors: &mut Errors,
    annotations: Option<&BTreeMap<String, String>>,
    path: &Path<'_>,
) {
    let mut bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Unlike in labels, upper case is fine in the prefix.
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

fn owner_references(errors: &mut Errors, owners: &[OwnerReference], path: &Path<'_>) {
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            let value = owner.api_version.as_str();
            errors.invalid(&path.child("apiVersion"), value, "version must not be empty");
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid(path, json(owner), detail);
        }
        if owner.controller == Some(true) {
            let current = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                None => controller = Some(current),
                Some(first) => errors.invalid(
                    path,
                    json(owners),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {current}"
                    ),
                ),
            }
        }
    }
}

/// Checks finalizers: qualified names, those without a domain being known.
pub fn finalizers(errors: &mut Errors, finalizers: &[String], path: &Path<'_>) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    for finalizer in finalizers {
        let messages = names::qualified_name(finalizer);
        if messages.is_empty() && !finalizer.contains('/') && !STANDARD.contains(&&**finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path, finalizer.as_str(), detail);
        }
        errors.invalid_each(path, finalizer, messages);
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, json(finalizers), detail);
    }
}

fn no_new_finalizers(errors: &mut Errors, new: &ObjectMeta, old: &ObjectMeta, path: &Path<'_>) {
    let old = list(&old.finalizers);
    let added: Vec<&String> =
        list(&new.finalizers).iter().filter(|finalizer| !old.contains(finalizer)).collect();
    if !added.is_empty() {
        let added = added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        errors.forbidden(
            path,
            format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{added}}}"
            ),
        );
    }
}

/// Whether a selector selects everything.
pub fn selector_is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && list(&selector.match_expressions).is_empty()
}

/// Checks a label selector.
pub fn label_selector(errors: &mut Errors, selector: Option<&LabelSelector>, path: &Path<'_>) {
    let Some(selector) = selector else { return };
    labels(errors, selector.match_labels.as_ref(), &path.child("matchLabels"));
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(&selector.match_expressions).iter().enumerate() {
        selector_requirement(errors, requirement, &expressions.index(index));
    }
}

fn selector_requirement(
    errors: &mut Errors,
    requirement: &LabelSelectorRequirement,
    path: &Path<'_>,
) {
    let values = list(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&path.child("values"), detail);
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.child("values"), detail);
            }
        }
        operator => {
            errors.invalid(&path.child("operator"), operator, "not a valid selector operator");
        }
    }
    label_key(errors, &requirement.key, &path.child("key"));
    let values_path = path.child("values");
    for (index, value) in values.iter().enumerate() {
        errors.invalid_each(&values_path.index(index), value, names::label_value(value));
    }
}

/// Whether labels satisfy a selector. An invalid operator matches nothing.
pub fn selector_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let meets = |requirement: &LabelSelectorRequirement| {
        let value = labels.get(&requirement.key);
        let listed = value.is_some_and(|value| list(&requirement.values).contains(value));
        match requirement.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().flatten().all(equal)
        && list(&selector.match_expressions).iter().all(meets)
}
