//! Checkpoints of a series that wait for their evaluation. Pure.

use cnclip_crds::training::StageState;

use super::PlanDraft;
use crate::{observed::ObservedState, time};

/// Maximum number of checkpoints that wait.
// Bounds the object, whose size etcd limits to 1.5 MiB by default: without room for its status, a run would
// stand still.
const MAX_WAITING: usize = 400;

impl PlanDraft {
    /// Skips the oldest of too many checkpoints that wait; the current one is not among them.
    pub(super) fn skip_oldest_waiting(&mut self, observed: &ObservedState) {
        let Some(current) = self.status.current_stage() else {
            return;
        };

        let later = self.status.stages.iter_mut().zip(&mut self.status.history);
        let waiting = later
            .skip(current + 1)
            .filter(|(stage, _)| stage.state == StageState::Pending);

        let waiting: Vec<_> = waiting.collect();
        let excess = waiting.len().saturating_sub(MAX_WAITING);
        for (stage, entry) in waiting.into_iter().take(excess) {
            stage.state = StageState::Skipped;
            stage.finished_at = Some(time::to_rfc3339(observed.now));
            entry.message = Some(format!(
                "more than {MAX_WAITING} newer checkpoints wait: raise spec.checkpoint.everySteps of the \
                 training to make fewer, or give the evaluation more devices"
            ));
        }
    }
}
