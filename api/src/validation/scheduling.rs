//! Where a pod may run: affinity, tolerations, topology spread.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PodAffinityTerm, Taint, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::path::{Errors, Path, json, list, text};
use super::{meta, names};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks all kinds of affinity.
pub(super) fn affinity(errors: &mut Errors, affinity: Option<&Affinity>, path: &Path<'_>) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        node_affinity(errors, node, &path.child("nodeAffinity"));
    }
    if let Some(pod) = &affinity.pod_affinity {
        pod_affinity(
            errors,
            list(&pod.required_during_scheduling_ignored_during_execution),
            list(&pod.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAffinity"),
        );
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        pod_affinity(
            errors,
            list(&pod.required_during_scheduling_ignored_during_execution),
            list(&pod.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAntiAffinity"),
        );
    }
}

fn node_affinity(errors: &mut Errors, affinity: &NodeAffinity, path: &Path<'_>) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        node_selector(errors, selector, &path);
    }
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    let terms = list(&affinity.preferred_during_scheduling_ignored_during_execution);
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        weight(errors, term.weight, &path);
        node_selector_term(errors, &term.preference, &path.child("preference"));
    }
}

fn weight(errors: &mut Errors, weight: i32, path: &Path<'_>) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// Checks a selector of nodes: at least one term.
pub(super) fn node_selector(errors: &mut Errors, selector: &NodeSelector, path: &Path<'_>) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(errors, term, &path.index(index));
    }
}

fn node_selector_term(errors: &mut Errors, term: &NodeSelectorTerm, path: &Path<'_>) {
    let expressions = path.child("matchExpressions");
    for (index, requirement) in list(&term.match_expressions).iter().enumerate() {
        node_requirement(errors, requirement, &expressions.index(index));
    }
    let fields = path.child("matchFields");
    for (index, requirement) in list(&term.match_fields).iter().enumerate() {
        node_field(errors, requirement, &fields.index(index));
    }
}

fn node_requirement(errors: &mut Errors, requirement: &NodeSelectorRequirement, path: &Path<'_>) {
    let values = list(&requirement.values);
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&values_path, detail);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&values_path, detail);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&values_path, detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        operator => {
            errors.invalid(&path.child("operator"), operator, "not a valid selector operator");
        }
    }
    meta::label_key(errors, &requirement.key, &path.child("key"));
    for (index, value) in values.iter().enumerate() {
        errors.invalid_each(&values_path.index(index), value, names::label_value(value));
    }
}

/// Of a node's fields only its name can be asked for.
fn node_field(errors: &mut Errors, requirement: &NodeSelectorRequirement, path: &Path<'_>) {
    let values = list(&requirement.values);
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                              field selector";
                errors.required(&values_path, detail);
            }
        }
        operator => {
            errors.invalid(&path.child("operator"), operator, "not a valid selector operator");
        }
    }
    if requirement.key != "metadata.name" {
        let detail = "not a valid field selector key";
        errors.invalid(&path.child("key"), requirement.key.as_str(), detail);
        return;
    }
    for (index, value) in values.iter().enumerate() {
        errors.invalid_each(&values_path.index(index), value, names::dns1123_subdomain(value));
    }
}

fn pod_affinity(
    errors: &mut Errors,
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    path: &Path<'_>,
) {
    let required_path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in required.iter().enumerate() {
        pod_affinity_term(errors, term, &required_path.index(index));
    }
    let preferred_path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in preferred.iter().enumerate() {
        let path = preferred_path.index(index);
        weight(errors, term.weight, &path);
        pod_affinity_term(errors, &term.pod_affinity_term, &path.child("podAffinityTerm"));
    }
}

fn pod_affinity_term(errors: &mut Errors, term: &PodAffinityTerm, path: &Path<'_>) {
    meta::label_selector(errors, term.label_selector.as_ref(), &path.child("labelSelector"));
    let namespaces = path.child("namespaceSelector");
    meta::label_selector(errors, term.namespace_selector.as_ref(), &namespaces);
    for name in list(&term.namespaces) {
        errors.invalid_each(&path.child("namespace"), name, names::dns1123_label(name));
    }
    let path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&path, "can not be empty");
    }
    meta::label_key(errors, &term.topology_key, &path);
}

/// Checks tolerations.
pub(super) fn tolerations(errors: &mut Errors, tolerations: &[Toleration], path: &Path<'_>) {
    for (index, toleration) in tolerations.iter().enumerate() {
        toleration_rules(errors, toleration, &path.index(index));
    }
}

fn toleration_rules(errors: &mut Errors, toleration: &Toleration, path: &Path<'_>) {
    let (key, operator) = (text(&toleration.key), text(&toleration.operator));
    let (value, effect) = (text(&toleration.value), text(&toleration.effect));
    if !key.is_empty() {
        meta::label_key(errors, key, &path.child("key"));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values \
                      and all keys\"";
        errors.invalid(&path.child("operator"), operator, detail);
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.child("effect"), effect, detail);
    }
    let operator_path = path.child("operator");
    match operator {
        "" | "Equal" => errors.invalid_each(&operator_path, value, names::label_value(value)),
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.invalid(&operator_path, json(toleration), detail);
        }
        "Exists" => {}
        other => errors.not_supported(&operator_path, other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        errors.one_of(&path.child("effect"), Some(effect), &EFFECTS);
    }
}

/// Checks the taints of a node: each key and effect once.
pub(super) fn taints(errors: &mut Errors, taints: &[Taint], path: &Path<'_>) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        meta::label_key(errors, &taint.key, &path.child("key"));
        let value = text(&taint.value);
        errors.invalid_each(&path.child("value"), value, names::label_value(value));
        errors.required_one_of(&path.child("effect"), Some(&taint.effect), &EFFECTS);
        let identity = (taint.key.as_str(), taint.effect.as_str());
        if seen.contains(&identity) {
            errors.duplicate(&path, json(taint));
        }
        seen.push(identity);
    }
}

/// Checks topology spread constraints: each topology and action once.
pub(super) fn topology_spread(
    errors: &mut Errors,
    constraints: &[TopologySpreadConstraint],
    path: &Path<'_>,
) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        if constraint.max_skew <= 0 {
            let detail = "must be greater than zero";
            errors.invalid(&path.child("maxSkew"), constraint.max_skew, detail);
        }
        if constraint.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        let action = constraint.when_unsatisfiable.as_str();
        errors.one_of(
            &path.child("whenUnsatisfiable"),
            Some(action),
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        let identity = (constraint.topology_key.as_str(), action);
        if seen.contains(&identity) {
            let pair = format!("{{{}, {}}}", identity.0, identity.1);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        seen.push(identity);
        spread_domains(errors, constraint, &path);
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            errors.one_of(&path.child(field), policy.as_deref(), &["Ignore", "Honor"]);
        }
        let selector = constraint.label_selector.as_ref();
        meta::label_selector(errors, selector, &path.child("labelSelector"));
        let keys_path = path.child("matchLabelKeys");
        let keys = list(&constraint.match_label_keys);
        if selector.is_none() && !keys.is_empty() {
            let detail = "must not be specified when labelSelector is not set";
            errors.forbidden(&keys_path, detail);
        }
        for (index, key) in keys.iter().enumerate() {
            meta::label_key(errors, key, &keys_path.index(index));
        }
    }
}

fn spread_domains(errors: &mut Errors, constraint: &TopologySpreadConstraint, path: &Path<'_>) {
    let Some(domains) = constraint.min_domains else { return };
    let path = path.child("minDomains");
    if domains <= 0 {
        errors.invalid(&path, domains, "must be greater than zero");
    }
    let action = constraint.when_unsatisfiable.as_str();
    if action != "DoNotSchedule" {
        let detail =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.invalid(&path, domains, detail);
    }
}
