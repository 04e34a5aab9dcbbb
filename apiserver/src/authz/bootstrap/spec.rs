//! The words the table is written in, and the objects they stand for.

use serde_json::{Value, json};

use crate::authz::rbac::Rule;

/// The annotation by which somebody keeps an object as they made it.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const GROUP: &str = "rbac.authorization.k8s.io";

/// One ClusterRole of the table.
#[derive(Debug, Clone)]
pub struct RoleSpec {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// Labels, for aggregation.
    pub labels: Vec<&'static str>,
    /// The label by which it collects other roles' rules.
    pub aggregates: Option<&'static str>,
}

/// One ClusterRoleBinding of the table, named as its role.
#[derive(Debug, Clone)]
pub struct BindingSpec {
    /// Its name, and the role's.
    pub name: String,
    /// Who holds it.
    pub subjects: Vec<Subject>,
}

/// A holder.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A user.
    User(&'static str),
    /// A group.
    Group(&'static str),
    /// A ServiceAccount in kube-system.
    Account(&'static str),
}

/// A rule on resources. Lists are words; `core` is the core group.
pub(super) fn rule(verbs: &str, groups: &str, resources: &str) -> Rule {
    Rule {
        verbs: words(verbs),
        api_groups: words(groups)
            .into_iter()
            .map(|group| if group == "core" { String::new() } else { group })
            .collect(),
        resources: words(resources),
        ..Rule::default()
    }
}

/// A rule on resources with one name.
pub(super) fn named(verbs: &str, groups: &str, resources: &str, name: &str) -> Rule {
    Rule { resource_names: vec![name.to_owned()], ..rule(verbs, groups, resources) }
}

/// A rule on paths.
pub(super) fn paths(verbs: &str, paths: &str) -> Rule {
    Rule { verbs: words(verbs), non_resource_urls: words(paths), ..Rule::default() }
}

/// What every component may write about what it does.
pub(super) fn events() -> Rule {
    rule("create patch update", "core events.k8s.io", "events")
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A role that neither collects rules nor is collected from.
pub(super) fn role(name: &str, rules: Vec<Rule>) -> RoleSpec {
    RoleSpec { name: name.to_owned(), rules, labels: Vec::new(), aggregates: None }
}

/// The binding of a role to its holders.
pub(super) fn bind(role: &str, subjects: &[Subject]) -> BindingSpec {
    BindingSpec { name: role.to_owned(), subjects: subjects.to_vec() }
}

impl RoleSpec {
    pub(super) fn to_value(&self) -> Value {
        let mut metadata = metadata(&self.name);
        for label in &self.labels {
            metadata["labels"][*label] = json!("true");
        }
        let mut value = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": self.rules,
        });
        if let Some(label) = self.aggregates {
            value["aggregationRule"] =
                json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
        }
        value
    }
}

impl BindingSpec {
    pub(super) fn to_value(&self) -> Value {
        let subjects: Vec<Value> = self
            .subjects
            .iter()
            .map(|subject| match subject {
                Subject::User(name) => json!({ "kind": "User", "apiGroup": GROUP, "name": name }),
                Subject::Group(name) => json!({ "kind": "Group", "apiGroup": GROUP, "name": name }),
                Subject::Account(name) => {
                    json!({ "kind": "ServiceAccount", "namespace": "kube-system", "name": name })
                }
            })
            .collect();
        json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "ClusterRoleBinding",
            "metadata": metadata(&self.name),
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": self.name },
            "subjects": subjects,
        })
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { AUTOUPDATE: "true" },
    })
}
