//! The labels that make a container part of a pod, and the way back.

use std::collections::BTreeMap;

/// Which installation on this machine: the first 8 hex digits of the SHA-256
/// of the data directory's path.
pub const INSTANCE: &str = "skiff.instance";
/// Which node of it.
pub const NODE: &str = "skiff.node";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "skiff.pod.namespace";
/// The pod's name.
pub const POD_NAME: &str = "skiff.pod.name";
/// The pod's UID.
pub const POD_UID: &str = "skiff.pod.uid";
/// The container's name in the pod, or [`SANDBOX`].
pub const CONTAINER: &str = "skiff.container";
/// How many containers of this name the pod had before.
pub const ATTEMPT: &str = "skiff.attempt";
/// How many restarts in a row came before, without ten quiet minutes.
pub const CRASHES: &str = "skiff.crashes";
/// Which of the pod's sandboxes the container joined.
pub const SANDBOX_ATTEMPT: &str = "skiff.sandbox-attempt";
/// Hash of the container's part of the pod spec.
pub const SPEC_HASH: &str = "skiff.spec-hash";

/// The devices of all containers of the pod, as JSON; see [`crate::devices`].
pub const DEVICES: &str = "skiff.devices";

/// What the status says of the container's image, which may have other names
/// later.
pub const IMAGE: &str = "skiff.image";

/// The handler of the pod's RuntimeClass, on its sandbox.
pub const HANDLER: &str = "skiff.handler";

/// Value of [`CONTAINER`] for the container that holds a pod's namespaces. A
/// slash cannot occur in a container's name.
pub const SANDBOX: &str = "/sandbox";

/// The labels by which one agent knows its own containers.
pub fn of_node(instance: &str, node: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(INSTANCE.into(), instance.into()), (NODE.into(), node.into())])
}

/// The labels by which the containers of one name in one pod are found.
pub fn of_container(
    instance: &str,
    node: &str,
    namespace: &str,
    pod: &str,
    container: &str,
) -> BTreeMap<String, String> {
    let mut labels = of_node(instance, node);
    labels.insert(POD_NAMESPACE.into(), namespace.into());
    labels.insert(POD_NAME.into(), pod.into());
    labels.insert(CONTAINER.into(), container.into());
    labels
}
