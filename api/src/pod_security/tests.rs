//! Which pods go beyond which level, in which words, and what labels mean.

use serde_json::json;

use super::*;

const LATEST: Policy = Policy { level: Level::Restricted, version: Version::Latest };

fn policy(level: Level, minor: u32) -> Policy {
    Policy { level, version: Version::Minor(minor) }
}

/// A pod that `restricted` lets through.
fn hardened() -> Value {
    json!({ "metadata": { "name": "p" }, "spec": {
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{ "name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        } }],
        "volumes": [{ "name": "v", "emptyDir": {} }],
    } })
}

fn told(policy: Policy, pod: &Value) -> String {
    describe(&violations(policy, pod), true)
}

#[test]
fn a_hardened_pod_passes_and_a_plain_one_is_told_everything() {
    assert_eq!(told(LATEST, &hardened()), "");
    let plain = json!({ "spec": { "containers": [{ "name": "c" }] } });
    assert_eq!(
        told(LATEST, &plain),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(told(Policy { level: Level::Baseline, ..LATEST }, &plain), "");
    assert_eq!(told(Policy { level: Level::Privileged, ..LATEST }, &plain), "");
    assert_eq!(
        describe(&violations(LATEST, &plain), false),
        "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
    );
}

#[test]
fn each_baseline_check_says_who_and_what() {
    let in_pod = |context: Value| json!({ "spec": { "securityContext": context, "containers": [{ "name": "a" }] } });
    let in_one = |context: Value| json!({ "spec": { "containers": [{ "name": "a", "securityContext": context }] } });
    let in_two = |context: Value| {
        json!({ "spec": {
        "initContainers": [{ "name": "i", "securityContext": context }],
        "containers": [{ "name": "a", "securityContext": context }],
    } })
    };
    let annotated = json!({
        "metadata": { "annotations": { "container.apparmor.security.beta.kubernetes.io/a": "unconfined" } },
        "spec": { "containers": [{ "name": "a" }] },
    });
    let cases = [
        (
            in_pod(json!({ "appArmorProfile": { "type": "Unconfined" } })),
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            annotated,
            r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#,
        ),
        (
            in_one(json!({ "capabilities": { "add": ["NET_RAW", "KILL", "BPF"] } })),
            r#"non-default capabilities (container "a" must not include "BPF", "NET_RAW" in securityContext.capabilities.add)"#,
        ),
        (
            json!({ "spec": { "hostNetwork": true, "hostPID": true, "hostIPC": false } }),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            json!({ "spec": { "volumes": [{ "name": "x", "hostPath": {} }, { "name": "y", "hostPath": {} }] } }),
            r#"hostPath volumes (volumes "x", "y")"#,
        ),
        (
            json!({ "spec": { "containers": [{ "name": "a", "ports": [{ "hostPort": 80 }, { "hostPort": 0 }] }] } }),
            r#"hostPort (container "a" uses hostPort 80)"#,
        ),
        (
            json!({ "spec": { "containers": [
            { "name": "b", "ports": [{ "hostPort": 10 }, { "hostPort": 20 }] },
            { "name": "c", "ports": [{ "hostPort": 10 }, { "hostPort": 30 }] },
        ] } }),
            r#"hostPort (containers "b", "c" use hostPorts 10, 20, 30)"#,
        ),
        (
            json!({ "spec": { "containers": [{ "name": "a", "livenessProbe": { "httpGet": { "host": "127.0.0.1" } } }] } }),
            r#"probe or lifecycle host (container "a" uses probe or lifecycle host "127.0.0.1")"#,
        ),
        (
            in_two(json!({ "privileged": true })),
            r#"privileged (containers "i", "a" must not set securityContext.privileged=true)"#,
        ),
        (
            in_one(json!({ "procMount": "Unmasked" })),
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            in_pod(json!({ "seLinuxOptions": { "type": "foo", "user": "u", "role": "r" } })),
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "foo"; user may not be set; role may not be set)"#,
        ),
        (
            in_one(json!({ "seccompProfile": { "type": "Unconfined" } })),
            r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            in_pod(
                json!({ "sysctls": [{ "name": "kernel.msgmax" }, { "name": "net.ipv4.tcp_rmem" }] }),
            ),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            in_pod(json!({ "windowsOptions": { "hostProcess": true } })),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ];
    for (pod, expected) in cases {
        assert_eq!(told(Policy { level: Level::Baseline, ..LATEST }, &pod), expected, "{pod}");
        assert_ne!(told(LATEST, &pod), "", "restricted is stricter: {pod}");
    }
}

#[test]
fn each_restricted_check_says_who_and_what() {
    let changed = |change: fn(&mut Value)| {
        let mut pod = hardened();
        change(&mut pod["spec"]);
        pod
    };
    let cases = [
        (
            changed(|spec| {
                spec["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["CHOWN"])
            }),
            r#"unrestricted capabilities (container "c" must not include "CHOWN" in securityContext.capabilities.add)"#,
        ),
        (
            changed(|spec| spec["volumes"] = json!([{ "name": "h", "hostPath": { "path": "/" } }])),
            r#"restricted volume types (volume "h" uses restricted volume type "hostPath")"#,
        ),
        (
            changed(|spec| {
                spec["volumes"] =
                    json!([{ "name": "h", "hostPath": {} }, { "name": "n", "nfs": {} }])
            }),
            r#"restricted volume types (volumes "h", "n" use restricted volume types "hostPath", "nfs")"#,
        ),
        (
            changed(|spec| spec["securityContext"]["runAsNonRoot"] = json!(false)),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            changed(|spec| spec["containers"][0]["securityContext"]["runAsUser"] = json!(0)),
            r#"runAsUser=0 (container "c" must not set runAsUser=0)"#,
        ),
        (
            changed(|spec| {
                spec["containers"][0]["securityContext"]["procMount"] = json!("Unmasked")
            }),
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            changed(|spec| {
                spec["securityContext"]["seccompProfile"] = json!({ "type": "Unconfined" })
            }),
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
    ];
    for (pod, expected) in cases {
        assert_eq!(told(LATEST, &pod), expected, "{pod}");
    }
}

#[test]
fn versions_keep_what_they_allowed() {
    let restricted = Level::Restricted;
    let mut rooted = hardened();
    rooted["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(0);
    assert_eq!(told(policy(restricted, 22), &rooted), "");
    assert_ne!(told(policy(restricted, 23), &rooted), "");
    rooted["spec"]["hostUsers"] = json!(false);
    assert_ne!(told(policy(restricted, 34), &rooted), "");
    assert_eq!(told(policy(restricted, 35), &rooted), "");
    assert_eq!(told(policy(restricted, 99), &rooted), "", "the future is latest");

    let sysctl =
        json!({ "spec": { "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem" }] } } });
    assert_ne!(told(policy(Level::Baseline, 31), &sysctl), "");
    assert_eq!(told(policy(Level::Baseline, 32), &sysctl), "");

    let windows = json!({ "spec": { "os": { "name": "windows" }, "securityContext": { "runAsNonRoot": true }, "containers": [{ "name": "c" }] } });
    assert_ne!(told(policy(restricted, 24), &windows), "");
    assert_eq!(told(policy(restricted, 25), &windows), "");
}

#[test]
fn labels_set_policies() {
    let namespace = |labels: Value| json!({ "metadata": { "labels": labels } });
    let (policies, errors) = Policies::of(&namespace(json!({
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/warn-version": "v1.30",
    })));
    assert_eq!(errors, []);
    assert_eq!(
        [policies.enforce, policies.audit, policies.warn].map(|policy| policy.to_string()),
        ["baseline:latest", "privileged:latest", "restricted:v1.30"]
    );
    let (policies, errors) = Policies::of(&namespace(json!({
        "pod-security.kubernetes.io/enforce": "lax",
        "pod-security.kubernetes.io/audit": "lax",
        "pod-security.kubernetes.io/warn-version": "v2",
    })));
    assert_eq!(policies.enforce, LATEST, "nonsense must not open the door");
    assert_eq!(policies.audit.level, Level::Privileged);
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]",
            "metadata.labels[pod-security.kubernetes.io/audit]",
            "metadata.labels[pod-security.kubernetes.io/warn-version]",
        ]
    );
    for text in ["", "v1", "v1.", "v1.x", "v1.01", "1.30", "v1.99999999999"] {
        assert!(text.parse::<Version>().is_err(), "{text}");
    }
}

#[test]
fn workloads_have_their_pods_inside() {
    let spec = json!({ "spec": { "containers": [] } });
    let cases = [
        ("", "pods", spec.clone(), true),
        ("apps", "deployments", json!({ "spec": { "template": spec } }), true),
        (
            "batch",
            "cronjobs",
            json!({ "spec": { "jobTemplate": { "spec": { "template": spec } } } }),
            true,
        ),
        ("", "podtemplates", json!({ "template": spec }), true),
        ("", "replicationcontrollers", json!({ "spec": {} }), false),
        ("", "services", json!({ "spec": {} }), false),
    ];
    for (group, resource, object, expected) in cases {
        assert_eq!(template(group, resource, &object).is_some(), expected, "{group}/{resource}");
    }
}
