//! Transactions and most recent reads: our requests as etcd's.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::client::{Client, revision};
use super::proto::{
    self, CREATED, DeleteRequest, EQUAL, GREATER, KeyValue, MODIFIED, Op, Operand, PutRequest,
    RangeRequest, Response, TxnRequest, TxnResponse,
};
use crate::machine;
use crate::sealing::{SealError, Sealer};
use crate::types::{Committed, Compare, Entry, Key, Revision, StoreError, Txn, Write};
use crate::view::{Shared, Snapshot};
use crate::wire;

/// Turns our requests into etcd's.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) shared: Arc<Shared>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) request_timeout: Duration,
}

impl Writer {
    /// One transaction of ours as one of etcd's.
    pub(super) async fn commit(&self, txn: &[u8]) -> Result<Committed, StoreError> {
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
    pub(super) async fn latest(&self) -> Result<Snapshot, StoreError> {
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
                        value: machine::fill(draft.clone(), at),
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

/// etcd took too long.
pub(super) fn late(after: Duration) -> StoreError {
    StoreError::Unavailable(format!("etcd did not answer within {} s", after.as_secs_f32()))
}

/// A key and value of etcd as an entry of ours.
pub(super) fn entry(key: Key, kv: &KeyValue, sealer: &Sealer) -> Result<Entry, StoreError> {
    let draft = wire::decode_draft(&key, &kv.value, sealer)
        .map_err(|error| StoreError::Disk(format!("etcd's value of {key}: {error}")))?;
    let modified = Revision(kv.mod_revision as u64);
    Ok(Entry {
        key,
        created: Revision(kv.create_revision as u64),
        modified,
        sealed: draft.sealed,
        value: machine::fill(draft, modified),
    })
}
