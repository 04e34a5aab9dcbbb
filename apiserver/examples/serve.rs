//! An API server alone: no controllers, no nodes. For looking at the API with
//! `kubectl --kubeconfig DIR/admin.kubeconfig`.
//!
//! `cargo run -p skiff-apiserver --example serve -- DIR [PORT]`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use skiff_apiserver::{Config, pki};
use skiff_store::{Store, StoreConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().context("usage: serve DIR [PORT]")?);
    let port = args.next().map_or(Ok(0), |port| port.parse()).context("PORT is not a number")?;
    let sealing_key = pki::sealing_key(&dir)?;
    let store = Store::open(StoreConfig::new(dir.join("store"), sealing_key)).await?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let config = Config::new(&dir, SocketAddr::new(loopback, port), loopback);
    let server = skiff_apiserver::start(config, store.clone()).await?;
    println!("listening on {}, kubeconfig {}", server.local_addr(), server.kubeconfig().display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    store.close().await?;
    Ok(())
}
