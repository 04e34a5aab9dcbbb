//! Workloads that keep pods running.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

fn minimal() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "dev"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            },
        },
    })
}

const OTHER_SELECTOR: fn() -> Value = || json!({"matchLabels": {"app": "other"}});

#[test]
fn deployments() {
    let kind = Kind::<Deployment> {
        minimal: minimal(),
        default: defaults::deployment,
        create: validation::deployment_create,
        update: Some(validation::deployment_update),
    };
    let mismatch =
        "spec.template.metadata.labels: Invalid: `selector` does not match template `labels`";
    kind.creates(&[
        ("/spec/replicas", json!(-1), &["spec.replicas: Invalid: must be greater than or equal to 0"]),
        ("/spec/selector", json!(null), &["spec.selector: Required"]),
        ("/spec/selector", OTHER_SELECTOR(), &[mismatch]),
        (
            "/spec/selector/matchExpressions",
            json!([{"key": "a", "operator": "In"}, {"key": "b", "operator": "x", "values": ["c d"]}]),
            &[
                "spec.selector.matchExpressions[0].values: Required: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.selector.matchExpressions[1].operator: Invalid: not a valid selector operator",
                "spec.selector.matchExpressions[1].values[0]: Invalid",
                mismatch,
            ],
        ),
        ("/spec/template/metadata/labels", json!(null), &[mismatch]),
        ("/spec/template/spec/restartPolicy", json!("Never"), &["spec.template.spec.restartPolicy: NotSupported: supported values: \"Always\""]),
        ("/spec/template/spec/containers", json!([]), &["spec.template.spec.containers: Required"]),
        (
            "/spec/strategy",
            json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
            &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        ("/spec/strategy", json!({"type": "x"}), &["spec.strategy.type: NotSupported"]),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid: may not be 0 when `maxSurge` is 0"],
        ),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": "x", "maxUnavailable": "101%"}}),
            &[
                "spec.strategy.rollingUpdate.maxSurge: Invalid: a valid percent string must be",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid: must not be greater than 100%",
            ],
        ),
        ("/spec/progressDeadlineSeconds", json!(0), &["spec.progressDeadlineSeconds: Invalid: must be greater than minReadySeconds"]),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/spec/replicas", json!(5), &[]),
            (
                "/spec/selector",
                OTHER_SELECTOR(),
                &["spec.selector: Invalid: field is immutable", mismatch],
            ),
        ],
    );
    kind.updates(
        Part::Status,
        &[("/status", json!({"replicas": -1}), &["status.replicas: Invalid"])],
    );
}

#[test]
fn replica_sets() {
    let kind = Kind::<ReplicaSet> {
        minimal: minimal(),
        default: defaults::replica_set,
        create: validation::replica_set_create,
        update: Some(validation::replica_set_update),
    };
    kind.creates(&[
        ("/spec/template", json!(null), &["spec.template: Required"]),
        ("/spec/minReadySeconds", json!(-1), &["spec.minReadySeconds: Invalid"]),
        ("/spec", json!({}), &["spec.selector: Required", "spec.template: Required"]),
    ]);
    kind.updates(
        Part::Status,
        &[(
            "/status",
            json!({"replicas": 1, "readyReplicas": 2}),
            &["status.readyReplicas: Invalid: cannot be greater than status.replicas"],
        )],
    );
}

#[test]
fn stateful_sets() {
    let kind = Kind::<StatefulSet> {
        minimal: minimal(),
        default: defaults::stateful_set,
        create: validation::stateful_set_create,
        update: Some(validation::stateful_set_update),
    };
    kind.creates(&[
        ("/metadata/name", json!("a.b"), &["metadata.name: Invalid: a lowercase RFC 1123 label"]),
        ("/spec/podManagementPolicy", json!("x"), &["spec.podManagementPolicy: Invalid: must be 'OrderedReady' or 'Parallel'"]),
        ("/spec/updateStrategy", json!({"type": "x"}), &["spec.updateStrategy: Invalid: must be 'RollingUpdate' or 'OnDelete'"]),
        ("/spec/updateStrategy", json!({"rollingUpdate": {"partition": -1}}), &["spec.updateStrategy.rollingUpdate.partition: Invalid"]),
        ("/spec/ordinals", json!({"start": -1}), &["spec.ordinals.start: Invalid"]),
        (
            "/spec/volumeClaimTemplates",
            json!([{"metadata": {"name": "data"}, "spec": {}}]),
            &[
                "spec.volumeClaimTemplates[0].spec.accessModes: Required: at least 1 access mode is required",
                "spec.volumeClaimTemplates[0].spec.resources.requests[storage]: Required",
            ],
        ),
    ]);
    // A mount may name a claim template.
    let claim = json!([{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    kind.creates_with(
        &[
            ("/spec/volumeClaimTemplates", claim),
            ("/spec/template/spec/containers/0/volumeMounts", mounts),
        ],
        &[],
    );
    let forbidden = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    kind.updates(
        Part::Main,
        &[
            ("/spec/replicas", json!(3), &[]),
            ("/spec/template/spec/containers/0/image", json!("nginx:2"), &[]),
            ("/spec/serviceName", json!("other"), &[forbidden]),
        ],
    );
}

#[test]
fn daemon_sets() {
    let kind = Kind::<DaemonSet> {
        minimal: minimal(),
        default: defaults::daemon_set,
        create: validation::daemon_set_create,
        update: Some(validation::daemon_set_update),
    };
    kind.creates(&[
        ("/spec/template/spec/restartPolicy", json!("OnFailure"), &["spec.template.spec.restartPolicy: NotSupported"]),
        (
            "/spec/updateStrategy",
            json!({"rollingUpdate": {"maxUnavailable": 0}}),
            &["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid: cannot be 0 when maxSurge is 0"],
        ),
        (
            "/spec/updateStrategy",
            json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}),
            &["spec.updateStrategy.rollingUpdate.maxSurge: Invalid: may not be set when maxUnavailable is non-zero"],
        ),
    ]);
    kind.updates(
        Part::Main,
        &[(
            "/spec/selector",
            json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            &["spec.selector: Invalid: field is immutable"],
        )],
    );
}

#[test]
fn replication_controllers() {
    let kind = Kind::<ReplicationController> {
        minimal: json!({
            "metadata": {"name": "web", "namespace": "dev"},
            "spec": {"template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            }},
        }),
        default: defaults::replication_controller,
        create: validation::replication_controller_create,
        update: Some(validation::replication_controller_update),
    };
    kind.creates(&[
        ("/spec/selector", json!({"app": "other"}), &["spec.template.metadata.labels: Invalid"]),
        ("/spec/template", json!(null), &["spec.selector: Required", "spec.template: Required"]),
    ]);
    kind.updates(Part::Main, &[("/spec/replicas", json!(-1), &["spec.replicas: Invalid"])]);
}
