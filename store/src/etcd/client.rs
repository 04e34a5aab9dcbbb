//! etcd's names for what is ours, and the calls that everybody here makes.

use std::sync::Arc;

use super::grpc::{CallError, Channel};
use super::proto::{self, RangeRequest, RangeResponse, TXN, TxnRequest, TxnResponse};
use crate::types::{Revision, StoreError};

/// What everybody here calls etcd with: a channel, and the prefix of our names.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) channel: Arc<Channel>,
    pub(super) prefix: Arc<str>,
}

impl Client {
    /// etcd's name for a key of ours.
    pub(super) fn name(&self, key: &str) -> Vec<u8> {
        format!("{}/{key}", self.prefix).into_bytes()
    }

    /// Our key for a name of etcd's, if it is one.
    pub(super) fn key<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let key = name.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"/")?;
        std::str::from_utf8(key).ok()
    }

    /// The name of something that is no key.
    pub(super) fn aside(&self, what: &str) -> Vec<u8> {
        format!("{}.{what}", self.prefix).into_bytes()
    }

    /// Reads keys.
    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, CallError> {
        self.channel.call(proto::RANGE, request).await
    }

    /// Runs a transaction.
    pub(super) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, CallError> {
        self.channel.call(TXN, request).await
    }

    /// etcd's newest revision, as its quorum knows it.
    pub(super) async fn newest(&self) -> Result<Revision, CallError> {
        // Any key will do; this one is never there.
        let request = RangeRequest { key: self.aside("newest"), ..RangeRequest::default() };
        revision(self.range(&request).await?.header)
    }
}

/// The revision at which etcd answered.
pub(super) fn revision(header: Option<proto::Header>) -> Result<Revision, CallError> {
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
