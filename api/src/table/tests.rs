//! Rows as people see them.

use serde_json::{Value, json};

use crate::catalogue;

fn now() -> jiff::Timestamp {
    "2026-01-02T00:10:00Z".parse().unwrap()
}

/// The cells of an object's row under its columns, joined by ` | `. Only the
/// wide ones with `wide`.
fn row(group: &str, plural: &str, mut object: Value, wide: bool) -> String {
    let resource =
        catalogue::all().iter().find(|r| r.group == group && r.plural == plural).unwrap();
    if object["metadata"].is_null() {
        object["metadata"] = json!({"name": "x", "creationTimestamp": "2026-01-02T00:05:00Z"});
    }
    let cells = resource.behaviour.row(&object, now());
    let columns = resource.behaviour.columns();
    assert_eq!(cells.len(), columns.len(), "{plural}");
    let shown = columns.iter().zip(cells).filter(|(column, _)| (column.priority > 0) == wide);
    let texts: Vec<String> =
        shown.map(|(_, cell)| cell.as_str().map_or(cell.to_string(), str::to_owned)).collect();
    texts.join(" | ")
}

#[test]
fn every_kind_prints_an_empty_object() {
    for resource in catalogue::all() {
        let columns = resource.behaviour.columns();
        let cells = resource.behaviour.row(&json!({"metadata": {"name": "x"}}), now());
        assert_eq!(cells.len(), columns.len(), "{} {}", resource.api_version(), resource.plural);
        assert!(columns.iter().all(|column| !column.description.is_empty()), "{}", resource.plural);
    }
}

#[test]
fn pods() {
    let running = |ready: bool| json!({"name": "a", "ready": ready, "restartCount": 0, "state": {"running": {}}});
    let cases = [
        (
            "new",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending"}}),
            "x | 0/1 | Pending | 0 | 5m",
        ),
        (
            "running",
            json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Running", "containerStatuses": [running(true), running(false)]}}),
            "x | 1/2 | Running | 0 | 5m",
        ),
        (
            "crashing",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [{
                "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"finishedAt": "2026-01-02T00:09:00Z"}},
            }]}}),
            "x | 0/1 | CrashLoopBackOff | 3 (60s ago) | 5m",
        ),
        (
            "initializing",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "i"}, {"name": "j"}]}, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "state": {"running": {}}},
            ]}}),
            "x | 0/1 | Init:1/2 | 0 | 5m",
        ),
        (
            "init failed",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "i"}]}, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 2}}},
            ]}}),
            "x | 0/1 | Init:ExitCode:2 | 1 | 5m",
        ),
        (
            "a sidecar counts",
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}, "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}}}],
                "containerStatuses": [running(true)],
            }}),
            "x | 2/2 | Running | 2 | 5m",
        ),
        (
            "one container done",
            json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}, running(true)]}}),
            "x | 1/2 | NotReady | 0 | 5m",
        ),
        (
            "killed by a signal",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}}),
            "x | 0/1 | Signal:9 | 0 | 5m",
        ),
        (
            "gated",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            "x | 0/1 | SchedulingGated | 0 | 5m",
        ),
        (
            "evicted",
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "reason": "Evicted"}}),
            "x | 0/1 | Evicted | 0 | 5m",
        ),
        (
            "terminating",
            json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-02T00:05:00Z", "deletionTimestamp": "2026-01-02T00:05:00Z"},
                "spec": {"containers": [{}]}, "status": {"phase": "Running", "containerStatuses": [running(true)]}}),
            "x | 1/1 | Terminating | 0 | 5m",
        ),
    ];
    for (name, pod, expected) in cases {
        assert_eq!(row("", "pods", pod, false), expected, "{name}");
    }
    let pod = json!({
        "spec": {"nodeName": "n", "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]},
        "status": {"podIPs": [{"ip": "10.244.0.5"}], "conditions": [{"type": "a", "status": "True"}]},
    });
    assert_eq!(row("", "pods", pod, true), "10.244.0.5 | n | <none> | 1/2");
}

#[test]
fn other_kinds() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let cases = [
        (
            "apps",
            "deployments",
            json!({"spec": {"replicas": 3}, "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}}),
            "x | 2/3 | 1 | 2 | 5m",
        ),
        (
            "apps",
            "replicasets",
            json!({"spec": {"replicas": 3}, "status": {"replicas": 2, "readyReplicas": 1}}),
            "x | 3 | 2 | 1 | 5m",
        ),
        ("apps", "statefulsets", json!({"spec": {}, "status": {}}), "x | 0/1 | 5m"),
        (
            "apps",
            "daemonsets",
            json!({"spec": {"template": {"spec": {"nodeSelector": {"b": "c", "a": ""}}}}, "status": {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberReady": 1}}),
            "x | 2 | 2 | 1 | 0 | 0 | a=,b=c | 5m",
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"completions": 3}, "status": {"succeeded": 1, "startTime": "2026-01-02T00:09:00Z"}}),
            "x | Running | 1/3 | 60s | 5m",
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"parallelism": 2}, "status": {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1,
                "startTime": "2026-01-02T00:05:00Z", "completionTime": "2026-01-02T00:05:07Z"}}),
            "x | Complete | 1/1 of 2 | 7s | 5m",
        ),
        (
            "batch",
            "cronjobs",
            json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {}}),
            "x | * * * * * | <none> | False | 0 | <none> | 5m",
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            "x | NodePort | 10.96.0.9 | <none> | 80:30080/TCP,53/UDP | 5m",
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}, "status": {"loadBalancer": {}}}),
            "x | LoadBalancer | 10.96.0.9 | <pending> | 80/TCP | 5m",
        ),
        (
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]}),
            "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more... | 5m",
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            "x | IPv4 | 80 | 10.0.0.1 | 5m",
        ),
        (
            "",
            "nodes",
            json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-02T00:05:00Z", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "a"}},
                "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.35.0"}}}),
            "x | Ready,SchedulingDisabled | a,control-plane | 5m | v1.35.0",
        ),
        (
            "",
            "nodes",
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            "x | NotReady | <none> | 5m | ",
        ),
        ("", "namespaces", json!({"status": {"phase": "Active"}}), "x | Active | 5m"),
        (
            "",
            "events",
            json!({"type": "Normal", "reason": "Pulled", "message": " text\n", "involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-01-02T00:09:50Z"}),
            "10s | Normal | Pulled | pod/p | text",
        ),
        (
            "",
            "configmaps",
            json!({"data": {"a": "", "b": ""}, "binaryData": {"c": ""}}),
            "x | 3 | 5m",
        ),
        ("", "secrets", json!({"type": "Opaque", "data": {"a": ""}}), "x | Opaque | 1 | 5m"),
        ("", "serviceaccounts", json!({}), "x | 0 | 5m"),
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"volumeName": "v", "storageClassName": "s"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}}),
            "x | Bound | v | 1Gi | RWO,RWX | s | <unset> | 5m",
        ),
        (
            "",
            "resourcequotas",
            json!({"status": {"hard": {"pods": "4", "limits.cpu": "2", "requests.cpu": "1"}, "used": {"pods": "1"}}}),
            "x | pods: 1/4, requests.cpu: 0/1 | limits.cpu: 0/2 | 5m",
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-02T00:05:00Z", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
            "x (default) | p | Delete | Immediate | false | 5m",
        ),
        ("coordination.k8s.io", "leases", json!({"spec": {"holderIdentity": "me"}}), "x | me | 5m"),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"ingressClassName": "c", "tls": [{}], "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
            "x | c | a,b,c + 1 more... | 1.2.3.4 | 80, 443 | 5m",
        ),
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"spec": {"podSelector": {}}}),
            "x | <none> | 5m",
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}),
            "x | 50% | N/A | 1 | 5m",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 5,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}, "status": {"desiredReplicas": 2}}),
            "x | Deployment/d | cpu: <unknown>/80% | <unset> | 5 | 2 | 5m",
        ),
        ("rbac.authorization.k8s.io", "clusterroles", json!({}), "x | 2026-01-02T00:05:00Z"),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}}),
            "x | Role/r | 5m",
        ),
        (
            "certificates.k8s.io",
            "certificatesigningrequests",
            json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600}, "status": {"conditions": [{"type": "Approved"}], "certificate": "aa"}}),
            "x | 5m | s | u | 60m | Approved,Issued",
        ),
        ("scheduling.k8s.io", "priorityclasses", json!({"value": 10}), "x | 10 | false | 5m | "),
    ];
    for (group, plural, object, expected) in cases {
        assert_eq!(row(group, plural, object, false), expected, "{plural}");
    }
    let deployment =
        json!({"spec": {"template": template, "selector": {"matchLabels": {"app": "x"}}}});
    assert_eq!(row("apps", "deployments", deployment, true), "a,b | i,j | app=x");
}
