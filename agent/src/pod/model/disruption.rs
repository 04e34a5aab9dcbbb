//! Why a node ends a pod that nobody has deleted, and what is said of it.

use std::time::Duration;

use jiff::Timestamp;

/// The reason in the status of a pod that was evicted.
pub const EVICTED: &str = "Evicted";
/// The reason in the status of a pod that made room for a critical one.
pub const PREEMPTED: &str = "Preempting";
/// The reason in the status of a pod whose machine shut down.
pub const TERMINATED: &str = "Terminated";

/// How long an evicted pod has to end at least, and where nothing else is said;
/// upstream's own.
pub const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Why a node ends a pod that nobody has deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disruption {
    /// The node is short of something, or the pod takes more than it may.
    Evicted {
        /// Which of both, and of what.
        message: String,
        /// How long it has to end, at most.
        grace: Duration,
    },
    /// A critical pod needs its room.
    Preempted,
    /// The machine shuts down.
    Shutdown {
        /// When the pod's turn is over; `None` in an agent that finds the pod
        /// half ended and has not been told.
        until: Option<Timestamp>,
    },
}

/// What a pod's status says when its machine shuts down, in upstream's words.
const SHUTDOWN_MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// What a pod's status says when a critical one takes its room, in upstream's
/// words: the whole of it, and the condition before.
const PREEMPTED_MESSAGE: &str = "Preempted in order to admit critical pod";
const PREEMPTED_CONDITION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

impl Disruption {
    /// The one that a pod's condition tells of.
    pub fn from_condition(message: &str) -> Self {
        match message {
            PREEMPTED_CONDITION => Self::Preempted,
            SHUTDOWN_MESSAGE => Self::Shutdown { until: None },
            other => Self::Evicted { message: other.to_owned(), grace: EVICTION_GRACE },
        }
    }

    /// The reason in the pod's status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Evicted { .. } => EVICTED,
            Self::Preempted => PREEMPTED,
            Self::Shutdown { .. } => TERMINATED,
        }
    }

    /// The message in the pod's status.
    pub fn message(&self) -> &str {
        match self {
            Self::Evicted { message, .. } => message,
            Self::Preempted => PREEMPTED_MESSAGE,
            Self::Shutdown { .. } => SHUTDOWN_MESSAGE,
        }
    }

    /// The message of the condition that tells of it while the pod ends.
    pub fn condition(&self) -> &str {
        match self {
            Self::Preempted => PREEMPTED_CONDITION,
            other => other.message(),
        }
    }
}
