//! ControllerRevision: a template as it once was.

use k8s_openapi::api::apps::v1::ControllerRevision;

use super::META;
use crate::catalogue::{FieldError, Part};
use crate::validation::meta::{check_create, check_update};
use crate::validation::path::{IMMUTABLE, Path, json};

/// Checks a new ControllerRevision.
pub fn controller_revision_create(revision: &ControllerRevision) -> Vec<FieldError> {
    check_create(&revision.metadata, META, |errors| {
        if revision.data.is_none() {
            errors.required(&Path::root("data"), "data is mandatory");
        }
        errors.non_negative(&Path::root("revision"), revision.revision);
    })
}

/// Checks an update of a ControllerRevision: what it remembers stays.
pub fn controller_revision_update(
    new: &ControllerRevision,
    old: &ControllerRevision,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if new.data != old.data {
            let data = new.data.as_ref().map(json).unwrap_or_default();
            errors.invalid(&Path::root("data"), data, IMMUTABLE);
        }
        errors.non_negative(&Path::root("revision"), new.revision);
    })
}
