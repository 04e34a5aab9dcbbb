//! A revisioned key-value store that does not lose what it acknowledged.
//!
//! Writes go through a Raft log (`raft` over `raft-engine`, one `fdatasync`
//! per batch), are applied to an in-memory ordered map of immutable entries
//! and, in the same order, to a rebuildable state tree in `sled`. Reads come
//! from snapshots of the map; watches read a window of recent history.
//!
//! Knows nothing of Kubernetes or HTTP: keys are text, values are bytes.
//!
//! A write's way through the files, in reading order: `types` (nouns),
//! `validate` and `wire` (the caller's task), `driver` (the one thread that
//! writes), `core` (everything that is decided, without a clock, a disk or a
//! network), `group` (Raft), `members` (who belongs), `log` (durable), `peers`
//! (the way to other members), `machine` (applied), `view` and `history`
//! (published), `watch` (followed). Behind them, `keeper` saves the applied
//! state to `state` and `snapshot_file`, and `disk` puts it all back together
//! at the next start.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod types;

mod store;
mod validate;
mod wire;

mod core;
mod driver;
mod group;
mod log;
mod members;
mod peers;

mod history;
mod machine;
mod stats;
mod view;
mod watch;

mod backup;
#[cfg(any(test, feature = "checker"))]
pub mod checker;
mod disk;
mod etcd;
mod keeper;
mod sealing;
#[cfg(test)]
mod sim;
mod snapshot_file;
mod state;

pub use backup::{Backup, BackupError, Contents, REVISION_GAP, inspect, restore};
pub use etcd::{EtcdConfig, EtcdTls};
pub use members::{Change, Contact};
pub use peers::memory::MemoryNetwork;
pub use peers::stream::{PeerConfig, PeerError};
pub use stats::{MemberStatus, SYNC_BUCKETS_MICROS, Stats};
pub use store::{Store, StoreConfig};
pub use types::{
    Committed, Compare, Draft, Entry, Event, Key, KeyRange, Leadership, Revision, StoreError, Txn,
    Write,
};
pub use view::Snapshot;
pub use watch::Watch;
