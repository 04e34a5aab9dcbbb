//! Supervisor: wires the controllers, starts them, and ends them together.

use std::sync::Arc;

use anyhow::bail;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::Config;
use crate::context::{Caches, Context};
use crate::daemonset::DaemonSets;
use crate::deployment::Deployments;
use crate::disruption::Disruptions;
use crate::endpoints::{LegacyEndpoints, Slices};
use crate::events;
use crate::expiry::Expiry;
use crate::gc::Collector;
use crate::job::Jobs;
use crate::namespace::{NamespaceDefaults, Namespaces};
use crate::node::{NodeAddresses, NodeLifecycle, TaintEvictions};
use crate::podgc::PodCollector;
use crate::replicaset::ReplicaSets;
use crate::resource_quota::{self, ResourceQuotas};
use crate::runner;
use crate::volume::{ClaimProtection, EphemeralVolumes, VolumeBinder, VolumeProtection};

/// Runs all controllers until cancelled. To be run where the store's leader
/// is, and cancelled when it moves: two sets of controllers would not break
/// anything, every write is conditional, but they would do work twice.
///
/// A controller that ends unasked ends all of them with an error.
pub async fn run(client: Client, config: Config, cancel: CancellationToken) -> anyhow::Result<()> {
    let (cluster, mask) = (config.cluster_cidr, config.node_cidr_mask);
    if mask < cluster.prefix_len() || mask > 30 {
        bail!("the node CIDR mask is {mask}, it must be from {} to 30", cluster.prefix_len());
    }
    // A cancel of ours stops everything when one part fails; the caller's stops
    // us too.
    let cancel = cancel.child_token();
    let (recorder, sender) = events::channel(client.clone());
    let caches = Arc::new(Caches::new());
    let context = Context { client, caches, events: recorder, config: Arc::new(config) };

    let mut tasks = JoinSet::new();
    let mut waiting: Vec<Start> = Vec::new();
    // Subscribing comes before the caches start, so no change is missed;
    // passes come after they are filled, so none acts on half a picture.
    macro_rules! controllers {
        ($($made:expr),+ $(,)?) => {
            $({
                let (controller, queue) = $made;
                let cancel = cancel.clone();
                waiting.push(Box::new(move |tasks| {
                    tasks.spawn(runner::run(controller, queue, cancel));
                }));
            })+
        };
    }
    let (quotas, quota_queue) = ResourceQuotas::new(&context);
    let gone = resource_quota::wake(&quota_queue, &context.caches.resource_quotas);
    controllers![
        (quotas, quota_queue),
        ReplicaSets::<ReplicaSet>::new(&context, &context.caches.replica_sets),
        ReplicaSets::<ReplicationController>::new(
            &context,
            &context.caches.replication_controllers
        ),
        Deployments::new(&context),
        DaemonSets::new(&context),
        Jobs::new(&context),
        Slices::new(&context),
        LegacyEndpoints::new(&context),
        Namespaces::new(&context),
        NamespaceDefaults::new(&context),
        NodeAddresses::new(&context, cluster),
        NodeLifecycle::new(&context),
        TaintEvictions::new(&context),
        PodCollector::new(&context),
        Disruptions::new(&context),
        VolumeBinder::new(&context),
        EphemeralVolumes::new(&context),
        ClaimProtection::new(&context),
        VolumeProtection::new(&context),
        Expiry::new(&context, &context.caches.events),
        Expiry::new(&context, &context.caches.bootstrap_tokens),
        Expiry::new(&context, &context.caches.signing_requests),
    ];
    let (collector, collecting) = (Arc::new(Collector::new(&context, gone)), cancel.clone());
    waiting.push(Box::new(move |tasks| {
        tasks.spawn(collector.run(collecting));
    }));
    let sending = sender.run(cancel.clone());
    tasks.spawn(async move {
        sending.await;
        Ok(())
    });
    context.caches.start(&context.client, &mut tasks, &cancel);

    tokio::select! {
        () = cancel.cancelled() => {}
        () = context.caches.synced() => {
            info!(controllers = waiting.len(), "caches are filled, controllers start");
            waiting.into_iter().for_each(|start| start(&mut tasks));
        }
    }
    supervise(tasks, cancel).await
}

type Start = Box<dyn FnOnce(&mut JoinSet<anyhow::Result<()>>) + Send>;

/// Waits for the cancel or for the first task to end unasked, then ends all.
async fn supervise(
    mut tasks: JoinSet<anyhow::Result<()>>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            // The cancel and the end of a task may be seen in either order.
            Ok(Ok(())) if cancel.is_cancelled() => Ok(()),
            Ok(Ok(())) => Err(anyhow::anyhow!("a controller task ended unasked")),
            Ok(Err(err)) => Err(err.context("a controller failed")),
            Err(err) => Err(anyhow::Error::new(err).context("a controller panicked")),
        },
    };
    cancel.cancel();
    // Every task watches the token, so this is a matter of milliseconds.
    while tasks.join_next().await.is_some() {}
    ended
}
