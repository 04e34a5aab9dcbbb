//! Which of two views of an object is the newer one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A resource version. They are numbers that grow, so two views of the same
/// object can be told apart by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(pub(crate) u64);

/// The object's revision, if it has one.
pub(crate) fn revision_of(meta: &ObjectMeta) -> Option<Revision> {
    meta.resource_version.as_deref()?.parse().ok().map(Revision)
}
