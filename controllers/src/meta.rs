//! Object metadata: keys, owners, timestamps. Small helpers without I/O.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, ObjectMeta, OwnerReference, Time,
};
use kube::Resource;
use kube::api::Preconditions;
use kube::core::{Selector, SelectorExt};

use crate::error::Error;

/// Names an object of a kind that the context implies. Cluster-scoped objects
/// have an empty namespace. Ordered by namespace first, so that the objects of
/// one namespace are a range.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The namespace, empty for cluster-scoped objects.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
}

impl Key {
    /// The key of `namespace` and `name`.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of the object that carries `meta`.
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The object's name, empty when it has none.
pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The object's namespace, empty when it is cluster-scoped.
pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The object's uid, empty when it has none.
pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The object's labels.
pub(crate) fn labels(meta: &ObjectMeta) -> &BTreeMap<String, String> {
    static NONE: LazyLock<BTreeMap<String, String>> = LazyLock::new(BTreeMap::new);
    meta.labels.as_ref().unwrap_or(&NONE)
}

/// The value of an annotation.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether somebody asked for the object's deletion.
pub(crate) fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether `finalizer` still holds the object back.
pub(crate) fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|name| name == finalizer)
}

/// The object's revision as a number. Revisions of one server are comparable.
pub(crate) fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The owner that controls the object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object's controller has this uid.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The reference by which `owner` controls what it makes.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name(owner.meta()).to_owned(),
        uid: uid(owner.meta()).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a deletion asks for, so that it never hits another object that has
/// taken the name meanwhile.
pub(crate) fn identity(meta: &ObjectMeta) -> Preconditions {
    Preconditions { uid: meta.uid.clone(), resource_version: None }
}

/// A reference to `object`, as events carry it.
pub(crate) fn object_reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    reference(K::api_version(&()), K::kind(&()), object.meta())
}

/// A reference to an object whose kind is known only at run time.
pub(crate) fn reference(
    api_version: Cow<'_, str>,
    kind: Cow<'_, str>,
    meta: &ObjectMeta,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.into_owned()),
        kind: Some(kind.into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Reads a label selector; an unknown operator is an error.
pub(crate) fn selector(selector: &LabelSelector) -> Result<Selector, Error> {
    Selector::try_from(selector.clone())
        .map_err(|err| Error::Invalid(format!("label selector: {err}")))
}

/// Whether a workload's selector takes an object with these labels in. An empty
/// selector takes nothing: it would take everything there is.
pub(crate) fn selects(selector: &Selector, meta: &ObjectMeta) -> bool {
    !selector.selects_all() && selector.matches(labels(meta))
}

/// The present moment, cut to the whole seconds that API objects keep.
pub(crate) fn now() -> Timestamp {
    whole_seconds(Timestamp::now())
}

/// Drops the fraction of a second.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// How long from `from` to `to`, zero when `to` is earlier.
pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// `from` plus `delay`; the end of time when it does not fit.
pub(crate) fn later(from: Timestamp, delay: Duration) -> Timestamp {
    from.checked_add(delay).unwrap_or(Timestamp::MAX)
}

/// An API time.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(at)
}
