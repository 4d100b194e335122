//! Phase of a run: the outcome of planning, from which the conditions are written.

use crate::resolved_run::StatusReason;

/// Phase of a run, with its reason and message.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The spec is invalid.
    Rejected(StatusReason),
    /// No pods are running.
    Waiting(StatusReason),
    /// Pods are running.
    Running(String),
    /// Suspended by `spec.suspend`.
    Suspended(String),
    /// Completed successfully.
    Complete(String),
    /// Failed: no further retries.
    Failed(StatusReason),
}
