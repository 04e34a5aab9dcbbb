//! `skiff token`: what nodes join with.

use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use skiff_apiserver::join::Purpose;
use skiff_apiserver::{join, pki};

use super::args::{TokenArgs, TokenCommand};

/// Makes, lists and deletes tokens through the API.
pub(super) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let kubeconfig = args.data_dir.join("admin.kubeconfig");
    let client = client(&kubeconfig).await?;
    match args.command {
        TokenCommand::Create { ttl, master } => {
            let purpose = if master { Purpose::Master } else { Purpose::Node };
            let pin = ca_pin(&kubeconfig)?;
            println!("{}", join::create_token_for(&client, &pin, purpose, ttl).await?);
        }
        TokenCommand::List => {
            println!("{:<10} EXPIRES", "ID");
            for token in join::list_tokens(&client).await? {
                println!(
                    "{:<10} {}",
                    token.id,
                    token.expires.map_or("never".to_owned(), |at| at.to_string())
                );
            }
        }
        TokenCommand::Delete { id } => {
            if !join::delete_token(&client, &id).await? {
                bail!("there is no token {id}; `skiff token list` shows them");
            }
        }
    }
    Ok(())
}

/// A client of the administrator whose kubeconfig this is.
pub(super) async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let missing = || {
        format!(
            "cannot read {}; is a master running with this data directory?",
            kubeconfig.display()
        )
    };
    let file = Kubeconfig::read_from(kubeconfig).with_context(missing)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The pin of the cluster's CA, which a token carries so that a node knows the
/// right master when it meets it.
pub(super) fn ca_pin(kubeconfig: &Path) -> anyhow::Result<String> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let data = (file.clusters.first())
        .and_then(|named| named.cluster.as_ref())
        .and_then(|cluster| cluster.certificate_authority_data.as_ref())
        .context("the kubeconfig holds no CA")?;
    let pem = base64::engine::general_purpose::STANDARD.decode(data)?;
    let certificate =
        CertificateDer::from_pem_slice(&pem).context("the kubeconfig's CA is damaged")?;
    Ok(pki::pin(&certificate))
}
