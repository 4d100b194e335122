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
    poll_failure::PollFailure,
    recorded_status::RecordedStatus,
    text_limits::{MAX_CONDITION_MESSAGE_BYTES, truncate_to_bytes},
    time,
};

/// Seconds without a new report after which a trainer that answers is stale: longer than a validation
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
    let reason = match phase {
        Phase::Running(_) => "StageRunning",
        Phase::Waiting(cause) => cause.reason,
        Phase::Rejected(_) => "Rejected",
        Phase::Suspended(_) => "Suspended",
        Phase::Complete(_) => "Complete",
        Phase::Failed(_) => "Failed",
    };

    let message = match phase {
        Phase::Running(message) => message,
        Phase::Waiting(cause) => &cause.message,
        Phase::Suspended(message) => message,
        Phase::Rejected(_) => "",
        Phase::Complete(_) => "",
        Phase::Failed(_) => "",
    };

    let status = match phase {
        Phase::Running(_) => "True",
        _ => "False",
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

    let lasting = |failure: &&PollFailure| failure.is_lasting(observed.now);
    if let Some(failure) = observed.poll_failure.as_ref().filter(lasting) {
        return unread_progress(stage, failure);
    }

    let Some(reported_at) = &stage.reported_at else {
        let message = "the trainer has not reported yet; it reads its data and its weights first";
        return condition_fields(condition::PROGRESSING, "Unknown", "NoReport", message);
    };

    if time::seconds_since(reported_at, observed.now) <= STALE_REPORT_TIMEOUT_SECONDS {
        let message = describe_step(stage);
        return condition_fields(condition::PROGRESSING, "True", "ReportsFresh", message);
    }

    let message = format!(
        "{}, reported at {reported_at} and nothing since",
        describe_step(stage)
    );

    condition_fields(condition::PROGRESSING, "Unknown", "ReportsStale", message)
}

/// The condition of a trainer whose report cannot be read.
fn unread_progress(stage: &StageStatus, failure: &PollFailure) -> ConditionFields {
    let PollFailure {
        address,
        since,
        error,
    } = failure;

    let last = match &stage.reported_at {
        Some(reported_at) => format!("{} was reported at {reported_at}", describe_step(stage)),
        None => "nothing was reported yet".to_owned(),
    };

    let reason = error.reason();
    let remedy = if reason == "Unreachable" {
        "The operator reads the progress there: a NetworkPolicy must let the operator's namespace reach port"
    } else {
        "Use a trainer image of the operator's version; nothing else may answer at port"
    };

    // The time of the first failure, not a duration: the status would change with every look.
    let message = format!(
        "worker 0 at {address} has given no report since {}: {error}; {last}. {remedy} {} of the run's \
         pods. The training does not depend on it",
        time::to_rfc3339(*since),
        address.port()
    );

    // Unknown, not False: training does not depend on whether the operator can reach it.
    condition_fields(condition::PROGRESSING, "Unknown", reason, message)
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
    // Before the others: what is lost at the next failure grows with every step.
    let is_unfinished = |stage: &&StageStatus| stage.state != StageState::Succeeded;
    let unsaved = recorded.stages.iter().filter(is_unfinished);
    let mut unsaved =
        unsaved.filter_map(|stage| Some((&stage.name, stage.checkpoint_error.as_ref()?)));

    if let Some((name, error)) = unsaved.next() {
        let message = format!("stage {name} goes on without a new checkpoint: {error}");
        return condition_fields(condition::DEGRADED, "True", "CheckpointFailed", message);
    }

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
    let (status, reason) = match phase {
        Phase::Complete(_) => ("True", "Done"),
        Phase::Failed(_) => ("False", "Failed"),
        Phase::Rejected(_) => ("Unknown", "Rejected"),
        Phase::Waiting(_) | Phase::Suspended(_) => ("Unknown", "Waiting"),
        Phase::Running(_) => ("Unknown", "Running"),
    };

    let message = match phase {
        Phase::Complete(message) => message.as_str(),
        _ => "",
    };

    condition_fields(condition::COMPLETE, status, reason, message)
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
mod tests;
