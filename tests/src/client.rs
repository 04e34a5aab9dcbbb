//! A client of one server of a cluster.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};

/// The user of `kubeconfig` at one of the cluster's servers, `https://…`.
/// Nothing is sent twice: what a call said is what one request brought.
pub async fn client_of(kubeconfig: &Path, server: &str) -> kube::Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a configuration");
    config.cluster_url = server.parse().expect("a URL");
    config.default_retry = false;
    kube::Client::try_from(config).expect("a client")
}
