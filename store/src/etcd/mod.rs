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
//! Left out: users and passwords (client certificates do it), and etcd's own
//! limits: 128 operations in a transaction, 1.5 MB in a request.

mod grpc;
mod lead;
mod mirror;
mod proto;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::driver::Request;
use crate::machine;
use crate::sealing::{SealError, Sealer};
use crate::types::{Committed, Compare, Entry, Key, Revision, StoreError, Txn, Write};
use crate::view::{Shared, Snapshot};
use crate::wire;
use grpc::{CallError, Channel};
use lead::{Candidate, Seen};
use mirror::Mirror;
use proto::{
    CREATED, DeleteRequest, EQUAL, GREATER, KeyValue, MODIFIED, Op, Operand, PutRequest,
    RangeRequest, RangeResponse, Response, TXN, TxnRequest, TxnResponse,
};

/// The version of what is written to etcd. This program reads no other.
const FORMAT: u32 = 1;

/// How a store on etcd is opened.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `HOST:PORT` of members of one etcd cluster, tried in turn.
    pub endpoints: Vec<String>,
    /// Speak TLS. Default: no.
    pub tls: Option<EtcdTls>,
    /// What all keys begin with. Default: `/skiff`.
    pub prefix: String,
    /// Encrypts values marked `sealed`; the same for all masters.
    pub sealing_key: [u8; 32],
    /// How long watches can resume, and history is kept in etcd. Default: five
    /// minutes.
    pub history_window: Duration,
    /// Memory that replaced values may take in the history window. Default:
    /// 64 MiB.
    pub history_bytes: usize,
    /// Largest transaction, keys and values together. Default: 1.5 MB, as etcd
    /// refuses larger ones.
    pub max_txn_bytes: usize,
    /// How long a commit or a most recent read waits. Default: 10 s.
    pub request_timeout: Duration,
}

/// Certificates towards etcd, in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that etcd's certificate must be of.
    pub ca: Vec<u8>,
    /// Our certificate and its key, if etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdConfig {
    /// The defaults for these endpoints.
    pub fn new(endpoints: Vec<String>, sealing_key: [u8; 32]) -> Self {
        Self {
            endpoints,
            tls: None,
            prefix: "/skiff".into(),
            sealing_key,
            history_window: Duration::from_secs(300),
            history_bytes: 64 << 20,
            max_txn_bytes: 1_500_000,
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// What everybody here calls etcd with.
#[derive(Clone)]
struct Client {
    channel: Arc<Channel>,
    prefix: Arc<str>,
}

impl Client {
    /// etcd's name for a key of ours.
    fn name(&self, key: &str) -> Vec<u8> {
        format!("{}/{key}", self.prefix).into_bytes()
    }

    /// Our key for a name of etcd's, if it is one.
    fn key<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let key = name.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"/")?;
        std::str::from_utf8(key).ok()
    }

    /// The name of something that is no key.
    fn aside(&self, what: &str) -> Vec<u8> {
        format!("{}.{what}", self.prefix).into_bytes()
    }

    async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, CallError> {
        self.channel.call(proto::RANGE, request).await
    }

    async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, CallError> {
        self.channel.call(TXN, request).await
    }

    /// etcd's newest revision, as its quorum knows it.
    async fn newest(&self) -> Result<Revision, CallError> {
        // Any key will do; this one is never there.
        let request = RangeRequest { key: self.aside("newest"), ..RangeRequest::default() };
        revision(self.range(&request).await?.header)
    }
}

fn revision(header: Option<proto::Header>) -> Result<Revision, CallError> {
    header
        .map(|header| Revision(header.revision as u64))
        .ok_or_else(|| CallError::Failed("an answer without a header".into()))
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(why) => Self::Invalid(why),
            CallError::Failed(_) => Self::Unavailable(error.to_string()),
        }
    }
}

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

/// Turns our requests into etcd's.
#[derive(Clone)]
struct Writer {
    client: Client,
    shared: Arc<Shared>,
    sealer: Arc<Sealer>,
    request_timeout: Duration,
}

impl Writer {
    /// One transaction of ours as one of etcd's.
    async fn commit(&self, txn: &[u8]) -> Result<Committed, StoreError> {
        let invalid = |error: &dyn std::fmt::Display| StoreError::Invalid(error.to_string());
        let txn = wire::decode_txn(txn, &self.sealer).map_err(|error| invalid(&error))?;
        let request = self.request(&txn).map_err(|error| invalid(&error))?;
        self.in_time(async {
            let answer = self.client.txn(&request).await?;
            let at = revision(answer.header.clone())?;
            // Also after a refusal: whoever tries again must see what was there.
            self.reach(at).await?;
            if answer.succeeded {
                self.committed(&txn, at, answer)
            } else {
                Err(self.refused(&txn, answer)?)
            }
        })
        .await
    }

    /// A state that holds everything that etcd acknowledged before the call.
    async fn latest(&self) -> Result<Snapshot, StoreError> {
        self.in_time(async {
            self.reach(self.client.newest().await?).await?;
            Ok(self.shared.view().snapshot.clone())
        })
        .await
    }

    /// Waits until the mirror has seen `revision`.
    async fn reach(&self, revision: Revision) -> Result<(), StoreError> {
        let mut newest_rx = self.shared.newest_tx.subscribe();
        newest_rx.wait_for(|newest| *newest >= revision).await.map_err(|_| StoreError::Closed)?;
        Ok(())
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut ended_rx = self.shared.ended_tx.subscribe();
        tokio::select! {
            biased;
            _ = ended_rx.wait_for(Option::is_some) => Err(self.shared.ended()),
            result = timeout(self.request_timeout, work) => {
                result.unwrap_or_else(|_| Err(late(self.request_timeout)))
            }
        }
    }

    fn request(&self, txn: &Txn) -> Result<TxnRequest, SealError> {
        let write = |write: &Write| -> Result<proto::RequestOp, SealError> {
            Ok(match write {
                Write::Put(key, draft) => Op::Put(PutRequest {
                    key: self.client.name(key),
                    value: wire::encode_draft(key, draft, &self.sealer)?,
                    lease: 0,
                    prev_kv: true,
                }),
                Write::Delete(key) => {
                    Op::Delete(DeleteRequest { key: self.client.name(key), prev_kv: true })
                }
            }
            .into())
        };
        Ok(TxnRequest {
            compare: txn.compares.iter().map(|compare| self.compare(compare)).collect(),
            success: txn.writes.iter().map(write).collect::<Result<_, _>>()?,
            failure: txn.compares.iter().map(|compare| self.look(compare)).collect(),
        })
    }

    fn compare(&self, compare: &Compare) -> proto::Compare {
        let (key, result, target, operand) = match compare {
            // The term is the revision that made the leader's key.
            Compare::Term(term) => {
                return proto::Compare {
                    result: EQUAL,
                    target: CREATED,
                    key: self.client.aside("leader"),
                    operand: Some(Operand::Created(*term as i64)),
                };
            }
            // For etcd a key that is absent was made at revision zero.
            Compare::Absent(key) => (key, EQUAL, CREATED, Operand::Created(0)),
            Compare::Present(key) => (key, GREATER, CREATED, Operand::Created(0)),
            // No key was ever written at revision zero; asked so, etcd would
            // understand that it shall be absent.
            Compare::Unchanged(key, Revision(0)) => (key, EQUAL, MODIFIED, Operand::Modified(-1)),
            Compare::Unchanged(key, at) => (key, EQUAL, MODIFIED, Operand::Modified(at.0 as i64)),
        };
        proto::Compare { result, target, key: self.client.name(key), operand: Some(operand) }
    }

    /// What is asked for when a compare fails.
    fn look(&self, compare: &Compare) -> proto::RequestOp {
        let key = match compare {
            Compare::Absent(key) | Compare::Present(key) | Compare::Unchanged(key, _) => {
                self.client.name(key)
            }
            Compare::Term(_) => self.client.aside("leader"),
        };
        Op::Range(RangeRequest { key, ..RangeRequest::default() }).into()
    }

    /// What a transaction that went through left behind.
    fn committed(
        &self,
        txn: &Txn,
        at: Revision,
        answer: TxnResponse,
    ) -> Result<Committed, StoreError> {
        let mut committed = Committed { revision: at, entries: Vec::new(), deleted: Vec::new() };
        for (write, response) in txn.writes.iter().zip(answer.responses) {
            match (write, response.response) {
                (Write::Put(key, draft), Some(Response::Put(put))) => {
                    let created = put.prev_kv.map_or(at, |kv| Revision(kv.create_revision as u64));
                    committed.entries.push(Arc::new(Entry {
                        key: key.clone(),
                        value: machine::fill(draft, at),
                        created,
                        modified: at,
                        sealed: draft.sealed,
                    }));
                }
                (Write::Delete(key), Some(Response::Delete(delete))) => {
                    for kv in &delete.prev_kvs {
                        committed.deleted.push(Arc::new(entry(key.clone(), kv, &self.sealer)?));
                    }
                }
                _ => return Err(StoreError::Unavailable("etcd answers something else".into())),
            }
        }
        Ok(committed)
    }

    /// The first compare that did not hold.
    fn refused(&self, txn: &Txn, answer: TxnResponse) -> Result<StoreError, StoreError> {
        for (compare, response) in txn.compares.iter().zip(answer.responses) {
            let Some(Response::Range(range)) = response.response else { continue };
            let found = range.kvs.first();
            let (key, holds) = match compare {
                Compare::Term(term)
                    if found.is_none_or(|kv| kv.create_revision as u64 != *term) =>
                {
                    return Ok(StoreError::Deposed { term: *term });
                }
                Compare::Term(_) => continue,
                Compare::Absent(key) => (key, found.is_none()),
                Compare::Present(key) => (key, found.is_some()),
                Compare::Unchanged(key, at) => {
                    (key, found.is_some_and(|kv| kv.mod_revision as u64 == at.0))
                }
            };
            if !holds {
                let current = found
                    .map(|kv| entry(key.clone(), kv, &self.sealer).map(Arc::new))
                    .transpose()?;
                return Ok(StoreError::Conflict { key: key.clone(), current });
            }
        }
        Err(StoreError::Unavailable("etcd refuses without a reason".into()))
    }
}

fn late(after: Duration) -> StoreError {
    StoreError::Unavailable(format!("etcd did not answer within {} s", after.as_secs_f32()))
}

/// A key and value of etcd as an entry of ours.
fn entry(key: Key, kv: &KeyValue, sealer: &Sealer) -> Result<Entry, StoreError> {
    let draft = wire::decode_draft(&key, &kv.value, sealer)
        .map_err(|error| StoreError::Disk(format!("etcd's value of {key}: {error}")))?;
    let modified = Revision(kv.mod_revision as u64);
    Ok(Entry {
        key,
        value: machine::fill(&draft, modified),
        created: Revision(kv.create_revision as u64),
        modified,
        sealed: draft.sealed,
    })
}

/// Writes the format if etcd holds nothing of ours, or checks it.
async fn check_format(client: &Client, sealer: &Sealer) -> Result<(), StoreError> {
    let fingerprint = u64::from_be_bytes(sealer.fingerprint());
    let name = client.aside("format");
    let expected = format!("skiff-store {FORMAT} {fingerprint:016x}");
    let put = PutRequest {
        key: name.clone(),
        value: expected.clone().into_bytes(),
        ..PutRequest::default()
    };
    let absent = proto::Compare {
        result: EQUAL,
        target: CREATED,
        key: name.clone(),
        operand: Some(Operand::Created(0)),
    };
    let answer = client
        .txn(&TxnRequest {
            compare: vec![absent],
            success: vec![Op::Put(put).into()],
            failure: vec![Op::Range(RangeRequest { key: name, ..RangeRequest::default() }).into()],
        })
        .await?;
    if answer.succeeded {
        return Ok(());
    }
    let found = answer.responses.into_iter().find_map(|response| match response.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    let found = found.map_or(String::new(), |kv| String::from_utf8_lossy(&kv.value).into_owned());
    judge_format(&found, &expected, &client.prefix)
}

/// Accepts what etcd holds, or says what is wrong with it.
fn judge_format(found: &str, expected: &str, prefix: &str) -> Result<(), StoreError> {
    let fields: Vec<_> = found.split(' ').collect();
    match fields[..] {
        _ if found == expected => Ok(()),
        ["skiff-store", version, _] if version == FORMAT.to_string() => Err(StoreError::Invalid(
            format!("what etcd holds under {} was made with another sealing key", prefix),
        )),
        ["skiff-store", version, _] => Err(StoreError::Invalid(format!(
            "what etcd holds under {} has format {version}, this program reads format {FORMAT}: \
             use the program that wrote it",
            prefix
        ))),
        _ => Err(StoreError::Invalid(format!("what etcd holds under {} is not of Skiff", prefix))),
    }
}

/// TLS towards etcd.
fn client_config(tls: &EtcdTls) -> Result<Arc<rustls::ClientConfig>, StoreError> {
    let invalid = |what: &str, error: &dyn std::fmt::Display| {
        StoreError::Invalid(format!("{what} for etcd cannot be used: {error}"))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.ca) {
        let added = certificate
            .map_err(|error| invalid("the authority", &error))
            .map(|certificate| roots.add(certificate));
        added?.map_err(|error| invalid("the authority", &error))?;
    }
    if roots.is_empty() {
        return Err(invalid("the authority", &"it holds no certificate"));
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|error| invalid("TLS", &error))?
    .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| invalid("the certificate", &error))?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("the key", &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| invalid("the certificate", &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_accepted_or_named() {
        let cases = [
            ("skiff-store 1 00ff", None),
            ("skiff-store 1 00fe", Some("another sealing key")),
            ("skiff-store 2 00ff", Some("has format 2, this program reads format 1")),
            ("something else", Some("not of Skiff")),
            ("", Some("not of Skiff")),
        ];
        for (found, expected) in cases {
            let judged = judge_format(found, "skiff-store 1 00ff", "/skiff");
            match (judged, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => {
                    assert!(error.to_string().contains(words), "{found}: {error}");
                }
                (judged, _) => panic!("{found}: {judged:?}"),
            }
        }
    }
}
