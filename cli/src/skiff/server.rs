//! `skiff server`: a master alone.

use super::args::ServerArgs;
use super::master::Master;
use super::preflight;
use super::supervise::Supervisor;

/// Runs a master until asked to stop.
pub(super) async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let data_dir = preflight::DataDir::take(&args.common.data_dir)?;
    preflight::need_free_port(args.cluster.api_port)?;
    let address = args.common.node_ip.map_or_else(preflight::own_address, Ok)?;
    let mut supervisor = Supervisor::new();
    let master =
        Master::start(&data_dir.path, address, &args.common, &args.cluster, &mut supervisor)
            .await?;
    println!(
        "skiff: serving on https://{address}:{}, kubeconfig {}",
        args.cluster.api_port,
        data_dir.path.join("admin.kubeconfig").display()
    );
    let ended = supervisor.wait_until(std::future::pending::<anyhow::Result<()>>()).await.map(drop);
    let stopped = supervisor.stop().await;
    let closed = master.stop().await;
    ended.and(stopped).and(closed)
}
