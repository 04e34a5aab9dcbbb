//! Pods: one worker task for each, that makes what Docker runs what the API
//! wants.
//!
//! [`plan`] decides what to do next and [`status`] what to report, both from
//! the same two inputs: the pod (`desired`) and its containers (`observed`,
//! in [`model`]). The worker wakes for a change of the pod, an event of the
//! runtime, a probe's verdict, or the deadline that the plan named; it never
//! polls. [`apply`] acts.
//!
//! Left out: which pods there are ([`manager`] watches them) and what a
//! container looks like to the runtime ([`container`]).

pub mod admit;
pub mod model;
pub mod restart;

pub mod plan;
pub mod resize;
pub mod status;

pub mod directory;
pub mod inbox;
pub mod manager;
mod report;
pub mod static_pods;
pub mod worker;

pub mod api;
pub mod apply;
pub mod context;

pub mod accounts;
pub mod container;
pub mod env;
mod env_file;
pub mod exclusive;
pub mod files;
pub mod hooks;
pub mod objects;
pub mod resources;

#[cfg(test)]
pub(crate) mod fake_api;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
