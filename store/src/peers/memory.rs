//! The twin of the network in memory, for tests: delivers at once what it does
//! not lose.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::WeakSender;

use super::Transport;
use crate::driver::Request;
use crate::members::Members;
use crate::wire::peer::PeerMessage;

/// A network in memory. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    members: HashMap<u64, WeakSender<Request>>,
    cut: HashSet<u64>,
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNetwork").finish_non_exhaustive()
    }
}

impl MemoryNetwork {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts a member off from all others.
    pub fn cut(&self, id: u64) {
        self.state().cut.insert(id);
    }

    /// Joins everybody again.
    pub fn heal(&self) {
        self.state().cut.clear();
    }

    /// The end of member `id`.
    pub(crate) fn end(&self, id: u64) -> Arc<dyn Transport> {
        Arc::new(End { id, network: self.clone() })
    }
}

struct End {
    id: u64,
    network: MemoryNetwork,
}

impl Transport for End {
    fn begin(&self, member: u64, requests: WeakSender<Request>) {
        debug_assert_eq!(member, self.id);
        self.network.state().members.insert(self.id, requests);
    }

    fn send(&self, to: u64, message: PeerMessage) {
        let state = self.network.state();
        let open = |id: u64| !state.cut.contains(&id);
        let ends = |id: u64| state.members.get(&id).and_then(WeakSender::upgrade);
        // Through the codec, as on a wire.
        let message = match PeerMessage::decode(&message.encode()) {
            Ok(message) if open(self.id) && open(to) => message,
            Ok(_) => {
                if let Some(own) = ends(self.id) {
                    let _ = own.try_send(Request::Unreachable { id: to });
                }
                return;
            }
            Err(error) => {
                tracing::error!(%error, to, "a message does not read");
                return;
            }
        };
        if let Some(peer) = ends(to) {
            // A full queue loses the message, as a network would.
            let _ = peer.try_send(Request::Step { from: self.id, message });
        }
    }

    fn follow(&self, _: &Members) {}
}
