//! What may change about a pod, by which of its parts.

use serde_json::{Value, json};

use super::pod::POD;
use crate::catalogue::Part;

#[test]
fn little_of_a_pod_may_change() {
    POD().updates(
        Part::Main,
        &[
            ("/spec/containers/0/image", json!("nginx:2"), &[
                // The default of the pull policy does not follow here, as a
                // client sends the stored policy along; this one does not.
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            ]),
            ("/spec/containers/0/image", json!("apache"), &[]),
            ("/spec/containers/0/image", json!(""), &["spec.containers[0].image: Required"]),
            ("/spec/activeDeadlineSeconds", json!(10), &[]),
            ("/spec/tolerations/-", json!({"key": "l", "operator": "Exists"}), &[]),
            ("/spec/tolerations", json!([]), &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]),
            ("/spec/containers/-", json!({"name": "b", "image": "i"}), &["spec.containers: Forbidden: pod updates may not add or remove containers"]),
            ("/spec/nodeName", json!("n"), &["spec: Forbidden: pod updates may not change fields"]),
            ("/metadata/labels", json!({"app": "other"}), &[]),
            ("/metadata/name", json!("other"), &["metadata.name: Invalid: field is immutable"]),
            ("/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"}), &["metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"]),
        ],
    );
    POD().updates_from(
        &[("/spec/activeDeadlineSeconds", json!(10))],
        Part::Main,
        &[
            ("/spec/activeDeadlineSeconds", json!(5), &[]),
            ("/spec/activeDeadlineSeconds", json!(20), &["spec.activeDeadlineSeconds: Invalid: must be less than or equal to previous value"]),
            ("/spec/activeDeadlineSeconds", json!(null), &["spec.activeDeadlineSeconds: Invalid: must not update from a positive integer to nil value"]),
        ],
    );
}

#[test]
fn scheduling_gates_are_only_lifted() {
    POD().creates_with(
        &[
            ("/spec/schedulingGates", json!([{"name": "a"}, {"name": "a"}])),
            ("/spec/nodeName", json!("n")),
        ],
        &[
            "spec.schedulingGates[1].name: Duplicate",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
    POD().updates_from(
        &[("/spec/schedulingGates", json!([{"name": "a"}]))],
        Part::Main,
        &[
            ("/spec/schedulingGates", json!([]), &[]),
            ("/spec/nodeSelector", json!({"disk": "ssd"}), &[]),
            ("/spec/schedulingGates", json!([{"name": "b"}]), &["spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'b'"]),
        ],
    );
}

#[test]
fn subresources_change_their_part() {
    POD().updates(
        Part::Other("ephemeralcontainers"),
        &[
            ("/spec/ephemeralContainers", json!([{"name": "debug", "image": "i", "targetContainerName": "web"}]), &[]),
            (
                "/spec/ephemeralContainers",
                json!([{"name": "web", "image": "i", "targetContainerName": "x", "ports": [{"containerPort": 1}]}]),
                &[
                    "spec.ephemeralContainers[0].name: Duplicate",
                    "spec.ephemeralContainers[0].targetContainerName: NotFound",
                    "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                ],
            ),
        ],
    );
    POD().updates_from(
        &[("/spec/ephemeralContainers", json!([{"name": "debug", "image": "i"}]))],
        Part::Other("ephemeralcontainers"),
        &[
            ("/spec/ephemeralContainers", json!([]), &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed"]),
            ("/spec/ephemeralContainers", json!([{"name": "debug", "image": "j"}]), &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be changed"]),
        ],
    );
    POD().updates(
        Part::Other("resize"),
        &[
            (
                "/spec/containers/0/resources",
                json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "2"}}),
                &[],
            ),
            (
                "/spec/containers/0/resources",
                json!({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}),
                &["spec.containers[0].resources.requests: Invalid"],
            ),
            (
                "/spec/containers/0/resources",
                json!({}),
                &[
                    "spec: Forbidden: resource limits cannot be removed",
                    "spec: Forbidden: resource requests cannot be removed",
                    "spec: Invalid: Pod QOS Class may not change as a result of resizing",
                ],
            ),
            (
                "/spec/containers/0/image",
                json!("other"),
                &["spec: Forbidden: only cpu and memory resources are mutable"],
            ),
            (
                "/spec/containers/0/name",
                json!("other"),
                &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
            ),
            (
                "/spec/initContainers",
                json!([]),
                &["spec.initContainers: Forbidden: initContainers may not be added or removed on resize"],
            ),
        ],
    );
    let init = |policy: Value| {
        let requests = json!({"requests": {"cpu": "100m"}});
        json!([{"name": "init", "image": "i", "restartPolicy": policy, "resources": requests}])
    };
    for (policy, refused) in [
        (
            Value::Null,
            &["spec: Forbidden: resources for non-sidecar init containers are immutable"][..],
        ),
        (json!("Always"), &[]),
    ] {
        POD().updates_from(
            &[("/spec/initContainers", init(policy))],
            Part::Other("resize"),
            &[("/spec/initContainers/0/resources/requests/cpu", json!("200m"), refused)],
        );
    }
}

#[test]
fn what_ended_stays_ended() {
    let ended = |code: i32| {
        json!({"containerStatuses": [
            {"name": "web", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}},
        ]})
    };
    let running = json!({"containerStatuses": [
        {"name": "web", "image": "i", "imageID": "", "ready": true, "restartCount": 1, "state": {"running": {}}},
    ]});
    let refused: &[&str] = &[
        "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
    ];
    for (policy, code, expected) in [
        ("Always", 0, &[][..]),
        ("Never", 1, refused),
        ("OnFailure", 1, &[]),
        ("OnFailure", 0, refused),
    ] {
        POD().updates_from(
            &[("/spec/restartPolicy", json!(policy)), ("/status", ended(code))],
            Part::Status,
            &[("/status", running.clone(), expected)],
        );
    }
}
