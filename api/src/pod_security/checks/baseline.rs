//! The checks of `baseline`: against what is known to lead out of a container.

use std::collections::BTreeSet;

use serde_json::Value;

use super::restricted;
use super::words::{
    containers, has_own_users, list, named, plural, quoted, setters, text, violation, who,
};
use crate::pod_security::{Version, Violation};

pub(super) fn app_armor(_: Version, pod: &Value) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let kind = text(&context["appArmorProfile"]["type"]);
        let bad = !matches!(kind, "" | "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(&pod["spec"]["securityContext"]);
    let names = who(pod, &mut bad);
    let mut by: Vec<String> = setters(by_pod, &names).into_iter().collect();
    let mut annotations: Vec<String> = pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            let value = text(value);
            let allowed =
                value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(ANNOTATION) && !allowed
        })
        .map(|(key, value)| format!("{key}={:?}", text(value)))
        .collect();
    annotations.sort();
    if !annotations.is_empty() {
        by.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if by.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    violation(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!(
            "{} must not set AppArmor profile type to {}",
            by.join(" and "),
            quoted(values.iter().map(String::as_str))
        ),
    )
}

/// The added capabilities beyond `allowed`, and who adds them.
pub(super) fn added<'a>(pod: &'a Value, allowed: &[&str]) -> Option<(Vec<&'a str>, String)> {
    let mut extra = BTreeSet::new();
    let names = who(pod, |context| {
        let added = list(&context["capabilities"]["add"]).map(text);
        let bad: Vec<&str> = added.filter(|capability| !allowed.contains(capability)).collect();
        extra.extend(bad.iter().copied());
        !bad.is_empty()
    });
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        named(&names),
        quoted(extra)
    );
    (!names.is_empty()).then_some((names, detail))
}

pub(super) fn capabilities(_: Version, pod: &Value) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    violation("non-default capabilities", added(pod, &ALLOWED)?.1)
}

pub(super) fn host_namespaces(_: Version, pod: &Value) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"];
    let shared: Vec<String> = shared
        .iter()
        .filter(|field| pod["spec"][**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

pub(super) fn host_path(_: Version, pod: &Value) -> Option<Violation> {
    let names: Vec<&str> = list(&pod["spec"]["volumes"])
        .filter(|volume| !volume["hostPath"].is_null())
        .map(|volume| text(&volume["name"]))
        .collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} {}", plural("volume", "volumes", names.len()), quoted(names));
    violation("hostPath volumes", detail)
}

pub(super) fn host_ports(_: Version, pod: &Value) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let mut names = Vec::new();
    for container in containers(pod) {
        let own: Vec<String> = list(&container["ports"])
            .filter_map(|port| port["hostPort"].as_i64().filter(|port| *port != 0))
            .map(|port| port.to_string())
            .collect();
        if !own.is_empty() {
            names.push(text(&container["name"]));
            ports.extend(own);
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

/// Probes go to the pod itself; a host of their own makes the node knock at
/// other doors.
pub(super) fn probe_hosts(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(34) {
        return None;
    }
    let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in containers(pod) {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|key| &container[key]);
        let hooks = ["postStart", "preStop"].map(|key| &container["lifecycle"][key]);
        for action in probes.into_iter().chain(hooks) {
            for host in [&action["httpGet"]["host"], &action["tcpSocket"]["host"]] {
                if !text(host).is_empty() {
                    names.insert(text(&container["name"]));
                    hosts.insert(text(host));
                }
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let (names, count) = (names.into_iter().collect::<Vec<_>>(), hosts.len());
    let detail = format!(
        "{} {} {} {}",
        named(&names),
        plural("uses", "use", names.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", count),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

pub(super) fn privileged(_: Version, pod: &Value) -> Option<Violation> {
    let names = who(pod, |context| context["privileged"] == true);
    let by = setters(false, &names)?;
    violation("privileged", format!("{by} must not set securityContext.privileged=true"))
}

pub(super) fn proc_mount(version: Version, pod: &Value) -> Option<Violation> {
    if has_own_users(version, pod) { None } else { restricted::proc_mount(version, pod) }
}

pub(super) fn se_linux(version: Version, pod: &Value) -> Option<Violation> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = text(&options["type"]);
        let known = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || kind == "container_engine_t" && version.since(31);
        let (sets_user, sets_role) =
            (!text(&options["user"]).is_empty(), !text(&options["role"]).is_empty());
        if !known {
            kinds.insert(kind.to_owned());
        }
        user |= sets_user;
        role |= sets_role;
        !known || sets_user || sets_role
    };
    let by_pod = bad(&pod["spec"]["securityContext"]);
    let names = who(pod, &mut bad);
    let by = setters(by_pod, &names)?;
    let mut data = Vec::new();
    if !kinds.is_empty() {
        let word = plural("type", "types", kinds.len());
        data.push(format!("{word} {}", quoted(kinds.iter().map(String::as_str))));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    let detail = format!("{by} set forbidden securityContext.seLinuxOptions: {}", data.join("; "));
    violation("seLinuxOptions", detail)
}

/// Who names another seccomp profile than those that confine, and what.
pub(super) fn seccomp(_: Version, pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut bad = |context: &Value| {
        let profile = &context["seccompProfile"];
        let kind = text(&profile["type"]);
        let bad = !profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            kinds.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(&pod["spec"]["securityContext"]);
    let names = who(pod, &mut bad);
    let by = setters(by_pod, &names)?;
    let kinds = quoted(kinds.iter().map(String::as_str));
    violation(
        "seccompProfile",
        format!("{by} must not set securityContext.seccompProfile.type to {kinds}"),
    )
}

/// Sysctls that concern the pod alone, and the version that added each.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn sysctls(version: Version, pod: &Value) -> Option<Violation> {
    let safe =
        |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && version.since(*since));
    let names: Vec<&str> = list(&pod["spec"]["securityContext"]["sysctls"])
        .map(|sysctl| text(&sysctl["name"]))
        .filter(|name| !safe(name))
        .collect();
    if names.is_empty() { None } else { violation("forbidden sysctls", names.join(", ")) }
}

pub(super) fn host_process(_: Version, pod: &Value) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = who(pod, bad);
    let by = setters(bad(&pod["spec"]["securityContext"]), &names)?;
    violation(
        "hostProcess",
        format!("{by} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}
