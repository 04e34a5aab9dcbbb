//! A node: the agent that runs pods, and the proxy that leads to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;

use super::args::{CommonArgs, NodeArgs};
use super::cluster_info::ClusterInfo;
use super::supervise::Supervisor;

/// What a node needs to know of its cluster.
pub(super) struct Cluster {
    /// A client that acts as this node.
    pub(super) client: Client,
    /// The cluster's CA.
    pub(super) ca_pem: String,
    /// Its address ranges and DNS.
    pub(super) info: ClusterInfo,
}

/// Starts agent and proxy; the receiver turns true when VIPs and DNS work.
pub(super) fn start(
    name: &str,
    address: IpAddr,
    data_dir: &Path,
    common: &CommonArgs,
    node: &NodeArgs,
    cluster: Cluster,
    supervisor: &mut Supervisor,
) -> watch::Receiver<bool> {
    let default = skiff_agent::Config::new(name, data_dir);
    let agent = skiff_agent::Config {
        node_ip: address,
        docker_socket: node.docker_socket.clone(),
        listen: SocketAddr::from(([0, 0, 0, 0], node.agent_port)),
        cluster_dns: cluster.info.cluster_dns,
        cluster_domain: cluster.info.cluster_domain.clone(),
        cluster_cidr: cluster.info.cluster_cidr.to_string(),
        static_pods: node.static_pods.clone(),
        node_labels: node.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        extended_resources: node.resources.extended_resource.iter().cloned().collect(),
        hardware_root: node.resources.hardware_root.clone(),
        thresholds: node.resources.thresholds(),
        image_marks: node.resources.image_marks(),
        reserved: node.resources.reserved(),
        max_pods: node.resources.max_pods,
        pod_pids: node.resources.pod_max_pids.filter(|most| *most > 0),
        // What is said goes for the pod as a whole.
        container_pids: default.container_pids.filter(|_| node.resources.pod_max_pids.is_none()),
        // Checked with the command line.
        shutdown: node.shutdown.periods().unwrap_or_default(),
        server_ca_pem: cluster.ca_pem,
        lease_duration: Duration::from_secs(common.node_lease_seconds.into()),
        ..default
    };
    let proxy = skiff_proxy::Config {
        node_name: name.to_owned(),
        node_ips: vec![address],
        cluster_cidr: cluster.info.cluster_cidr,
        service_cidr: cluster.info.service_cidr,
        cluster_dns: cluster.info.cluster_dns,
        cluster_domain: cluster.info.cluster_domain,
        data_dir: data_dir.to_owned(),
    };
    let (ready_tx, ready_rx) = watch::channel(false);
    supervisor.spawn(
        "node agent",
        skiff_agent::run(agent, cluster.client.clone(), supervisor.cancel.clone()),
    );
    supervisor.spawn(
        "proxy",
        skiff_proxy::run(proxy, cluster.client, ready_tx, supervisor.cancel.clone()),
    );
    ready_rx
}
