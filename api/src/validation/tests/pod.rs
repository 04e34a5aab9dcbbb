//! What a new pod may say.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::Kind;
use crate::{defaults, validation};

pub(super) const POD: fn() -> Kind<Pod> = || Kind {
    minimal: json!({
        "metadata": {"name": "web", "namespace": "dev", "labels": {"app": "web"}},
        "spec": {
            "containers": [{
                "name": "web",
                "image": "nginx",
                "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "b"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 80}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            }],
            "initContainers": [{"name": "setup", "image": "busybox:1"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "tolerations": [{"key": "k", "operator": "Exists"}],
        },
    }),
    default: defaults::pod,
    create: validation::pod_create,
    update: Some(validation::pod_update),
};

#[test]
fn metadata() {
    let long = "x".repeat(300_000);
    POD().creates(&[
        ("/metadata/name", json!(null), &["metadata.name: Required: name or generateName is"]),
        (
            "/metadata/name",
            json!("Web_1"),
            &["metadata.name: Invalid: a lowercase RFC 1123 subdomain must consist of"],
        ),
        ("/metadata/namespace", json!("a.b"), &["metadata.namespace: Invalid: a lowercase RFC 1123 label"]),
        ("/metadata/labels", json!({"a b": "c"}), &["metadata.labels: Invalid: name part must consist"]),
        ("/metadata/labels", json!({"a": "b c"}), &["metadata.labels: Invalid: a valid label must be"]),
        ("/metadata/annotations", json!({"-": "x"}), &["metadata.annotations: Invalid: name part"]),
        (
            "/metadata/annotations",
            json!({"a": long}),
            &["metadata.annotations: TooLong: may not be more than 262144 bytes"],
        ),
        (
            "/metadata/finalizers",
            json!(["mine"]),
            &["metadata.finalizers: Invalid: name is neither a standard finalizer name nor"],
        ),
        (
            "/metadata/ownerReferences",
            json!([
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "1", "controller": true},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "b", "uid": "", "controller": true},
            ]),
            &[
                "metadata.ownerReferences.uid: Invalid: must not be empty",
                "metadata.ownerReferences: Invalid: Only one reference can have Controller set to \
                 true. Found \"true\" in references for ReplicaSet/a and ReplicaSet/b",
            ],
        ),
    ]);
}

#[test]
fn every_offence_is_named() {
    let changes = [
        ("/metadata/name", json!("-")),
        ("/spec/containers/0/name", json!(null)),
        ("/spec/containers/0/image", json!(null)),
        ("/spec/containers/0/volumeMounts/0/name", json!("nowhere")),
        ("/spec/restartPolicy", json!("Sometimes")),
        ("/spec/volumes/0/name", json!("A")),
    ];
    let expected = [
        "metadata.name: Invalid",
        "spec.containers[0].name: Required",
        "spec.containers[0].image: Required",
        "spec.containers[0].volumeMounts[0].name: NotFound",
        "spec.restartPolicy: NotSupported: supported values: \"Always\", \"Never\", \"OnFailure\"",
        "spec.volumes[0].name: Invalid",
    ];
    POD().creates_with(&changes, &expected);
}

#[test]
fn a_pod_has_one_name_on_its_machine() {
    let named = ("/spec/hostnameOverride", json!("a.b"));
    POD().creates_with(std::slice::from_ref(&named), &[]);
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        let path = format!("/spec/{field}");
        let expected =
            format!("spec.hostnameOverride: Forbidden: may not be set when `{field}` is true");
        POD().creates_with(&[named.clone(), (&path, json!(true))], &[&expected]);
        POD().creates_with(&[named.clone(), (&path, json!(false))], &[]);
    }
}

#[test]
fn pod_fields() {
    POD().creates(&[
        ("/spec/containers", json!([]), &["spec.containers: Required"]),
        ("/spec/dnsPolicy", json!("x"), &["spec.dnsPolicy: NotSupported"]),
        (
            "/spec/dnsPolicy",
            json!("None"),
            &["spec.dnsConfig: Required: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            "/spec/dnsConfig",
            json!({"nameservers": ["x"], "options": [{"value": "1"}]}),
            &[
                "spec.dnsConfig.nameservers[0]: Invalid: must be a valid IP address",
                "spec.dnsConfig.options[0]: Required: must not be empty",
            ],
        ),
        ("/spec/nodeSelector", json!({"a": "b c"}), &["spec.nodeSelector: Invalid"]),
        ("/spec/serviceAccountName", json!("A"), &["spec.serviceAccountName: Invalid"]),
        ("/spec/hostname", json!("a.b"), &["spec.hostname: Invalid"]),
        (
            "/spec/activeDeadlineSeconds",
            json!(0),
            &["spec.activeDeadlineSeconds: Invalid: must be between 1 and 2147483647, inclusive"],
        ),
        (
            "/spec/hostAliases",
            json!([{"ip": "x", "hostnames": ["a_b"]}]),
            &["spec.hostAliases[0].ip: Invalid", "spec.hostAliases[0].hostnames[0]: Invalid"],
        ),
        (
            "/spec/tolerations/-",
            json!({"operator": "Equal", "tolerationSeconds": 5}),
            &[
                "spec.tolerations[1].operator: Invalid: operator must be Exists when `key` is empty",
                "spec.tolerations[1].effect: Invalid: effect must be 'NoExecute'",
            ],
        ),
        (
            "/spec/topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "x"}]),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: NotSupported",
            ],
        ),
        (
            "/spec/affinity",
            json!({
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []},
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 0, "preference": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}},
                    ],
                },
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a b"}],
                },
            }),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid: must be in the range 1-100",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required",
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid",
            ],
        ),
        (
            "/spec/securityContext",
            json!({"runAsUser": -1, "sysctls": [{"name": "a..b", "value": "1"}], "seccompProfile": {"type": "Localhost"}}),
            &[
                "spec.securityContext.runAsUser: Invalid: must be between 0 and 2147483647, inclusive",
                "spec.securityContext.sysctls[0].name: Invalid: must have at most 253 characters",
                "spec.securityContext.seccompProfile.localhostProfile: Required: must be set when",
            ],
        ),
        ("/spec/ephemeralContainers", json!([{"name": "d", "image": "i"}]), &["spec.ephemeralContainers: Forbidden: cannot be set on create"]),
        (
            "/spec/initContainers/0",
            json!({"name": "web", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}}}),
            &[
                "spec.initContainers[0].name: Duplicate",
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            "/spec/initContainers/0",
            json!({"name": "side", "image": "i", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["a"]}}}),
            &[],
        ),
    ]);
}

#[test]
fn container_fields() {
    POD().creates(&[
        ("/spec/containers/-", json!({"name": "web", "image": "i"}), &["spec.containers[1].name: Duplicate"]),
        ("/spec/containers/0/name", json!("Web"), &["spec.containers[0].name: Invalid: a lowercase RFC 1123 label"]),
        ("/spec/containers/0/image", json!(" nginx"), &["spec.containers[0].image: Invalid: must not have leading"]),
        ("/spec/containers/0/imagePullPolicy", json!("x"), &["spec.containers[0].imagePullPolicy: NotSupported"]),
        (
            "/spec/containers/0/ports",
            json!([
                {"containerPort": 0},
                {"containerPort": 70000, "name": "TOO"},
                {"containerPort": 1, "hostPort": 5, "name": "a"},
                {"containerPort": 2, "hostPort": 5, "name": "a", "protocol": "x"},
                {"containerPort": 3, "hostPort": 5},
            ]),
            &[
                "spec.containers[0].ports[0].containerPort: Required",
                "spec.containers[0].ports[1].containerPort: Invalid: must be between 1 and 65535",
                "spec.containers[0].ports[1].name: Invalid: must contain only alpha-numeric",
                "spec.containers[0].ports[1].name: Invalid: must contain at least one letter",
                "spec.containers[0].ports[3].name: Duplicate",
                "spec.containers[0].ports[3].protocol: NotSupported",
                "spec.containers[0].ports[4].hostPort: Duplicate",
            ],
        ),
        (
            "/spec/containers/0/env",
            json!([
                {"name": ""},
                {"name": "a=b"},
                {"name": "B", "valueFrom": {}},
                {"name": "C", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
                {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "spec.nonsense"}}},
                {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "G", "valueFrom": {"secretKeyRef": {"name": "", "key": "a/b"}}},
                {"name": "H", "valueFrom": {"resourceFieldRef": {"resource": "limits.x", "divisor": "1"}}},
                {"name": "I", "valueFrom": {"fileKeyRef": {"volumeName": "gone", "path": "../x", "key": "K"}}},
            ]),
            &[
                "spec.containers[0].env[0].name: Required",
                "spec.containers[0].env[1].name: Invalid: a valid environment variable name",
                "spec.containers[0].env[2].valueFrom: Invalid: must specify one of",
                "spec.containers[0].env[3].valueFrom: Invalid: may not be specified when `value` is not empty",
                "spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: NotSupported",
                "spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Invalid: error converting fieldPath: field label not supported: spec.nonsense",
                "spec.containers[0].env[7].valueFrom.secretKeyRef.name: Required",
                "spec.containers[0].env[7].valueFrom.secretKeyRef.key: Invalid",
                "spec.containers[0].env[8].valueFrom.resourceFieldRef.resource: NotSupported",
                "spec.containers[0].env[9].valueFrom.fileKeyRef.path: Invalid: must not contain '..'",
                "spec.containers[0].env[9].valueFrom.fileKeyRef.volumeName: NotFound",
            ],
        ),
        (
            "/spec/containers/0/envFrom",
            json!([{}, {"configMapRef": {"name": "a"}, "secretRef": {"name": "b"}}, {"secretRef": {"name": ""}}]),
            &[
                "spec.containers[0].envFrom: Invalid: must specify one of: `configMapRef` or `secretRef`",
                "spec.containers[0].envFrom: Invalid: may not have more than one field",
                "spec.containers[0].envFrom[2].secretRef.name: Required",
            ],
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"periodSeconds": -1, "successThreshold": 2}),
            &[
                "spec.containers[0].livenessProbe: Required: must specify a handler type",
                "spec.containers[0].livenessProbe.periodSeconds: Invalid: must be greater than or equal to 0",
                "spec.containers[0].livenessProbe.successThreshold: Invalid: must be 1",
            ],
        ),
        (
            "/spec/containers/0/readinessProbe",
            json!({"exec": {"command": []}, "tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1}),
            &[
                "spec.containers[0].readinessProbe.exec.command: Required",
                "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid: must not be set for readinessProbes",
            ],
        ),
        (
            "/spec/containers/0/startupProbe",
            json!({"httpGet": {"port": "no_port", "scheme": "FTP"}}),
            &[
                "spec.containers[0].startupProbe.httpGet.port: Invalid: must contain only",
                "spec.containers[0].startupProbe.httpGet.scheme: NotSupported",
            ],
        ),
        (
            "/spec/containers/0/lifecycle",
            json!({"preStop": {"sleep": {"seconds": 31}}, "postStart": {}}),
            &[
                "spec.containers[0].lifecycle.preStop.sleep: Invalid: must be non-negative and less than terminationGracePeriodSeconds (30)",
                "spec.containers[0].lifecycle.postStart: Required: must specify a handler type",
            ],
        ),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"cpu": "2", "memory": "-1", "gpu": "1", "a.b/c": "1.5"}, "limits": {"cpu": "1", "memory": "x"}}),
            &[
                "spec.containers[0].resources.requests: Invalid: must be less than or equal to cpu limit of 1",
                "spec.containers[0].resources.requests[memory]: Invalid: must be greater than or equal to 0",
                "spec.containers[0].resources.requests[gpu]: Invalid: must be a standard resource for containers",
                "spec.containers[0].resources.requests[a.b/c]: Invalid: must be an integer",
                "spec.containers[0].resources.limits: Required: Limit must be set for non overcommitable resources",
                "spec.containers[0].resources.limits[memory]: Invalid: quantities must match the regular expression",
            ],
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([
                {"name": "data", "mountPath": "/a"},
                {"name": "data", "mountPath": "/a", "subPath": "../x"},
                {"name": "", "mountPath": "", "mountPropagation": "Bidirectional"},
            ]),
            &[
                "spec.containers[0].volumeMounts[1].mountPath: Invalid: must be unique",
                "spec.containers[0].volumeMounts[1].subPath: Invalid: must not contain '..'",
                "spec.containers[0].volumeMounts[2].name: Required",
                "spec.containers[0].volumeMounts[2].mountPath: Required",
                "spec.containers[0].volumeMounts[2].mountPropagation: Forbidden: Bidirectional mount propagation is available only",
            ],
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
            &["spec.containers[0].securityContext: Invalid: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"],
        ),
        ("/spec/containers/0/terminationMessagePolicy", json!("x"), &["spec.containers[0].terminationMessagePolicy: NotSupported"]),
    ]);
}

#[test]
fn volumes() {
    let case = |volume| json!([{"name": "data", "emptyDir": {}}, volume]);
    POD().creates(&[
        ("/spec/volumes", case(json!({"name": "data", "emptyDir": {}})), &["spec.volumes[1].name: Duplicate"]),
        (
            "/spec/volumes",
            case(json!({"name": "b", "emptyDir": {}, "hostPath": {"path": "/x"}})),
            &["spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            "/spec/volumes",
            case(json!({"name": "b", "hostPath": {"path": "/a/../b", "type": "x"}})),
            &["spec.volumes[1].hostPath.path: Invalid: must not contain '..'", "spec.volumes[1].hostPath.type: NotSupported"],
        ),
        (
            "/spec/volumes",
            case(json!({"name": "b", "secret": {"defaultMode": 512, "items": [{"key": "", "path": "/x"}]}})),
            &[
                "spec.volumes[1].secret.secretName: Required",
                "spec.volumes[1].secret.defaultMode: Invalid: must be a number between 0 and 0777 (octal), both inclusive",
                "spec.volumes[1].secret.items[0].key: Required",
                "spec.volumes[1].secret.items[0].path: Invalid: must be a relative path",
            ],
        ),
        ("/spec/volumes", case(json!({"name": "b", "configMap": {}})), &["spec.volumes[1].configMap.name: Required"]),
        (
            "/spec/volumes",
            case(json!({"name": "b", "persistentVolumeClaim": {"claimName": ""}})),
            &["spec.volumes[1].persistentVolumeClaim.claimName: Required"],
        ),
        (
            "/spec/volumes",
            case(json!({"name": "b", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 5}},
                {"downwardAPI": {"items": [{"path": "t"}]}},
                {},
            ]}})),
            &[
                "spec.volumes[1].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid: may not specify a duration less than 10 minutes",
                "spec.volumes[1].projected.sources[1].downwardAPI: Required: one of fieldRef and resourceFieldRef",
                "spec.volumes[1].projected.sources[2]: Required: must specify a projected volume source",
                "spec.volumes[1].projected: Invalid: conflicting duplicate paths",
            ],
        ),
        ("/spec/volumes", case(json!({"name": "b", "nfs": {"server": "", "path": "x"}})), &["spec.volumes[1].nfs.server: Required", "spec.volumes[1].nfs.path: Invalid: must be an absolute path"]),
        ("/spec/volumes", case(json!({"name": "b"})), &[]),
    ]);
}

#[test]
fn qos_follows_requests_and_limits() {
    let class = |resources| {
        let pod = POD().read(&[
            ("/spec/containers/0/resources", resources),
            ("/spec/initContainers", json!([])),
        ]);
        validation::qos_class(&pod.spec.unwrap())
    };
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(class(json!({"limits": {"cpu": "1"}})), "Burstable");
    assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(
        class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})),
        "Burstable"
    );
}
