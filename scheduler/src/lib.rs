//! The scheduler: gives every pending pod a node, or says why there is none.
//!
//! Reads pods, nodes, namespaces, claims, volumes and storage classes through
//! watches. Writes bindings, the `PodScheduled` condition of pods it cannot
//! place, which volume or node a waiting claim gets, and events.
//!
//! Deciding is pure: [`place::place`] takes a pod and a picture of the cluster
//! ([`cluster::Cluster`]) and returns a node's name or a refusal per node. The
//! rules it consults stand in [`filter`] (what must hold) and [`score`] (what
//! is better). Acting is thin: `run` feeds the picture from watches and keeps
//! the queue, `bind` writes to the API.
//!
//! Left out: preemption, percentage sampling of nodes.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod run;

pub mod cluster;
pub mod resources;

pub mod affinity;
pub mod filter;
pub mod place;
pub mod score;
pub mod spread;
pub mod volumes;

mod bind;
mod queue;

pub use run::run;

/// The name under which pods ask for this scheduler, `spec.schedulerName`.
pub const SCHEDULER_NAME: &str = "default-scheduler";
