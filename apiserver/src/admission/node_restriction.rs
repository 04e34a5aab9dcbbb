//! NodeRestriction: a node writes about itself and its pods and nothing else.
//!
//! The Node authorizer decides which kinds a node may write at all; here the
//! contents are looked at.

use serde_json::Value;

use super::{Attributes, Context, Operation, Plugin, items};
use crate::authz::node::{node_name, refers_to_objects};
use crate::status::ApiError;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

pub(super) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let Some(node) = node_name(request.user) else { return Ok(()) };
        let checked = match (request.info.api_group.as_str(), request.info.resource.as_str()) {
            ("", "pods") => pod(context, request, node, object),
            ("", "nodes") => check_node(request, node, object),
            ("", "serviceaccounts") if request.info.subresource == "token" => {
                token(context, request, node, object)
            }
            ("coordination.k8s.io", "leases") => {
                own(request.info.namespace == LEASES && request.info.name == node, || {
                    "can only access node lease with the same name as the requesting node".into()
                })
            }
            ("storage.k8s.io", "csinodes") => own(request.info.name == node, || {
                "can only access CSINode with the same name as the requesting node".into()
            }),
            _ => Ok(()),
        };
        checked.map_err(|why| request.forbidden(why))
    }
}

fn own(yes: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if yes { Ok(()) } else { Err(why()) }
}

fn pod(
    context: &Context,
    request: &Attributes<'_>,
    node: &str,
    object: &Value,
) -> Result<(), String> {
    let own_pod = |pod: &Value| pod["spec"]["nodeName"] == node;
    match (request.operation, request.info.subresource.as_str()) {
        (Operation::Create, "") => mirror_pod(object, node),
        (Operation::Create, "eviction") => {
            let (namespace, name) = (&request.info.namespace, &request.info.name);
            let known = context.objects.get("", "pods", namespace, name);
            own(known.as_ref().is_some_and(own_pod), || {
                format!("node {node:?} can only evict pods with spec.nodeName set to itself")
            })
        }
        (Operation::Update, "status") => {
            let old = request.old.unwrap_or(&Value::Null);
            own(own_pod(old), || {
                format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                )
            })?;
            // A pod that stops being a mirror would count as the node's own.
            let mirror = |pod: &Value| pod["metadata"]["annotations"][MIRROR].clone();
            own(mirror(old) == mirror(object), || {
                format!("node {node:?} cannot change {MIRROR:?} through pod status")
            })?;
            own(old["metadata"]["labels"] == object["metadata"]["labels"], || {
                format!("node {node:?} cannot update labels through pod status")
            })
        }
        (Operation::Delete, "") => own(own_pod(object), || {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }),
        (operation, subresource) => {
            Err(format!("unexpected operation {operation:?} on pods/{subresource}"))
        }
    }
}

fn mirror_pod(pod: &Value, node: &str) -> Result<(), String> {
    own(pod["metadata"]["annotations"][MIRROR].is_string(), || {
        format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )
    })?;
    own(pod["spec"]["nodeName"] == node, || {
        format!("node {node:?} can only create pods with spec.nodeName set to itself")
    })?;
    for owner in items(&pod["metadata"]["ownerReferences"]) {
        own(
            owner["kind"] == "Node" && owner["name"] == node && owner["controller"] == true,
            || format!("node {node:?} can only create pods with an owner reference set to itself"),
        )?;
    }
    let projects = items(&pod["spec"]["volumes"]).any(|volume| volume["projected"].is_object());
    own(!projects && !refers_to_objects(pod), || {
        format!("node {node:?} can not create pods that reference API objects")
    })
}

fn check_node(request: &Attributes<'_>, node: &str, object: &Value) -> Result<(), String> {
    let name = &request.info.name;
    own(name == node, || format!("node {node:?} is not allowed to modify node {name:?}"))?;
    let old = request.old.unwrap_or(&Value::Null);
    match request.operation {
        Operation::Create => {}
        Operation::Update => {
            own(taints(old) == taints(object), || {
                format!("node {node:?} is not allowed to modify taints")
            })?;
            own(
                old["metadata"]["ownerReferences"] == object["metadata"]["ownerReferences"],
                || format!("node {node:?} is not allowed to modify ownerReferences"),
            )?;
        }
        operation => return Err(format!("unexpected operation {operation:?}")),
    }
    let forbidden: Vec<String> =
        changed_labels(old, object).into_iter().filter(|label| !may_label_itself(label)).collect();
    own(forbidden.is_empty(), || {
        format!("is not allowed to modify labels: {}", forbidden.join(", "))
    })
}

fn taints(node: &Value) -> Vec<&Value> {
    items(&node["spec"]["taints"]).collect()
}

fn changed_labels(old: &Value, new: &Value) -> Vec<String> {
    let (old, new) = (&old["metadata"]["labels"], &new["metadata"]["labels"]);
    let keys = |labels: &Value| -> Vec<String> {
        labels.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let mut changed: Vec<String> = keys(old)
        .into_iter()
        .chain(keys(new))
        .filter(|key| old[key.as_str()] != new[key.as_str()])
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

/// Labels under Kubernetes' own domains steer where pods go. A node sets the
/// ones that describe the machine and must not claim others, such as a role.
fn may_label_itself(label: &str) -> bool {
    let Some((prefix, _)) = label.split_once('/') else { return true };
    if prefix == "node-restriction.kubernetes.io"
        || prefix.ends_with(".node-restriction.kubernetes.io")
    {
        return false;
    }
    let kubernetes = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|domain| prefix == *domain || prefix.ends_with(&format!(".{domain}")));
    let open = ["kubelet.kubernetes.io", "node.kubernetes.io"]
        .iter()
        .any(|open| prefix == *open || prefix.ends_with(&format!(".{open}")));
    !kubernetes
        || open
        || matches!(
            label,
            "kubernetes.io/hostname"
                | "kubernetes.io/arch"
                | "kubernetes.io/os"
                | "beta.kubernetes.io/arch"
                | "beta.kubernetes.io/os"
                | "beta.kubernetes.io/instance-type"
                | "topology.kubernetes.io/region"
                | "topology.kubernetes.io/zone"
                | "failure-domain.beta.kubernetes.io/region"
                | "failure-domain.beta.kubernetes.io/zone"
        )
}

/// A node gets tokens for its own pods' accounts, bound to the pod.
fn token(
    context: &Context,
    request: &Attributes<'_>,
    node: &str,
    review: &Value,
) -> Result<(), String> {
    let bound = &review["spec"]["boundObjectRef"];
    let uid = bound["uid"].as_str().unwrap_or_default();
    own(bound["kind"] == "Pod" && bound["apiVersion"] == "v1" && !uid.is_empty(), || {
        format!("node {node:?} can only request tokens bound to a pod, by its uid")
    })?;
    let name = bound["name"].as_str().unwrap_or_default();
    let pod = context.objects.get("", "pods", &request.info.namespace, name);
    let fits = pod.as_ref().is_some_and(|pod| {
        pod["metadata"]["uid"] == uid
            && pod["spec"]["nodeName"] == node
            && pod["spec"]["serviceAccountName"] == request.info.name.as_str()
    });
    own(fits, || format!("node {node:?} requested token bound to a pod that is not its own"))
}
