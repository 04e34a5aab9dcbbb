//! Conversions between the views of a kind: one file per kind, each a pair of
//! functions that rewrite an object in place.
//!
//! Old versions filled in defaults of their own, which their manifests rely
//! on; a conversion to the current kind writes those out.

pub(super) mod budget;
pub(super) mod events;
pub(super) mod hpa;
pub(super) mod ingress;
pub(super) mod slices;
pub(super) mod workloads;

use serde_json::{Map, Value};

/// Renames a field if it is there.
fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}
