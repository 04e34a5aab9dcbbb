//! Pods: what a new one must be, and the little that may change later.

use k8s_openapi::api::core::v1::{
    Binding, Container, ContainerStatus, Pod, PodSpec, PodTemplate, Toleration,
};

use super::meta::{MetaRules, check_create, check_update};
use super::path::{Errors, Path, json, list, text};
use super::{names, pod_spec, resources, scheduling};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What an update may change, as the message has it that refuses the rest.
const UPDATABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a new Pod.
pub fn pod_create(pod: &Pod) -> Vec<FieldError> {
    check_create(&pod.metadata, META, |errors| {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        mirror_annotation(errors, pod, spec);
        let path = Path::root("spec");
        pod_spec::spec(errors, spec, &path);
        // Templates of old may hold a blank image that somebody fills in later.
        image_whitespace(errors, &spec.containers, &path.child("containers"));
        image_whitespace(errors, list(&spec.init_containers), &path.child("initContainers"));
        if !list(&spec.ephemeral_containers).is_empty() {
            let detail = "cannot be set on create";
            errors.forbidden(&path.child("ephemeralContainers"), detail);
        }
        if !list(&spec.scheduling_gates).is_empty() && !text(&spec.node_name).is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.forbidden(&path.child("nodeName"), detail);
        }
    })
}

/// Checks a new PodTemplate.
pub fn pod_template_create(object: &PodTemplate) -> Vec<FieldError> {
    check_create(&object.metadata, META, |errors| {
        if let Some(template) = &object.template {
            pod_spec::template(errors, template, &Path::root("template"));
        }
    })
}

/// Checks an update of a PodTemplate.
pub fn pod_template_update(new: &PodTemplate, old: &PodTemplate, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if let Some(template) = &new.template {
            pod_spec::template(errors, template, &Path::root("template"));
        }
    })
}

/// Checks the assignment of a pod to a node.
pub fn binding_create(binding: &Binding) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let target = Path::root("target");
    let kind = text(&binding.target.kind);
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    if text(&binding.target.name).is_empty() {
        errors.required(&target.child("name"), "");
    }
    errors.into_vec()
}

/// Checks an update of a Pod, or of the part of it that a subresource edits.
pub fn pod_update(new: &Pod, old: &Pod, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        let none = PodSpec::default();
        let new_spec = new.spec.as_ref().unwrap_or(&none);
        let old_spec = old.spec.as_ref().unwrap_or(&none);
        match part {
            Part::Status => status(errors, new, old, old_spec),
            Part::Other("ephemeralcontainers") => ephemeral(errors, new_spec, old_spec),
            Part::Other("resize") => resize(errors, new_spec, old_spec),
            // A binding sets the node name, which the main resource must not.
            Part::Other(_) => {}
            Part::Main => main(errors, new, old, new_spec, old_spec),
        }
    })
}

fn mirror_annotation(errors: &mut Errors, pod: &Pod, spec: &PodSpec) {
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(value) = annotations.and_then(|annotations| annotations.get(MIRROR_ANNOTATION))
        && text(&spec.node_name).is_empty()
    {
        let path = Path::root("metadata.annotations");
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR_ANNOTATION), value.as_str(), detail);
    }
}

fn image_whitespace(errors: &mut Errors, containers: &[Container], path: &Path<'_>) {
    for (index, container) in containers.iter().enumerate() {
        let image = text(&container.image);
        if image.trim() != image {
            let detail = "must not have leading or trailing whitespace";
            errors.invalid(&path.index(index).child("image"), image, detail);
        }
    }
}

fn main(errors: &mut Errors, new: &Pod, old: &Pod, new_spec: &PodSpec, old_spec: &PodSpec) {
    mirror_annotation_kept(errors, new, old);
    let path = Path::root("spec");
    let before = errors.len();
    images(errors, &new_spec.containers, &old_spec.containers, &path.child("containers"));
    images(
        errors,
        list(&new_spec.init_containers),
        list(&old_spec.init_containers),
        &path.child("initContainers"),
    );
    deadline(errors, new_spec, old_spec, &path.child("activeDeadlineSeconds"));
    if errors.len() > before {
        return;
    }
    let (new_tolerations, old_tolerations) =
        (list(&new_spec.tolerations), list(&old_spec.tolerations));
    added_tolerations(errors, new_tolerations, old_tolerations, &path.child("tolerations"));
    gates(errors, new_spec, old_spec, &path);

    // What may change is set back; then nothing must differ.
    let mut rest = new_spec.clone();
    restore_images(&mut rest.containers, &old_spec.containers);
    restore_images(
        rest.init_containers.as_deref_mut().unwrap_or_default(),
        list(&old_spec.init_containers),
    );
    rest.active_deadline_seconds = old_spec.active_deadline_seconds;
    rest.tolerations.clone_from(&old_spec.tolerations);
    rest.scheduling_gates.clone_from(&old_spec.scheduling_gates);
    if !list(&old_spec.scheduling_gates).is_empty() {
        // Nobody has looked at these yet; only making them stricter is safe.
        if narrows(new_spec, old_spec) {
            rest.node_selector.clone_from(&old_spec.node_selector);
        }
    }
    if old_spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && new_spec.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old_spec.termination_grace_period_seconds;
    }
    if rest != *old_spec {
        errors.forbidden(&path, format!("{UPDATABLE}\n{}", difference(&rest, old_spec)));
    }
}

fn mirror_annotation_kept(errors: &mut Errors, new: &Pod, old: &Pod) {
    let value = |pod: &Pod| pod.metadata.annotations.as_ref()?.get(MIRROR_ANNOTATION).cloned();
    let detail = match (value(new), value(old)) {
        (new, old) if new == old => return,
        (_, None) => "may not add mirror pod annotation",
        (_, Some(_)) => "may not remove or update mirror pod annotation",
    };
    errors.forbidden(&Path::root("metadata.annotations").key(MIRROR_ANNOTATION), detail);
}

fn images(errors: &mut Errors, new: &[Container], old: &[Container], path: &Path<'_>) {
    if new.len() != old.len() {
        errors.forbidden(path, "pod updates may not add or remove containers");
        return;
    }
    for (index, container) in new.iter().enumerate() {
        if text(&container.image).is_empty() {
            errors.required(&path.index(index).child("image"), "");
        }
    }
    image_whitespace(errors, new, path);
}

fn restore_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// A deadline may be set, and brought nearer.
fn deadline(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path<'_>) {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), old) => {
            errors.in_range(path, new, 0, i64::from(i32::MAX));
            if old.is_some_and(|old| old < new) {
                errors.invalid(path, new, "must be less than or equal to previous value");
            }
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(path, serde_json::Value::Null, detail);
        }
        (None, None) => {}
    }
}

fn added_tolerations(errors: &mut Errors, new: &[Toleration], old: &[Toleration], path: &Path<'_>) {
    let same = |left: &Toleration, right: &Toleration| {
        (&left.key, &left.operator, &left.value, &left.effect)
            == (&right.key, &right.operator, &right.value, &right.effect)
    };
    if old.iter().any(|old| !new.iter().any(|new| same(new, old))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(path, detail);
    } else {
        scheduling::tolerations(errors, new, path);
    }
}

/// Scheduling gates can only be lifted.
fn gates(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path<'_>) {
    let old = list(&old.scheduling_gates);
    for gate in list(&new.scheduling_gates) {
        if !old.contains(gate) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.forbidden(&path.child("schedulingGates"), detail);
        }
    }
}

/// Whether the new node selector asks for all that the old one did.
fn narrows(new: &PodSpec, old: &PodSpec) -> bool {
    let new = new.node_selector.as_ref();
    old.node_selector
        .iter()
        .flatten()
        .all(|(key, value)| new.is_some_and(|new| new.get(key) == Some(value)))
}

/// The fields in which two specifications differ, each with its two values.
fn difference(new: &PodSpec, old: &PodSpec) -> String {
    let (new, old) = (json(new), json(old));
    let empty = serde_json::Map::new();
    let (new, old) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    let mut lines = Vec::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        if new.get(name) == old.get(name) {
            continue;
        }
        for (sign, value) in [("-", old.get(name)), ("+", new.get(name))] {
            if let Some(value) = value {
                lines.push(format!("{sign} {name}: {value}"));
            }
        }
    }
    lines.join("\n")
}

fn status(errors: &mut Errors, new: &Pod, old: &Pod, old_spec: &PodSpec) {
    let path = Path::root("status");
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    if node(new) != node(old) {
        errors.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let (Some(new), Some(old)) = (&new.status, &old.status) else { return };
    let nominated = text(&new.nominated_node_name);
    if !nominated.is_empty() && nominated != text(&old.nominated_node_name) {
        let messages = names::dns1123_subdomain(nominated);
        errors.invalid_each(&path.child("nominatedNodeName"), nominated, messages);
    }
    let ips = path.child("podIPs");
    for (index, ip) in list(&new.pod_ips).iter().enumerate() {
        errors.invalid_each(&ips.index(index), &ip.ip, names::ip(&ip.ip));
    }
    let policy = text(&old_spec.restart_policy);
    stays_terminated(
        errors,
        list(&new.container_statuses),
        list(&old.container_statuses),
        &old_spec.containers,
        policy,
        &path.child("containerStatuses"),
    );
    // Init containers of a pod that restarts are run again until they succeed.
    stays_terminated(
        errors,
        list(&new.init_container_statuses),
        list(&old.init_container_statuses),
        list(&old_spec.init_containers),
        policy,
        &path.child("initContainerStatuses"),
    );
}

/// A container that has ended for good stays ended.
fn stays_terminated(
    errors: &mut Errors,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    containers: &[Container],
    pod_policy: &str,
    path: &Path<'_>,
) {
    for (index, old) in old.iter().enumerate() {
        let ended = old.state.as_ref().and_then(|state| state.terminated.as_ref());
        let Some(ended) = ended else { continue };
        let own = containers.iter().find(|container| container.name == old.name);
        let has_rules = own.is_some_and(|own| !list(&own.restart_policy_rules).is_empty());
        let policy = own.and_then(|own| own.restart_policy.as_deref()).unwrap_or(pod_policy);
        if has_rules || policy == "Always" || (policy == "OnFailure" && ended.exit_code != 0) {
            continue;
        }
        let revived = new.iter().any(|new| {
            new.name == old.name
                && new.state.as_ref().is_none_or(|state| state.terminated.is_none())
        });
        if revived {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(&path.index(index).child("state"), detail);
        }
    }
}

/// Ephemeral containers can be added, not changed or taken away.
fn ephemeral(errors: &mut Errors, new: &PodSpec, old: &PodSpec) {
    let root = Path::root("spec");
    super::container::ephemeral_containers(errors, new, &root.child("ephemeralContainers"));
    let path = root.child("ephemeralContainers");
    for old in list(&old.ephemeral_containers) {
        let kept = list(&new.ephemeral_containers).iter().find(|new| new.name == old.name);
        match kept {
            None => {
                let detail =
                    format!("existing ephemeral containers {:?} may not be removed", old.name);
                errors.forbidden(&path, detail);
            }
            Some(new) if new != old => {
                let detail =
                    format!("existing ephemeral containers {:?} may not be changed", old.name);
                errors.forbidden(&path, detail);
            }
            Some(_) => {}
        }
    }
}

/// A resize changes the CPU and memory of containers and nothing else.
fn resize(errors: &mut Errors, new: &PodSpec, old: &PodSpec) {
    let path = Path::root("spec");
    let all = same_containers(errors, &new.containers, &old.containers, "containers");
    let (new_init, old_init) = (list(&new.init_containers), list(&old.init_containers));
    if !same_containers(errors, new_init, old_init, "initContainers") || !all {
        return;
    }
    pod_spec::spec(errors, new, &path);
    let mut rest = new.clone();
    let new_init = rest.init_containers.as_deref_mut().unwrap_or_default();
    for (new, old) in new_init.iter_mut().zip(old_init) {
        if old.restart_policy.as_deref() == Some("Always") {
            kept(errors, new, old, &path);
            restore_resizable(new, old);
        } else if new != old {
            let detail = "resources for non-sidecar init containers are immutable";
            errors.forbidden(&path, detail);
            new.clone_from(old);
        }
    }
    for (new, old) in rest.containers.iter_mut().zip(&old.containers) {
        kept(errors, new, old, &path);
        restore_resizable(new, old);
    }
    rest.resources.clone_from(&old.resources);
    if rest != *old {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
    if resources::qos_class(new) != resources::qos_class(old) {
        let class = resources::qos_class(new);
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
}

/// Whether a resize is of the containers that there are.
fn same_containers(errors: &mut Errors, new: &[Container], old: &[Container], what: &str) -> bool {
    let spec = Path::root("spec");
    let path = spec.child(what);
    if new.len() != old.len() {
        errors.forbidden(&path, format!("{what} may not be added or removed on resize"));
        return false;
    }
    let mut same = true;
    for (index, (new, old)) in new.iter().zip(old).enumerate() {
        if new.name != old.name {
            let detail = format!("{what} may not be renamed or reordered on resize");
            errors.forbidden(&path.index(index).child("name"), detail);
            same = false;
        }
    }
    same
}

/// An amount may change and be added; the kernel's way back to none is not one
/// that every runtime knows.
fn kept(errors: &mut Errors, new: &Container, old: &Container, path: &Path<'_>) {
    let none = Default::default();
    let new = new.resources.as_ref().unwrap_or(&none);
    let old = old.resources.as_ref().unwrap_or(&none);
    let lists = [("limits", &new.limits, &old.limits), ("requests", &new.requests, &old.requests)];
    for (what, new, old) in lists {
        let gone = old.iter().flat_map(|old| old.keys()).any(|name| {
            matches!(name.as_str(), "cpu" | "memory")
                && new.as_ref().is_none_or(|new| !new.contains_key(name))
        });
        if gone {
            errors.forbidden(path, format!("resource {what} cannot be removed"));
        }
    }
}

fn restore_resizable(new: &mut Container, old: &Container) {
    new.resize_policy.clone_from(&old.resize_policy);
    let Some(resources) = &mut new.resources else {
        new.resources.clone_from(&old.resources);
        return;
    };
    let none = Default::default();
    let old = old.resources.as_ref().unwrap_or(&none);
    for (new, old) in
        [(&mut resources.limits, &old.limits), (&mut resources.requests, &old.requests)]
    {
        for name in ["cpu", "memory"] {
            match old.as_ref().and_then(|old| old.get(name)) {
                Some(quantity) => {
                    new.get_or_insert_default().insert(name.to_owned(), quantity.clone());
                }
                None => {
                    if let Some(new) = new {
                        new.remove(name);
                    }
                }
            }
        }
        if old.is_none() && new.as_ref().is_some_and(|new| new.is_empty()) {
            *new = None;
        }
    }
}
