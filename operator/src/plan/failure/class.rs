//! Failure classes, and the retry limit that each counts toward.

/// Cause of the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// Invalid command line (exit code 64).
    Usage,
    /// Invalid configuration (exit code 78).
    Config,
    /// Unusable data (exit code 65).
    Data,
    /// The image does not contain the trainer.
    Image,
    /// Internal error of the trainer (exit code 70, or an undefined one).
    Bug,
    /// Out of memory.
    OutOfMemory,
    /// SIGKILL (exit code 137).
    Killed,
    /// Any other signal.
    Crashed,
    /// A worker made no progress and was ended (exit code 71).
    Hang,
    /// The trainer requested a restart (exit code 75).
    Requeued,
    /// SIGTERM before the state was saved (exit code 143).
    Terminated,
    /// Preempted by a pod of higher priority.
    Preempted,
    /// Evicted from its node.
    Evicted,
    /// Rejected or terminated by the kubelet.
    NodeRefused,
    /// The node is unreachable, or was restarted.
    NodeLost,
    /// An init container that was injected into the pod failed.
    InitContainer,
    /// The pod was deleted.
    PodDeleted,
    /// The Job was deleted.
    JobDeleted,
    /// The pods were not running before the start deadline.
    StartDeadline,
    /// The run exceeded its deadline.
    Deadline,
}

/// Retry limit that a restart counts toward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryBudget {
    /// Not retryable: the next attempt would fail in the same way.
    Never,
    /// `retries.application`.
    Application,
    /// `retries.infrastructure`.
    Infrastructure,
}

impl FailureClass {
    /// Every class, in the order of declaration.
    pub const ALL: [Self; 20] = [
        Self::Usage,
        Self::Config,
        Self::Data,
        Self::Image,
        Self::Bug,
        Self::OutOfMemory,
        Self::Killed,
        Self::Crashed,
        Self::Hang,
        Self::Requeued,
        Self::Terminated,
        Self::Preempted,
        Self::Evicted,
        Self::NodeRefused,
        Self::NodeLost,
        Self::InitContainer,
        Self::PodDeleted,
        Self::JobDeleted,
        Self::StartDeadline,
        Self::Deadline,
    ];

    /// Name in status, events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "Usage",
            Self::Config => "Config",
            Self::Data => "Data",
            Self::Image => "Image",
            Self::Bug => "Bug",
            Self::OutOfMemory => "OutOfMemory",
            Self::Killed => "Killed",
            Self::Crashed => "Crashed",
            Self::Hang => "Hang",
            Self::Requeued => "Requeued",
            Self::Terminated => "Terminated",
            Self::Preempted => "Preempted",
            Self::Evicted => "Evicted",
            Self::NodeRefused => "NodeRefused",
            Self::NodeLost => "NodeLost",
            Self::InitContainer => "InitContainerFailed",
            Self::PodDeleted => "PodDeleted",
            Self::JobDeleted => "JobDeleted",
            Self::StartDeadline => "StartDeadlineExceeded",
            Self::Deadline => "DeadlineExceeded",
        }
    }

    /// Retry limit that a restart after this failure counts toward.
    pub fn retry_budget(self) -> RetryBudget {
        match self {
            Self::Usage
            | Self::Config
            | Self::Data
            | Self::Image
            | Self::StartDeadline
            | Self::Deadline => RetryBudget::Never,
            Self::Bug | Self::OutOfMemory | Self::Killed | Self::Crashed => {
                RetryBudget::Application
            }
            Self::Hang
            | Self::Requeued
            | Self::Terminated
            | Self::Preempted
            | Self::Evicted
            | Self::NodeRefused
            | Self::NodeLost
            | Self::InitContainer
            | Self::PodDeleted
            | Self::JobDeleted => RetryBudget::Infrastructure,
        }
    }
}
