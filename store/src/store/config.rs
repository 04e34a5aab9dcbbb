//! How a store is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::keeper;
use crate::peers::stream::PeerConfig;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreConfig {
    /// The directory that the store owns alone. Made if missing.
    pub dir: PathBuf,
    /// Encrypts values marked `sealed`. A directory opens only with the key it
    /// was made with.
    pub sealing_key: [u8; 32],
    /// How long watches can resume. Default: five minutes.
    pub history_window: Duration,
    /// Memory that replaced values may take in the history window; above it
    /// the window becomes shorter. Default: 64 MiB.
    pub history_bytes: usize,
    /// Largest transaction, keys and values together. Default: 4 MiB.
    pub max_txn_bytes: usize,
    /// How long a commit or a most recent read waits for the group.
    /// Default: 10 s.
    pub request_timeout: Duration,
    /// Log written before a snapshot replaces it; more if the state itself is
    /// larger. Default: 8 MiB.
    pub snapshot_log_bytes: u64,
    /// Log that a member of a group keeps behind its snapshot: whoever is less
    /// far behind catches up by it, others by the snapshot. Default: 8 MiB.
    pub kept_log_bytes: u64,
    /// How this member and its peers find each other. Default: it has none.
    pub peers: Option<PeerConfig>,
    /// The id that a group has given to this member. Says that a new directory
    /// joins that group instead of beginning one; ignored in any other.
    pub joined_as: Option<u64>,
    /// After the loss of a quorum for good: this member becomes a new group of
    /// one with what it holds. What others acknowledged and it never received
    /// is lost, and those others must never be started again. Default: false.
    pub force_new_group: bool,
}

impl StoreConfig {
    /// The defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>, sealing_key: [u8; 32]) -> Self {
        Self {
            dir: dir.into(),
            sealing_key,
            history_window: Duration::from_secs(300),
            history_bytes: 64 << 20,
            max_txn_bytes: 4 << 20,
            request_timeout: Duration::from_secs(10),
            snapshot_log_bytes: 8 << 20,
            kept_log_bytes: 8 << 20,
            peers: None,
            joined_as: None,
            force_new_group: false,
        }
    }

    /// Most bytes that the directory takes while live keys and values take
    /// `state_bytes`, however often they are written.
    pub fn disk_bound(&self, state_bytes: u64) -> u64 {
        keeper::disk_bound(state_bytes, self.snapshot_log_bytes, self.kept_log_bytes)
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The sealing key stays out of logs.
        f.debug_struct("StoreConfig").field("dir", &self.dir).finish_non_exhaustive()
    }
}
