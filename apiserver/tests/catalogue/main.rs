//! Every kind of the catalogue through every verb, as upstream's "lifecycle"
//! tests walk them.
//!
//! One sample per kind in `samples.yaml`; what is checked is the same for all.
//! A step that fails is written down and the walk goes on, so that one run
//! shows all that is wrong.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod findings;
mod lifecycle;
mod samples;
mod shapes;
mod views;
