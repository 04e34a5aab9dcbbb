//! What the audit log keeps of requests, those that were refused among them.

use serde_json::{Value, json};
use skiff_apiserver::user::UserInfo;

use crate::common::{configmap, pod, start_with};
use crate::{JSON, MAPS, PODS, get, send};

#[tokio::test]
async fn the_audit_log_says_who_did_what() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(
        &policy,
        r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, resources: [{resources: [configmaps]}]}
- {level: Request, resources: [{resources: [pods]}]}
"#,
    )
    .unwrap();
    let server = start_with(|config| skiff_apiserver::Config {
        audit_policy_file: Some(policy),
        audit_log_path: Some(log.clone()),
        ..config
    })
    .await;
    let body = |object: Value| object.to_string().into_bytes();
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    send(&server, "POST", "/api/v1/namespaces/default/secrets", JSON, &body(secret)).await;
    send(&server, "POST", MAPS, JSON, &body(configmap("m"))).await;
    send(&server, "POST", PODS, JSON, &body(pod("p"))).await;
    send(&server, "POST", PODS, JSON, &body(pod("p"))).await;
    server.send_as(UserInfo::new("jane", []), http::Method::GET, PODS, &[], "").await.expect(403);
    get(&server, "/version").await;
    get(&server, &format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hunter2"), "secrets stay out as the policy says");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let brief: Vec<String> = events
        .iter()
        .filter(|event| event["user"]["username"] != "system:apiserver")
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {} {}",
                text(&event["level"]),
                text(&event["stage"]),
                text(&event["user"]["username"]),
                text(&event["verb"]),
                text(&event["objectRef"]["resource"]),
                event["responseStatus"]["code"]
            )
        })
        .collect();
    assert_eq!(
        brief,
        [
            "Metadata ResponseComplete admin create secrets 201",
            "RequestResponse ResponseComplete admin create configmaps 201",
            "Request ResponseComplete admin create pods 201",
            "Request ResponseComplete admin create pods 409",
            "Request ResponseComplete jane list pods 403",
            "RequestResponse ResponseStarted admin watch configmaps 200",
            "RequestResponse ResponseComplete admin watch configmaps 200",
        ]
    );
    let of = |resource: &str| {
        events.iter().find(|event| event["objectRef"]["resource"] == resource).unwrap()
    };
    assert!(of("secrets")["requestObject"].is_null());
    let map = of("configmaps");
    assert_eq!(map["requestObject"]["data"]["k"], "v");
    assert_eq!(map["responseObject"]["metadata"]["name"], "m");
    assert!(map["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(map["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(map["annotations"]["authorization.k8s.io/decision"], "allow");
    let pods = of("pods");
    assert!(pods["requestObject"].is_object() && pods["responseObject"].is_null());
    assert_eq!(
        pods["annotations"]["pod-security.kubernetes.io/enforce-policy"],
        "privileged:latest"
    );
    let refused = events.iter().find(|event| event["responseStatus"]["code"] == 409).unwrap();
    assert_eq!(refused["responseStatus"]["reason"], "AlreadyExists");
}
