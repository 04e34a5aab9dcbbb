//! Patches: JSON patch, merge patch and strategic merge patch, and the
//! three-way comparison by which `apply` makes one.
//!
//! All of them take bounded time and memory in the size of their input, since
//! a patch is what a stranger sends.

mod json;
mod merge;
mod order;
mod strategic;
mod three_way;

pub use json::{MAX_OPERATIONS, apply_json};
pub use merge::{apply_merge, create_merge};
pub use strategic::apply_strategic;
pub use three_way::three_way;

/// Why a patch was refused. The variants differ in the HTTP status that the
/// caller answers with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not one: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is one, but does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch asks for too much: 413.
    #[error("{0}")]
    TooLarge(String),
}

/// Directives of strategic merge patches.
mod directive {
    /// `merge`, `replace` or `delete` the object or list item it stands in.
    pub(super) const PATCH: &str = "$patch";
    /// The keys of the object to keep.
    pub(super) const RETAIN_KEYS: &str = "$retainKeys";
    /// `$setElementOrder/LIST`: the order of a list's items.
    pub(super) const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
    /// `$deleteFromPrimitiveList/LIST`: values to take out of a list.
    pub(super) const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
}
