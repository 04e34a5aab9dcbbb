//! Which containers are started again after they ended. Pure.
//!
//! A container's own rules come first, then its own policy, then the pod's
//! (KEP-5307). An init container that succeeded is done, whatever the pod's
//! policy; an ephemeral container runs once.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::model::{is_sidecar, known_end, spec};

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    OnFailure,
    Never,
}

impl Policy {
    fn named(name: &str) -> Self {
        match name {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn of(pod: &Pod, container: &Container) -> Self {
        let named = |list: Option<&Vec<Container>>| {
            list.into_iter().flatten().any(|known| known.name == container.name)
        };
        let ephemeral = spec(pod).ephemeral_containers.iter().flatten();
        if ephemeral.clone().any(|known| known.name == container.name) {
            return Self::Never;
        }
        if let Some(own) = container.restart_policy.as_deref() {
            return Self::named(own);
        }
        match Self::named(spec(pod).restart_policy.as_deref().unwrap_or_default()) {
            Self::Always if named(spec(pod).init_containers.as_ref()) => Self::OnFailure,
            policy => policy,
        }
    }
}

/// Whether `container` is started again after it ended with this code.
pub fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let mut rules = container.restart_policy_rules.iter().flatten();
    if rules.any(|rule| rule.action == "Restart" && applies(rule, exit_code)) {
        return true;
    }
    match Policy::of(pod, container) {
        Policy::Always => true,
        Policy::OnFailure => exit_code != 0,
        Policy::Never => false,
    }
}

/// Whether a container that is no longer here has ended and is not started
/// again, by what the API has of it.
pub fn ended_for_good(pod: &Pod, container: &Container) -> bool {
    known_end(pod, &container.name).is_some_and(|(_, code)| !restarts(pod, container, code))
}

fn applies(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// Whether an init container is run again when the pod moves to a new sandbox:
/// what it prepared there is gone.
pub fn prepares_again(pod: &Pod, init: &Container) -> bool {
    is_sidecar(init) || Policy::of(pod, init) != Policy::Never
}

/// Whether nothing of the pod is ever started again.
pub fn is_once(pod: &Pod) -> bool {
    spec(pod).restart_policy.as_deref() == Some("Never")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::all_containers;
    use super::super::testing::pod;
    use super::*;

    #[test]
    fn the_most_particular_rule_decides() {
        let on_42 = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let not_0 =
            json!([{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
        // List, container, the pod's policy, the codes after which it restarts.
        let cases = [
            ("containers", json!({}), "Always", vec![0, 1, 42]),
            ("containers", json!({}), "OnFailure", vec![1, 42]),
            ("containers", json!({}), "Never", vec![]),
            ("containers", json!({"restartPolicy": "Never"}), "Always", vec![]),
            ("containers", json!({"restartPolicy": "Always"}), "Never", vec![0, 1, 42]),
            (
                "containers",
                json!({"restartPolicy": "Never", "restartPolicyRules": on_42}),
                "Always",
                vec![42],
            ),
            (
                "containers",
                json!({"restartPolicy": "Never", "restartPolicyRules": not_0}),
                "Always",
                vec![1, 42],
            ),
            ("initContainers", json!({}), "Always", vec![1, 42]),
            ("initContainers", json!({}), "Never", vec![]),
            ("initContainers", json!({"restartPolicy": "Always"}), "Never", vec![0, 1, 42]),
            ("ephemeralContainers", json!({}), "Always", vec![]),
        ];
        for (list, mut container, policy, expected) in cases {
            container["name"] = json!("c");
            let mut spec = json!({"containers": [{"name": "main"}], "restartPolicy": policy});
            spec[list] = json!([container.clone()]);
            let pod = pod(spec);
            let all = all_containers(&pod);
            let own = all.iter().find(|known| known.name == "c").unwrap();
            let found: Vec<_> =
                [0, 1, 42].into_iter().filter(|code| restarts(&pod, own, *code)).collect();
            assert_eq!(found, expected, "{list} {container} {policy}");
        }
    }
}
