//! Access reviews: the same questions, put as objects.

use serde_json::{Value, json};

use super::{Attributes, Authorizer, Decision, rbac::Rule};
use crate::{status::ApiError, user::UserInfo};

impl Authorizer {
    /// SelfSubjectAccessReview: what may `user` do?
    pub async fn review_self(&self, user: &UserInfo, review: Value) -> Result<Value, ApiError> {
        self.review(user, review).await
    }

    /// SubjectAccessReview: what may somebody else do?
    pub async fn review_subject(&self, review: Value) -> Result<Value, ApiError> {
        let spec = &review["spec"];
        let name = spec["user"].as_str().unwrap_or_default();
        let groups: Vec<&str> =
            spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if name.is_empty() && groups.is_empty() {
            return Err(ApiError::bad_request("at least one of user or group must be specified"));
        }
        let user = UserInfo::new(name, groups);
        self.review(&user, review).await
    }

    /// LocalSubjectAccessReview: the same inside one namespace.
    pub async fn review_local(&self, namespace: &str, review: Value) -> Result<Value, ApiError> {
        if review["spec"]["resourceAttributes"]["namespace"] != namespace {
            return Err(ApiError::bad_request(
                "spec.resourceAttributes.namespace must match the namespace of the request",
            ));
        }
        self.review_subject(review).await
    }

    async fn review(&self, user: &UserInfo, mut review: Value) -> Result<Value, ApiError> {
        let decision = {
            let resource = &review["spec"]["resourceAttributes"];
            let path = &review["spec"]["nonResourceAttributes"];
            if resource.is_object() == path.is_object() {
                return Err(ApiError::bad_request(
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ));
            }
            let of =
                |value: &'_ Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let side = if resource.is_object() { resource } else { path };
            let (verb, group, version) =
                (of(side, "verb"), of(resource, "group"), of(resource, "version"));
            let (kind, subresource) = (of(resource, "resource"), of(resource, "subresource"));
            let (namespace, name) = (of(resource, "namespace"), of(resource, "name"));
            let path = of(path, "path");
            self.authorize(&Attributes {
                user,
                verb: &verb,
                group: &group,
                version: &version,
                resource: &kind,
                subresource: &subresource,
                namespace: &namespace,
                name: &name,
                path: &path,
                resource_request: resource.is_object(),
            })
            .await
        };
        let (allowed, reason) = match decision {
            Decision::Allow(reason) => (true, reason),
            Decision::Deny(reason) => (false, reason),
        };
        review["status"] = json!({ "allowed": allowed });
        if !reason.is_empty() {
            review["status"]["reason"] = json!(reason);
        }
        Ok(review)
    }

    /// SelfSubjectRulesReview: everything `user` may do in a namespace.
    pub async fn review_rules(
        &self,
        user: &UserInfo,
        mut review: Value,
    ) -> Result<Value, ApiError> {
        let Some(namespace) = review["spec"]["namespace"].as_str().filter(|name| !name.is_empty())
        else {
            return Err(ApiError::bad_request("no namespace on request"));
        };
        let mut rules = self.live().policy(|policy| policy.rules_for(user, namespace));
        if user.in_group(super::MASTERS) {
            let all = || vec!["*".to_owned()];
            rules.push(Rule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Rule::default()
            });
            rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
        }
        let (resources, paths): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| rule.non_resource_urls.is_empty());
        let node = super::node::node_name(user).is_some();
        review["status"] = json!({
            "resourceRules": resources,
            "nonResourceRules": paths,
            // What a node may do follows from its pods and is no list.
            "incomplete": node,
        });
        Ok(review)
    }
}
