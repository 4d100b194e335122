//! Broadcasts the failure of a rank of this process to the other ranks.

use std::sync::Arc;

use crate::abort_state::{AbortState, FailureCause, WorkerFailure};
use crate::control::ControlPlane;
use crate::error::Origin;
use crate::topology::RankTopology;

/// What a rank's failure is reported through: the control plane where there are other workers, and the
/// abort state of this process alone otherwise.
#[derive(Debug)]
pub(super) struct FailureReporter {
    pub(super) topology: RankTopology,
    pub(super) abort_state: Arc<AbortState>,
    pub(super) control: Option<Arc<ControlPlane>>,
}

impl FailureReporter {
    /// Reports that this rank ends with an error, unless the others know already.
    pub(super) fn report_failure(&self, origin: Origin, error: &str) {
        if matches!(origin, Origin::PeerFailure | Origin::Interrupted) {
            return;
        }

        let rank = self.topology.rank;
        if let Some(control) = &self.control {
            control.announce_failure(rank, error);
            return;
        }

        self.abort_state.record_failure(WorkerFailure {
            worker: self.topology.worker_of_rank(rank),
            ranks: rank..rank + 1,
            step: self.abort_state.current_step(),
            cause: FailureCause::Reported(error.to_string()),
        });
    }
}
