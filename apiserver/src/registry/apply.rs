//! Server-side apply: a PATCH that says how an object should be, as far as its
//! writer cares. The rules are in `skiff_api::managed`.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::catalogue::{FieldValidation, Part, ScalePaths};
use skiff_api::managed::{self as rules, KUBECTL, Managers};
use skiff_api::meta;
use skiff_api::shape::Struct;

use super::body::{self, Source};
use super::create::set_namespace;
use super::managed::{self, Hand};
use super::update::part_of;
use super::{Call, Registry, Reply, object};
use crate::authz::Attributes;
use crate::status::ApiError;

/// Rounds of creating what is missing and changing what is there, when others
/// create and delete the object meanwhile.
const ATTEMPTS: usize = 4;

/// A configuration that is to be applied.
pub(super) struct Configuration {
    /// As it was sent.
    sent: Value,
    /// In the stored shape, without what this part does not write.
    stored: Value,
    shape: &'static Struct,
    hand: Hand,
    force: bool,
}

impl Registry {
    /// PATCH with `application/apply-patch+yaml`: creates what is not there.
    pub(super) async fn apply(&self, call: &Call, bytes: &Bytes) -> Result<Reply, ApiError> {
        let mut warnings = Vec::new();
        let sent = read(call, bytes, &mut warnings)?;
        let config = Configuration::new(call, sent)?;
        let (name, part) = (call.info.name.as_str(), part_of(call));
        let key = call.key(name);
        for _ in 0..ATTEMPTS {
            if part == Part::Main && self.store.snapshot().get(&key).is_none() {
                match self.create_applied(call, &config).await {
                    Err(taken) if taken.reason == "AlreadyExists" => {}
                    made => {
                        let code = StatusCode::CREATED;
                        return made.map(|bytes| Reply { code, bytes, warnings });
                    }
                }
            }
            match self.replace(call, name, part, |old, _| config.onto(call, old)).await {
                Err(gone)
                    if part == Part::Main
                        && gone.code == StatusCode::NOT_FOUND
                        && self.latest().await?.get(&key).is_none() => {}
                written => {
                    let code = StatusCode::OK;
                    return written.map(|bytes| Reply { code, bytes, warnings });
                }
            }
        }
        Err(call.modified(name))
    }

    async fn create_applied(&self, call: &Call, config: &Configuration) -> Result<Bytes, ApiError> {
        let create = Attributes { verb: "create", ..Attributes::new(&call.user, &call.info) };
        self.authorizer.require(&create).await?;
        // Either says that the object was seen before.
        let seen = |field| !object::meta(&config.stored, field).is_empty();
        if seen("resourceVersion") || seen("uid") {
            return Err(call.modified(&call.info.name));
        }
        let mut managers = Managers::default();
        let mut object = managers
            .apply(&json!({}), &config.stored, config.shape, &config.hand.writer(), config.force)
            .map_err(|conflicts| managed::conflict(&conflicts))?;
        decode(call, &mut object)?;
        self.create_object(call, object, Some(managers)).await
    }
}

impl Configuration {
    /// Checks a configuration against the object that the call names.
    pub(super) fn new(call: &Call, sent: Value) -> Result<Self, ApiError> {
        let shape = call.stored.behaviour.shape().ok_or_else(ApiError::no_such_resource)?;
        let gvk = meta::gvk(&sent);
        let wanted = meta::Gvk {
            group: call.resource.group,
            version: call.resource.version,
            kind: call.resource.kind,
        };
        if gvk != Some(wanted) {
            let shown = gvk.map_or_else(|| "/, Kind=".to_owned(), show);
            return Err(ApiError::bad_request(format!("invalid object type: {shown}")));
        }
        if sent.pointer("/metadata/managedFields").is_some_and(|list| !list.is_null()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let refuse = |why: String| {
            let at = |field| match object::meta(&sent, field) {
                "" => call_meta(call, field),
                given => given.to_owned(),
            };
            let (namespace, name) = (at("namespace"), at("name"));
            let shown = show(wanted);
            // As upstream: it is the client's mistake, and yet no 4xx.
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "",
                format!("failed to create typed patch object ({namespace}/{name}; {shown}): {why}"),
            )
        };
        let mut stored = sent.clone();
        if let Some(legacy) = call.resource.legacy {
            (legacy.to_current)(&mut stored);
            stored["apiVersion"] = json!(call.stored.api_version());
            stored["kind"] = json!(call.stored.kind);
        }
        rules::check(&stored, shape).map_err(refuse)?;
        let name = call.info.name.as_str();
        match object::meta(&stored, "name") {
            "" => {
                object::meta_mut(&mut stored)?.insert("name".into(), name.into());
            }
            same if same == name => {}
            other => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({other}) does not match the name on the URL ({name})"
                )));
            }
        }
        set_namespace(call, &mut stored)?;
        call.stored.behaviour.restrict(&mut stored, part_of(call));
        let force = call.options.force.unwrap_or(false);
        Ok(Self { sent, stored, shape, hand: Hand::of(call), force })
    }

    /// A Scale, as the configuration of the object that is scaled.
    pub(super) fn of_scale(
        call: &Call,
        paths: &ScalePaths,
        bytes: &Bytes,
    ) -> Result<Self, ApiError> {
        let sent = read(call, bytes, &mut Vec::new())?;
        let gvk = meta::gvk(&sent);
        if gvk != Some(meta::Gvk { group: "autoscaling", version: "v1", kind: "Scale" }) {
            let shown = gvk.map_or_else(|| "/, Kind=".to_owned(), show);
            return Err(ApiError::bad_request(format!("invalid object type: {shown}")));
        }
        let mut config = json!({
            "apiVersion": call.resource.api_version(),
            "kind": call.resource.kind,
            "metadata": {},
        });
        for field in ["name", "namespace", "uid", "resourceVersion", "managedFields"] {
            if let Some(value) = sent.get("metadata").and_then(|metadata| metadata.get(field)) {
                config["metadata"][field] = value.clone();
            }
        }
        if let Some(replicas) = sent.pointer("/spec/replicas") {
            super::subresource::set(&mut config, paths.spec_replicas, replicas.clone());
        }
        Self::new(call, config)
    }

    /// Applies the configuration to a stored object. The new managers are in
    /// the object.
    pub(super) fn onto(&self, call: &Call, old: &Value) -> Result<Value, ApiError> {
        let mut live = old.clone();
        let before = managed::take(&mut live);
        let mut managers = before.as_ref().and_then(Managers::parse).unwrap_or_default();
        let writer = self.hand.writer();
        let mut apply = |force| managers.apply(&live, &self.stored, self.shape, &writer, force);
        let by_kubectl = writer.manager == KUBECTL;
        let applied = match apply(self.force) {
            Err(conflicts) if by_kubectl => {
                let read = |applied| Self::read_last_applied(call, applied);
                let left = rules::allowed_conflicts(conflicts, &live, self.shape, read);
                if left.is_empty() { apply(true) } else { Err(left) }
            }
            applied => applied,
        };
        let mut object = applied.map_err(|conflicts| managed::conflict(&conflicts))?;
        if by_kubectl && writer.subresource.is_empty() {
            rules::sync_last_applied(&mut object, &self.sent);
        }
        decode(call, &mut object)?;
        managed::attach(&mut object, &managers)?;
        Ok(object)
    }

    /// What client-side apply noted, if it is of the type of the call.
    fn read_last_applied(call: &Call, mut applied: Value) -> Option<Value> {
        if applied.get("apiVersion")?.as_str()? != call.resource.api_version() {
            return None;
        }
        if let Some(legacy) = call.resource.legacy {
            (legacy.to_current)(&mut applied);
        }
        Some(applied)
    }
}

/// Reads a configuration: YAML, and so JSON too.
fn read(call: &Call, bytes: &Bytes, warnings: &mut Vec<String>) -> Result<Value, ApiError> {
    let is_json = bytes.trim_ascii_start().starts_with(b"{");
    let refuse = |why: &str| ApiError::bad_request(format!("error decoding YAML: {why}"));
    // What looks like JSON may be YAML's flow style all the same.
    let (value, source) = match is_json.then(|| body::parse_json(bytes)) {
        Some(Ok(value)) => (value, Source::Json(bytes)),
        _ => {
            let document = body::parse_yaml(bytes).map_err(|error| refuse(&error.message))?;
            (document.value, Source::Yaml(document.twice))
        }
    };
    if !value.is_object() {
        return Err(refuse("the configuration is not an object"));
    }
    let validation = call.options.field_validation.0;
    let problems = match validation {
        FieldValidation::Ignore => Vec::new(),
        // Fields that the type does not have are refused in any case.
        FieldValidation::Warn | FieldValidation::Strict => source.problems(&[]),
    };
    body::judge(validation, problems, warnings)
        .map_err(|why| ApiError::bad_request(format!("error strict decoding YAML: {why}")))?;
    Ok(value)
}

/// Reads the merged object as its type; it has been checked field by field.
fn decode(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    call.stored.behaviour.normalize(object).map(drop).map_err(ApiError::bad_request)
}

fn call_meta(call: &Call, field: &str) -> String {
    match field {
        "name" => call.info.name.clone(),
        _ => call.info.namespace.clone(),
    }
}

/// A kind in Go's spelling: `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn show(gvk: meta::Gvk<'_>) -> String {
    format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind)
}
