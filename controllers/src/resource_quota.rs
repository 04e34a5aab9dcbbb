//! ResourceQuota controller: keeps the status of quotas at what is really
//! used.
//!
//! Reads ResourceQuotas and whatever kinds they count. Writes their `status`,
//! nothing else. Admission adds to `status.used` in the transaction that
//! creates an object; here is given back what deletions and ended pods free,
//! and a new quota gets its first count.
//!
//! A count taken from caches could miss an object that admission has already
//! added, and would then give its place away twice. So a pass asks the server:
//! first for the quota, then for the objects, and the answer is written on the
//! condition that the quota is still the one that was read. Whatever was
//! created before that is in the lists, whatever was created after it has
//! changed the quota.
//!
//! As upstream, a change of the status alone starts no pass; a status that
//! somebody spoiled is put right by the next one, after five minutes at the
//! latest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use skiff_api::quota::{self, Usage};
use tokio::sync::Mutex as AsyncMutex;

use crate::cache::Cache;
use crate::context::Context;
use crate::discovery::{self, Served};
use crate::error::{Doing, Error, ignore_not_found};
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// When a quota is counted again though nothing seems to have changed, as
/// upstream.
const RESYNC: Duration = Duration::from_secs(300);

/// Told of the namespace of every object that is gone.
pub(crate) type Gone = Arc<dyn Fn(&str) + Send + Sync>;

/// The quota controller.
pub(crate) struct ResourceQuotas {
    context: Context,
    /// The kinds that the server has; asked for again when one is missing.
    served: AsyncMutex<Vec<Served>>,
    /// Kinds that quotas name and the server does not have, not to be asked
    /// for in every pass.
    unknown: Mutex<Vec<quota::Kind>>,
}

impl ResourceQuotas {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let caches = &context.caches;
        let tx = queue.clone();
        caches.resource_quotas.subscribe(move |old, new| {
            if let Some(new) = new
                && old.is_none_or(|old| old.spec != new.spec)
            {
                tx.add(Key::of(&new.metadata));
            }
        });
        let wake = wake(&queue, &caches.resource_quotas);
        caches.pods.subscribe(move |old, new| {
            if let (Some(old), Some(new)) = (old, new)
                && !is_over(old)
                && is_over(new)
            {
                wake(meta::namespace(&new.metadata));
            }
        });
        let wake = self::wake(&queue, &caches.resource_quotas);
        caches.services.subscribe(move |old, new| {
            if let (Some(old), Some(new)) = (old, new)
                && ports(old) != ports(new)
            {
                wake(meta::namespace(&new.metadata));
            }
        });
        let controller = Self {
            context: context.clone(),
            served: AsyncMutex::default(),
            unknown: Mutex::default(),
        };
        (Arc::new(controller), queue)
    }

    /// The entry that a kind is served under.
    async fn resolve(&self, kind: &quota::Kind) -> Result<Option<ApiResource>, Error> {
        let find = |served: &[Served]| {
            let mut served = served.iter().map(|served| &served.resource);
            served.find(|known| known.group == kind.0 && known.plural == kind.1).cloned()
        };
        let mut served = self.served.lock().await;
        if let Some(found) = find(&served) {
            return Ok(Some(found));
        }
        let asked = || self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if asked().contains(kind) {
            return Ok(None);
        }
        let kinds = discovery::namespaced(&self.context.client).await;
        *served = kinds.doing(|| "discover what quotas count".to_owned())?;
        let found = find(&served);
        if found.is_none() {
            asked().push(kind.clone());
        }
        Ok(found)
    }

    /// What the objects of one kind use. `hard` is the part of the quota that
    /// is about this kind.
    async fn count(
        &self,
        namespace: &str,
        spec: &Value,
        hard: &Usage,
        kind: &quota::Kind,
        now: Timestamp,
    ) -> Result<Usage, Error> {
        let Some(resource) = self.resolve(kind).await? else { return Ok(Usage::new()) };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), namespace, &resource);
        let doing = || format!("list {} in {namespace}", resource.plural);
        let all = ListParams::default();
        // Only these are counted by what stands in them.
        let by_content = kind.0.is_empty()
            && matches!(kind.1.as_str(), "pods" | "services" | "persistentvolumeclaims");
        let objects: Vec<Value> = if by_content {
            let list = api.list(&all).await.doing(doing)?;
            let values: Result<_, _> = list.items.iter().map(serde_json::to_value).collect();
            values
                .map_err(|err| Error::Invalid(format!("cannot read {}: {err}", resource.plural)))?
        } else {
            let list = api.list_metadata(&all).await.doing(doing)?;
            vec![json!({}); list.items.len()]
        };
        Ok(quota::total(hard, spec, (&kind.0, &kind.1), &objects, now))
    }
}

impl Controller for ResourceQuotas {
    type Key = Key;
    const NAME: &'static str = "resource-quota";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let api: Api<ResourceQuota> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let quota = ignore_not_found(api.get(&key.name).await)
            .doing(|| format!("get resource quota {key}"))?;
        let Some(mut quota) = quota else { return Ok(Next::OnChange) };
        let unreadable = |err| Error::Invalid(format!("cannot read resource quota {key}: {err}"));
        let spec = serde_json::to_value(&quota.spec).map_err(unreadable)?;
        let hard = quota::parse(&spec["hard"]);
        let now = meta::now();
        let mut used = Usage::new();
        for kind in quota::kinds(&hard) {
            let own = quota::relevant(&hard, &kind.0, &kind.1);
            used.extend(self.count(&key.namespace, &spec, &own, &kind, now).await?);
        }
        let observed = serde_json::to_value(&quota.status).map_err(unreadable)?;
        if !is_told(&observed, &hard, &used) {
            let status = json!({ "hard": spec["hard"], "used": quota::render(&used) });
            quota.status = serde_json::from_value(status).map_err(unreadable)?;
            let written = api.replace_status(&key.name, &PostParams::default(), &quota).await;
            written.doing(|| format!("update status of resource quota {key}"))?;
        }
        Ok(Next::After(RESYNC))
    }
}

/// Queues the quotas of a namespace.
pub(crate) fn wake(queue: &Queue<Key>, quotas: &Cache<ResourceQuota>) -> Gone {
    let (queue, quotas) = (queue.clone(), quotas.clone());
    Arc::new(move |namespace| {
        if namespace.is_empty() {
            return;
        }
        for quota in quotas.in_namespace(namespace) {
            queue.add(Key::of(&quota.metadata));
        }
    })
}

/// Whether the status says this already, in whatever spelling.
fn is_told(status: &Value, hard: &Usage, used: &Usage) -> bool {
    quota::parse(&status["hard"]) == *hard && quota::parse(&status["used"]) == *used
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What of a service is counted.
fn ports(service: &Service) -> Option<(Option<&str>, usize)> {
    let spec = service.spec.as_ref()?;
    Some((spec.type_.as_deref(), spec.ports.as_ref().map_or(0, Vec::len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_only_when_it_says_something_else() {
        let hard = quota::parse(&json!({ "pods": "2", "memory": "1Gi" }));
        let used = quota::parse(&json!({ "pods": "1", "memory": "512Mi" }));
        let status = |hard: Value, used: Value| json!({ "hard": hard, "used": used });
        let told = status(
            json!({ "pods": "2", "memory": "1024Mi" }),
            json!({ "pods": "1", "memory": "0.5Gi" }),
        );
        assert!(is_told(&told, &hard, &used));
        let cases = [
            ("nothing yet", Value::Null),
            ("another limit", status(json!({ "pods": "2" }), told["used"].clone())),
            ("another use", status(told["hard"].clone(), json!({ "pods": "1", "memory": "0" }))),
            ("too little", status(told["hard"].clone(), json!({ "pods": "1" }))),
        ];
        for (name, status) in cases {
            assert!(!is_told(&status, &hard, &used), "{name}");
        }
    }
}
