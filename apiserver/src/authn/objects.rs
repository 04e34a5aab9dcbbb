//! Single live objects for decisions: read from the store's newest snapshot,
//! without a request of their own.

use std::sync::Arc;

use serde_json::Value;
use skiff_store::{Entry, KeyRange, Store};

/// Reads objects by name. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Store,
}

impl Objects {
    /// Reads from `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The store underneath.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The stored entry; `namespace` is empty for cluster-scoped kinds.
    pub fn entry(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Entry>> {
        self.store.snapshot().get(&key(group, resource, namespace, name))
    }

    /// The object itself.
    pub fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.entry(group, resource, namespace, name).and_then(|entry| decode(&entry))
    }

    /// All objects of a kind, in one namespace unless that is empty.
    pub fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value> {
        let snapshot = self.store.snapshot();
        let range = KeyRange::prefix(&key(group, resource, namespace, ""));
        snapshot.range(&range).filter_map(|entry| decode(entry)).collect()
    }
}

/// Where the registry keeps an object; without a name the prefix of a
/// collection. `namespace` is empty for cluster-scoped kinds and for all
/// namespaces.
pub fn key(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    match namespace {
        "" => format!("/{group}/{resource}/{name}"),
        namespace => format!("/{group}/{resource}/{namespace}/{name}"),
    }
}

/// Group, resource, namespace and name of a key.
pub fn split(key: &str) -> Option<(&str, &str, &str, &str)> {
    let mut parts = key.strip_prefix('/')?.split('/');
    let group = match parts.next()? {
        "core" => "",
        group => group,
    };
    match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
        (resource, name, None, None) => Some((group, resource, "", name)),
        (resource, namespace, Some(name), None) => Some((group, resource, namespace, name)),
        _ => None,
    }
}

/// Reads a stored object. The registry writes nothing else, so an entry that
/// does not parse is a bug worth a line in the log and never a panic.
pub fn decode(entry: &Entry) -> Option<Value> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| tracing::error!(key = %entry.key, %error, "stored object is damaged"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_split_into_what_they_were_made_of() {
        for parts in [
            ("", "pods", "a", "b"),
            ("", "nodes", "", "n"),
            ("rbac.authorization.k8s.io", "roles", "a", "r"),
        ] {
            assert_eq!(split(&key(parts.0, parts.1, parts.2, parts.3)), Some(parts));
        }
        assert_eq!(split("/core/pods"), None);
        assert_eq!(split("pods"), None);
    }
}
