//! Keys of the catalogue's kinds.

use skiff_api::catalogue::Resource;

use crate::keys;

/// The prefix of a kind's objects in one namespace; all of them when the
/// namespace is empty or the kind has none.
pub(crate) fn collection(resource: &Resource, namespace: &str) -> String {
    let namespace = if resource.namespaced { namespace } else { "" };
    keys::prefix(resource.group, resource.plural, namespace)
}

/// The key of one object.
pub(crate) fn object(resource: &Resource, namespace: &str, name: &str) -> String {
    let namespace = if resource.namespaced { namespace } else { "" };
    keys::object(resource.group, resource.plural, namespace, name)
}

/// The key of a namespace.
pub(crate) fn namespace(name: &str) -> String {
    keys::object("", "namespaces", "", name)
}
