//! What every namespace has: the ServiceAccount `default`, under which pods
//! run that name no other, and the ConfigMap `kube-root-ca.crt`, by which pods
//! trust the API server.
//!
//! Reads Namespaces and the objects of those two names. Writes these objects,
//! nothing else. What is deleted comes back, what is changed is put right.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::Api;

use crate::context::Context;
use crate::error::{Doing, Error, is_already_exists, is_namespace_terminating, is_not_found};
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// The ServiceAccount of pods that name none.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap with the cluster's CA.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key, which the projected volume of every pod names.
const CA_KEY: &str = "ca.crt";

/// The controller of what every namespace has.
pub(crate) struct NamespaceDefaults {
    context: Context,
}

impl NamespaceDefaults {
    /// The controller and the queue of namespace names that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<String>) {
        let queue = Queue::new();
        let caches = &context.caches;
        let tx = queue.clone();
        caches.namespaces.subscribe(move |_, new| {
            if let Some(namespace) = new {
                tx.add(meta::name(&namespace.metadata).to_owned());
            }
        });
        let tx = queue.clone();
        caches.default_accounts.subscribe(move |old, new| {
            if let (Some(account), None) = (old, new) {
                tx.add(meta::namespace(&account.metadata).to_owned());
            }
        });
        let tx = queue.clone();
        caches.root_ca_maps.subscribe(move |old, new| {
            if let Some(map) = new.or(old) {
                tx.add(meta::namespace(&map.metadata).to_owned());
            }
        });
        (Arc::new(Self { context: context.clone() }), queue)
    }

    async fn ensure_account(&self, namespace: &str) -> Result<(), Error> {
        if self.context.caches.default_accounts.get(&Key::new(namespace, DEFAULT_ACCOUNT)).is_some()
        {
            return Ok(());
        }
        let account = ServiceAccount {
            metadata: named(namespace, DEFAULT_ACCOUNT),
            ..ServiceAccount::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), namespace);
        created(api.create(&PostParams::default(), &account).await, || {
            format!("create service account {namespace}/{DEFAULT_ACCOUNT}")
        })
    }

    async fn ensure_root_ca(&self, namespace: &str) -> Result<(), Error> {
        let desired = &self.context.config.ca_pem;
        if desired.is_empty() {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), namespace);
        let observed = self.context.caches.root_ca_maps.get(&Key::new(namespace, ROOT_CA));
        match observed {
            None => {
                let data = [(CA_KEY.to_owned(), desired.clone())].into();
                let map = ConfigMap {
                    metadata: named(namespace, ROOT_CA),
                    data: Some(data),
                    ..ConfigMap::default()
                };
                created(api.create(&PostParams::default(), &map).await, || {
                    format!("create config map {namespace}/{ROOT_CA}")
                })
            }
            Some(observed)
                if observed.data.as_ref().and_then(|data| data.get(CA_KEY)) == Some(desired) =>
            {
                Ok(())
            }
            Some(_) => {
                let patch = json!({ "data": { CA_KEY: desired } });
                let patched =
                    api.patch(ROOT_CA, &PatchParams::default(), &Patch::Merge(&patch)).await;
                patched.map(drop).doing(|| format!("repair config map {namespace}/{ROOT_CA}"))
            }
        }
    }
}

impl Controller for NamespaceDefaults {
    type Key = String;
    const NAME: &'static str = "namespace-defaults";

    async fn pass(&self, namespace: &String) -> Result<Next, Error> {
        let observed = self.context.caches.namespaces.get(&Key::new("", namespace));
        if observed.is_some_and(|observed| !meta::is_deleting(&observed.metadata)) {
            self.ensure_account(namespace).await?;
            self.ensure_root_ca(namespace).await?;
        }
        Ok(Next::OnChange)
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// Creating what is there already, or in a namespace that is going, is fine.
fn created<T>(result: Result<T, kube::Error>, what: impl FnOnce() -> String) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(err)
            if is_already_exists(&err) || is_namespace_terminating(&err) || is_not_found(&err) =>
        {
            Ok(())
        }
        Err(err) => Err(err).doing(what),
    }
}
