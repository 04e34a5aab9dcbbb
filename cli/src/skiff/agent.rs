//! `skiff agent`: a node that joins a master.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};
use skiff_agent::address;

use super::args::AgentArgs;
use super::cluster_info::ClusterInfo;
use super::masters::Masters;
use super::supervise::{Next, Supervisor};
use super::{cluster_info, node, preflight};

/// The port of a server whose URL names none.
const DEFAULT_PORT: u16 = 6443;

/// Joins if need be, and runs a node until asked to stop.
pub(super) async fn run(args: AgentArgs) -> anyhow::Result<Next> {
    preflight::need_root("skiff agent")?;
    let servers = server_addresses(&args.server)?;
    let Some(server) = servers.first().copied() else { bail!("--server names no master") };
    let data_dir = preflight::DataDir::take(&args.common.data_dir)?;
    preflight::need_nft()?;
    preflight::need_docker(&args.node.docker_socket)?;
    let name = args.node.node_name.clone().map_or_else(preflight::host_name, Ok)?;
    let address = match args.common.node_ip {
        Some(address) => address,
        None => address::towards(server)?,
    };
    let mut supervisor = Supervisor::new();
    let masters = Masters::new(servers);
    masters.follow(&cluster_info::remembered_masters(&data_dir.path));
    let way = masters.open().await?;
    let url = format!("https://{}", way.address);
    supervisor.spawn("way to the masters", way.serve(supervisor.cancel.clone()));
    let asked = masters.clone();
    let lost_quorum = move |own| asked.lost_quorum(own);
    let token = args.token.as_deref();
    let joined = skiff_agent::join(&url, token, &data_dir.path, &name, lost_quorum)
        .await
        .with_context(|| format!("cannot join {}", args.server))?;
    let client = joined.client.clone();
    let info = cluster_info::fetch(&client, &data_dir.path).await?;
    masters.follow(&info.masters);
    let learnt = move |info: &ClusterInfo| masters.follow(&info.masters);
    let (followed, copy, cancel) =
        (client.clone(), data_dir.path.clone(), supervisor.cancel.clone());
    supervisor.spawn("list of masters", async move {
        cluster_info::follow(followed, &copy, learnt, cancel).await;
        Ok(())
    });
    let cluster = node::Cluster { client, ca_pem: joined.server_ca_pem.clone(), info };
    let cancel = supervisor.cancel.clone();
    supervisor.spawn("certificate renewal", async move {
        joined.renewal.run(cancel).await;
        Ok(())
    });
    let mut proxied = node::start(
        &name,
        address,
        &data_dir.path,
        &args.common,
        &args.node,
        cluster,
        &mut supervisor,
    );
    let ready = async {
        proxied.wait_for(|ready| *ready).await?;
        println!("skiff: node {name} joined {}", args.server);
        Ok(())
    };
    let ended = match supervisor.wait_until(ready).await {
        Ok(Some(())) => {
            let pick = || address::towards(server);
            supervisor.serve(args.common.node_ip, address, pick).await
        }
        Ok(None) => Ok(Next::Exit),
        Err(error) => Err(error),
    };
    let stopped = supervisor.stop().await;
    ended?.unless(stopped)
}

/// The addresses behind `https://HOST:PORT`, or several of those with commas.
fn server_addresses(urls: &str) -> anyhow::Result<Vec<SocketAddr>> {
    urls.split(',').map(|url| server_address(url.trim())).collect()
}

/// The address behind `https://HOST:PORT`.
fn server_address(url: &str) -> anyhow::Result<SocketAddr> {
    let usage = || format!("--server {url} is not of the form https://HOST:PORT");
    let parsed: http::Uri = url.parse().with_context(usage)?;
    let (Some("https"), Some(host)) = (parsed.scheme_str(), parsed.host()) else { bail!(usage()) };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = parsed.port_u16().unwrap_or(DEFAULT_PORT);
    let mut addresses =
        (host, port).to_socket_addrs().with_context(|| format!("cannot find the server {host}"))?;
    addresses.next().with_context(|| format!("the name {host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        assert_eq!(server_address("https://10.0.0.1").unwrap().to_string(), "10.0.0.1:6443");
        assert_eq!(server_address("https://[::1]:7443").unwrap().to_string(), "[::1]:7443");
        for url in ["http://10.0.0.1", "10.0.0.1:6443", "", "https://"] {
            assert!(server_address(url).is_err(), "{url}");
        }
        let both = server_addresses("https://10.0.0.1, https://10.0.0.2:7443").unwrap();
        assert_eq!(both.len(), 2);
        assert!(server_addresses("https://10.0.0.1,").is_err());
    }
}
