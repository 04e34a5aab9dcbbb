//! `skiff up`: a whole cluster in one foreground process.

use std::time::Instant;

use skiff_agent::address;
use skiff_apiserver::user::UserInfo;

use super::args::UpArgs;
use super::master::{Identity, Master};
use super::supervise::{Next, Supervisor};
use super::{node, preflight, ready};

/// Runs master and node until asked to stop. Pods go on running then, and are
/// adopted at the next start.
pub(super) async fn run(args: UpArgs) -> anyhow::Result<Next> {
    let started = Instant::now();
    preflight::need_root("skiff up")?;
    let data_dir = preflight::DataDir::take(&args.common.data_dir)?;
    preflight::need_nft()?;
    preflight::need_docker(&args.node.docker_socket)?;
    preflight::need_free_port(args.cluster.api_port)?;
    let name = args.node.node_name.clone().map_or_else(preflight::host_name, Ok)?;
    let address = args.common.node_ip.map_or_else(address::own, Ok)?;

    let mut supervisor = Supervisor::new();
    let identity = Identity { name: name.clone(), joined_as: None, force_new_group: false };
    let master =
        Master::start(&data_dir.path, address, identity, &args.cluster, &mut supervisor).await?;
    match master.ready(&args.common, &mut supervisor).await {
        Ok(Some(())) => {}
        ended => {
            let stopped = supervisor.stop().await;
            let closed = master.stop().await;
            return ended.and(stopped).and(closed).map(|()| Next::Exit);
        }
    }
    let user =
        UserInfo::new(&format!("system:node:{name}"), ["system:nodes", "system:authenticated"]);
    let cluster = node::Cluster {
        client: master.api.client(user),
        ca_pem: master.api.pki().ca_pem().to_owned(),
        info: master.info.clone(),
    };
    let mut proxied = node::start(
        &name,
        address,
        &data_dir.path,
        &args.common,
        &args.node,
        cluster,
        &mut supervisor,
    );

    let admin = master.api.client(UserInfo::loopback());
    let names = [name];
    let all_ready = async {
        tokio::try_join!(ready::nodes(admin, &names), async {
            proxied.wait_for(|ready| *ready).await?;
            ready::dns(master.info.cluster_dns, &master.info.cluster_domain).await
        })
    };
    let waited = supervisor.wait_until(all_ready).await;
    let ended = match waited {
        Ok(Some(_)) => {
            let kubeconfig = data_dir.path.join("admin.kubeconfig");
            println!(
                "skiff: ready in {:.2}s, kubeconfig {}",
                started.elapsed().as_secs_f64(),
                kubeconfig.display()
            );
            supervisor.serve(args.common.node_ip, address, address::own).await
        }
        Ok(None) => Ok(Next::Exit),
        Err(error) => Err(error),
    };
    let stopped = supervisor.stop().await;
    let closed = master.stop().await;
    ended?.unless(stopped.and(closed))
}
