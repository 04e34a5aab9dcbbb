//! The controllers against a real API server in the same process, with nodes
//! whose pods run in name only.

#![allow(clippy::unwrap_used)]

mod collection;
mod hollow;
mod nodes;
mod quota;
mod workloads;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use kube::Client;
use skiff_apiserver::user::UserInfo;
use skiff_apiserver::{ApiServer, Config};
use skiff_store::Store;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come. Far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An API server over a store in memory, with the controllers at work.
struct Cluster {
    client: Client,
    store: Store,
    cancel: CancellationToken,
    controllers: JoinHandle<anyhow::Result<()>>,
    server: ApiServer,
    _dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(skiff_controllers::Config::default()).await
    }

    async fn start_with(config: skiff_controllers::Config) -> Self {
        // Another test of the same process may have been first.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::memory().await.unwrap();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        // Nobody connects to it; endpoints may not be loopback addresses.
        let advertise = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let server = Config::new(dir.path(), (loopback, 0).into(), advertise);
        let server = skiff_apiserver::start(server, store.clone()).await.unwrap();
        let manager = UserInfo::new("system:kube-controller-manager", ["system:authenticated"]);
        let cancel = CancellationToken::new();
        let config = skiff_controllers::Config { ca_pem: "a CA".into(), ..config };
        let run = skiff_controllers::run(server.client(manager), config, cancel.clone());
        let controllers = tokio::spawn(run);
        Self {
            client: server.client(UserInfo::loopback()),
            store,
            cancel,
            controllers,
            server,
            _dir: dir,
        }
    }

    /// Ends the controllers, which must neither have failed nor linger.
    async fn stop(self) {
        self.cancel.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.controllers).await;
        ended.expect("controllers end promptly").unwrap().unwrap();
        self.server.shutdown().await;
    }
}

/// Waits until `probe` finds something.
async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
