//! Jobs that hold resources, or would get them from a queue, after the end of their attempt is on record. Pure.

use cnclip_crds::training::StageState;

use crate::{
    observed::{JobState, ObservedJob, ObservedState},
    recorded_status::RecordedStatus,
};

/// The Jobs to remove. Planned again until they are gone, and only from what is stored: a Job whose end is not yet
/// on record would count as deleted by somebody else.
pub(super) fn find_leftover_jobs<'a>(
    recorded: &RecordedStatus,
    observed: &'a ObservedState,
) -> impl Iterator<Item = &'a ObservedJob> {
    let stays = |job: &&ObservedJob| !job.deleting && !job.foreign;
    let is_leftover =
        |job: &&ObservedJob| has_recorded_end(recorded, job) && holds_resources(job, observed);

    observed.jobs.iter().filter(stays).filter(is_leftover)
}

fn has_recorded_end(recorded: &RecordedStatus, job: &ObservedJob) -> bool {
    let stage = recorded.stages.iter().find(|stage| stage.name == job.stage);
    recorded.has_ended()
        || recorded.has_failure_of_attempt(&job.stage, job.attempt)
        || stage.is_some_and(|stage| {
            stage.state == StageState::Succeeded || job.attempt < stage.attempt
        })
}

/// Other Jobs end by themselves, and are kept for their logs.
fn holds_resources(job: &ObservedJob, observed: &ObservedState) -> bool {
    // Containers that were injected into the pods do not end with the trainer, and the Job waits for them.
    let sidecar_running = || {
        let workers = observed.workers_of(job);
        workers.iter().any(|worker| worker.sidecar_running)
    };

    job.state == JobState::Active && (job.queued || sidecar_running())
}

#[cfg(test)]
mod tests {
    use cnclip_crds::{common::LastFailure, names::condition, training::StageStatus};
    use serde_json::json;

    use super::*;
    use crate::{
        cluster_fixtures::{active_job, ended_state, job_in, worker_pod},
        observed::WorkerPod,
    };

    fn recorded(state: StageState, attempt: i32, failed_attempt: Option<i32>) -> RecordedStatus {
        let last_failure = failed_attempt.map(|attempt| LastFailure {
            stage: "align".to_owned(),
            attempt,
            ..LastFailure::default()
        });

        let stage = StageStatus {
            name: "align".to_owned(),
            state,
            attempt,
            ..StageStatus::default()
        };

        RecordedStatus {
            stages: vec![stage],
            last_failure,
            ..RecordedStatus::default()
        }
    }

    fn observed(job: ObservedJob, sidecar_running: bool) -> ObservedState {
        let worker = WorkerPod {
            sidecar_running,
            ..worker_pod("align", job.attempt, ended_state(0, "Completed", ""))
        };

        ObservedState {
            jobs: vec![job],
            workers: vec![worker],
            ..ObservedState::default()
        }
    }

    #[test]
    fn jobs_that_hold_resources_are_removed_once_their_end_is_on_record() {
        use StageState::{Running, Starting, Succeeded};
        let active = || active_job("align", 1);
        let queued = |attempt| ObservedJob {
            queued: true,
            ..active_job("align", attempt)
        };

        let mut ended = recorded(Running, 1, None);
        let failed = json!({
            "type": condition::FAILED, "status": "True", "reason": "Data", "message": "",
            "lastTransitionTime": "2027-01-15T08:00:00Z",
        });
        ended
            .conditions
            .push(serde_json::from_value(failed).unwrap());

        let rows = [
            (
                "at work",
                recorded(Running, 1, None),
                observed(active(), true),
                0,
            ),
            (
                "succeeded",
                recorded(Succeeded, 1, None),
                observed(active(), true),
                1,
            ),
            (
                "succeeded, without a sidecar",
                recorded(Succeeded, 1, None),
                observed(active(), false),
                0,
            ),
            (
                "failed",
                recorded(Starting, 1, Some(1)),
                observed(active(), true),
                1,
            ),
            (
                "failed, kept for its logs",
                recorded(Starting, 1, Some(1)),
                observed(job_in("align", 1, JobState::Failed(String::new())), false),
                0,
            ),
            (
                "waits in a queue",
                recorded(Starting, 1, None),
                observed(queued(1), false),
                0,
            ),
            (
                "an older attempt waits in a queue",
                recorded(Starting, 2, Some(1)),
                observed(queued(1), false),
                1,
            ),
            (
                "the run has ended, its Job waits in a queue",
                ended,
                observed(queued(1), false),
                1,
            ),
        ];

        for (name, recorded, observed, expected) in rows {
            let found = find_leftover_jobs(&recorded, &observed).count();
            assert_eq!(found, expected, "{name}");
        }
    }
}
