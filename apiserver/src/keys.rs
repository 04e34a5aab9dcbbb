//! Where things live in the store.
//!
//! Objects: `/{group or "core"}/{plural}/{namespace}/{name}`, cluster-scoped
//! ones without the namespace. Names and namespaces hold no `/` (validation
//! sees to it), so the keys of a collection are exactly those with its prefix.

use skiff_store::KeyRange;

/// The prefix of a kind's objects in one namespace; of all of them when the
/// namespace is empty.
pub fn prefix(group: &str, resource: &str, namespace: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    let mut key = String::with_capacity(group.len() + resource.len() + namespace.len() + 64);
    for part in [group, resource, namespace] {
        if !part.is_empty() {
            key.push('/');
            key.push_str(part);
        }
    }
    key.push('/');
    key
}

/// The key of one object; `namespace` is empty for cluster-scoped kinds.
pub fn object(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let mut key = prefix(group, resource, namespace);
    key.push_str(name);
    key
}

/// The keys of a collection.
pub fn range(group: &str, resource: &str, namespace: &str) -> KeyRange {
    KeyRange::prefix(&prefix(group, resource, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_documented() {
        assert_eq!(object("", "pods", "default", "a"), "/core/pods/default/a");
        assert_eq!(object("apps", "deployments", "x", "y"), "/apps/deployments/x/y");
        assert_eq!(object("", "nodes", "", "n"), "/core/nodes/n");
        assert_eq!(prefix("", "pods", ""), "/core/pods/");
        assert!(range("", "pods", "a").contains("/core/pods/a/x"));
        assert!(!range("", "pods", "a").contains("/core/pods/ab/x"));
    }
}
