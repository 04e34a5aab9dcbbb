use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler as HorizontalPodAutoscalerV1;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn disruption_budgets() {
    let kind = Kind::<PodDisruptionBudget> {
        minimal: json!({"metadata": {"name": "b", "namespace": "dev"}, "spec": {"minAvailable": 1, "selector": {}}}),
        default: |_| {},
        create: validation::pod_disruption_budget_create,
        update: Some(validation::pod_disruption_budget_update),
    };
    kind.creates(&[
        (
            "/spec/maxUnavailable",
            json!(1),
            &["spec: Invalid: minAvailable and maxUnavailable cannot be both set"],
        ),
        ("/spec/minAvailable", json!("x"), &["spec.minAvailable: Invalid: a valid percent string"]),
        ("/spec/minAvailable", json!(-1), &["spec.minAvailable: Invalid"]),
    ]);
    kind.updates(Part::Main, &[("/spec/minAvailable", json!(2), &[])]);
}

#[test]
fn quotas() {
    let kind = Kind::<ResourceQuota> {
        minimal: json!({"metadata": {"name": "q", "namespace": "dev"}, "spec": {"hard": {"pods": "10", "requests.cpu": "1500m", "count/jobs.batch": "3"}}}),
        default: |_| {},
        create: validation::resource_quota_create,
        update: Some(validation::resource_quota_update),
    };
    kind.creates(&[
        ("/spec/hard", json!({"pods": "1.5"}), &["spec.hard[pods]: Invalid: must be an integer"]),
        (
            "/spec/hard",
            json!({"nonsense": "1"}),
            &["spec.hard[nonsense]: Invalid: must be a standard resource for quota"],
        ),
        ("/spec/hard", json!({"cpu": "-1"}), &["spec.hard[cpu]: Invalid"]),
        (
            "/spec",
            json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            &["spec.scopes: Invalid: conflicting scopes"],
        ),
        (
            "/spec",
            json!({"hard": {"pods": "1"}, "scopes": ["x"]}),
            &["spec.scopes: Invalid: unsupported scope"],
        ),
        (
            "/spec/scopes",
            json!(["BestEffort"]),
            &["spec.scopes: Invalid: unsupported scope applied to resource"],
        ),
        ("/spec/scopes", json!(["NotBestEffort", "Terminating"]), &[]),
        (
            "/spec/scopeSelector",
            json!({"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "Exists"}]}),
            &[
                "spec.scopeSelector.matchExpressions: Invalid: unsupported scope applied to resource",
                "spec.scopeSelector.matchExpressions: Invalid: unsupported scope applied to resource",
            ],
        ),
        (
            "/spec",
            json!({"hard": {"configmaps": "1", "pods": "1"}, "scopes": ["NotTerminating"]}),
            &["spec.scopes: Invalid: unsupported scope applied to resource"],
        ),
        ("/spec", json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}), &[]),
    ]);
    kind.updates(
        Part::Main,
        &[(
            "/spec/scopes",
            json!(["NotBestEffort"]),
            &["spec.scopes: Invalid: field is immutable"],
        )],
    );
}

#[test]
fn limit_ranges() {
    let kind = Kind::<LimitRange> {
        minimal: json!({"metadata": {"name": "l", "namespace": "dev"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}}]}}),
        default: defaults::limit_range,
        create: validation::limit_range_create,
        update: Some(validation::limit_range_update),
    };
    kind.creates(&[
        ("/spec/limits/-", json!({"type": "Container"}), &["spec.limits[1].type: Duplicate"]),
        ("/spec/limits/0", json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}), &["spec.limits[0].min[cpu]: Invalid: min value 2 is greater than max value 1"]),
        ("/spec/limits/0", json!({"type": "Pod", "default": {"cpu": "1"}}), &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]),
        ("/spec/limits/0", json!({"type": "PersistentVolumeClaim"}), &["spec.limits[0]: Required: either minimum or maximum storage value"]),
        ("/spec/limits/0", json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}, "max": {"cpu": "1"}}), &["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid: ratio 500m is less than 1"]),
    ]);
}

#[test]
fn priority_classes() {
    let kind = Kind::<PriorityClass> {
        minimal: json!({"metadata": {"name": "high"}, "value": 1000}),
        default: defaults::priority_class,
        create: validation::priority_class_create,
        update: Some(validation::priority_class_update),
    };
    kind.creates(&[
        (
            "/value",
            json!(1_000_000_001),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        ),
        (
            "/metadata/name",
            json!("system-mine"),
            &["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved"],
        ),
        ("/preemptionPolicy", json!("x"), &["preemptionPolicy: NotSupported"]),
    ]);
    kind.creates_with(
        &[("/metadata/name", json!("system-node-critical")), ("/value", json!(2_000_001_000))],
        &[],
    );
    kind.updates(
        Part::Main,
        &[
            ("/description", json!("x"), &[]),
            ("/value", json!(5), &["value: Forbidden: may not be changed in an update."]),
            (
                "/preemptionPolicy",
                json!("Never"),
                &["preemptionPolicy: Invalid: field is immutable"],
            ),
        ],
    );
}

#[test]
fn runtime_classes() {
    let kind = Kind::<RuntimeClass> {
        minimal: json!({"metadata": {"name": "runc"}, "handler": "runc"}),
        default: |_| {},
        create: validation::runtime_class_create,
        update: Some(validation::runtime_class_update),
    };
    kind.creates(&[
        ("/handler", json!("A"), &["handler: Invalid"]),
        ("/overhead", json!({"podFixed": {"cpu": "-1"}}), &["overhead.podFixed[cpu]: Invalid"]),
    ]);
    kind.updates(
        Part::Main,
        &[("/handler", json!("kata"), &["handler: Invalid: field is immutable"])],
    );
}

#[test]
fn autoscalers() {
    let kind = Kind::<HorizontalPodAutoscaler> {
        minimal: json!({"metadata": {"name": "h", "namespace": "dev"}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
        default: defaults::horizontal_pod_autoscaler,
        create: validation::horizontal_pod_autoscaler_create,
        update: Some(validation::horizontal_pod_autoscaler_update),
    };
    kind.creates(&[
        ("/spec/maxReplicas", json!(0), &["spec.maxReplicas: Invalid: must be greater than 0", "spec.maxReplicas: Invalid: must be greater than or equal to `minReplicas`"]),
        ("/spec/scaleTargetRef", json!({}), &["spec.scaleTargetRef.kind: Required", "spec.scaleTargetRef.name: Required"]),
        ("/spec/metrics", json!([{"type": "Pods"}]), &["spec.metrics[0].pods: Required: must populate information for the given metric source"]),
        (
            "/spec/metrics",
            json!([{"type": "Resource", "resource": {"name": "", "target": {"type": "x"}}}]),
            &[
                "spec.metrics[0].resource.name: Required",
                "spec.metrics[0].resource.target.type: NotSupported",
                "spec.metrics[0].resource.target.averageUtilization: Required",
            ],
        ),
        ("/spec/behavior", json!({"scaleUp": {"stabilizationWindowSeconds": 4000}}), &["spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid: must be less than or equal to 3600"]),
    ]);
    kind.updates(
        Part::Main,
        &[(
            "/spec/minReplicas",
            json!(-1),
            &["spec.minReplicas: Invalid: must be greater than or equal to 1"],
        )],
    );
    let old = Kind::<HorizontalPodAutoscalerV1> {
        minimal: json!({"metadata": {"name": "h", "namespace": "dev"}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
        default: defaults::horizontal_pod_autoscaler_v1,
        create: validation::horizontal_pod_autoscaler_v1_create,
        update: None,
    };
    old.creates(&[(
        "/spec/targetCPUUtilizationPercentage",
        json!(0),
        &["spec.targetCPUUtilizationPercentage: Invalid: must be greater than 0"],
    )]);
}
