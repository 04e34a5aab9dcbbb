//! The way between members: what the driver needs of it, and a twin in memory.
//!
//! A transport may lose, never alter. It has one ordered stream per peer with a
//! bounded queue; what does not fit is lost, and Raft sends it again.

pub(crate) mod memory;
pub(crate) mod stream;

use tokio::sync::mpsc::WeakSender;

use crate::driver::Request;
use crate::members::Members;
use crate::wire::peer::PeerMessage;

/// Carries messages to other members.
pub(crate) trait Transport: Send + Sync {
    /// This is `member`; messages from others go to `requests` from now on.
    fn begin(&self, member: u64, requests: WeakSender<Request>);

    /// Sends or loses a message. Never waits.
    fn send(&self, to: u64, message: PeerMessage);

    /// The members and their addresses are these from now on.
    fn follow(&self, members: &Members);
}

/// No peers: a group of one.
pub(crate) struct Alone;

impl Transport for Alone {
    fn begin(&self, _: u64, _: WeakSender<Request>) {}

    fn send(&self, to: u64, _: PeerMessage) {
        tracing::debug!(to, "no way to another member");
    }

    fn follow(&self, _: &Members) {}
}
