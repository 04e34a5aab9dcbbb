//! Manifests as people write them, through the catalogue as the API server
//! uses it: read, defaulted, prepared and checked.

use serde_json::{Value, json};

use crate::catalogue::{self, FieldError, Part, Resource};

/// What tutorials apply first: two deployments and their services.
const GUESTBOOK: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: redis, labels: {app: redis}}
spec:
  replicas: 1
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      containers:
      - name: redis
        image: redis:latest
        ports: [{containerPort: 6379}]
        resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: flask-app}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: flask}, matchExpressions: [{key: tier, operator: In, values: [web]}]}
  template:
    metadata: {labels: {app: flask, tier: web}}
    spec:
      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: flask}}
      initContainers:
      - {name: wait, image: "busybox:1", command: [sh, -c, "until nc -z redis 6379; do sleep 1; done"]}
      containers:
      - name: flask
        image: mjbright/flask-web:v1
        ports: [{name: http, containerPort: 5000}]
        env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: redis, key: password, optional: true}}}
        envFrom: [{configMapRef: {name: flask}}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: 5000}}
        lifecycle: {preStop: {exec: {command: [sleep, "2"]}}}
        volumeMounts: [{name: config, mountPath: /etc/flask, readOnly: true}]
      volumes:
      - {name: config, configMap: {name: flask, items: [{key: settings.py, path: settings.py}]}}
---
apiVersion: v1
kind: Service
metadata: {name: flask-app}
spec: {type: NodePort, selector: {app: flask}, ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: flask}
data: {settings.py: "DEBUG = False"}
---
apiVersion: v1
kind: Secret
metadata: {name: redis}
stringData: {password: swordfish}
"#;

/// One of most other kinds.
const REST: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: v1
kind: Pod
metadata: {generateName: job-, name: job-x7k2p}
spec: {restartPolicy: Never, serviceAccountName: robot, containers: [{name: c, image: busybox, args: ["true"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: pg, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - {name: pg, image: "postgres:16", volumeMounts: [{name: data, mountPath: /var/lib/postgresql}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: c, image: "fluent:1", securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /v}]}]
      volumes: [{name: v, hostPath: {path: /var/log, type: Directory}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec:
  completions: 5
  parallelism: 2
  template:
    spec: {restartPolicy: OnFailure, containers: [{name: pi, image: "perl:5", command: [perl]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup}
spec:
  schedule: "0 3 * * 1-5"
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: Never, containers: [{name: c, image: backup}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: nginx
  tls: [{hosts: [shop.example.com], secretName: shop-tls}]
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: flask-app, port: {name: http}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: db}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: flask}
spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: flask-app}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:reader"}
rules: [{apiGroups: [""], resources: [pods, pods/log], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:reader"}
subjects: [{kind: ServiceAccount, name: robot, namespace: shop}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv1}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /srv/pv1}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: skiff.dev/local
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 100000
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: q}
spec: {hard: {pods: "10", requests.cpu: "4", limits.memory: 8Gi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: l}
spec: {limits: [{type: Container, default: {cpu: 500m}, defaultRequest: {cpu: 100m}, max: {cpu: "1"}}]}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: leader}
spec: {holderIdentity: a, leaseDurationSeconds: 15, renewTime: "2026-01-01T00:00:00.000000Z"}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {taints: [{key: dedicated, value: db, effect: NoSchedule}]}
status: {capacity: {cpu: "4", memory: 8Gi, pods: "110"}}
"#;

/// The kind's entry and the object as it would be stored.
fn admit(mut object: Value) -> (&'static Resource, Value) {
    let version = object["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = catalogue::find_kind(group, version, object["kind"].as_str().unwrap()).unwrap();
    if resource.namespaced {
        object["metadata"]["namespace"] = json!("shop");
    }
    object["metadata"]["uid"] = json!("6a0c8a6e-0d0c-4c5e-9d55-2f6c3b1a7f10");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let behaviour = resource.behaviour;
    let unknown = behaviour.normalize(&mut object).unwrap();
    assert_eq!(unknown, [""; 0], "unknown fields of {}", resource.kind);
    behaviour.default(&mut object);
    behaviour.prepare_create(&mut object);
    (resource, object)
}

fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

#[test]
fn what_people_write_is_accepted_and_stable() {
    let manifests = documents(GUESTBOOK).into_iter().chain(documents(REST));
    for manifest in manifests {
        let (resource, object) = admit(manifest);
        let what = format!("{} {}", resource.kind, object["metadata"]["name"]);
        assert_eq!(resource.behaviour.validate_create(&object), [], "{what}");

        // Writing an object back as it was read changes and breaks nothing.
        let mut same = object.clone();
        resource.behaviour.default(&mut same);
        resource.behaviour.prepare_update(&mut same, &object, Part::Main);
        assert_eq!(same, object, "{what} written back");
        for part in [Part::Main, Part::Status] {
            let errors = resource.behaviour.validate_update(&same, &object, part);
            assert_eq!(errors, [], "{what} {part:?}");
        }
    }
}

#[test]
fn a_broken_deployment_hears_of_every_offence() {
    let mut manifest = documents(GUESTBOOK).swap_remove(2);
    manifest["metadata"]["name"] = json!("Flask_App");
    manifest["spec"]["replicas"] = json!(-1);
    let pod = &mut manifest["spec"]["template"]["spec"];
    pod["containers"][0]["image"] = json!("");
    pod["containers"][0]["volumeMounts"][0]["name"] = json!("conf");
    pod["containers"][0]["ports"][0]["containerPort"] = json!(70000);
    let (resource, object) = admit(manifest);
    let found = resource.behaviour.validate_create(&object);
    let fields: Vec<&str> = found.iter().map(|error: &FieldError| error.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "spec.replicas",
            "spec.template.spec.containers[0].image",
            "spec.template.spec.containers[0].ports[0].containerPort",
            "spec.template.spec.containers[0].volumeMounts[0].name",
        ]
    );
}

#[test]
fn every_stored_kind_checks_names() {
    for resource in catalogue::all() {
        let stored = resource.legacy.is_none() && resource.verbs.contains(&"update");
        if !stored {
            continue;
        }
        let mut object = json!({
            "apiVersion": resource.api_version(),
            "kind": resource.kind,
            "metadata": {"name": "a/b", "namespace": "shop"},
        });
        if !resource.namespaced {
            object["metadata"]["namespace"].take();
        }
        resource.behaviour.default(&mut object);
        let found = resource.behaviour.validate_create(&object);
        assert!(
            found.iter().any(|error| error.field == "metadata.name"),
            "{} accepts the name a/b: {found:?}",
            resource.kind
        );
    }
}
