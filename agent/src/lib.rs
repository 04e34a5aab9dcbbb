//! The node agent: what the API says should run on this node, runs.
//!
//! Reads the pods bound to its node, what they name (config maps, secrets,
//! services, claims), and the other nodes, for routes and images. Writes the
//! pods' status, events, its Node object and its lease.
//!
//! The modules in reading order: [`runtime`] is Docker behind a trait, with an
//! in-memory twin; [`pod`] decides (`plan`, `status`) and acts (`apply`);
//! [`images`] brings what containers are made of, from a registry or another
//! node; [`volume`] lays out their files; [`probe`] asks them how they are;
//! [`network`] gives each pod an address; [`cgroup`] limits it as a whole;
//! [`devices`] gives it GPUs; [`node`] reports the machine; [`eviction`] ends
//! pods when it runs short, [`shutdown`] when it goes off; [`server`] answers
//! the API server's calls for logs and exec; `join` makes the machine a node,
//! and `agent` wires all of it.
//!
//! Left out: any store of its own. All state is in the API, in Docker's labels,
//! and in files under the data directory.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod address;
mod agent;
mod bus;
pub mod cgroup;
mod config;
pub mod devices;
pub mod events;
pub mod eviction;
pub mod images;
mod join;
pub mod metrics;
pub mod network;
pub mod node;
pub mod pod;
pub mod probe;
mod revision;
pub mod runtime;
pub mod server;
pub mod shutdown;
mod teardown;
pub mod usage;
pub mod volume;

pub use agent::run;
pub use config::{Config, instance_of};
pub use join::{
    JoinError, JoinToken, Joined, Renewal, RequestError, TokenError, join, token_client,
};
pub use teardown::{Removed, teardown};
