//! Series of evaluations: one stage per checkpoint of a training, in order of their creation. Pure.

use cnclip_crds::{
    evaluation::{CnClipEvaluation, ScoredCheckpoint},
    training::{CheckpointStatus, CnClipTraining, StageState, StageStatus},
};
use kube::ResourceExt;

use crate::{recorded_status::RecordedStatus, resolve::RunResource, resolved_run::StatusReason};

/// Maximum number of recorded checkpoints.
// Bounds the object, whose size etcd limits to 1.5 MiB by default. More than a training lists, so
// that a checkpoint that is dropped here cannot be taken for a new one.
const MAX_HISTORY: usize = 50;
/// Maximum length of a Job name: its pods' hostnames are DNS labels.
const MAX_JOB_NAME_CHARS: usize = 63;

/// The recorded checkpoints, followed by those that the training has written since, oldest first.
pub(super) fn list_checkpoints(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
) -> Vec<ScoredCheckpoint> {
    let history = run.status.iter().flat_map(|status| &status.history).rev();
    let mut entries: Vec<_> = history.cloned().collect();
    let written = training.and_then(|training| training.status.as_ref());

    for checkpoint in written.iter().flat_map(|status| &status.checkpoints).rev() {
        // An attempt may write a step that an earlier one has written: the weights are the same.
        let same = |entry: &ScoredCheckpoint| {
            (&entry.stage, entry.step) == (&checkpoint.stage, checkpoint.step)
        };

        if !entries.iter().any(same) {
            entries.push(history_entry(run, training, checkpoint));
        }
    }

    entries
}

fn history_entry(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
    checkpoint: &CheckpointStatus,
) -> ScoredCheckpoint {
    let CheckpointStatus {
        stage,
        step,
        uri,
        digest,
        ..
    } = checkpoint;

    let stages = training.iter().flat_map(|training| &training.spec.stages);
    let number = stages.take_while(|found| found.name != *stage).count() + 1;
    ScoredCheckpoint {
        name: stage_name(&run.name_any(), stage, number, *step),
        stage: stage.clone(),
        step: *step,
        checkpoint: uri.clone(),
        digest: digest.clone(),
        ..ScoredCheckpoint::default()
    }
}

/// Stage name such as `align-3800`; if that makes the Job name too long, with the index of the training stage
/// instead of its name.
fn stage_name(run: &str, stage: &str, number: usize, step: i64) -> String {
    // Room for the largest attempt number, because the name must not change between attempts.
    let attempt = "-9999".len();
    let name = format!("{stage}-{step}");
    let fits = run.len() + 1 + name.len() + attempt <= MAX_JOB_NAME_CHARS;

    if fits {
        name
    } else {
        format!("s{number}-{step}")
    }
}

/// Why the series is not complete.
pub(super) fn pending_reason(
    training: &CnClipTraining,
    entries: &[ScoredCheckpoint],
) -> Option<StatusReason> {
    let name = training.name_any();
    let ended = training.recorded_status().has_ended();
    match entries.last() {
        Some(_) if ended => None,
        None if ended => {
            let message = format!("CnClipTraining {name} has ended without a checkpoint");
            Some(StatusReason::new("NoCheckpoint", message))
        }
        None => {
            let message = format!("waits for the first checkpoint of CnClipTraining {name}");
            Some(StatusReason::new("NoCheckpoint", message))
        }
        Some(last) => {
            let message = format!(
                "waits for the next checkpoint of CnClipTraining {name}; the last was {}",
                last.name
            );

            Some(StatusReason::new("WaitingForCheckpoint", message))
        }
    }
}

/// Stage status of a recorded checkpoint. Fields that are recorded for the current stage only are those of
/// `present`.
pub(super) fn stage_status(entry: &ScoredCheckpoint, present: &StageStatus) -> StageStatus {
    let over = matches!(entry.state, StageState::Succeeded | StageState::Skipped);
    let reported = present.reported_at.clone().filter(|_| !over);
    StageStatus {
        name: entry.name.clone(),
        state: entry.state,
        attempt: entry.attempt,
        step: super::saturating_i64(entry.results.len()),
        finished_at: entry.finished_at.clone(),
        reported_at: reported.filter(|_| entry.state != StageState::Pending),
        ..present.clone()
    }
}

/// The most recent checkpoints, newest first, and all that wait for their evaluation.
pub(super) fn newest_history(recorded: &RecordedStatus) -> Vec<ScoredCheckpoint> {
    let entries = recorded.history.iter().zip(&recorded.stages).rev();
    let entries = entries.map(|(entry, stage)| ScoredCheckpoint {
        state: stage.state,
        attempt: stage.attempt,
        finished_at: stage.finished_at.clone(),
        ..entry.clone()
    });

    let is_over = |state| matches!(state, StageState::Succeeded | StageState::Skipped);
    let newest = entries.enumerate().filter(|(newer, entry)| {
        // The status is the only memory: a pending checkpoint that is left out may be pruned from
        // the training's list too, and would never be scored.
        *newer < MAX_HISTORY || !is_over(entry.state)
    });

    newest.map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest_fixtures;

    #[test]
    fn the_name_of_a_job_fits_whatever_the_names_of_runs_and_stages() {
        assert_eq!(stage_name("muge", "align", 1, 3800), "align-3800");
        let run = "r".repeat(32);
        let stage = "s".repeat(20);
        assert_eq!(stage_name(&run, &stage, 2, 1234), format!("{stage}-1234"));
        assert_eq!(stage_name(&run, &stage, 2, 1_234_567), "s2-1234567");

        for step in [1, 183_000, i64::from(i32::MAX)] {
            let job = format!("{run}-{}-9999", stage_name(&run, &stage, 16, step));
            assert!(job.len() <= MAX_JOB_NAME_CHARS, "{job}");
        }
    }

    #[test]
    fn a_step_that_is_written_again_is_scored_once() {
        let run = manifest_fixtures::sample_evaluation();
        let mut training = manifest_fixtures::sample_training();
        let written = |attempt| {
            json!({"stage": "align", "step": 40, "uri": format!("s3://runs/muge/align/checkpoints/40-{attempt}"),
                   "digest": "d", "writtenAt": "2026-01-01T00:00:00Z"})
        };

        let status = json!({"checkpoints": [written(2), written(1)]});
        training.status = Some(serde_json::from_value(status).unwrap());
        let found = list_checkpoints(&run, Some(&training));
        let found: Vec<_> = found
            .iter()
            .map(|entry| entry.checkpoint.as_str())
            .collect();

        assert_eq!(found, ["s3://runs/muge/align/checkpoints/40-1"]);
    }

    #[test]
    fn a_checkpoint_waits_for_its_turn_however_many_come_after_it() {
        let stage = |state| StageStatus {
            state,
            ..StageStatus::default()
        };

        let ended = || std::iter::repeat_n(stage(StageState::Succeeded), 30);
        let pending = std::iter::repeat_n(stage(StageState::Pending), 70);
        let stages: Vec<_> = ended().chain(pending).collect();
        let entries = vec![ScoredCheckpoint::default(); 100];
        let recorded = RecordedStatus {
            stages,
            history: entries,
            ..RecordedStatus::default()
        };

        assert_eq!(newest_history(&recorded).len(), 70);
        let recorded = RecordedStatus {
            stages: ended().chain(ended()).collect(),
            ..recorded
        };

        assert_eq!(newest_history(&recorded).len(), 50);
    }
}
