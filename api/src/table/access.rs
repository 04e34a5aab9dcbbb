//! Roles, bindings and certificate requests.

use serde_json::Value;

use super::*;

pub(crate) static ROLE_BINDING: Printer = Printer {
    columns: &[
        NAME,
        text("Role", "The role that is given."),
        AGE,
        wide("Users", "Users who get it."),
        wide("Groups", "Groups that get it."),
        wide("ServiceAccounts", "Service accounts that get it."),
    ],
    row: |object, now| {
        let role = &object["roleRef"];
        let subjects = |kind: &str| {
            let subjects =
                items(&object["subjects"]).iter().filter(|subject| subject["kind"] == kind);
            let names = subjects.map(|subject| match text_or(&subject["namespace"], "") {
                "" => text_or(&subject["name"], "").to_owned(),
                namespace => format!("{namespace}/{}", text_or(&subject["name"], "")),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        vec![
            name(object),
            format!("{}/{}", text_or(&role["kind"], ""), text_or(&role["name"], "")).into(),
            age(object, now),
            subjects("User").into(),
            subjects("Group").into(),
            subjects("ServiceAccount").into(),
        ]
    },
};

pub(crate) static CERTIFICATE_SIGNING_REQUEST: Printer = Printer {
    columns: &[
        NAME,
        AGE,
        text("SignerName", "Who shall sign."),
        text("Requestor", "Who asks."),
        text("RequestedDuration", "How long the certificate shall be valid."),
        text("Condition", "What has become of it."),
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let duration =
            spec["expirationSeconds"].as_i64().map_or_else(|| NONE.to_owned(), human_duration);
        vec![
            name(object),
            age(object, now),
            text_or(&spec["signerName"], NONE).into(),
            text_or(&spec["username"], "").into(),
            duration.into(),
            request_status(object).into(),
        ]
    },
};

fn request_status(request: &Value) -> String {
    let has = |kind: &str| condition(request, kind).is_some();
    let mut parts = Vec::new();
    match (has("Approved"), has("Denied")) {
        (_, true) => parts.push("Denied"),
        (true, false) => parts.push("Approved"),
        (false, false) => parts.push("Pending"),
    }
    if has("Failed") {
        parts.push("Failed");
    }
    if !text_or(&request["status"]["certificate"], "").is_empty() {
        parts.push("Issued");
    }
    parts.join(",")
}
