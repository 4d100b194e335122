//! Conditions of a run. Every type is present from the first status update on, so that `kubectl wait` finds
//! it. Pure.

use cnclip_crds::{
    names::condition,
    training::{CheckpointStatus, StageState, StageStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    observed::ObservedState,
    phase::Phase,
    recorded_status::RecordedStatus,
    text_limits::{MAX_CONDITION_MESSAGE_BYTES, truncate_to_bytes},
    time,
};

/// Seconds without an answer after which a report is stale.
const UNREACHABLE_TIMEOUT_SECONDS: i64 = 60;
/// Seconds without a new report after which a trainer that still answers is stale: longer than a validation
/// over a large data set.
const STALE_REPORT_TIMEOUT_SECONDS: i64 = 900;

/// Type, status, reason and message of a condition.
pub(crate) struct ConditionFields {
    pub(crate) type_: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Writes all conditions but that of the gate, and the observed generation.
pub fn write_conditions(
    recorded: &mut RecordedStatus,
    phase: &Phase,
    generation: Option<i64>,
    observed: &ObservedState,
) {
    let conditions = [
        accepted_condition(phase, generation),
        running_condition(phase),
        progressing_condition(recorded, phase, observed),
        checkpoint_condition(recorded.checkpoints.first()),
        degraded_condition(recorded),
        suspended_condition(phase),
        complete_condition(phase),
        failed_condition(phase),
    ];

    let merged = conditions
        .into_iter()
        .map(|fields| merge_condition(recorded, fields, generation, observed));

    // Kept unchanged here: `evaluate_gate` needs the results, and decides after these conditions.
    let gate = recorded.find_condition(condition::GATE_PASSED).cloned();
    recorded.conditions = merged.chain(gate).collect();
    recorded.observed_generation = generation;
}

/// Keeps the transition time of a condition whose status did not change.
pub(crate) fn merge_condition(
    recorded: &RecordedStatus,
    fields: ConditionFields,
    generation: Option<i64>,
    observed: &ObservedState,
) -> Condition {
    let ConditionFields {
        type_,
        status,
        reason,
        message,
    } = fields;

    let same = recorded
        .find_condition(type_)
        .filter(|old| old.status == status);
    Condition {
        last_transition_time: same
            .map_or(Time(observed.now), |old| old.last_transition_time.clone()),
        message: truncate_to_bytes(&message, MAX_CONDITION_MESSAGE_BYTES).to_owned(),
        observed_generation: generation,
        reason,
        status: status.to_owned(),
        type_: type_.to_owned(),
    }
}

fn condition_fields(
    type_: &'static str,
    status: &'static str,
    reason: &str,
    message: impl Into<String>,
) -> ConditionFields {
    ConditionFields {
        type_,
        status,
        reason: reason.to_owned(),
        message: message.into(),
    }
}

fn accepted_condition(phase: &Phase, generation: Option<i64>) -> ConditionFields {
    match phase {
        Phase::Rejected(cause) => condition_fields(
            condition::ACCEPTED,
            "False",
            cause.reason,
            cause.message.clone(),
        ),
        _ => {
            let message = format!("generation {}", generation.unwrap_or_default());
            condition_fields(condition::ACCEPTED, "True", "Valid", message)
        }
    }
}

fn running_condition(phase: &Phase) -> ConditionFields {
    let (status, reason, message) = match phase {
        Phase::Running(message) => ("True", "StageRunning", message.clone()),
        Phase::Waiting(cause) => ("False", cause.reason, cause.message.clone()),
        Phase::Rejected(_) => ("False", "Rejected", String::new()),
        Phase::Suspended(message) => ("False", "Suspended", message.clone()),
        Phase::Complete(_) => ("False", "Complete", String::new()),
        Phase::Failed(_) => ("False", "Failed", String::new()),
    };

    condition_fields(condition::RUNNING, status, reason, message)
}

fn progressing_condition(
    recorded: &RecordedStatus,
    phase: &Phase,
    observed: &ObservedState,
) -> ConditionFields {
    let stage = recorded
        .stages
        .iter()
        .find(|stage| stage.state == StageState::Running);

    let (Phase::Running(_), Some(stage)) = (phase, stage) else {
        return condition_fields(condition::PROGRESSING, "False", "NotRunning", "");
    };

    let Some(reported_at) = &stage.reported_at else {
        let message = "the trainer has not reported yet; it reads its data and its weights first";
        return condition_fields(condition::PROGRESSING, "Unknown", "NoReport", message);
    };

    // A trainer that answers an old report may be in a long validation; one that does not answer is
    // cut off.
    let limit = if observed.report.is_some() {
        STALE_REPORT_TIMEOUT_SECONDS
    } else {
        UNREACHABLE_TIMEOUT_SECONDS
    };

    if time::seconds_since(reported_at, observed.now) <= limit {
        let message = describe_step(stage);
        return condition_fields(condition::PROGRESSING, "True", "ReportsFresh", message);
    }

    let message = format!(
        "{}, reported at {reported_at} and nothing since",
        describe_step(stage)
    );

    // Unknown, not False: training does not depend on whether the operator can reach it.
    condition_fields(condition::PROGRESSING, "Unknown", "ReportsStale", message)
}

fn describe_step(stage: &StageStatus) -> String {
    match stage.steps {
        0 => format!("step {}", stage.step),
        steps => format!("step {} of {steps}", stage.step),
    }
}

fn checkpoint_condition(newest: Option<&CheckpointStatus>) -> ConditionFields {
    match newest {
        Some(newest) => {
            let message = format!(
                "stage {}, step {}, {}, {}",
                newest.stage, newest.step, newest.uri, newest.written_at
            );

            condition_fields(condition::CHECKPOINT_VERIFIED, "True", "Verified", message)
        }
        None => condition_fields(
            condition::CHECKPOINT_VERIFIED,
            "False",
            "NoCheckpoint",
            "no checkpoint was written yet",
        ),
    }
}

fn degraded_condition(recorded: &RecordedStatus) -> ConditionFields {
    let skipped: i64 = recorded
        .stages
        .iter()
        .map(|stage| stage.samples_skipped)
        .sum();

    if skipped > 0 {
        let message =
            format!("{skipped} samples could not be used and were skipped; the log names them");
        return condition_fields(condition::DEGRADED, "True", "SamplesSkipped", message);
    }

    let is_unfinished = |stage: &&StageStatus| stage.state != StageState::Succeeded;
    let halved = recorded
        .stages
        .iter()
        .filter(is_unfinished)
        .find(|stage| stage.micro_batch_halved);

    if let Some(StageStatus { name, .. }) = halved {
        let message = format!(
            "stage {name} ran out of memory: its automatic micro-batch size is halved, which is \
             slower and computes the same gradients"
        );

        return condition_fields(condition::DEGRADED, "True", "MicroBatchHalved", message);
    }

    condition_fields(condition::DEGRADED, "False", "AsExpected", "")
}

fn suspended_condition(phase: &Phase) -> ConditionFields {
    match phase {
        Phase::Suspended(message) => {
            condition_fields(condition::SUSPENDED, "True", "ByUser", message.clone())
        }
        _ => condition_fields(condition::SUSPENDED, "False", "NotSuspended", ""),
    }
}

fn complete_condition(phase: &Phase) -> ConditionFields {
    match phase {
        Phase::Complete(message) => {
            condition_fields(condition::COMPLETE, "True", "Done", message.clone())
        }
        Phase::Failed(_) => condition_fields(condition::COMPLETE, "False", "Failed", ""),
        Phase::Rejected(_) => condition_fields(condition::COMPLETE, "Unknown", "Rejected", ""),
        Phase::Waiting(_) | Phase::Suspended(_) => {
            condition_fields(condition::COMPLETE, "Unknown", "Waiting", "")
        }
        Phase::Running(_) => condition_fields(condition::COMPLETE, "Unknown", "Running", ""),
    }
}

fn failed_condition(phase: &Phase) -> ConditionFields {
    match phase {
        Phase::Failed(cause) => condition_fields(
            condition::FAILED,
            "True",
            cause.reason,
            cause.message.clone(),
        ),
        _ => condition_fields(condition::FAILED, "False", "NotFailed", ""),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::ProgressReport;

    use super::*;
    use crate::{
        cluster_fixtures::{NOW_SECONDS, time_at},
        resolved_run::StatusReason,
    };

    fn observed(seconds: i64, answers: bool) -> ObservedState {
        ObservedState {
            now: time_at(seconds),
            report: answers.then(ProgressReport::default),
            ..ObservedState::default()
        }
    }

    fn stage(reported_at: Option<i64>, skipped: i64) -> StageStatus {
        StageStatus {
            name: "align".to_owned(),
            state: StageState::Running,
            step: 7,
            steps: 9,
            samples_skipped: skipped,
            reported_at: reported_at.map(|seconds| time::to_rfc3339(time_at(seconds))),
            ..StageStatus::default()
        }
    }

    #[test]
    fn all_conditions_are_there_from_the_first_write_on() {
        let mut recorded = RecordedStatus::default();
        write_conditions(
            &mut recorded,
            &Phase::Waiting(StatusReason::new("Starting", "")),
            Some(3),
            &observed(0, false),
        );

        let types: Vec<_> = recorded
            .conditions
            .iter()
            .map(|found| found.type_.as_str())
            .collect();

        let expected = [
            "Accepted",
            "Running",
            "Progressing",
            "CheckpointVerified",
            "Degraded",
            "Suspended",
            "Complete",
            "Failed",
        ];

        assert_eq!(types, expected);
        for found in &recorded.conditions {
            assert_eq!(found.observed_generation, Some(3), "{}", found.type_);
            assert!(!found.reason.is_empty(), "{}", found.type_);
        }

        assert_eq!(recorded.observed_generation, Some(3));
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let mut recorded = RecordedStatus::default();
        let waiting = |reason| Phase::Waiting(StatusReason::new(reason, ""));
        write_conditions(
            &mut recorded,
            &waiting("Starting"),
            Some(1),
            &observed(0, false),
        );
        write_conditions(
            &mut recorded,
            &waiting("Unschedulable"),
            Some(1),
            &observed(10, false),
        );

        let running = recorded.find_condition("Running").unwrap();
        assert_eq!(running.last_transition_time.0.as_second(), NOW_SECONDS);
        assert_eq!(running.reason, "Unschedulable");
        write_conditions(
            &mut recorded,
            &Phase::Running(String::new()),
            Some(1),
            &observed(20, false),
        );

        let changed = |type_| {
            recorded
                .find_condition(type_)
                .unwrap()
                .last_transition_time
                .0
                .as_second()
        };

        assert_eq!(changed("Running"), NOW_SECONDS + 20);
        assert_eq!(changed("Accepted"), NOW_SECONDS);
    }

    #[test]
    fn a_report_is_fresh_until_it_is_not() {
        let rows = [
            (None, 0, false, "Unknown NoReport"),
            (Some(0), 60, false, "True ReportsFresh"),
            (Some(0), 61, false, "Unknown ReportsStale"),
            (Some(0), 900, true, "True ReportsFresh"),
            (Some(0), 901, true, "Unknown ReportsStale"),
        ];

        for (reported_at, seconds, answers, expected) in rows {
            let mut recorded = RecordedStatus {
                stages: vec![stage(reported_at, 0)],
                ..RecordedStatus::default()
            };

            write_conditions(
                &mut recorded,
                &Phase::Running(String::new()),
                None,
                &observed(seconds, answers),
            );

            let found = recorded.find_condition("Progressing").unwrap();
            assert_eq!(format!("{} {}", found.status, found.reason), expected);
        }
    }

    #[test]
    fn at_most_one_of_the_ends_is_true() {
        let cause = || StatusReason::new("Why", "");
        let rows = [
            (Phase::Rejected(cause()), "False False Unknown False False"),
            (Phase::Waiting(cause()), "True False Unknown False False"),
            (
                Phase::Running(String::new()),
                "True True Unknown False False",
            ),
            (
                Phase::Suspended(String::new()),
                "True False Unknown False True",
            ),
            (
                Phase::Complete(String::new()),
                "True False True False False",
            ),
            (Phase::Failed(cause()), "True False False True False"),
        ];

        for (phase, expected) in rows {
            let mut recorded = RecordedStatus::default();
            write_conditions(&mut recorded, &phase, None, &observed(0, false));
            let status = ["Accepted", "Running", "Complete", "Failed", "Suspended"]
                .map(|type_| recorded.find_condition(type_).unwrap().status.clone());
            assert_eq!(status.join(" "), expected, "{phase:?}");
        }
    }

    #[test]
    fn skipped_samples_degrade_a_run() {
        let mut recorded = RecordedStatus {
            stages: vec![stage(Some(0), 3)],
            ..RecordedStatus::default()
        };

        write_conditions(
            &mut recorded,
            &Phase::Running(String::new()),
            None,
            &observed(0, true),
        );

        assert!(recorded.is_condition_true("Degraded"));
        assert!(
            recorded
                .find_condition("Degraded")
                .unwrap()
                .message
                .starts_with("3 samples")
        );
    }

    #[test]
    fn a_halved_micro_batch_degrades_a_stage_until_it_is_done() {
        for (state, degraded) in [(StageState::Running, true), (StageState::Succeeded, false)] {
            let halved = StageStatus {
                micro_batch_halved: true,
                state,
                ..stage(Some(0), 0)
            };

            let mut recorded = RecordedStatus {
                stages: vec![halved],
                ..RecordedStatus::default()
            };

            write_conditions(
                &mut recorded,
                &Phase::Running(String::new()),
                None,
                &observed(0, true),
            );

            assert_eq!(
                recorded.is_condition_true("Degraded"),
                degraded,
                "{state:?}"
            );
        }
    }

    #[test]
    fn messages_of_conditions_fit_the_limit_of_kubernetes_in_bytes() {
        let mut recorded = RecordedStatus::default();
        let cause = StatusReason::new("Refused", "中".repeat(20_000));
        write_conditions(
            &mut recorded,
            &Phase::Failed(cause),
            None,
            &observed(0, false),
        );

        let failed = recorded.find_condition("Failed").unwrap();
        assert_eq!(failed.message.len(), 32_766);
    }
}
