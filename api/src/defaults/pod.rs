//! Pods and pod templates.
//!
//! A template gets the defaults of a `PodSpec` only. Those of the second step
//! in [`pod`] (requests from limits, host ports, service links) appear when a
//! pod is made from it; writing them into the template would change what
//! `kubectl diff` shows for objects nobody touched.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EphemeralContainer, HTTPGetAction, LifecycleHandler, Pod, PodSpec,
    PodTemplate, PodTemplateSpec, Probe, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{fill, fill_nonzero, fill_text, image, volume};

/// Fills in a pod.
pub fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    pod_spec(spec);
    // Once it meant "at once", which is what a second comes to.
    spec.termination_grace_period_seconds =
        spec.termination_grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    fill(&mut spec.enable_service_links, true);
    let host_network = spec.host_network == Some(true);
    let init_containers = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(init_containers) {
        requests_from_limits(container.resources.as_mut());
        if host_network {
            host_ports(container);
        }
    }
    requests_from_limits(spec.resources.as_mut());
}

/// Fills in a `PodTemplate` object.
pub fn pod_template_object(template: &mut PodTemplate) {
    if let Some(template) = &mut template.template {
        pod_template(template);
    }
}

/// Fills in the pod template of a workload.
pub fn pod_template(template: &mut PodTemplateSpec) {
    pod_spec(template.spec.get_or_insert_default());
}

/// Fills in what pods and pod templates have in common.
pub fn pod_spec(spec: &mut PodSpec) {
    fill_text(&mut spec.dns_policy, "ClusterFirst");
    fill_text(&mut spec.restart_policy, "Always");
    fill(&mut spec.security_context, Default::default());
    fill(&mut spec.termination_grace_period_seconds, 30);
    fill_text(&mut spec.scheduler_name, "default-scheduler");
    service_account(spec);
    for volume in spec.volumes.iter_mut().flatten() {
        volume::volume(volume);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        fill_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(container);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; each is readable
/// under both.
fn service_account(spec: &mut PodSpec) {
    let name = [&spec.service_account_name, &spec.service_account]
        .into_iter()
        .flatten()
        .find(|name| !name.is_empty())
        .cloned();
    spec.service_account_name.clone_from(&name);
    spec.service_account = name;
}

fn fill_container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    fill_text(&mut container.image_pull_policy, image::pull_policy(image));
    fill_text(&mut container.termination_message_path, "/dev/termination-log");
    fill_text(&mut container.termination_message_policy, "File");
    fill(&mut container.resources, Default::default());
    for port in container.ports.iter_mut().flatten() {
        fill_text(&mut port.protocol, "TCP");
    }
    env(&mut container.env);
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        let handlers = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        handlers.into_iter().flatten().for_each(handler);
    }
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    let image = container.image.as_deref().unwrap_or_default();
    fill_text(&mut container.image_pull_policy, image::pull_policy(image));
    fill_text(&mut container.termination_message_path, "/dev/termination-log");
    fill_text(&mut container.termination_message_policy, "File");
    fill(&mut container.resources, Default::default());
    env(&mut container.env);
}

fn env(vars: &mut Option<Vec<EnvVar>>) {
    for source in vars.iter_mut().flatten().filter_map(|var| var.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            fill_text(&mut field.api_version, "v1");
        }
        if let Some(resource) = &mut source.resource_field_ref {
            fill(&mut resource.divisor, Quantity("0".to_owned()));
        }
        if let Some(file) = &mut source.file_key_ref {
            fill(&mut file.optional, false);
        }
    }
}

fn probe(probe: &mut Probe) {
    fill_nonzero(&mut probe.timeout_seconds, 1);
    fill_nonzero(&mut probe.period_seconds, 10);
    fill_nonzero(&mut probe.success_threshold, 1);
    fill_nonzero(&mut probe.failure_threshold, 3);
    if let Some(action) = &mut probe.http_get {
        http_get(action);
    }
    if let Some(action) = &mut probe.grpc {
        fill(&mut action.service, String::new());
    }
}

fn handler(handler: &mut LifecycleHandler) {
    if let Some(action) = &mut handler.http_get {
        http_get(action);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    fill_text(&mut action.path, "/");
    fill_text(&mut action.scheme, "HTTP");
}

/// What is limited but not requested is requested as limited.
fn requests_from_limits(resources: Option<&mut ResourceRequirements>) {
    let Some(resources) = resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_with(BTreeMap::new);
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// On the host's network a container's port is the host's port.
fn host_ports(container: &mut Container) {
    for port in container.ports.iter_mut().flatten() {
        let container_port = port.container_port;
        fill_nonzero(&mut port.host_port, container_port);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filled(object: Value) -> Value {
        let mut object: Pod = serde_json::from_value(object).unwrap();
        pod(&mut object);
        let once = serde_json::to_value(&object).unwrap();
        pod(&mut object);
        assert_eq!(once, serde_json::to_value(&object).unwrap(), "defaulting twice is once");
        once
    }

    #[test]
    fn a_minimal_pod_is_completed() {
        let pod = filled(json!({
            "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
        }));
        let expected = json!({
            "containers": [{
                "name": "c",
                "image": "nginx",
                "imagePullPolicy": "Always",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": true,
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        });
        assert_eq!(pod["spec"], expected);
    }

    #[test]
    fn a_negative_grace_period_of_a_pod_is_the_shortest() {
        let grace = |seconds: i64| {
            let spec = json!({"terminationGracePeriodSeconds": seconds, "containers": []});
            filled(json!({"spec": spec}))["spec"]["terminationGracePeriodSeconds"].clone()
        };
        assert_eq!((grace(-7), grace(0), grace(9)), (json!(1), json!(0), json!(9)));
    }

    #[test]
    fn parts_of_containers_are_completed() {
        let pod = filled(json!({
            "spec": {
                "hostNetwork": true,
                "serviceAccount": "robot",
                "containers": [{
                    "name": "c",
                    "image": "nginx:1",
                    "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                    "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                }],
            },
        }));
        let spec = &pod["spec"];
        assert_eq!(spec["serviceAccountName"], "robot");
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        assert_eq!(
            container["ports"],
            json!([
                {"containerPort": 80, "hostPort": 80, "protocol": "TCP"},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP"},
            ])
        );
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(
            container["livenessProbe"],
            json!({
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                "timeoutSeconds": 1, "periodSeconds": 5, "successThreshold": 1, "failureThreshold": 3,
            })
        );
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(container["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
    }

    #[test]
    fn volumes_are_completed() {
        let pod = filled(json!({
            "spec": {
                "containers": [],
                "volumes": [
                    {"name": "a"},
                    {"name": "b", "configMap": {"name": "m"}},
                    {"name": "c", "hostPath": {"path": "/x"}},
                    {"name": "d", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "token"}},
                        {"downwardAPI": {"items": [
                            {"path": "p", "fieldRef": {"fieldPath": "metadata.labels"}},
                        ]}},
                    ]}},
                ],
            },
        }));
        assert_eq!(
            pod["spec"]["volumes"],
            json!([
                {"name": "a", "emptyDir": {}},
                {"name": "b", "configMap": {"name": "m", "defaultMode": 420}},
                {"name": "c", "hostPath": {"path": "/x", "type": ""}},
                {"name": "d", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                    {"downwardAPI": {"items": [
                        {"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}},
                    ]}},
                ]}},
            ])
        );
    }
}
