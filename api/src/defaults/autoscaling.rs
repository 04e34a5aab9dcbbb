//! HorizontalPodAutoscaler, in both served versions.

use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler as HorizontalPodAutoscalerV1;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget,
    ResourceMetricSource,
};

use super::fill;

/// Fills in a HorizontalPodAutoscaler of `autoscaling/v2`: without any metric
/// it aims at 80% of the requested CPU.
pub fn horizontal_pod_autoscaler(autoscaler: &mut HorizontalPodAutoscaler) {
    let Some(spec) = &mut autoscaler.spec else { return };
    fill(&mut spec.min_replicas, 1);
    if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
        spec.metrics = Some(vec![cpu_metric(80)]);
    }
    if let Some(behavior) = &mut spec.behavior {
        scale_up(behavior.scale_up.get_or_insert_default());
        scale_down(behavior.scale_down.get_or_insert_default());
    }
}

/// Fills in a HorizontalPodAutoscaler of `autoscaling/v1`.
pub fn horizontal_pod_autoscaler_v1(autoscaler: &mut HorizontalPodAutoscalerV1) {
    if let Some(spec) = &mut autoscaler.spec {
        fill(&mut spec.min_replicas, 1);
    }
}

fn cpu_metric(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 }
}

fn scale_up(rules: &mut HPAScalingRules) {
    fill(&mut rules.stabilization_window_seconds, 0);
    fill(&mut rules.select_policy, "Max".to_owned());
    fill(&mut rules.policies, vec![policy("Pods", 4), policy("Percent", 100)]);
}

/// The stabilization window of scaling down is the controller's to choose.
fn scale_down(rules: &mut HPAScalingRules) {
    fill(&mut rules.select_policy, "Max".to_owned());
    fill(&mut rules.policies, vec![policy("Percent", 100)]);
}
