//! ConfigMaps and Secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;

use super::meta::{MetaRules, check_create, check_update};
use super::names;
use super::path::{Errors, Path, text};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
/// All values together.
const MAX_BYTES: usize = 1024 * 1024;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// Checks a new ConfigMap.
pub fn config_map_create(map: &ConfigMap) -> Vec<FieldError> {
    check_create(&map.metadata, META, |errors| config_map(errors, map))
}

/// Checks an update of a ConfigMap. One that is immutable stays as it is.
pub fn config_map_update(new: &ConfigMap, old: &ConfigMap, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if old.immutable == Some(true) {
            stays_immutable(errors, new.immutable);
            if new.data.iter().flatten().ne(old.data.iter().flatten()) {
                errors.forbidden(&Path::root("data"), IMMUTABLE);
            }
            let (new, old) = (new.binary_data.iter().flatten(), old.binary_data.iter().flatten());
            if new.ne(old) {
                errors.forbidden(&Path::root("binaryData"), IMMUTABLE);
            }
        }
        config_map(errors, new);
    })
}

fn stays_immutable(errors: &mut Errors, immutable: Option<bool>) {
    if immutable != Some(true) {
        errors.forbidden(&Path::root("immutable"), IMMUTABLE);
    }
}

fn config_map(errors: &mut Errors, map: &ConfigMap) {
    let (data, binary) = (Path::root("data"), Path::root("binaryData"));
    let mut bytes = 0;
    for (key, value) in map.data.iter().flatten() {
        errors.invalid_each(&data.key(key), key, names::config_key(key));
        if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
            errors.invalid(&data.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        bytes += value.len();
    }
    for (key, value) in map.binary_data.iter().flatten() {
        errors.invalid_each(&binary.key(key), key, names::config_key(key));
        bytes += value.0.len();
    }
    if bytes > MAX_BYTES {
        // Upstream leaves the path empty: it is the sum that is too much.
        errors.too_long(&Path::root(""), MAX_BYTES);
    }
}

/// Checks a new Secret.
pub fn secret_create(secret: &Secret) -> Vec<FieldError> {
    check_create(&secret.metadata, META, |errors| secret_rules(errors, secret))
}

/// Checks an update of a Secret: the type stays, and all of it when immutable.
pub fn secret_update(new: &Secret, old: &Secret, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        errors.immutable(&Path::root("type"), &new.type_, &old.type_);
        if old.immutable == Some(true) {
            stays_immutable(errors, new.immutable);
            if new.data.iter().flatten().ne(old.data.iter().flatten()) {
                errors.forbidden(&Path::root("data"), IMMUTABLE);
            }
        }
        secret_rules(errors, new);
    })
}

fn secret_rules(errors: &mut Errors, secret: &Secret) {
    let path = Path::root("data");
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    for key in data.keys() {
        errors.invalid_each(&path.key(key), key, names::config_key(key));
    }
    if data.values().map(|value| value.0.len()).sum::<usize>() > MAX_BYTES {
        errors.too_long(&path, MAX_BYTES);
    }
    let require = |errors: &mut Errors, key: &str| {
        let value = data.get(key);
        if value.is_none() {
            errors.required(&path.key(key), "");
        }
        value
    };
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            let annotations = Path::root("metadata.annotations");
            let key = "kubernetes.io/service-account.name";
            let given = secret.metadata.annotations.as_ref();
            if given.and_then(|given| given.get(key)).is_none_or(String::is_empty) {
                errors.required(&annotations.key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => {
            if let Some(value) = require(errors, ".dockercfg") {
                json_value(errors, value, &path.key(".dockercfg"));
            }
        }
        "kubernetes.io/dockerconfigjson" => {
            if let Some(value) = require(errors, ".dockerconfigjson") {
                json_value(errors, value, &path.key(".dockerconfigjson"));
            }
        }
        "kubernetes.io/basic-auth"
            if !data.contains_key("username") && !data.contains_key("password") =>
        {
            for key in ["username", "password"] {
                errors.required(&path.key(key), "");
            }
        }
        "kubernetes.io/ssh-auth"
            if data.get("ssh-privatekey").is_none_or(|key| key.0.is_empty()) =>
        {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                require(errors, key);
            }
        }
        _ => {}
    }
}

/// The secret itself is not repeated in the message.
fn json_value(errors: &mut Errors, value: &ByteString, path: &Path<'_>) {
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&value.0) {
        errors.invalid(path, "<secret contents redacted>", error.to_string());
    }
}
