//! The controllers: each keeps one promise of the API.
//!
//! A controller compares what objects say (`desired`) with what is there
//! (`observed`) and writes the difference. It has a pure `plan_*` core and a
//! thin rest that acts, in one folder or file. All of them share one watch per
//! kind (`cache`), queues of keys that want a pass (`queue`), the loop around
//! them (`runner`), and the care not to act twice on an old picture
//! (`expectations`). Nothing polls: a pass runs because something changed or
//! because a moment it asked for has come.
//!
//! To read one from end to end, begin with `replicaset`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod replicaset;

mod deployment;

mod daemonset;

mod job;

mod endpoints;

mod namespace;

mod gc;

mod node;

mod podgc;

mod disruption;

mod volume;

mod expiry;

mod resource_quota;

mod cache;
mod claim;
mod context;
mod discovery;
mod error;
mod events;
mod expectations;
mod meta;
mod pod_control;
mod pods;
mod queue;
mod runner;
mod supervisor;

#[cfg(test)]
mod testing;

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

pub use self::supervisor::run;

/// What the controllers need to know of the cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pods' network. Default `10.244.0.0/16`.
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of each node's part of it. Default 24.
    pub node_cidr_mask: u8,
    /// The cluster's CA in PEM, published in every namespace as the ConfigMap
    /// `kube-root-ca.crt`. Empty (the default) publishes nothing.
    pub ca_pem: String,
    /// Ended pods to keep for their logs; the oldest go when there are more.
    /// Default 12,500.
    pub terminated_pods_kept: usize,
    /// How long a node may go without renewing its lease before it counts as
    /// unreachable. Default 40 s.
    pub node_monitor_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            node_cidr_mask: 24,
            ca_pem: String::new(),
            terminated_pods_kept: 12_500,
            node_monitor_grace: Duration::from_secs(40),
        }
    }
}
