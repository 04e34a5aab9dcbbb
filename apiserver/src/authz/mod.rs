//! Authorization: may this user do this?
//!
//! The group `system:masters` may do everything. A node is asked about by the
//! Node authorizer ([`node`]), everybody by RBAC ([`rbac`]); one yes is enough.
//!
//! Decisions read memory only: [`live`] follows the store's watch and keeps
//! roles, bindings and what each node's pods refer to. It lags a write by the
//! time of one wake-up; before saying no, [`Authorizer::authorize`] waits until
//! everything committed so far has been seen, so that who reads a write also
//! has its effect.

pub mod aggregation;
pub mod bootstrap;
pub mod live;
pub mod node;
pub mod rbac;
pub mod review;

use std::{sync::Arc, time::Duration};

use crate::{request_info::RequestInfo, status::ApiError, user::UserInfo};
use live::Live;

/// Superusers, whatever RBAC says: the way back in after a mistake.
pub const MASTERS: &str = "system:masters";

/// How long a no waits for the newest roles before it is said.
const CATCH_UP: Duration = Duration::from_millis(500);

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `create`, `impersonate`…
    pub verb: &'a str,
    /// API group; empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural resource name.
    pub resource: &'a str,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for the whole cluster.
    pub namespace: &'a str,
    /// Object name; empty for collections.
    pub name: &'a str,
    /// The path of a request that names no resource.
    pub path: &'a str,
    /// Whether the question is about a resource and not about `path`.
    pub resource_request: bool,
}

impl<'a> Attributes<'a> {
    /// The question that a request puts.
    pub fn new(user: &'a UserInfo, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: info.verb,
            group: &info.api_group,
            version: &info.api_version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            resource_request: info.is_resource_request,
        }
    }

    /// What a refused client reads.
    fn refusal(&self, reason: &str) -> ApiError {
        let user = &self.user.name;
        let verb = self.verb;
        let mut why = if self.resource_request {
            let mut resource = self.resource.to_owned();
            if !self.subresource.is_empty() {
                resource = format!("{resource}/{}", self.subresource);
            }
            let group = self.group;
            let place = match self.namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}"
            )
        } else {
            format!("User {user:?} cannot {verb} path {:?}", self.path)
        };
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        if self.resource_request {
            ApiError::forbidden(self.group, self.resource, self.name, &why)
        } else {
            ApiError::forbidden("", "", "", &why)
        }
    }
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, and why.
    Allow(String),
    /// Not allowed; the reason may be empty.
    Deny(String),
}

/// Answers questions. Cheap to clone.
#[derive(Clone)]
pub struct Authorizer {
    live: Arc<Live>,
}

impl Authorizer {
    /// Answers from `live`.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live }
    }

    /// What the answers are made from.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Decides one question.
    pub async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        match self.live.decide(attributes) {
            Decision::Deny(reason) if !self.live.is_current() => {
                self.live.catch_up(CATCH_UP).await;
                match self.live.decide(attributes) {
                    Decision::Deny(_) => Decision::Deny(reason),
                    allowed => allowed,
                }
            }
            decision => decision,
        }
    }

    /// Passes if allowed, else is the 403 that the client gets.
    pub async fn require(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) => Err(attributes.refusal(&reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_upstreams() {
        let user = UserInfo::new("jane", []);
        let ask = |uri: &str| RequestInfo::parse(&http::Method::GET, &uri.parse().unwrap());
        let cases = [
            (
                "/api/v1/namespaces/a/pods",
                "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"a\"",
            ),
            (
                "/api/v1/nodes/n",
                "nodes \"n\" is forbidden: User \"jane\" cannot get resource \"nodes\" in API group \"\" at the cluster scope",
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "deployments.apps \"d\" is forbidden: User \"jane\" cannot get resource \"deployments/scale\" in API group \"apps\" in the namespace \"a\"",
            ),
            ("/metrics", "forbidden: User \"jane\" cannot get path \"/metrics\""),
        ];
        for (uri, message) in cases {
            let info = ask(uri);
            assert_eq!(Attributes::new(&user, &info).refusal("").message, message);
        }
    }
}
