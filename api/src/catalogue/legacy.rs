//! Group versions that Kubernetes has dropped and that old manifests still
//! carry. Each is a view of the kind that took its place.
//!
//! They are in no category, so that `kubectl get all` shows an object once, and
//! come last in the catalogue, so that clients prefer the current groups.

use k8s_openapi::api::{
    apps::v1 as apps, batch::v1 as batch, networking::v1 as networking, policy::v1 as policy,
};
use serde_json::Value;

use super::convert::{budget, ingress, workloads};
use super::subresources::{SCALE, SCALE_PATHS, status};
use super::{Legacy, Resource, Typed};

/// For versions that differ in nothing but their name.
fn same(_: &mut Value) {}

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        group: "apps",
        version: "v1beta2",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        subresources: &[status("DaemonSet", "apps", "v1beta2")],
        behaviour: &Typed::<apps::DaemonSet>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "daemonsets"),
            own_type: false,
            warning: Some(
                "apps/v1beta2 DaemonSet is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 DaemonSet",
            ),
            to_current: same,
            from_current: same,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "apps",
        version: "v1beta2",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        subresources: &[SCALE, status("Deployment", "apps", "v1beta2")],
        behaviour: &Typed::<apps::Deployment>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "deployments"),
            own_type: false,
            warning: Some(
                "apps/v1beta2 Deployment is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 Deployment",
            ),
            to_current: same,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "apps",
        version: "v1beta2",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        subresources: &[SCALE, status("ReplicaSet", "apps", "v1beta2")],
        behaviour: &Typed::<apps::ReplicaSet>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "replicasets"),
            own_type: false,
            warning: Some(
                "apps/v1beta2 ReplicaSet is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 ReplicaSet",
            ),
            to_current: same,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "apps",
        version: "v1beta2",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        subresources: &[SCALE, status("StatefulSet", "apps", "v1beta2")],
        behaviour: &Typed::<apps::StatefulSet>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "statefulsets"),
            own_type: false,
            warning: Some(
                "apps/v1beta2 StatefulSet is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 StatefulSet",
            ),
            to_current: same,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "apps",
        version: "v1beta1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        subresources: &[SCALE, status("Deployment", "apps", "v1beta1")],
        behaviour: &Typed::<apps::Deployment>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "deployments"),
            own_type: false,
            warning: Some(
                "apps/v1beta1 Deployment is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 Deployment",
            ),
            to_current: workloads::to_v1,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "apps",
        version: "v1beta1",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        subresources: &[SCALE, status("StatefulSet", "apps", "v1beta1")],
        behaviour: &Typed::<apps::StatefulSet>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "statefulsets"),
            own_type: false,
            warning: Some(
                "apps/v1beta1 StatefulSet is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 StatefulSet",
            ),
            to_current: workloads::to_v1,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "extensions",
        version: "v1beta1",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        subresources: &[status("DaemonSet", "extensions", "v1beta1")],
        behaviour: &Typed::<apps::DaemonSet>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "daemonsets"),
            own_type: false,
            warning: Some(
                "extensions/v1beta1 DaemonSet is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 DaemonSet",
            ),
            to_current: workloads::to_v1,
            from_current: same,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "extensions",
        version: "v1beta1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        subresources: &[SCALE, status("Deployment", "extensions", "v1beta1")],
        behaviour: &Typed::<apps::Deployment>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "deployments"),
            own_type: false,
            warning: Some(
                "extensions/v1beta1 Deployment is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 Deployment",
            ),
            to_current: workloads::to_v1,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "extensions",
        version: "v1beta1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        subresources: &[SCALE, status("ReplicaSet", "extensions", "v1beta1")],
        behaviour: &Typed::<apps::ReplicaSet>::PLAIN,
        legacy: Some(&Legacy {
            current: ("apps", "v1", "replicasets"),
            own_type: false,
            warning: Some(
                "extensions/v1beta1 ReplicaSet is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 ReplicaSet",
            ),
            to_current: workloads::to_v1,
            from_current: same,
        }),
        scale: Some(&SCALE_PATHS),
        ..Resource::BASE
    },
    Resource {
        group: "extensions",
        version: "v1beta1",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[status("Ingress", "extensions", "v1beta1")],
        behaviour: &Typed::<networking::Ingress>::PLAIN,
        legacy: Some(&Legacy {
            current: ("networking.k8s.io", "v1", "ingresses"),
            own_type: false,
            warning: Some(
                "extensions/v1beta1 Ingress is deprecated in v1.14+, unavailable in v1.22+; use networking.k8s.io/v1 Ingress",
            ),
            to_current: ingress::to_v1,
            from_current: ingress::from_v1,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "extensions",
        version: "v1beta1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        behaviour: &Typed::<networking::NetworkPolicy>::PLAIN,
        legacy: Some(&Legacy {
            current: ("networking.k8s.io", "v1", "networkpolicies"),
            own_type: false,
            warning: Some(
                "extensions/v1beta1 NetworkPolicy is deprecated in v1.9+, unavailable in v1.16+; use networking.k8s.io/v1 NetworkPolicy",
            ),
            to_current: same,
            from_current: same,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1beta1",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[status("Ingress", "networking.k8s.io", "v1beta1")],
        behaviour: &Typed::<networking::Ingress>::PLAIN,
        legacy: Some(&Legacy {
            current: ("networking.k8s.io", "v1", "ingresses"),
            own_type: false,
            warning: Some(
                "networking.k8s.io/v1beta1 Ingress is deprecated in v1.19+, unavailable in v1.22+; use networking.k8s.io/v1 Ingress",
            ),
            to_current: ingress::to_v1,
            from_current: ingress::from_v1,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1beta1",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        behaviour: &Typed::<networking::IngressClass>::PLAIN,
        legacy: Some(&Legacy {
            current: ("networking.k8s.io", "v1", "ingressclasses"),
            own_type: false,
            warning: Some(
                "networking.k8s.io/v1beta1 IngressClass is deprecated in v1.19+, unavailable in v1.22+; use networking.k8s.io/v1 IngressClass",
            ),
            to_current: same,
            from_current: same,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "batch",
        version: "v1beta1",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        subresources: &[status("CronJob", "batch", "v1beta1")],
        behaviour: &Typed::<batch::CronJob>::PLAIN,
        legacy: Some(&Legacy {
            current: ("batch", "v1", "cronjobs"),
            own_type: false,
            warning: Some(
                "batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use batch/v1 CronJob",
            ),
            to_current: same,
            from_current: same,
        }),
        ..Resource::BASE
    },
    Resource {
        group: "policy",
        version: "v1beta1",
        kind: "PodDisruptionBudget",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        subresources: &[status("PodDisruptionBudget", "policy", "v1beta1")],
        behaviour: &Typed::<policy::PodDisruptionBudget>::PLAIN,
        legacy: Some(&Legacy {
            current: ("policy", "v1", "poddisruptionbudgets"),
            own_type: false,
            warning: Some(
                "policy/v1beta1 PodDisruptionBudget is deprecated in v1.21+, unavailable in v1.25+; use policy/v1 PodDisruptionBudget",
            ),
            to_current: budget::to_v1,
            from_current: budget::from_v1,
        }),
        ..Resource::BASE
    },
];
