//! Nobody gives away by a role or a binding what he does not hold.

use serde_json::Value;

use super::{Attributes, Context, Operation, Plugin};
use crate::{
    authz::{
        MASTERS,
        rbac::{GROUP, RoleRef, Rule, read_rules, uncovered},
    },
    status::ApiError,
};

pub(super) struct RbacEscalation;

impl Plugin for RbacEscalation {
    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || request.info.api_group != GROUP || request.user.in_group(MASTERS) {
            return Ok(());
        }
        let (user, info) = (request.user, request.info);
        let resource = info.resource.as_str();
        match resource {
            "roles" | "clusterroles" => {
                let old = request.old.unwrap_or(&Value::Null);
                if old["rules"] == object["rules"]
                    && old["aggregationRule"] == object["aggregationRule"]
                    && request.operation == Operation::Update
                {
                    return Ok(());
                }
                if context.may(user, "escalate", GROUP, resource, &info.namespace, &info.name) {
                    return Ok(());
                }
                // Whoever says which roles are collected could collect any.
                if object["aggregationRule"].is_object() {
                    let all = context.live.policy(|policy| policy.rules_for(user, ""));
                    if !uncovered(&all, &everything()).is_empty() {
                        return Err(request.forbidden(
                            "must have cluster-admin privileges to use an aggregationRule",
                        ));
                    }
                }
                check(context, request, &read_rules(object))
            }
            "rolebindings" | "clusterrolebindings" => {
                let Some(role) = RoleRef::read(&object["roleRef"]) else { return Ok(()) };
                let (kind, name) = match &role {
                    RoleRef::Cluster(name) => ("clusterroles", name),
                    RoleRef::Namespaced(name) => ("roles", name),
                };
                if context.may(user, "bind", GROUP, kind, &info.namespace, name) {
                    return Ok(());
                }
                let rules = context
                    .live
                    .policy(|policy| policy.role(&role, &info.namespace).map(<[Rule]>::to_vec));
                match rules {
                    Some(rules) => check(context, request, &rules),
                    // A role that may come later could be anything.
                    None => Err(ApiError::not_found(GROUP, kind, name)),
                }
            }
            _ => Ok(()),
        }
    }
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

fn check(context: &Context, request: &Attributes<'_>, rules: &[Rule]) -> Result<(), ApiError> {
    let user = request.user;
    let owned = context.live.policy(|policy| policy.rules_for(user, &request.info.namespace));
    let missing = uncovered(&owned, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(show).collect();
    Err(request.forbidden(format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        lines.join("\n")
    )))
}

fn show(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{values:?}"))
        .collect();
    format!("{{{}}}", shown.join(", "))
}
