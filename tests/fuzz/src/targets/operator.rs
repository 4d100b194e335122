//! What the operator reads from the cluster: manifests, reports of trainers, termination messages.

use cnclip::progress::termination_message::{MAX_MESSAGE_BYTES, to_bounded_json};
use cnclip_crds::evaluation::CnClipEvaluation;
use cnclip_crds::report::ProgressReport;
use cnclip_crds::training::{CnClipTraining, StageState};
use cnclip_operator::observed::{JobState, ObservedJob, ObservedState, WorkerPod, WorkerState};
use cnclip_operator::plan::plan_run;
use cnclip_operator::resolve::{RunRef, RunResource, TrainerDefaults};

pub(super) fn training(data: &[u8]) -> bool {
    let run = serde_json::from_slice::<CnClipTraining>(data);
    run.is_ok_and(|run| plan_attempts(&run, None))
}

pub(super) fn evaluation(data: &[u8]) -> bool {
    let run = serde_json::from_slice::<CnClipEvaluation>(data);
    run.is_ok_and(|run| plan_attempts(&run, None))
}

/// A report of a pod, as its answer to a request and as its termination message.
pub(super) fn report(data: &[u8]) -> bool {
    if let Ok(report) = serde_json::from_slice::<ProgressReport>(data) {
        let text = to_bounded_json(&report);
        assert!(text.len() <= MAX_MESSAGE_BYTES);
        serde_json::from_str::<ProgressReport>(&text).expect("what is written can be read");
    }

    let is_planned = plan_attempts(&sample_training(), Some(data));
    let evaluation = include_bytes!("../../corpus/evaluation/each_checkpoint.json");
    let evaluation: CnClipEvaluation =
        serde_json::from_slice(evaluation).expect("it is an evaluation");

    is_planned & plan_attempts(&evaluation, Some(data))
}

fn sample_training() -> CnClipTraining {
    let training = include_bytes!("../../corpus/training/two_stages.json");
    serde_json::from_slice(training).expect("it is a training")
}

/// Plans a run before its first pod, with the pod at work, and after the pod's end, each from the status of the plan
/// before. Says whether there was a pod to plan, and its report was recorded.
fn plan_attempts<R: RunResource>(run: &R, report: Option<&[u8]>) -> bool {
    let before = ObservedState {
        training: Some(sample_training()),
        ..ObservedState::default()
    };

    let run = reconcile(run, &before);
    let stages = run.recorded_status().stages;
    let Some(stage) = stages.iter().find(|stage| is_open(stage.state)) else {
        return false;
    };

    let Report { answer, message } = Report::of_stage(&run, &stage.name, report);
    let working = ObservedState {
        jobs: vec![job(&stage.name)],
        workers: vec![pod(&stage.name, WorkerState::Running)],
        report: answer,
        ..before
    };

    let run = reconcile(&run, &working);
    let recorded = run.recorded_status();
    let is_recorded = recorded
        .stages
        .iter()
        .any(|stage| stage.reported_at.is_some());
    let run = reconcile(&run, &working);
    for exit_code in [0, 65, 75] {
        let job_state = match exit_code {
            0 => JobState::Complete,
            _ => JobState::Failed("BackoffLimitExceeded".to_owned()),
        };

        let pod_state = WorkerState::Ended {
            exit_code: Some(exit_code),
            reason: "Error".to_owned(),
            message: message.clone(),
        };

        let ended = ObservedState {
            jobs: vec![ObservedJob {
                state: job_state,
                ..job(&stage.name)
            }],
            workers: vec![pod(&stage.name, pod_state)],
            ..working.clone()
        };

        let run = reconcile(&run, &ended);
        reconcile(&run, &ended);
    }

    is_recorded || report.is_none()
}

fn is_open(state: StageState) -> bool {
    use StageState::{Pending, Running, Starting};
    matches!(state, Pending | Starting | Running)
}

/// What a pod says of itself.
struct Report {
    answer: Option<ProgressReport>,
    message: String,
}

impl Report {
    /// The bytes as a report of the first attempt at a stage, which mutations would lose; as they are if they are none.
    fn of_stage<R: RunResource>(run: &R, stage: &str, data: Option<&[u8]>) -> Self {
        let data = data.unwrap_or_default();
        let Ok(mut report) = serde_json::from_slice::<ProgressReport>(data) else {
            let message = String::from_utf8_lossy(data).into_owned();
            return Self {
                answer: None,
                message,
            };
        };

        report.run = RunRef::from_run(run).attempt_identity(stage, 1);
        report.pod_uid = POD_UID.to_owned();
        let message = to_bounded_json(&report);
        Self {
            answer: Some(report),
            message,
        }
    }
}

/// The run with the status of its plan, which is the same for the same state, and can be written and read.
fn reconcile<R: RunResource>(run: &R, observed: &ObservedState) -> R {
    let defaults = TrainerDefaults {
        image: "trainer".to_owned(),
        cuda_image: "trainer-cuda".to_owned(),
        progress_interval_seconds: 5,
    };

    let owner = RunRef::from_run(run);
    let recorded = run.recorded_status();
    let plan = || {
        let resolved = run.resolve_run(observed, &defaults);
        plan_run(&owner, resolved, &recorded, observed)
    };

    let status = plan().status;
    assert_eq!(status, plan().status);
    // The API server refuses longer ones.
    for condition in &status.conditions {
        assert!(condition.message.len() <= MAX_CONDITION_MESSAGE_BYTES);
    }

    let mut object = serde_json::to_value(run).expect("a run can be written");
    object["status"] = run.to_status_json(&status);
    serde_json::from_value(object).expect("what is written can be read")
}

const POD_UID: &str = "pod";
const MAX_CONDITION_MESSAGE_BYTES: usize = 32_768;

fn job(stage: &str) -> ObservedJob {
    ObservedJob {
        uid: "job".to_owned(),
        stage: stage.to_owned(),
        attempt: 1,
        started: Default::default(),
        deleting: false,
        foreign: false,
        queued: false,
        checkpoint: None,
        state: JobState::Active,
    }
}

fn pod(stage: &str, state: WorkerState) -> WorkerPod {
    WorkerPod {
        name: "muge-align-1-0".to_owned(),
        uid: POD_UID.to_owned(),
        job_uid: "job".to_owned(),
        stage: stage.to_owned(),
        attempt: 1,
        index: 0,
        image: "trainer".to_owned(),
        image_id: None,
        node: None,
        ip: Some("10.0.0.7".to_owned()),
        ends_by: None,
        deleted_at: None,
        ended_at: None,
        sidecar_running: false,
        disruption: None,
        state,
    }
}
