//! `skiff server`: a master alone, the first of its cluster or one more.

use std::net::SocketAddr;

use skiff_agent::address;

use super::args::ServerArgs;
use super::join::Membership;
use super::master::{Identity, Master};
use super::preflight;
use super::supervise::{Next, Supervisor};

/// Runs a master until asked to stop.
pub(super) async fn run(mut args: ServerArgs) -> anyhow::Result<Next> {
    let data_dir = preflight::DataDir::take(&args.common.data_dir)?;
    preflight::need_free_port(args.cluster.api_port)?;
    let address = args.common.node_ip.map_or_else(address::own, Ok)?;
    let name = args.master_name.clone().map_or_else(preflight::host_name, Ok)?;
    let serving = SocketAddr::new(address, args.cluster.api_port);
    let membership = Membership::ensure(&args, &data_dir.path, &name, serving).await?;
    if let Some(membership) = &membership {
        membership.adjust(&mut args.cluster)?;
    }
    let identity = Identity {
        name,
        joined_as: membership.map(|membership| membership.id),
        force_new_group: args.force_new_group,
    };
    let mut supervisor = Supervisor::new();
    let master =
        Master::start(&data_dir.path, address, identity, &args.cluster, &mut supervisor).await?;
    let ended = match master.ready(&args.common, &mut supervisor).await {
        Ok(Some(())) => {
            println!(
                "skiff: serving on https://{serving}, kubeconfig {}",
                data_dir.path.join("admin.kubeconfig").display()
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
