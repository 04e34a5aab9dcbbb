//! Namespaces, nodes, service accounts and events.

use k8s_openapi::api::core::v1::{Event, Namespace, Node, NodeSpec, ServiceAccount};
use k8s_openapi::api::events::v1::Event as EventV1;

use super::meta::{MetaRules, finalizers, object_meta, object_meta_update};
use super::path::{Errors, Path, json, list, or_default, text};
use super::{names, resources, scheduling};
use crate::catalogue::{FieldError, Part};

const NAMESPACE_META: MetaRules = MetaRules::cluster(names::label_name);
const NODE_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const META: MetaRules = MetaRules::namespaced(names::subdomain_name);

/// Checks a new Namespace.
pub fn namespace_create(namespace: &Namespace) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &namespace.metadata, NAMESPACE_META);
    spec_finalizers(&mut errors, namespace);
    errors.into_vec()
}

/// Checks an update of a Namespace: its phase says whether it is going.
pub fn namespace_update(new: &Namespace, old: &Namespace, part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    match part {
        Part::Status => {
            let phase = new.status.as_ref().map(|status| text(&status.phase)).unwrap_or_default();
            let path = Path::root("status.phase");
            if new.metadata.deletion_timestamp.is_none() {
                if phase != "Active" {
                    let detail = "may only be 'Active' if `deletionTimestamp` is empty";
                    errors.invalid(&path, phase, detail);
                }
            } else if phase != "Terminating" {
                let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
                errors.invalid(&path, phase, detail);
            }
        }
        Part::Main | Part::Other(_) => spec_finalizers(&mut errors, new),
    }
    errors.into_vec()
}

fn spec_finalizers(errors: &mut Errors, namespace: &Namespace) {
    if let Some(spec) = &namespace.spec {
        finalizers(errors, list(&spec.finalizers), &Path::root("spec.finalizers"));
    }
}

/// Checks a new Node.
pub fn node_create(node: &Node) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &node.metadata, NODE_META);
    node_rules(&mut errors, node);
    errors.into_vec()
}

/// Checks an update of a Node: its pods' network, once given, stays.
pub fn node_update(new: &Node, old: &Node, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    node_rules(&mut errors, new);
    let (new, old) = (or_default(&new.spec), or_default(&old.spec));
    let path = Path::root("spec");
    let assigned = pod_cidrs(&old);
    if !assigned.is_empty() && pod_cidrs(&new) != assigned {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path.child("podCIDRs"), detail);
    }
    if !text(&old.provider_id).is_empty() && new.provider_id != old.provider_id {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&path.child("providerID"), detail);
    }
    errors.into_vec()
}

/// The networks of a node's pods, which may stand in either of two fields.
fn pod_cidrs(spec: &NodeSpec) -> Vec<&str> {
    match list(&spec.pod_cidrs) {
        [] => spec.pod_cidr.iter().map(String::as_str).filter(|cidr| !cidr.is_empty()).collect(),
        cidrs => cidrs.iter().map(String::as_str).collect(),
    }
}

fn node_rules(errors: &mut Errors, node: &Node) {
    let path = Path::root("spec");
    if let Some(spec) = &node.spec {
        scheduling::taints(errors, list(&spec.taints), &path.child("taints"));
        let cidrs = path.child("podCIDRs");
        for (index, cidr) in list(&spec.pod_cidrs).iter().enumerate() {
            errors.invalid_each(&cidrs.index(index), cidr, names::cidr(cidr));
            if index > 1 {
                let detail = "may specify no more than one CIDR for each IP family";
                errors.invalid(&cidrs, json(list(&spec.pod_cidrs)), detail);
            }
        }
        let (first, mirrored) = (list(&spec.pod_cidrs).first(), text(&spec.pod_cidr));
        if first.is_some_and(|first| first != mirrored) {
            errors.invalid(&cidrs, json(list(&spec.pod_cidrs)), "must match `podCIDR`");
        }
    }
    let Some(status) = &node.status else { return };
    let path = Path::root("status");
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = path.child(field);
        for (name, quantity) in amounts.iter().flatten() {
            resources::amount(errors, name, quantity, &path.key(name));
        }
    }
    let addresses = path.child("addresses");
    let given = list(&status.addresses);
    for (index, address) in given.iter().enumerate() {
        if given[..index].contains(address) {
            errors.duplicate(&addresses.index(index), json(address));
        }
    }
}

/// Checks a new ServiceAccount.
pub fn service_account_create(account: &ServiceAccount) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &account.metadata, META);
    errors.into_vec()
}

/// Checks an update of a ServiceAccount.
pub fn service_account_update(
    new: &ServiceAccount,
    old: &ServiceAccount,
    _part: Part,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    errors.into_vec()
}

/// Checks a new Event of the core group. It has to live beside what it is
/// about; events about objects of the whole cluster live in `default`.
pub fn event_create(event: &Event) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &event.metadata, META);
    let namespace = text(&event.metadata.namespace);
    let about = text(&event.involved_object.namespace);
    let path = Path::root("involvedObject.namespace");
    if about.is_empty() {
        if !matches!(namespace, "" | "default" | "kube-system") {
            errors.invalid(&path, about, "does not match event.namespace");
        }
    } else if about != namespace {
        errors.invalid(&path, about, "does not match event.namespace");
    }
    errors.into_vec()
}

/// Checks an update of an Event of the core group.
pub fn event_update(new: &Event, old: &Event, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    errors.into_vec()
}

/// Checks a new Event of `events.k8s.io`, which asks for more than the old one.
pub fn event_v1_create(event: &EventV1) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &event.metadata, META);
    let namespace = text(&event.metadata.namespace);
    let about = event.regarding.as_ref().map(|object| text(&object.namespace)).unwrap_or_default();
    if !about.is_empty() && about != namespace
        || about.is_empty() && !matches!(namespace, "default" | "kube-system")
    {
        let path = Path::root("involvedObject.namespace");
        errors.invalid(&path, about, "does not match event.namespace");
    }
    if event.event_time.is_none() {
        errors.required(&Path::root("eventTime"), "");
    }
    for (field, value, max) in [
        ("reportingController", &event.reporting_controller, 253),
        ("reportingInstance", &event.reporting_instance, 128),
        ("action", &event.action, 128),
        ("reason", &event.reason, 128),
    ] {
        let path = Path::root(field);
        let value = text(value);
        if value.is_empty() {
            errors.required(&path, "");
        } else if field == "reportingController" {
            errors.invalid_each(&path, value, names::qualified_name(value));
        }
        if value.len() > max {
            errors.invalid(&path, value, format!("can have at most {max} characters"));
        }
    }
    if text(&event.note).len() > 1024 {
        errors.invalid(
            &Path::root("message"),
            text(&event.note),
            "can have at most 1024 characters",
        );
    }
    errors.one_of(&Path::root("type"), Some(text(&event.type_)), &["Normal", "Warning"]);
    errors.into_vec()
}

/// Checks an update of an Event of `events.k8s.io`.
pub fn event_v1_update(new: &EventV1, old: &EventV1, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    errors.into_vec()
}
