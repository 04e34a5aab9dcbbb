//! The store on an external etcd cluster.
//!
//! Nothing above the store notices: revisions are etcd's own, a transaction of
//! ours is one of theirs, and reads, lists and watches come from memory as they
//! always do. That memory is a mirror here: [`mirror`] loads every key once and
//! then follows one watch over all of etcd, so a hundred clients' watches cost
//! etcd one. A write is answered when the mirror has seen it, and a "most
//! recent" read asks etcd for its newest revision and waits for the mirror to
//! reach it; so everybody sees their own writes, from any master.
//!
//! ```text
//! /skiff/KEY        a value: see `wire::encode_draft`; sealed ones are sealed
//! /skiff.format     version of the above, fingerprint of the sealing key
//! /skiff.leader     which master leads, kept by a lease (see `lead`)
//! ```
//!
//! The watch covers foreign keys too: then every revision is seen, and the
//! mirror knows that it is up to date without asking for progress, which etcd
//! answers wrongly before 3.4.25 and 3.5.8. An etcd of one's own is assumed;
//! a shared one works and costs its traffic.
//!
//! In reading order: `config`; `writer`, `mirror` and `lead`, which are what the
//! above says; below them `client` and `format`, `grpc` and `proto`.
//!
//! Left out: users and passwords (client certificates do it), and etcd's own
//! limits: 128 operations in a transaction, 1.5 MB in a request.

mod config;

mod lead;
mod mirror;
mod writer;

mod client;
mod format;
mod grpc;
mod proto;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::driver::Request;
use crate::sealing::Sealer;
use crate::types::StoreError;
use crate::view::Shared;
use client::Client;
use config::client_config;
pub use config::{EtcdConfig, EtcdTls};
use format::check_format;
use grpc::Channel;
use lead::{Candidate, Seen};
use mirror::Mirror;
use writer::{Writer, late};

/// Loads everything, then follows etcd and serves `requests` until asked to
/// close or all handles are gone.
pub(crate) async fn open(
    config: &EtcdConfig,
    sealer: Arc<Sealer>,
    requests: mpsc::Receiver<Request>,
) -> Result<Arc<Shared>, StoreError> {
    if config.endpoints.is_empty() {
        return Err(StoreError::Invalid("no etcd endpoint is named".into()));
    }
    let tls = config.tls.as_ref().map(client_config).transpose()?;
    let client = Client {
        channel: Arc::new(Channel::new(config.endpoints.clone(), tls)),
        prefix: config.prefix.as_str().into(),
    };
    let opening = async {
        check_format(&client, &sealer).await?;
        Mirror::load(client.clone(), sealer.clone(), config).await
    };
    let mirror = timeout(config.request_timeout, opening)
        .await
        .map_err(|_| late(config.request_timeout))??;
    let shared = mirror.shared();
    let writer =
        Writer { client, shared: shared.clone(), sealer, request_timeout: config.request_timeout };
    tokio::spawn(serve(mirror, writer, requests));
    Ok(shared)
}

/// Everything that runs for a store on etcd, under one roof.
async fn serve(mirror: Mirror, writer: Writer, mut requests: mpsc::Receiver<Request>) {
    let (seen_tx, seen_rx) = watch::channel(Seen::default());
    let resign_tx = watch::Sender::new(false);
    let candidate = Candidate::new(
        writer.client.clone(),
        writer.shared.clone(),
        seen_rx,
        resign_tx.subscribe(),
    );
    let mut following = JoinSet::new();
    following.spawn(mirror.run(seen_tx));
    let mut leading = JoinSet::new();
    leading.spawn(candidate.run());
    // Each request is a task: etcd orders them, and one that is slow must not
    // hold up the others. Callers are bounded above.
    let mut calls = JoinSet::new();
    let mut closer = None;
    while closer.is_none() {
        let request = tokio::select! {
            request = requests.recv() => request,
            Some(_) = calls.join_next() => continue,
        };
        let writer = writer.clone();
        match request {
            Some(Request::Commit { txn, reply }) => {
                calls.spawn(async move { drop(reply.send(writer.commit(&txn).await)) });
            }
            Some(Request::Read { reply }) => {
                calls.spawn(async move { drop(reply.send(writer.latest().await)) });
            }
            Some(Request::Change { reply, .. }) => {
                let why = "etcd has members of its own, see `etcdctl member`";
                drop(reply.send(Err(StoreError::Membership(why.into()))));
            }
            // Leadership is handed over by closing; and this is nobody's peer.
            Some(Request::HandOver | Request::Step { .. } | Request::Unreachable { .. }) => {}
            Some(Request::Close { reply }) => closer = Some(reply),
            None => break,
        }
    }
    while calls.join_next().await.is_some() {}
    resign_tx.send_replace(true);
    // If etcd does not answer, the lease ends by itself.
    let _ = timeout(lead::LEASE_TTL, leading.join_next()).await;
    leading.shutdown().await;
    following.shutdown().await;
    end(&writer.shared, StoreError::Closed);
    drop(requests);
    if let Some(closer) = closer {
        // The closer may have stopped waiting.
        let _ = closer.send(Ok(()));
    }
}

/// Says why calls fail from now on, if nobody has yet.
fn end(shared: &Shared, why: StoreError) {
    shared.ended_tx.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(why)).is_some());
}
