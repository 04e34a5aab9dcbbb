//! Certificate requests: who asks is written down by us, and approving takes a
//! permission on the signer.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Attributes, Context, Operation, Plugin};
use crate::{authz::MASTERS, status::ApiError};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const USER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Writes the requester into a new request. The signer trusts these fields, so
/// whatever the client wrote there goes.
pub(super) struct Requester;

impl Plugin for Requester {
    fn mutate(
        &self,
        _: &Context,
        request: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        if !request.creates(GROUP, RESOURCE) {
            return Ok(());
        }
        let user = request.user;
        let spec = &mut object["spec"];
        spec["username"] = json!(user.name);
        spec["uid"] = json!(user.uid);
        spec["groups"] = json!(user.groups);
        spec["extra"] = json!(user.extra);
        Ok(())
    }

    fn validate(
        &self,
        _: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        if !request.creates(GROUP, RESOURCE) || object["spec"]["signerName"] != USER_CLIENT {
            return Ok(());
        }
        // The signer would refuse it as well; here a person hears it at once.
        if asks_for_masters(&object["spec"]["request"]) {
            return Err(request.forbidden(format!(
                "use of {USER_CLIENT} signer with {MASTERS} group is not allowed"
            )));
        }
        Ok(())
    }
}

fn asks_for_masters(request: &Value) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    request
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|pem| rcgen::CertificateSigningRequestParams::from_pem(&pem).ok())
        .is_some_and(|parsed| {
            parsed.params.distinguished_name.iter().any(|(_, value)| match value {
                rcgen::DnValue::Utf8String(text) => text == MASTERS,
                rcgen::DnValue::PrintableString(text) => text.as_str() == MASTERS,
                _ => false,
            })
        })
}

/// Approving, denying and signing take `approve` or `sign` on the signer.
pub(super) struct Approval;

impl Plugin for Approval {
    fn mutate(
        &self,
        _: &Context,
        request: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let writes = matches!(request.info.subresource.as_str(), "approval" | "status");
        if writes && request.operation == Operation::Update && request.info.resource == RESOURCE {
            let now = json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            stamp(object, request.old.unwrap_or(&Value::Null), &now);
        }
        Ok(())
    }

    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        if request.operation != Operation::Update || request.info.resource != RESOURCE {
            return Ok(());
        }
        let old = request.old.unwrap_or(&Value::Null);
        let verb = match request.info.subresource.as_str() {
            "approval" => "approve",
            "status" if object["status"]["certificate"] != old["status"]["certificate"] => "sign",
            _ => return Ok(()),
        };
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
        let may = |name: &str| context.may(request.user, verb, GROUP, "signers", "", name);
        if may(signer) || may(&domain) {
            return Ok(());
        }
        Err(request
            .forbidden(format!("user not permitted to {verb} requests with signerName {signer:?}")))
    }
}

/// Fills in the times of conditions that came without: updated now, and
/// changed when the same condition last changed.
fn stamp(object: &mut Value, old: &Value, now: &Value) {
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    for condition in conditions {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let before = old["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|b| b["type"] == condition["type"] && b["status"] == condition["status"]);
            let since = before.map(|before| before["lastTransitionTime"].clone());
            condition["lastTransitionTime"] =
                since.filter(Value::is_string).unwrap_or_else(|| now.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_get_the_times_they_lack() {
        let old = json!({"status": {"conditions": [
            {"type": "A", "status": "True", "lastTransitionTime": "then"},
            {"type": "B", "status": "True", "lastTransitionTime": "then"},
        ]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "A", "status": "True"},
            {"type": "B", "status": "False"},
            {"type": "C", "status": "True", "lastUpdateTime": "own", "lastTransitionTime": "own"},
        ]}});
        stamp(&mut new, &old, &json!("now"));
        let times: Vec<(&str, &str)> = new["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                (c["lastUpdateTime"].as_str().unwrap(), c["lastTransitionTime"].as_str().unwrap())
            })
            .collect();
        assert_eq!(times, [("now", "then"), ("now", "now"), ("own", "own")]);
        let mut none = json!({"status": {}});
        stamp(&mut none, &old, &json!("now"));
        assert_eq!(none["status"]["conditions"], Value::Null);
    }
}
