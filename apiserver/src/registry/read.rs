//! Get and list.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use skiff_store::{Entry, KeyRange, Revision, Snapshot, StoreError};

use super::continue_token::ContinueToken;
use super::filter::Filter;
use super::options::{VersionMatch, list_options_invalid};
use super::view::{ListMeta, View};
use super::{Call, Registry, key};
use crate::status::ApiError;

/// Objects that a selector is held against in one go.
const TURN: usize = 256;

impl Registry {
    /// GET of one object.
    pub(super) async fn get(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let entry = self.entry(call, &call.info.name).await?;
        View::of(call).respond(StatusCode::OK, &entry.value)
    }

    /// The stored entry of an object, as new as the client asks for.
    pub(super) async fn entry(&self, call: &Call, name: &str) -> Result<Arc<Entry>, ApiError> {
        let snapshot = self.not_older(call.options.resource_version).await?;
        snapshot.get(&call.key(name)).ok_or_else(|| call.not_found(name))
    }

    /// A state that is not older than `revision`; without one the newest.
    async fn not_older(&self, revision: Option<u64>) -> Result<Snapshot, ApiError> {
        let Some(wanted) = revision else { return self.latest().await };
        let snapshot = self.store.snapshot();
        if snapshot.revision().0 >= wanted {
            return Ok(snapshot);
        }
        // This member may lag behind the one that gave out the revision.
        let snapshot = self.latest().await?;
        if snapshot.revision().0 >= wanted {
            return Ok(snapshot);
        }
        let newest = snapshot.revision();
        Err(StoreError::Future { wanted: Revision(wanted), newest }.into())
    }

    /// GET of a collection.
    pub(super) async fn list(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let filter = Filter::of(call)?;
        let prefix = key::collection(call.stored, &call.info.namespace);
        let options = &call.options;
        if options.send_initial_events.is_some() {
            return Err(list_options_invalid(
                "sendInitialEvents",
                "true",
                "sendInitialEvents is forbidden for list",
            ));
        }
        let token = match options.continue_token.as_str() {
            "" => None,
            text => Some(ContinueToken::decode(text)?),
        };
        let (snapshot, from) = match &token {
            Some(token) => (self.continued(call, token).await?, Some(&token.start)),
            None => (self.first_page(call).await?, None),
        };
        let mut range = KeyRange::prefix(&prefix);
        if let Some(start) = from {
            range.start = Arc::from(format!("{prefix}{start}"));
        }

        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut items: Vec<Bytes> = Vec::new();
        let mut last = None;
        let mut entries = snapshot.range(&range);
        for (seen, entry) in entries.by_ref().enumerate() {
            if items.len() == limit {
                last = Some(entry);
                break;
            }
            // A selector may be long and the list, too: others get their turn,
            // and the request's deadline its say.
            if seen % TURN == TURN - 1 && !filter.is_everything() {
                tokio::task::yield_now().await;
            }
            if filter.matches(entry)? {
                items.push(entry.value.clone());
            }
        }
        let mut meta = ListMeta { revision: snapshot.revision().0, ..ListMeta::default() };
        if let Some(next) = last {
            // The page ends before `next`, so the token starts there.
            let start = next.key.strip_prefix(prefix.as_str()).unwrap_or_default();
            let since = token.map_or_else(|| Timestamp::now().as_second(), |token| token.since);
            let next = ContinueToken::at(start, revision_number(&snapshot), since);
            meta.continue_token = next.encode();
            if filter.is_everything() {
                meta.remaining = Some(entries.count() + 1);
            }
            self.store.pin(&snapshot);
        }
        View::of(call).list(items, &meta)
    }

    /// The state that the first page of a list shows.
    async fn first_page(&self, call: &Call) -> Result<Snapshot, ApiError> {
        let options = &call.options;
        match (options.version_match, options.resource_version) {
            (Some(VersionMatch::Exact), Some(0)) => Err(list_options_invalid(
                "resourceVersionMatch",
                "Exact",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            (Some(_), None) => Err(list_options_invalid(
                "resourceVersionMatch",
                "",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            (Some(VersionMatch::Exact), Some(wanted)) => {
                if wanted > self.store.revision().0 {
                    self.not_older(Some(wanted)).await?;
                }
                Ok(self.store.snapshot_at(Revision(wanted))?)
            }
            (Some(VersionMatch::NotOlderThan) | None, revision) => self.not_older(revision).await,
        }
    }

    /// The state that a later page shows: the same as the first.
    async fn continued(&self, call: &Call, token: &ContinueToken) -> Result<Snapshot, ApiError> {
        if call.options.resource_version.is_some_and(|revision| revision != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        // -1: the client accepts the newest state for the rest.
        let Ok(revision) = u64::try_from(token.rv) else { return self.latest().await };
        if token.is_stale(Timestamp::now()) {
            return Err(too_old(token));
        }
        match self.store.snapshot_at(Revision(revision)) {
            Ok(snapshot) => Ok(snapshot),
            Err(StoreError::Compacted { .. }) => Err(too_old(token)),
            Err(StoreError::Future { .. }) => Err(ApiError::bad_request(
                "continue key is not valid: its revision has not been reached",
            )),
            Err(other) => Err(other.into()),
        }
    }
}

/// 410, with a token that goes on in the newest state.
fn too_old(token: &ContinueToken) -> ApiError {
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let now = Timestamp::now().as_second();
    error.continue_token = ContinueToken::at(&token.start, -1, now).encode();
    error
}

fn revision_number(snapshot: &Snapshot) -> i64 {
    i64::try_from(snapshot.revision().0).unwrap_or(i64::MAX)
}
