//! Small defaults that are the cluster's and not the kind's: how long a pod
//! stays on a node that is gone, and that a new node is not ready.

use serde_json::{Value, json};

use super::{Attributes, Context, Operation, Plugin, items, list_mut};
use crate::status::ApiError;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const SECONDS: i64 = 300;

/// Pods leave a node that is not ready or not reachable after five minutes,
/// unless they say otherwise.
///
/// Updates get the same: a client that applies its own list anew leaves these
/// two out, and taking tolerations away is not allowed.
pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn mutate(
        &self,
        _: &Context,
        request: &Attributes<'_>,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is("", "pods") {
            return Ok(());
        }
        for taint in [NOT_READY, UNREACHABLE] {
            if items(&pod["spec"]["tolerations"]).any(|one| tolerates(one, taint)) {
                continue;
            }
            if let Some(tolerations) = list_mut(&mut pod["spec"], "tolerations") {
                tolerations.push(json!({
                    "key": taint,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}

/// Whether a toleration is about this taint with effect NoExecute.
fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |key: &str| toleration[key].as_str().unwrap_or_default();
    (text("key") == taint || text("key").is_empty())
        && (text("effect") == "NoExecute" || text("effect").is_empty())
}

/// A new node takes no pods until the node controller has seen it ready.
pub(super) struct TaintNewNodes;

impl Plugin for TaintNewNodes {
    fn mutate(
        &self,
        _: &Context,
        request: &Attributes<'_>,
        node: &mut Value,
    ) -> Result<(), ApiError> {
        if !request.creates("", "nodes") {
            return Ok(());
        }
        if node["spec"].is_null() {
            node["spec"] = json!({});
        }
        let tainted = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
        if items(&node["spec"]["taints"]).any(tainted) {
            return Ok(());
        }
        if let Some(taints) = list_mut(&mut node["spec"], "taints") {
            taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
        }
        Ok(())
    }
}
