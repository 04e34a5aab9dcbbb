//! `skiff token`: what nodes join with.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use kube::Client;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_apiserver::join::Purpose;
use skiff_apiserver::pki::kubeconfig::Kubeconfig;
use skiff_apiserver::{join, pki};
use skiff_client::{Credentials, connect};

use super::args::{TokenArgs, TokenCommand};

/// Makes, lists and deletes tokens through the API.
pub(super) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let kubeconfig = args.master.kubeconfig();
    let client = client(&kubeconfig)?;
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
pub(super) fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = read(kubeconfig)?;
    let server = file.server.clone();
    client_of(&file, &server)
}

/// The same at one master, `https://…`, whichever the kubeconfig names.
pub(super) fn client_at(kubeconfig: &Path, server: &str) -> anyhow::Result<Client> {
    client_of(&read(kubeconfig)?, server)
}

fn client_of(file: &Kubeconfig, server: &str) -> anyhow::Result<Client> {
    let certificate = CertificateDer::from_pem_slice(file.identity.certificate_pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(file.identity.key_pem.as_bytes())?;
    let key = CertifiedKey::from_der(vec![certificate], key, &ring::default_provider())?;
    let credentials = Credentials::Certificate(Arc::new(SingleCertAndKey::from(key)));
    Ok(connect(server.parse()?, authority(file)?, credentials, "skiff")?)
}

/// The pin of the cluster's CA, which a token carries so that a node knows the
/// right master when it meets it.
pub(super) fn ca_pin(kubeconfig: &Path) -> anyhow::Result<String> {
    Ok(pki::pin(&authority(&read(kubeconfig)?)?))
}

fn read(kubeconfig: &Path) -> anyhow::Result<Kubeconfig> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| {
        format!(
            "cannot read {}; is a master running with this data directory?",
            kubeconfig.display()
        )
    })?;
    text.parse().with_context(|| format!("cannot use {}", kubeconfig.display()))
}

fn authority(kubeconfig: &Kubeconfig) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(kubeconfig.ca_pem.as_bytes())
        .context("the kubeconfig's CA is damaged")
}
