use serde_json::json;

use super::*;
use crate::{
    cluster_fixtures::{active_job, ended_state, time_at, worker_pod},
    manifest_fixtures,
    observed::ObservedJob,
    resolve::RunResource,
    resolved_run::StatusReason,
};
use cnclip_crds::training::{StageState, StageStatus};

fn resolved() -> ResolvedRun {
    manifest_fixtures::sample_training_with("/deadlineSeconds", json!(4000))
        .resolve_run(
            &ObservedState::default(),
            &manifest_fixtures::trainer_defaults(),
        )
        .unwrap()
}

fn recorded() -> RecordedStatus {
    RecordedStatus {
        stages: vec![StageStatus {
            name: "align".to_owned(),
            state: StageState::Running,
            attempt: 1,
            ..StageStatus::default()
        }],
        started_at: Some(time::to_rfc3339(time_at(0))),
        ..RecordedStatus::default()
    }
}

fn observed(seconds: i64, job: ObservedJob, states: &[WorkerState]) -> ObservedState {
    ObservedState {
        now: time_at(seconds),
        jobs: vec![job],
        workers: states
            .iter()
            .map(|state| worker_pod("align", 1, state.clone()))
            .collect(),
        ..ObservedState::default()
    }
}

fn interval(phase: &Phase, observed: &ObservedState) -> u64 {
    requeue_interval(phase, &resolved(), &recorded(), observed, "u-1").as_secs()
}

fn waiting(reason: &'static str) -> Phase {
    Phase::Waiting(StatusReason::new(reason, ""))
}

fn running() -> Phase {
    Phase::Running(String::new())
}

#[test]
fn what_others_trigger_is_rarely_looked_at_and_what_depends_on_the_time_often() {
    const RUNS: WorkerState = WorkerState::Running;
    let ended = || ended_state(75, "Error", "");
    let suspended = || Phase::Suspended(String::new());
    let resting = 300..375;
    let watched = 60..75;
    let transition = 5..6;
    let rows = [
        (waiting("Queued"), vec![], &resting),
        (waiting("TrainingMissing"), vec![], &resting),
        (waiting("TrainingNotComplete"), vec![], &resting),
        (waiting("WaitingForCheckpoint"), vec![], &resting),
        (suspended(), vec![], &resting),
        (suspended(), vec![ended()], &resting),
        (suspended(), vec![RUNS], &transition),
        (waiting("Unschedulable"), vec![], &watched),
        (waiting("Starting"), vec![], &transition),
        (waiting("Ending"), vec![RUNS], &transition),
        (waiting("RestartPending"), vec![ended()], &transition),
        (running(), vec![RUNS, RUNS], &watched),
        (running(), vec![RUNS, ended()], &transition),
    ];

    for (phase, states, expected) in rows {
        let found = interval(&phase, &observed(10, active_job("align", 1), &states));
        assert!(expected.contains(&found), "{phase:?} {states:?}: {found}");
    }

    let mut deleted = observed(10, active_job("align", 1), &[RUNS]);
    deleted.workers[0].ends_by = Some(time_at(40));
    assert_eq!(interval(&running(), &deleted), 5);
}

#[test]
fn a_run_is_looked_at_when_a_deadline_is_missed() {
    let job = || active_job("align", 1);
    let queued = ObservedJob {
        queued: true,
        ..job()
    };

    // The start deadline is 1800 s, that of the run 4000 s.
    let pending = waiting("Unschedulable");
    assert_eq!(interval(&pending, &observed(1790, job(), &[])), 11);
    assert_eq!(interval(&pending, &observed(1800, job(), &[])), 1);
    let rows = [(3990, 11), (4000, 1)];
    for (seconds, expected) in rows {
        let seen = observed(seconds, queued.clone(), &[]);
        assert_eq!(interval(&waiting("Queued"), &seen), expected, "{seconds}");
        let seen = observed(seconds, job(), &[WorkerState::Running]);
        assert_eq!(interval(&running(), &seen), expected, "{seconds}");
    }

    // Time in a queue does not count for the start.
    let seen = observed(1790, queued, &[]);
    assert!(interval(&waiting("Queued"), &seen) >= 300);
}

#[test]
fn runs_do_not_come_back_together() {
    let seconds = |uid: &str| spread_interval(RESTING_INTERVAL, uid).as_secs();
    let found: std::collections::BTreeSet<_> =
        (0..200).map(|uid| seconds(&format!("u-{uid}"))).collect();

    assert!(found.len() > 50, "{found:?}");
    assert!(found.iter().all(|found| (300..375).contains(found)));
    assert_eq!(seconds("u-1"), seconds("u-1"));
}
