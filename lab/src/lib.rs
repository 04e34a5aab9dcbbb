//! Clusters of many masters and nodes on one machine, and their faults.
//!
//! Every machine of a lab is a network namespace with one network card, an
//! address, no default route, and one Skiff process in it. A switch, a bridge
//! in a namespace of its own, joins them; the host's interfaces, routes and
//! rules are not touched. All machines share the host's Docker.
//!
//! The modules in reading order: [`plan`] decides names and addresses, purely;
//! [`netns`] and [`switch`] make the wires; [`process`] starts and stops the
//! programs; [`front`] leads a loopback port of the host to the masters;
//! [`lab`] puts them together and is what the command line calls.
//!
//! Left out: any knowledge of Kubernetes. A lab starts programs with command
//! lines; whether a node is Ready is for the caller to ask the API.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod plan;

pub mod netns;
pub mod process;
pub mod switch;

pub mod front;
pub mod lab;

pub use lab::{Lab, LabError};
pub use plan::{Machine, Plan, Role};
