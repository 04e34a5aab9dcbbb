//! Finds the cluster and speaks HTTP with it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use futures::AsyncBufRead;
use http::{Method, Request};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::args::GlobalArgs;
use super::discover::Kinds;

/// Where Skiff's own kubeconfig is when nothing else is said.
const SKIFF_KUBECONFIG: &str = "/var/lib/skiff/admin.kubeconfig";

/// A connection, the namespace to work in, and what the server knows.
pub(super) struct Session {
    /// The client.
    pub(super) client: Client,
    /// The namespace that was asked for, or the context's.
    pub(super) namespace: String,
    kinds: tokio::sync::OnceCell<Kinds>,
}

impl Session {
    pub(super) async fn open(global: &GlobalArgs) -> anyhow::Result<Self> {
        let options =
            KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
        let config = match kubeconfig(global)? {
            Some(file) => kube::Config::from_custom_kubeconfig(file, &options).await.context("the kubeconfig cannot be used")?,
            // In a pod there is no file, but a service account.
            None => kube::Config::incluster()
                .map_err(|_| anyhow::anyhow!("no kubeconfig found; give one with --kubeconfig, or start a cluster with `skiff up`"))?,
        };
        let namespace =
            global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)?;
        Ok(Self { client, namespace, kinds: tokio::sync::OnceCell::new() })
    }

    /// What the server serves, asked once.
    pub(super) async fn kinds(&self) -> anyhow::Result<&Kinds> {
        self.kinds.get_or_try_init(|| Kinds::fetch(self)).await
    }

    /// A request with an answer in JSON.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        self.send(method, path, kind, "application/json", body).await
    }

    /// A read with an answer in JSON.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// A read whose answer is negotiated.
    pub(super) async fn get_as(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, "application/json", accept, None).await
    }

    /// A patch of the given content type.
    pub(super) async fn patch(
        &self,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        self.send(Method::PATCH, path, content_type, "application/json", Some(body)).await
    }

    /// A read whose answer goes on.
    pub(super) async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl AsyncBufRead + use<>> {
        let request = Request::get(path).header("Accept", accept).body(Vec::new())?;
        Ok(self.client.request_stream(request).await?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        accept: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Accept", accept)
            .header("Content-Type", content_type)
            .body(body)?;
        match self.client.request::<Value>(request).await {
            Ok(value) => Ok(value),
            Err(error @ kube::Error::Api(_)) => Err(error.into()),
            Err(error) => {
                Err(anyhow::Error::new(error).context("the server does not answer; is it running?"))
            }
        }
    }
}

/// The first of: the flag, the variable, the home folder's file, Skiff's own.
fn kubeconfig(global: &GlobalArgs) -> anyhow::Result<Option<Kubeconfig>> {
    let read = |path: &Path| {
        Kubeconfig::read_from(path)
            .with_context(|| format!("cannot read the kubeconfig {}", path.display()))
    };
    if let Some(path) = &global.kubeconfig {
        return read(path).map(Some);
    }
    if let Some(paths) = std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        let mut merged: Option<Kubeconfig> = None;
        for path in std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()) {
            let file = read(&path)?;
            merged = Some(match merged {
                Some(earlier) => earlier.merge(file)?,
                None => file,
            });
        }
        if merged.is_none() {
            bail!("KUBECONFIG names no file");
        }
        return Ok(merged);
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let found =
        home.into_iter().chain([PathBuf::from(SKIFF_KUBECONFIG)]).find(|path| path.exists());
    found.map(|path| read(&path)).transpose()
}

/// Prints both versions.
pub(super) async fn version(session: &Session) -> anyhow::Result<()> {
    println!("Client Version: v{}", env!("CARGO_PKG_VERSION"));
    let server = session.get("/version").await?;
    println!("Server Version: {}", server["gitVersion"].as_str().unwrap_or("unknown"));
    Ok(())
}
