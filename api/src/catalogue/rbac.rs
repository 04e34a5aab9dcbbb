//! Roles and their bindings.

use k8s_openapi::api::rbac::v1 as k;

use super::{Resource, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const RBAC: Resource = Resource {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::ClusterRoleBinding>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        behaviour: &Typed::<k::ClusterRoleBinding> {
            default: Some(defaults::cluster_role_binding),
            validate: Some(validation::cluster_role_binding_create),
            validate_update: Some(validation::cluster_role_binding_update),
            printer: &table::ROLE_BINDING,
            ..Typed::PLAIN
        },
        ..RBAC
    },
    Resource {
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        behaviour: &Typed::<k::ClusterRole> {
            validate: Some(validation::cluster_role_create),
            validate_update: Some(validation::cluster_role_update),
            printer: &table::NAME_AND_CREATION,
            ..Typed::PLAIN
        },
        ..RBAC
    },
    Resource {
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        behaviour: &Typed::<k::RoleBinding> {
            default: Some(defaults::role_binding),
            validate: Some(validation::role_binding_create),
            validate_update: Some(validation::role_binding_update),
            printer: &table::ROLE_BINDING,
            ..Typed::PLAIN
        },
        ..RBAC
    },
    Resource {
        kind: "Role",
        plural: "roles",
        singular: "role",
        behaviour: &Typed::<k::Role> {
            validate: Some(validation::role_create),
            validate_update: Some(validation::role_update),
            printer: &table::NAME_AND_CREATION,
            ..Typed::PLAIN
        },
        ..RBAC
    },
];
