//! Horizontal pod autoscalers: v1 knows one metric, the CPU, by a field of its
//! own; v2 has a list of metrics.
//!
//! What v1 has no field for (other metrics, behaviour, conditions) travels in
//! annotations, so that an update through v1 loses nothing.

use serde_json::{Map, Value, json};

/// v2 field in `spec` or `status`, and the annotation that carries it in v1.
const CARRIED: &[(&str, &str, &str)] = &[
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];

/// Rewrites a v1 autoscaler into a v2 one.
pub(in crate::catalogue) fn v1_to_v2(hpa: &mut Value) {
    for (part, field, annotation) in CARRIED {
        let Some(annotations) =
            hpa.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        else {
            break;
        };
        // Text that is not ours to read stays where it is.
        let Some(value) = annotations
            .get(*annotation)
            .and_then(Value::as_str)
            .and_then(|t| serde_json::from_str(t).ok())
        else {
            continue;
        };
        annotations.remove(*annotation);
        part_of(hpa, part).insert((*field).into(), value);
    }
    if hpa.pointer("/metadata/annotations").and_then(Value::as_object).is_some_and(Map::is_empty)
        && let Some(metadata) = hpa.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("annotations");
    }
    cpu_to_metric(hpa, "spec", "targetCPUUtilizationPercentage", "metrics", "target");
    cpu_to_metric(hpa, "status", "currentCPUUtilizationPercentage", "currentMetrics", "current");
}

/// Rewrites a v2 autoscaler into a v1 one.
pub(in crate::catalogue) fn v2_to_v1(hpa: &mut Value) {
    metric_to_cpu(hpa, "spec", "targetCPUUtilizationPercentage", "metrics", "target");
    metric_to_cpu(hpa, "status", "currentCPUUtilizationPercentage", "currentMetrics", "current");
    for (part, field, annotation) in CARRIED {
        let Some(value) =
            hpa.get_mut(*part).and_then(Value::as_object_mut).and_then(|part| part.remove(*field))
        else {
            continue;
        };
        if value.as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        let metadata = part_of(hpa, "metadata");
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.insert((*annotation).into(), value.to_string().into());
        }
    }
    // v1 requires the counts of its status.
    if let Some(status) = hpa.get_mut("status").and_then(Value::as_object_mut) {
        status.entry("currentReplicas").or_insert(json!(0));
        status.entry("desiredReplicas").or_insert(json!(0));
    }
}

fn cpu_to_metric(hpa: &mut Value, part: &str, field: &str, list: &str, value: &str) {
    let Some(part) = hpa.get_mut(part).and_then(Value::as_object_mut) else { return };
    let Some(percent) = part.remove(field) else { return };
    let mut reading = json!({"averageUtilization": percent});
    if value == "target" {
        reading["type"] = json!("Utilization");
    }
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", value: reading}});
    if let Value::Array(metrics) = part.entry(list).or_insert_with(|| json!([])) {
        metrics.insert(0, metric);
    }
}

fn metric_to_cpu(hpa: &mut Value, part: &str, field: &str, list: &str, value: &str) {
    let Some(part) = hpa.get_mut(part).and_then(Value::as_object_mut) else { return };
    let Some(Value::Array(metrics)) = part.get_mut(list) else { return };
    let percent =
        |metric: &Value| metric.pointer(&format!("/resource/{value}/averageUtilization")).cloned();
    let is_cpu = |metric: &Value| {
        metric["type"] == "Resource"
            && metric["resource"]["name"] == "cpu"
            && percent(metric).is_some()
    };
    let Some(at) = metrics.iter().position(is_cpu) else { return };
    if let Some(percent) = percent(&metrics.remove(at)) {
        part.insert(field.into(), percent);
    }
}

fn part_of<'a>(hpa: &'a mut Value, part: &str) -> &'a mut Map<String, Value> {
    if !hpa[part].is_object() {
        hpa[part] = json!({});
    }
    match &mut hpa[part] {
        Value::Object(part) => part,
        _ => unreachable!("made an object above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_both_ways() {
        let v1 = json!({"metadata": {}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let metric = json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let mut hpa = v1.clone();
        v1_to_v2(&mut hpa);
        assert_eq!(hpa["spec"], json!({"maxReplicas": 3, "metrics": [metric]}));
        v2_to_v1(&mut hpa);
        assert_eq!(hpa, v1);
    }

    #[test]
    fn v1_keeps_what_it_cannot_show() {
        let v2 = json!({"metadata": {"name": "h"}, "spec": {
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": "m"}}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 1}},
        }});
        let mut hpa = v2.clone();
        v2_to_v1(&mut hpa);
        assert!(hpa["spec"].get("metrics").is_none());
        v1_to_v2(&mut hpa);
        assert_eq!(hpa, v2);
    }
}
