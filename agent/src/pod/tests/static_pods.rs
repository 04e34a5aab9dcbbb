//! Pods from a folder, and their mirrors in the API.

use serde_json::Value;

use super::{hollow, ready};

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: ns}
spec: {containers: [{name: a, image: 'img:1'}]}
";
const MIRROR: &str = "/api/v1/namespaces/ns/pods/web-n1";

#[tokio::test]
async fn a_static_pod_runs_whatever_becomes_of_its_mirror() {
    let mut node = hollow().await;
    node.stop().await;
    std::fs::create_dir(node.static_dir()).unwrap();
    let file = node.static_dir().join("web.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    node.start();
    let mirror = node.until_at(MIRROR, "a ready mirror", ready).await;
    let first = node.app("a").await;
    let hash = mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone();
    assert_eq!(first.label(crate::runtime::labels::POD_UID), hash.as_str().unwrap());

    // Deleted like any pod, it comes back and the pod has not noticed.
    let pods: skiff_client::Api<k8s_openapi::api::core::v1::Pod> =
        skiff_client::Api::namespaced(node.api.client(), "ns");
    pods.delete("web-n1", &Default::default()).await.unwrap();
    let fresh = |known: &Value| {
        known["metadata"]["resourceVersion"] != mirror["metadata"]["resourceVersion"]
            && known["metadata"]["deletionTimestamp"].is_null()
            && ready(known)
    };
    node.until_at(MIRROR, "another mirror", fresh).await;
    assert_eq!(node.app("a").await.id, first.id);

    // A restarted agent adopts; a file that changes is another pod.
    node.stop().await;
    node.start();
    std::fs::write(&file, MANIFEST.replace("name: a", "name: b")).unwrap();
    let changed = |known: &Value| {
        known["spec"]["containers"][0]["name"] == "b"
            && known["metadata"]["annotations"]["kubernetes.io/config.mirror"] != hash
            && ready(known)
    };
    node.until_at(MIRROR, "the new pod's mirror", changed).await;

    std::fs::remove_file(&file).unwrap();
    node.until_at(MIRROR, "no mirror", Value::is_null).await;
    node.until_empty().await;
    node.stop().await;
}

#[tokio::test]
async fn a_mirror_without_its_pod_is_removed() {
    let mut node = hollow().await;
    let mut pod = serde_json::json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "old-n1", "namespace": "ns", "uid": "m",
                     "annotations": {"kubernetes.io/config.mirror": "gone"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "img:1"}]}});
    pod["status"] = serde_json::json!({"phase": "Running"});
    node.api.put("/api/v1/namespaces/ns/pods/old-n1", pod);
    node.until_at("/api/v1/namespaces/ns/pods/old-n1", "no mirror", Value::is_null).await;
    assert!(node.containers().await.is_empty(), "a mirror is not run");
    node.stop().await;
}
