//! Server-side apply with `kubectl`, unmodified: its conflicts, its diffs, and
//! the way from client-side apply and back.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use skiff_tests::{Lab, Master, Output, run, skiffctl, step};

/// No replicas: the test is about the object.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: skiff-example/busybox:latest
        ports: [{containerPort: 8080}]
"#;

const MAP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {a: "1", b: "1"}
"#;

fn kubectl(lab: &Lab, line: &str) -> Output {
    lab.kubectl(&line.split(' ').collect::<Vec<_>>())
}

fn kubectl_with(lab: &Lab, line: &str, input: &str) -> Output {
    lab.kubectl_with(&line.split(' ').collect::<Vec<_>>(), input)
}

/// `MANAGER OPERATION` of every manager of an object, sorted.
fn managers(lab: &Lab, object: &str) -> Vec<String> {
    let shown = kubectl(lab, &format!("get {object} -o json --show-managed-fields")).ok();
    let object: Value = serde_json::from_str(&shown).unwrap();
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut managers: Vec<String> = list
        .iter()
        .map(|entry| format!("{} {}", text(entry, "manager"), text(entry, "operation")))
        .collect();
    managers.sort();
    managers
}

fn data(lab: &Lab) -> String {
    kubectl(lab, "get configmap map -o jsonpath={.data}").ok()
}

#[test]
fn kubectl_applies_on_the_server() {
    let lab = Lab::up(1);

    step("apply creates, and the same again is no write");
    let applied = |line: &str| kubectl_with(&lab, line, WEB);
    let on_server = "apply --server-side -f -";
    assert_eq!(applied(on_server).ok(), "deployment.apps/web serverside-applied");
    let version = || kubectl(&lab, "get configmap map -o jsonpath={.metadata.resourceVersion}");
    assert!(managers(&lab, "deployment/web").contains(&"kubectl Apply".to_owned()));

    step("what another manager has is a conflict, and force takes it");
    kubectl(&lab, "patch deployment web --field-manager=other --type=merge -p={\"spec\":{\"paused\":true,\"replicas\":1}}").ok();
    kubectl(&lab, "scale deployment web --replicas=0").ok();
    kubectl(&lab, "patch deployment web --field-manager=other --type=merge -p={\"spec\":{\"revisionHistoryLimit\":3}}").ok();
    let wanted = WEB.replace("replicas: 0", "replicas: 0\n  revisionHistoryLimit: 4");
    let refused = kubectl_with(&lab, on_server, &wanted).refused();
    let conflict = "Apply failed with 1 conflict: conflict with \"other\" using apps/v1: .spec.revisionHistoryLimit";
    assert!(refused.contains(conflict), "{refused}");
    assert!(refused.contains("--force-conflicts"), "{refused}");
    let forced = kubectl_with(&lab, "apply --server-side --force-conflicts -f -", &wanted);
    assert_eq!(forced.ok(), "deployment.apps/web serverside-applied");

    step("diff and dry run ask the server and change nothing");
    let other = wanted.replace("revisionHistoryLimit: 4", "revisionHistoryLimit: 5");
    let diff = kubectl_with(&lab, "diff --server-side -f -", &other);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(
        diff.stdout.contains("-  revisionHistoryLimit: 4\n+  revisionHistoryLimit: 5"),
        "{diff:?}"
    );
    assert_eq!(kubectl_with(&lab, "diff --server-side -f -", &wanted).code, 0);
    let dry = kubectl_with(&lab, "apply --server-side --dry-run=server -f -", &other).ok();
    assert_eq!(dry, "deployment.apps/web serverside-applied (server dry run)");
    let limit = kubectl(&lab, "get deployment web -o jsonpath={.spec.revisionHistoryLimit}").ok();
    assert_eq!(limit, "4");

    step("what is dropped gets its default back");
    applied(on_server).ok();
    let limit = kubectl(&lab, "get deployment web -o jsonpath={.spec.revisionHistoryLimit}").ok();
    assert_eq!(limit, "10");
    let unknown = kubectl_with(&lab, on_server, &WEB.replace("replicas", "replicass")).refused();
    assert!(unknown.contains(".spec.replicass: field not declared in schema"), "{unknown}");

    step("from client-side apply to server-side apply and back");
    kubectl_with(&lab, "apply -f -", MAP).ok();
    assert_eq!(managers(&lab, "configmap/map"), ["kubectl-client-side-apply Update"]);
    let changed = MAP.replace("a: \"1\"", "a: \"2\"");
    kubectl_with(&lab, on_server, &changed).ok();
    assert_eq!(managers(&lab, "configmap/map"), ["kubectl Apply", "kubectl-last-applied Apply"]);
    kubectl_with(&lab, on_server, &changed.replace(", b: \"1\"", "")).ok();
    assert_eq!(data(&lab), r#"{"a":"2"}"#);
    let before = version().ok();
    kubectl_with(&lab, on_server, &changed.replace(", b: \"1\"", "")).ok();
    assert_eq!(version().ok(), before, "the same again is no write");
    kubectl_with(&lab, "apply -f -", &MAP.replace("b: \"1\"", "c: \"1\"")).ok();
    kubectl_with(&lab, "apply -f -", MAP).ok();
    assert_eq!(data(&lab), r#"{"a":"1","b":"1"}"#);

    step("managers can be cleared, and what was there is somebody's then");
    kubectl(&lab, "patch configmap map --type=merge -p={\"metadata\":{\"managedFields\":[{}]}}")
        .ok();
    assert_eq!(managers(&lab, "configmap/map"), Vec::<String>::new());
    kubectl(&lab, "annotate configmap map kubectl.kubernetes.io/last-applied-configuration-").ok();
    let refused = kubectl_with(&lab, on_server, &changed).refused();
    assert!(
        refused.contains("conflict with \"before-first-apply\" using v1: .data.a"),
        "{refused}"
    );
}

#[test]
fn skiffctl_applies_on_the_server() {
    let master = Master::up();
    let ctl = |line: &str, input: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        run(skiffctl(&master.kubeconfig(), &words), Some(input))
    };
    let data = || master.kubectl("get configmap map -o jsonpath={.data}").ok();
    let on_server = "apply --server-side -f -";

    step("what client-side apply had is given up like the applier's own");
    ctl("apply -f -", MAP).ok();
    assert_eq!(ctl(on_server, MAP).ok(), "configmap/map serverside-applied");
    let without_b = MAP.replace(", b: \"1\"", "");
    ctl(on_server, &without_b).ok();
    assert_eq!(data(), r#"{"a":"1"}"#);

    step("kubectl goes on where skiffctl stopped, and skiffctl after kubectl");
    let second = without_b.replace("a: \"1\"", "a: \"2\"");
    master.kubectl_with(on_server, &second).ok();
    ctl(on_server, &without_b).ok();
    assert_eq!(data(), r#"{"a":"1"}"#);

    step("what others have is refused on one line, and taken by force");
    let other = "apply --server-side --field-manager=other -f -";
    let refused = ctl(other, &second).refused();
    assert!(refused.contains("conflict with \"kubectl\": .data.a"), "{refused}");
    assert!(refused.contains("--force-conflicts"), "{refused}");
    assert_eq!(data(), r#"{"a":"1"}"#);
    let dry = format!("{other} --force-conflicts --dry-run=server");
    assert_eq!(ctl(&dry, &second).ok(), "configmap/map serverside-applied (server dry run)");
    assert_eq!(data(), r#"{"a":"1"}"#);
    ctl(&format!("{other} --force-conflicts"), &second).ok();
    assert_eq!(data(), r#"{"a":"2"}"#);
    let refused = ctl(on_server, &without_b).refused();
    assert!(refused.contains("conflict with \"other\""), "{refused}");

    step("flags that make no sense together");
    assert_eq!(ctl("apply --force-conflicts -f -", MAP).code, 2);
    assert!(ctl(&format!("{on_server} --dry-run=client"), MAP).refused().contains("--dry-run"));
}
