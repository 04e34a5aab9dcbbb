//! Keeps the rules of aggregated ClusterRoles equal to what their selectors
//! choose.
//!
//! Deciding is [`Policy::plan_aggregation`](super::rbac::Policy); this file
//! waits for a change and writes. A write changes roles, so the next round
//! looks again and finds nothing to do. A write that failed changes none, so it
//! is looked at again after a while. The leading master alone writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use skiff_client::Api;

use super::live::Live;

/// How long is waited after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Waits until aggregated roles hold all that is there for them, but no longer
/// than `limit`.
pub async fn settled(live: &Live, limit: Duration) {
    let mut changes = live.role_changes();
    let gathered = async {
        loop {
            live.catch_up(limit).await;
            let plan = live.policy(super::rbac::Policy::plan_aggregation);
            if plan.is_empty() || changes.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(limit, gathered).await.is_err() {
        tracing::info!("aggregated roles do not hold everything yet");
    }
}

/// Follows the roles for ever.
pub(crate) async fn run(live: Arc<Live>, client: Client) {
    let api: Api<ClusterRole> = Api::all(client);
    let mut changes = live.role_changes();
    loop {
        let mut failed = false;
        for (name, rules) in live.policy(super::rbac::Policy::plan_aggregation) {
            let patch = Patch::Merge(json!({ "rules": rules }));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                Ok(_) => tracing::debug!(role = name, "aggregated rules written"),
                // Deleted meanwhile, or a race lost: its change wakes us again.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(role = name, %error, "cannot write aggregated rules");
                    failed = true;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}
