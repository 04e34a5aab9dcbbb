//! A master: store, API server, and what runs on the leader.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use skiff_apiserver::ApiServer;
use skiff_apiserver::user::UserInfo;
use skiff_store::{Leadership, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::args::{ClusterArgs, CommonArgs};
use super::cluster_info::{self, ClusterInfo};
use super::etcd_url::open_store;
use super::supervise::Supervisor;

/// A running master.
pub(super) struct Master {
    /// Its API server.
    pub(super) api: ApiServer,
    /// What it told its nodes about the cluster.
    pub(super) info: ClusterInfo,
    store: Store,
}

impl Master {
    /// Opens the store, serves the API, and runs the leader's tasks while this
    /// master leads.
    pub(super) async fn start(
        data_dir: &Path,
        address: IpAddr,
        common: &CommonArgs,
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
        let store = open_store(data_dir, sealing_key, &cluster.store).await?;
        let (failing, cancel) = (store.clone(), supervisor.cancel.clone());
        supervisor.spawn("store", async move {
            tokio::select! {
                error = failing.failed() => Err(error.into()),
                () = cancel.cancelled() => Ok(()),
            }
        });
        let info = ClusterInfo {
            cluster_cidr: cluster.cluster_cidr,
            service_cidr: cluster.service_cidr,
            cluster_dns: config.dns_service_ip(),
            cluster_domain: config.cluster_domain.clone(),
        };
        let api = skiff_apiserver::start(config, store.clone()).await?;
        let leader = Leader {
            admin: api.client(UserInfo::loopback()),
            controllers: api.client(system("kube-controller-manager")),
            scheduler: api.client(system("kube-scheduler")),
            info: info.clone(),
            config: skiff_controllers::Config {
                cluster_cidr: info.cluster_cidr,
                ca_pem: api.pki().ca_pem().to_owned(),
                node_monitor_grace: Duration::from_secs(common.node_lease_seconds.into()),
                ..skiff_controllers::Config::default()
            },
        };
        supervisor
            .spawn("leader's tasks", leader.lead(store.leadership(), supervisor.cancel.clone()));
        Ok(Self { api, info, store })
    }

    /// Stops serving, then closes the store; whatever was acknowledged is on disk.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.api.shutdown().await;
        self.store.close().await.context("the store did not close cleanly")
    }
}

/// What only the leader runs.
struct Leader {
    admin: Client,
    controllers: Client,
    scheduler: Client,
    info: ClusterInfo,
    config: skiff_controllers::Config,
}

impl Leader {
    /// Runs controllers and scheduler while this master leads. They end before
    /// a change of leadership is acted on, so two of them never run at once here.
    async fn lead(
        self,
        mut leadership: watch::Receiver<Leadership>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            if leadership.borrow_and_update().is_leader {
                info!("leading: starting controllers and scheduler");
                cluster_info::publish(&self.admin, &self.info).await?;
                let term = cancel.child_token();
                let work = self.work(term.clone());
                tokio::pin!(work);
                tokio::select! {
                    result = &mut work => result?,
                    () = deposed(&mut leadership) => {
                        term.cancel();
                        work.await?;
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = leadership.changed() => changed.context("the store has closed")?,
            }
        }
    }

    async fn work(&self, term: CancellationToken) -> anyhow::Result<()> {
        tokio::try_join!(
            skiff_controllers::run(self.controllers.clone(), self.config.clone(), term.clone()),
            skiff_scheduler::run(self.scheduler.clone(), term.clone()),
        )
        .map(drop)
    }
}

/// Waits until this master leads no more. A closed channel is the store's end.
async fn deposed(leadership: &mut watch::Receiver<Leadership>) {
    while leadership.changed().await.is_ok() && leadership.borrow_and_update().is_leader {}
}

fn system(name: &str) -> UserInfo {
    UserInfo::new(&format!("system:{name}"), ["system:authenticated"])
}
