//! Environment variables of containers, and the references to fields of the
//! pod that they share with downward API volumes.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use super::names;
use super::path::{Errors, Path, text};
use super::security::descending_path;

/// Fields of the pod that a variable may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of the pod that a file may show.
const VOLUME_FIELDS: [&str; 5] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.labels",
    "metadata.annotations",
    "metadata.uid",
];

/// Fields of a pod that have a textual form at all.
const KNOWN_FIELDS: [&str; 16] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.hostNetwork",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

/// Resources of a container that can be shown.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Where a field of the pod is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Variable,
    File,
}

/// Checks the variables of a container.
pub(super) fn variables(errors: &mut Errors, vars: &[EnvVar], path: &Path<'_>) {
    for (index, var) in vars.iter().enumerate() {
        let path = path.index(index);
        if var.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_each(&path.child("name"), &var.name, names::env_var_name(&var.name));
        }
        if let Some(source) = &var.value_from {
            value_from(errors, source, !text(&var.value).is_empty(), &path.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, source: &EnvVarSource, has_value: bool, path: &Path<'_>) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        field_ref(errors, field, Shown::Variable, &path.child("fieldRef"));
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        let path = path.child("resourceFieldRef");
        resource_field_ref(errors, resource, Shown::Variable, &path);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_ref(errors, &key.name, &key.key, &path.child("configMapKeyRef"));
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_ref(errors, &key.name, &key.key, &path.child("secretKeyRef"));
    }
    if let Some(file) = &source.file_key_ref {
        sources += 1;
        let path = path.child("fileKeyRef");
        for (field, value) in
            [("key", &file.key), ("path", &file.path), ("volumeName", &file.volume_name)]
        {
            if value.is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        descending_path(errors, &file.path, &path.child("path"));
    }
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", detail);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_ref(errors: &mut Errors, name: &str, key: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.invalid_each(&path.child("key"), key, names::config_key(key));
    }
}

/// Checks whole ConfigMaps and Secrets taken in as variables.
pub(super) fn sources(errors: &mut Errors, sources: &[EnvFromSource], path: &Path<'_>) {
    for (index, source) in sources.iter().enumerate() {
        let item = path.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            errors.invalid_each(&item.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|reference| &reference.name)),
            ("secretRef", source.secret_ref.as_ref().map(|reference| &reference.name)),
        ];
        let mut count = 0;
        for (field, name) in references {
            let Some(name) = name else { continue };
            count += 1;
            if name.is_empty() {
                errors.required(&item.child(field).child("name"), "");
            }
        }
        match count {
            0 => {
                errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
            }
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn field_ref(
    errors: &mut Errors,
    reference: &ObjectFieldSelector,
    shown: Shown,
    path: &Path<'_>,
) {
    if text(&reference.api_version).is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let field = reference.field_path.as_str();
    let path = path.child("fieldPath");
    if field.is_empty() {
        errors.required(&path, "");
        return;
    }
    if let Some((map, key)) = subscript(field) {
        match map {
            "metadata.annotations" => {
                errors.invalid_each(&path, key, names::qualified_name(&key.to_lowercase()));
            }
            "metadata.labels" => errors.invalid_each(&path, key, names::qualified_name(key)),
            _ => errors.invalid(&path, map, "does not support subscript"),
        }
        return;
    }
    let supported: &[&str] = match shown {
        Shown::Variable => &ENV_FIELDS,
        Shown::File => &VOLUME_FIELDS,
    };
    if !KNOWN_FIELDS.contains(&field) {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.invalid(&path, field, detail);
    } else {
        errors.one_of(&path, Some(field), supported);
    }
}

/// Splits `metadata.labels['app']` into the map and the key.
fn subscript(field: &str) -> Option<(&str, &str)> {
    let (map, rest) = field.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// Checks a reference to a resource of a container.
pub(super) fn resource_field_ref(
    errors: &mut Errors,
    reference: &ResourceFieldSelector,
    shown: Shown,
    path: &Path<'_>,
) {
    let resource = reference.resource.as_str();
    if shown == Shown::File && text(&reference.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if resource.starts_with("limits.hugepages-")
        || resource.starts_with("requests.hugepages-")
    {
        // Page sizes are the node's matter; any may be named.
    } else {
        errors.one_of(&path.child("resource"), Some(resource), &RESOURCES);
    }
    if let Some(divisor) = &reference.divisor {
        divisor_of(errors, &divisor.0, resource, &path.child("divisor"));
    }
}

/// Checks the unit in which a resource is shown. Zero, as it is written when
/// left out, means one.
fn divisor_of(errors: &mut Errors, divisor: &str, resource: &str, path: &Path<'_>) {
    const CPU: [&str; 2] = ["1m", "1"];
    const BYTES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if divisor.is_empty() || divisor == "0" {
        return;
    }
    let kind = resource.split_once('.').map_or("", |(_, kind)| kind);
    if kind == "cpu" && !CPU.contains(&divisor) {
        errors.invalid(
            path,
            divisor,
            "only divisor's values 1m and 1 are supported with the cpu resource",
        );
    }
    if matches!(kind, "memory" | "ephemeral-storage") && !BYTES.contains(&divisor) {
        errors.invalid(
            path,
            divisor,
            format!(
                "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei \
                 are supported with the {kind} resource"
            ),
        );
    }
}
