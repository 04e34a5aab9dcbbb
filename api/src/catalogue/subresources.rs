//! The subresources that several kinds share.

use super::{ScalePaths, Subresource};

/// Verbs of a subresource that shows and edits a part of the object.
pub(super) const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
/// Verbs of a subresource that forwards any request.
pub(super) const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
/// Verbs of a subresource that upgrades to a stream.
pub(super) const STREAM_VERBS: &[&str] = &["create", "get"];

/// `scale`, the same for every kind that counts replicas.
pub(super) const SCALE: Subresource = sub("scale", "Scale", "autoscaling", "v1", STATUS_VERBS);

/// Where most kinds keep what `scale` shows.
pub(super) const SCALE_PATHS: ScalePaths = ScalePaths {
    spec_replicas: "/spec/replicas",
    status_replicas: "/status/replicas",
    selector: "/spec/selector",
};

/// A subresource.
pub(super) const fn sub(
    name: &'static str,
    kind: &'static str,
    group: &'static str,
    version: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, kind, group, version, verbs }
}

/// The `status` subresource of a kind.
pub(super) const fn status(
    kind: &'static str,
    group: &'static str,
    version: &'static str,
) -> Subresource {
    sub("status", kind, group, version, STATUS_VERBS)
}
