//! Watch: the changes of a collection as a stream of events.
//!
//! The stream is pulled: the client's connection asks for the next chunk, and
//! only then does the watch look into the store's history. A slow client costs
//! a place in the history and no queue; one that falls out of the window gets
//! the `410` that tells it to list again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use rand::Rng as _;
use serde_json::{Value, json};
use skiff_store::{Entry, Event, KeyRange, Revision, StoreError, Watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::filter::Filter;
use super::options::{VersionMatch, list_options_invalid};
use super::view::{View, json_response};
use super::{Call, Registry, key, object};
use crate::negotiate::Form;
use crate::status::ApiError;

/// Bookmarks are looked at this often and sent when something moved.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// A watch without `timeoutSeconds` lasts between one and two of these.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Initial events are gathered to chunks of about this size.
const CHUNK: usize = 64 * 1024;

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

impl Registry {
    /// GET of a collection with `watch=true`.
    pub(super) async fn watch(&self, call: &Call) -> Result<Response<Body>, ApiError> {
        let options = &call.options;
        let send_initial = check_options(call)?;
        let filter = Filter::of(call)?.beside(&self.selected);
        let range = KeyRange::prefix(&key::collection(call.stored, &call.info.namespace));
        let timeout = options.timeout.filter(|timeout| !timeout.is_zero()).unwrap_or_else(|| {
            // Spread out, so that clients do not all come back at once.
            TIMEOUT + rand::rng().random_range(Duration::ZERO..TIMEOUT)
        });
        let mut stream = Stream {
            view: View::of(call),
            filter,
            watch: None,
            initial: Vec::new().into_iter(),
            initial_end: None,
            bookmarks: options.bookmarks,
            told: Revision(0),
            headed: true,
            deadline: Box::pin(tokio::time::sleep(timeout)),
            bookmark: Box::pin(tokio::time::sleep(BOOKMARK_PERIOD)),
            closing: self.closing.clone(),
            ended: false,
            failed: None,
        };
        // Past this point errors are events, as upstream's.
        if let Err(error) = self.begin_watch(call, send_initial, range, &mut stream).await {
            stream.failed = Some(error);
        }
        let body = futures::stream::unfold(stream, |mut stream| async move {
            let chunk = stream.next().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), stream))
        });
        Ok(json_response(http::StatusCode::OK, Body::from_stream(body)))
    }

    async fn begin_watch(
        &self,
        call: &Call,
        send_initial: Option<bool>,
        range: KeyRange,
        stream: &mut Stream,
    ) -> Result<(), ApiError> {
        let wanted = call.options.resource_version.filter(|revision| *revision != 0);
        let after = match (send_initial, wanted) {
            (None, Some(wanted)) => Revision(wanted),
            (asked, wanted) => {
                let snapshot = match (call.options.resource_version, wanted) {
                    (Some(0), _) => self.store.snapshot(),
                    _ => self.latest().await?,
                };
                let newest = snapshot.revision();
                if let Some(wanted) = wanted.filter(|wanted| *wanted > newest.0) {
                    return Err(StoreError::Future { wanted: Revision(wanted), newest }.into());
                }
                if asked != Some(false) {
                    let entries: Vec<Arc<Entry>> = snapshot.range(&range).cloned().collect();
                    stream.initial = entries.into_iter();
                }
                stream.initial_end = (asked == Some(true)).then_some(newest);
                newest
            }
        };
        stream.told = after;
        stream.watch = Some(self.store.watch(range, after)?);
        Ok(())
    }
}

/// Refuses options that contradict each other. `Some` says that the client
/// decided on initial events itself.
fn check_options(call: &Call) -> Result<Option<bool>, ApiError> {
    let options = &call.options;
    let refuse = |field: &str, detail: &str| Err(list_options_invalid(field, "", detail));
    match (options.send_initial_events, options.version_match) {
        (Some(_), None) => refuse(
            "resourceVersionMatch",
            "resourceVersionMatch is required when sendInitialEvents is set",
        ),
        (Some(_), Some(VersionMatch::Exact)) => refuse(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (None, Some(_)) => refuse(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(true), _) if !options.bookmarks => refuse(
            "allowWatchBookmarks",
            "sendInitialEvents requires setting allowWatchBookmarks to true",
        ),
        (asked, _) => Ok(asked),
    }
}

/// One client's watch.
struct Stream {
    view: View,
    filter: Filter,
    watch: Option<Watch>,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// A bookmark that ends the initial events.
    initial_end: Option<Revision>,
    bookmarks: bool,
    /// The newest revision that the client has heard of.
    told: Revision,
    /// The next Table carries its columns.
    headed: bool,
    deadline: std::pin::Pin<Box<Sleep>>,
    bookmark: std::pin::Pin<Box<Sleep>>,
    closing: CancellationToken,
    ended: bool,
    failed: Option<ApiError>,
}

/// Why a stream woke up.
enum Woken {
    Events(Result<Vec<Arc<Event>>, StoreError>),
    Bookmark,
    Deadline,
    Closing,
}

impl Stream {
    /// The next chunk, `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(error) = self.failed.take() {
            return Some(self.fail(error));
        }
        match self.initial_chunk() {
            Ok(Some(chunk)) => return Some(chunk),
            Ok(None) => {}
            Err(error) => return Some(self.fail(error)),
        }
        loop {
            let Some(watch) = self.watch.as_mut() else {
                self.ended = true;
                return None;
            };
            let woken = tokio::select! {
                biased;
                () = self.closing.cancelled() => Woken::Closing,
                events = watch.next() => Woken::Events(events),
                () = self.deadline.as_mut() => Woken::Deadline,
                () = self.bookmark.as_mut(), if self.bookmarks => Woken::Bookmark,
            };
            match woken {
                Woken::Closing => {
                    self.ended = true;
                    return None;
                }
                Woken::Deadline => {
                    self.ended = true;
                    // A last bookmark saves the client from reading again what
                    // did not concern it.
                    return self.bookmark();
                }
                Woken::Bookmark => {
                    self.bookmark.as_mut().reset(Instant::now() + BOOKMARK_PERIOD);
                    if let Some(bookmark) = self.bookmark() {
                        return Some(bookmark);
                    }
                }
                Woken::Events(Err(error)) => return Some(self.fail(error.into())),
                Woken::Events(Ok(events)) => match self.encode(&events) {
                    Ok(chunk) if chunk.is_empty() => {}
                    Ok(chunk) => return Some(chunk),
                    Err(error) => return Some(self.fail(error)),
                },
            }
        }
    }

    /// The next part of the initial state, and the bookmark after its end.
    fn initial_chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut out = BytesMut::new();
        while out.len() < CHUNK {
            let Some(entry) = self.initial.next() else { break };
            if self.filter.matches(&entry)? {
                self.write(&mut out, "ADDED", &entry.value)?;
            }
        }
        if self.initial.len() == 0
            && let Some(revision) = self.initial_end.take()
        {
            self.write_bookmark(&mut out, revision, true);
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    fn encode(&mut self, events: &[Arc<Event>]) -> Result<Bytes, ApiError> {
        let mut out = BytesMut::new();
        for event in events {
            let now = match &event.entry {
                Some(entry) if self.filter.matches(entry)? => Some(entry),
                _ => None,
            };
            let before = match &event.previous {
                Some(entry) if self.filter.matches(entry)? => Some(entry),
                _ => None,
            };
            match (now, before) {
                (Some(now), None) => self.write(&mut out, "ADDED", &now.value)?,
                (Some(now), Some(_)) => self.write(&mut out, "MODIFIED", &now.value)?,
                // Gone, or no longer selected: either way its last selected
                // state, at the revision of the change.
                (None, Some(before)) => {
                    let bytes = object::with_revision(&before.value, event.revision.0);
                    self.write(&mut out, "DELETED", &bytes)?;
                }
                (None, None) => continue,
            }
            self.told = event.revision;
        }
        Ok(out.freeze())
    }

    fn write(&mut self, out: &mut BytesMut, kind: &str, stored: &Bytes) -> Result<(), ApiError> {
        let object = match self.view.form {
            Form::Table(_) => {
                let table = self.view.object_value(object::decode(stored)?, self.headed);
                self.headed = false;
                Bytes::from(table.to_string())
            }
            _ => self.view.object(stored)?,
        };
        frame(out, kind, &object);
        Ok(())
    }

    /// A bookmark, if the client wants them and does not know it already.
    fn bookmark(&mut self) -> Option<Bytes> {
        let revision = self.watch.as_ref()?.revision();
        if !self.bookmarks || revision <= self.told {
            return None;
        }
        let mut out = BytesMut::new();
        self.write_bookmark(&mut out, revision, false);
        Some(out.freeze())
    }

    fn write_bookmark(&mut self, out: &mut BytesMut, revision: Revision, initial_end: bool) {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let resource = self.view.resource;
        let object = match self.view.form {
            Form::Table(version) => self.view.table(version, metadata, Vec::new(), self.headed),
            Form::Partial(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
            Form::Object | Form::Discovery(_) => {
                json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
            }
        };
        frame(out, "BOOKMARK", object.to_string().as_bytes());
        self.told = revision;
    }

    /// Ends the stream with an ERROR event.
    fn fail(&mut self, error: ApiError) -> Bytes {
        self.ended = true;
        let status: Value = error.to_value();
        let mut out = BytesMut::new();
        frame(&mut out, "ERROR", status.to_string().as_bytes());
        out.freeze()
    }
}

fn frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}
