//! Label selectors and field selectors: reading, checking, matching.
//!
//! Reading is linear in the text. Matching borrows: no label is copied.

mod field;
mod label;
mod parse;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement, SelectorError};
