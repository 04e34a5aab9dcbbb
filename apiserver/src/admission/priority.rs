//! Priority: a pod's priority is its class's, never its own word.

use serde_json::{Value, json};

use super::{Attributes, Context, Operation, Plugin};
use crate::status::ApiError;

const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority;

impl Plugin for Priority {
    fn mutate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        if !request.creates("", "pods") {
            return Ok(());
        }
        let named = pod["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty());
        let class = match named {
            Some(name) => Some(
                builtin(name)
                    .or_else(|| context.objects.get(GROUP, "priorityclasses", "", name))
                    .ok_or_else(|| {
                    request.forbidden(format!("no PriorityClass with name {name} was found"))
                })?,
            ),
            None => context
                .objects
                .list(GROUP, "priorityclasses", "")
                .into_iter()
                .filter(|class| class["globalDefault"] == true)
                // There is one at most; should a race leave two, the lower one
                // does the least harm.
                .min_by_key(|class| class["value"].as_i64()),
        };
        let value = class.as_ref().map_or(0, |class| class["value"].as_i64().unwrap_or_default());
        if let Some(own) = pod["spec"]["priority"].as_i64()
            && own != value
        {
            return Err(request.forbidden(format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority \
                 admission controller computed {value} from the given PriorityClass name"
            )));
        }
        let preemption = class
            .as_ref()
            .and_then(|class| class["preemptionPolicy"].as_str())
            .unwrap_or("PreemptLowerPriority");
        if let Some(own) = pod["spec"]["preemptionPolicy"].as_str()
            && own != preemption
        {
            return Err(request.forbidden(format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; \
                 priority admission controller computed {preemption} from the given PriorityClass \
                 name"
            )));
        }
        if let Some(class) = &class {
            pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
        }
        pod["spec"]["priority"] = json!(value);
        pod["spec"]["preemptionPolicy"] = json!(preemption);
        Ok(())
    }

    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        class: &Value,
    ) -> Result<(), ApiError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is(GROUP, "priorityclasses") || class["globalDefault"] != true {
            return Ok(());
        }
        for other in context.objects.list(GROUP, "priorityclasses", "") {
            let name = other["metadata"]["name"].as_str().unwrap_or_default();
            if other["globalDefault"] == true && name != request.info.name {
                return Err(request.forbidden(format!(
                    "PriorityClass {name} is already marked as default. Only one default can exist"
                )));
            }
        }
        Ok(())
    }
}

/// The two classes that every cluster has, even before their objects are
/// written.
fn builtin(name: &str) -> Option<Value> {
    let value = match name {
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        _ => return None,
    };
    Some(json!({ "metadata": { "name": name }, "value": value }))
}
