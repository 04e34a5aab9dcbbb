//! Subresources: status and its like, scale, binding, tokens, and the streams
//! that go on to an agent. Evictions have a file of their own.

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_api::catalogue::{self, FieldError, FieldReason, Part, Resource, ScalePaths};
use skiff_api::shape::Struct;
use skiff_store::Entry;

use super::apply::Configuration;
use super::update::check_uid;
use super::{Call, Registry, body, object, patch, view};
use super::{delete, managed};
use crate::admission::Operation;
use crate::status::ApiError;

impl Registry {
    pub(super) async fn serve_subresource(
        &self,
        call: Call,
        parts: http::request::Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let name = call.info.subresource.as_str();
        let subresource = call.resource.subresource(name).ok_or_else(ApiError::no_such_resource)?;
        let is_stream = matches!(name, "log" | "exec" | "attach" | "portforward" | "proxy");
        // What is behind a proxy may know methods that the API does not.
        let passes = name == "proxy" && call.info.verb == "options";
        if !subresource.verbs.contains(&call.info.verb) && !passes {
            return Err(ApiError::method_not_allowed());
        }
        if !is_stream {
            managed::check_options(&call)?;
        }
        match (name, call.info.verb) {
            _ if is_stream => self.stream(call, parts, body).await,
            ("scale", verb) => {
                let paths = call
                    .resource
                    .scale
                    .or(call.stored.scale)
                    .ok_or_else(ApiError::no_such_resource)?;
                let value = match verb {
                    "get" => {
                        let entry = self.entry(&call, &call.info.name).await?;
                        scale_of(call.stored, paths, &object::decode_entry(&entry)?)
                    }
                    _ => self.write_scale(&call, paths, body).await?,
                };
                view::scale(&call, value)
            }
            ("binding", _) => self.bind(&call, &call.info.name, body).await,
            ("eviction", _) => self.evict(&call, body).await,
            ("token", _) => self.token(&call, body).await,
            (_, "get") => self.get(&call).await,
            (_, "update") => {
                let reply = self.update(&call, body).await?;
                view::reply(&call, reply)
            }
            (_, "patch") => {
                let reply = self.patch(&call, body).await?;
                view::reply(&call, reply)
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Hands a stream over to its agent.
    async fn stream(
        &self,
        call: Call,
        parts: http::request::Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        // `proxy` takes `[scheme:]name[:port]`.
        let name = match call.info.name.split(':').collect::<Vec<_>>().as_slice() {
            [_, name, _] | [name, _] | [name] if call.info.subresource == "proxy" => {
                (*name).to_owned()
            }
            _ => call.info.name.clone(),
        };
        let entry =
            self.latest().await?.get(&call.key(&name)).ok_or_else(|| call.not_found(&name))?;
        let object = object::decode_entry(&entry)?;
        self.streams.connect(&call.info, &object, Request::from_parts(parts, body)).await
    }

    /// PUT or PATCH of a Scale.
    async fn write_scale(
        &self,
        call: &Call,
        paths: &'static ScalePaths,
        body: Body,
    ) -> Result<Value, ApiError> {
        let bytes = body::read(body).await?;
        if managed::is_apply(call) {
            let config = Configuration::of_scale(call, paths, &bytes)?;
            let make = |old: &Value, _: &Entry| config.onto(call, old);
            let bytes = self.replace(call, &call.info.name, Part::Other("scale"), make).await?;
            return Ok(scale_of(call.stored, paths, &object::decode(&bytes)?));
        }
        let shape = Struct::named("autoscaling.v1.Scale");
        let patch = match call.info.verb {
            "patch" => Some(patch::Patch::parse(&call.headers, &bytes)?),
            _ => None,
        };
        let put = match patch {
            None => Some(body::parse(&call.headers, &bytes)?.value),
            Some(_) => None,
        };
        let stored = call.stored;
        let make = |old: &Value, _: &Entry| {
            let current = scale_of(stored, paths, old);
            let mut wanted = match (&put, &patch) {
                (Some(put), _) => put.clone(),
                (None, Some(patch)) => patch.apply(current, shape)?,
                (None, None) => current,
            };
            if let Some(given) = wanted.get("kind").and_then(Value::as_str)
                && given != "Scale"
            {
                return Err(ApiError::bad_request(format!("cannot handle a {given} as a Scale")));
            }
            let replicas = wanted_replicas(&wanted, object::meta(old, "name"))?;
            let mut new = old.clone();
            // Without a resourceVersion of its own the write is unconditional.
            let version = std::mem::take(&mut wanted["metadata"]["resourceVersion"]);
            object::meta_mut(&mut new)?.insert(
                "resourceVersion".into(),
                if version.is_string() { version } else { json!("") },
            );
            set(&mut new, paths.spec_replicas, json!(replicas));
            Ok(new)
        };
        let bytes = self.replace(call, &call.info.name, Part::Other("scale"), make).await?;
        Ok(scale_of(stored, paths, &object::decode(&bytes)?))
    }

    /// POST of a Binding: the scheduler's decision.
    pub(super) async fn bind(
        &self,
        call: &Call,
        pod: &str,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let bytes = body::read(body).await?;
        self.bind_bytes(call, pod, &bytes).await
    }

    async fn bind_bytes(
        &self,
        call: &Call,
        pod: &str,
        bytes: &Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let binding = body::parse(&call.headers, bytes)?.value;
        let pods = catalogue::find("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?;
        let mut call = call.with_name(pod);
        call.resource = pods;
        call.stored = pods;
        let at = object::timestamp(Timestamp::now());
        self.replace(&call, pod, Part::Other("binding"), |old, _| {
            plan_bind(&call, old, &binding, &at)
        })
        .await?;
        view::value(&call, StatusCode::CREATED, &created())
    }

    /// POST of a Binding to the collection: the pod stands in the body.
    pub(super) async fn bind_named(
        &self,
        call: &Call,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let bytes = body::read(body).await?;
        let binding = body::parse(&call.headers, &bytes)?.value;
        let pod = object::meta(&binding, "name").to_owned();
        if pod.is_empty() {
            return Err(ApiError::bad_request("metadata.name: Required value: the pod to bind"));
        }
        self.bind_bytes(call, &pod, &bytes).await
    }

    /// POST of a TokenRequest.
    async fn token(&self, call: &Call, body: Body) -> Result<Response<Body>, ApiError> {
        let bytes = body::read(body).await?;
        let request = body::parse(&call.headers, &bytes)?.value;
        if !request.is_object() {
            return Err(ApiError::bad_request("expected a TokenRequest"));
        }
        // The node that asks has to name a pod of its own.
        let info = Self::admission_info(call, &call.info.name);
        let attributes = Self::attributes(call, &info, Operation::Create, None);
        self.admission.validate(&attributes, &request)?;
        let answer =
            self.authenticator.request_token(&call.info.namespace, &call.info.name, request)?;
        view::value(call, StatusCode::CREATED, &answer)
    }
}

/// What upstream answers where a create leaves nothing to show.
pub(super) fn created() -> Value {
    let mut status = delete::success(Value::Null);
    status["code"] = json!(201);
    status
}

/// Puts a pod on its node.
fn plan_bind(call: &Call, old: &Value, binding: &Value, at: &str) -> Result<Value, ApiError> {
    let name = call.info.name.as_str();
    let refuse = |why: String| ApiError::conflict("", "pods/binding", name, &why);
    let target = binding.get("target").unwrap_or(&Value::Null);
    if let Some(kind) = target.get("kind").and_then(Value::as_str)
        && !matches!(kind, "" | "Node" | "Minion")
    {
        return Err(invalid_binding(
            name,
            "target.kind",
            FieldReason::NotSupported,
            json!(kind),
            "supported values: \"Node\", \"<empty>\"",
        ));
    }
    let node = target.get("name").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(invalid_binding(name, "target.name", FieldReason::Required, Value::Null, ""));
    }
    check_uid(call, name, object::meta(binding, "uid"), object::meta(old, "uid"))?;
    if object::is_deleting(old) {
        return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(taken) = old["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return Err(refuse(format!("pod {name} is already assigned to node {taken:?}")));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut new = old.clone();
    let metadata = object::meta_mut(&mut new)?;
    metadata.insert("resourceVersion".into(), json!(object::meta(binding, "resourceVersion")));
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        let own = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.extend(annotations.clone());
        }
    }
    new["spec"]["nodeName"] = json!(node);
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastTransitionTime": at,
        "observedGeneration": old["metadata"]["generation"],
    });
    let conditions = &mut new["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(condition);
    }
    Ok(new)
}

fn invalid_binding(
    name: &str,
    field: &str,
    reason: FieldReason,
    value: Value,
    detail: &str,
) -> ApiError {
    let error = FieldError { field: field.to_owned(), reason, value, detail: detail.to_owned() };
    ApiError::invalid("", "Binding", name, vec![error])
}

/// The Scale of a stored object.
fn scale_of(resource: &Resource, paths: &ScalePaths, object: &Value) -> Value {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get("metadata").and_then(|m| m.get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(list) = managed::of_scale(object, paths.spec_replicas) {
        metadata.insert("managedFields".into(), list);
    }
    let mut spec = json!({});
    let replicas = object.pointer(paths.spec_replicas).and_then(Value::as_i64).unwrap_or(
        match resource.kind {
            // Left out, it is one everywhere.
            _ if object.pointer(paths.spec_replicas).is_none() => 1,
            _ => 0,
        },
    );
    if replicas != 0 {
        spec["replicas"] = json!(replicas);
    }
    let mut status = json!({"replicas": number(paths.status_replicas)});
    let selector = object.pointer(paths.selector).map(selector_text).unwrap_or_default();
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A LabelSelector, or a map of labels, as the text of a label selector.
fn selector_text(selector: &Value) -> String {
    let mut terms = Vec::new();
    let labels = match (selector.get("matchLabels"), selector.get("matchExpressions")) {
        (None, None) => selector.as_object(),
        (labels, _) => labels.and_then(Value::as_object),
    };
    for (key, value) in labels.into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

fn wanted_replicas(scale: &Value, name: &str) -> Result<i64, ApiError> {
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => match value.as_i64().filter(|n| i32::try_from(*n).is_ok()) {
            Some(number) => number,
            None => {
                return Err(ApiError::bad_request(format!(
                    "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {value} into Go struct field ScaleSpec.spec.replicas of type int32"
                )));
            }
        },
    };
    if replicas < 0 {
        let error = FieldError {
            field: "spec.replicas".to_owned(),
            reason: FieldReason::Invalid,
            value: json!(replicas),
            detail: "must be greater than or equal to 0".to_owned(),
        };
        return Err(ApiError::invalid("autoscaling", "Scale", name, vec![error]));
    }
    Ok(replicas)
}

/// Writes a value at a JSON pointer, making objects on the way.
pub(super) fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_show_numbers_and_selector() {
        let deployments = catalogue::find("apps", "v1", "deployments").unwrap();
        let paths = deployments.scale.unwrap();
        let object = json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "5", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}},
            "status": {"replicas": 2},
        });
        let scale = scale_of(deployments, paths, &object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=d"}));
        assert_eq!(scale["metadata"]["resourceVersion"], "5");
        assert_eq!(scale["metadata"].get("labels"), None);
    }

    #[test]
    fn selectors_become_text() {
        let cases = [
            (json!({"a": "b"}), "a=b"),
            (json!({"matchLabels": {"a": "b"}}), "a=b"),
            (
                json!({"matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["x", "y"]},
                    {"key": "b", "operator": "Exists"},
                    {"key": "c", "operator": "DoesNotExist"},
                ]}),
                "a in (x,y),b,!c",
            ),
        ];
        for (selector, expected) in cases {
            assert_eq!(selector_text(&selector), expected);
        }
    }

    #[test]
    fn replicas_are_small_and_not_negative() {
        assert_eq!(wanted_replicas(&json!({"spec": {"replicas": 4}}), "d").unwrap(), 4);
        assert_eq!(wanted_replicas(&json!({}), "d").unwrap(), 0);
        let code = |scale: Value| wanted_replicas(&scale, "d").unwrap_err().code.as_u16();
        assert_eq!(code(json!({"spec": {"replicas": -1}})), 422);
        assert_eq!(code(json!({"spec": {"replicas": "4"}})), 400);
        assert_eq!(code(json!({"spec": {"replicas": 1i64 << 40}})), 400);
    }
}
