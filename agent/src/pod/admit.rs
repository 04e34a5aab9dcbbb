//! Pods that this node refuses, whoever bound them here. Pure but for the account
//! of devices.
//!
//! A refused pod has failed: the reason and the message are in its status, and
//! its controller makes another. Only a pod that has nothing here yet is asked
//! about ([`is_new`]); what runs goes on running.
//!
//! [`refusal`] judges by what the machine can do, [`fit`] by what the Node object
//! says and what the other pods leave over, [`preempt`] says which of those go for
//! a critical one. [`super::context::Context::admit`] asks them all.

pub mod fit;
pub mod preempt;

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, Toleration};

use super::model::{EVICTED, spec};
use super::resources::qos_class;
use crate::devices::{Devices, Refused};
use crate::eviction::rank::is_critical;
use crate::node::Pressures;
use crate::runtime::{Container, labels};

/// Why a pod may not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason in Kubernetes' spelling.
    pub reason: Cow<'static, str>,
    /// What is wrong.
    pub message: String,
}

impl Refusal {
    /// One with this reason.
    pub fn new(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

/// Whether nothing has become of the pod here yet. `found` are its containers.
pub fn is_new(pod: &Pod, found: &[Container]) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_none_or(|phase| phase == "Pending")
        && pod.metadata.deletion_timestamp.is_none()
        && found.iter().all(|one| one.label(labels::CONTAINER) != labels::SANDBOX)
}

/// Whether an agent of this node has taken the pod before: only those say when
/// it started.
pub fn was_taken(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// Sets aside the devices that the pod asks for; why it may not run without
/// them.
pub fn without_devices(devices: &Devices, pod: &Pod) -> Option<Refusal> {
    match devices.allot(pod) {
        // Its containers wait for those that are about to be free.
        Ok(()) | Err(Refused::NotYet) => None,
        Err(Refused::Short(short)) => {
            Some(Refusal::new("UnexpectedAdmissionError", short.to_string()))
        }
    }
}

/// The sysctls that a pod may set: each is kept apart by a namespace and takes
/// nothing from other pods. Kubernetes' own list for 1.35.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The label by which a pod says what it is made for.
const OS_LABEL: &str = "kubernetes.io/os";

/// A sysctl's name with dots: slashes mean the same.
pub fn sysctl_name(name: &str) -> String {
    name.replace('/', ".")
}

/// What a node says of itself to pods that come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host {
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// What runs short.
    pub pressures: Pressures,
    /// Whether the machine shuts down.
    pub shutting_down: bool,
}

/// Why `pod` may not run on this node; `None` if it may.
pub fn refusal(pod: &Pod, host: &Host) -> Option<Refusal> {
    let spec = spec(pod);
    if host.shutting_down {
        let message = "Pod was rejected as the node is shutting down.";
        return Some(Refusal::new("NodeShutdown", message));
    }
    let conditions = host.pressures.conditions();
    if !conditions.is_empty() && !is_critical(pod) && !endures(pod, &conditions) {
        let message = format!("The node had condition: [{}]. ", conditions.join(" "));
        return Some(Refusal::new(EVICTED, message));
    }
    let labels = pod.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(OS_LABEL)).is_some_and(|os| os != "linux") {
        let message =
            format!("Failed to admit pod as the `{OS_LABEL}` label doesn't match node label");
        return Some(Refusal::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(Refusal::new("PodOSNotSupported", message));
    }
    let context = spec.security_context.as_ref();
    for sysctl in context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl_name(&sysctl.name);
        let why = if !SAFE_SYSCTLS.contains(&name.as_str()) {
            "not allowlisted"
        } else if name.starts_with("net.") && spec.host_network == Some(true) {
            "not allowed with host net enabled"
        } else if name.starts_with("kernel.") && spec.host_ipc == Some(true) {
            "not allowed with host ipc enabled"
        } else {
            continue;
        };
        let message = format!("forbidden sysctl: {name:?} {why}");
        return Some(Refusal::new("SysctlForbidden", message));
    }
    let confines = |profile: Option<&AppArmorProfile>| {
        profile.is_some_and(|profile| profile.type_ != "Unconfined")
    };
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let confined = confines(context.and_then(|context| context.app_armor_profile.as_ref()))
        || containers.any(|container| {
            let own = container.security_context.as_ref();
            confines(own.and_then(|own| own.app_armor_profile.as_ref()))
        });
    if confined && !host.app_armor {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Some(Refusal::new("AppArmor", message));
    }
    None
}

/// Whether a pod may come although the node has these conditions: where only
/// memory is short, one that has asked for some, or that tolerates it.
fn endures(pod: &Pod, conditions: &[&str]) -> bool {
    let tolerates = |one: &Toleration| {
        let key = one.key.as_deref().unwrap_or_default();
        let effect = one.effect.as_deref().unwrap_or_default();
        matches!(key, "" | "node.kubernetes.io/memory-pressure")
            && matches!(effect, "" | "NoSchedule")
            && (one.operator.as_deref() == Some("Exists")
                || (!key.is_empty() && one.value.as_deref().is_none_or(str::is_empty)))
    };
    conditions == ["MemoryPressure"]
        && (qos_class(spec(pod)) != "BestEffort"
            || spec(pod).tolerations.iter().flatten().any(tolerates))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{at, pod, sandbox};
    use super::*;

    #[test]
    fn what_the_node_cannot_keep_is_refused() {
        let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
        let armor = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        let cases = [
            (json!({}), None),
            (json!({"os": {"name": "linux"}}), None),
            (
                json!({"os": {"name": "windows"}}),
                Some((
                    "PodOSNotSupported",
                    "Failed to admit pod as the OS field doesn't match node OS",
                )),
            ),
            (json!({"securityContext": sysctl("kernel.shm_rmid_forced")}), None),
            (json!({"securityContext": sysctl("net/ipv4/tcp_syncookies")}), None),
            (
                json!({"securityContext": sysctl("kernel.msgmax")}),
                Some(("SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted")),
            ),
            (
                json!({"hostNetwork": true, "securityContext": sysctl("net.ipv4.tcp_syncookies")}),
                Some((
                    "SysctlForbidden",
                    "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled",
                )),
            ),
            (
                json!({"hostIPC": true, "securityContext": sysctl("kernel.shm_rmid_forced")}),
                Some((
                    "SysctlForbidden",
                    "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
                )),
            ),
            (json!({"securityContext": armor("Unconfined")}), None),
            (
                json!({"containers": [{"name": "a", "securityContext": armor("RuntimeDefault")}]}),
                Some(("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")),
            ),
        ];
        for (mut spec, expected) in cases {
            if spec.get("containers").is_none() {
                spec["containers"] = json!([]);
            }
            let found = refusal(&pod(spec.clone()), &Host::default());
            let found = found.as_ref().map(|found| (found.reason.as_ref(), found.message.as_str()));
            assert_eq!(found, expected, "{spec}");
        }
        let armored = pod(json!({"containers": [], "securityContext": armor("RuntimeDefault")}));
        assert_eq!(refusal(&armored, &Host { app_armor: true, ..Host::default() }), None);
    }

    #[test]
    fn a_pod_made_for_another_system_says_so_in_its_labels() {
        for (os, refused) in [("linux", false), ("windows", true)] {
            let mut pod = pod(json!({"containers": []}));
            pod.metadata.labels = Some([(OS_LABEL.to_owned(), os.to_owned())].into());
            let found = refusal(&pod, &Host::default()).map(|found| found.reason);
            let expected = refused.then_some("PodOSSelectorNodeLabelDoesNotMatch".into());
            assert_eq!(found, expected, "{os}");
        }
    }

    #[test]
    fn only_who_has_nothing_here_is_asked_about() {
        let fresh = pod(json!({"containers": []}));
        let with = |status: serde_json::Value| Pod {
            status: Some(serde_json::from_value(status).unwrap()),
            ..fresh.clone()
        };
        let mut leaves = fresh.clone();
        leaves.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(9)));
        let cases = [
            ("it is new", fresh.clone(), vec![], true),
            ("the API says that it waits", with(json!({"phase": "Pending"})), vec![], true),
            ("it ran", with(json!({"phase": "Running"})), vec![], false),
            ("it has ended", with(json!({"phase": "Failed"})), vec![], false),
            ("it is to go", leaves, vec![], false),
            ("it has a sandbox", fresh, vec![sandbox(0, false)], false),
        ];
        for (name, pod, found, expected) in cases {
            assert_eq!(is_new(&pod, &found), expected, "{name}");
        }
    }

    #[test]
    fn a_node_that_runs_short_takes_only_who_endures_it() {
        let memory = Pressures { memory: true, ..Pressures::default() };
        let both = Pressures { disk: true, ..memory };
        let plain = || json!({"containers": [{"name": "a"}]});
        let asks =
            || json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1m"}}}]});
        let tolerates = |key: &str| json!({"containers": [], "tolerations": [{"key": key, "operator": "Exists"}]});
        let critical = || json!({"containers": [], "priority": 2_000_000_000});
        let cases = [
            ("nothing is short", plain(), Pressures::default(), None),
            ("memory", plain(), memory, Some("The node had condition: [MemoryPressure]. ")),
            ("it has asked for something", asks(), memory, None),
            ("it tolerates", tolerates("node.kubernetes.io/memory-pressure"), memory, None),
            (
                "it tolerates something else",
                tolerates("node.kubernetes.io/disk-pressure"),
                memory,
                Some("The node had condition: [MemoryPressure]. "),
            ),
            (
                "disk too",
                asks(),
                both,
                Some("The node had condition: [MemoryPressure DiskPressure]. "),
            ),
            ("critical", critical(), both, None),
        ];
        for (name, spec, pressures, expected) in cases {
            let found = refusal(&pod(spec), &Host { pressures, ..Host::default() });
            assert_eq!(found.as_ref().map(|found| found.message.as_str()), expected, "{name}");
            assert!(found.is_none_or(|found| found.reason == "Evicted"));
        }
    }
}
