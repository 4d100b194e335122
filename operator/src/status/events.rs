//! Events of a run, derived from the difference of two statuses. Pure.
//!
//! Deriving them from stored statuses publishes each once, also after a restart of the operator.

use cnclip_crds::{
    names::condition,
    training::{StageState, StageStatus},
};

use crate::recorded_status::RecordedStatus;

/// A Kubernetes event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEvent {
    /// Whether its type is Warning.
    pub warning: bool,
    /// Machine-readable reason.
    pub reason: String,
    /// Human-readable message.
    pub message: String,
}

/// The events of a status change.
pub fn diff_statuses(before: &RecordedStatus, after: &RecordedStatus) -> Vec<RunEvent> {
    let mut events = Vec::new();
    for (index, stage) in after.stages.iter().enumerate() {
        events.extend(stage_event(before.stages.get(index), stage));
    }

    events.extend(failure_event(before, after));
    events.extend(blocked_event(before, after));
    let changes = [
        (condition::SUSPENDED, "True", "Suspended", false),
        (condition::ACCEPTED, "False", "Rejected", true),
        (condition::DEGRADED, "True", "Degraded", true),
        (condition::FAILED, "True", "Failed", true),
        (condition::COMPLETE, "True", "Complete", false),
        (condition::GATE_PASSED, "True", "GatePassed", false),
        (condition::GATE_PASSED, "False", "GateNotPassed", true),
    ];

    for (type_, status, reason, warning) in changes {
        events.extend(condition_event(
            before, after, type_, status, reason, warning,
        ));
    }

    events
}

fn stage_event(before: Option<&StageStatus>, after: &StageStatus) -> Option<RunEvent> {
    let attempt_before = before.map_or(0, |stage| stage.attempt);
    if after.state == StageState::Succeeded && before.is_none_or(|old| old.state != after.state) {
        let message = format!("stage {} is done after {} steps", after.name, after.step);
        return Some(normal_event("StageSucceeded", message));
    }

    if after.state == StageState::Skipped && before.is_none_or(|old| old.state != after.state) {
        let message = format!(
            "{}: its checkpoint is not scored; status.history says why",
            after.name
        );

        return Some(RunEvent {
            warning: true,
            reason: "CheckpointSkipped".to_owned(),
            message,
        });
    }

    (after.attempt > attempt_before).then(|| {
        normal_event(
            "AttemptStarted",
            format!("stage {}, attempt {}", after.name, after.attempt),
        )
    })
}

fn failure_event(before: &RecordedStatus, after: &RecordedStatus) -> Option<RunEvent> {
    let failure = after.last_failure.as_ref()?;
    let known = before.has_failure_of_attempt(&failure.stage, failure.attempt);
    (!known).then(|| RunEvent {
        warning: true,
        reason: failure.class.clone(),
        message: format!(
            "stage {}, attempt {} ended: {}",
            failure.stage, failure.attempt, failure.message
        ),
    })
}

/// An event for pending pods, except for the expected reasons of a normal start.
fn blocked_event(before: &RecordedStatus, after: &RecordedStatus) -> Option<RunEvent> {
    const BLOCKING_REASONS: [&str; 7] = [
        "ImagePullFailed",
        "CredentialsMissing",
        "ContainerRefused",
        "Unschedulable",
        "Refused",
        "TrainingMissing",
        "TrainingFailed",
    ];

    // By reason only: messages of the scheduler change with every node, and would flood the events.
    let reason = |recorded: &RecordedStatus| {
        Some(recorded.find_condition(condition::RUNNING)?.reason.clone())
    };
    let new = reason(after).filter(|new| BLOCKING_REASONS.contains(&new.as_str()))?;
    let message = after.find_condition(condition::RUNNING)?.message.clone();
    (reason(before).as_ref() != Some(&new)).then_some(RunEvent {
        warning: true,
        reason: new,
        message,
    })
}

fn condition_event(
    before: &RecordedStatus,
    after: &RecordedStatus,
    type_: &str,
    status: &str,
    reason: &str,
    warning: bool,
) -> Option<RunEvent> {
    let has = |recorded: &RecordedStatus| {
        recorded
            .find_condition(type_)
            .is_some_and(|found| found.status == status)
    };

    if has(before) || !has(after) {
        return None;
    }

    let message = after.find_condition(type_)?.message.clone();
    Some(RunEvent {
        warning,
        reason: reason.to_owned(),
        message,
    })
}

fn normal_event(reason: &str, message: String) -> RunEvent {
    RunEvent {
        warning: false,
        reason: reason.to_owned(),
        message,
    }
}
