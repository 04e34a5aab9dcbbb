//! Admission: what the cluster adds to a write, and what it refuses beyond
//! the rules of the kind itself.
//!
//! [`Chain`] runs the plug-ins in the order of [`Chain::new`], first all that
//! edit, then, on the object's final form, all that refuse. A plug-in is pure
//! but for looking at live objects through `Context`.
//!
//! ResourceQuota stands beside the chain: it is part of the commit.
//!
//! Left out for now: webhooks. They are one more line in [`Chain::new`].

mod certificates;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod notes;
mod pod_defaults;
mod pod_security;
mod priority;
mod rbac_escalation;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;
mod storage;

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    authn::objects::Objects,
    authz::{Attributes as Question, Decision, live::Live},
    request_info::RequestInfo,
    status::ApiError,
    user::UserInfo,
};

pub use notes::Notes;

/// How long the creation of a pod waits for its namespace's ServiceAccount,
/// which a controller makes right after the namespace.
const ACCOUNT_WAIT: Duration = Duration::from_millis(1000);

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change by PUT or PATCH.
    Update,
    /// A deletion.
    Delete,
    /// A stream such as exec.
    Connect,
}

/// One request as admission sees it. Name, namespace, resource and
/// subresource stand in `info`, in the group and version of the stored kind;
/// `info.name` is the object's final name, generated or not.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// The request.
    pub info: &'a RequestInfo,
    /// Kind of the object.
    pub kind: &'a str,
    /// Who makes it.
    pub user: &'a UserInfo,
    /// What it does.
    pub operation: Operation,
    /// The stored object before an update or deletion.
    pub old: Option<&'a Value>,
    /// Nothing will be written.
    pub dry_run: bool,
    /// Takes warnings and annotations.
    pub notes: &'a Notes,
}

impl Attributes<'_> {
    /// Whether the request is about this resource of this group, subresource
    /// included (`pods`, `pods/status`).
    fn is(&self, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        self.info.api_group == group
            && self.info.resource == resource
            && self.info.subresource == subresource
    }

    fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource)
    }

    /// The 403 of a plug-in that does not want this.
    fn forbidden(&self, why: impl AsRef<str>) -> ApiError {
        ApiError::forbidden(
            &self.info.api_group,
            &self.info.resource,
            &self.info.name,
            why.as_ref(),
        )
    }
}

/// What plug-ins may look at.
pub(crate) struct Context {
    objects: Objects,
    live: Arc<Live>,
}

impl Context {
    /// Whether `user` holds a permission that a plug-in asks for by itself,
    /// such as `approve` on a signer.
    fn may(
        &self,
        user: &UserInfo,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        let question = Question {
            user,
            verb,
            group,
            version: "*",
            resource,
            subresource: "",
            namespace,
            name,
            path: "",
            resource_request: true,
        };
        matches!(self.live.decide(&question), Decision::Allow(_))
    }
}

/// One admission step.
trait Plugin: Send + Sync {
    /// Edits the new object.
    fn mutate(
        &self,
        _context: &Context,
        _request: &Attributes<'_>,
        _object: &mut Value,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Refuses the object in its final form; for a deletion the old one.
    fn validate(
        &self,
        _context: &Context,
        _request: &Attributes<'_>,
        _object: &Value,
    ) -> Result<(), ApiError> {
        Ok(())
    }
}

/// All admission steps in order.
pub struct Chain {
    context: Context,
    plugins: Vec<Box<dyn Plugin>>,
    /// Who creates under quota next; quota itself is part of the commit.
    pub(crate) quota_turns: resource_quota::Turns,
}

impl Chain {
    /// The chain of this server.
    pub fn new(objects: Objects, live: Arc<Live>) -> Self {
        let plugins: Vec<Box<dyn Plugin>> = vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(node_restriction::NodeRestriction),
            Box::new(service_account::ServiceAccount),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(pod_defaults::DefaultTolerationSeconds),
            Box::new(pod_defaults::TaintNewNodes),
            Box::new(storage::DefaultStorageClass),
            Box::new(storage::StorageInUseProtection),
            Box::new(runtime_class::RuntimeClass),
            Box::new(certificates::Requester),
            Box::new(limit_ranger::LimitRanger),
            Box::new(certificates::Approval),
            Box::new(rbac_escalation::RbacEscalation),
            Box::new(storage::ClaimResize),
        ];
        Self { context: Context { objects, live }, plugins, quota_turns: Default::default() }
    }

    /// Lets every mutating step edit the new object (for a deletion: the old
    /// one, to no effect).
    pub async fn mutate(
        &self,
        request: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        if request.creates("", "pods") {
            self.await_service_account(&request.info.namespace, object).await;
        }
        for plugin in &self.plugins {
            plugin.mutate(&self.context, request, object)?;
        }
        Ok(())
    }

    /// Lets every validating step refuse the object in its final form.
    pub fn validate(&self, request: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            plugin.validate(&self.context, request, object)?;
        }
        Ok(())
    }

    /// Gives a controller the moment that it needs to make the account of a
    /// namespace that was just created. Whether it is there is decided later.
    async fn await_service_account(&self, namespace: &str, pod: &Value) {
        let objects = &self.context.objects;
        let name = service_account::name(pod);
        let there = || objects.entry("", "serviceaccounts", namespace, name).is_some();
        if there() || objects.entry("", "namespaces", "", namespace).is_none() {
            return;
        }
        let deadline = tokio::time::Instant::now() + ACCOUNT_WAIT;
        while !there() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The items of a list that may be absent.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The list in `object` under `key`, made if absent. `None` if something else
/// stands there, which validation refuses.
fn list_mut<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    let slot = object.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

#[cfg(test)]
mod tests;
