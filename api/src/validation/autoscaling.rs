//! HorizontalPodAutoscaler in both served versions, and the Scale subresource.

use k8s_openapi::api::autoscaling::v1::{
    HorizontalPodAutoscaler as HorizontalPodAutoscalerV1, Scale,
};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
};

use super::meta::{MetaRules, check_create, check_update};
use super::path::{Errors, Path, list, or_default, text};
use super::{names, resources};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// Checks a new HorizontalPodAutoscaler of `autoscaling/v2`.
pub fn horizontal_pod_autoscaler_create(autoscaler: &HorizontalPodAutoscaler) -> Vec<FieldError> {
    check_create(&autoscaler.metadata, META, |errors| spec(errors, &or_default(&autoscaler.spec)))
}

/// Checks an update of a HorizontalPodAutoscaler of `autoscaling/v2`.
pub fn horizontal_pod_autoscaler_update(
    new: &HorizontalPodAutoscaler,
    old: &HorizontalPodAutoscaler,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part != Part::Status {
            spec(errors, &or_default(&new.spec));
        }
    })
}

/// Checks a new HorizontalPodAutoscaler of `autoscaling/v1`.
pub fn horizontal_pod_autoscaler_v1_create(
    autoscaler: &HorizontalPodAutoscalerV1,
) -> Vec<FieldError> {
    check_create(&autoscaler.metadata, META, |errors| spec_v1(errors, autoscaler))
}

/// Checks an update of a HorizontalPodAutoscaler of `autoscaling/v1`.
pub fn horizontal_pod_autoscaler_v1_update(
    new: &HorizontalPodAutoscalerV1,
    old: &HorizontalPodAutoscalerV1,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part != Part::Status {
            spec_v1(errors, new);
        }
    })
}

fn spec_v1(errors: &mut Errors, autoscaler: &HorizontalPodAutoscalerV1) {
    let spec = or_default(&autoscaler.spec);
    bounds(errors, spec.min_replicas, spec.max_replicas);
    let target = &spec.scale_target_ref;
    scale_target(errors, &target.kind, &target.name);
    if let Some(percent) = spec.target_cpu_utilization_percentage
        && percent < 1
    {
        let path = SPEC.child("targetCPUUtilizationPercentage");
        errors.invalid(&path, percent, "must be greater than 0");
    }
}

fn spec(errors: &mut Errors, spec: &HorizontalPodAutoscalerSpec) {
    bounds(errors, spec.min_replicas, spec.max_replicas);
    let target = &spec.scale_target_ref;
    scale_target(errors, &target.kind, &target.name);
    let path = SPEC.child("metrics");
    for (index, metric) in list(&spec.metrics).iter().enumerate() {
        metric_spec(errors, metric, &path.index(index));
    }
    if let Some(behavior) = &spec.behavior {
        let path = SPEC.child("behavior");
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)]
        {
            if let Some(rules) = rules {
                scaling_rules(errors, rules, &path.child(field));
            }
        }
    }
}

fn bounds(errors: &mut Errors, min: Option<i32>, max: i32) {
    if let Some(min) = min
        && min < 1
    {
        let detail = "must be greater than or equal to 1";
        errors.invalid(&SPEC.child("minReplicas"), min, detail);
    }
    let path = SPEC.child("maxReplicas");
    if max < 1 {
        errors.invalid(&path, max, "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(&path, max, "must be greater than or equal to `minReplicas`");
    }
}

fn scale_target(errors: &mut Errors, kind: &str, name: &str) {
    let path = SPEC.child("scaleTargetRef");
    for (field, value) in [("kind", kind), ("name", name)] {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            errors.invalid_each(&path.child(field), value, names::path_segment(value));
        }
    }
}

fn metric_spec(errors: &mut Errors, metric: &MetricSpec, path: &Path<'_>) {
    let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = metric.type_.as_str();
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    } else {
        errors.one_of(&path.child("type"), Some(kind), &kinds);
    }
    let sources = [
        ("Resource", "resource", metric.resource.as_ref().map(|source| &source.target)),
        (
            "ContainerResource",
            "containerResource",
            metric.container_resource.as_ref().map(|source| &source.target),
        ),
        ("Pods", "pods", metric.pods.as_ref().map(|source| &source.target)),
        ("Object", "object", metric.object.as_ref().map(|source| &source.target)),
        ("External", "external", metric.external.as_ref().map(|source| &source.target)),
    ];
    for (source_kind, field, target) in sources {
        let path = path.child(field);
        match target {
            None if source_kind == kind => {
                let detail = "must populate information for the given metric source";
                errors.required(&path, detail);
            }
            Some(target) if source_kind == kind => {
                metric_target(errors, target, kind, &path.child("target"));
            }
            Some(_) if !kind.is_empty() => {
                let detail = "must populate the given metric source only";
                errors.forbidden(&path, detail);
            }
            _ => {}
        }
    }
    for (field, name) in [
        ("resource.name", metric.resource.as_ref().map(|source| &source.name)),
        ("containerResource.name", metric.container_resource.as_ref().map(|source| &source.name)),
        (
            "containerResource.container",
            metric.container_resource.as_ref().map(|source| &source.container),
        ),
    ] {
        if name.is_some_and(String::is_empty) {
            errors.required(&path.child(field), "");
        }
    }
}

fn metric_target(errors: &mut Errors, target: &MetricTarget, kind: &str, path: &Path<'_>) {
    let kinds = ["AverageValue", "Utilization", "Value"];
    let target_kind = target.type_.as_str();
    if target_kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    errors.one_of(&path.child("type"), Some(target_kind).filter(|kind| !kind.is_empty()), &kinds);
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(value) = value
            && !resources::is_positive(value)
        {
            errors.invalid(&path.child(field), value.0.as_str(), "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization
        && percent < 1
    {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
    if matches!(kind, "Resource" | "ContainerResource") {
        match (target.average_utilization, &target.average_value) {
            (None, None) => {
                let detail = "must set either a target raw value or a target utilization";
                errors.required(&path.child("averageUtilization"), detail);
            }
            (Some(_), Some(_)) => {
                let detail = "may not set both a target raw value and a target utilization";
                errors.forbidden(&path.child("averageValue"), detail);
            }
            _ => {}
        }
    } else if target.value.is_none() && target.average_value.is_none() {
        let detail = "must specify a positive target averageValue";
        errors.required(&path.child("averageValue"), detail);
    }
}

fn scaling_rules(errors: &mut Errors, rules: &HPAScalingRules, path: &Path<'_>) {
    const MAX_SECONDS: i32 = 3600;
    const MAX_PERIOD: i32 = 1800;
    if let Some(seconds) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        errors.non_negative(&path, seconds);
        if seconds > MAX_SECONDS {
            errors.invalid(&path, seconds, format!("must be less than or equal to {MAX_SECONDS}"));
        }
    }
    let select = rules.select_policy.as_deref();
    errors.one_of(&path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    let policies = list(&rules.policies);
    let path = path.child("policies");
    if policies.is_empty() {
        errors.required(&path, "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = path.index(index);
        errors.one_of(&path.child("type"), Some(&policy.type_), &["Percent", "Pods"]);
        for (field, number) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if number <= 0 {
                errors.invalid(&path.child(field), number, "must be greater than zero");
            }
        }
        if policy.period_seconds > MAX_PERIOD {
            let detail = format!("must be less than or equal to {MAX_PERIOD}");
            errors.invalid(&path.child("periodSeconds"), policy.period_seconds, detail);
        }
    }
}

/// Checks a write of the `scale` subresource of any kind.
pub fn scale(scale: &Scale) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let name = text(&scale.metadata.name);
    errors.invalid_each(&Path::root("metadata.name"), name, names::subdomain_name(name, false));
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    errors.non_negative(&SPEC.child("replicas"), replicas);
    errors.into_vec()
}
