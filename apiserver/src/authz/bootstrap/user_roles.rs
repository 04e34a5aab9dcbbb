//! The roles for people: `admin`, `edit` and `view`. Each collects the rules of
//! all roles with its label, so that whoever adds kinds can add to them.

use super::spec::{RoleSpec, role, rule};
use crate::authz::rbac::Rule;

const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

/// The three roles and the parts they start with. `admin` holds `edit`, and
/// `edit` holds `view`, by label.
pub(super) fn roles() -> Vec<RoleSpec> {
    let collects = |name: &str, label, labels: &[&'static str]| RoleSpec {
        aggregates: Some(label),
        labels: labels.to_vec(),
        ..role(name, aggregated(label))
    };
    let part = |name: &str, label, rules| RoleSpec { labels: vec![label], ..role(name, rules) };
    vec![
        collects("admin", TO_ADMIN, &[]),
        collects("edit", TO_EDIT, &[TO_ADMIN]),
        collects("view", TO_VIEW, &[TO_EDIT]),
        part("system:aggregate-to-admin", TO_ADMIN, admin()),
        part("system:aggregate-to-edit", TO_EDIT, edit()),
        part("system:aggregate-to-view", TO_VIEW, view()),
    ]
}

/// The rules at birth; [`crate::authz::aggregation`] keeps them right later.
fn aggregated(label: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    if label == TO_ADMIN {
        rules.extend(admin());
    }
    if label != TO_VIEW {
        rules.extend(edit());
    }
    rules.extend(view());
    rules
}

const WRITE: &str = "create delete deletecollection patch update";

fn admin() -> Vec<Rule> {
    vec![
        rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        rule(
            "create delete deletecollection get list patch update watch",
            "rbac.authorization.k8s.io",
            "roles rolebindings",
        ),
    ]
}

fn edit() -> Vec<Rule> {
    let streams = "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy";
    vec![
        rule("get list watch", "core", streams),
        rule("impersonate", "core", "serviceaccounts"),
        rule(
            WRITE,
            "core",
            "pods pods/attach pods/exec pods/portforward pods/proxy configmaps endpoints events \
             persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
             serviceaccounts services services/proxy",
        ),
        rule("create", "core", "pods/eviction serviceaccounts/token"),
        rule(
            WRITE,
            "apps",
            "daemonsets deployments deployments/rollback deployments/scale replicasets \
             replicasets/scale statefulsets statefulsets/scale",
        ),
        rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
        rule(WRITE, "batch", "cronjobs jobs"),
        rule(
            WRITE,
            "extensions",
            "daemonsets deployments deployments/rollback deployments/scale ingresses \
             networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
        ),
        rule(WRITE, "policy", "poddisruptionbudgets"),
        rule(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
        rule(
            "create delete deletecollection get list patch update watch",
            "coordination.k8s.io",
            "leases",
        ),
    ]
}

fn view() -> Vec<Rule> {
    let read = "get list watch";
    vec![
        rule(
            read,
            "core",
            "bindings configmaps endpoints events limitranges namespaces namespaces/status \
             persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status \
             replicationcontrollers replicationcontrollers/scale replicationcontrollers/status \
             resourcequotas resourcequotas/status serviceaccounts services services/status",
        ),
        rule(read, "discovery.k8s.io", "endpointslices"),
        rule("get list", "metrics.k8s.io", "nodes pods"),
        rule(
            read,
            "apps",
            "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
             deployments/status replicasets replicasets/scale replicasets/status statefulsets \
             statefulsets/scale statefulsets/status",
        ),
        rule(read, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        rule(read, "batch", "cronjobs cronjobs/status jobs jobs/status"),
        rule(
            read,
            "extensions",
            "daemonsets daemonsets/status deployments deployments/scale deployments/status \
             ingresses ingresses/status networkpolicies replicasets replicasets/scale \
             replicasets/status replicationcontrollers/scale",
        ),
        rule(read, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        rule(read, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    ]
}
