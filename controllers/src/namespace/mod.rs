//! Namespace controller: empties a namespace that is being deleted, then lets
//! it go.
//!
//! Reads Namespaces and, through discovery, whatever can live in one. Deletes
//! that content and writes the namespace's `status.conditions` and
//! `spec.finalizers`, nothing else.
//!
//! Pods go first and the rest follows when they are gone, so that a pod's last
//! moments still have its ConfigMaps, Secrets and network policies. Every pass
//! begins anew with what is there; content that is held by finalizers brings
//! another pass with back-off, the end of the last pod brings one at once.

mod defaults;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::discovery::ApiResource;
use kube::{Api, Client};

pub(crate) use self::defaults::NamespaceDefaults;
use crate::context::Context;
use crate::discovery::{self, Served};
use crate::error::{Doing, Error, chain, ignore_not_found, is_not_found};
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// The finalizer in `spec` that stands for the namespace's content.
const FINALIZER: &str = "kubernetes";

/// The namespace controller.
pub(crate) struct Namespaces {
    context: Context,
}

impl Namespaces {
    /// The controller and the queue of namespace names that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<String>) {
        let queue = Queue::new();
        let tx = queue.clone();
        context.caches.namespaces.subscribe(move |_, new| {
            if let Some(namespace) = new.filter(|namespace| meta::is_deleting(&namespace.metadata))
            {
                tx.add(meta::name(&namespace.metadata).to_owned());
            }
        });
        let (tx, caches) = (queue.clone(), Arc::clone(&context.caches));
        context.caches.pods.subscribe(move |old, new| {
            if let (Some(pod), None) = (old, new) {
                let name = meta::namespace(&pod.metadata);
                let namespace = caches.namespaces.get(&Key::new("", name));
                if namespace.is_some_and(|namespace| meta::is_deleting(&namespace.metadata)) {
                    tx.add(name.to_owned());
                }
            }
        });
        (Arc::new(Self { context: context.clone() }), queue)
    }

    /// Deletes the namespace's content and tells what is left of it.
    async fn delete_content(&self, namespace: &str) -> Left {
        let client = &self.context.client;
        let mut left = Left::default();
        let served = match discovery::namespaced(client).await {
            Ok(served) => served,
            Err(err) => {
                left.discovery_failure = Some(chain(&err));
                return left;
            }
        };
        let (pods, others): (Vec<_>, Vec<_>) = served.into_iter().partition(Served::is_pods);
        for served in &pods {
            left.delete(client, namespace, served).await;
        }
        if left.resources.is_empty() {
            for served in &others {
                left.delete(client, namespace, served).await;
            }
        }
        left
    }

    async fn write_conditions(&self, namespace: &Namespace, left: &Left) -> Result<(), Error> {
        let mut status = namespace.status.clone().unwrap_or_default();
        let conditions = plan_conditions(&status, left, meta::now());
        if status.conditions.as_ref() == Some(&conditions) {
            return Ok(());
        }
        status.conditions = Some(conditions);
        let name = meta::name(&namespace.metadata);
        let update = Namespace { status: Some(status), ..namespace.clone() };
        let api = skiff_client::Api::<Namespace>::all(self.context.client.clone());
        let updated =
            ignore_not_found(api.replace_status(name, &PostParams::default(), &update).await);
        updated.map(drop).doing(|| format!("update status of namespace {name}"))
    }

    /// Takes our finalizer off, whereupon the server removes the namespace.
    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let name = meta::name(&namespace.metadata);
        let mut update = namespace.clone();
        if let Some(finalizers) = update.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api = skiff_client::Api::<Namespace>::all(self.context.client.clone());
        let finalized =
            api.replace_subresource("finalize", name, &PostParams::default(), &update).await;
        ignore_not_found(finalized).map(drop).doing(|| format!("finalize namespace {name}"))
    }
}

impl Controller for Namespaces {
    type Key = String;
    const NAME: &'static str = "namespace";

    async fn pass(&self, name: &String) -> Result<Next, Error> {
        let Some(namespace) = self.context.caches.namespaces.get(&Key::new("", name)) else {
            return Ok(Next::OnChange);
        };
        let mut finalizers =
            namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
        if !meta::is_deleting(&namespace.metadata)
            || !finalizers.any(|finalizer| finalizer == FINALIZER)
        {
            return Ok(Next::OnChange);
        }
        let left = self.delete_content(name).await;
        if left.is_nothing() {
            self.finalize(&namespace).await?;
            return Ok(Next::OnChange);
        }
        self.write_conditions(&namespace, &left).await?;
        Err(Error::Unfinished(format!("namespace {name} still has {}", left.summary())))
    }
}

/// What is left of a namespace's content.
#[derive(Debug, Default, PartialEq)]
struct Left {
    /// Why it is not known what there is.
    discovery_failure: Option<String>,
    /// Deletions that were refused.
    deletion_failures: Vec<String>,
    /// How many objects of each resource are still there.
    resources: BTreeMap<String, usize>,
    /// How many of them each finalizer holds.
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    /// Deletes all objects of one resource and counts the rest.
    async fn delete(&mut self, client: &Client, namespace: &str, served: &Served) {
        let resource = &served.resource;
        if let Err(err) = self.try_delete(client, namespace, served).await {
            self.deletion_failures.push(format!("{}: {}", qualified(resource), chain(&err)));
        }
    }

    async fn try_delete(
        &mut self,
        client: &Client,
        namespace: &str,
        served: &Served,
    ) -> Result<(), kube::Error> {
        let resource = &served.resource;
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(client.clone(), namespace, resource);
        let all = ListParams::default();
        if api.list(&all).await?.items.is_empty() {
            return Ok(());
        }
        let dynamic: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
        let params = DeleteParams::background();
        if served.deletes_collections {
            dynamic.delete_collection(&params, &all).await?;
        } else {
            for object in api.list(&all).await?.items {
                match dynamic.delete(meta::name(&object.metadata), &params).await {
                    Ok(_) => {}
                    Err(err) if is_not_found(&err) => {}
                    Err(err) => return Err(err),
                }
            }
        }
        for object in api.list(&all).await?.items {
            *self.resources.entry(qualified(resource)).or_default() += 1;
            for finalizer in object.metadata.finalizers.into_iter().flatten() {
                *self.finalizers.entry(finalizer).or_default() += 1;
            }
        }
        Ok(())
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn summary(&self) -> String {
        if let Some(failure) = &self.discovery_failure {
            return format!("content that could not be discovered: {failure}");
        }
        if let Some(failure) = self.deletion_failures.first() {
            return format!("content that could not be deleted: {failure}");
        }
        self.remaining()
    }

    /// `pods. has 2 resource instances`, for each resource.
    fn remaining(&self) -> String {
        let counted = |(resource, count)| format!("{resource} has {count} resource instances");
        self.resources.iter().map(counted).collect::<Vec<_>>().join(", ")
    }

    /// `example.com/hold in 1 resource instances`, for each finalizer.
    fn held(&self) -> String {
        let counted = |(name, count)| format!("{name} in {count} resource instances");
        self.finalizers.iter().map(counted).collect::<Vec<_>>().join(", ")
    }
}

/// `pods.`, `deployments.apps`: how the conditions name a resource.
fn qualified(resource: &ApiResource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

/// The conditions that tell a waiting user what holds the namespace.
fn plan_conditions(
    known: &NamespaceStatus,
    left: &Left,
    now: jiff::Timestamp,
) -> Vec<NamespaceCondition> {
    let refused = (!left.deletion_failures.is_empty()).then(|| {
        let (count, failures) = (left.deletion_failures.len(), left.deletion_failures.join(", "));
        format!("Failed to delete all resource types, {count} remaining: {failures}")
    });
    let remaining = (!left.resources.is_empty())
        .then(|| format!("Some resources are remaining: {}", left.remaining()));
    let held = (!left.finalizers.is_empty()).then(|| {
        format!("Some content in the namespace has finalizers remaining: {}", left.held())
    });
    // Type; the trouble, if there is any, and its reason; reason and message
    // when there is none.
    let desired = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (left.discovery_failure.clone(), "DiscoveryFailed"),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            (None, "GroupVersionParsingFailed"),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (refused, "ContentDeletionFailed"),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (remaining, "SomeResourcesRemain"),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (held, "SomeFinalizersRemain"),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut conditions = known.conditions.clone().unwrap_or_default();
    for (type_, (trouble, why), (fine, all_is_well)) in desired {
        let (status, reason, message) = match trouble {
            Some(trouble) => ("True", why, trouble),
            None => ("False", fine, all_is_well.to_owned()),
        };
        let old = conditions.iter().find(|condition| condition.type_ == type_);
        let since = old
            .filter(|old| old.status == status)
            .and_then(|old| old.last_transition_time.clone())
            .unwrap_or_else(|| meta::time(now));
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_is_left() {
        let left = Left {
            resources: [("pods.".to_owned(), 2)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Left::default()
        };
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let conditions = plan_conditions(&NamespaceStatus::default(), &left, at(5));
        let seen: Vec<(&str, &str, &str)> = conditions
            .iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| {
                (
                    condition.type_.as_str(),
                    condition.reason.as_deref().unwrap(),
                    condition.message.as_deref().unwrap(),
                )
            })
            .collect();
        let expected = [
            (
                "NamespaceContentRemaining",
                "SomeResourcesRemain",
                "Some resources are remaining: pods. has 2 resource instances",
            ),
            (
                "NamespaceFinalizersRemaining",
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
            ),
        ];
        assert_eq!(seen, expected);
        let known = NamespaceStatus { conditions: Some(conditions.clone()), phase: None };
        assert_eq!(plan_conditions(&known, &left, at(9)), conditions, "nothing is written twice");
    }
}
