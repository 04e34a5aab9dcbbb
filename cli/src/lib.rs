//! The programs `skiff` and `skiffctl`.
//!
//! [`skiffctl`] is a client and no more. [`skiff`] wires the components together: it parses flags, checks the
//! machine, starts parts and waits. Cluster logic lives in the components.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod skiff;
pub mod skiffctl;
