//! Role bindings.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};

use super::fill_text;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Fills in a RoleBinding.
pub fn role_binding(binding: &mut RoleBinding) {
    binding_parts(&mut binding.role_ref, &mut binding.subjects);
}

/// Fills in a ClusterRoleBinding.
pub fn cluster_role_binding(binding: &mut ClusterRoleBinding) {
    binding_parts(&mut binding.role_ref, &mut binding.subjects);
}

/// Roles, users and groups are of the RBAC group; ServiceAccounts of the core
/// group, whose name is empty.
fn binding_parts(role: &mut RoleRef, subjects: &mut Option<Vec<Subject>>) {
    if role.api_group.is_empty() {
        role.api_group = GROUP.to_owned();
    }
    for subject in subjects.iter_mut().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            fill_text(&mut subject.api_group, GROUP);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_filled_in() {
        let mut binding: RoleBinding = serde_json::from_value(json!({
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}],
        }))
        .unwrap();
        role_binding(&mut binding);
        assert_eq!(binding.role_ref.api_group, GROUP);
        let groups: Vec<_> =
            binding.subjects.unwrap().into_iter().map(|subject| subject.api_group).collect();
        assert_eq!(groups, [Some(GROUP.to_owned()), None]);
    }
}
