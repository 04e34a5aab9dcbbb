//! What authorization knows, kept fresh by one watch over the whole store.
//!
//! Watching everything rather than some ranges has a reason: the revision seen
//! last is then exact, and [`Live::catch_up`] can wait for a given one instead
//! of for luck. An event that does not matter costs one look at its key.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use skiff_store::{Entry, KeyRange, Revision, Snapshot, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Attributes, Decision, MASTERS,
    node::{self, NodeGraph},
    rbac::{self, Policy},
};
use crate::authn::objects::{decode, split};

const CLUSTER_ROLES: &str = "/rbac.authorization.k8s.io/clusterroles/";

/// Roles, bindings and references of pods, as of one revision.
#[derive(Debug, Default)]
struct State {
    policy: Policy,
    nodes: NodeGraph,
}

impl State {
    fn read(snapshot: &Snapshot) -> Self {
        let mut state = Self::default();
        for entry in snapshot.range(&KeyRange::all()) {
            state.apply(&entry.key, Some(entry));
        }
        state
    }

    fn apply(&mut self, key: &str, entry: Option<&Arc<Entry>>) {
        let Some((group, resource, namespace, name)) = split(key) else { return };
        let object = || entry.and_then(|entry| decode(entry));
        match (group, resource) {
            (rbac::GROUP, _) => self.policy.apply(resource, namespace, name, object().as_ref()),
            ("", "pods" | "persistentvolumeclaims" | "persistentvolumes") => {
                self.nodes.apply(resource, namespace, name, object().as_ref());
            }
            _ => {}
        }
    }
}

/// The live state of authorization.
pub struct Live {
    store: Store,
    state: RwLock<State>,
    seen: watch::Sender<Revision>,
    roles_changed: watch::Sender<Revision>,
}

impl Live {
    /// Reads the store as it is now; [`Live::follow`] keeps up from there.
    pub fn new(store: Store) -> Self {
        let snapshot = store.snapshot();
        let state = RwLock::new(State::read(&snapshot));
        let at = snapshot.revision();
        Self { store, state, seen: watch::Sender::new(at), roles_changed: watch::Sender::new(at) }
    }

    /// Follows the store until cancelled or the store is closed.
    pub async fn follow(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.follow_once() => match ended {
                    StoreError::Closed => return,
                    error => {
                        tracing::info!(%error, "authorization reads everything anew");
                        let snapshot = self.store.snapshot();
                        let state = State::read(&snapshot);
                        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
                        self.seen.send_replace(snapshot.revision());
                        self.roles_changed.send_replace(snapshot.revision());
                    }
                },
            }
        }
    }

    async fn follow_once(&self) -> StoreError {
        let after = *self.seen.borrow();
        let mut watch = match self.store.watch(KeyRange::all(), after) {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            let batch = match watch.next().await {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            let mut roles_changed = false;
            {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                for event in &batch {
                    if let Some(entry) = event.entry.as_ref().or(event.previous.as_ref()) {
                        roles_changed |= entry.key.starts_with(CLUSTER_ROLES);
                        state.apply(&entry.key, event.entry.as_ref());
                    }
                }
            }
            if let Some(last) = batch.last() {
                self.seen.send_replace(last.revision);
                if roles_changed {
                    self.roles_changed.send_replace(last.revision);
                }
            }
        }
    }

    /// Whether everything committed so far has been seen.
    pub fn is_current(&self) -> bool {
        *self.seen.borrow() >= self.store.revision()
    }

    /// Waits until everything committed so far has been seen, but no longer
    /// than `limit`.
    pub async fn catch_up(&self, limit: Duration) {
        let wanted = self.store.revision();
        let mut seen = self.seen.subscribe();
        // Too late or shut down: the caller looks at what there is.
        let _ = tokio::time::timeout(limit, seen.wait_for(|seen| *seen >= wanted)).await;
    }

    /// Decides with what is known now.
    pub fn decide(&self, asked: &Attributes<'_>) -> Decision {
        if asked.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut reason = String::new();
        if let Some(node) = node::node_name(asked.user) {
            match node::decide(&state.nodes, node, asked) {
                Decision::Allow(why) => return Decision::Allow(why),
                Decision::Deny(why) => reason = why,
            }
        }
        match state.policy.allows(asked) {
            Some(why) => Decision::Allow(why),
            None => Decision::Deny(reason),
        }
    }

    /// Looks at the roles and bindings. Keep it short: writers wait.
    pub fn policy<T>(&self, look: impl FnOnce(&Policy) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner).policy)
    }

    /// Wakes when a ClusterRole has changed.
    pub fn role_changes(&self) -> watch::Receiver<Revision> {
        self.roles_changed.subscribe()
    }
}
