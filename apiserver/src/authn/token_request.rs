//! TokenRequest: `POST …/serviceaccounts/NAME/token`.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::catalogue::{FieldError, FieldReason};

use super::Authenticator;
use crate::status::ApiError;

const GROUP: &str = "authentication.k8s.io";
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// The object that a token lives and dies with.
struct BoundObject {
    kind: String,
    name: String,
    uid: String,
    /// The node of a bound pod: name and uid.
    node: Option<(String, String)>,
}

impl Authenticator {
    /// Answers a TokenRequest for a ServiceAccount with its status filled in.
    pub fn request_token(
        &self,
        namespace: &str,
        name: &str,
        request: Value,
    ) -> Result<Value, ApiError> {
        self.request_token_at(namespace, name, request, Timestamp::now())
    }

    pub(super) fn request_token_at(
        &self,
        namespace: &str,
        name: &str,
        mut request: Value,
        now: Timestamp,
    ) -> Result<Value, ApiError> {
        let account = self
            .objects
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
        let seconds = lifetime(&request["spec"]["expirationSeconds"])?;
        let audiences = self.audiences(&request["spec"]["audiences"])?;
        let bound = self.bound_object(namespace, name, &request["spec"]["boundObjectRef"])?;

        let issued_at = now.as_second();
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": { "name": name, "uid": account["metadata"]["uid"] },
        });
        if let Some(bound) = &bound {
            let key = bound.kind.to_lowercase();
            kubernetes[key] = json!({ "name": bound.name, "uid": bound.uid });
            if let Some((name, uid)) = &bound.node {
                kubernetes["node"] = json!({ "name": name, "uid": uid });
            }
        }
        let token = self
            .pki
            .service_account()
            .sign(&json!({
                "iss": self.issuer,
                "sub": format!("system:serviceaccount:{namespace}:{name}"),
                "aud": audiences,
                "exp": issued_at + seconds,
                "iat": issued_at,
                "nbf": issued_at,
                "jti": uuid::Uuid::new_v4().to_string(),
                "kubernetes.io": kubernetes,
            }))
            .map_err(|error| {
                tracing::error!(%error, namespace, name, "cannot sign a token");
                ApiError::internal("the token could not be signed")
            })?;

        request["kind"] = json!("TokenRequest");
        request["apiVersion"] = json!(format!("{GROUP}/v1"));
        request["metadata"]["name"] = json!(name);
        request["metadata"]["namespace"] = json!(namespace);
        request["metadata"]["creationTimestamp"] = json!(rfc3339(issued_at));
        request["spec"]["expirationSeconds"] = json!(seconds);
        request["spec"]["audiences"] = json!(audiences);
        request["status"] =
            json!({ "token": token, "expirationTimestamp": rfc3339(issued_at + seconds) });
        Ok(request)
    }

    fn audiences(&self, asked: &Value) -> Result<Vec<String>, ApiError> {
        let asked: Vec<String> = match asked {
            Value::Null => Vec::new(),
            list => serde_json::from_value(list.clone())
                .map_err(|error| ApiError::bad_request(format!("spec.audiences: {error}")))?,
        };
        Ok(if asked.is_empty() { vec![self.issuer.clone()] } else { asked })
    }

    fn bound_object(
        &self,
        namespace: &str,
        account: &str,
        reference: &Value,
    ) -> Result<Option<BoundObject>, ApiError> {
        if reference.is_null() {
            return Ok(None);
        }
        let text = |key: &str| reference[key].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let (resource, scope) = match (text("apiVersion"), kind) {
            ("v1", "Pod") => ("pods", namespace),
            ("v1", "Secret") => ("secrets", namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, kind) => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to object of kind {kind:?} \
                     in {version:?}"
                )));
            }
        };
        let object = self
            .objects
            .get("", resource, scope, name)
            .ok_or_else(|| ApiError::not_found("", resource, name))?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if !text("uid").is_empty() && text("uid") != uid {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. \
                 The object might have been deleted and then recreated",
                text("uid")
            );
            return Err(ApiError::conflict("", resource, name, &why));
        }
        let mut node = None;
        if kind == "Pod" {
            if object["spec"]["serviceAccountName"] != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with \
                     different serviceaccount name."
                )));
            }
            if let Some(name) = object["spec"]["nodeName"].as_str() {
                let uid = self
                    .objects
                    .get("", "nodes", "", name)
                    .and_then(|node| node["metadata"]["uid"].as_str().map(str::to_owned));
                node = uid.map(|uid| (name.to_owned(), uid));
            }
        }
        Ok(Some(BoundObject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            node,
        }))
    }
}

fn lifetime(asked: &Value) -> Result<i64, ApiError> {
    let detail = match asked {
        Value::Null => return Ok(DEFAULT_SECONDS),
        value => match value.as_i64() {
            Some(seconds) if seconds < MIN_SECONDS => {
                "may not specify a duration less than 10 minutes"
            }
            Some(seconds) if seconds > MAX_SECONDS => {
                "may not specify a duration larger than 2^32 seconds"
            }
            Some(seconds) => return Ok(seconds),
            None => "must be a number of seconds",
        },
    };
    Err(ApiError::invalid(
        GROUP,
        "TokenRequest",
        "",
        vec![FieldError {
            field: "spec.expirationSeconds".to_owned(),
            reason: FieldReason::Invalid,
            value: asked.clone(),
            detail: detail.to_owned(),
        }],
    ))
}

/// A time of whole seconds, as Kubernetes writes it.
fn rfc3339(second: i64) -> String {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_string()
}
