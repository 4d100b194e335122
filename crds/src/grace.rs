//! How long a pod may save its state after it was asked to end.

use std::time::Duration;

/// From SIGTERM to SIGKILL: the operator sets it on the pods of a training, and the trainer decides by it what can still
/// be saved.
// To finish the current step and upload a checkpoint of several gigabytes, which may take longer than the Kubernetes
// default of 30 s.
pub const TERMINATION_GRACE: Duration = Duration::from_secs(120);
