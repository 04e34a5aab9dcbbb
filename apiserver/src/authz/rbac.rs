//! RBAC: rules, who holds them, and whether some rules cover others.
//!
//! Pure. [`Policy`] is all roles and bindings in memory, indexed by subject, so
//! that a question costs what the asking user's own bindings cost and not what
//! the cluster's do.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Attributes;
use crate::user::UserInfo;

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// One PolicyRule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// API groups; `*` is all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub api_groups: Vec<String>,
    /// Resources, such as `pods`, `pods/log`, `*/scale` or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub resources: Vec<String>,
    /// Names; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub resource_names: Vec<String>,
    /// Paths that name no resource; a trailing `*` is any rest.
    #[serde(
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list"
    )]
    pub non_resource_urls: Vec<String>,
    /// Verbs; `*` is all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub verbs: Vec<String>,
}

/// A stored `null` list is an empty one.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Rule {
    /// Whether the rule allows what is asked.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !matches(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.resource_request {
            return self.non_resource_urls.iter().any(|url| path_matches(url, asked.path));
        }
        matches(&self.api_groups, asked.group)
            && self
                .resources
                .iter()
                .any(|rule| resource_matches(rule, asked.resource, asked.subresource))
            && (self.resource_names.is_empty()
                || self.resource_names.iter().any(|name| name == asked.name))
    }

    /// Whether everything that `atom` allows is allowed by this rule. `atom`
    /// has at most one value in each list.
    fn covers(&self, atom: &Rule) -> bool {
        let all = |owned: &[String], asked: &[String]| {
            owned.iter().any(|value| value == "*")
                || asked.iter().all(|value| owned.contains(value))
        };
        if !all(&self.verbs, &atom.verbs) {
            return false;
        }
        if let [url] = atom.non_resource_urls.as_slice() {
            return self
                .non_resource_urls
                .iter()
                .any(|owned| owned == url || path_matches(owned, url));
        }
        let resource = || {
            atom.resources.iter().all(|asked| {
                let (resource, subresource) = asked.split_once('/').unwrap_or((asked, ""));
                self.resources.iter().any(|owned| {
                    owned == asked
                        || owned == "*"
                        || (!subresource.is_empty()
                            && resource_matches(owned, resource, subresource))
                })
            })
        };
        let name = || {
            self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom.resource_names.iter().all(|name| self.resource_names.contains(name)))
        };
        all(&self.api_groups, &atom.api_groups) && resource() && name()
    }

    /// The rule taken apart into rules with one value in each list.
    fn atoms(&self) -> Vec<Rule> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                atoms.push(Rule {
                    verbs: vec![verb.clone()],
                    non_resource_urls: vec![url.clone()],
                    ..Rule::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                        continue;
                    }
                    for name in &self.resource_names {
                        atoms.push(Rule { resource_names: vec![name.clone()], ..atom.clone() });
                    }
                }
            }
        }
        atoms
    }
}

/// What of `asked` the rules `owned` do not cover, in small pieces.
pub fn uncovered(owned: &[Rule], asked: &[Rule]) -> Vec<Rule> {
    asked
        .iter()
        .flat_map(Rule::atoms)
        .filter(|atom| !owned.iter().any(|rule| rule.covers(atom)))
        .collect()
}

fn matches(values: &[String], asked: &str) -> bool {
    values.iter().any(|value| value == "*" || value == asked)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some(("*", sub)) => sub == subresource,
        Some((res, sub)) => res == resource && sub == subresource,
        None => false,
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    rule == "*"
        || rule == path
        || rule.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

/// The role that a binding grants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RoleRef {
    /// A ClusterRole by name.
    Cluster(String),
    /// A Role in the binding's namespace.
    Namespaced(String),
}

impl RoleRef {
    /// Reads `roleRef`.
    pub fn read(reference: &Value) -> Option<Self> {
        let name = reference["name"].as_str()?.to_owned();
        match reference["kind"].as_str()? {
            "ClusterRole" => Some(Self::Cluster(name)),
            "Role" => Some(Self::Namespaced(name)),
            _ => None,
        }
    }
}

/// Who holds a role. A ServiceAccount is its user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject {
    User(String),
    Group(String),
}

impl Subject {
    fn read(subject: &Value, namespace: &str) -> Option<Self> {
        let name = subject["name"].as_str()?.to_owned();
        match subject["kind"].as_str()? {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str().unwrap_or(namespace);
                Some(Self::User(format!("system:serviceaccount:{namespace}:{name}")))
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
struct Binding {
    role: RoleRef,
    subjects: HashSet<Subject>,
}

#[derive(Debug, Clone, Default)]
struct ClusterRole {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// Label sets of `aggregationRule`; empty for an ordinary role.
    selectors: Vec<Value>,
}

/// All roles and bindings. Objects are known by namespace and name; cluster
/// objects have the empty namespace.
#[derive(Debug, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, ClusterRole>,
    roles: HashMap<(String, String), Vec<Rule>>,
    bindings: HashMap<(String, String), Binding>,
    by_subject: HashMap<(String, Subject), HashSet<String>>,
}

impl Policy {
    /// Takes in a new or changed object, or with `None` a deletion, of one of
    /// the four kinds by plural name. Other resources are ignored.
    pub fn apply(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match resource {
            "clusterroles" => match object {
                Some(object) => drop(self.cluster_roles.insert(key.1, read_cluster_role(object))),
                None => drop(self.cluster_roles.remove(name)),
            },
            "roles" => match object {
                Some(object) => drop(self.roles.insert(key, read_rules(object))),
                None => drop(self.roles.remove(&key)),
            },
            "clusterrolebindings" | "rolebindings" => {
                if let Some(old) = self.bindings.remove(&key) {
                    for subject in old.subjects {
                        let slot = (key.0.clone(), subject);
                        if let Some(names) = self.by_subject.get_mut(&slot) {
                            names.remove(name);
                            if names.is_empty() {
                                self.by_subject.remove(&slot);
                            }
                        }
                    }
                }
                if let Some(binding) = object.and_then(|object| read_binding(object, namespace)) {
                    for subject in &binding.subjects {
                        let slot = (key.0.clone(), subject.clone());
                        self.by_subject.entry(slot).or_default().insert(key.1.clone());
                    }
                    self.bindings.insert(key, binding);
                }
            }
            _ => {}
        }
    }

    /// The binding by which a question is answered with yes, as words.
    pub fn allows(&self, asked: &Attributes<'_>) -> Option<String> {
        let mut reason = None;
        self.visit(asked.user, asked.namespace, &mut |namespace, binding, rules| {
            if rules.iter().any(|rule| rule.allows(asked)) {
                reason = Some(match namespace {
                    "" => format!("RBAC: allowed by ClusterRoleBinding {binding:?}"),
                    namespace => {
                        format!("RBAC: allowed by RoleBinding \"{namespace}/{binding}\"")
                    }
                });
            }
            reason.is_none()
        });
        reason
    }

    /// All rules that a user holds in a namespace (with the empty one: in the
    /// whole cluster).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut all = Vec::new();
        self.visit(user, namespace, &mut |_, _, rules| {
            all.extend_from_slice(rules);
            true
        });
        all
    }

    /// The rules of the role that a binding in `namespace` refers to.
    pub fn role(&self, role: &RoleRef, namespace: &str) -> Option<&[Rule]> {
        match role {
            RoleRef::Cluster(name) => {
                self.cluster_roles.get(name).map(|role| role.rules.as_slice())
            }
            RoleRef::Namespaced(name) => {
                self.roles.get(&(namespace.to_owned(), name.clone())).map(Vec::as_slice)
            }
        }
    }

    /// What each aggregated ClusterRole should hold where it holds something
    /// else: the rules of all roles its selectors choose, each once.
    pub fn plan_aggregation(&self) -> Vec<(String, Vec<Rule>)> {
        let mut names: Vec<&String> = self.cluster_roles.keys().collect();
        names.sort();
        let mut plan = Vec::new();
        for (&name, role) in names.iter().map(|name| (name, &self.cluster_roles[*name])) {
            if role.selectors.is_empty() {
                continue;
            }
            let mut desired: Vec<Rule> = Vec::new();
            for other in names.iter().filter(|other| **other != name) {
                let part = &self.cluster_roles[*other];
                if role.selectors.iter().any(|selector| selects(selector, &part.labels)) {
                    for rule in &part.rules {
                        if !desired.contains(rule) {
                            desired.push(rule.clone());
                        }
                    }
                }
            }
            if desired != role.rules {
                plan.push((name.clone(), desired));
            }
        }
        plan
    }

    /// Calls `seen` with namespace, binding and rules of everything the user
    /// holds, until it says false.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        seen: &mut dyn FnMut(&str, &str, &[Rule]) -> bool,
    ) {
        let subjects = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group));
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for subject in subjects {
            for scope in scopes {
                let slot = ((*scope).to_owned(), subject.clone());
                for name in self.by_subject.get(&slot).into_iter().flatten() {
                    let rules = self
                        .bindings
                        .get(&(slot.0.clone(), name.clone()))
                        .and_then(|binding| self.role(&binding.role, scope));
                    if !rules.is_none_or(|rules| seen(scope, name, rules)) {
                        return;
                    }
                }
            }
        }
    }
}

/// Whether a label selector chooses a set of labels.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.into_iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        && expressions.into_iter().all(|expression| {
            let value = labels.get(expression["key"].as_str().unwrap_or_default());
            let listed = || {
                let values = expression["values"].as_array();
                value.is_some_and(|value| {
                    values.is_some_and(|values| values.iter().any(|one| one == value.as_str()))
                })
            };
            match expression["operator"].as_str() {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

/// Reads `rules`; a rule that cannot be read grants nothing.
pub fn read_rules(role: &Value) -> Vec<Rule> {
    role["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| Rule::deserialize(rule).ok())
        .collect()
}

fn read_cluster_role(object: &Value) -> ClusterRole {
    let labels = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array().cloned();
    ClusterRole { rules: read_rules(object), labels, selectors: selectors.unwrap_or_default() }
}

fn read_binding(object: &Value, namespace: &str) -> Option<Binding> {
    let subjects = object["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|subject| Subject::read(subject, namespace))
        .collect();
    Some(Binding { role: RoleRef::read(&object["roleRef"])?, subjects })
}

#[cfg(test)]
#[path = "rbac_tests.rs"]
mod tests;
