//! Who manages which fields of an object: the bookkeeping in
//! `metadata.managedFields` and the merge of server-side apply.
//!
//! Every write tells which fields it set ([`compare`]); they become the
//! writer's and nobody else's. Who applies a configuration owns exactly the
//! fields in it: what it names is merged into the object, what it named last
//! time and no longer does is removed unless someone else owns it too, and
//! changing what someone else owns is a conflict ([`Managers::apply`]).
//!
//! The rules are those of upstream's structured-merge-diff and of
//! `apimachinery/pkg/util/managedfields`. Two are simpler here: all fields are
//! tracked by their names in the version that is stored, and so nothing is
//! converted back and forth; and a field that an applier drops is
//! kept if anybody manages anything below it.
//!
//! Reading order: `element`, `set`, `tree` (what may be owned), `fields`,
//! `compare`, `merge`, `managers`, `last_applied`.

mod element;
mod set;
mod tree;

mod check;
mod compare;
mod fields;
mod merge;

mod last_applied;
mod managers;

#[cfg(test)]
mod tests;

pub use check::check;
pub use compare::{Changes, compare};
pub use element::Element;
pub use fields::fields;
pub use last_applied::{KUBECTL, LAST_APPLIED, allowed_conflicts, sync_last_applied};
pub use managers::{Conflict, Managers, Operation, Writer};
pub use set::FieldSet;
