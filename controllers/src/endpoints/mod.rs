//! Endpoints: which pods are behind which service.
//!
//! Two controllers share the view of `backend`: `slices` writes EndpointSlices,
//! which the proxies read, and `legacy` writes Endpoints.

mod backend;
mod legacy;
mod slices;

#[cfg(test)]
mod fixtures;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use self::backend::{Backend, plan_backends};
pub(crate) use self::legacy::LegacyEndpoints;
pub(crate) use self::slices::Slices;
use crate::cache::Cache;
use crate::context::{Caches, Context};
use crate::meta::{self, Key};
use crate::queue::Queue;

/// Label of an EndpointSlice: the service it belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of endpoints whose service has no virtual address.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A queue of services that want a pass: fed by changes of services, and of
/// pods as far as endpoints can see them.
fn queue(context: &Context) -> Queue<Key> {
    let queue = Queue::new();
    let tx = queue.clone();
    context.caches.services.subscribe(move |old, new| {
        if let Some(service) = new.or(old) {
            tx.add(Key::of(&service.metadata));
        }
    });
    let (tx, services) = (queue.clone(), context.caches.services.clone());
    context.caches.pods.subscribe(move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && !concerns_endpoints(old, new)
        {
            return;
        }
        for key in services_of(&services, old, new) {
            tx.add(key);
        }
    });
    queue
}

/// The services that select the pod as it was or as it is.
fn services_of(
    services: &Cache<Service>,
    old: Option<&Arc<Pod>>,
    new: Option<&Arc<Pod>>,
) -> Vec<Key> {
    let Some(pod) = new.or(old) else { return Vec::new() };
    let selected =
        |service: &Arc<Service>| old.into_iter().chain(new).any(|pod| selects(service, pod));
    let services = services.in_namespace(meta::namespace(&pod.metadata));
    services
        .iter()
        .filter(|service| selected(service))
        .map(|service| Key::of(&service.metadata))
        .collect()
}

/// Whether the pod changed in anything that endpoints show. Pods change often
/// in ways that they do not.
fn concerns_endpoints(old: &Pod, new: &Pod) -> bool {
    fn view(pod: &Pod) -> impl PartialEq {
        let status = pod.status.as_ref();
        (
            meta::labels(&pod.metadata),
            meta::is_deleting(&pod.metadata),
            crate::pods::is_ready(pod),
            crate::pods::is_terminal(pod),
            status.and_then(|status| status.pod_ip.as_deref()),
            status.and_then(|status| status.pod_ips.as_deref()),
            crate::pods::node_name(pod),
        )
    }
    view(old) != view(new)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = selector(service) else { return false };
    let labels = meta::labels(&pod.metadata);
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The selector of a service whose endpoints are ours to write.
fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// The backends of a service, `None` when somebody else writes its endpoints.
fn backends_of(caches: &Caches, service: &Service) -> Option<Vec<Backend>> {
    selector(service)?;
    let mut pods = caches.pods.in_namespace(meta::namespace(&service.metadata));
    pods.retain(|pod| selects(service, pod));
    Some(plan_backends(service, &pods, |node| caches.nodes.get(&Key::new("", node))))
}
