//! The Kubernetes API over the store.
//!
//! One tower service answers everything: connections that TLS accepted and
//! the in-process client alike. A request becomes a [`request_info::RequestInfo`],
//! then a [`user::UserInfo`], is authorized, and ends in the registry, which
//! is one machine over the catalogue of kinds and has no handler of a kind's
//! own.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
mod start;

pub mod negotiate;
pub mod request_info;
mod server;
mod service;
pub mod status;
pub mod user;

pub mod admission;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod pki;

mod allocate;
pub mod backup;
mod bootstrap;
pub mod keys;
pub mod members;
mod registry;

mod client;
mod compress;
mod discovery;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod health;
pub mod join;
mod leading;
mod metrics;
mod openapi;
mod patience;
mod protobuf;
pub mod stream;

pub use config::Config;
pub use discovery::KUBERNETES_VERSION;
pub use start::{ApiServer, StartError, open_pki, serve, start};
