//! What all controllers share: the client, the caches, the event recorder and
//! the configuration.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::cache::{Cache, Shape};
use crate::events::Recorder;
use crate::{meta, pods};

/// The shared parts. Clones share them.
#[derive(Clone)]
pub(crate) struct Context {
    /// Talks to the API server.
    pub(crate) client: Client,
    /// What is known of the cluster.
    pub(crate) caches: Arc<Caches>,
    /// Takes events.
    pub(crate) events: Recorder,
    /// What `run` was told.
    pub(crate) config: Arc<Config>,
}

/// One cache, and with it one watch, per kind.
pub(crate) struct Caches {
    /// Pods, without what only the kubelet reads.
    pub(crate) pods: Cache<Pod>,
    /// ReplicaSets.
    pub(crate) replica_sets: Cache<ReplicaSet>,
    /// ReplicationControllers.
    pub(crate) replication_controllers: Cache<ReplicationController>,
    /// Deployments.
    pub(crate) deployments: Cache<Deployment>,
    /// Services.
    pub(crate) services: Cache<Service>,
    /// EndpointSlices, found by their service (`service_term`).
    pub(crate) slices: Cache<EndpointSlice>,
    /// Endpoints.
    pub(crate) endpoints: Cache<Endpoints>,
    /// Namespaces.
    pub(crate) namespaces: Cache<Namespace>,
    /// Nodes, without their list of images.
    pub(crate) nodes: Cache<Node>,
    /// Leases, of which those in `kube-node-lease` are the nodes' signs of life.
    pub(crate) leases: Cache<Lease>,
    /// Events, of which only the age matters.
    pub(crate) events: Cache<PartialObjectMeta<Event>>,
    /// Bootstrap tokens, by which nodes join.
    pub(crate) bootstrap_tokens: Cache<Secret>,
    /// Requests for certificates.
    pub(crate) signing_requests: Cache<CertificateSigningRequest>,
    /// DaemonSets.
    pub(crate) daemon_sets: Cache<DaemonSet>,
    /// The templates that DaemonSets had, found by the uid of their owner.
    pub(crate) controller_revisions: Cache<ControllerRevision>,
    /// Jobs.
    pub(crate) jobs: Cache<Job>,
    /// ResourceQuotas.
    pub(crate) resource_quotas: Cache<ResourceQuota>,
    /// PodDisruptionBudgets.
    pub(crate) disruption_budgets: Cache<PodDisruptionBudget>,
    /// PersistentVolumes, found by the claim that they refer to.
    pub(crate) volumes: Cache<PersistentVolume>,
    /// PersistentVolumeClaims.
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    /// StorageClasses.
    pub(crate) storage_classes: Cache<StorageClass>,
    /// The ServiceAccounts called `default`, of every namespace.
    pub(crate) default_accounts: Cache<ServiceAccount>,
    /// The ConfigMaps called `kube-root-ca.crt`, of every namespace.
    pub(crate) root_ca_maps: Cache<ConfigMap>,
}

/// Index term of the EndpointSlices of a service.
pub(crate) fn service_term(namespace: &str, service: &str) -> String {
    format!("{namespace}/{service}")
}

impl Caches {
    /// Empty caches.
    pub(crate) fn new() -> Self {
        let strip_node = |node: &mut Node| {
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        };
        let index_slice = |slice: &EndpointSlice| {
            let service = meta::labels(&slice.metadata).get(crate::endpoints::SERVICE_NAME);
            service
                .map(|service| service_term(meta::namespace(&slice.metadata), service))
                .into_iter()
                .collect()
        };
        let index_owner = |revision: &ControllerRevision| {
            let owner = meta::controller_of(&revision.metadata);
            owner.map(|owner| pods::by_controller(&owner.uid)).into_iter().collect()
        };
        Self {
            pods: Cache::new(pods::shape()),
            replica_sets: Cache::new(Shape::default()),
            replication_controllers: Cache::new(Shape::default()),
            deployments: Cache::new(Shape::default()),
            services: Cache::new(Shape::default()),
            slices: Cache::new(Shape { index: index_slice, ..Shape::default() }),
            endpoints: Cache::new(Shape::default()),
            namespaces: Cache::new(Shape::default()),
            nodes: Cache::new(Shape { strip: strip_node, ..Shape::default() }),
            leases: Cache::new(Shape::default()),
            events: Cache::new(Shape { strip: crate::expiry::strip_event, ..Shape::default() }),
            bootstrap_tokens: Cache::new(Shape::default()),
            signing_requests: Cache::new(Shape::default()),
            daemon_sets: Cache::new(Shape::default()),
            controller_revisions: Cache::new(Shape { index: index_owner, ..Shape::default() }),
            jobs: Cache::new(Shape::default()),
            resource_quotas: Cache::new(Shape::default()),
            disruption_budgets: Cache::new(Shape::default()),
            volumes: Cache::new(Shape { index: crate::volume::index_volume, ..Shape::default() }),
            claims: Cache::new(Shape::default()),
            storage_classes: Cache::new(Shape::default()),
            default_accounts: Cache::new(Shape::default()),
            root_ca_maps: Cache::new(Shape::default()),
        }
    }

    /// Starts the watches. Subscribe first.
    pub(crate) fn start(
        &self,
        client: &Client,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        cancel: &CancellationToken,
    ) {
        macro_rules! watch {
            ($($cache:ident: $config:expr),+ $(,)?) => {
                $({
                    let run = self.$cache.clone().run(client.clone(), $config, cancel.clone());
                    tasks.spawn(async move { run.await; Ok(()) });
                })+
            };
        }
        let all = watcher::Config::default;
        watch! {
            pods: all(),
            replica_sets: all(),
            replication_controllers: all(),
            deployments: all(),
            services: all(),
            slices: all(),
            endpoints: all(),
            namespaces: all(),
            nodes: all(),
            leases: all(),
            events: all(),
            bootstrap_tokens: all().fields("type=bootstrap.kubernetes.io/token"),
            signing_requests: all(),
            daemon_sets: all(),
            controller_revisions: all(),
            jobs: all(),
            resource_quotas: all(),
            disruption_budgets: all(),
            volumes: all(),
            claims: all(),
            storage_classes: all(),
            default_accounts: all().fields("metadata.name=default"),
            root_ca_maps: all().fields("metadata.name=kube-root-ca.crt"),
        }
    }

    /// Waits until all caches hold their first list.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.replica_sets.synced().await;
        self.replication_controllers.synced().await;
        self.deployments.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.endpoints.synced().await;
        self.namespaces.synced().await;
        self.nodes.synced().await;
        self.leases.synced().await;
        self.events.synced().await;
        self.bootstrap_tokens.synced().await;
        self.signing_requests.synced().await;
        self.daemon_sets.synced().await;
        self.controller_revisions.synced().await;
        self.jobs.synced().await;
        self.resource_quotas.synced().await;
        self.disruption_budgets.synced().await;
        self.volumes.synced().await;
        self.claims.synced().await;
        self.storage_classes.synced().await;
        self.default_accounts.synced().await;
        self.root_ca_maps.synced().await;
    }
}
