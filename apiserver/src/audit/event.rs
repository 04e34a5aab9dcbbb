//! One line of the audit log.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::Stage;
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// What is known of a request so far.
pub(super) struct Event {
    pub(super) id: String,
    pub(super) level: &'static str,
    pub(super) uri: String,
    pub(super) info: RequestInfo,
    pub(super) user: UserInfo,
    /// Whom the user acts as.
    pub(super) acting: Option<UserInfo>,
    pub(super) source: Option<IpAddr>,
    pub(super) user_agent: String,
    pub(super) received: Timestamp,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) request: Option<Value>,
    pub(super) response: Option<Value>,
    /// The answer, if it is a `Status`.
    pub(super) status: Option<Value>,
    /// 0 until it is known.
    pub(super) code: u16,
    pub(super) omit_managed_fields: bool,
}

impl Default for Event {
    fn default() -> Self {
        Self {
            id: String::new(),
            level: "None",
            uri: String::new(),
            info: RequestInfo::parse(&http::Method::GET, &http::Uri::from_static("/")),
            user: UserInfo::default(),
            acting: None,
            source: None,
            user_agent: String::new(),
            received: Timestamp::UNIX_EPOCH,
            annotations: BTreeMap::new(),
            request: None,
            response: None,
            status: None,
            code: 0,
            omit_managed_fields: false,
        }
    }
}

impl Event {
    /// The event as of a stage.
    pub(super) fn render(&self, stage: Stage, now: Timestamp) -> Value {
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": self.level,
            "auditID": self.id,
            "stage": stage.name(),
            "requestURI": self.uri,
            "verb": self.info.verb,
            "user": user(&self.user),
            "requestReceivedTimestamp": micros(self.received),
            "stageTimestamp": micros(now),
        });
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                event[key] = value;
            }
        };
        put("impersonatedUser", self.acting.as_ref().map(user));
        put("sourceIPs", self.source.map(|ip| json!([ip.to_string()])));
        put("userAgent", text(&self.user_agent));
        put("objectRef", self.info.is_resource_request.then(|| self.reference()));
        put("responseStatus", (self.code != 0).then(|| self.outcome()));
        put("requestObject", self.request.as_ref().map(|object| self.trimmed(object)));
        put("responseObject", self.response.as_ref().map(|object| self.trimmed(object)));
        put("annotations", (!self.annotations.is_empty()).then(|| json!(self.annotations)));
        event
    }

    fn reference(&self) -> Value {
        let info = &self.info;
        let fields = [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.api_group),
            ("apiVersion", &info.api_version),
            ("subresource", &info.subresource),
        ];
        let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
        set.map(|(key, value)| (key.to_owned(), json!(value))).collect()
    }

    fn outcome(&self) -> Value {
        let mut outcome = json!({ "metadata": {}, "code": self.code });
        if let Some(status) = &self.status {
            for key in ["status", "message", "reason", "details"] {
                if !status[key].is_null() {
                    outcome[key] = status[key].clone();
                }
            }
        }
        outcome
    }

    fn trimmed(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if self.omit_managed_fields {
            drop_managed_fields(&mut object);
            let items = object.get_mut("items").and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(drop_managed_fields);
        }
        object
    }
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| json!(text))
}

fn user(user: &UserInfo) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        value.map(|value| object.insert(key.to_owned(), value));
    };
    put("username", text(&user.name));
    put("uid", text(&user.uid));
    put("groups", (!user.groups.is_empty()).then(|| json!(user.groups)));
    put("extra", (!user.extra.is_empty()).then(|| json!(user.extra)));
    Value::Object(object)
}

fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_upstreams() {
        let uri: http::Uri = "/api/v1/namespaces/a/pods/p".parse().unwrap();
        let mut event = Event {
            id: "1".to_owned(),
            level: "Request",
            uri: uri.to_string(),
            info: RequestInfo::parse(&http::Method::PUT, &uri),
            user: UserInfo::new("root", ["system:masters"]),
            acting: Some(UserInfo::new("jane", [])),
            source: Some([192, 0, 2, 1].into()),
            user_agent: "kubectl".to_owned(),
            request: Some(json!({ "metadata": { "name": "p", "managedFields": [] } })),
            omit_managed_fields: true,
            ..Event::default()
        };
        let at = Timestamp::new(1, 1_500).unwrap();
        let expected = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Request",
            "auditID": "1",
            "stage": "RequestReceived",
            "requestURI": "/api/v1/namespaces/a/pods/p",
            "verb": "update",
            "user": { "username": "root", "groups": ["system:masters"] },
            "impersonatedUser": { "username": "jane" },
            "sourceIPs": ["192.0.2.1"],
            "userAgent": "kubectl",
            "objectRef": { "resource": "pods", "namespace": "a", "name": "p", "apiVersion": "v1" },
            "requestObject": { "metadata": { "name": "p" } },
            "requestReceivedTimestamp": "1970-01-01T00:00:00.000000Z",
            "stageTimestamp": "1970-01-01T00:00:01.000001Z",
        });
        assert_eq!(event.render(Stage::RequestReceived, at), expected);
        event.code = 403;
        event.status = Some(
            json!({ "kind": "Status", "status": "Failure", "message": "no", "reason": "Forbidden" }),
        );
        assert_eq!(
            event.render(Stage::ResponseComplete, at)["responseStatus"],
            json!({ "metadata": {}, "code": 403, "status": "Failure", "message": "no", "reason": "Forbidden" })
        );
    }
}
