//! Namespaces, nodes and service accounts.

use k8s_openapi::api::core::v1::{Namespace, Node, NodeSpec, ServiceAccount};

use super::meta::{
    MetaRules, check_create, check_update, finalizers, generic_create, generic_update,
};
use super::path::{Errors, Path, json, list, or_default, text};
use super::{names, resources, scheduling};
use crate::catalogue::{FieldError, Part};

const NAMESPACE_META: MetaRules = MetaRules::cluster(names::label_name);
const NODE_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const META: MetaRules = MetaRules::namespaced(names::subdomain_name);

/// Checks a new Namespace.
pub fn namespace_create(namespace: &Namespace) -> Vec<FieldError> {
    check_create(&namespace.metadata, NAMESPACE_META, |errors| spec_finalizers(errors, namespace))
}

/// Checks an update of a Namespace: its phase says whether it is going.
pub fn namespace_update(new: &Namespace, old: &Namespace, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| match part {
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
        Part::Main | Part::Other(_) => spec_finalizers(errors, new),
    })
}

fn spec_finalizers(errors: &mut Errors, namespace: &Namespace) {
    if let Some(spec) = &namespace.spec {
        finalizers(errors, list(&spec.finalizers), &Path::root("spec.finalizers"));
    }
}

/// Checks a new Node.
pub fn node_create(node: &Node) -> Vec<FieldError> {
    check_create(&node.metadata, NODE_META, |errors| node_rules(errors, node))
}

/// Checks an update of a Node: its pods' network, once given, stays.
pub fn node_update(new: &Node, old: &Node, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        node_rules(errors, new);
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
    })
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
    generic_create(&account.metadata, META)
}

/// Checks an update of a ServiceAccount.
pub fn service_account_update(
    new: &ServiceAccount,
    old: &ServiceAccount,
    _part: Part,
) -> Vec<FieldError> {
    generic_update(&new.metadata, &old.metadata)
}
