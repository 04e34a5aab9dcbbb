//! Expiry: objects that end by time alone.
//!
//! Reads and deletes Events an hour old, bootstrap tokens past their
//! `expiration`, and certificate signing requests that nobody needs any more.
//!
//! Each kind says when one of its objects expires; the queue's one timer waits
//! for the earliest. An Event that repeats after an hour is told anew.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::Resource;
use kube::api::DeleteParams;
use kube::core::PartialObjectMeta;
use skiff_client::Api;

use crate::cache::Cache;
use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found};
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// How long an Event is kept.
const EVENT_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a signing request is kept once it has been answered.
const ANSWERED_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a signing request may wait for an answer.
const PENDING_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A kind whose objects end by time.
pub(crate) trait Expiring:
    Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static
{
    /// The controller's name in logs.
    const CONTROLLER: &'static str;

    /// When the object has to go; `None` keeps it.
    fn expires_at(&self) -> Option<Timestamp>;
}

impl Expiring for PartialObjectMeta<Event> {
    const CONTROLLER: &'static str = "event-expiry";

    fn expires_at(&self) -> Option<Timestamp> {
        created(self).map(|at| meta::later(at, EVENT_LIFETIME))
    }
}

impl Expiring for Secret {
    const CONTROLLER: &'static str = "bootstrap-token-expiry";

    fn expires_at(&self) -> Option<Timestamp> {
        let ours = meta::namespace(&self.metadata) == "kube-system"
            && self.type_.as_deref() == Some("bootstrap.kubernetes.io/token");
        let expiration = self.data.as_ref().filter(|_| ours)?.get("expiration")?;
        std::str::from_utf8(&expiration.0).ok()?.trim().parse().ok()
    }
}

impl Expiring for CertificateSigningRequest {
    const CONTROLLER: &'static str = "signing-request-expiry";

    fn expires_at(&self) -> Option<Timestamp> {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let answered = conditions
            .filter(|condition| {
                matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed")
            })
            .filter_map(|condition| condition.last_update_time.as_ref())
            .map(|time| time.0)
            .max();
        match answered {
            Some(at) => Some(meta::later(at, ANSWERED_LIFETIME)),
            None => created(self).map(|at| meta::later(at, PENDING_LIFETIME)),
        }
    }
}

fn created<K: Resource>(object: &K) -> Option<Timestamp> {
    object.meta().creation_timestamp.as_ref().map(|time| time.0)
}

/// Keeps of an event what its expiry needs.
pub(crate) fn strip_event(event: &mut PartialObjectMeta<Event>) {
    event.types = None;
    event.metadata.annotations = None;
    event.metadata.labels = None;
}

/// The expiry controller of one kind.
pub(crate) struct Expiry<K> {
    context: Context,
    objects: Cache<K>,
}

impl<K: Expiring> Expiry<K> {
    /// The controller and the queue that the cache feeds.
    pub(crate) fn new(context: &Context, objects: &Cache<K>) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let tx = queue.clone();
        objects.subscribe(move |_, new| {
            let Some(object) = new else { return };
            if let Some(at) = object.expires_at() {
                tx.add_after(Key::of(object.meta()), rest(at, Timestamp::now()));
            }
        });
        (Arc::new(Self { context: context.clone(), objects: objects.clone() }), queue)
    }
}

impl<K: Expiring> Controller for Expiry<K> {
    type Key = Key;
    const NAME: &'static str = K::CONTROLLER;

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let Some(object) = self.objects.get(key) else { return Ok(Next::OnChange) };
        let Some(at) = object.expires_at() else { return Ok(Next::OnChange) };
        let rest = rest(at, Timestamp::now());
        if !rest.is_zero() {
            return Ok(Next::After(rest));
        }
        let api: Api<K> = Api::within(self.context.client.clone(), &key.namespace);
        let params = DeleteParams::default().preconditions(meta::identity(object.meta()));
        let deleted = ignore_not_found(api.delete(&key.name, &params).await);
        deleted.map(|_| Next::OnChange).doing(|| format!("delete expired {} {key}", K::kind(&())))
    }
}

/// How long until `at`.
fn rest(at: Timestamp, now: Timestamp) -> Duration {
    meta::elapsed(now, at)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::{
        CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    };

    use super::*;
    use crate::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn tokens_expire_as_they_say() {
        let token = |namespace: &str, expiration: &str| {
            let mut secret = Secret {
                metadata: testing::meta("bootstrap-token-abcdef"),
                type_: Some("bootstrap.kubernetes.io/token".into()),
                data: Some([("expiration".to_owned(), ByteString(expiration.into()))].into()),
                ..Secret::default()
            };
            secret.metadata.namespace = Some(namespace.into());
            secret
        };
        let cases = [
            ("a time", token("kube-system", "1970-01-01T00:01:40Z"), Some(at(100))),
            ("not a time", token("kube-system", "tomorrow"), None),
            ("not a token", token("default", "1970-01-01T00:01:40Z"), None),
        ];
        for (name, secret, expected) in cases {
            assert_eq!(secret.expires_at(), expected, "{name}");
        }
    }

    #[test]
    fn signing_requests_expire_after_their_answer() {
        let mut request = CertificateSigningRequest {
            metadata: testing::meta("csr"),
            ..CertificateSigningRequest::default()
        };
        assert_eq!(request.expires_at(), Some(at(24 * 3600)));
        let approved = CertificateSigningRequestCondition {
            type_: "Approved".into(),
            last_update_time: Some(meta::time(at(50))),
            ..CertificateSigningRequestCondition::default()
        };
        request.status = Some(CertificateSigningRequestStatus {
            conditions: Some(vec![approved]),
            ..CertificateSigningRequestStatus::default()
        });
        assert_eq!(request.expires_at(), Some(at(3650)));
    }
}
