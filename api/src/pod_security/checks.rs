//! The checks of the Pod Security Standards, those of `baseline` first and
//! each group in the order of upstream's names for them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Level, Policy, Version, Violation};

/// Finds what one check is about in a pod.
pub(super) type Check = fn(Version, &Value) -> Option<Violation>;

/// How far a check of `baseline` counts under `restricted`.
#[derive(PartialEq)]
enum Under {
    Both,
    /// A stricter check of `restricted` takes its place.
    BaselineOnly,
}

const BASELINE: [(Check, Under); 12] = [
    (app_armor, Under::Both),
    (capabilities, Under::BaselineOnly),
    (host_namespaces, Under::Both),
    (host_path, Under::BaselineOnly),
    (host_ports, Under::Both),
    (probe_hosts, Under::Both),
    (privileged, Under::Both),
    (proc_mount, Under::BaselineOnly),
    (se_linux, Under::Both),
    (seccomp, Under::BaselineOnly),
    (sysctls, Under::Both),
    (host_process, Under::Both),
];

const RESTRICTED: [Check; 7] = [
    privilege_escalation,
    capabilities_restricted,
    proc_mount_restricted,
    volumes,
    run_as_non_root,
    run_as_user,
    seccomp_restricted,
];

/// The checks of a policy in the order of their messages.
pub(super) fn of(policy: Policy) -> impl Iterator<Item = Check> {
    let restricted = policy.level == Level::Restricted;
    let baseline = BASELINE.iter().filter(move |(_, under)| !restricted || *under == Under::Both);
    let more = RESTRICTED.iter().filter(move |_| restricted);
    baseline.map(|(check, _)| *check).chain(more.copied())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Init containers, containers and ephemeral containers.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(|key| list(&pod["spec"][key]))
}

/// The names of the containers whose security context is `bad`.
fn who<'a>(pod: &'a Value, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod)
        .filter(|container| bad(&container["securityContext"]))
        .map(|container| text(&container["name"]))
        .collect()
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    format!("\"{}\"", names.into_iter().collect::<Vec<_>>().join("\", \""))
}

fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

/// `pod and container "a"`; `None` if nobody did it.
fn setters(by_pod: bool, names: &[&str]) -> Option<String> {
    let containers = (!names.is_empty()).then(|| named(names));
    match (by_pod, containers) {
        (true, Some(containers)) => Some(format!("pod and {containers}")),
        (true, None) => Some("pod".to_owned()),
        (false, containers) => containers,
    }
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn is_windows(version: Version, pod: &Value) -> bool {
    version.since(25) && pod["spec"]["os"]["name"] == "windows"
}

/// Root in a user namespace of its own is nobody outside.
fn has_own_users(version: Version, pod: &Value) -> bool {
    version.since(35) && pod["spec"]["hostUsers"] == false
}

fn app_armor(_: Version, pod: &Value) -> Option<Violation> {
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
fn added<'a>(pod: &'a Value, allowed: &[&str]) -> Option<(Vec<&'a str>, String)> {
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

fn capabilities(_: Version, pod: &Value) -> Option<Violation> {
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

fn capabilities_restricted(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(22) {
        return capabilities(version, pod);
    }
    if is_windows(version, pod) {
        return None;
    }
    let keeping = who(pod, |context| {
        !list(&context["capabilities"]["drop"]).any(|capability| capability == "ALL")
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeping)
        ));
    }
    details.extend(added(pod, &["NET_BIND_SERVICE"]).map(|(_, detail)| detail));
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(_: Version, pod: &Value) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"];
    let shared: Vec<String> = shared
        .iter()
        .filter(|field| pod["spec"][**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_path(_: Version, pod: &Value) -> Option<Violation> {
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

fn host_ports(_: Version, pod: &Value) -> Option<Violation> {
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
fn probe_hosts(version: Version, pod: &Value) -> Option<Violation> {
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

fn privileged(_: Version, pod: &Value) -> Option<Violation> {
    let names = who(pod, |context| context["privileged"] == true);
    let by = setters(false, &names)?;
    violation("privileged", format!("{by} must not set securityContext.privileged=true"))
}

fn proc_mount(version: Version, pod: &Value) -> Option<Violation> {
    if has_own_users(version, pod) { None } else { proc_mount_restricted(version, pod) }
}

fn proc_mount_restricted(_: Version, pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = who(pod, |context| {
        let kind = text(&context["procMount"]);
        let bad = !matches!(kind, "" | "Default");
        if bad {
            kinds.insert(kind);
        }
        bad
    });
    let by = setters(false, &names)?;
    let detail = format!("{by} must not set securityContext.procMount to {}", quoted(kinds));
    violation("procMount", detail)
}

fn se_linux(version: Version, pod: &Value) -> Option<Violation> {
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
fn bad_seccomp(pod: &Value) -> Option<Violation> {
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

fn seccomp(_: Version, pod: &Value) -> Option<Violation> {
    bad_seccomp(pod)
}

fn seccomp_restricted(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(19) {
        return bad_seccomp(pod);
    }
    if is_windows(version, pod) {
        return None;
    }
    if let Some(bad) = bad_seccomp(pod) {
        return Some(bad);
    }
    if !pod["spec"]["securityContext"]["seccompProfile"].is_null() {
        return None;
    }
    let names = who(pod, |context| context["seccompProfile"].is_null());
    let by = setters(false, &names)?;
    let detail = format!(
        "pod or {by} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
    );
    violation("seccompProfile", detail)
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

fn sysctls(version: Version, pod: &Value) -> Option<Violation> {
    let safe =
        |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && version.since(*since));
    let names: Vec<&str> = list(&pod["spec"]["securityContext"]["sysctls"])
        .map(|sysctl| text(&sysctl["name"]))
        .filter(|name| !safe(name))
        .collect();
    if names.is_empty() { None } else { violation("forbidden sysctls", names.join(", ")) }
}

fn host_process(_: Version, pod: &Value) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = who(pod, bad);
    let by = setters(bad(&pod["spec"]["securityContext"]), &names)?;
    violation(
        "hostProcess",
        format!("{by} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn privilege_escalation(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(8) || is_windows(version, pod) {
        return None;
    }
    let names = who(pod, |context| context["allowPrivilegeEscalation"] != false);
    let by = setters(false, &names)?;
    let detail = format!("{by} must set securityContext.allowPrivilegeEscalation=false");
    violation("allowPrivilegeEscalation != false", detail)
}

fn volumes(_: Version, pod: &Value) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in list(&pod["spec"]["volumes"]) {
        let sources = volume.as_object().into_iter().flatten();
        let mut sources =
            sources.filter(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key);
        if let Some(kind) = sources.find(|key| !ALLOWED.contains(&key.as_str())) {
            names.push(text(&volume["name"]));
            kinds.insert(kind.as_str());
        }
    }
    if names.is_empty() {
        return None;
    }
    let (count, many) = (names.len(), kinds.len());
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", count),
        quoted(names),
        plural("uses", "use", count),
        plural("restricted volume type", "restricted volume types", many),
        quoted(kinds)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(version: Version, pod: &Value) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if has_own_users(version, pod) {
        return None;
    }
    let of_pod = &pod["spec"]["securityContext"]["runAsNonRoot"];
    let explicit = who(pod, |context| context["runAsNonRoot"] == false);
    if let Some(by) = setters(*of_pod == false, &explicit) {
        return violation(REASON, format!("{by} must not set securityContext.runAsNonRoot=false"));
    }
    if *of_pod == true {
        return None;
    }
    let silent = who(pod, |context| context["runAsNonRoot"].is_null());
    let by = setters(false, &silent)?;
    violation(REASON, format!("pod or {by} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(23) || has_own_users(version, pod) {
        return None;
    }
    let bad = |context: &Value| context["runAsUser"] == 0;
    let names = who(pod, bad);
    let by = setters(bad(&pod["spec"]["securityContext"]), &names)?;
    violation("runAsUser=0", format!("{by} must not set runAsUser=0"))
}
