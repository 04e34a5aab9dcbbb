//! Which resources the server has, for the controllers that work on all kinds.

use std::time::Duration;

use kube::Client;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use tracing::warn;

use crate::error::chain;

/// Groups whose objects are all served under a newer group as well.
const MOVED_GROUPS: [&str; 1] = ["extensions"];

/// A resource that can be listed and deleted.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// How to address it.
    pub(crate) resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Whether it can be watched.
    pub(crate) watchable: bool,
    /// Whether all its objects can be deleted in one request.
    pub(crate) deletes_collections: bool,
}

impl Served {
    /// Whether these are the core group's pods.
    pub(crate) fn is_pods(&self) -> bool {
        self.resource.group.is_empty() && self.resource.plural == "pods"
    }
}

/// All resources that can be listed and deleted, each in the version its group
/// prefers.
pub(crate) async fn all(client: &Client) -> Result<Vec<Served>, kube::Error> {
    let discovery = Discovery::new(client.clone()).exclude(&MOVED_GROUPS).run().await?;
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    let deletable = resources.filter(|(_, capabilities)| {
        capabilities.supports_operation(verbs::LIST)
            && capabilities.supports_operation(verbs::DELETE)
    });
    Ok(deletable
        .map(|(resource, capabilities)| Served {
            resource,
            namespaced: capabilities.scope == Scope::Namespaced,
            watchable: capabilities.supports_operation(verbs::WATCH),
            deletes_collections: capabilities.supports_operation(verbs::DELETE_COLLECTION),
        })
        .collect())
}

/// The same, asked for until the server answers.
pub(crate) async fn patiently(client: &Client) -> Vec<Served> {
    let mut delay = Duration::from_millis(100);
    loop {
        match all(client).await {
            Ok(served) => return served,
            Err(err) => warn!(error = chain(&err), "cannot discover kinds, will try again"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(30));
    }
}

/// Those that live in namespaces.
pub(crate) async fn namespaced(client: &Client) -> Result<Vec<Served>, kube::Error> {
    let mut served = all(client).await?;
    served.retain(|served| served.namespaced);
    Ok(served)
}
