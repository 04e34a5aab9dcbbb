//! Bugs on purpose: each must be found by the checks, or the checks are no
//! good. Only simulations can have them.

use std::cell::Cell;

/// One bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A write to the log returns before it is durable.
    AcknowledgeBeforeSync,
    /// The log does not keep the vote.
    ForgetVote,
    /// A read is answered by whatever state the member has.
    SkipReadIndex,
    /// History gives up an event without moving its beginning.
    LoseWatchEvent,
    /// The saved state is newer than the entry it says it is of.
    ApplyTwice,
    /// A forwarded batch that arrives again is proposed again.
    RepeatForwards,
    /// A crash between a received snapshot and the log's reset is not mended.
    HalfSnapshot,
    /// Whoever asks whether it was removed, and has no vote, is told so.
    TurnAwayLearners,
}

impl Fault {
    /// Every bug, and the number of seeds within which it has to be found.
    pub(super) const ALL: [(Fault, u64); 8] = [
        (Fault::AcknowledgeBeforeSync, 100),
        (Fault::ForgetVote, 2000),
        (Fault::SkipReadIndex, 50),
        (Fault::LoseWatchEvent, 50),
        (Fault::ApplyTwice, 50),
        (Fault::RepeatForwards, 50),
        (Fault::HalfSnapshot, 1000),
        (Fault::TurnAwayLearners, 2000),
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Whether the run of this thread has the bug.
pub(crate) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Plants a bug, or none, in what runs on this thread from now on.
pub(super) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}
