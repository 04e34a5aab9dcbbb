//! Containers: regular, init and ephemeral ones.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, EphemeralContainer,
    PodSpec, Volume, VolumeDevice, VolumeMount,
};

use super::path::{Errors, Path, json, list, text};
use super::probe::{self, Purpose};
use super::security::{container_context, descending_path};
use super::{env, names, resources};

/// The pod's own volumes and settings that the rules of its containers look at.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    spec: &'a PodSpec,
}

impl<'a> Surroundings<'a> {
    pub(super) fn of(spec: &'a PodSpec) -> Self {
        Surroundings { spec }
    }

    fn volume(&self, name: &str) -> Option<&'a Volume> {
        list(&self.spec.volumes).iter().find(|volume| volume.name == name)
    }

    fn grace(&self) -> i64 {
        self.spec.termination_grace_period_seconds.unwrap_or(30)
    }
}

/// Checks the regular containers of a pod: at least one.
pub(super) fn containers(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    if spec.containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.index(index);
        common(errors, container, Surroundings::of(spec), &path);
        if !container.name.is_empty() && !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        lifecycle(errors, container, spec, &path);
    }
    host_port_conflicts(errors, &spec.containers, path);
}

/// Checks the init containers. One that restarts always is a sidecar and may
/// have what regular containers have.
pub(super) fn init_containers(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    let containers = list(&spec.init_containers);
    let mut seen: BTreeSet<&str> =
        spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(errors, container, Surroundings::of(spec), &path);
        if !container.name.is_empty() && !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        if text(&container.restart_policy) == "Always" {
            lifecycle(errors, container, spec, &path);
            continue;
        }
        for (field, present) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if present {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(&path.child(field), detail);
            }
        }
    }
    for (index, container) in containers.iter().enumerate() {
        // Init containers run one after the other, so only the ports of one
        // can clash with each other.
        let own = std::slice::from_ref(container);
        let mut seen = BTreeSet::new();
        host_ports(errors, own, index, &mut seen, path);
    }
}

fn lifecycle(errors: &mut Errors, container: &Container, spec: &PodSpec, path: &Path<'_>) {
    if let Some(lifecycle) = &container.lifecycle {
        let grace = Surroundings::of(spec).grace();
        probe::lifecycle(errors, lifecycle, grace, &path.child("lifecycle"));
    }
    for (field, probe, purpose) in [
        ("livenessProbe", &container.liveness_probe, Purpose::Liveness),
        ("readinessProbe", &container.readiness_probe, Purpose::Readiness),
        ("startupProbe", &container.startup_probe, Purpose::Startup),
    ] {
        if let Some(probe) = probe {
            probe::probe(errors, probe, purpose, &path.child(field));
        }
    }
}

/// Checks the ephemeral containers, which may have less than others.
pub(super) fn ephemeral_containers(errors: &mut Errors, spec: &PodSpec, path: &Path<'_>) {
    let init = list(&spec.init_containers);
    let others: BTreeSet<&str> =
        spec.containers.iter().chain(init).map(|container| container.name.as_str()).collect();
    let mut seen = others.clone();
    for (index, container) in list(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(index);
        common(errors, &regular(container), Surroundings::of(spec), &path);
        if !container.name.is_empty() && !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        let target = text(&container.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for (field, present) in [
            ("ports", !list(&container.ports).is_empty()),
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("restartPolicy", container.restart_policy.is_some()),
            ("resizePolicy", !list(&container.resize_policy).is_empty()),
            (
                "resources",
                container.resources.as_ref().is_some_and(|resources| {
                    resources.limits.is_some() || resources.requests.is_some()
                }),
            ),
        ] {
            if present {
                let detail = "cannot be set for an Ephemeral Container";
                errors.forbidden(&path.child(field), detail);
            }
        }
        let mounts = path.child("volumeMounts");
        for (index, mount) in list(&container.volume_mounts).iter().enumerate() {
            for (field, set) in [
                ("subPath", !text(&mount.sub_path).is_empty()),
                ("subPathExpr", !text(&mount.sub_path_expr).is_empty()),
            ] {
                if set {
                    let detail = "cannot be set for an Ephemeral Container";
                    errors.forbidden(&mounts.index(index).child(field), detail);
                }
            }
        }
    }
}

/// The part of an ephemeral container that it has in common with others and
/// that the common rules look at.
fn regular(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        name: container.name,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        env: container.env,
        env_from: container.env_from,
        volume_mounts: container.volume_mounts,
        volume_devices: container.volume_devices,
        security_context: container.security_context,
        termination_message_policy: container.termination_message_policy,
        ..Container::default()
    }
}

/// Checks that files with variables are in volumes that the pod's own
/// containers write.
fn env_files(errors: &mut Errors, container: &Container, pod: Surroundings<'_>, path: &Path<'_>) {
    for (index, variable) in list(&container.env).iter().enumerate() {
        let file = variable.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref());
        let Some(name) = file.map(|file| &file.volume_name).filter(|name| !name.is_empty()) else {
            continue;
        };
        let path = path.index(index);
        let path = path.child("valueFrom");
        let path = path.child("fileKeyRef");
        let path = path.child("volumeName");
        match pod.volume(name) {
            None => errors.not_found(&path, name.as_str()),
            Some(volume) if volume.empty_dir.is_none() => {
                errors.invalid(&path, name.as_str(), "referenced volume must be of type emptyDir");
            }
            Some(_) => {}
        }
    }
}

/// Checks what all containers have in common.
fn common(errors: &mut Errors, container: &Container, pod: Surroundings<'_>, path: &Path<'_>) {
    let name_path = path.child("name");
    if container.name.is_empty() {
        errors.required(&name_path, "");
    } else {
        errors.invalid_each(&name_path, &container.name, names::dns1123_label(&container.name));
    }
    if text(&container.image).is_empty() {
        errors.required(&path.child("image"), "");
    }
    termination_message_policy(errors, text(&container.termination_message_policy), path);
    ports(errors, list(&container.ports), pod, &path.child("ports"));
    env::variables(errors, list(&container.env), &path.child("env"));
    env_files(errors, container, pod, &path.child("env"));
    env::sources(errors, list(&container.env_from), &path.child("envFrom"));
    volume_mounts(errors, container, pod, &path.child("volumeMounts"));
    volume_devices(errors, container, pod, &path.child("volumeDevices"));
    errors.required_one_of(
        &path.child("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    if let Some(requirements) = &container.resources {
        resources::requirements(errors, requirements, pod.spec, &path.child("resources"));
    }
    resize_policies(errors, list(&container.resize_policy), &path.child("resizePolicy"));
    restart_policy(errors, container, path);
    if let Some(context) = &container.security_context {
        container_context(errors, context, &path.child("securityContext"));
    }
}

fn termination_message_policy(errors: &mut Errors, policy: &str, path: &Path<'_>) {
    let path = path.child("terminationMessagePolicy");
    let supported = ["File", "FallbackToLogsOnError"];
    if policy.is_empty() {
        errors.required(&path, "");
    } else {
        errors.one_of(&path, Some(policy), &supported);
    }
}

fn ports(errors: &mut Errors, ports: &[ContainerPort], pod: Surroundings<'_>, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    let host_network = pod.spec.host_network == Some(true);
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_each(&path.child("name"), name, messages);
        }
        let (number, host) = (port.container_port, port.host_port.unwrap_or_default());
        if number == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            errors.in_range(&path.child("containerPort"), number, 1, 65535);
        }
        if host != 0 {
            errors.in_range(&path.child("hostPort"), host, 1, 65535);
        }
        if host_network && host != 0 && host != number {
            let detail = "must match `containerPort` when `hostNetwork` is true";
            errors.invalid(&path.child("hostPort"), host, detail);
        }
        errors.required_one_of(
            &path.child("protocol"),
            port.protocol.as_deref(),
            &["SCTP", "TCP", "UDP"],
        );
        let address = text(&port.host_ip);
        if !address.is_empty() {
            errors.invalid_each(&path.child("hostIP"), address, names::ip(address));
        }
    }
}

fn host_port_conflicts(errors: &mut Errors, containers: &[Container], path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    host_ports(errors, containers, 0, &mut seen, path);
}

/// Refuses a port of the host that is taken twice; `first` is the index of the
/// first container.
fn host_ports(
    errors: &mut Errors,
    containers: &[Container],
    first: usize,
    seen: &mut BTreeSet<String>,
    path: &Path<'_>,
) {
    for (index, container) in containers.iter().enumerate() {
        let container_path = path.index(first + index);
        let ports_path = container_path.child("ports");
        for (index, port) in list(&container.ports).iter().enumerate() {
            let number = port.host_port.unwrap_or_default();
            if number == 0 {
                continue;
            }
            let identity = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            if seen.contains(&identity) {
                errors.duplicate(&ports_path.index(index).child("hostPort"), identity);
            } else {
                seen.insert(identity);
            }
        }
    }
}

fn volume_mounts(
    errors: &mut Errors,
    container: &Container,
    pod: Surroundings<'_>,
    path: &Path<'_>,
) {
    let devices = list(&container.volume_devices);
    let mut seen = BTreeSet::new();
    for (index, mount) in list(&container.volume_mounts).iter().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if pod.volume(&mount.name).is_none() {
            errors.not_found(&path.child("name"), mount.name.as_str());
        }
        let target = mount.mount_path.as_str();
        if target.is_empty() {
            errors.required(&path.child("mountPath"), "");
        }
        if !seen.insert(target) {
            errors.invalid(&path.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            let detail = "must not already exist in volumeDevices";
            errors.invalid(&path.child("name"), mount.name.as_str(), detail);
        }
        if devices.iter().any(|device| device.device_path == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&path.child("mountPath"), target, detail);
        }
        mount_options(errors, container, mount, &path);
    }
}

fn mount_options(errors: &mut Errors, container: &Container, mount: &VolumeMount, path: &Path<'_>) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    descending_path(errors, sub_path, &path.child("subPath"));
    descending_path(errors, expression, &path.child("subPathExpr"));
    if !sub_path.is_empty() && !expression.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.invalid(&path.child("subPathExpr"), expression, detail);
    }
    let propagation = mount.mount_propagation.as_deref();
    let propagation_path = path.child("mountPropagation");
    errors.one_of(&propagation_path, propagation, &["Bidirectional", "HostToContainer", "None"]);
    let privileged =
        container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    if propagation == Some("Bidirectional") && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&propagation_path, detail);
    }
    let recursive = mount.recursive_read_only.as_deref();
    let recursive_path = path.child("recursiveReadOnly");
    errors.one_of(&recursive_path, recursive, &["Disabled", "IfPossible", "Enabled"]);
    if matches!(recursive, Some("IfPossible" | "Enabled")) {
        if mount.read_only != Some(true) {
            errors.forbidden(&recursive_path, "may only be specified when readOnly is true");
        }
        if !matches!(propagation, None | Some("None")) {
            let detail = "may only be specified when mountPropagation is None or not specified";
            errors.forbidden(&recursive_path, detail);
        }
    }
}

fn volume_devices(
    errors: &mut Errors,
    container: &Container,
    pod: Surroundings<'_>,
    path: &Path<'_>,
) {
    let devices = list(&container.volume_devices);
    for (index, device) in devices.iter().enumerate() {
        volume_device(errors, container, &devices[..index], device, pod, &path.index(index));
    }
}

fn volume_device(
    errors: &mut Errors,
    container: &Container,
    earlier: &[VolumeDevice],
    device: &VolumeDevice,
    pod: Surroundings<'_>,
    path: &Path<'_>,
) {
    let mounts = list(&container.volume_mounts);
    let (name_path, device_path) = (path.child("name"), path.child("devicePath"));
    if device.name.is_empty() {
        errors.required(&name_path, "");
    } else if earlier.iter().any(|other| other.name == device.name) {
        errors.invalid(&name_path, device.name.as_str(), "must be unique");
    }
    match pod.volume(&device.name) {
        None if !device.name.is_empty() => {
            errors.not_found(&name_path, device.name.as_str());
        }
        Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
            let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral \
                          for block mode";
            errors.invalid(&name_path, device.name.as_str(), detail);
        }
        _ => {}
    }
    let target = device.device_path.as_str();
    if target.is_empty() {
        errors.required(&device_path, "");
    } else {
        if earlier.iter().any(|other| other.device_path == target) {
            errors.invalid(&device_path, target, "must be unique");
        }
        if mounts.iter().any(|mount| mount.mount_path == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&device_path, target, detail);
        }
    }
}

fn resize_policies(errors: &mut Errors, policies: &[ContainerResizePolicy], path: &Path<'_>) {
    for (index, policy) in policies.iter().enumerate() {
        let item = path.index(index);
        let name = policy.resource_name.as_str();
        errors.required_one_of(&item.child("resourceName"), Some(name), &["cpu", "memory"]);
        errors.required_one_of(
            &item.child("restartPolicy"),
            Some(&policy.restart_policy),
            &["NotRequired", "RestartContainer"],
        );
        if policies[..index].iter().any(|earlier| earlier.resource_name == name) {
            errors.duplicate(path, name);
        }
    }
}

fn restart_policy(errors: &mut Errors, container: &Container, path: &Path<'_>) {
    let policy = container.restart_policy.as_deref();
    let policy_path = path.child("restartPolicy");
    errors.one_of(&policy_path, policy, &["Always", "Never", "OnFailure"]);
    let rules = list(&container.restart_policy_rules);
    if !rules.is_empty() && policy.is_none() {
        errors.required(&policy_path, "must specify restartPolicy when restart rules are used");
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.too_many(&path, rules.len(), 20);
    }
    for (index, rule) in rules.iter().enumerate() {
        restart_rule(errors, rule, &path.index(index));
    }
}

fn restart_rule(errors: &mut Errors, rule: &ContainerRestartRule, path: &Path<'_>) {
    errors.required_one_of(&path.child("action"), Some(&rule.action), &["Restart"]);
    let path = path.child("exitCodes");
    let Some(codes) = &rule.exit_codes else {
        errors.required(&path, "must be specified");
        return;
    };
    errors.required_one_of(&path.child("operator"), Some(&codes.operator), &["In", "NotIn"]);
    let values = list(&codes.values);
    if values.is_empty() {
        let detail = "at least one exit code must be specified";
        errors.invalid(&path.child("values"), json(values), detail);
    }
    if values.len() > 255 {
        errors.too_many(&path.child("values"), values.len(), 255);
    }
}
