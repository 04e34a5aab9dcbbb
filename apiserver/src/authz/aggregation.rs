//! Keeps the rules of aggregated ClusterRoles equal to what their selectors
//! choose.
//!
//! Deciding is [`Policy::plan_aggregation`](super::rbac::Policy); this file
//! waits for a change and writes. A write changes roles, so the next round
//! looks again and finds nothing to do.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use skiff_client::Api;
use tokio_util::sync::CancellationToken;

use super::live::Live;

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

/// Follows the roles until cancelled.
pub async fn run(live: Arc<Live>, client: Client, cancel: CancellationToken) {
    let api: Api<ClusterRole> = Api::all(client);
    let mut changes = live.role_changes();
    loop {
        for (name, rules) in live.policy(super::rbac::Policy::plan_aggregation) {
            let patch = Patch::Merge(json!({ "rules": rules }));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                Ok(_) => tracing::debug!(role = name, "aggregated rules written"),
                // Deleted meanwhile, or a race lost: its change wakes us again.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => tracing::warn!(role = name, %error, "cannot write aggregated rules"),
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
