//! Nodes: their addresses (`ipam`), their health (`lifecycle`, which plans with
//! `health`), and what becomes of the pods of a sick one (`eviction`).

mod eviction;
mod health;
mod ipam;
mod lifecycle;

pub(crate) use self::eviction::TaintEvictions;
pub(crate) use self::ipam::NodeAddresses;
pub(crate) use self::lifecycle::NodeLifecycle;
