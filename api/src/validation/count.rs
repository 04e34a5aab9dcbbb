//! A number of pods, or a share of them: `maxUnavailable: 25%`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::names;
use super::path::{Errors, Path, json};

/// Checks a number of pods, or a share of them.
pub(super) fn count_or_percent(errors: &mut Errors, value: &IntOrString, path: &Path<'_>) {
    match value {
        IntOrString::Int(count) => errors.non_negative(path, *count),
        IntOrString::String(share) => errors.invalid_each(path, share, names::percent(share)),
    }
}

/// Refuses a share of more than all pods.
pub(super) fn at_most_all(errors: &mut Errors, value: &IntOrString, path: &Path<'_>) {
    if percent_of(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, json(value), "must not be greater than 100%");
    }
}

/// Whether it is no pod, however it is said.
pub(super) fn is_zero(value: &IntOrString) -> bool {
    *value == IntOrString::Int(0) || percent_of(value) == Some(0)
}

/// The number in `25%`.
fn percent_of(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::Int(_) => None,
        IntOrString::String(share) => share.strip_suffix('%')?.parse().ok(),
    }
}
