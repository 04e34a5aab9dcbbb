//! The checks that `restricted` adds to those of `baseline`, some of them
//! stricter forms of one there.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline;
use super::words::{
    has_own_users, is_windows, list, named, plural, quoted, setters, text, violation, who,
};
use crate::pod_security::{Version, Violation};

pub(super) fn privilege_escalation(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(8) || is_windows(version, pod) {
        return None;
    }
    let names = who(pod, |context| context["allowPrivilegeEscalation"] != false);
    let by = setters(false, &names)?;
    let detail = format!("{by} must set securityContext.allowPrivilegeEscalation=false");
    violation("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(22) {
        return baseline::capabilities(version, pod);
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
    details.extend(baseline::added(pod, &["NET_BIND_SERVICE"]).map(|(_, detail)| detail));
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

pub(super) fn proc_mount(_: Version, pod: &Value) -> Option<Violation> {
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

pub(super) fn volumes(_: Version, pod: &Value) -> Option<Violation> {
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

pub(super) fn run_as_non_root(version: Version, pod: &Value) -> Option<Violation> {
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

pub(super) fn run_as_user(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(23) || has_own_users(version, pod) {
        return None;
    }
    let bad = |context: &Value| context["runAsUser"] == 0;
    let names = who(pod, bad);
    let by = setters(bad(&pod["spec"]["securityContext"]), &names)?;
    violation("runAsUser=0", format!("{by} must not set runAsUser=0"))
}

pub(super) fn seccomp(version: Version, pod: &Value) -> Option<Violation> {
    if !version.since(19) {
        return baseline::seccomp(version, pod);
    }
    if is_windows(version, pod) {
        return None;
    }
    if let Some(bad) = baseline::seccomp(version, pod) {
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
