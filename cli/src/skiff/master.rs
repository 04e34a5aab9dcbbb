//! A master: store, API server, and what runs on the leader.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use skiff_apiserver::ApiServer;
use skiff_apiserver::user::UserInfo;
use skiff_store::{Contact, Leadership, PeerConfig, Store, StoreConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::args::{ClusterArgs, CommonArgs};
use super::cluster_info::{self, ClusterInfo};
use super::damage::WayOut;
use super::etcd_url::open_store;
use super::supervise::Supervisor;

/// A running master.
pub(super) struct Master {
    /// Its API server.
    pub(super) api: Arc<ApiServer>,
    /// What it told its nodes about the cluster.
    pub(super) info: ClusterInfo,
    store: Store,
}

/// Which of the masters this one is.
pub(super) struct Identity {
    /// What it calls itself.
    pub(super) name: String,
    /// The id it was given when it joined.
    pub(super) joined_as: Option<u64>,
    /// See [`StoreConfig::force_new_group`].
    pub(super) force_new_group: bool,
}

impl Master {
    /// Opens the store and serves the API. It may take until there is a quorum
    /// before it answers; see [`Master::ready`].
    pub(super) async fn start(
        data_dir: &Path,
        address: IpAddr,
        identity: Identity,
        cluster: &ClusterArgs,
        supervisor: &mut Supervisor,
    ) -> anyhow::Result<Self> {
        let config = skiff_apiserver::Config {
            names: cluster.tls_san.clone(),
            cluster_cidr: cluster.cluster_cidr.into(),
            service_cidr: cluster.service_cidr.into(),
            audit_policy_file: cluster.audit_policy_file.clone(),
            audit_log_path: cluster.audit_log_path.clone(),
            ..skiff_apiserver::Config::new(
                data_dir,
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, cluster.api_port)),
                address,
            )
        };
        config.validate()?;
        let sealing_key = skiff_apiserver::pki::sealing_key(data_dir)
            .context("cannot read the key that seals secrets")?;
        let pki = skiff_apiserver::open_pki(&config)?;
        let contact = Contact {
            address: SocketAddr::new(address, cluster.api_port).to_string(),
            name: identity.name,
            promote: false,
        };
        let store = StoreConfig {
            peers: Some(PeerConfig { contact, tls: pki.peer_client_config()? }),
            joined_as: identity.joined_as,
            force_new_group: identity.force_new_group,
            ..StoreConfig::new(data_dir.join("store"), sealing_key)
        };
        let damaged = WayOut { dir: data_dir.join("store"), joined_as: identity.joined_as };
        let store = open_store(store, &cluster.store).await.map_err(|error| damaged.tell(error))?;
        let (failing, cancel) = (store.clone(), supervisor.cancel.clone());
        supervisor.spawn("store", async move {
            tokio::select! {
                error = failing.failed() => Err(damaged.tell(error.into())),
                () = cancel.cancelled() => Ok(()),
            }
        });
        let info = ClusterInfo {
            cluster_cidr: cluster.cluster_cidr,
            service_cidr: cluster.service_cidr,
            cluster_dns: config.dns_service_ip(),
            cluster_domain: config.cluster_domain.clone(),
            masters: Vec::new(),
        };
        let api = skiff_apiserver::serve(config, pki, store.clone()).await?;
        Ok(Self { api: Arc::new(api), info, store })
    }

    /// Waits until the cluster's first objects are there, which takes a quorum,
    /// and from then on runs the leader's tasks whenever this master leads.
    /// `None` if a signal came first.
    pub(super) async fn ready(
        &self,
        common: &CommonArgs,
        supervisor: &mut Supervisor,
    ) -> anyhow::Result<Option<()>> {
        let bootstrap = async { Ok(self.api.bootstrap().await?) };
        if supervisor.wait_until(bootstrap).await?.is_none() {
            return Ok(None);
        }
        let leader = Leader {
            api: self.api.clone(),
            info: self.info.clone(),
            members: self.store.members_changed(),
            config: skiff_controllers::Config {
                cluster_cidr: self.info.cluster_cidr,
                ca_pem: self.api.pki().ca_pem().to_owned(),
                node_monitor_grace: Duration::from_secs(common.node_lease_seconds.into()),
                ..skiff_controllers::Config::default()
            },
        };
        let lead = leader.lead(self.store.leadership(), supervisor.cancel.clone());
        supervisor.spawn("leader's tasks", lead);
        Ok(Some(()))
    }

    /// Stops serving, then closes the store; whatever was acknowledged is on disk.
    /// The others go on at once if this one led.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        // A store that has failed has nothing to hand over.
        let _ = self.store.hand_over().await;
        match Arc::try_unwrap(self.api) {
            Ok(api) => api.shutdown().await,
            Err(_) => warn!("a task still holds the API server"),
        }
        self.store.close().await.context("the store did not close cleanly")
    }
}

/// What only the leader runs.
struct Leader {
    api: Arc<ApiServer>,
    info: ClusterInfo,
    members: watch::Receiver<u64>,
    config: skiff_controllers::Config,
}

/// How long is waited before what a leader publishes is tried again.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

impl Leader {
    /// Runs controllers and scheduler while this master leads. They end before
    /// a change of leadership is acted on, so two of them never run at once
    /// here; what they still had under way elsewhere is refused by its term.
    async fn lead(
        mut self,
        mut leadership: watch::Receiver<Leadership>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let now = *leadership.borrow_and_update();
            if now.is_leader {
                self.work(now.term, &mut leadership, cancel.child_token()).await?;
                if cancel.is_cancelled() {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = leadership.changed() => changed.context("the store has closed")?,
            }
        }
    }

    /// Works until this master no longer leads in `term`, or until cancelled.
    async fn work(
        &mut self,
        term: u64,
        leadership: &mut watch::Receiver<Leadership>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        info!(term, "leading: starting controllers and scheduler");
        let api = self.api.clone();
        let client = |name| api.client(system(name).in_term(term));
        let (controllers, scheduler) =
            (client("kube-controller-manager"), client("kube-scheduler"));
        let publisher = api.client(UserInfo::loopback().in_term(term));
        let work = async {
            tokio::try_join!(
                skiff_controllers::run(controllers, self.config.clone(), cancel.clone()),
                skiff_scheduler::run(scheduler, cancel.clone()),
                publish(&api, &self.info, &mut self.members, publisher, cancel.clone()),
            )
        };
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => return result.map(drop),
            () = deposed(leadership, term) => info!(term, "leading no more"),
        }
        cancel.cancel();
        work.await.map(drop)
    }
}

/// Says what nodes and pods must know of the cluster, again after every change
/// of its masters.
async fn publish(
    api: &ApiServer,
    info: &ClusterInfo,
    members: &mut watch::Receiver<u64>,
    client: Client,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        members.borrow_and_update();
        let info = ClusterInfo { masters: api.masters(), ..info.clone() };
        let published = async {
            cluster_info::publish(&client, &info).await?;
            anyhow::Ok(api.ensure_masters().await?)
        };
        let failed = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            result = published => result.err(),
        };
        let again = async {
            match failed {
                // A quorum that is lost comes back, or this term is over.
                Some(error) => {
                    warn!(error = format!("{error:#}"), "cannot publish, will try again");
                    tokio::time::sleep(PUBLISH_PAUSE).await;
                }
                // A closed channel is the store's end, which others notice.
                None if members.changed().await.is_err() => std::future::pending().await,
                None => {}
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = again => {}
        }
    }
}

/// Waits until this master no longer leads in `term`. A closed channel is the
/// store's end.
async fn deposed(leadership: &mut watch::Receiver<Leadership>, term: u64) {
    let _ = leadership.wait_for(|now| !now.is_leader || now.term != term).await;
}

fn system(name: &str) -> UserInfo {
    UserInfo::new(&format!("system:{name}"), ["system:authenticated"])
}
