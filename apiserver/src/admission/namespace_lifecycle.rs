//! NamespaceLifecycle: nothing is created in a namespace that is not there or
//! is going away, and the namespaces that the cluster lives in stay.

use serde_json::Value;

use super::{Attributes, Context, Operation, Plugin};
use crate::status::{ApiError, Cause};

const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn mutate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        _: &mut Value,
    ) -> Result<(), ApiError> {
        let namespace = request.info.namespace.as_str();
        let about_namespace = request.info.resource == "namespaces";
        if request.operation != Operation::Create || namespace.is_empty() || about_namespace {
            return Ok(());
        }
        match context.objects.get("", "namespaces", "", namespace) {
            None => Err(ApiError::not_found("", "namespaces", namespace)),
            Some(found) if is_terminating(&found) => Err(terminating(request, namespace)),
            Some(_) => Ok(()),
        }
    }

    fn validate(&self, _: &Context, request: &Attributes<'_>, _: &Value) -> Result<(), ApiError> {
        let deletes = request.operation == Operation::Delete && request.is("", "namespaces");
        if deletes && PROTECTED.contains(&request.info.name.as_str()) {
            return Err(request.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}

fn is_terminating(namespace: &Value) -> bool {
    !namespace["metadata"]["deletionTimestamp"].is_null()
        || namespace["status"]["phase"] == "Terminating"
}

fn terminating(request: &Attributes<'_>, namespace: &str) -> ApiError {
    let mut error = request.forbidden(format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    ));
    error.causes.push(Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    });
    error
}
