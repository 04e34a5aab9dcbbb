//! Security contexts of pods and containers.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::names;
use super::path::{Errors, Path, json, list, text};

/// Checks what a pod says about the security of all its containers.
pub(super) fn pod_context(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    if spec.host_users == Some(false) {
        for (field, set) in [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ] {
            if set == Some(true) {
                let detail = "when `hostUsers` is false";
                errors.forbidden(&path.child(field), detail);
            }
        }
    }
    let Some(context) = &spec.security_context else { return };
    let path = path.child("securityContext");
    pod_ids(errors, context, &path);
    errors.one_of(
        &path.child("fsGroupChangePolicy"),
        context.fs_group_change_policy.as_deref(),
        &["OnRootMismatch", "Always"],
    );
    errors.one_of(
        &path.child("supplementalGroupsPolicy"),
        context.supplemental_groups_policy.as_deref(),
        &["Merge", "Strict"],
    );
    errors.one_of(
        &path.child("seLinuxChangePolicy"),
        context.se_linux_change_policy.as_deref(),
        &["MountOption", "Recursive"],
    );
    if let Some(profile) = &context.seccomp_profile {
        seccomp(errors, profile, &path.child("seccompProfile"));
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(errors, profile, &path.child("appArmorProfile"));
    }
    sysctls(errors, spec, list(&context.sysctls), &path.child("sysctls"));
}

fn pod_ids(errors: &mut Errors, context: &PodSecurityContext, path: &Path<'_>) {
    ids(
        errors,
        &[
            ("runAsUser", context.run_as_user),
            ("runAsGroup", context.run_as_group),
            ("fsGroup", context.fs_group),
        ],
        path,
    );
    let groups = path.child("supplementalGroups");
    for (index, group) in list(&context.supplemental_groups).iter().enumerate() {
        for message in names::id(*group) {
            errors.invalid(&groups.index(index), *group, message);
        }
    }
}

fn ids(errors: &mut Errors, fields: &[(&str, Option<i64>)], path: &Path<'_>) {
    for (field, id) in fields {
        let Some(id) = *id else { continue };
        for message in names::id(id) {
            errors.invalid(&path.child(field), id, message);
        }
    }
}

fn sysctls(errors: &mut Errors, spec: &PodSpec, sysctls: &[Sysctl], path: &Path<'_>) {
    const MAX: usize = 253;
    const REGEX: &str = r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let mut seen: Vec<&str> = Vec::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index);
        let path = path.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(&path, "");
        } else if name.len() > MAX || !name.split(['.', '/']).all(is_sysctl_segment) {
            let detail = format!("must have at most {MAX} characters and match regex ^({REGEX})$");
            errors.invalid(&path, name, detail);
        } else if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        let name_dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && name_dotted.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        }
        if spec.host_ipc == Some(true)
            && ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
                .iter()
                .any(|prefix| name_dotted.starts_with(prefix))
        {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name);
    }
}

fn is_sysctl_segment(segment: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = segment.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| edge(Some(byte)) || b"-_".contains(byte))
}

/// Checks a container's own context.
pub(super) fn container_context(errors: &mut Errors, context: &SecurityContext, path: &Path<'_>) {
    ids(errors, &[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)], path);
    errors.one_of(
        &path.child("procMount"),
        context.proc_mount.as_deref(),
        &["Default", "Unmasked"],
    );
    if let Some(profile) = &context.seccomp_profile {
        seccomp(errors, profile, &path.child("seccompProfile"));
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(errors, profile, &path.child("appArmorProfile"));
    }
    if context.allow_privilege_escalation != Some(false) {
        return;
    }
    // Both of these bring the escalation back.
    if context.privileged == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, json(context), detail);
    }
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
    for capability in added.into_iter().flatten() {
        if capability == "CAP_SYS_ADMIN" {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                          CAP_SYS_ADMIN";
            errors.invalid(path, json(context), detail);
        }
    }
}

fn seccomp(errors: &mut Errors, profile: &SeccompProfile, path: &Path<'_>) {
    let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
    errors.required_one_of(&path.child("type"), Some(&profile.type_), &kinds);
    let file = profile.localhost_profile.as_ref();
    let path = path.child("localhostProfile");
    match (profile.type_.as_str(), file) {
        ("Localhost", None) => {
            errors.required(&path, "must be set when seccomp type is Localhost");
        }
        ("Localhost", Some(file)) => descending_path(errors, file, &path),
        (_, Some(file)) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.invalid(&path, file.as_str(), detail);
        }
        (_, None) => {}
    }
}

fn app_armor(errors: &mut Errors, profile: &AppArmorProfile, path: &Path<'_>) {
    let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
    errors.required_one_of(&path.child("type"), Some(&profile.type_), &kinds);
    let name = text(&profile.localhost_profile);
    let path = path.child("localhostProfile");
    match profile.type_.as_str() {
        "Localhost" if name.trim().is_empty() => {
            errors.required(&path, "must be set when AppArmor type is Localhost");
        }
        "Localhost" if name.trim() != name => {
            errors.invalid(&path, name, "must not be padded with whitespace");
        }
        "Localhost" => {}
        _ if profile.localhost_profile.is_some() => {
            errors.invalid(&path, name, "can only be set when AppArmor type is Localhost");
        }
        _ => {}
    }
}

/// Refuses a path that could leave the directory it is joined to.
pub(super) fn descending_path(errors: &mut Errors, value: &str, path: &Path<'_>) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(errors, value, path);
}

/// Refuses `..` as an element of a path.
pub(super) fn no_backsteps(errors: &mut Errors, value: &str, path: &Path<'_>) {
    if value.split('/').any(|element| element == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}
