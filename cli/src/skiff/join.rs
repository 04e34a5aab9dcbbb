//! A master that joins others: it asks one of them once, and remembers what it
//! was given.
//!
//! The answer holds the cluster's keys, the member's id and the address ranges.
//! Keys go where every master has them, the rest into `DATA/master.json`, which
//! is written last: a start that finds it needs neither URL nor token.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::members::{JOIN_PATH, JoinAnswer, JoinRequest, save_keys};

use super::args::{ClusterArgs, ServerArgs};

/// The file in the data directory.
const FILE: &str = "master.json";

/// How long a refusal may come from a master that is not ready yet, and how
/// long is waited in between.
const WARM_UP: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// What a joined master remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Membership {
    /// The id that the group gave it.
    pub(super) id: u64,
    cluster_cidr: ipnet::IpNet,
    service_cidr: ipnet::IpNet,
}

impl Membership {
    /// What this master remembers of joining; asks the others if it is to join
    /// now. `None` for the first master of a cluster.
    pub(super) async fn ensure(
        args: &ServerArgs,
        data_dir: &Path,
        name: &str,
        address: SocketAddr,
    ) -> anyhow::Result<Option<Self>> {
        let file = data_dir.join(FILE);
        match std::fs::read(&file) {
            Ok(text) => {
                return serde_json::from_slice(&text)
                    .map(Some)
                    .with_context(|| format!("cannot read {}", file.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        }
        let Some(url) = &args.join else { return Ok(None) };
        if data_dir.join("store").exists() {
            bail!(
                "{} holds a cluster of its own; join with an empty --data-dir",
                data_dir.display()
            );
        }
        let Some(token) = &args.token else {
            bail!("--join needs a token; make one with `skiff token create --master`");
        };
        let client = skiff_agent::token_client(url, token).await?;
        let request = JoinRequest { name: name.to_owned(), address: address.to_string() };
        let answer =
            ask(&client, &request).await.with_context(|| format!("{url} does not let us join"))?;
        save_keys(data_dir, &answer.keys)?;
        let membership = Self {
            id: answer.id,
            cluster_cidr: answer.cluster_cidr,
            service_cidr: answer.service_cidr,
        };
        write(&file, &serde_json::to_vec_pretty(&membership)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Some(membership))
    }

    /// The cluster's settings win over this master's flags: all masters must
    /// agree on them.
    pub(super) fn adjust(&self, cluster: &mut ClusterArgs) -> anyhow::Result<()> {
        let v4 = |net: ipnet::IpNet| match net {
            ipnet::IpNet::V4(net) => Ok(net),
            ipnet::IpNet::V6(net) => bail!("the cluster's addresses {net} are not IPv4"),
        };
        cluster.cluster_cidr = v4(self.cluster_cidr)?;
        cluster.service_cidr = v4(self.service_cidr)?;
        Ok(())
    }
}

/// A master that has just started may not know yet what it grants to whom.
async fn ask(client: &kube::Client, request: &JoinRequest) -> anyhow::Result<JoinAnswer> {
    let give_up = Instant::now() + WARM_UP;
    loop {
        let request = http::Request::post(JOIN_PATH)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(request)?)?;
        match client.request(request).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() && Instant::now() < give_up => {
                tokio::time::sleep(RETRY).await;
            }
            answer => return Ok(answer?),
        }
    }
}

/// Whole and durable, or not at all.
fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let aside = path.with_extension("new");
    let mut file = std::fs::File::create(&aside)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::skiff::args::{Cli, Command};

    fn args(more: &[&str]) -> ServerArgs {
        let all = [&["skiff", "server"], more].concat();
        match Cli::try_parse_from(all).unwrap().command {
            Command::Server(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn only_an_empty_master_joins_and_only_with_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let ensure = async |args: &ServerArgs| {
            let address = ([10, 0, 0, 2], 6443).into();
            Membership::ensure(args, dir.path(), "two", address).await
        };
        assert!(ensure(&args(&[])).await.unwrap().is_none(), "the first one");
        let join = args(&["--join", "https://10.0.0.1:6443"]);
        let error = ensure(&join).await.unwrap_err().to_string();
        assert!(error.contains("skiff token create --master"), "{error}");
        std::fs::create_dir(dir.path().join("store")).unwrap();
        let error = ensure(&join).await.unwrap_err().to_string();
        assert!(error.contains("a cluster of its own"), "{error}");

        let text = r#"{"id": 3, "clusterCidr": "10.1.0.0/16", "serviceCidr": "10.2.0.0/16"}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let membership = ensure(&join).await.unwrap().unwrap();
        let mut cluster = join.cluster.clone();
        membership.adjust(&mut cluster).unwrap();
        assert_eq!((membership.id, cluster.cluster_cidr.to_string()), (3, "10.1.0.0/16".into()));
    }
}
