//! Pods that this node refuses, whoever bound them here. Pure.
//!
//! A refused pod has failed: the reason and the message are in its status, and
//! its controller makes another. Only a pod that has nothing here yet is asked
//! about; what runs goes on running.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod};

use super::model::spec;

/// Why a pod may not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason in Kubernetes' spelling.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
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

/// A sysctl's name with dots: slashes mean the same.
pub fn sysctl_name(name: &str) -> String {
    name.replace('/', ".")
}

/// Why `pod` may not run on this node; `None` if it may. `app_armor` tells
/// whether the kernel enforces AppArmor profiles.
pub fn refusal(pod: &Pod, app_armor: bool) -> Option<Refusal> {
    let spec = spec(pod);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Some(Refusal { reason: "PodOSNotSupported", message });
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
        return Some(Refusal { reason: "SysctlForbidden", message });
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
    if confined && !app_armor {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        return Some(Refusal { reason: "AppArmor", message });
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
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
            let found = refusal(&pod(spec.clone()), false);
            let found = found.as_ref().map(|found| (found.reason, found.message.as_str()));
            assert_eq!(found, expected, "{spec}");
        }
        let armored = pod(json!({"containers": [], "securityContext": armor("RuntimeDefault")}));
        assert_eq!(refusal(&armored, true), None);
    }
}
